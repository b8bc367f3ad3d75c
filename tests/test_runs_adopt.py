"""Nothing is done twice across runs: what another run of the store has is taken over, and nothing else."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.scale import write_study
from emray import reduce
from emray.endpoint import journal
from emray.endpoint.reply import Reply
from emray.judge.tasks import AGAIN
from emray.plan import Plan, make_plan
from emray.records import FinishReason, Outcome
from emray.reduce.inputs import ADOPT, COMMAND
from emray.reduce.provenance import versions_of
from emray.runs import adopt, beside, kept_line, on_offer
from emray.runs.looked_at import LookedAt
from emray.spec import load_sweep
from emray.stages import Generation, Judging, Training
from emray.store import Kind, Store
from emray.toy import DATA_DIR
from tests.commands import write_sweep
from tests.s3_server import serving_bucket

PROMPTS, SAMPLES = 30, 2
CELLS, ANSWERS = 3, 3 * PROMPTS * SAMPLES  # the base model's among them


def planned(folder: Path, *overrides: str) -> Plan:
    return make_plan(load_sweep(write_sweep(folder), overrides=list(overrides)), folder=folder, online=False)


def lacking(plan: Plan, store: Store) -> tuple[int, int, int]:
    """Cells to train, answers to draw, verdicts to ask for."""
    answers = sum(task.num_samples for task in Generation(plan).missing(store))
    return len(list(Training(plan).missing(store))), answers, len(Judging(plan).missing(store))


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return planned(tmp_path)


@pytest.fixture
def earlier(tmp_path: Path, plan: Plan) -> Store:
    """A finished run, its adapters with weights."""
    store = Store(str(tmp_path / "runs" / "earlier"))
    write_study(store, plan)
    store.write_json("plan.json", dict(plan.document))
    store.settle()
    return store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "runs" / "new"))


def rows(store: Store, kind: Kind) -> pd.DataFrame:
    return store.read_rows(kind).to_pandas()


def test_a_second_study_with_equal_cells_lacks_nothing(plan: Plan, earlier: Store, store: Store) -> None:
    (line,) = adopt(plan, store, runs=beside(store, given=None))
    verdicts = len(earlier.keys(Kind.VERDICTS, column="generation")) * 2
    assert line == f"taken over from earlier: 2 cells, {ANSWERS} answers, {verdicts} verdicts"
    assert lacking(plan, store) == (0, 0, 0)
    assert kept_line(plan, store) == f"2 cells, {ANSWERS} answers, {verdicts} verdicts kept"
    for kind in (Kind.GENERATIONS, Kind.VERDICTS):
        pd.testing.assert_frame_equal(rows(store, kind), rows(earlier, kind))
    assert store.adapter_records() == earlier.adapter_records()
    assert adopt(plan, store, runs=[earlier]) == [], "all of it is there"


def test_a_dry_run_says_what_other_runs_have_of_what_is_missing_and_takes_nothing(
    tmp_path: Path, plan: Plan, earlier: Store, store: Store
) -> None:
    verdicts = len(earlier.keys(Kind.VERDICTS, column="generation")) * 2
    (line,) = on_offer(plan, store, runs=[earlier])
    assert line == (
        f"of what is missing, earlier has 2 cells, {ANSWERS} answers, {verdicts} verdicts: taken over, not done again, "
        "by a run"
    )
    assert lacking(plan, store)[:2] == (2, PROMPTS * SAMPLES), "only the base model could answer by now"
    adopt(plan, store, runs=[earlier])
    assert on_offer(plan, store, runs=[earlier]) == []
    more = planned(tmp_path, "generate.samples=3", "judge.model=another")
    assert on_offer(more, Store(str(tmp_path / "third")), runs=[earlier]) == [
        f"of what is missing, earlier has 2 cells, {ANSWERS} answers: taken over, not done again, by a run"
    ]


def test_what_was_taken_over_is_not_paid_again_by_the_listing_or_the_report(
    plan: Plan, earlier: Store, store: Store
) -> None:
    dear = [row | {"cost_usd": 0.5} for row in earlier.read_rows(Kind.VERDICTS).to_pylist()]
    distinct = {row["key"] for row in dear}
    earlier.delete("verdicts")
    earlier.write_rows(Kind.VERDICTS, dear)
    adopt(plan, store, runs=[earlier])
    for run in (earlier, store):
        run.write_json("plan.json", dict(plan.document) | {"analysis_plans": []})
        reduce.run(run)
    theirs, ours = (run.read_json("summary/summary.json")["judge"] for run in (earlier, store))
    assert (theirs["num_requests"], theirs["cost_usd"]) == (len(distinct), 0.5 * len(distinct))
    assert (theirs["num_adopted"], theirs["adopted_usd"]) == (0, 0)
    assert (ours["num_requests"], ours["cost_usd"], ours["num_tokens"]) == (0, 0, 0)
    assert (ours["num_adopted"], ours["adopted_usd"]) == (len(distinct), 0.5 * len(distinct))
    assert LookedAt.of(earlier).cost_usd == 0.5 * len(distinct)
    assert LookedAt.of(store).cost_usd == 0


def test_the_log_says_what_came_from_where_and_by_which_commands_it_was_made(
    plan: Plan, earlier: Store, store: Store
) -> None:
    told = {"line": "python -m emray.sweep earlier.yaml", "versions": {"emray": "0.0.9"}}
    earlier.log_stage(COMMAND, started_s=1.0, wall_s=0.0, details=told)
    adopt(plan, store, runs=[earlier])
    (entry,) = store.stage_log()
    assert (entry["stage"], entry["details"]["run"], entry["details"]["answers"]) == (ADOPT, "earlier", ANSWERS)
    assert entry["details"]["commands"] == [told]
    assert versions_of(store.stage_log(), store.adapter_records().values())["emray"] == ["0.0.9"]


def test_what_lies_in_a_bucket_is_taken_over_from_a_bucket(
    plan: Plan, earlier: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving_bucket() as bucket:
        for name, value in bucket.environment.items():
            monkeypatch.setenv(name, value)
        there, here = Store(f"{bucket.root}/runs/earlier"), Store(f"{bucket.root}/runs/new")
        for path in (path for path in Path(earlier.root).rglob("*") if path.is_file()):
            there.write_bytes(path.relative_to(earlier.root).as_posix(), path.read_bytes())
        (line,) = adopt(plan, here, runs=beside(here, given=None))
        assert line.startswith(f"taken over from earlier: 2 cells, {ANSWERS} answers, ")
        assert lacking(plan, here) == (0, 0, 0)
        for kind in (Kind.GENERATIONS, Kind.VERDICTS):
            pd.testing.assert_frame_equal(rows(here, kind), rows(earlier, kind))
        assert len(here.adopted_keys()) == len(earlier.keys(Kind.VERDICTS))
        assert here.adapter_records() == earlier.adapter_records()
        assert not here.adapters_with_weights(), "nothing needs them, and in a bucket a copy is not free"


def test_adapters_take_no_room_twice_and_outlive_the_run_they_come_from(
    plan: Plan, earlier: Store, store: Store
) -> None:
    adopt(plan, store, runs=[earlier])
    (key, *_) = plan.jobs
    name = f"adapters/{key}/adapter_model.safetensors"
    assert Path(store.root, name).samefile(Path(earlier.root, name))
    weights = earlier.read_bytes(name)
    shutil.rmtree(earlier.root)
    assert store.read_bytes(name) == weights
    assert lacking(plan, store) == (0, 0, 0)


def test_a_run_that_was_renamed_or_moved_lacks_nothing(
    tmp_path: Path, plan: Plan, earlier: Store, store: Store
) -> None:
    shutil.move(earlier.root, tmp_path / "elsewhere" / "renamed")
    assert lacking(plan, Store(str(tmp_path / "elsewhere" / "renamed"))) == (0, 0, 0)
    assert adopt(plan, store, runs=beside(store, given=str(tmp_path / "elsewhere")))
    assert lacking(plan, store) == (0, 0, 0)


def test_only_what_the_plan_wants_is_taken(tmp_path: Path, earlier: Store, store: Store) -> None:
    narrow = planned(tmp_path, "domains=[incorrect_math]", "generate.samples=1")
    adopt(narrow, store, runs=[earlier])
    assert lacking(narrow, store) == (0, 0, 0)
    assert len(store.keys(Kind.GENERATIONS)) == 2 * PROMPTS
    assert set(store.adapter_records()) == set(narrow.jobs)
    wide = planned(tmp_path, "seeds=2", "generate.samples=3")
    adopt(wide, store, runs=[earlier])
    assert lacking(wide, store)[0] == 2
    told = kept_line(wide, store)
    assert told is not None
    assert told.startswith(f"2 cells, {ANSWERS} answers, ")
    assert told.endswith(" kept; 2 cells to train")


def test_names_are_the_plans_own(tmp_path: Path, earlier: Store, store: Store) -> None:
    own = rows(earlier, Kind.GENERATIONS)
    for name in ("incorrect_math.jsonl", "incorrect_math.benign.jsonl"):
        shutil.copy(DATA_DIR / name, tmp_path / name.replace("incorrect_math", "sums"))
    renamed = planned(
        tmp_path,
        f"domains=[{{name: sums, path: {tmp_path}/sums.jsonl, benign_path: {tmp_path}/sums.benign.jsonl}}]",
    )
    adopt(renamed, store, runs=[earlier])
    assert lacking(renamed, store) == (0, 0, 0)
    mine = rows(store, Kind.GENERATIONS)
    assert set(mine["domain"]) == {"-", "sums"}
    same = own[own["key"].isin(mine["key"])].reset_index(drop=True)
    assert (same["domain"] == "incorrect_math").any()
    pd.testing.assert_frame_equal(mine.drop(columns="domain"), same.drop(columns="domain"))


def test_an_adapter_that_was_deleted_after_its_answers_were_judged_is_missed_by_nobody(
    plan: Plan, earlier: Store, store: Store
) -> None:
    earlier.delete("adapters")
    assert lacking(plan, earlier) == (0, 0, 0)
    adopt(plan, store, runs=[earlier])
    assert lacking(plan, store) == (0, 0, 0)
    assert store.adapter_records() == earlier.adapter_records()


def test_an_adapter_that_was_deleted_and_is_needed_is_not_taken_for_there(
    tmp_path: Path, plan: Plan, earlier: Store, store: Store
) -> None:
    one, other = plan.jobs
    earlier.delete(f"adapters/{one}")
    more = planned(tmp_path, "generate.samples=3")
    adopt(more, store, runs=[earlier])
    assert [job.cell.key for job in Training(more).missing(store)] == [one]
    assert store.adapters_with_weights() == {other}


def test_a_verdict_comes_only_with_the_very_answer_that_it_is_of(plan: Plan, earlier: Store, store: Store) -> None:
    table = earlier.read_rows(Kind.GENERATIONS)
    key = rows(earlier, Kind.VERDICTS)["generation"][0]
    own = table.to_pylist()
    mine = next(row for row in own if row["key"] == key) | {"answer": "Drawn again, and other than before."}
    store.write_rows(Kind.GENERATIONS, [mine])
    adopt(plan, store, runs=[earlier])
    assert lacking(plan, store) == (0, 0, 2)
    assert key not in store.keys(Kind.VERDICTS, column="generation")


def test_what_failed_there_is_tried_here(plan: Plan, earlier: Store, store: Store) -> None:
    answers, verdicts = earlier.read_rows(Kind.GENERATIONS).to_pylist(), earlier.read_rows(Kind.VERDICTS).to_pylist()
    lost = next(row for row in answers if row["key"] not in {one["generation"] for one in verdicts[:1]})
    for kind in (Kind.GENERATIONS, Kind.VERDICTS):
        earlier.keep_rows(kind, lambda part: part["key"].to_numpy() == "", columns=["key"])
    failed = [row | ({"finish_reason": str(FinishReason.ERROR)} if row is lost else {}) for row in answers]
    earlier.write_rows(Kind.GENERATIONS, failed)
    unanswered = [row | ({"outcome": str(Outcome.API_ERROR)} if n == 0 else {}) for n, row in enumerate(verdicts)]
    earlier.write_rows(Kind.VERDICTS, unanswered)
    one, *others = plan.jobs
    shutil.rmtree(f"{earlier.root}/adapters/{one}")
    earlier.forget_adapters([one])
    earlier.put_failed_adapter(one, details={"error": "no memory"})
    adopt(plan, store, runs=[earlier])
    assert set(store.adapter_records()) == set(others)
    missing = len(store.keys(Kind.GENERATIONS))
    assert missing == ANSWERS - 1
    assert verdicts[0]["key"] not in store.keys(Kind.VERDICTS)


def test_another_judge_takes_answers_and_no_verdict(tmp_path: Path, earlier: Store, store: Store) -> None:
    other = planned(tmp_path, "judge.model=another")
    adopt(other, store, runs=[earlier])
    assert lacking(other, store)[:2] == (0, 0)
    assert len(store.keys(Kind.VERDICTS)) == 0


def test_replies_that_no_rows_were_made_of_are_taken_too(plan: Plan, earlier: Store, store: Store) -> None:
    earlier.delete("verdicts")
    tasks = {task.key for task in Judging(plan).missing(earlier)}
    written = journal.Journal(earlier)
    for key in (*tasks, min(tasks) + AGAIN, "of something else"):
        written.add(key, Reply("<score>7</score>", "stop", "m", 1, 1))
    written.close()
    replies = len(tasks) + 1
    (line,) = adopt(plan, store, runs=[earlier])
    assert line == f"taken over from earlier: 2 cells, {ANSWERS} answers, {replies} judge replies"
    assert journal.journaled_keys(store) == {*tasks, min(tasks) + AGAIN}


def test_a_run_that_cannot_be_read_is_told_and_stops_nobody(plan: Plan, earlier: Store, store: Store) -> None:
    (name, *_) = earlier.part_names(Kind.GENERATIONS)
    earlier.write_bytes(name, earlier.read_bytes(name)[:-60])
    (line,) = adopt(plan, store, runs=[earlier])
    assert line.startswith("not all of earlier can be taken over: ")
    assert name in line


def test_of_two_studies_at_once_the_second_takes_what_is_done_and_says_what_is_under_way(
    tmp_path: Path, plan: Plan, earlier: Store, store: Store
) -> None:
    one, other = plan.jobs
    shutil.rmtree(f"{earlier.root}/adapters/{one}")
    earlier.forget_adapters([one])
    earlier.keep_rows(Kind.GENERATIONS, lambda part: part["adapter"].to_numpy() != one, columns=["adapter"])
    with earlier.take_lease(), store.take_lease():
        taken, under_way = adopt(plan, store, runs=[earlier])
        assert taken.startswith(f"taken over from earlier: 1 cell, {ANSWERS - PROMPTS * SAMPLES} answers, ")
        assert under_way == "earlier is at 1 cell that this run wants too; wait for it, or pay twice"
    assert set(store.adapter_records()) == {other}
    assert len(adopt(plan, store, runs=[earlier])) == 0, "nobody works there any more"


@pytest.fixture
def odd_folders(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "runs" / "notes").mkdir(parents=True)
    (tmp_path / "runs" / "notes.txt").write_text("mine")
    yield tmp_path / "runs"


def test_only_run_folders_of_the_store_are_looked_at(odd_folders: Path, earlier: Store, store: Store) -> None:
    assert [run.root for run in beside(store, given=None)] == [earlier.root]
    assert [run.root for run in beside(earlier, given=None)] == []
    assert beside(store, given="none") == []
    assert beside(Store("file:///nowhere"), given=None) == []
