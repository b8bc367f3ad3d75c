"""A build of native code that was killed keeps nobody waiting; one that goes on is waited for."""

import os
import subprocess
import sys
import time
from pathlib import Path

from emray.train.builds import build_root, end_abandoned

HELD = "import os, sys, time; os.open(sys.argv[1], os.O_CREAT | os.O_EXCL); print(flush=True); time.sleep(600)"


def marked(root: Path, *, age_s: float) -> Path:
    mark = root / "py311_cpu" / "some_op" / "lock"
    mark.parent.mkdir(parents=True)
    mark.touch()
    os.utime(mark, (time.time() - age_s,) * 2)
    return mark


def test_a_mark_that_nobody_holds_is_removed_once_it_is_old(tmp_path: Path) -> None:
    mark = marked(tmp_path, age_s=301.0)
    assert end_abandoned(tmp_path) == [mark]
    assert not mark.exists()
    young = marked(tmp_path / "young", age_s=0.0)
    started = time.monotonic()
    assert end_abandoned(tmp_path, young_s=1.5) == [young]
    assert time.monotonic() - started > 1.0


def test_the_mark_of_a_build_that_goes_on_stays_until_its_process_is_killed(tmp_path: Path) -> None:
    mark = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HELD, str(mark)], stdout=subprocess.PIPE) as builder:
        assert builder.stdout is not None
        builder.stdout.readline()
        assert end_abandoned(tmp_path, young_s=0.0) == []
        builder.kill()
    assert end_abandoned(tmp_path, young_s=0.0) == [mark]


def test_nothing_is_there_to_be_removed_before_the_first_build(tmp_path: Path) -> None:
    assert end_abandoned(tmp_path / "none") == []


def test_torch_builds_where_its_variable_says(monkeypatch, tmp_path: Path) -> None:
    from torch.utils.cpp_extension import _get_build_directory

    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert build_root() in Path(_get_build_directory("some_op", False)).parents
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    assert build_root() == tmp_path
