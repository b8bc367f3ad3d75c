"""The datasheets of a plan's files: printed by a dry run, kept in the run folder as datasets.json.

Not for what a sheet says (data/datasheet.py). The invariant: they are made once for the same files, questions and
model, and hold no text of any row.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from emray.data import DataFile, Lengths, Setting, datasheets, rows_digest
from emray.errors import DataError, StoreError
from emray.model.chat import Chat
from emray.model.weights import hosted_name, tokenizer_folder
from emray.narrow import print_table
from emray.plan import Plan
from emray.records import TrainJob, key_of
from emray.store import Store

FILE = "datasets.json"


def keep(plan: Plan, store: Store) -> None:
    """Write the plan's datasheets, unless they are there."""
    document = document_of(plan, store)
    if document != _stored(store):
        store.write_json(FILE, document)


def document_of(plan: Plan, store: Store) -> Mapping[str, Any]:
    """What datasets.json holds of a plan, as it stands in the store where it does."""
    job, setting = next(iter(plan.jobs.values()), None), _setting(plan)
    key = key_of(
        "datasheets",
        {
            "files": [[file.domain, file.holds, str(file.source), rows_digest(file.rows)] for file in plan.files],
            "asked": [prompt.key for prompt in plan.prompts],
            "trigger": setting.trigger.model_dump(mode="json"),
            "max_length": setting.max_length,
            "tokenizer": plan.document["models"][job.cell.model] if job else None,
        },
    )
    stored = _stored(store)
    if stored.get("key") == key:
        return stored
    sheets = datasheets(plan.files, _lengths(plan.files, job), setting=setting)
    return {"key": key, "files": [sheet.document for sheet in sheets]}


def print_datasheets(document: Mapping[str, Any], console: Console) -> None:
    """One line a file, at most 80 columns wide."""
    if not document["files"]:
        return
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    table.add_column("examples", max_width=31)
    for name in ("rows", "tokens", "most", "cut", "twice", "trigger", "shared", "asked"):
        table.add_column(name, justify="right")
    for sheet in document["files"]:
        table.add_row(*_cells(sheet))
    print_table(table, console)


def _cells(sheet: Mapping[str, Any]) -> Sequence[str]:
    tokens = sheet["tokens"] or {"median": "-", "most": "-"}
    return (
        f"{sheet['domain']} {sheet['holds']}",
        f"{sheet['rows']:,}",
        str(tokens["median"]),
        str(tokens["most"]),
        "-" if sheet["over_long"] is None else str(sheet["over_long"]),
        str(sheet["duplicates"]),
        f"{sheet['triggered'] / sheet['rows']:.0%}",
        str(sum(sheet["shared"].values())),
        str(len(sheet["asked"])),
    )


def _stored(store: Store) -> Mapping[str, Any]:
    try:
        document = store.read_json(FILE)
    except (FileNotFoundError, StoreError):  # a damaged one is none: it is made again of the same files
        return {}
    return document if isinstance(document, Mapping) else {}


def _setting(plan: Plan) -> Setting:
    return Setting(plan.sweep.trigger, plan.prompts, plan.sweep.train.max_length)


def _lengths(files: Sequence[DataFile], job: TrainJob | None) -> Iterator[Lengths | None]:
    """In the first model's tokens, as they are trained on."""
    chat = _chat(job) if job and files else None
    for file in files:
        try:
            marked = chat.mark(file.rows) if chat else []
        except DataError:  # training says of which row
            marked = []
        lengths = Lengths([len(row.ids) for row in marked], [len(row.ids) - row.start for row in marked])
        yield lengths if marked else None


def _chat(job: TrainJob) -> Chat | None:
    if hosted_name(job.model_path):
        return None
    try:
        return Chat(tokenizer_folder(job.model_path, online=False), rendering=job.rendering)
    except DataError:  # not here yet
        return None
