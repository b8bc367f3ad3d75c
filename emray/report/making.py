"""How a run was made, as a reader needs it: stage by stage, command by command, and the way to do it again.

Not for the texts that were asked (reproduction.py). The invariant: what nobody wrote down reads as not recorded, never
as something else.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from emray.records import NO_DOMAIN
from emray.reduce.provenance import sweep_key
from emray.reduce.study import Study
from emray.report import wording
from emray.report.citation import bibliography, commits_of, identifier
from emray.report.reproduction import QUESTIONS, SWEEP, prompts, question_yaml, rubrics, sweep_yaml, yaml_text
from emray.software import COMMIT, LIBRARIES, Source
from emray.spec import HOSTED

NOT_RECORDED = "not recorded"
_LONGEST_SEEDS = 12  # numbers that are listed one by one


class StageMade(NamedTuple):
    """One stage."""

    name: str
    wall_s: float
    cost: str
    machines: str


class CommandMade(NamedTuple):
    """One command that did something."""

    began: str
    line: str
    commit: str
    machine: str
    same_sweep: bool  # whether its sweep file was the one in force


def made(facts: Mapping[str, Any], study: Study) -> dict[str, Any]:
    """What the page's section needs, beside the facts themselves."""
    told = facts["provenance"]
    return {
        "stages": [_stage(name, wall_s, facts) for name, wall_s in facts["wall_s"].items()],
        "commands": [_command(one, study) for one in told["commands"]],
        "adopted": [_adopted(one) for one in told["adopted"]],
        "versions": {name: " / ".join(told["versions"][name]) for name in sorted(told["versions"], key=_turn)},
        "models": [(name, fingerprint, _kind(fingerprint)) for name, fingerprint in facts["models"].items()],
        "datasets": told["datasets"],
        "seeds": seed_words(study),
        "commits": commits_of(facts),
        "changed": any(command["source"]["changed"] for command in told["commands"]),
        "imported": study.imported,
        "judge": yaml_text(_judge(facts["spec"]["judge"])),
        "rubrics": rubrics(study),
        "prompts": prompts(study),
        "bibtex": bibliography(facts),
        "identifier": identifier(facts),
        "sweep": sweep_yaml(facts),
        "questions": question_yaml(study),
        "files": {"sweep": SWEEP, "questions": QUESTIONS},
    }


def machine_words(kind: Mapping[str, Any]) -> str:
    """As in `2 machines of 8 x NVIDIA H100, 96 CPUs (AMD EPYC), 1024 GiB`."""
    cards = [f"{kind['gpus'].count(name)} x {name}" for name in dict.fromkeys(kind["gpus"])]
    parts = [*cards, f"{kind['num_cpus']} CPUs ({kind['cpu']})", f"{kind['memory_gib']} GiB", kind["system"]]
    count = kind.get("count", 1)
    return (f"{count} machines of " if count > 1 else "") + ", ".join(parts)


def seed_words(study: Study) -> str:
    """The training seeds, and where the others come from."""
    seeds = sorted({cell.seed for cell in study.cells if cell.domain != NO_DOMAIN})
    if not seeds:
        return "none: nothing was trained"
    listed = ", ".join(map(str, seeds)) if len(seeds) <= _LONGEST_SEEDS else f"{seeds[0]} to {seeds[-1]}"
    return f"{listed}; order, dropout and sampling follow from these and the keys"


def _stage(name: str, wall_s: float, facts: Mapping[str, Any]) -> StageMade:
    costs = {"train": facts["provenance"]["training_usd"], "judge": facts["judge"]["cost_usd"]}
    cost = wording.DASH if costs.get(name) is None else wording.dollars(costs[name])
    kinds = facts["provenance"]["machines"].get(name)
    machines = "; ".join(map(machine_words, kinds)) if kinds else NOT_RECORDED if wall_s else wording.DASH
    return StageMade(name, wall_s, cost, machines)


def _command(told: Mapping[str, Any], study: Study) -> CommandMade:
    commit, same = Source(**told["source"]).words, told["sweep"] == sweep_key(study.sweep)
    return CommandMade(told["began"], told["line"], commit, machine_words(told["machine"]), same)


def _turn(name: str) -> tuple[int, str]:
    """Place of a piece of software: emray and Python, then what trains and answers, then the rest by name."""
    order = ("emray", COMMIT, "python", *LIBRARIES)
    return (order.index(name) if name in order else len(order), name)


def _adopted(told: Mapping[str, Any]) -> str:
    names = {
        "cells": "finetunes",
        "answers": "answers",
        "verdicts": "verdicts",
        "marks": "marks",
        "measurements": "measurements",
    }
    counts = ", ".join(f"{told[name]:,} {words}" for name, words in names.items() if told.get(name))
    commits = dict.fromkeys(Source(**command["source"]).words for command in told["commands"])
    made_by = f"made by emray at {'; '.join(commits)}" if commits else f"how they were made is {NOT_RECORDED}"
    return f"{counts or 'replies of the judge'} from run {told['run']}: {made_by}."


def _kind(fingerprint: str) -> str:
    """What a model's fingerprint is of."""
    if fingerprint.startswith("hub:"):
        return "commit of the hub"
    return "name at the service" if fingerprint.startswith(HOSTED) else "content of its folder"


def _judge(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in spec.items() if value not in (None, [], {}, "")}
