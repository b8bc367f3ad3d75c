"""Every command: `| head` is no error, and its help needs no reader."""

import subprocess
import sys

import pytest

from tests.commands import ROOT, environment

PACKAGE = ROOT / "emray"
COMMANDS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
    for path in [PACKAGE / "sweep.py", *PACKAGE.glob("*/__main__.py")]
)


def ended_early(*arguments: object) -> subprocess.CompletedProcess[str]:
    """A command whose reader has gone before it says anything, as `| head -0` goes."""
    words = [sys.executable, "-m", *map(str, arguments)]
    script = 'sleep 0.1; "$@" | true; exit "${PIPESTATUS[0]}"'
    return subprocess.run(
        ["bash", "-c", script, "bash", *words], capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=120
    )


def test_every_command_ends_by_one_way() -> None:
    for name in COMMANDS:
        folder = ROOT / name.replace(".", "/")
        path = folder / "__main__.py" if folder.is_dir() else folder.with_suffix(".py")
        assert "    finish(main)\n" in path.read_text(), f"{name} ends in another way"


@pytest.mark.parametrize(
    "arguments",
    [("emray.sweep", "--help"), ("emray.runs", "list", "."), ("emray.schema",), ("emray.sweep", "--dry-run")],
    ids=lambda arguments: " ".join(arguments),
)
def test_a_reader_that_has_gone_is_no_error(arguments: tuple[str, ...]) -> None:
    result = ended_early(*arguments)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.soak
@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_may_be_cut_off(name: str) -> None:
    result = ended_early(name, "--help")
    assert (result.returncode, result.stderr) == (0, "")
