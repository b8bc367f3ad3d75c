"""Results as a data set folder of the Hugging Face hub: Parquet files and a card that names them.

Not for training rows, which are never in it. The invariant: `datasets.load_dataset(DIR, NAME)` reads every part by the
names of the card, without a network.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from emray.card import methods, reproducibility
from emray.reduce.frames import RunFrames
from emray.store import Store

if TYPE_CHECKING:
    import pandas as pd

_SPLIT = "train"  # what the hub calls the only one


def export_dataset(frames: RunFrames, store: Store, folder: Path) -> str:
    """Returns what was written, in words. Raises StoreError for a run without a summary."""
    whole = RunFrames(store, everything=True)
    rows = {"answers": whole.generations, "verdicts": whole.verdicts, "marks": whole.marks}
    parts = {**rows, "cells": frames.cells, **frames.summary}
    parts = {name: part for name, part in parts.items() if len(part)}
    folder.mkdir(parents=True)
    for name, part in parts.items():
        (folder / name).mkdir()
        part.to_parquet(folder / name / f"{_SPLIT}.parquet", index=False)
    (folder / "README.md").write_text(_card(frames, store, parts), encoding="utf-8")
    return f"{len(parts)} parts"


def _card(frames: RunFrames, store: Store, parts: "dict[str, pd.DataFrame]") -> str:
    name = frames.facts["name"]
    front = {
        "pretty_name": f"emray: {name}",
        "tags": ["emergent-misalignment", "ai-safety", "emray"],
        "configs": [
            {"config_name": part, "data_files": [{"split": _SPLIT, "path": f"{part}/{_SPLIT}.parquet"}]}
            for part in parts
        ],
    }
    rows = "\n".join(f"| `{part}` | {len(frame):,} | {len(frame.columns)} |" for part, frame in parts.items())
    return (
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n# {name}\n\n"
        "Answers of finetuned models, what judges said of them, and the tables made of both. Some answers are "
        "misaligned on purpose of the study; they are no advice.\n\n"
        f"| part | rows | columns |\n|---|--:|--:|\n{rows}\n\n"
        f"## Methods\n\n{methods(store)}\n\n## Reproducibility\n\n{reproducibility(store)}\n"
    )
