"""What a plan lacks and another run of the store has: taken over, so that nothing is done twice across runs.

Not for making anything. The invariant: a row is taken only when its key, which hashes what defines it, is wanted and
not there; a verdict only with the very answer that it is of; and nothing is changed in the run that it comes from.
"""

import hashlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emray import plan as planning
from emray import probes
from emray.endpoint import journal
from emray.errors import StoreError
from emray.judge.tasks import AGAIN, judges
from emray.model.direction_files import FOLDER as DIRECTIONS
from emray.plan import Plan
from emray.records import FinishReason, MarkOutcome, Outcome, judge_key, prompt_text
from emray.reduce.everything_asked import under_names
from emray.reduce.inputs import ADOPT, COMMAND
from emray.runs.beside import counted, name_of
from emray.stages import Judging, Marking, needed_cells, trained_keys
from emray.stats.arrays import Mask
from emray.store import AdapterRecord, Keys, Kind, Store

_PAIR = ["generation", "key"]


class Adopted(NamedTuple):
    """How much was taken over from one run."""

    cells: int = 0
    answers: int = 0
    verdicts: int = 0
    marks: int = 0
    replies: int = 0  # of a judge, which are no rows yet
    measurements: int = 0

    def __str__(self) -> str:
        nouns = ("cell", "answer", "verdict", "mark", "judge reply", "measurement")
        return ", ".join(counted(number, noun) for number, noun in zip(self, nouns, strict=True) if number)


def adopt(plan: Plan, store: Store, *, runs: Iterable[Store]) -> list[str]:
    """Take over what other runs have; a line for each that had any. For the holder of the lease."""
    told: list[str] = []
    for run in runs:
        taking = _Taking(plan, store, run)
        if not taking.lacks_anything:
            break
        try:
            taken, under_way = taking.all(), taking.num_under_way()
        except (StoreError, FileNotFoundError) as error:  # damaged, or taken away meanwhile
            told.append(f"not all of {name_of(run)} can be taken over: {error}")
            continue
        if any(taken):
            told.append(f"taken over from {name_of(run)}: {taken}")
            _write_down(taken, store, of=run)
        if under_way:
            cells = counted(under_way, "cell")
            told.append(f"{name_of(run)} is at {cells} that this run wants too; wait for it, or pay twice")
    return told


def on_offer(plan: Plan, store: Store, *, runs: Iterable[Store]) -> list[str]:
    """What other runs have of what a plan lacks, a line for each that has any; nothing is written."""
    told: list[str] = []
    for run in runs:
        try:
            offered = _Taking(plan, store, run).offered()
        except (StoreError, FileNotFoundError) as error:
            told.append(f"what {name_of(run)} has of this cannot be read: {error}")
            continue
        if any(offered):
            told.append(f"of what is missing, {name_of(run)} has {offered}: taken over, not done again, by a run")
    return told


def _write_down(taken: Adopted, store: Store, *, of: Store) -> None:
    """What came from where, and by which commands it had been made there, in the log that the report reads."""
    log = of.stage_log()
    commands = [entry["details"] for entry in log if entry["stage"] == COMMAND]
    commands += [one for entry in log if entry["stage"] == ADOPT for one in entry["details"]["commands"]]
    details = {"run": name_of(of), **taken._asdict(), "commands": commands}
    store.log_stage(ADOPT, started_s=time.time(), wall_s=0.0, details=details)


