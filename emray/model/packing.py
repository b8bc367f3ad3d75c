"""Which examples share a pass through a model.

Pure arithmetic on lengths; not for tensors (micro_batch.py) or optimizer steps (train/order.py). The invariant: every
example stands whole in one pass.
"""

from collections.abc import Sequence


def packed(lengths: Sequence[int], *, token_budget: int) -> list[list[int]]:
    """Whole examples into bins of at most `token_budget` tokens (first-fit decreasing); a longer one goes alone."""
    bins: list[list[int]] = []
    room: list[int] = []
    for index in longest_first(lengths):
        fits = next((b for b, left in enumerate(room) if lengths[index] <= left), None)
        if fits is None:
            bins.append([])
            room.append(token_budget)
            fits = len(bins) - 1
        bins[fits].append(index)
        room[fits] -= lengths[index]
    return [sorted(one) for one in bins]


def length_grouped(lengths: Sequence[int], *, token_budget: int) -> list[list[int]]:
    """Neighbours in length share a micro-batch of rows x longest <= `token_budget`; for models that cannot pack.

    Cuts also where padding would exceed 3 % of the group, so that real/padded stays at 0.97 or above.
    """
    groups: list[list[int]] = []
    for index in longest_first(lengths):
        grown = [*groups[-1], index] if groups else [index]
        longest = lengths[grown[0]]
        padded = longest * len(grown)
        if groups and padded <= token_budget and sum(lengths[i] for i in grown) >= 0.97 * padded:
            groups[-1] = grown
        else:
            groups.append([index])
    return groups


def longest_first(lengths: Sequence[int]) -> list[int]:
    """Indices by falling length; equal ones in their order."""
    return sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
