"""The house: imports point down, siblings do not meet, light things stay light, nobody's machine is named."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "emray"

# From the top down; names in one row are siblings.
LAYERS = [
    {"sweep"},
    {"judging", "export", "runs", "recipe", "pilot"},
    {"estimate", "doctor", "datasheets", "card", "schema"},
    {"stages"},
    {"report"},
    {"reduce"},
    {"train", "generate", "judge", "marks", "probes", "hosted"},
    {"plan"},
    {"model"},
    {"stats", "data", "toy", "localapi", "endpoint"},
    {"scorers"},
    {"context"},
    {"progress", "cluster", "narrow"},
    {"ending"},
    {"store"},
    {"spec"},
    {"records"},
    {"errors"},
    {"printable", "plain_files", "software"},
]
LEVEL = {name: level for level, row in enumerate(LAYERS) for name in row}
COMMAND = "__main__.py"  # what `python -m` runs: nothing imports it, so it stands above all that it joins
HEAVY = ("torch", "ray", "vllm", "transformers", "deepspeed", "peft", "openai", "matplotlib", "statsmodels")


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_parts(path: Path) -> set[str]:
    """Top-level parts of emray that a module imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[1] for alias in node.names if alias.name.startswith("emray."))
        elif isinstance(node, ast.ImportFrom) and node.module == "emray":
            found.update(alias.name for alias in node.names if alias.name in LEVEL)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("emray."):
            found.add(node.module.split(".")[1])
    return found


def imported_names(path: Path) -> set[str]:
    """Every word of every import statement."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    named = [alias.name for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names]
    named += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {word for name in named for word in name.split(".")}


def test_every_part_has_a_place_in_the_layers() -> None:
    assert {part(path) for path in modules()} - {"__init__"} <= set(LEVEL)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    own = part(path)
    if own == "__init__" or path.name == COMMAND:
        return
    wrong = {other for other in imported_parts(path) if other != own and LEVEL[other] <= LEVEL[own]}
    assert not wrong, f"{own} may not import {wrong}"


def test_nothing_imports_a_command() -> None:
    assert [path for path in modules() if "__main__" in imported_names(path)] == []


@pytest.mark.parametrize(
    "imports",
    [
        "emray",
        "emray.spec, emray.plan, emray.store, emray.records",
        "emray.reduce",
        "emray.report",
        "emray.sweep",
        "emray.train, emray.generate, emray.judge, emray.marks, emray.probes, emray.endpoint",
    ],
)
def test_importing_a_light_part_loads_nothing_heavy(imports: str) -> None:
    code = f"import sys, {imports}; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"


def test_no_tracked_text_names_a_machine_path_or_is_too_big() -> None:
    names = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    paths = [ROOT / name for name in names if (ROOT / name).is_file()]
    assert paths
    assert [p.name for p in paths if p.stat().st_size > 5_000_000] == []
    homes = [f"/{word}/" for word in ("work", "root")]
    texts = [p for p in paths if p.suffix in {".py", ".md", ".yaml", ".toml", ".json", ".jinja", ".lock", ""}]
    assert [p.name for p in texts if any(home in p.read_text(errors="ignore") for home in homes)] == []
