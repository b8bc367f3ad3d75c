"""How a run and the study it follows are cited: BibTeX.

Not for what the run found. The invariant: what is not known for sure is left out of an entry, and the same summary
gives the same entry.
"""

import re
from collections.abc import Mapping
from typing import Any

from emray.report.tex import tex_text
from emray.software import UNKNOWN

PAPER = """@misc{domain-susceptibility-2026,
  title         = {Assessing Domain-Level Susceptibility to Emergent Misalignment from Narrow Finetuning},
  year          = {2026},
  eprint        = {2602.00298},
  archiveprefix = {arXiv}
}
"""
_DIGITS = 12  # of the plan's digest that a citation key has


def identifier(facts: Mapping[str, Any]) -> str:
    """The name by which a run is cited: the digest of its plan."""
    return f"sha256:{facts['provenance']['plan']}"


def run_entry(facts: Mapping[str, Any]) -> str:
    """The run's own, by the digest of its plan; its date is that of its first command."""
    made = facts["provenance"]
    versions, commits = made["versions"].get("emray") or [facts["versions"]["emray"]], commits_of(facts)
    told = f"emray {', '.join(versions)}" + (f", commit {', '.join(commits)}" if commits else "")
    began = [command["began"] for command in made["commands"]]
    fields = {
        "title": f"{tex_text(facts['name'])}: domain susceptibility to emergent misalignment, a run of emray",
        "year": began[0][:4] if began else "",
        "date": began[0][:10] if began else "",
        "note": f"{tex_text(told)}; plan {identifier(facts)}",
    }
    width = max(map(len, fields))
    lines = [f"  {name.ljust(width)} = {{{value}}}" for name, value in fields.items() if value]
    return "@misc{" + _key(facts) + ",\n" + ",\n".join(lines) + "\n}\n"


def bibliography(facts: Mapping[str, Any]) -> str:
    """Both entries."""
    return f"{run_entry(facts)}\n{PAPER}"


def commits_of(facts: Mapping[str, Any]) -> list[str]:
    """Of emray, each that had a hand in the run, in order; those that could not be told are not among them."""
    found = [command["source"]["commit"] for command in facts["provenance"]["commands"]]
    return [commit for commit in dict.fromkeys(found) if commit != UNKNOWN]


def _key(facts: Mapping[str, Any]) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", facts["name"].lower()).strip("-") or "run"
    return f"emray-{name}-{facts['provenance']['plan'][:_DIGITS]}"
