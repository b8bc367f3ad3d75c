"""Numbers that nobody means: told in one line, at once, in little memory."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from emray import plan as planning
from emray.errors import SpecError
from emray.spec import Sweep, load_sweep
from emray.spec.grid import MOST_CELLS
from tests.commands import ROOT, SMALL, environment, write_sweep

MANY = 50_000


def sweep_of(num_domains: int) -> Sweep:
    fields = {**SMALL, "arms": ["base", "plain"], "domains": [{"name": f"d{n}"} for n in range(num_domains)]}
    return Sweep.model_validate(fields)


def test_the_time_to_check_a_sweep_grows_with_its_domains_and_no_faster() -> None:
    def seconds(num_domains: int) -> float:
        began_s = time.process_time()
        sweep_of(num_domains)
        return time.process_time() - began_s

    few = min(seconds(MANY // 10) for _ in range(3))
    assert seconds(MANY) < 30 * few + 0.5  # ten times the domains; a quadratic check took a hundred times


def test_a_sweep_has_at_most_a_hundred_thousand_finetunes() -> None:
    fields = {**SMALL, "arms": ["plain"], "seeds": list(range(1000)), "domains": [f"d{n}" for n in range(101)]}
    with pytest.raises(ValueError, match=r"are 101,000 finetunes; a sweep has at most 100,000: split it"):
        Sweep.model_validate(fields)
    assert MOST_CELLS == 100_000
    Sweep.model_validate({**fields, "domains": [f"d{n}" for n in range(100)]})


def test_an_adaptive_sweep_counts_with_its_most_seeds() -> None:
    fields = {**SMALL, "arms": ["plain"], "seeds": {"min": 2, "max": 10_000}, "domains": [f"d{n}" for n in range(11)]}
    with pytest.raises(ValueError, match="110,000 finetunes"):
        Sweep.model_validate(fields)


def test_more_answers_than_a_plan_can_hold_are_told_before_any_data_is_read(tmp_path: Path) -> None:
    sweep = load_sweep(write_sweep(tmp_path, data_dir="nowhere", generate={"samples": 1_000_000}))
    with pytest.raises(SpecError, match=r"5 cells x 30 prompts x 1,000,000 samples are 150,000,000 answers") as told:
        planning.make_plan(sweep.model_copy(update={"seeds": [0, 1]}), folder=tmp_path, online=False)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "override", ["generate.samples=1e9", "generate.samples=1000000000", "seeds=1e9", "seeds=[1e20]"]
)
def test_a_number_beyond_its_limit_is_told_in_one_line_at_once(tmp_path: Path, override: str) -> None:
    began_s = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-m", "emray.sweep", str(write_sweep(tmp_path)), "--dry-run", "--set", override],
        capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=60,
    )  # fmt: skip
    assert result.returncode == 2, result.stdout + result.stderr
    assert result.stderr.count("\n") == 1
    assert time.monotonic() - began_s < 20


MAKING_ROOM = """
import resource, sys
from emray.endpoint.open_files import make_room
from emray.errors import StageError
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 4096))
for connections in (100, 2000, 4000):
    try:
        make_room(connections)
        print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    except StageError as error:
        print(error)
"""


def test_requests_in_flight_find_room_for_their_connections_or_are_refused() -> None:
    result = subprocess.run([sys.executable, "-c", MAKING_ROOM], capture_output=True, text=True, cwd=ROOT, check=True)
    some, more, refused = result.stdout.splitlines()
    assert (some, more) == ("356", "2256")
    assert refused.startswith("max_in_flight: 4,000 needs 4,256 open files, this machine allows a process 4,096")
