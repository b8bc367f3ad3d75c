"""emray: large, honest sweeps over emergent misalignment. `python -m emray.sweep` is the command."""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from emray.reduce.frames import RunFrames


def load_run(path: str, *, everything: bool = False) -> "RunFrames":
    """A run folder as pandas frames: `.cells`, `.generations`, `.verdicts`, `.marks`, `.summary["taxonomy"]`,
    `.facts`.

    Answers and verdicts are those of the current plan and its judge; `everything` adds the others (column `current`).
    """
    from emray.reduce import frames  # imported when asked for: `import emray` stays light

    return frames.load_run(path, everything=everything)
