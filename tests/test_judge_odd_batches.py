"""Batch APIs of other shapes than OpenAI's: refused in one line with their own words, or rows with their reason."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from emray.errors import EmrayError
from emray.store import Kind, Store
from tests.batch_world import plain_tasks, run, spec_of
from tests.odd_batches import BATCH, DONE, HTML, odd_batches, output_lines

FAILED = BATCH | {"status": "failed"}


def error_file(line: dict[str, Any]) -> dict[str, Any]:
    """A batch whose only file is that of errors, with one such line for each request."""
    return {
        "retrieve": DONE | {"output_file_id": None, "error_file_id": "file_err"},
        "file_err": lambda sent: [{"custom_id": row["custom_id"]} | line for row in output_lines(sent)],
    }


@pytest.mark.parametrize(
    ("says", "words"),
    [
        ({"list": HTML}, "Sign in"),
        ({"list": []}, "other shape"),
        ({"upload": HTML}, "Sign in"),
        ({"upload": {"object": "file"}}, '{"object":"file"}'),
        ({"upload": []}, "other shape"),
        ({"create": {"job": BATCH}}, '"job"'),
        ({"create": HTML}, "Sign in"),
        ({"create": BATCH | {"status": "VALIDATING"}}, "VALIDATING"),
        ({"create": BATCH | {"id": None}}, "other shape"),
        ({"create": [BATCH]}, "other shape"),
        ({"create": (400, {"error": {"message": "completion_window 24h is not offered"}})}, "is not offered"),
        ({"create": (403, HTML)}, "Sign in"),
        ({"retrieve": BATCH | {"status": "SUCCESS"}}, "SUCCESS"),
        ({"retrieve": {"object": "list", "data": []}}, "other shape"),
        ({"retrieve": HTML}, "Sign in"),
        ({"file_out": HTML}, "Sign in"),
        ({"file_out": lambda sent: [{"id": 1} for _ in output_lines(sent)]}, "custom_id"),
        ({"retrieve": FAILED | {"errors": {"object": "list", "data": [
            {"code": "invalid_url", "message": "not this URL", "line": 1}]}}}, "invalid_url: not this URL"),
        ({"retrieve": FAILED | {"errors": {"data": [{"code": "billing_hard_limit_reached", "message": "limit"}]}}},
         "billing_hard_limit_reached"),
        (error_file({"response": {"status_code": 401, "body": {"error": {"message": "Incorrect API key"}}}}),
         "Incorrect API key"),
    ],
)  # fmt: skip
def test_another_shape_is_one_line_with_the_endpoints_words(tmp_path: Path, says: dict[str, Any], words: str) -> None:
    with odd_batches(says) as odd, pytest.raises(EmrayError) as caught:
        run(plain_tasks(2), tmp_path, odd.base_url, spec_of().model_copy(update={"max_attempts": 2}))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert odd.asked.count("create") <= 1  # nothing is ordered twice
    assert Store(str(tmp_path)).read_rows(Kind.VERDICTS).num_rows == 0


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        ({"retrieve": FAILED}, "batch failed without a result"),
        ({"retrieve": BATCH | {"status": "expired"}}, "batch expired without a result"),
        ({"retrieve": BATCH | {"status": "cancelled"}}, "batch cancelled without a result"),
        ({"retrieve": DONE | {"output_file_id": None}}, "batch completed without a result"),
        (error_file({"response": None, "error": {"code": "batch_expired", "message": "late"}}), "batch_expired"),
        (error_file({"response": {"status_code": 500, "body": HTML}}), "Sign in"),
        (error_file({"response": {"status_code": "500", "body": None}}), "server"),
        (error_file({"response": {"status_code": 200, "body": {"choices": []}}}), "broken"),
        (error_file({"response": "gone", "error": "gone"}), "no response"),
    ],
)
def test_what_a_batch_leaves_open_is_a_row_with_its_reason_after_so_many_rounds(
    tmp_path: Path, says: dict[str, Any], reason: str
) -> None:
    with odd_batches(says) as odd:
        rows = run(plain_tasks(2), tmp_path, odd.base_url, spec_of().model_copy(update={"max_attempts": 2}))
    assert [(row["outcome"], row["score"]) for row in rows] == [("api_error", None)] * 2
    assert all(reason in row["reply"] for row in rows)
    assert odd.asked.count("create") == 2


def test_lines_that_are_nobodys_beside_those_that_are(tmp_path: Path) -> None:
    def mixed(sent: bytes) -> str:
        good = [json.dumps(row) for row in output_lines(sent)]
        return "\n".join(["{", "[]", "7", '{"custom_id": 5}', '{"custom_id": "stranger"}', *good, ""])

    with odd_batches({"file_out": mixed}) as odd:
        rows = run(plain_tasks(3), tmp_path, odd.base_url, spec_of())
    assert [row["outcome"] for row in rows] == ["scored"] * 3
    assert odd.asked.count("create") == 1


def nameless(sent: bytes, *, lines: int) -> list[dict[str, Any]]:
    """OpenAI's lines, the last ones without the request they answer."""
    rows = output_lines(sent)
    return [*rows[:-lines], *({"id": 1, "response": row["response"]} for row in rows[-lines:])]


def test_the_only_reply_without_a_custom_id_is_that_of_the_only_request_without_a_line(tmp_path: Path) -> None:
    with odd_batches({"file_out": partial(nameless, lines=1)}) as odd:
        rows = run(plain_tasks(3), tmp_path, odd.base_url, spec_of())
    assert [row["outcome"] for row in rows] == ["scored"] * 3
    assert odd.asked.count("create") == 1


def test_replies_that_are_anybodys_are_one_line_and_nothing_is_paid_for_again(tmp_path: Path) -> None:
    with odd_batches({"file_out": partial(nameless, lines=2)}) as odd:
        for _ in range(2):
            with pytest.raises(EmrayError) as caught:
                run(plain_tasks(3), tmp_path, odd.base_url, spec_of())
            said = str(caught.value)
            assert "2 of 3 result lines have no custom_id, and 2 requests no line of their own" in said
            assert "\n" not in said and "journal/batches" in said
    assert odd.asked.count("create") == 1
    uploaded = odd.uploaded
    with odd_batches({"file_out": lambda _: output_lines(uploaded)}) as later:
        rows = run(plain_tasks(3), tmp_path, later.base_url, spec_of())
    assert [row["outcome"] for row in rows] == ["scored"] * 3
    assert "create" not in later.asked


def test_a_result_file_that_could_not_be_read_is_fetched_again_and_nothing_ordered_anew(tmp_path: Path) -> None:
    with odd_batches({"file_out": HTML}) as odd, pytest.raises(EmrayError):
        run(plain_tasks(2), tmp_path, odd.base_url, spec_of())
    uploaded = odd.uploaded
    with odd_batches({"file_out": lambda _: output_lines(uploaded)}) as later:
        rows = run(plain_tasks(2), tmp_path, later.base_url, spec_of())
    assert [row["outcome"] for row in rows] == ["scored"] * 2
    assert "create" not in later.asked
