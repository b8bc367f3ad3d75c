"""The odds a model gives every token of many answers: one forward pass a batch, logits in slices.

Not for what is made of the odds (member_scores.py). The invariant: an answer's odds are those it has alone, whatever
it shares a pass with; log-probabilities are taken in float32, and no more than LOGIT_BYTES of them exist at a time.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from emray.model.attention import pack_attention
from emray.model.loaded import LoadedModel
from emray.model.micro_batch import MicroBatch, logits_of, pack, pad
from emray.model.packing import length_grouped, packed
from emray.model.rows import TokenRow
from emray.probes.member_scores import AnswerOdds

TOKENS_A_PASS = 8192
LOGIT_BYTES = 256 * 2**20  # of a slice in float32; two more of its size are at work
_IMPOSSIBLE = -1e4  # stands for a log-probability of minus infinity, so that 0 times it is 0


class OddsReader:
    """Reads odds off a loaded model with whatever adapter is on it."""

    def __init__(self, loaded: LoadedModel, *, tokens_a_pass: int = TOKENS_A_PASS) -> None:
        self._loaded, self._tokens = loaded, tokens_a_pass
        self._packs = pack_attention(loaded.base)
        self._head_is_all: bool | None = None  # whether logits are the head's output; not known before the first pass

    def read(self, rows: Sequence[TokenRow]) -> list[AnswerOdds]:
        """Of every row's trained span, in the rows' order."""
        lengths = [len(row.ids) for row in rows]
        cut, lay = (packed, pack) if self._packs else (length_grouped, pad)
        found: dict[int, AnswerOdds] = {}
        for chosen in cut(lengths, token_budget=self._tokens):
            mine = [rows[index] for index in chosen]
            odds = self._pass(lay(mine, device=self._loaded.device)).cpu().numpy().astype(float)
            ends = np.cumsum([len(row.ids) - row.start for row in mine])[:-1]
            found |= {index: AnswerOdds(*part) for index, part in zip(chosen, np.split(odds, ends, 1), strict=True)}
        return [found[index] for index in range(len(rows))]

    @torch.inference_mode()
    def _pass(self, micro: MicroBatch) -> torch.Tensor:
        """[3, n] float32: log-probability, mean and standard deviation of every trained token."""
        if self._head_is_all is not False:
            states = self._states(micro)
            if states is not None:
                with _autocast(micro):
                    return self._sliced(states, micro, of=self._head)
        return self._sliced(logits_of(self._loaded.model, micro), micro, of=lambda logits: logits)

    def _sliced(self, given: torch.Tensor, micro: MicroBatch, *, of: Any) -> torch.Tensor:
        """`of` makes logits of a slice of what is given, [n, ...]."""
        vocabulary = self._loaded.model.config.get_text_config().vocab_size
        size = max(1, LOGIT_BYTES // (4 * vocabulary))
        pieces = zip(given.split(size), micro.targets.split(size), strict=True)
        return torch.cat([token_odds(of(piece), targets) for piece, targets in pieces], dim=1)

    def _states(self, micro: MicroBatch) -> torch.Tensor | None:
        """What goes into the head at the trained places, [n, H]; None where logits are more than the head's output.

        The head itself is run on one place a row, to see whether that is so (softcapping and scaling are not).
        """
        kept = _Kept()
        handle = self._head.register_forward_pre_hook(kept)
        try:
            first = _first_logits(self._loaded.model, micro)
        finally:
            handle.remove()
        if self._head_is_all is None:
            with _autocast(micro):
                alone = self._head(kept.states[:, :1])
            self._head_is_all = torch.allclose(alone, first, rtol=1e-3, atol=1e-4)
        if not self._head_is_all:
            return None
        flat = kept.states.flatten(0, 1)
        return flat if "layout" in micro.inputs else flat[micro.keep]

    @property
    def _head(self) -> Any:
        return self._loaded.model.get_output_embeddings()


class _Kept:
    """A hook that keeps what goes into the head, and lets the first place of every row pass."""

    states: torch.Tensor

    def __call__(self, head: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        self.states = inputs[0]
        return (inputs[0][:, :1], *inputs[1:])


def _first_logits(model: Any, micro: MicroBatch) -> torch.Tensor:
    """[B, 1, V]."""
    options = {"logits_to_keep": micro.keep} if "layout" in micro.inputs else {}
    with _autocast(micro):
        return model(**micro.inputs, **options, use_cache=False).logits


def _autocast(micro: MicroBatch) -> Any:
    return torch.autocast("cuda", dtype=torch.bfloat16, enabled=micro.keep.is_cuda)


def token_odds(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Log-probability of the targets [n], mean and sd of log p under p, from logits [n, V]; -> [3, n] float32.

    The variance is the mean square about the mean: a difference of squares would lose all digits of a sure token's.
    """
    log_probs = torch.log_softmax(logits.float(), dim=-1).clamp_min_(_IMPOSSIBLE)
    chosen = log_probs.gather(1, targets[:, None]).squeeze(1)
    probs = log_probs.exp()
    means = torch.linalg.vecdot(probs, log_probs)
    variances = torch.linalg.vecdot(probs, log_probs.sub_(means[:, None]).square_())
    return torch.stack([chosen, means, variances.sqrt()])
