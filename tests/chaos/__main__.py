"""The command: rounds of faults until enough were done, and the table of what they cost.

python -m tests.chaos [--faults N] [--seed N]      exit code 1 when anything came out wrong
"""

import argparse
import os
import random
import shutil
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from emray.localapi import serving
from tests.chaos.faults import DISK, FATAL, SPOILED, WORKERS, small_disk
from tests.chaos.rounds import RESPONDER, Round, draw, play, see_them_gone
from tests.chaos.study import Study

MOST_A_ROUND = 6
ALL = (*WORKERS, *FATAL, *SPOILED)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="A tiny study against random faults.")
    parser.add_argument("--faults", type=int, default=50, metavar="N", help="how many, at least (default: 50)")
    parser.add_argument("--seed", type=int, metavar="N", help="default: $CHAOS_SEED, or a new one, which is printed")
    arguments = parser.parse_args(argv)
    seed = (
        arguments.seed if arguments.seed is not None else int(os.environ.get("CHAOS_SEED") or random.randrange(10**6))
    )
    print(f"seed {seed}", flush=True)
    rounds = rampage(seed, num_faults=arguments.faults)
    print(table(rounds))
    return 1 if any(one.wrong for one in rounds) else 0


def rampage(seed: int, *, num_faults: int, most_a_round: int = MOST_A_ROUND) -> list[Round]:
    """Rounds until so many faults were done. Each draws from a stream of its own: a late fault moves no later draw."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    kinds = possible_kinds(folder / "probe")
    with serving(responder=RESPONDER) as server:
        study = Study(folder, judge=server)
    rounds: list[Round] = []
    while (left := num_faults - sum(len(one.outcomes) for one in rounds)) > 0:
        rng = random.Random(f"{seed} {len(rounds)}")
        plan = draw(rng, most=max(1, min(left, most_a_round)), kinds=kinds)
        played = play(study, plan, rng, folder=folder / f"round-{len(rounds)}")
        told = ", ".join(f"{one.kind} ({one.stage}) {one.recovery_s:.0f} s" for one in played.outcomes)
        print(f"round {len(rounds)}: {told or 'no fault came in time'}", flush=True)
        for wrong in played.wrong:
            print(f"    WRONG: {wrong}", flush=True)
        rounds.append(played)
    before = [len(one.wrong) for one in rounds]
    see_them_gone(rounds)
    for number, (played, known) in enumerate(zip(rounds, before, strict=True)):
        for wrong in played.wrong[known:]:
            print(f"round {number}: WRONG: {wrong}", flush=True)
    if not any(one.wrong for one in rounds):
        shutil.rmtree(folder)
    return rounds


def possible_kinds(folder: Path) -> tuple[str, ...]:
    """Every kind of fault, without the full disk where no small one can be had; that is said."""
    try:
        with small_disk(folder):
            return ALL
    except OSError as error:
        print(f"no {DISK} here: {error}", file=sys.stderr)
        return tuple(kind for kind in ALL if kind != DISK)


def table(rounds: Sequence[Round]) -> str:
    """Fault by fault: how many, seconds to recover; what was lost and done twice is a round's, shared by its faults."""
    recoveries: dict[str, list[float]] = defaultdict(list)
    lost: dict[str, int] = defaultdict(int)
    twice: dict[str, int] = defaultdict(int)
    for one in rounds:
        for outcome in one.outcomes:
            recoveries[outcome.kind].append(outcome.recovery_s)
        for kind in {outcome.kind for outcome in one.outcomes}:
            lost[kind] += one.lost
            twice[kind] += one.done_twice
    lines = [f"{'fault':<26}{'number':>7}{'lost':>6}{'twice':>7}{'median s':>10}{'longest s':>11}"]
    for kind in ALL:
        if times := recoveries[kind]:
            lines.append(
                f"{kind:<26}{len(times):>7}{lost[kind]:>6}{twice[kind]:>7}"
                f"{statistics.median(times):>10.0f}{max(times):>11.0f}"
            )
    total = [
        sum(len(one.outcomes) for one in rounds),
        sum(one.lost for one in rounds),
        sum(one.done_twice for one in rounds),
    ]
    wrong = sum(bool(one.wrong) for one in rounds)
    lines.append(f"{'together':<26}{total[0]:>7}{total[1]:>6}{total[2]:>7}   {len(rounds)} rounds, {wrong} wrong")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
