"""The loss of one pass through the model: cross-entropy of the trained tokens, and what holds a finetune near its base.

Not for steps (loop.py) or for the compiled step, which knows cross-entropy alone. The invariant: a step's losses are
means over its trained tokens, so the shares of its passes add up to them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from emray.model.micro_batch import MicroBatch, logits_of


class Pull(NamedTuple):
    """KL(finetuned || base) beside the loss: what it weighs, and the logits of the bare base for a pass, [n, V]."""

    weight: float
    base_logits: Callable[[MicroBatch], torch.Tensor]


class PassLoss(NamedTuple):
    """Of one pass, over a step's trained tokens: cross-entropy, KL towards the base (0 where none is wanted) and what
    is to be lowered, both together."""

    entropy: torch.Tensor
    divergence: torch.Tensor
    total: torch.Tensor


def pass_loss(model: Any, micro: MicroBatch, *, num_targets: int, pull: Pull | None) -> PassLoss:
    """A pass's share of its step's mean loss, with a pass of the bare base before it where something pulls there."""
    base = pull.base_logits(micro) if pull else None
    weight = pull.weight if pull else 0.0
    return loss_of(logits_of(model, micro), micro.targets, num_targets=num_targets, base=base, weight=weight)


def loss_of(
    logits: torch.Tensor, targets: torch.Tensor, *, num_targets: int, base: torch.Tensor | None, weight: float
) -> PassLoss:
    """The same of logits [n, V] and, where they are held near them, those of the base; in float32."""
    entropy = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum") / num_targets
    if base is None or not weight:
        return PassLoss(entropy, entropy.new_zeros(()), entropy)
    divergence = divergence_sum(logits, base) / num_targets
    return PassLoss(entropy, divergence, entropy + weight * divergence)


def divergence_sum(logits: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """KL(finetuned || base) over the whole vocabulary, summed over the tokens that these logits [n, V] predict."""
    own, other = (torch.log_softmax(some.float(), dim=-1) for some in (logits, base))
    return torch.nn.functional.kl_div(other, own, reduction="sum", log_target=True)
