"""Native code that DeepSpeed compiles at its first use: a build that was killed does not keep later ones waiting.

torch marks a build with a file that its builder keeps open, and whoever comes next waits for the end of that file,
without a limit. Not for building. The invariant: a mark that a process of this machine has open, or that is young
(another machine may share the folder), stays.
"""

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

MARK = "lock"
YOUNG_S = 300.0  # a build takes one minute
LOOK_EVERY_S = 1.0

_log = logging.getLogger(__name__)


def build_root() -> Path:
    """Where torch builds extensions, one folder a piece, by its own rule."""
    from torch.utils import cpp_extension

    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root())


def end_abandoned(root: Path, *, young_s: float = YOUNG_S) -> list[Path]:
    """Remove marks under `root` that no process holds, waiting until they are `young_s` old; returns those removed."""
    removed = []
    for mark in sorted(root.glob(f"**/{MARK}")):
        while mark.exists() and not _held(mark):
            if _age_s(mark) >= young_s:
                _log.warning("a build of native code was killed and kept others waiting: %s removed", mark)
                mark.unlink(missing_ok=True)
                removed.append(mark)
                break
            time.sleep(LOOK_EVERY_S)
    return removed


def _age_s(mark: Path) -> float:
    try:
        return time.time() - mark.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _held(mark: Path) -> bool:
    return any(os.path.realpath(mark) == name for name in _open_files())


def _open_files() -> Iterator[str]:
    for process in psutil.process_iter():
        try:
            yield from (file.path for file in process.open_files())
        except psutil.Error:  # it has ended, or is somebody else's
            continue
