"""What can be known before anything trains or is paid for: keys, judges and rubrics, models, room on the disk.

Not for what only doing it can show (the pilot, sweep.py). The invariant: where nothing is missing nothing is asked, and
what is refused here is refused before a plan is written.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from emray.endpoint.access import Access
from emray.errors import UserError
from emray.judge.tasks import judges
from emray.plan import Plan
from emray.records import TrainJob
from emray.spec import STAGES, TOY, EndpointSpec, JudgeSpec
from emray.stages.services import Services
from emray.stages.work import JUDGE, TRAIN, Generation, Training, is_trained_here, num_answers
from emray.store import Store

_ANSWER_BYTES = 600  # a row with its prompt, compressed; measured on answers of 100 tokens
_VERDICT_BYTES = 900  # a row, and its reply in the journal
_GIB = 2**30


class Ahead(NamedTuple):
    """What a command is about to do."""

    plan: Plan
    until: str
    jobs: Sequence[TrainJob]
    num_answers: int  # those that wait for training included

    @classmethod
    def of(cls, plan: Plan, store: Store, *, until: str) -> "Ahead":
        jobs = tuple(Training(plan).missing(store))
        if until == TRAIN:
            return cls(plan, until, jobs, 0)
        waiting = {job.cell.key for job in jobs}
        to_come = sum(n for cell in plan.answering if cell.key in waiting for _, n in plan.asked_of(cell))
        return cls(plan, until, jobs, to_come + num_answers(tuple(Generation(plan).missing(store))))

    @property
    def judged(self) -> bool:
        return self.num_answers > 0 and STAGES.index(self.until) >= STAGES.index(JUDGE)

    @property
    def judges(self) -> list[JudgeSpec]:
        """Those that are asked over HTTP elsewhere; what this command serves itself it knows to be there."""
        found = judges(self.plan.sweep.judge) if self.judged else ()
        return [one for one in found if one.mode != "replay" and one.engine == "openai" and _url(one, found) != TOY]


def check_keys(ahead: Ahead) -> None:
    """Raises UserError for an endpoint that the command will ask and has no key for."""
    generate = ahead.plan.sweep.generate
    asked: list[EndpointSpec] = list(ahead.judges)
    elsewhere = ahead.num_answers > 0 or not all(map(is_trained_here, ahead.jobs))
    if elsewhere and generate.engine == "openai" and generate.endpoint.mode != "replay":
        asked.append(generate.endpoint)
    for spec in asked:
        try:
            Access.read(spec, base_url=spec.base_url)
        except UserError as error:
            raise UserError(f"{spec.place} cannot be asked: {error}") from None


def look_ahead(ahead: Ahead, store: Store, services: Services, *, say: Callable[[str], None]) -> None:
    """Say what was found, one line each. Raises EmrayError for what would end the command later."""
    for line in _models(ahead, store, here=services.here):
        say(line)
    if ahead.judges:
        from emray.judge.rehearsal import rehearse  # the openai SDK loads when there is somebody to ask

        for spec in ahead.judges:
            url = _url(spec, ahead.judges) or services.judge_url(ahead.plan)
            found = rehearse(store, inquiries=ahead.plan.inquiries, spec=spec, base_url=url)
            say(found.line)


def _url(spec: JudgeSpec, among: Sequence[JudgeSpec]) -> str | None:
    """A further judge without an address of its own is where the sweep's is."""
    return spec.base_url or among[0].base_url


def _models(ahead: Ahead, store: Store, *, here: bool) -> Iterator[str]:
    """What each base takes, and whether the disk has room. What other machines have room for is not known here."""
    jobs = list(filter(is_trained_here, ahead.jobs))
    if not jobs:
        return
    from emray.train.foresight import foresee

    needed = _ANSWER_BYTES * ahead.num_answers
    needed += _VERDICT_BYTES * ahead.num_answers * len(ahead.plan.sweep.judge.metrics) if ahead.judged else 0
    to_fetch = 0
    for mine in _by_base(jobs):
        found = foresee(mine[0], spec=ahead.plan.sweep.train)
        kept = sum(1 + len(job.checkpoints) for job in mine)
        needed += found.adapter_bytes * kept
        to_fetch += found.fetch_bytes
        fetched = f", {_size(found.fetch_bytes)} of weights to fetch" if found.fetch_bytes else ""
        yield (
            f"model {mine[0].cell.model} loads: {_count(found.num_parameters)} parameters{fetched}; "
            f"an adapter trains {_count(found.num_trained)}, {_size(found.adapter_bytes)}"
        )
    if here and "://" not in store.root:
        yield _room(Path(store.root), needed + to_fetch, what=f"{len(jobs):,} adapters, answers and verdicts")


def _room(folder: Path, needed: int, *, what: str) -> str:
    """Raises UserError for a disk that cannot hold it."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise UserError(
            f"{folder} has {_size(free)} free, and {what} take about {_size(needed)}; "
            "make room, give another --out, or train fewer cells at a time (seeds, domains)"
        )
    return f"disk: about {_size(needed)} for {what}, {_size(free)} free"


def _by_base(jobs: Sequence[TrainJob]) -> list[list[TrainJob]]:
    found: dict[str, list[TrainJob]] = {}
    for job in jobs:
        found.setdefault(job.model_path, []).append(job)
    return list(found.values())


def _size(num_bytes: int) -> str:
    if num_bytes >= _GIB:
        return f"{num_bytes / _GIB:,.1f} GiB"
    return f"{max(0.1, num_bytes / 2**20):,.1f} MiB" if num_bytes else "0 MiB"


def _count(number: int) -> str:
    for unit, name in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return str(number)
