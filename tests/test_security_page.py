"""SECURITY.md names code and tests that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`(tests/[\w*]+\.py)`", PAGE)
    assert len(named) > 8
    assert [pattern for pattern in named if not list(ROOT.glob(pattern))] == []


def test_every_file_that_is_named_exists() -> None:
    named = re.findall(r"`((?:\w+/)*\w+\.py|\w+/)`", PAGE)
    missing = [name for name in named if not (ROOT / name).exists() and not (ROOT / "emray" / name).exists()]
    assert len(named) > 8
    assert missing == []
