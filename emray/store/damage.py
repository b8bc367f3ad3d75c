"""Files that cannot be read any more: how each is told, and how Parquet is written so that damage shows.

Not for mending them (doctor/). The invariant: a flipped bit in a page of a Parquet file is an error, never another
value, and whoever meets it is told the file and what to do.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from emray.errors import StoreError

LONGEST_REASON = 100  # characters of what a library says


def damaged(root: str, name: str, why: object) -> StoreError:
    """One line for a file that cannot be read."""
    return StoreError(
        f"{root}/{name} is damaged ({short(why)}); python -m emray.doctor {root} --repair moves it aside, "
        "then run the same command again"
    )


def short(why: object) -> str:
    """One line of what a library says of a file."""
    text = " ".join(str(why).split()) or type(why).__name__
    return text if len(text) <= LONGEST_REASON else text[:LONGEST_REASON] + "..."


@contextmanager
def damage_told(root: str, name: str) -> Iterator[None]:
    """What pyarrow says of a damaged file is a StoreError; FileNotFoundError and what a disk says pass."""
    try:
        yield
    except OSError as error:  # of pyarrow's decoders, which have no number
        if error.errno is not None or isinstance(error, FileNotFoundError):
            raise
        raise damaged(root, name, error) from None
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise damaged(root, name, error) from None


def parquet_file(file: pa.NativeFile) -> pq.ParquetFile:
    """For reading, its checksums looked at."""
    return pq.ParquetFile(file, pre_buffer=True, page_checksum_verification=True)


def parquet_bytes(table: pa.Table, *, row_group_size: int | None = None) -> bytes:
    """A file of a table, with a checksum a page."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True, row_group_size=row_group_size)
    return bytes(sink.getvalue().to_pybytes())


def parquet_fault(file: pa.NativeFile, columns: Sequence[str]) -> str | None:
    """What is wrong with a file, every page of it read."""
    try:
        opened = parquet_file(file)
        for group in range(opened.num_row_groups):
            opened.read_row_group(group, use_threads=False)
    except OSError as error:
        if error.errno is not None:
            raise
        return short(error)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        return short(error)
    lacking = [column for column in columns if column not in opened.schema_arrow.names]
    return f"it has no column {lacking[0]!r}" if lacking else None
