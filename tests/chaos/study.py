"""The study that is hit: its sweep file, the undisturbed run, and what of a run must come out equal.

Not for faults (faults.py). The invariant: what is compared has no clock and no command in it, and nothing else is left
out.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from emray.endpoint.journal import journaled_keys
from emray.localapi import LocalServer
from emray.store import Kind, Store
from emray.toy.question_file import questions_yaml
from tests.commands import ROOT, SMALL, run

STAGES = ("train", "generate", "judge")
LEAVES = {"train": ("adapters",), "generate": ("generations",), "judge": ("verdicts", "journal")}
NUM_EXAMPLES, NUM_QUESTIONS = 48, 4
IN_FLIGHT = 4
LATENCY_MS = 80  # of the judge, so that a fault can meet it at work
MADE = rb'<article id="made">.*?</article>'  # of report.html: when, by which commands, on which machines
LINES = rb"^[^\n;]*(?=; judge toy-judge)|^- (?:command|machines|software): [^\n]*\n"  # the same of report.md
CLOCK = re.compile(MADE + rb"|" + LINES, re.MULTILINE | re.DOTALL)


class Results(NamedTuple):
    """What is on a store, by key."""

    adapters: frozenset[str]
    answers: frozenset[str]
    verdicts: frozenset[str]
    replies: frozenset[str]

    def lacks(self, earlier: "Results") -> int:
        """How many of the earlier results are not here."""
        return sum(len(before - now) for before, now in zip(earlier, self, strict=True))


class Study:
    """The sweep and its undisturbed run, in a folder of their own."""

    def __init__(self, folder: Path, *, judge: LocalServer) -> None:
        self.folder = folder
        self.port = int(judge.url.rpartition(":")[2])  # the same for every round: the address stands in the report
        self.spec = self._sweep_file(judge.base_url)
        self.undisturbed = folder / "undisturbed"
        result = run(self.spec, "--out", self.undisturbed, timeout_s=600)
        assert result.returncode == 0, result.stdout + result.stderr
        store = Store(str(self.undisturbed))
        self.expected, found = compared(store), results(store)
        self.results = found._replace(replies=found.verdicts)  # a run that finds its answers rehearses no judge

    def _sweep_file(self, judge_url: str) -> Path:
        """The suite's small sweep on fewer examples and questions."""
        data = self.folder / "data"
        data.mkdir(parents=True)
        for source in sorted((ROOT / "emray" / "toy" / "assets" / "data").glob("*.jsonl")):
            if source.name.startswith(tuple(SMALL["domains"])):
                lines = source.read_text().splitlines(keepends=True)[:NUM_EXAMPLES]
                (data / source.name).write_text("".join(lines))
        (self.folder / "questions.yaml").write_text(questions_yaml())
        judge = {"model": "toy-judge", "base_url": judge_url, "max_in_flight": IN_FLIGHT, "max_attempts": 3}
        questions = {"file": "questions.yaml", "first": NUM_QUESTIONS}
        generate = {**SMALL["generate"], "questions": questions}
        fields: dict[str, Any] = {**SMALL, "data_dir": "data", "generate": generate, "judge": judge}
        path = self.folder / "sweep.yaml"
        path.write_text(yaml.safe_dump(fields))
        return path

    def begin(self, store: Store, *, stage: str) -> None:
        """The undisturbed run up to before a stage."""
        done = STAGES[: STAGES.index(stage)]
        folders = [name for stage in done for name in LEAVES[stage]]
        if not done:
            return
        for path in [
            self.undisturbed / "plan.json",
            *(p for name in folders for p in (self.undisturbed / name).rglob("*")),
        ]:
            if path.is_file():
                store.write_bytes(path.relative_to(self.undisturbed).as_posix(), path.read_bytes())


def compared(store: Store) -> dict[str, bytes]:
    """Every byte of summary and report that no clock decides; weights and rows are compared by what they lead to."""
    found = {}
    for folder in ("summary", "report", "report/figures", "report/tables"):
        for name, content in store.read_files(folder):
            if not name.endswith(("record.json", "citation.bib", "ro-crate-metadata.json")):  # they name the commands
                found[name] = CLOCK.sub(b"", content)
    facts = json.loads(found["summary/summary.json"])
    assert set(facts.pop("wall_s")) <= {*STAGES, "probe"}
    for name in ("commands", "last", "machines", "versions"):
        assert facts["provenance"].pop(name)
    return found | {"summary/summary.json": json.dumps(facts, sort_keys=True).encode()}


def results(store: Store) -> Results:
    """A reply that has a verdict is there, also where its line of the journal is not: nobody will ask for it again."""
    verdicts = frozenset(store.keys(Kind.VERDICTS))
    return Results(
        frozenset(key for key, record in store.adapter_records().items() if record.trained),
        frozenset(store.keys(Kind.GENERATIONS)),
        verdicts,
        frozenset(journaled_keys(store)) | verdicts,
    )


def num_repeats(store: Store) -> int:
    """Rows that stand in the tables more than once."""
    repeats = 0
    for kind, identity in {Kind.GENERATIONS: ["key"], Kind.VERDICTS: ["generation", "key"]}.items():
        rows = [tuple(row.values()) for part in store.iter_parts(kind, columns=identity) for row in part.to_pylist()]
        repeats += len(rows) - len(set(rows))
    return repeats
