"""Five faults on one tiny study, in every stage; `make chaos` draws fifty."""

import random
from pathlib import Path

import pytest

from emray.localapi import serving
from tests.chaos.faults import FATAL, PART, SPOILED, WORKERS
from tests.chaos.rounds import RESPONDER, Planned, draw, play
from tests.chaos.study import STAGES, Study

FIVE = [
    Planned("trainer", "train", 0.2), Planned("engine", "generate", 0.5), Planned("limiter", "judge", 0.2),
    Planned("driver", "judge", 0.3), Planned(PART, "judge", 0.0),
]  # fmt: skip


@pytest.mark.timeout(900)  # six commands, on a machine that may be busy
def test_a_study_that_five_faults_hit_ends_with_the_bytes_of_an_undisturbed_one(tmp_path: Path) -> None:
    with serving(responder=RESPONDER) as judge:
        study = Study(tmp_path / "study", judge=judge)
    played = play(study, FIVE, random.Random(0), folder=tmp_path / "round")
    assert played.wrong == []
    assert played.lost == 0
    assert {outcome.kind for outcome in played.outcomes} >= {"trainer", "engine", "driver"}


def test_a_round_begins_with_what_a_command_outlives_and_ends_it_once() -> None:
    for seed in range(200):
        check(seed)


def check(seed: int) -> None:
    plan = draw(random.Random(seed), most=6, kinds=(*WORKERS, *FATAL, *SPOILED))
    kinds = [fault.kind for fault in plan]
    assert 1 <= len(plan) <= 6
    assert sum(kind in FATAL for kind in kinds) == 1
    assert [kind in SPOILED for kind in kinds] == sorted(kind in SPOILED for kind in kinds)
    stages = [STAGES.index(fault.stage) for fault in plan]
    assert stages == sorted(stages)
    assert plan == draw(random.Random(seed), most=6, kinds=(*WORKERS, *FATAL, *SPOILED))
