"""Other people's results as a run folder: OpenAI batch outputs, or any table with a score column.

Not for judging again: replies are read as they are, by the judge stage's own strict reading. Invariant: nothing that
the files do not say is made up; what could not be told from them is a note in the plan, and so on the page.
"""

from pathlib import Path

from emray.errors import DataError
from emray.reduce.foreign.batch_outputs import read_batches
from emray.reduce.foreign.run_folder import write_run_folder
from emray.reduce.foreign.score_tables import read_table
from emray.store import Store

__all__ = ["import_results", "read_batches", "read_table"]


def import_results(source: Path, store: Store, *, model: str, name: str) -> tuple[str, ...]:
    """Write a run folder from `source`: a folder of batch outputs or a table. Returns the notes.

    Raises DataError naming file and line for what cannot be read.
    """
    found = read_batches(source) if source.is_dir() else read_table(source)
    if not found.answers:
        raise DataError(f"{source} holds no answers")
    write_run_folder(store, found, model=model, name=name)
    return found.notes
