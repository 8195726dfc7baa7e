"""The results of a finished job, read back: as rows, as an Arrow table, as a pandas frame.

What is read is what the manifest names, below the folder that was given: a folder that was moved or copied still
reads. Rows come streaming, one part after the other, in input order.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import jsonlines
import orjson

from airflow_openai_batch.engine.journal import JOB, MANIFEST, Journal
from airflow_openai_batch.engine.result_batches import CACHED, FIELDS, Loosened, Typed
from airflow_openai_batch.exceptions import JobUnfinishedError, JournalError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import pyarrow as pa

    from airflow_openai_batch.engine.store import Store

_ROWS = 512
"""Rows that are made of columns, or columns of rows, at a time."""

_BLOCK = 4 << 20
"""Bytes of CSV looked at together; a row is within one, or it is read again with more."""


class Reading:
    """A job's results.

    :param store: the job's folder.
    :param manifest: as a task returned it; default the one in the folder.
    :raises JobUnfinishedError: the job isn't landed yet.
    :raises JournalError: there is no job, or its manifest is damaged.
    """

    def __init__(self, store: Store, manifest: Mapping[str, Any] | None = None) -> None:
        self._store = store
        if manifest is None or "files" not in manifest:
            manifest = _manifest(store)
        self._manifest = manifest
        old = f"{str(manifest['destination']).rstrip('/')}/"
        self._names = [str(file).removeprefix(old) for file in manifest["files"]]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield results as dicts. Parquet gives values of Python's types, the others what JSON has; CSV all text."""
        kind = str(self._manifest["format"])
        read: Callable[[BinaryIO], Iterator[dict[str, Any]]] = {"parquet": _parquet, "csv": _csv}.get(kind, _lines)
        for name in self._names:
            try:
                with self._store.open(name) as file, _unpacked(file, kind) as unpacked:
                    yield from read(unpacked)
            except (jsonlines.InvalidLineError, zlib.error) as error:
                raise JournalError(
                    f"{self._store.address(name)} is damaged: {error}. Land the job again, which costs nothing: remove "
                    f"{self._store.address(MANIFEST)} and clear the task."
                ) from error

    def table(self) -> pa.Table:
        """Return all results as a table, with the columns that Parquet has."""
        import pyarrow as pa

        if self._manifest["format"] == "parquet":
            return one_table(map(self._parquet, self._names))
        typed = self._typed()
        for row in self.rows():
            typed.see(row["input"])
        while True:
            try:
                return pa.Table.from_batches(typed.batch(rows) for rows in _some(self.rows()))
            except Loosened:
                continue

    def _parquet(self, name: str) -> pa.Table:
        import pyarrow.parquet as pq

        with self._store.open(name) as file:
            return pq.ParquetFile(file).read()

    def _typed(self) -> Typed:
        """Return what makes columns of rows, with what the job's record says of their types where it is there."""
        record = Journal(self._store).job() if self._store.exists(JOB) else None
        if record is None or record.job != self._manifest["job"] or self._manifest["format"] == "csv":
            return Typed(endpoint=str(self._manifest["endpoint"]))
        parameters = record.parameters
        return Typed(
            record.plan.columns,
            parameters.get("response_format"),
            str(parameters["endpoint"]),
            cached=record.sifting is not None,
        )


def one_table(tables: Iterable[pa.Table]) -> pa.Table:
    """Return tables one below the other; of jobs whose columns differ, those that all of them fit."""
    import pyarrow as pa

    return pa.concat_tables(list(tables), promote_options="permissive")


def _manifest(store: Store) -> Mapping[str, Any]:
    journal = Journal(store)
    manifest = journal.manifest()
    if manifest is not None:
        return manifest
    if store.exists(JOB):
        raise JobUnfinishedError(
            f"The job at {store.url} isn't finished: {store.address(MANIFEST)} comes with the last of its results. "
            "Wait for the task that runs it."
        )
    raise JournalError(f"There is no job at {store.url}: {store.address(MANIFEST)} isn't there")


@contextmanager
def _unpacked(file: BinaryIO, kind: str) -> Iterator[BinaryIO]:
    if kind.endswith(".gz"):
        with gzip.GzipFile(fileobj=file) as unpacked:
            yield cast("BinaryIO", unpacked)
    elif kind.endswith(".zst"):
        import pyarrow as pa

        with pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd") as stream:
            yield cast("BinaryIO", io.BufferedReader(stream, 1 << 20))
    else:
        yield file


def _lines(file: BinaryIO) -> Iterator[dict[str, Any]]:
    yield from jsonlines.Reader(_whole(file), loads=orjson.loads).iter(type=dict)


def _whole(lines: BinaryIO) -> Iterator[bytes]:
    try:
        yield from lines
    except EOFError as error:
        # gzip's word for a file that was cut, the reader's for the end of the rows.
        raise zlib.error(str(error)) from error


def _parquet(file: BinaryIO) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(file).iter_batches(batch_size=_ROWS, use_threads=False):
        yield from batch.to_pylist()


def _csv(file: BinaryIO) -> Iterator[dict[str, Any]]:
    """Read what :class:`formats.Sheets` wrote: an empty cell is null, an empty text stands in quotes."""
    import pyarrow as pa

    done, block = 0, _BLOCK
    while True:
        file.seek(0)
        try:
            for place, row in enumerate(_csv_rows(file, block)):
                if place >= done:
                    yield row
                    done = place + 1
        except pa.ArrowInvalid as error:
            if "straddling" not in str(error):
                raise
            block *= 4
        else:
            return


def _csv_rows(file: BinaryIO, block: int) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    header = io.TextIOWrapper(file, "utf-8-sig", newline="")
    names = next(csv.reader(header))
    header.detach().seek(0)
    reader = arrow_csv.open_csv(
        file,
        read_options=arrow_csv.ReadOptions(use_threads=False, block_size=block),
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(
            column_types={name: pa.int64() if _is_number(name) else pa.string() for name in names},
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    for batch in reader:
        for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield _nested(names, values)


def _is_number(name: str) -> bool:
    return name in {"row", "round", "error.status_code"} or name.startswith("usage.")


def _nested(names: list[str], values: tuple[Any, ...]) -> dict[str, Any]:
    """Return a row of the other formats' form."""
    row: dict[str, Any] = {}
    for name, value in zip(names, values, strict=True):
        top, dot, below = name.partition(".")
        if dot:
            row.setdefault(top, {})[below] = value
        else:
            row[top] = value
    for name in ("usage", "error"):
        if all(value is None for value in row[name].values()):
            row[name] = None
    ordered: dict[str, Any] = {name: row.get(name, {} if name == "input" else None) for name in FIELDS}
    if CACHED in row:
        ordered[CACHED] = {"true": True, "false": False}.get(str(row[CACHED]).lower())
    return ordered


def _some(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while some := list(islice(rows, _ROWS)):
        yield some
