"""How much of what an endpoint sends is read, packed or not.

Not for what a body holds (completion.py). The invariant: no more than the limit of a body is ever in memory, however it
is compressed and whether or not it ends; one that is longer raises TooLong.
"""

import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import httpx2

MOST_REPLY_BYTES = 4 * 2**20  # of one reply: 32,000 tokens of any script, escaped, and their alternatives
MOST_OUTPUT_BYTES = 2**30  # of a batch's output file: 50,000 replies of 20 kB
PLAIN = {"accept-encoding": "identity"}  # replies are short; a bomb is not
_PACKED = ("gzip", "x-gzip")  # read though it was not asked for
_MIB = 2**20


class TooLong(httpx2.HTTPError):
    """A body that goes on beyond its limit, or is packed in a way that nobody asked for."""


class _Limit:
    """What of one body may come still."""

    def __init__(self, response: httpx2.Response, *, most: int) -> None:
        self._most = self._left = most
        packing = response.headers.get("content-encoding", "identity").lower()
        if packing not in ("identity", "", *_PACKED):
            raise TooLong(f"the reply is packed as {packing[:40]!r}, which was not asked for")
        self._unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS) if packing in _PACKED else None
        if self._unpacker:
            del response.headers["content-encoding"]  # unpacked here, since a decoder knows no limit

    def take(self, chunk: bytes) -> bytes:
        """The chunk, unpacked. Raises TooLong."""
        if self._unpacker:
            try:
                chunk = self._unpacker.decompress(chunk, self._left + 1)
            except zlib.error as error:
                raise TooLong(f"the reply cannot be unpacked: {error}") from None
        self._left -= len(chunk)
        if self._left < 0:
            raise TooLong(f"the reply is longer than {self._most // _MIB} MiB, and no more of it was read")
        return chunk


class _Limited(httpx2.SyncByteStream):
    """A body whose reading stops at its limit."""

    def __init__(self, stream: httpx2.SyncByteStream, limit: _Limit) -> None:
        self._stream, self._limit = stream, limit

    def __iter__(self) -> Iterator[bytes]:
        return map(self._limit.take, self._stream)

    def close(self) -> None:
        self._stream.close()


class _LimitedAsync(httpx2.AsyncByteStream):
    """The same, awaited."""

    def __init__(self, stream: httpx2.AsyncByteStream, limit: _Limit) -> None:
        self._stream, self._limit = stream, limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            yield self._limit.take(chunk)

    async def aclose(self) -> None:
        await self._stream.aclose()


def limiting(most: int) -> dict[str, list[Callable[[httpx2.Response], None]]]:
    """Event hooks of a client, whose bodies end at `most` bytes."""

    def limit(response: httpx2.Response) -> None:
        assert isinstance(response.stream, httpx2.SyncByteStream)
        response.stream = _Limited(response.stream, _Limit(response, most=most))

    return {"response": [limit]}


def limiting_async(most: int) -> dict[str, list[Callable[[httpx2.Response], Awaitable[None]]]]:
    """The same for an asynchronous client."""

    async def limit(response: httpx2.Response) -> None:
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _LimitedAsync(response.stream, _Limit(response, most=most))

    return {"response": [limit]}
