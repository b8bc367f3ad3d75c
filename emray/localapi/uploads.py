"""Files that an account uploaded for batches and finetunes, or that batches left behind: `/v1/files`.

Not for what stands in them (batch_desk.py, finetuning_desk.py). The invariant: a file never changes, and only the API
key that owns it sees it.
"""

import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from aiohttp import BodyPartReader, web

from emray.localapi.completions import BadRequest

LEAST_PAGE, MOST_PAGE = 1, 10_000
_OTHER_FIELDS = 65_536  # bytes of a form beside its file
PURPOSE = "batch"
FOR_FINETUNES = "fine-tune"


@dataclass(frozen=True)
class StoredFile:
    """One file and whose it is."""

    id: str
    api_key: str
    filename: str
    purpose: str
    content: bytes
    created_at: int  # Unix seconds

    def json(self) -> dict[str, Any]:
        """The `file` object."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.content),
            "created_at": self.created_at,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
        }


class FileShelf:
    """All files of one server, and the handlers that give and take them."""

    def __init__(self, *, max_bytes: int, max_total_bytes: int, purposes: Sequence[str] = (PURPOSE,)) -> None:
        self._purposes = purposes
        self._max_bytes, self._max_total_bytes = max_bytes, max_total_bytes
        self._arriving = 0  # bytes of uploads under way
        self._files: dict[str, StoredFile] = {}

    def add(self, content: bytes, *, api_key: str, filename: str, purpose: str) -> StoredFile:
        file = StoredFile(f"file-{secrets.token_hex(12)}", api_key, filename, purpose, content, int(time.time()))
        self._files[file.id] = file
        return file

    def get(self, file_id: str, *, api_key: str) -> StoredFile:
        """Raises BadRequest for a file that is not there or not theirs."""
        file = self._files.get(file_id)
        if file is None or file.api_key != api_key:
            raise BadRequest(f"No such File object: {file_id}", status=404, param="id")
        return file

    async def upload(self, request: web.Request, api_key: str) -> web.Response:
        with self._room_for(request):
            fields = await _form(request, max_bytes=self._max_bytes)
        purpose, upload = fields.get("purpose"), fields.get("file")
        if upload is None or not upload.content:
            raise BadRequest("a file with something in it is required", param="file")
        named = purpose.content.decode(errors="replace") if purpose else ""
        if named not in self._purposes:
            raise BadRequest(f"purpose must be {' or '.join(map(repr, self._purposes))} here", param="purpose")
        file = self.add(upload.content, api_key=api_key, filename=upload.filename, purpose=named)
        return web.json_response(file.json())

    @contextmanager
    def _room_for(self, request: web.Request) -> Iterator[None]:
        """Raises BadRequest for an upload that, with all others, would not fit."""
        coming = self._max_bytes if request.content_length is None else request.content_length
        there = (
            sum(len(file.content) for file in self._files.values() if file.purpose in self._purposes) + self._arriving
        )
        if there + coming > self._max_total_bytes:
            raise BadRequest(
                f"the files here have {there:,} of {self._max_total_bytes:,} bytes, {coming:,} more do not fit: "
                "delete some",
                status=413,
                param="file",
            )
        self._arriving += coming
        try:
            yield
        finally:
            self._arriving -= coming

    async def listing(self, request: web.Request, api_key: str) -> web.Response:
        purpose = request.query.get("purpose")
        mine = (f for f in self._files.values() if f.api_key == api_key and purpose in (None, f.purpose))
        return web.json_response(page(mine, request.query, usual=MOST_PAGE))

    async def retrieve(self, request: web.Request, api_key: str) -> web.Response:
        return web.json_response(self.get(request.match_info["id"], api_key=api_key).json())

    async def content(self, request: web.Request, api_key: str) -> web.Response:
        file = self.get(request.match_info["id"], api_key=api_key)
        return web.Response(body=file.content, content_type="application/octet-stream")

    async def delete(self, request: web.Request, api_key: str) -> web.Response:
        file = self.get(request.match_info["id"], api_key=api_key)
        del self._files[file.id]
        return web.json_response({"id": file.id, "object": "file", "deleted": True})


class Listed(Protocol):
    """What stands in a list: a file, a batch, a job or an event of one."""

    @property
    def id(self) -> str: ...
    def json(self) -> dict[str, Any]: ...


L = TypeVar("L", bound=Listed)


def page(rows: Iterable[L], query: Mapping[str, str], *, usual: int) -> dict[str, Any]:
    """One page of a list, newest first: `limit` rows from behind `after`. Raises BadRequest."""
    newest: Sequence[L] = list(rows)[::-1]
    limit = _number(query.get("limit", str(usual)))
    after = query.get("after")
    if after:
        places = [place for place, row in enumerate(newest) if row.id == after]
        if not places:
            raise BadRequest(f"No such object: {after}", status=404, param="after")
        newest = newest[places[0] + 1 :]
    data = [row.json() for row in newest[:limit]]
    ids = [row["id"] for row in data] or [None]
    return {
        "object": "list", "data": data, "first_id": ids[0], "last_id": ids[-1], "has_more": len(newest) > limit,
    }  # fmt: skip


def _number(text: str) -> int:
    if not text.isdecimal() or not LEAST_PAGE <= int(text) <= MOST_PAGE:
        raise BadRequest(f"limit must be a number from {LEAST_PAGE} to {MOST_PAGE}", param="limit")
    return int(text)


@dataclass(frozen=True)
class _Part:
    """One field of a form."""

    filename: str
    content: bytes


async def _form(request: web.Request, *, max_bytes: int) -> dict[str, _Part]:
    """The fields of a multipart form. Raises BadRequest, also for a field beyond `max_bytes`."""
    if request.content_type != "multipart/form-data":
        raise BadRequest("send the file as multipart/form-data")
    fields: dict[str, _Part] = {}
    reader, left = await request.multipart(), max_bytes + _OTHER_FIELDS
    async for part in reader:
        if isinstance(part, BodyPartReader) and part.name:
            content = await _read(part, min(max_bytes, left))
            left -= len(content)
            fields[part.name] = _Part(part.filename or part.name, content)
    return fields


async def _read(part: BodyPartReader, max_bytes: int) -> bytes:
    """The whole part; what is too long is read on, so that the client hears why, and up to twice the limit."""
    chunks: list[bytes] = []
    total = 0
    while chunk := await part.read_chunk(2**20):
        total += len(chunk)
        if total > 2 * max_bytes + _OTHER_FIELDS:
            raise BadRequest(f"the file has no end; {max_bytes:,} bytes are allowed", status=413, param="file")
        if total <= max_bytes:
            chunks.append(chunk)
    if total > max_bytes:
        raise BadRequest(f"the file has {total:,} bytes; {max_bytes:,} are allowed", status=413, param="file")
    return b"".join(chunks)
