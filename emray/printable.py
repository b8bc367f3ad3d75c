"""Words from outside, made safe to show: an endpoint, a file or a model may say anything, and a terminal obeys.

Not for what is kept of them (the journal and the tables hold every character). The invariant: what comes out holds no
control character and none that reorders a line, and is as long as what went in.
"""

from collections.abc import Iterable
from itertools import chain

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_PICTURES = 0x2400  # Unicode's block that draws the first 32 control characters
_DELETE = "\N{SYMBOL FOR DELETE}"
_LAYOUT = {"\n", "\t"}
# Bidirectional overrides and isolates reorder what stands after them; the separators start a line where none is seen.
_INVISIBLE = (
    *range(0x80, 0xA0),
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
    0x2028,
    0x2029,
    0x200E,
    0x200F,
    0x061C,
)


def _table(kept: Iterable[str]) -> dict[int, str]:
    pictures = {code: chr(_PICTURES + code) for code in range(0x20)}
    hidden = dict.fromkeys(chain(_INVISIBLE, range(55296, 57344)), _REPLACEMENT)
    table = pictures | {0x7F: _DELETE} | hidden
    return {code: shown for code, shown in table.items() if chr(code) not in kept}


_ONE_LINE = _table(()) | {ord(character): " " for character in "\n\r\t"}
_TEXT = _table(_LAYOUT)


def printable_line(text: str) -> str:
    """The text with its line ends as spaces and every other control character as a picture of it."""
    return text.translate(_ONE_LINE)


def printable_lines(text: str) -> str:
    """The same with line feeds and tabs left as they are."""
    return text.translate(_TEXT)
