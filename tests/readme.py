"""README.md taken apart: its commands, its YAML, its Python, the tree of a run. Not whether any of it is true."""

import re
import textwrap
from collections.abc import Iterator
from typing import NamedTuple

import yaml

from tests.commands import ROOT

PAGE = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAMS = ("python", "make", "pip", "ray", "sbatch", "kubectl", ".venv/bin/python", ".venv/bin/ray", ".", "source")


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def blocks(text: str = PAGE) -> list[str]:
    """Code blocks in order: runs of indented lines, without the indent."""
    runs = re.findall(r"(?:^(?:    .*|(?=\n +))\n)+", text + "\n", re.MULTILINE)
    return [textwrap.dedent(run).strip("\n") for run in runs if run.strip()]


def shell_lines(text: str = PAGE) -> list[str]:
    """Lines of blocks that are typed into a shell, without the remarks beside them."""
    typed = [block for block in blocks(text) if not (is_yaml(block) or is_python(block) or is_tree(block))]
    return [re.sub(r"\s{2,}#.*$", "", line) for block in typed for line in block.splitlines() if line]


def spans(text: str = PAGE) -> list[str]:
    """Inline code, wherever its lines break."""
    prose = re.sub(r"^    .*$", "", text, flags=re.MULTILINE)
    return [" ".join(found.split()).replace("\\|", "|") for found in re.findall(r"`([^`]+)`", prose)]


def commands() -> list[str]:
    """Everything a reader may type, once, in order: shell lines, then what prose adds to them."""
    lines = shell_lines()
    told = [span for span in spans() if span.split()[0] in PROGRAMS and " " in span]
    return list(dict.fromkeys([*lines, *(span for span in told if not any(line.startswith(span) for line in lines))]))


def yaml_blocks() -> list[str]:
    return [block for block in blocks() if is_yaml(block)]


def yaml_spans() -> Iterator[str]:
    """Inline code that is a field of a YAML file and its value."""
    for span in dict.fromkeys(spans()):
        if re.match(r"\w+: ", span) and isinstance(yaml.safe_load(span), dict):
            yield span


def tree() -> dict[str, str]:
    """What a run leaves: a name in its folder, and what README says of it."""
    (block,) = [block for block in blocks() if is_tree(block)]
    lines = re.findall(r"^runs/<name>/(\S+)\s+(.*(?:\n\s+.*)*)", block, re.MULTILINE)
    return {name.split("/")[0]: told for name, told in lines}


class Figures(NamedTuple):
    """A row of the table of what was measured."""

    what: str
    emray: str
    beside: str
    where: str
    command: str
    result: str


def measured() -> list[Figures]:
    rows = re.findall(r"^\| (.*) \|$", section("What was measured"), re.MULTILINE)[2:]
    cells = [[cell.strip() for cell in row.split(" | ")] for row in rows]
    return [Figures(*row[:-1], *spans(row[-1])) for row in cells]


def tables() -> set[str]:
    """Every file that docs/tables.md describes."""
    return set(re.findall(r"^## (\S+)$", (ROOT / "docs" / "tables.md").read_text(encoding="utf-8"), re.MULTILINE))


def is_yaml(block: str) -> bool:
    return re.match(r"\w+:(\s|$)", block) is not None


def is_python(block: str) -> bool:
    return block.startswith("import ")


def is_tree(block: str) -> bool:
    return block.startswith("runs/<name>/")
