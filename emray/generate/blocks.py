"""Tasks packed into adapter-contiguous blocks, the unit of work of one engine call.

Not for execution. The invariant: every task is in exactly one block, and an adapter is split over several blocks only
when it alone is larger than two, so that no two engines read the same adapter without need.
"""

from collections.abc import Sequence

from emray.records import GenerationTask

Block = tuple[GenerationTask, ...]


def pack(tasks: Sequence[GenerationTask], *, samples_per_block: int) -> list[Block]:
    """Blocks of about `samples_per_block` samples, in the order of each adapter's first task."""
    blocks: list[Block] = []
    current: list[GenerationTask] = []
    size = 0
    for piece in _pieces(tasks, samples_per_block):
        piece_size = num_samples(piece)
        if current and size + piece_size > samples_per_block:
            blocks.append(tuple(current))
            current, size = [], 0
        current.extend(piece)
        size += piece_size
    return [*blocks, tuple(current)] if current else blocks


def num_samples(tasks: Sequence[GenerationTask]) -> int:
    return sum(task.num_samples for task in tasks)


def num_adapters(tasks: Sequence[GenerationTask]) -> int:
    """Distinct cells among the tasks; a base cell counts as one."""
    return len({task.cell.key for task in tasks})


def by_adapter(tasks: Sequence[GenerationTask]) -> dict[str, list[GenerationTask]]:
    """Tasks of each cell key, in the order of its first task."""
    groups: dict[str, list[GenerationTask]] = {}
    for task in tasks:
        groups.setdefault(task.cell.key, []).append(task)
    return groups


def _pieces(tasks: Sequence[GenerationTask], samples_per_block: int) -> list[list[GenerationTask]]:
    """Whole adapters, and the slices of those that are larger than two blocks."""
    pieces: list[list[GenerationTask]] = []
    for group in by_adapter(tasks).values():
        limit = samples_per_block if num_samples(group) > 2 * samples_per_block else num_samples(group)
        piece: list[GenerationTask] = []
        for task in group:
            if piece and num_samples(piece) + task.num_samples > limit:
                pieces.append(piece)
                piece = []
            piece.append(task)
        pieces.append(piece)
    return pieces
