"""Rows in, whatever they come from; each kind of source is read once, streaming, a few rows in memory at a time.

Those few come together, as :class:`Rows`: what is done for millions of rows is done in loops without calls.

What can't be read as a row is yielded as a :class:`Problem` in its place, so that one pass names all that is wrong.
Files are found and opened by ``files``, which leaves each to ``lines``, ``delimited`` or ``tabular`` by its name.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import orjson

from airflow_openai_batch.engine.models import SourceSpan
from airflow_openai_batch.engine.values import Inference, json_form
from airflow_openai_batch.exceptions import InputError, Problem

if TYPE_CHECKING:
    from airflow_openai_batch.engine.ready import ReadyLines, ReadyRows

KINDS = {"JSON Lines": (".jsonl", ".ndjson"), "CSV": (".csv",), "TSV": (".tsv",), "Parquet": (".parquet",)}
"""Kinds of files by the end of their names; each may have ``.gz`` or ``.zst`` behind it."""

SUFFIXES = tuple(end + packed for ends in KINDS.values() for end in ends for packed in ("", ".gz", ".zst"))

LONGEST = 209_715_200
"""Bytes of a line beyond which it can't be a row: no batch takes a larger file."""


class Row(NamedTuple):
    """One record of the user's dataset.

    :param path: the file it came from; empty for rows of anything else.
    :param line: its line in that file, or its position among the rows, from 1.
    :param data: the record.
    """

    path: str
    line: int
    data: dict[str, Any]

    @property
    def where(self) -> str:
        """The row's place, for messages."""
        return place(self.path, self.line)


class Rows(NamedTuple):
    """Consecutive records of one file, or of anything else.

    :param line: that of the first of them.
    """

    path: str
    line: int
    records: list[dict[str, Any]]


BLOCK = 1 << 16
"""Bytes of rows that are taken together, about: few enough to be in the core's cache."""

_RECORD, _SCALAR = 240, 16
"""Bytes that an object and a number take up in Python, about."""


def kind_of(name: str) -> str | None:
    """Return the kind of a file by its name, None for one that isn't read here."""
    plain = name.lower().removesuffix(".gz").removesuffix(".zst")
    return next((kind for kind, ends in KINDS.items() if plain.endswith(ends)), None)


def place(path: str, line: int) -> str:
    """Spell a row's place for messages: ``FILE, line 2``, ``FILE, row 2`` (from 1), or ``row 1`` (from 0)."""
    if not path:
        return f"row {line - 1:,}"
    return f"{path}, {'line' if kind_of(path) == 'JSON Lines' else 'row'} {line:,}"


def place_of(row: int, spans: Sequence[SourceSpan]) -> str:
    """Spell the place that a planned row came from."""
    span = spans[max(0, bisect_right(spans, row, key=lambda span: span.row) - 1)] if spans else SourceSpan(0, "", 1)
    return f"row {row:,} ({place(span.path, span.line + row - span.row)})" if span.path else f"row {row:,}"


def one_by_one(blocks: Iterable[Rows | Problem]) -> Iterator[Row | Problem]:
    """Yield the rows of blocks."""
    for block in blocks:
        if isinstance(block, Problem):
            yield block
        else:
            for line, record in enumerate(block.records, block.line):
                yield Row(block.path, line, record)


class Source(ABC):
    """Where rows come from."""

    @abstractmethod
    def blocks(self) -> Iterator[Rows | Problem]:
        """Yield all rows in order, a few at a time, and a problem in the place of each that can't be read.

        A source that can be read only once yields nothing the second time.
        """

    def requests(self, ready: ReadyLines | None) -> Iterator[Rows | ReadyRows | Problem]:
        """Yield the same, but leave lines that are requests already as they stand, where there are some.

        :param ready: takes them; None to parse all.
        """
        del ready
        yield from self.blocks()

    def rows(self) -> Iterator[Row | Problem]:
        """Yield the same one by one."""
        return one_by_one(self.blocks())

    @abstractmethod
    def listing(self) -> str | None:
        """Return a fingerprint of the source that is had without reading it, or None."""

    @abstractmethod
    def schema(self) -> Any | None:
        """Return the Arrow schema of the columns, as far as rows were read; None where JSON has all their types."""

    @abstractmethod
    def fraction(self) -> float | None:
        """Return the share of the source that was read so far, 0 to 1; None where that isn't known."""


