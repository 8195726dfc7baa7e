"""Tables: Parquet files, data frames, and all that speaks Arrow's stream protocol, a few hundred rows at a time.

pandas and polars are never imported here: who hands over a frame of theirs has them. Names of columns are strings and
stand once. The index of a pandas frame counts as columns where it has names, else it is left out.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.engine.sources import Row, Rows, Source, hash_rows, place
from airflow_openai_batch.engine.values import Partly, Unreadable, merged, reader, type_of
from airflow_openai_batch.exceptions import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ROWS = 256
"""Rows that are Python values at a time; more are hardly faster."""

PIECE = 1 << 22
"""Bytes that they may have together, in Arrow's form: a row may hold images."""

BUFFERS = (1 << 16, 1 << 21, 1 << 24)
"""Bytes read at once of a column of a Parquet file, least and most, and of all columns together."""

Columns = list[list[Any]]

_LASTING = (
    ("pandas", "DataFrame"),
    ("polars", "DataFrame"),
    ("pyarrow", "Table"),
    ("pyarrow", "RecordBatch"),
    ("pyarrow.dataset", "Dataset"),
)
"""Kinds of tables that can be read again."""

_SILENT = (("pandas", "DataFrame"), ("pyarrow.dataset", "Dataset"), ("polars", "LazyFrame"))
"""Kinds of tables that don't speak the protocol, or didn't always."""


def is_table(value: Any) -> bool:
    """Whether a value is a table of rows: a single column, which speaks the same protocols, isn't one."""
    kind = type(value)
    if not (hasattr(kind, "columns") or hasattr(kind, "schema")):
        return False
    speaks = hasattr(kind, "__arrow_c_stream__") or hasattr(kind, "__arrow_c_array__")
    return speaks or any(_is(value, *other) for other in _SILENT)


def _is(value: Any, module: str, name: str) -> bool:
    """Whether a value is of a class of a module that is loaded; it can't be where the module isn't."""
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(value, kind)


class TableSource(Source):
    """A data frame or a table.

    :param given: a pandas or polars frame (a lazy one is run in streaming), a table, record batch, reader or dataset of
        pyarrow, or another object with ``__arrow_c_stream__``. One that isn't known to bear more is read once.
    """

    def __init__(self, given: Any) -> None:
        self._given = given
        self._lasts = any(_is(given, *kind) for kind in _LASTING)
        self._schema: Callable[[], Any] | None = None
        self._begun = False
        self._read = 0

    def listing(self) -> str | None:
        """Return a hash over names and rows; None for a table that can't be read twice."""
        if not self._lasts or _is(self._given, "pyarrow.dataset", "Dataset"):
            return None
        return hash_rows(row.data if isinstance(row, Row) else str(row) for row in TableSource(self._given).rows())

    def schema(self) -> Any | None:
        """Return the table's schema, None before it is read, or where values of a column have no common type."""
        return self._schema() if self._schema else None

    def fraction(self) -> float | None:
        """Return the share of the rows that was read, where the table knows how many it has."""
        count = getattr(self._given, "num_rows", None)
        if count is None and self._lasts and hasattr(self._given, "__len__"):
            count = len(self._given)
        return self._read / count if count else None

    def blocks(self) -> Iterator[Rows | Problem]:
        """Yield the rows."""
        import pyarrow as pa

        if self._begun and not self._lasts:
            return
        self._begun = True
        try:
            if _is(self._given, "pandas", "DataFrame"):
                frame = _Frame(self._given)
                self._schema, names, pieces = frame.schema, frame.names, frame.pieces()
            else:
                schema, batches = _stream(self._given)
                self._schema, names, pieces = schema.remove_metadata, schema.names, pieces_of(schema, batches)
            wrong = wrong_names(names)
            if wrong:
                yield Problem("source", "", wrong)
                return
            for block in blocks_of("", names, pieces):
                self._read += 1 if isinstance(block, Problem) else len(block.records)
                yield block
        except (pa.ArrowException, TypeError, ValueError) as error:
            yield Problem("source", "", f"the table can't be read: {type(error).__name__}: {error}")


class _Frame:
    """A pandas frame: columns of objects give their Python values as they are, all others go through Arrow."""

    def __init__(self, frame: Any) -> None:
        self._frame = frame
        levels = [(number, name) for number, name in enumerate(frame.index.names) if name is not None]
        self._levels = [number for number, _ in levels]
        self.names = [str(name) for _, name in levels] + [str(name) for name in frame.columns]
        self._kinds = [self._kind(column) for column in self._columns(frame.iloc[:0])]
        self._learned: list[Any] = [None] * len(self.names)
        self._typed = True

    def _columns(self, frame: Any) -> list[Any]:
        levels = [frame.index.get_level_values(number) for number in self._levels]
        return levels + [frame.iloc[:, number] for number in range(frame.shape[1])]

    @staticmethod
    def _kind(empty: Any) -> Any | None:
        """Return a column's Arrow type, None for objects and for what pandas alone has (periods, intervals)."""
        import pyarrow as pa

        if empty.dtype == object:
            return None
        kind = pa.array(empty, from_pandas=True).type
        return None if isinstance(kind, pa.BaseExtensionType) else kind

    def schema(self) -> Any | None:
        """Return the schema; columns of objects have the types of the values that were read."""
        import pyarrow as pa

        kinds = [kind or learned or pa.null() for kind, learned in zip(self._kinds, self._learned, strict=True)]
        return pa.schema(list(zip(self.names, kinds, strict=True))) if self._typed else None

    def pieces(self) -> Iterator[Columns]:
        """Yield the values of a few rows at a time, column by column."""
        for start in range(0, len(self._frame), ROWS):
            columns = self._columns(self._frame.iloc[start : start + ROWS])
            yield [self._values(number, column) for number, column in enumerate(columns)]

    def _values(self, number: int, column: Any) -> list[Any]:
        import pyarrow as pa
        from pyarrow import types

        kind = self._kinds[number]
        if kind is None:
            nulls = column.isna()
            if column.dtype != object:
                column = column.astype(str)
            values = [None if null else value for value, null in zip(column.tolist(), nulls, strict=True)]
            self._learn(number, values)
            return values
        if types.is_dictionary(kind):
            column, kind = column.astype(object), kind.value_type
        array = pa.array(column, type=kind, from_pandas=True)
        return reader(kind)(array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array)

    def _learn(self, number: int, values: list[Any]) -> None:
        if not self._typed:
            return
        try:
            self._learned[number] = merged(self._learned[number], type_of(values))
        except ValueError:
            self._typed = False


