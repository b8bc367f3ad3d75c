"""YAML of which everyone reads the same: the common part of versions 1.1 and 1.2, and none of what surprises.

`1e-4` is a number; `010` (eight or ten?), `1:30` (ninety?), `0b11` and `2024-07-26` are texts as they are written;
`yes`, `no`, `on` and `off` are booleans. Repeated keys, keys that are no plain value, tags, aliases that would unfold
into more than a file holds, and numbers of more digits than anything has are refused.

Not for what a value means. The invariant: a text is read within a time and a memory that its own length bounds, or
refused in one line.
"""

import re
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from emray.errors import SpecError

_PREFIX = "tag:yaml.org,2002:"
_MERGE = f"{_PREFIX}merge"
_TAGS = (None, "!", f"{_PREFIX}str", f"{_PREFIX}seq", f"{_PREFIX}map")  # which say no more than the text does
_MOST_NODES = 1_000_000  # once aliases are unfolded; reading so many takes minutes
_MOST_DIGITS = 40
_WHOLE = r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*|0x[0-9a-fA-F]+)"
_POINT = r"[-+]?([0-9]+(_[0-9]+)*\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
_NO_NUMBER = r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"


class Written(float):
    """A number whose text is the one that stands in its file: as a name, `1.50` is not `1.5`."""

    written: str

    def __str__(self) -> str:
        return self.written

    __repr__ = __str__


def parse_yaml(text: str, *, source: str, as_written: bool = False) -> Any:
    """The one document of a text, its numbers `Written` if so asked. Raises SpecError with source and line."""
    try:
        return yaml.load(text, Loader=_AsWritten if as_written else _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark else source
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        raise SpecError(f"{where}: not valid YAML: {reason}") from None
    except RecursionError:
        raise SpecError(f"{source}: not valid YAML: nested too deeply") from None


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses while it composes, before anything is made of the text."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._sizes: dict[int, int] = {}  # nodes below a finished node, by its identity
        self._finished: list[Node] = []  # keeps identities from being used again

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event = self.peek_event()
        tag = getattr(event, "tag", None)
        if tag not in _TAGS:
            raise _refusal(f"the tag {tag.replace(_PREFIX, '!!')} is not read; write the plain value", event)
        node = super().compose_node(parent, index)
        if node is None:
            return None
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._sizes:
                raise _refusal(f"alias *{event.anchor} stands within its own anchor", event)
            return node
        if isinstance(node, MappingNode):
            self._refuse_keys(node)
        self._sizes[id(node)] = 1 + sum(self._sizes[id(inner)] for inner in _below(node))
        self._finished.append(node)
        if self._sizes[id(node)] > _MOST_NODES:
            raise _refusal(f"aliases unfold into more than {_MOST_NODES:,} values", event)
        return node

    def _refuse_keys(self, node: MappingNode) -> None:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, ScalarNode):
                raise _refusal("a key is a text or a number, not a list or fields", key_node)
            key = "<<" if key_node.tag == _MERGE else self.construct_object(key_node)
            if key in seen:
                raise _refusal(f"key {key!r} stands twice", key_node)
            seen.add(key)

    def construct_yaml_int(self, node: ScalarNode) -> int:
        if len(node.value) > _MOST_DIGITS:
            raise _refusal(f"a number of {len(node.value)} digits", node)
        return int(node.value.replace("_", ""), 16 if "x" in node.value else 10)


class _AsWritten(_Loader):
    """The same, of numbers that may be names."""

    def construct_yaml_int(self, node: ScalarNode) -> float:  # type: ignore[override]
        return _written(super().construct_yaml_int(node), node)

    def construct_yaml_float(self, node: ScalarNode) -> float:
        return _written(super().construct_yaml_float(node), node)


def _written(number: float, node: ScalarNode) -> Written:
    made = Written(number)
    made.written = node.value
    return made


def _below(node: Node) -> list[Node]:
    if isinstance(node, SequenceNode):
        return list(node.value)
    return [inner for pair in node.value for inner in pair] if isinstance(node, MappingNode) else []


def _refusal(reason: str, at: Any) -> ConstructorError:
    return ConstructorError(None, None, reason, at.start_mark)


def _resolve_plainly() -> None:
    """What a text without quotes is: as in 1.1 but for numbers, dates and `=`."""
    ours = {f"{_PREFIX}{name}" for name in ("int", "float", "timestamp", "value")}
    _Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in ours]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    starts = list("-+0123456789.")
    _Loader.add_implicit_resolver(f"{_PREFIX}int", re.compile(rf"^({_WHOLE})$"), starts)
    _Loader.add_implicit_resolver(f"{_PREFIX}float", re.compile(rf"^({_POINT}|{_NO_NUMBER})$"), starts)
    _Loader.add_constructor(f"{_PREFIX}int", _Loader.construct_yaml_int)
    _AsWritten.add_constructor(f"{_PREFIX}int", _AsWritten.construct_yaml_int)
    _AsWritten.add_constructor(f"{_PREFIX}float", _AsWritten.construct_yaml_float)


_resolve_plainly()
