"""Which of Tune's trials starts next: the first that waits, found without a look at those that are over."""

import time

import pytest
from ray.tune.experiment import Trial

from emray.train.schedule import LOOK_EVERY_S, _Withdrawal


class Controller:
    """What of Tune's controller the scheduler may use; it has no list of trials."""

    def stop_trial(self, trial: Trial) -> None:
        trial.set_status(Trial.TERMINATED)


def waiting(scheduler: _Withdrawal, *avoid: str) -> Trial:
    trial = Trial("cell", config={"avoid": list(avoid)}, stub=True)
    scheduler.on_trial_add(Controller(), trial)
    return trial


def test_the_first_that_waits_is_next_and_what_has_begun_never_again() -> None:
    scheduler = _Withdrawal(lambda: {"a"})
    assert scheduler.choose_trial_to_run(Controller()) is None
    first, second = waiting(scheduler), waiting(scheduler)
    assert scheduler.choose_trial_to_run(Controller()) is first
    assert scheduler.choose_trial_to_run(Controller()) is first  # Tune may ask twice
    for trial, after in ((first, second), (second, None)):
        trial.set_status(Trial.RUNNING)
        assert scheduler.choose_trial_to_run(Controller()) is after


def test_a_retry_is_withdrawn_when_every_node_is_one_that_it_avoids(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, now = {"a", "b"}, time.monotonic()
    scheduler = _Withdrawal(lambda: nodes)
    retry, other = waiting(scheduler, "a"), waiting(scheduler)
    monkeypatch.setattr(time, "monotonic", lambda: now + 1.5 * LOOK_EVERY_S)
    assert scheduler.choose_trial_to_run(Controller()) is retry
    nodes.discard("b")
    monkeypatch.setattr(time, "monotonic", lambda: now + 3 * LOOK_EVERY_S)
    assert scheduler.choose_trial_to_run(Controller()) is other
    assert retry.status == Trial.TERMINATED
