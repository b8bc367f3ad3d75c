"""The house in numbers: short functions, few parameters, no import cycles, one meaning for each name."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "emray"
LONGEST, USUAL = 45, 20  # lines of a function; nine in ten are no longer than USUAL
MOST_PARAMETERS, MANY_PARAMETERS = 5, 6  # so many functions may have more: torch, triton and transformers call them so
Function = ast.FunctionDef | ast.AsyncFunctionDef

# Module names that several packages have, each with the one meaning they share.
SHARED_NAMES = {
    "__init__": "a package's door",
    "__main__": "a package's command",
}


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of emray by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = ast.parse(path.read_text(encoding="utf-8"))
    return found


class Measured(NamedTuple):
    """One function."""

    name: str
    num_lines: int
    num_parameters: int  # without self and cls


def functions() -> list[Measured]:
    return [
        Measured(f"{module}:{node.lineno} {node.name}", node.end_lineno - node.lineno + 1, num_parameters(node))
        for module, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, Function)
    ]


def num_parameters(function: Function) -> int:
    """Named parameters; what `**options` passes on is another's to name."""
    spec = function.args
    names = [argument.arg for argument in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


@cache
def imports(module: str) -> set[str]:
    """Modules of emray that a module imports when it is loaded or when something in it is called."""
    return {
        target
        for node in _running(modules()[module])
        if isinstance(node, ast.Import | ast.ImportFrom)
        for target in _targets(node)
        if target in modules() and target != module
    }


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """Every node but those that only a type checker sees."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _running(child)


def _targets(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """`from package import name` is an import of the module `name` where there is one, else of the package."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif node.module and not node.level:
        for alias in node.names:
            inner = f"{node.module}.{alias.name}"
            yield inner if inner in modules() else node.module


def cycles() -> list[set[str]]:
    """Groups of modules that import each other, directly or around."""
    reach = {module: _reachable(module) for module in modules()}
    groups = {frozenset({other for other in reach[m] if m in reach[other]}) for m in modules() if m in reach[m]}
    return [set(group) for group in groups]


def _reachable(start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        new = imports(waiting.pop()) - seen
        seen |= new
        waiting += new
    return seen


def test_functions_are_short() -> None:
    found = sorted(functions(), key=lambda one: one.num_lines)
    assert [one for one in found if one.num_lines > LONGEST] == []
    assert found[round(0.9 * (len(found) - 1))].num_lines <= USUAL


def test_few_functions_take_more_than_five_parameters() -> None:
    many = [one for one in functions() if one.num_parameters > MOST_PARAMETERS]
    assert len(many) <= MANY_PARAMETERS, "\n".join(f"{one.num_parameters} {one.name}" for one in many)


def test_no_modules_import_each_other_not_even_when_called() -> None:
    assert cycles() == []


def test_a_class_name_means_one_thing() -> None:
    places = defaultdict(list)
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(module)
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_a_module_name_means_one_thing() -> None:
    places = defaultdict(list)
    for path in PACKAGE.rglob("*.py"):
        places[path.stem].append(str(path.relative_to(PACKAGE)))
    shared = {name: where for name, where in places.items() if len(where) > 1 and name not in SHARED_NAMES}
    assert shared == {}


def test_the_measures_see_what_they_measure() -> None:
    tree = ast.parse("class A:\n    async def f(self, a, *, b, **c):\n        pass\n\ndef g(cls_, /, *rest): ...\n")
    found = {node.name: num_parameters(node) for node in ast.walk(tree) if isinstance(node, Function)}
    assert found == {"f": 2, "g": 1}
    lazy = ast.parse("if TYPE_CHECKING:\n    import emray.plan\ndef f():\n    from emray import spec\n")
    assert [t for n in _running(lazy) if isinstance(n, ast.ImportFrom | ast.Import) for t in _targets(n)] == [
        "emray.spec"
    ]