def _stream(given: Any) -> tuple[Any, Iterable[Any]]:
    """Return a table's schema and its record batches, read as they are asked for."""
    import pyarrow as pa

    if _is(given, "pyarrow.dataset", "Dataset"):
        import pyarrow.dataset as ds

        frugal = ds.ParquetFragmentScanOptions(use_buffered_stream=True, buffer_size=BUFFERS[1], pre_buffer=False)
        parquet = isinstance(getattr(given, "format", None), ds.ParquetFileFormat)
        options = {"fragment_scan_options": frugal} if parquet else {}
        scanner = given.scanner(batch_size=ROWS, batch_readahead=0, fragment_readahead=0, use_threads=False, **options)
        return given.schema, scanner.to_batches()
    if _is(given, "polars", "LazyFrame"):
        schema, _ = _stream(given.limit(0).collect())
        return schema, _lazily(given)
    if _is(given, "polars", "DataFrame") and "Object" in map(str, given.dtypes):
        name = next(name for name, kind in given.schema.items() if str(kind) == "Object")
        raise TypeError(f"column {name!r} holds Python objects, which have no form in Arrow")
    if isinstance(given, pa.RecordBatchReader):
        return given.schema, given
    if isinstance(given, pa.Table):
        return given.schema, given.to_batches()
    if hasattr(given, "__arrow_c_stream__"):
        stream = pa.RecordBatchReader.from_stream(given)
        return stream.schema, stream
    batch = pa.record_batch(given)
    return batch.schema, [batch]


def _lazily(frame: Any) -> Iterator[Any]:
    collect = getattr(frame, "collect_batches", None)
    frames = collect(chunk_size=ROWS, maintain_order=True, lazy=True) if collect else [frame.collect()]
    for part in frames:
        yield from _stream(part)[1]


def open_parquet(file: Any) -> Any:
    """Open a Parquet file so that no column of a row group is held whole: one may be as large as the file.

    :param file: seekable.
    :raises ValueError, OSError: it isn't Parquet.
    """
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(file)
    least, most, together = BUFFERS
    buffer = max(least, min(most, together // max(1, metadata.num_columns)))
    return pq.ParquetFile(file, metadata=metadata, buffer_size=buffer, pre_buffer=False)


def parquet_pieces(file: Any) -> Iterator[Columns]:
    """Yield the values of a few rows of a Parquet file at a time, column by column."""
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        rows = max(1, min(ROWS, group.num_rows * PIECE // max(1, group.total_byte_size)))
        yield from pieces_of(file.schema_arrow, file.iter_batches(rows, row_groups=[number], use_threads=False))


def wrong_names(names: list[str]) -> str | None:
    """Say which name stands more than once, if one does."""
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    return f"column names stand more than once: {', '.join(map(repr, twice))}"[:500] if twice else None


def pieces_of(schema: Any, batches: Iterable[Any]) -> Iterator[Columns]:
    """Yield the values of a few rows at a time, column by column."""
    readers = [reader(kind) for kind in schema.types]
    for batch in batches:
        rows = max(1, min(ROWS, batch.num_rows * PIECE // max(1, batch.nbytes)))
        for start in range(0, batch.num_rows, rows):
            piece = batch.slice(start, rows)
            yield [read(column) for read, column in zip(readers, piece.columns, strict=True)]


def blocks_of(
    path: str, names: list[str], pieces: Iterable[Columns], more: dict[str, Any] | None = None
) -> Iterator[Rows | Problem]:
    """Yield rows, and a problem in the place of each with a value that Python can't hold.

    :param more: columns that each row has besides.
    """
    more = {name: value for name, value in (more or {}).items() if name not in names}
    line = 1
    for columns in pieces:
        records = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
        if more:
            for record in records:
                record.update(more)
        if any(type(column) is Partly for column in columns):
            yield from _without_spoilt(path, line, records)
        elif records:
            yield Rows(path, line, records)
        line += len(records)


def _without_spoilt(path: str, line: int, records: list[dict[str, Any]]) -> Iterator[Rows | Problem]:
    for number, record in enumerate(records, line):
        spoilt = _spoilt(record)
        yield Problem(place(path, number), *spoilt) if spoilt else Rows(path, number, [record])


def _spoilt(row: dict[str, Any]) -> tuple[str, str] | None:
    return next(((name, value.message) for name, value in row.items() if isinstance(value, Unreadable)), None)
