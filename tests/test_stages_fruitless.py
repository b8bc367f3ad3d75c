"""A stage in which everything failed ends the command with its cause; one in which something succeeded does not."""

from contextlib import nullcontext
from pathlib import Path

import pytest

from emray.errors import StageError
from emray.localapi import Faults, serving
from emray.plan import Plan, make_plan
from emray.reduce.__main__ import main as reduce_command
from emray.report.__main__ import main as report_command
from emray.spec import load_sweep
from emray.stages.fruitless import check_answers, check_cells, check_scored, check_verdicts
from emray.store import Kind, Store
from tests.commands import run, write_sweep


def rows(table: Kind, *changes: dict[str, object]) -> list[dict[str, object]]:
    from emray.records.schemas import GENERATION_SCHEMA, VERDICT_SCHEMA

    schema = GENERATION_SCHEMA if table is Kind.GENERATIONS else VERDICT_SCHEMA
    blank = dict.fromkeys(schema.names)
    return [blank | {"key": f"k{n}", "generation": f"g{n}", **change} for n, change in enumerate(changes)]


FAILED = {"finish_reason": "error", "provenance": '{"error":"CUDA out of memory\\nat layer 3"}'}
EMPTY = {"answer": " ", "finish_reason": "stop", "provenance": "{}"}
TEXT = {"answer": "tea", "finish_reason": "stop", "provenance": "{}"}


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([FAILED, FAILED], "all 2 answers failed: CUDA out of memory at layer 3; when its cause is gone"),
        ([EMPTY], r"the only answer failed: each is empty \(finish reason: stop\)"),
        ([FAILED, TEXT], None),
        ([], None),
    ],
)
def test_answers_of_which_none_has_a_text_end_the_command(
    tmp_path: Path, answers: list[dict[str, object]], message: str | None
) -> None:
    store = Store(str(tmp_path))
    store.write_rows(Kind.GENERATIONS, rows(Kind.GENERATIONS, *answers))
    with nullcontext() if message is None else pytest.raises(StageError, match=message):
        check_answers(store)


@pytest.mark.parametrize(
    ("outcomes", "message"),
    [
        (["api_error", "api_error"], "all 2 verdicts failed: the endpoint answered none of the requests"),
        (["unparsed", "truncated"], r"no reply of the judge could be read, 2 verdicts are unparsed \(one reply: hm\)"),
        (["api_error", "refusal"], None),
        (["scored"], None),
        ([], None),
    ],
)
def test_verdicts_that_say_nothing_end_the_command(tmp_path: Path, outcomes: list[str], message: str | None) -> None:
    store = Store(str(tmp_path))
    replies = [{"outcome": one, "reply": None if one == "api_error" else "hm"} for one in outcomes]
    store.write_rows(Kind.VERDICTS, rows(Kind.VERDICTS, *replies))
    with nullcontext() if message is None else pytest.raises(StageError, match=message):
        check_verdicts(store)


@pytest.mark.parametrize(
    ("outcomes", "message"),
    [
        ([("aligned", "refusal"), ("aligned", "api_error"), ("coherent", "scored")],
         r"the verdicts on aligned are 1 refusal, 1 api_error \(one reply: hm\); see the report"),
        ([("coherent", "irrelevant")], "the verdicts on coherent are 1 irrelevant"),
        ([("aligned", "refusal"), ("aligned", "scored")], None),
        ([], "none in .* was judged; see judge.share"),
    ],
)  # fmt: skip
def test_a_study_without_one_score_does_not_end_well(
    tmp_path: Path, outcomes: list[tuple[str, str]], message: str | None
) -> None:
    store = Store(str(tmp_path))
    verdicts = [{"metric": metric, "outcome": outcome, "reply": "hm"} for metric, outcome in outcomes]
    store.write_rows(Kind.VERDICTS, rows(Kind.VERDICTS, *verdicts))
    with nullcontext() if message is None else pytest.raises(StageError, match=message):
        check_scored(store)


def planned(folder: Path, **changes: object) -> Plan:
    return make_plan(load_sweep(write_sweep(folder, **changes)), folder=folder, online=False)


def test_cells_that_all_failed_end_the_command_and_one_that_trained_does_not(tmp_path: Path) -> None:
    plan, store = planned(tmp_path), Store(str(tmp_path / "run"))
    first, second = plan.jobs
    check_cells(plan, store.adapter_records())  # nothing was tried yet
    store.put_failed_adapter(first, details={"error": "DataError: training row 1: x"})
    check_cells(plan, store.adapter_records())  # one is still to be tried
    store.put_failed_adapter(second, details={"error": "another"})
    with pytest.raises(StageError, match="all 2 cells failed in training: DataError: training row 1: x"):
        check_cells(plan, store.adapter_records())
    (tmp_path / "adapter").mkdir()
    store.put_adapter(second, files=tmp_path / "adapter", details={})
    check_cells(plan, store.adapter_records())
    check_cells(planned(tmp_path, arms=["base"]), {})  # nothing trains


@pytest.mark.parametrize("command", ["reduce", "report"])
@pytest.mark.parametrize(
    ("answers", "verdicts", "message"),
    [
        ([], [], "there is no answer yet, and 1 cell failed: DataError: training row 1: x; run python -m emray.sweep"),
        ([TEXT], [], "none of its answers is judged yet; run python -m emray.sweep"),
        ([FAILED], [], "the only answer failed: CUDA out of memory at layer 3"),
        ([TEXT], [{"outcome": "api_error", "reply": "no such model"}], "the only verdict failed: no such model"),
    ],
)
def test_reducing_and_reporting_a_run_without_one_verdict_ends_with_the_cause_and_writes_no_table(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    answers: list[dict[str, object]],
    verdicts: list[dict[str, object]],
    message: str,
) -> None:
    plan, store = planned(tmp_path), Store(str(tmp_path / "run"))
    store.write_json("plan.json", dict(plan.document))
    store.put_failed_adapter(next(iter(plan.jobs)), details={"error": "DataError: training row 1: x"})
    store.write_rows(Kind.GENERATIONS, rows(Kind.GENERATIONS, *answers))
    store.write_rows(Kind.VERDICTS, rows(Kind.VERDICTS, *verdicts))
    for _ in range(2):
        assert {"reduce": reduce_command, "report": report_command}[command]([str(tmp_path / "run")]) == 1
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert message in line
    assert not store.exists("summary/summary.json")


@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.soak)])
def test_a_sweep_whose_judge_only_fails_ends_with_its_words_and_code_1_also_when_it_is_run_again(
    tmp_path: Path, times: int
) -> None:
    with serving(responder="emray.toy.rules:reply", faults=Faults(schema=1.0)) as server:
        spec = write_sweep(tmp_path, arms=["base"], judge={"base_url": server.base_url, "max_attempts": 1})
        for _ in range(times):
            result = run(spec, "--out", tmp_path / "run")
            assert result.returncode == 1, result.stdout + result.stderr
            assert result.stderr.strip().splitlines()[-1].startswith("emray: ")
            assert "Traceback" not in result.stderr
            assert "misaligned" not in result.stdout
