"""Other people's results as a run folder: batch outputs of a judge, or tables with scores.

    columns.py         csv, tsv, jsonl, parquet: rows with their file and line
    scores.py          one cell as a verdict
    origins.py         what a path tells: domain, arm, condition, seed
    score_tables.py    rows as answers
    batch_outputs.py   batch outputs as answers
    answers.py         the nouns, and the account of an import
    answer_tables.py   answers alone, for a judge of ours
    run_folder.py      answers as a run folder

Not for asking a judge: replies are read as they are, by the judge stage's own strict reading. Invariant: nothing that
the files do not say is made up, two things that differ are never merged, and what was not read is told.
"""

from pathlib import Path

from emray.errors import DataError
from emray.reduce.foreign.answer_tables import holds_answers, read_unjudged
from emray.reduce.foreign.answers import Imported, Reading, account
from emray.reduce.foreign.batch_outputs import find_batch_outputs, read_batch_outputs
from emray.reduce.foreign.columns import SUFFIXES, kind_of
from emray.reduce.foreign.run_folder import RunFolder, RunShape, run_folder, write_run_folder
from emray.reduce.foreign.score_tables import read_tables
from emray.store import Store

__all__ = [
    "Reading",
    "RunFolder",
    "RunShape",
    "account",
    "holds_answers",
    "import_results",
    "read_unjudged",
    "run_folder",
]


def import_results(source: Path, store: Store, *, shape: RunShape, reading: Reading | None = None) -> list[str]:
    """Write a run folder from `source`: a table, a folder of tables, or a folder of batch outputs.

    Returns the account of the import as lines: what was read, found, left open and not read. Raises DataError naming
    file and line for what cannot be read; then nothing is written.
    """
    found = _read(source, reading or Reading())
    if not found.answers:
        raise DataError(f"{source} holds no answers")
    notes = write_run_folder(store, found, shape=shape)
    return [*account(found), *(f"note: {note}" for note in notes)]


def _read(source: Path, reading: Reading) -> Imported:
    if not source.is_dir():
        is_batch = source.suffix == ".jsonl" and source.exists() and find_batch_outputs(source.parent)
        if is_batch and source in is_batch:
            return read_batch_outputs([source], root=source.parent, reading=reading)
        return read_tables([source], root=source, reading=reading)
    outputs = find_batch_outputs(source)
    tables = [path for path in sorted(source.rglob("*")) if kind_of(path) in SUFFIXES and path not in set(outputs)]
    if outputs:
        unread = tuple(f"{path.relative_to(source)}: not a batch output, unlike other files here" for path in tables)
        return read_batch_outputs(outputs, root=source, reading=reading)._replace(unread=unread)
    if not tables:
        raise DataError(
            f"{source}: no aligned_results.jsonl, batch_<id>_output.jsonl or table ({', '.join(SUFFIXES)}) in or below"
        )
    return read_tables(tables, root=source, reading=reading)
