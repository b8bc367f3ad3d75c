"""Plans and journals that something has changed are read as they were meant, or refused in one line naming the file."""

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emray import plan as planning
from emray.endpoint.journal import Journal, read_journal
from emray.endpoint.reply import Reply
from emray.errors import EmrayError, StoreError
from emray.reduce.study import load_study
from emray.spec import load_sweep
from emray.store import Store

NUM_PLANS = 10_000
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 2**70, 0.5, 1e308, "", "x", "\x1b[2J", "9" * 50, "true",
    [], [[]], [None], {}, {"a": 1}, {"": None},
)  # fmt: skip


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    sweep = load_sweep(Path("sweeps/toy.yaml"))
    plan = planning.make_plan(sweep, folder=Path("sweeps"), online=False)
    return dict(json.loads(json.dumps(plan.document)))


def spoilt(value: Any, draw: random.Random) -> Any:
    """A copy with one place changed: another value, a field less, or a field more."""
    changed = copy.deepcopy(value)
    place, key = draw.choice(list(places(changed)))
    what = draw.random()
    if what < 0.2 and isinstance(place, dict):
        del place[key]
    elif what < 0.3 and isinstance(place, dict):
        place["unheard of"] = draw.choice(ODD)
    else:
        place[key] = copy.deepcopy(draw.choice(ODD))
    return changed


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def small(document: dict[str, Any]) -> dict[str, Any]:
    """The same plan with few cells and questions, so that every field is hit often."""
    return document | {"cells": document["cells"][:3], "questions": document["questions"][:2]}


def test_ten_thousand_spoilt_plans_are_studies_or_one_line(document: dict[str, Any]) -> None:
    plan, refused = small(document), 0
    for seed in range(NUM_PLANS):
        changed = spoilt(plan, random.Random(seed))
        try:
            load_study(changed)
        except EmrayError as error:
            refused += 1
            assert "\n" not in str(error)
    assert NUM_PLANS / 20 < refused < NUM_PLANS


def test_a_spoilt_plan_of_an_earlier_run_is_one_line_or_planned_from(document: dict[str, Any], tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    sweep, earlier = load_sweep(Path("sweeps/toy.yaml"), overrides=["domains=[gore_movie_trivia]"]), small(document)
    for seed in range(60):
        store.write_json(planning.PLAN, spoilt(earlier, random.Random(seed)))
        try:
            changed = planning.written(store)
            planning.seeds_so_far(sweep, changed)
            planning.make_plan(sweep, folder=Path("sweeps"), online=False, earlier=changed)
        except EmrayError as error:
            assert "\n" not in str(error)


class Everything:
    """Every key is wanted."""

    def __contains__(self, key: object) -> bool:
        return True


@pytest.mark.parametrize("num_journals", [1000, pytest.param(10_000, marks=pytest.mark.soak)])
def test_spoilt_journals_give_their_replies_or_one_line(num_journals: int, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    journal = Journal(store)
    for number in range(4):
        journal.add(f"{number:032x}.aligned", Reply(f"<score>{number}</score>", "stop", "m", 1, 1))
    journal.close()
    (name,) = store.sizes("journal")
    path, whole = tmp_path / name, (tmp_path / name).read_bytes()
    kept = dict(read_journal(store, wanted=Everything()))
    refused = 0
    for seed in range(num_journals):
        path.write_bytes(_spoilt_bytes(whole, random.Random(seed)))
        try:
            read = dict(read_journal(store, wanted=Everything()))
        except StoreError as error:
            refused += 1
            assert str(path.name) in str(error)
            continue
        assert len(read) <= len(kept)
    assert num_journals / 20 < refused < num_journals


def _spoilt_bytes(content: bytes, draw: random.Random) -> bytes:
    """Cut short, with bytes changed, or with a piece repeated or missing."""
    start, length = draw.randrange(len(content)), draw.randrange(1, 40)
    what = draw.randrange(4)
    if what == 0:
        return content[:start]
    piece = {1: bytes(draw.randrange(256) for _ in range(length)), 2: b"", 3: content[start : start + length] * 2}[what]
    return content[:start] + piece + content[start + length :]