class IterableSource(Source):
    """Rows from memory, or from whatever ``open_rows`` gives when the plan is made.

    :param open_rows: returns the iterable, table or source; called once for each reading, and not at all when a plan
        exists already.
    :param listing: fingerprint of the rows if they are at hand, else None.
    """

    def __init__(self, open_rows: Callable[[], Any], listing: str | None = None) -> None:
        self._open_rows = open_rows
        self._listing = listing
        self._inner: Source | None = None
        self._inference = Inference()
        self._read, self._total = 0, 0

    def listing(self) -> str | None:
        """Return the fingerprint that was given."""
        return self._listing

    def schema(self) -> Any | None:
        """Return the types of values for which JSON has no form, and of the columns beside them."""
        return self._inner.schema() if self._inner else self._inference.schema()

    def fraction(self) -> float | None:
        """Return the share of the rows that was read, if it is known how many there are."""
        if self._inner:
            return self._inner.fraction()
        return self._read / self._total if self._total else None

    def requests(self, ready: ReadyLines | None) -> Iterator[Rows | ReadyRows | Problem]:
        """Yield the rows; those of a path may be requests already."""
        given = self._open_rows()
        self._inner = as_source(given)
        if self._inner:
            yield from self._inner.requests(ready)
        else:
            yield from self._blocks_of(given)

    def blocks(self) -> Iterator[Rows | Problem]:
        """Yield the rows; a bare string becomes ``{"prompt": string}``, a table its rows."""
        return cast("Iterator[Rows | Problem]", self.requests(None))

    def _blocks_of(self, given: Any) -> Iterator[Rows | Problem]:
        if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
            yield Problem("source", "", f"a list or iterable of rows is needed, not {_kind(given)}")
            return
        self._inference, self._read = Inference(), 0
        self._total = len(given) if isinstance(given, (list, tuple)) else 0
        for block in in_blocks("", _flat(given)):
            if isinstance(block, Problem):
                self._read += 1
            else:
                self._read += len(block.records)
                self._inference.see(block.records)
            yield block


def in_blocks(path: str, found: Iterable[dict[str, Any] | Problem]) -> Iterator[Rows | Problem]:
    """Yield records some at a time; each of them, and each problem, is a row."""
    some, left = Rows(path, 1, []), BLOCK
    try:
        for record in found:
            if isinstance(record, Problem):
                if some.records:
                    yield some
                yield record
                some, left = Rows(path, some.line + len(some.records) + 1, []), BLOCK
                continue
            some.records.append(record)
            try:
                left -= _size(record)
            except RecursionError:
                # A value within itself has no JSON; who makes a request of the row says so.
                left = 0
            if left <= 0:
                yield some
                some, left = Rows(path, some.line + len(some.records), []), BLOCK
    except Exception:
        # What was read before is looked at first: it may be wrong too.
        if some.records:
            yield some
        raise
    if some.records:
        yield some


def _size(value: Any) -> int:
    """Return about how many bytes a value has as JSON."""
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, dict):
        return _RECORD + sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, (list, tuple)) else _SCALAR


def _flat(given: Iterable[Any]) -> Iterator[dict[str, Any] | Problem]:
    """Make records of values; a value that is a table itself (a chunk of a large one) gives all of its own."""
    number = 0
    for value in given:
        table = None if type(value) in {dict, str} else as_source(value)
        if table is None:
            number += 1
            yield value if type(value) is dict else as_record("", number, value)
            continue
        for row in table.rows():
            number += 1
            yield row.data if isinstance(row, Row) else row


def as_record(path: str, line: int, value: Any) -> dict[str, Any] | Problem:
    """Return what a file or an iterable holds as a record, or say why it is none."""
    if isinstance(value, dict):
        return value
    if isinstance(value, str) and not path:
        return {"prompt": value}
    if isinstance(value, Mapping):
        return dict(value)
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        made: dict[str, Any] = dump()
        return made
    needed = "an object" if path else "a string, a mapping or a pydantic model"
    return Problem(place(path, line), "", f"a row must be {needed}, not {_kind(value)}")


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def source_error(where: str, message: str) -> InputError:
    """Return the error of a source of which there is nothing to read."""
    return InputError([Problem(where, "", message)])


def as_source(given: Any) -> Source | None:
    """Return the source that a value is or holds: a data frame, a table, a path on a store; None for anything else."""
    from airflow_openai_batch.engine import tabular
    from airflow_openai_batch.engine.files import FileSource

    if tabular.is_table(given):
        return tabular.TableSource(given)
    if isinstance(given, Source):
        return given
    if callable(getattr(given, "as_posix", None)):
        fs, path = getattr(given, "fs", None), str(getattr(given, "path", given))
        return FileSource.at(str(given)) if fs is None else FileSource(fs, path, str(given))
    return None


def open_source(source: Any, resolve: Callable[[str], tuple[Any, str]] | None = None) -> Source:
    """Return the source for what a user may give.

    :param source: a path, glob or folder of JSON Lines, CSV or Parquet files; or a data frame or table (pandas, polars,
        pyarrow and whatever else speaks Arrow's stream protocol); or a list or another iterable of strings (prompts),
        mappings (rows, or ready-made requests), pydantic models or tables; or a callable that returns one, called late.
    :param resolve: gives filesystem and path for a URL; default fsspec's own.
    :raises InputError: there is nothing to read.
    """
    if isinstance(source, str):
        from airflow_openai_batch.engine.files import FileSource

        return FileSource.at(source, resolve)
    found = as_source(source)
    if found:
        return found
    if callable(source):
        return IterableSource(source)
    if isinstance(source, (list, tuple)):
        rows = source
        return IterableSource(lambda: rows, hash_rows(rows))
    return IterableSource(lambda: source)


def hash_rows(rows: Iterable[Any]) -> str | None:
    """Return a hash over rows at hand, None where one of them has no JSON form."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        for row in rows:
            digest.update(orjson.dumps(row, default=json_form, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SORT_KEYS))
            digest.update(b"\n")
    except (TypeError, ValueError):
        return None
    return digest.hexdigest()