@dataclass(frozen=True)
class _Taking:
    """From one run to another."""

    plan: Plan
    store: Store
    of: Store

    @property
    def lacks_anything(self) -> bool:
        keys = {key for key, record in self.store.adapter_records().items() if record.trained}
        return bool(
            not keys.issuperset(trained_keys(self.plan))
            or self._wanted.without(self.store.keys(Kind.GENERATIONS))
            or self._measured.without(self.store.keys(Kind.MEASUREMENTS))
            or len(Judging(self.plan).missing(self.store))
            or self._marks.without(self.store.keys(Kind.MARKS))
        )

    def all(self) -> Adopted:
        """Cells before verdicts: answers are judged once their cell is known to be trained."""
        measurements, answers = self.measurements(), self.answers()
        cells, verdicts, marks = self.cells(), self.verdicts(), self.marks()
        return Adopted(cells, answers, verdicts, marks, self.replies(), measurements)

    def offered(self) -> Adopted:
        """The same without taking it: cells, answers, and verdicts on these answers and on those that are alike."""
        done = {key for key, record in self.store.adapter_records().items() if record.trained}
        theirs = {key for key, record in self.of.adapter_records().items() if record.trained}
        lacking = self._wanted.without(self.store.keys(Kind.GENERATIONS))
        parts = self.of.iter_parts(Kind.GENERATIONS, columns=["key", "finish_reason"]) if lacking else ()
        drawn = [part["key"].filter(pc.not_equal(part["finish_reason"], str(FinishReason.ERROR))) for part in parts]
        answers = lacking.common(Keys.of_columns(drawn))
        there = Keys.of_columns(_pairs(part) for part in self.store.iter_parts(Kind.VERDICTS, columns=_PAIR))
        verdicts = 0
        for part in self.of.iter_parts(Kind.VERDICTS, columns=[*_PAIR, "judge_key", "asked", "outcome"]):
            of_these = answers.has(part["generation"]) | self._same_answers.has(part["generation"])
            verdicts += int((of_these & self._asked(part) & ~there.has(_pairs(part))).sum())
        return Adopted(len((theirs - done) & set(trained_keys(self.plan))), len(answers), verdicts)

    def measurements(self) -> int:
        """Measurements that did not fail, whole, and the directions that some of them are of."""
        lacking = self._measured.without(self.store.keys(Kind.MEASUREMENTS))
        if not lacking:
            return 0
        rows = self.of.read_rows(Kind.MEASUREMENTS)
        failed = Keys.of_columns([rows["key"].filter(pc.equal(rows["measure"], probes.FAILED))])
        mine = rows.filter(pa.array(lacking.has(rows["key"]) & ~failed.has(rows["key"])))
        taken = Keys.of_columns([mine["key"]])
        for name in self.of.names(DIRECTIONS):
            if name.rpartition("/")[2].partition(".")[0] in taken:
                self.store.write_bytes(name, self.of.read_bytes(name))
        if mine.num_rows:
            self.store.write_rows(Kind.MEASUREMENTS, mine)
        return len(taken)

    def answers(self) -> int:
        lacking = self._wanted.without(self.store.keys(Kind.GENERATIONS))
        if not lacking:
            return 0
        taken = 0
        for part in _chosen(self.of, Kind.GENERATIONS, lacking, column="key"):
            rows = part.filter(pc.not_equal(part["finish_reason"], str(FinishReason.ERROR)))
            if rows.num_rows:
                self.store.write_rows(Kind.GENERATIONS, self._relabelled(rows))
                taken += rows.num_rows
        return taken

    def verdicts(self) -> int:
        """Of the plan's judges, on answers that are the same in both runs."""
        if not len(Judging(self.plan).missing(self.store)):
            return 0
        there = Keys.of_columns(_pairs(part) for part in self.store.iter_parts(Kind.VERDICTS, columns=_PAIR))
        taken = 0
        for part in _chosen(self.of, Kind.VERDICTS, self._same_answers, column="generation"):
            rows = part.filter(pa.array(self._asked(part) & ~there.has(_pairs(part))))
            if rows.num_rows:
                self.store.note_adopted(rows["key"])
                self.store.write_rows(Kind.VERDICTS, rows)
                taken += rows.num_rows
        return taken

    def marks(self) -> int:
        """Of answers that are the same in both runs, but for those whose scoring failed."""
        lacking, taken = self._marks.without(self.store.keys(Kind.MARKS)), 0
        for part in _chosen(self.of, Kind.MARKS, lacking, column="key"):
            same = pa.array(self._same_answers.has(part["generation"]))
            rows = part.filter(pc.and_(same, pc.not_equal(part["outcome"], str(MarkOutcome.ERROR))))
            if rows.num_rows:
                self.store.write_rows(Kind.MARKS, rows)
                taken += rows.num_rows
        return taken

    def replies(self) -> int:
        """To requests whose verdicts are missing still: of a run that was stopped before it made rows of them."""
        if not (journal.is_there(self.of) and self._same_answers):
            return 0
        asked = pa.chunked_array([[task.key for task in Judging(self.plan).missing(self.store)]], pa.string())
        wanted = Keys.of_columns([asked, pc.binary_join_element_wise(asked, AGAIN, "")])
        lacking = wanted.without(journal.journaled_keys(self.store))
        coming = lacking.has(asked) & journal.journaled_keys(self.of).has(asked)
        self.store.note_adopted(asked.filter(pa.array(coming)))
        return journal.take(self.store, of=self.of, keys=lacking)

    def cells(self) -> int:
        """Records of trained cells; their weights where something needs them, or where they cost nothing."""
        records = self.of.adapter_records()
        done = {key for key, record in self.store.adapter_records().items() if record.trained}
        trained = {key for key in trained_keys(self.plan) if key in records and records[key].trained}
        here = {key for key in trained if records[key].served_as is None}  # the others' weights a service keeps
        needed = needed_cells(self.plan, self.store, among=here - self.store.adapters_with_weights())
        there = self.of.adapters_with_weights() if trained else frozenset[str]()
        free = "://" not in self.store.root + self.of.root
        linked = sorted(there & (needed | (trained - done if free else set())))
        for key in linked:
            self.store.take_adapter(key, of=self.of)
        known: list[AdapterRecord] = [records[key] for key in sorted(trained - done - needed - set(linked))]
        if known:
            self.store.remember_adapters(known)
        return len(linked) + len(known)

    def num_under_way(self) -> int:
        """Cells that are missing here and that a sweep at work there wants."""
        if not self.of.is_in_use():
            return 0
        done = {key for key, record in self.store.adapter_records().items() if record.trained}
        theirs = {cell["key"] for cell in planning.written(self.of).get("cells", ())}
        return len(theirs & set(trained_keys(self.plan)) - done)

    @cached_property
    def _measured(self) -> Keys:
        return Keys(one.key for probe in probes.of_plan(self.plan) for one in probe.measurements())

    @cached_property
    def _marks(self) -> Keys:
        schemes = Marking(self.plan).schemes(self.plan.cells)
        return Keys(key for scheme in schemes for key in scheme.marks)

    @cached_property
    def _wanted(self) -> Keys:
        return planning.wanted_answers(self.plan, self.plan.answering)

    def _asked(self, verdicts: pa.Table) -> Mask:
        """Of each verdict, whether the plan asks one of its judges that; what failed is asked again."""
        ours = pc.is_in(verdicts["judge_key"], value_set=pa.array(self._judge_keys))
        asked = pc.is_in(verdicts["asked"], value_set=pa.array(self._asked_keys))
        came = pc.not_equal(verdicts["outcome"], str(Outcome.API_ERROR))
        return np.asarray(pc.fill_null(pc.and_(pc.and_(ours, asked), came), False).to_numpy(), dtype=bool)

    @cached_property
    def _judge_keys(self) -> list[str]:
        return [judge_key(spec.identity()) for spec in judges(self.plan.sweep.judge)]

    @cached_property
    def _asked_keys(self) -> list[str]:
        return sorted({one.key for by_metric in self.plan.inquiries.values() for one in by_metric.values()})

    @cached_property
    def _same_answers(self) -> Keys:
        """Wanted answers that read the same in both runs."""
        common = self._texts(self.store).common(self._texts(self.of))
        return Keys(marked.partition(" ")[0] for marked in common)

    def _texts(self, run: Store) -> Keys:
        """The wanted answers of a run, each key with a digest of the text."""

        def marked(part: pa.Table) -> pa.ChunkedArray:
            rows = part.filter(pa.array(self._wanted.has(part["key"])))
            texts = (text or "" for text in rows["answer"].to_pylist())
            digests = [hashlib.blake2b(text.encode(), digest_size=8).hexdigest() for text in texts]
            return pc.binary_join_element_wise(rows["key"], pa.chunked_array([digests], pa.string()), " ")

        return Keys.of_columns(map(marked, run.iter_parts(Kind.GENERATIONS, columns=["key", "answer"])))

    def _relabelled(self, rows: pa.Table) -> pa.Table:
        """Answers under the names that this plan has for their cells and questions."""
        cells = {cell.key: cell for cell in self.plan.answering}
        prompts = [prompt for asked in reversed(self.plan.asked) for prompt in asked.prompts]
        return under_names(rows, cells=cells, prompts={prompt_text(prompt.messages): prompt for prompt in prompts})


def _chosen(run: Store, kind: Kind, keys: Keys, *, column: str) -> Iterator[pa.Table]:
    """Whole rows whose key is among these, part by part; a part that has none is not read but for its keys."""
    sizes = run.part_sizes(kind) if keys else {}
    for name, size in sizes.items():
        try:
            (found,) = run.read_parts({name: size}, columns=[column])
            mine = keys.has(found[column])
            if mine.any():
                (whole,) = run.read_parts({name: size})
                yield whole.filter(pa.array(mine))
        except FileNotFoundError:  # put together with others meanwhile: those are taken the next time
            continue


def _pairs(verdicts: pa.Table) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(verdicts["generation"], verdicts["key"], " ")
