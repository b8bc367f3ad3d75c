"""Hosted finetunes: the same cells, other hands. A service trains them by `/v1/files` and `/v1/fine_tuning/jobs`.

    finetuning.py     one run: what is adopted, created, watched and recorded, and when
    job_service.py    the service's files and jobs
    job_notes.py      a job as the run folder knows it while it is under way
    job_ends.py       what became of a job, as a cell's record has it
    bill.py           what jobs will cost
    example_file.py   training rows as the file that is uploaded

Not for answers (generate/ asks the endpoint for the name that a cell's record has). The invariant: one paid job a cell,
whatever dies when: a job carries its cell's key, and is looked for at the service before it is created. Importing this
package imports no openai.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress

from emray.context import Context
from emray.endpoint.access import Access
from emray.errors import EmrayError
from emray.records import Messages, TrainJob
from emray.spec import GenerateEndpoint, HostedSpec

_LAST_S = 6.0  # of a command that was interrupted, for jobs to be cancelled


@contextmanager
def under_way(
    jobs: Sequence[TrainJob],
    *,
    datasets: Mapping[str, Sequence[Messages]],
    spec: HostedSpec,
    endpoint: GenerateEndpoint,
    context: Context,
) -> Iterator[None]:
    """Have every job done beside the block, and wait for them at its end. Needs no Ray.

    `datasets` holds the examples by rows digest. A job that fails, is blocked or may not be made is its cell's failed
    record. Raises UserError without a key, StageError when the service cannot be asked or refuses whatever it is asked;
    what is under way there goes on.
    """
    if not jobs:
        yield
        return
    from emray.hosted.finetuning import Finetuning, Order

    orders = [Order(job, datasets[job.rows_digest]) for job in jobs]
    access = Access.read(endpoint, base_url=endpoint.base_url)
    finetuning = Finetuning(orders, spec=spec, endpoint=endpoint, access=access, context=context)
    ended = _in_a_thread(finetuning.run)  # so that a Ctrl-C is heard whatever it waits for
    try:
        yield
        ended.result()
    except BaseException as error:
        finetuning.stop(interrupted=isinstance(error, KeyboardInterrupt))
        with suppress(TimeoutError, EmrayError):
            ended.result(timeout=_LAST_S)
        raise


def _in_a_thread(work: Callable[[], None]) -> Future[None]:
    ended: Future[None] = Future()

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  raised again where the future's result is asked for
            ended.set_exception(error)
        else:
            ended.set_result(None)

    threading.Thread(target=run, name="hosted", daemon=True).start()
    return ended
