"""What results are written as. JSON Lines are joined from bytes; for the others :mod:`result_batches` makes columns.

A format serves one landing: it is shown all joints first (:meth:`Format.survey`), so that all parts get the same
columns, then writes part by part. Whatever it writes is the same, byte for byte, however often a job is landed.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, cast

import jsonlines
import orjson

from airflow_openai_batch.engine.behind import PIECE, written_behind
from airflow_openai_batch.engine.models import RESULT_FORMATS
from airflow_openai_batch.engine.result_batches import Flat, Loosened, Typed
from airflow_openai_batch.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

Write = Callable[[bytes, dict[str, Any], int], None]

_CHUNK_ROWS = 2_048
_CHUNK_BYTES = 2 << 20
"""Results kept as Python objects; past either they become columns."""

_GROUP_ROWS = 32_768
_GROUP_BYTES = 16 << 20
"""Most that is gathered for a row group of Parquet. Readers take a group at a time, so did we."""

_GZIP_LEVEL = 6


class Format(Protocol):
    """One way to write results.

    :param name: as users and the manifest spell it.
    :param suffix: of the files.
    """

    name: str
    suffix: str

    def survey(self, joints: Callable[[], Iterator[bytes]]) -> None:
        """Look at the rows of all parts, where the format must know them."""
        ...

    def writer(self, target: BinaryIO) -> AbstractContextManager[Write]:
        """Write one part: give a function that takes its results one by one.

        It takes the joint's bytes without braces, what the answer adds, and about how many bytes the answer has.


        :raises Loosened: what was decided of columns doesn't hold; all parts are to be written again.
        """
        ...


def open_format(
    name: str,
    *,
    columns: str = "",
    response_format: dict[str, Any] | None = None,
    endpoint: str = "",
    cached: bool = False,
) -> Format:
    """Return the format of that name, for one landing.

    :param columns: the source's schema (``Plan.columns``), or nothing.
    :param response_format: the job's structured output, normalized.
    :param endpoint: the job's; vectors are told from text by it.
    :param cached: whether results say if the cache gave them.
    :raises ConfigurationError: there is no such format.
    """
    if name == "parquet":
        return Parquet(Typed(columns, response_format, endpoint, cached=cached))
    if name == "csv":
        return Sheets(cached=cached)
    if name in RESULT_FORMATS:
        return Lines(name)
    raise ConfigurationError(f"result_format: one of {', '.join(RESULT_FORMATS)} is needed, not {name!r}")


class Lines:
    """JSON Lines, plain or compressed."""

    def __init__(self, name: str) -> None:
        self.name = self.suffix = name

    def survey(self, joints: Callable[[], Iterator[bytes]]) -> None:
        """Need nothing."""

    @contextmanager
    def writer(self, target: BinaryIO) -> Iterator[Write]:
        """Write one part."""
        pieces: list[bytes] = []
        gathered, dumps = 0, orjson.dumps
        with _compressed(target, self.suffix) as file, written_behind(file.write) as behind:

            def write(joint: bytes, tail: dict[str, Any], _size: int) -> None:
                nonlocal gathered, pieces
                rest = dumps(tail)[1:]
                pieces += (b"{", joint, b",", rest, b"\n")
                gathered += len(joint) + len(rest)
                if gathered >= PIECE:
                    behind.writelines(pieces)
                    pieces, gathered = [], 0

            yield write
            behind.writelines(pieces)


@contextmanager
def _compressed(target: BinaryIO, suffix: str) -> Iterator[BinaryIO]:
    if suffix.endswith(".gz"):
        # Without a name and a time in its head, so that the same results are the same bytes.
        with gzip.GzipFile("", "wb", _GZIP_LEVEL, target, mtime=0) as file:
            yield cast("BinaryIO", file)
    elif suffix.endswith(".zst"):
        import pyarrow as pa

        with pa.CompressedOutputStream(_Kept(target), "zstd") as stream:
            yield stream
    else:
        yield target


class _Kept:
    """A file for those who close what they were given: the store publishes it, and must find it open."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.closed = False

    def write(self, piece: Any) -> int:
        return self._file.write(bytes(piece))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    @staticmethod
    def writable() -> bool:
        return True

    @staticmethod
    def readable() -> bool:
        return False

    @staticmethod
    def seekable() -> bool:
        return False


class _Chunks:
    """Gathers results until they are worth making columns of."""

    def __init__(self, take: Callable[[list[dict[str, Any]]], None]) -> None:
        self._take = take
        self._joints: list[bytes] = []
        self._tails: list[dict[str, Any]] = []
        self._bytes = 0

    def write(self, joint: bytes, tail: dict[str, Any], size: int) -> None:
        self._joints.append(b"{%b}" % joint)
        self._tails.append(tail)
        self._bytes += len(joint) + size
        if len(self._joints) >= _CHUNK_ROWS or self._bytes >= _CHUNK_BYTES:
            self.flush()

    def flush(self) -> None:
        if self._joints:
            rows = jsonlines.Reader(self._joints, loads=orjson.loads)
            self._take([{**row, **tail} for row, tail in zip(rows.iter(type=dict), self._tails, strict=True)])
        self._joints, self._tails, self._bytes = [], [], 0


class Parquet:
    """Typed columns, in row groups."""

    name = suffix = "parquet"

    def __init__(self, tables: Typed) -> None:
        self._tables = tables

    def survey(self, joints: Callable[[], Iterator[bytes]]) -> None:
        """Find the types of the rows' columns."""
        self._tables.survey(joints())

    @contextmanager
    def writer(self, target: BinaryIO) -> Iterator[Write]:
        """Write one part."""
        groups = _Groups(target, self._tables)
        chunks = _Chunks(groups.add)
        with _ended(groups):
            yield chunks.write
            chunks.flush()
            groups.flush()


@contextmanager
def _ended(file: Any) -> Iterator[None]:
    """Close a file; one that is given up in any case, whatever else is wrong with it."""
    try:
        yield
    except BaseException:
        with suppress(Exception):
            file.close()
        raise
    file.close()


class _Groups:
    """A Parquet file, opened when the first rows have told the last of its types."""

    def __init__(self, target: BinaryIO, tables: Typed) -> None:
        self._target = target
        self._tables = tables
        self._writer: Any = None
        self._batches: list[Any] = []
        self._rows = self._bytes = 0

    def add(self, results: list[dict[str, Any]]) -> None:
        batch = self._tables.batch(results)
        self._batches.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._rows >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        if not self._batches:
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_batches(self._batches)
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                _Kept(self._target), table.schema, compression="zstd", use_dictionary=self._tables.repetitive()
            )
        self._writer.write_table(table, row_group_size=table.num_rows)
        self._batches, self._rows, self._bytes = [], 0, 0

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class Sheets:
    """CSV for people with spreadsheets: one level of columns, and the mark by which Excel knows UTF-8."""

    name = suffix = "csv"

    def __init__(self, *, cached: bool) -> None:
        self._tables = Flat(cached=cached)

    def survey(self, joints: Callable[[], Iterator[bytes]]) -> None:
        """Find the rows' columns."""
        self._tables.survey(joints())

    @contextmanager
    def writer(self, target: BinaryIO) -> Iterator[Write]:
        """Write one part."""
        from pyarrow import csv

        target.write("\ufeff".encode())
        sheet = csv.CSVWriter(_Kept(target), self._tables.schema)
        chunks = _Chunks(lambda results: sheet.write_batch(self._tables.batch(results)))
        with _ended(sheet):
            yield chunks.write
            chunks.flush()


__all__ = ["Format", "Loosened", "Write", "open_format"]
