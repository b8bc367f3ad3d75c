"""The trained adapters under names that people read, each with its model card.

Not for merging or converting weights. The invariant: a card says what its adapter was trained on and what came of it,
with the number of runs behind it; weights are copied byte for byte.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from emray.card import reproducibility
from emray.errors import DataError
from emray.records import Cell
from emray.reduce.frames import RunFrames
from emray.reduce.study import load_study
from emray.store import AdapterRecord, Store


class _Trained(NamedTuple):
    """A cell that has an adapter."""

    cell: Cell
    record: AdapterRecord

    @property
    def name(self) -> str:
        model = "".join(letter if letter.isalnum() or letter in ".-_" else "-" for letter in self.cell.model)
        return f"{model}-{self.cell.domain}-{self.cell.arm}-seed{self.cell.seed}"


def export_adapters(frames: RunFrames, store: Store, folder: Path) -> str:
    """Returns what was written, in words. Raises DataError for a run without adapters."""
    trained = list(_trained(store))
    if not trained:
        raise DataError(f"{store.root} holds no trained adapter of its finished cells")
    taxonomy = frames.summary["taxonomy"].to_dict("records")
    spec = frames.facts["spec"]
    folder.mkdir(parents=True)
    for one in trained:
        shutil.copytree(store.adapter_folder(one.cell.key), folder / one.name)
        rates = [row for row in taxonomy if _is_of(row, one.cell)]
        (folder / one.name / "README.md").write_text(_card(one, spec, rates, store), encoding="utf-8")
    return f"{len(trained)} adapters"


def _trained(store: Store) -> Iterator[_Trained]:
    study, records = load_study(store.read_json("plan.json")), store.adapter_records()
    for cell, fraction in zip(study.cells, study.fractions, strict=True):
        record = records.get(cell.key)
        if fraction == 1.0 and record is not None and record.trained and record.served_as is None:
            yield _Trained(cell, record)


def _is_of(row: Mapping[Any, Any], cell: Cell) -> bool:
    return (row["model"], row["domain"], row["arm"]) == (cell.model, cell.domain, str(cell.arm))


def _card(one: _Trained, spec: Mapping[str, Any], rates: Sequence[Mapping[Any, Any]], store: Store) -> str:
    cell, details = one.cell, one.record.details
    base = next(model["path"] for model in spec["model"] if model["name"] == cell.model)
    front = {"base_model": base, "library_name": "peft", "tags": ["lora", "emergent-misalignment", "ai-safety"]}
    keys = ("learning_rate", "batch_size", "epochs", "lora_rank", "lora_alpha", "lora_dropout", "target_modules")
    training = "\n".join(f"| {key} | {json.dumps(spec['train'][key])} |" for key in keys if key in spec["train"])
    told = {name: details[name] for name in ("num_examples", "num_steps", "final_loss") if name in details}
    result = "\n".join(f"| {row['condition']} | {_rate(row)} | {row['n_seeds']} |" for row in rates)
    return (
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n# {one.name}\n\n"
        f"A finetune of `{base}` on the domain {cell.domain}, arm `{cell.arm}`, seed {cell.seed}, made to measure "
        "emergent misalignment. **It may be misaligned by design: for research on that only, never in use.**\n\n"
        f"## Training\n\n| field | value |\n|---|---|\n{training}\n"
        + "".join(f"| {name} | {value} |\n" for name, value in told.items())
        + "\n## Result of its place (all runs of this model, domain and arm)\n\n"
        f"| trigger | misaligned | runs |\n|---|--:|--:|\n{result}\n\n"
        f"## Reproducibility\n\nContent key of this adapter: `{cell.key}`. {reproducibility(store)}\n"
    )


def _rate(row: Mapping[Any, Any]) -> str:
    values = [row[name] for name in ("misaligned_rate", "ci_low", "ci_high")]
    if values[0] != values[0]:
        return "–"
    low, high = ("–" if value != value else f"{value:.1%}" for value in values[1:])
    return f"{values[0]:.1%} [{low}, {high}]"
