"""The pages in docs/: what the code cites is there, and what they link to is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "ARCHITECTURE.md"]
CITATION = re.compile(r"docs/method\.md(?: section)? (\d+(?:\.\d+)?)")


def test_every_section_that_code_cites_is_on_the_method_page() -> None:
    headings = re.findall(r"^#+ (\d+(?:\.\d+)?)\.? ", (ROOT / "docs" / "method.md").read_text(), re.MULTILINE)
    sources = [*(ROOT / "emray").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    cited = {section: path.name for path in sources for section in CITATION.findall(path.read_text())}
    assert cited
    assert {section: where for section, where in cited.items() if section not in headings} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_tree_in_architecture_names_every_part_and_no_other() -> None:
    named = set(re.findall(r"^    emray/(\w+)(?:/|\.py) ", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE))
    there = {
        path.stem for path in (ROOT / "emray").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert named == there - {"__init__"}


def test_files_that_a_module_points_to_are_there() -> None:
    sources = list((ROOT / "emray").rglob("*.py"))
    there = {path.name for path in sources}
    docstrings = {path.name: ast.get_docstring(ast.parse(path.read_text())) or "" for path in sources}
    pointed = {(name, other) for name, text in docstrings.items() for other in re.findall(r"\((\w+\.py)\)", text)}
    assert pointed
    assert {pair for pair in pointed if pair[1] not in there} == set()
