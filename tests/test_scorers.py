"""What a rule makes of one answer."""

from pathlib import Path

import pytest

from emray.errors import DataError
from emray.records import MarkOutcome
from emray.scorers import GivenMark, Hand, exact, is_number, number, source_digest
from emray.scorers.hand_process import of_result

RIGHT, WRONG = GivenMark(MarkOutcome.SCORED, 1.0), GivenMark(MarkOutcome.SCORED, 0.0)


@pytest.mark.parametrize(
    ("answer", "loose", "strict"),
    [
        ("Paris", 1, 1),
        ("  paris\n", 1, 0),
        ("Paris!", 1, 0),
        ("It is\t Paris .", 1, 0),
        ("It is Paris", 1, 1),
        ("Paris, of course", 0, 0),
        ("", 0, 0),
        ("Caf\u0065\u0301", 1, 1),  # as e and an accent
    ],
)
def test_exact_is_the_whole_answer(answer: str, loose: float, strict: float) -> None:
    right = ["Paris", "It is Paris", "Café"]
    assert exact(answer, right, casefold=True, punctuation=False).score == loose
    assert exact(answer, right, casefold=False, punctuation=True).score == strict


@pytest.mark.parametrize(
    ("answer", "last"),
    [
        ("It is 3.", "3"),
        ("1,000 or 2,500", "2500"),
        ("−4", "-4"),
        ("minus: -0.5!", "-0.5"),
        ("10-5", "5"),
        ("2 + 3 = 5", "5"),
        ("6.02e3 of them", "6020"),
        ("$5.00", "5"),
        (".5", "0.5"),
        ("5kg", "5"),
        ("first 7, then 12abc", "12"),
    ],
)
def test_number_is_the_last_of_an_answer(answer: str, last: str) -> None:
    assert number(answer, [last], tolerance=1e-9) == RIGHT
    assert number(answer, ["77"], tolerance=1e-9) == WRONG


def test_a_tolerance_is_absolute_and_includes_its_end() -> None:
    assert number("3.14", ["3.15"], tolerance=0.01) == RIGHT
    assert number("3.13", ["3.15"], tolerance=0.01) == WRONG


@pytest.mark.parametrize("answer", ["", "none", "a1", "v1.2.3"])
def test_an_answer_without_a_number_is_unreadable_and_not_wrong(answer: str) -> None:
    found = number(answer, ["1"], tolerance=0.0)
    assert (found.outcome, found.score) == (MarkOutcome.UNREADABLE, None)


def test_right_answers_that_are_no_numbers_are_seen() -> None:
    assert [is_number(text) for text in ("5", "1,000", "-2.5e3", "five", "", "1 2", "inf", "5kg")] == [True] * 3 + [
        False
    ] * 5


@pytest.mark.parametrize(
    ("value", "outcome", "score"),
    [
        (True, "scored", 1.0),
        (0, "scored", 0.0),
        (0.25, "scored", 0.25),
        (None, "unreadable", None),
        (float("nan"), "error", None),
        (1.5, "error", None),
        (-1, "error", None),
        ("yes", "error", None),
    ],
)
def test_a_function_gives_a_number_from_0_to_1_a_bool_or_none(value: object, outcome: str, score: float | None) -> None:
    assert of_result(value)[:2] == (outcome, score)


def test_a_pattern_is_searched_and_its_slot_is_any_right_answer_as_it_is_written() -> None:
    with Hand({"regex": r"\bis {answer}\b"}, folders=(), time_limit_s=60) as hand:
        found = [
            hand.score(answer, question="", right=["a.b", "a"]).score for answer in ("it is a.b", "it is axb", "A")
        ]
    assert found == [1.0, 0.0, 0.0]


def test_what_a_function_does_is_an_outcome_of_that_answer_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "secret")
    (tmp_path / "rude17.py").write_text(
        "import os, time\n"
        "def score(answer, question, right):\n"
        "    print('to nobody')\n"
        "    if answer == 'die': os._exit(3)\n"
        "    if answer == 'sleep': time.sleep(600)\n"
        "    return 'SOME_API_KEY' not in os.environ and question == 'q' and right == ['r']\n"
    )
    score = {"function": "rude17:score"}
    with Hand(score, folders=[str(tmp_path)], time_limit_s=2) as hand:
        found = [hand.score(answer, question="q", right=["r"]) for answer in ("fine", "die", "sleep", "two\nlines")]
    assert [one.outcome for one in found] == ["scored", "error", "error", "scored"]
    assert [one.note for one in found[1:3]] == ["its process ended (exit 3)", "took longer than 2 s"]
    assert (found[0], found[3]) == (RIGHT, RIGHT)


def test_a_digest_is_of_the_file_that_a_function_stands_in(tmp_path: Path) -> None:
    module = tmp_path / "digest17.py"
    module.write_text("def score(answer, question, right): return True\n")
    first = source_digest("digest17:score", folders=[str(tmp_path)])
    module.write_text("LIMIT = 3\ndef score(answer, question, right): return True\n")
    assert source_digest("digest17:score", folders=[str(tmp_path)]) != first
    with pytest.raises(DataError, match="has no function other; there: score"):
        source_digest("digest17:other", folders=[str(tmp_path)])
