"""What of a file is not used as it stands: collected while reading, told once a kind.

Not for what refuses a file (DataError). The invariant: however many places a remark has, it is one short sentence.
"""

from collections.abc import Iterable

from emray.data.text_files import mended

_SHOWN = 3
_LONGEST = 40  # characters of a key


class Remarks:
    """Remarks about one file, by kind in the order of their first place."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._places: dict[str, list[str]] = {}
        self._unread: dict[str, int] = {}

    def add(self, what: str, *, where: str) -> None:
        self._places.setdefault(what, []).append(where)

    def unread(self, keys: Iterable[str]) -> None:
        """Keys of one entry that nothing here reads."""
        for key in keys:
            name = mended(" ".join(key.split()))[:_LONGEST]
            self._unread[name] = self._unread.get(name, 0) + 1

    def notes(self) -> tuple[str, ...]:
        """One sentence a kind, with the first places and how many more there are."""
        told = [f"{self._file}: {what}: {_listed(places)}" for what, places in self._places.items()]
        if self._unread:
            counted = [f"{key} ({number})" for key, number in sorted(self._unread.items())]
            told.append(f"{self._file}: keys that are not read: {_listed(counted, shown=12)}")
        return tuple(told)


def _listed(places: list[str], *, shown: int = _SHOWN) -> str:
    more = f" and {len(places) - shown} more" if len(places) > shown else ""
    return ", ".join(places[:shown]) + more
