"""What one command wants of a judge, with or without a sweep around it: which endpoint, from how many processes.

Not for what is asked. The invariant: Ray starts only where more than this process is to ask.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from datetime import date
from typing import NamedTuple

from rich.console import Console

from emray import judge
from emray.cluster import connected
from emray.context import Context
from emray.endpoint.listing import ending_note
from emray.judge.tasks import JudgeTask, judges
from emray.judge.unjudged import Unjudged
from emray.progress import progress_line
from emray.spec import JudgeSpec, ResourcesSpec
from emray.store import Store


class Errand(NamedTuple):
    """Who is asked and how; `console` is where progress and notes go."""

    spec: JudgeSpec
    resources: ResourcesSpec
    address: str | None  # of a Ray cluster whose other drivers share the limits
    console: Console

    def tell_endings(self) -> None:
        """Say which of the models has ended or is about to."""
        for spec in judges(self.spec):
            url = spec.base_url or self.spec.base_url
            note = ending_note(spec, model=spec.model, base_url=url, today=date.today())
            if note is not None:
                self.console.print(f"note: {note}", markup=False, soft_wrap=True)

    def carry_out(self, tasks: Sequence[JudgeTask] | Unjudged, store: Store) -> None:
        """Write a verdict for every task. Raises what `judge.run` raises."""
        alone = self.resources.judge_workers == 1 and self.address is None
        with (
            nullcontext() if alone else connected(self.address),
            progress_line("judge", total=len(tasks), console=self.console) as advance,
        ):
            ask = judge.run_here if alone else judge.run
            context = Context(store=store, resources=self.resources, advance=advance)
            ask(tasks, spec=self.spec, base_url=self.spec.base_url, context=context)
