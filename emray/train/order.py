"""Which examples share an optimizer step, and how several workers share a step.

Pure arithmetic on lengths and seeds; not for passes (model/packing.py) or tensors (loop.py). The invariant: a step's
examples depend on the seed alone; budgets and numbers of workers only decide how the same examples are laid out.
"""

import math
from collections.abc import Sequence

import numpy as np

from emray.model.packing import longest_first, packed


def step_batches(num_examples: int, *, batch_size: int, epochs: float, seed: int) -> list[np.ndarray]:
    """Example indices of every optimizer step: each epoch is one permutation, cut into batches of `batch_size`.

    The last batch of an epoch may be shorter; a fractional last epoch stops early. At least one step.
    """
    per_epoch = math.ceil(num_examples / batch_size)
    num_steps = max(1, math.ceil(round(epochs * per_epoch, 9)))
    batches: list[np.ndarray] = []
    for epoch in range(math.ceil(num_steps / per_epoch)):
        order = np.random.default_rng([seed, epoch]).permutation(num_examples)
        batches.extend(order[first : first + batch_size] for first in range(0, num_examples, batch_size))
    return batches[:num_steps]


def shares(lengths: Sequence[int], *, num_workers: int, token_budget: int) -> list[list[list[int]]]:
    """A step over several workers: `[worker][micro-batch]` -> examples, the same number of micro-batches for each.

    ZeRO's collectives need every worker to run the same number of passes, so a worker may get an empty one.
    """
    parts: list[list[int]] = [[] for _ in range(num_workers)]
    load = [0] * num_workers
    for index in longest_first(lengths):  # the longest goes to the least loaded
        worker = load.index(min(load))
        parts[worker].append(index)
        load[worker] += lengths[index]
    cut = [
        [[part[i] for i in bin_] for bin_ in packed([lengths[i] for i in part], token_budget=token_budget)]
        for part in parts
    ]
    most = max(len(micros) for micros in cut)
    return [micros + [[]] * (most - len(micros)) for micros in cut]
