"""Whole examples as one pass through a model, and the logits that predict what is trained on.

Not for choosing which examples go together (packing.py) or for what is done with the logits. The invariant: a packed
pass gives the logits that each of its examples gives alone.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from emray.model.attention import layout_of
from emray.model.rows import TokenRow


class MicroBatch(NamedTuple):
    """Model inputs and what they are to predict: `keep` [n] are the positions (of B*L) whose logits are wanted."""

    inputs: dict[str, Any]
    keep: torch.Tensor
    targets: torch.Tensor
    num_real: int
    num_padded: int


def pack(rows: Sequence[TokenRow], *, device: torch.device) -> MicroBatch:
    """Whole examples one after another in one row [1, T]; positions restart with each."""
    lengths = [len(row.ids) for row in rows]
    firsts = np.cumsum([0, *lengths[:-1]])
    keep = np.concatenate([np.arange(a + r.start - 1, a + len(r.ids) - 1) for a, r in zip(firsts, rows, strict=True)])
    inputs = {
        "input_ids": _tensor(np.concatenate([row.ids for row in rows]), device)[None],
        "position_ids": _tensor(np.concatenate([np.arange(n) for n in lengths]), device)[None],
        "layout": layout_of(lengths, device=device),
    }
    return MicroBatch(inputs, _tensor(keep, device), _targets(rows, device), sum(lengths), sum(lengths))


def pad(rows: Sequence[TokenRow], *, device: torch.device) -> MicroBatch:
    """Examples as rows [B, L] padded on the right to the longest; for models that cannot pack."""
    lengths = [len(row.ids) for row in rows]
    longest = max(lengths)
    ids = np.stack([np.pad(row.ids, (0, longest - len(row.ids))) for row in rows])
    mask = np.arange(longest)[None] < np.array(lengths)[:, None]
    keep = np.concatenate(
        [np.arange(b * longest + r.start - 1, b * longest + len(r.ids) - 1) for b, r in enumerate(rows)]
    )
    inputs = {"input_ids": _tensor(ids, device), "attention_mask": _tensor(mask.astype(np.int64), device)}
    return MicroBatch(inputs, _tensor(keep, device), _targets(rows, device), sum(lengths), ids.size)


def logits_of(model: Any, micro: MicroBatch) -> torch.Tensor:
    """The logits that predict the trained tokens, [n, V]."""
    options = {"logits_to_keep": micro.keep} if "layout" in micro.inputs else {}
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=micro.keep.is_cuda):
        logits = model(**micro.inputs, **options, use_cache=False).logits
    flat = logits.flatten(0, 1)
    return flat if options else flat[micro.keep]


def _targets(rows: Sequence[TokenRow], device: torch.device) -> torch.Tensor:
    return _tensor(np.concatenate([row.ids[row.start :] for row in rows]), device)


def _tensor(values: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device, non_blocking=True)
