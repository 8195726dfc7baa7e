r"""Rows in: JSON Lines files (plain or .gz) by path or glob, and iterables of prompts, rows, ready-made requests.

A source is read once, streaming. Lines are split on ``b"\\n"`` alone: U+2028 and its kin are legal in a JSON string.
What can't be read as a row is yielded as a :class:`Problem` in its place, so that one pass names all that is wrong.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jsonlines
import orjson

from airflow_openai_batch.engine.models import SourceSpan
from airflow_openai_batch.exceptions import InputError, Problem

SUFFIXES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")


@dataclass(frozen=True)
class Row:
    """One record of the user's dataset.

    :param path: the file it came from; empty for rows of an iterable.
    :param line: its line in that file, or its position in the iterable, from 1.
    :param data: the record.
    """

    path: str
    line: int
    data: dict[str, Any]

    @property
    def where(self) -> str:
        """The row's place, for messages."""
        return place(self.path, self.line)


def place(path: str, line: int) -> str:
    """Spell a row's place for messages."""
    return f"{path}, line {line:,}" if path else f"row {line - 1:,}"


def place_of(row: int, spans: Sequence[SourceSpan]) -> str:
    """Spell the place that a planned row came from."""
    span = spans[max(0, bisect_right(spans, row, key=lambda span: span.row) - 1)] if spans else SourceSpan(0, "", 1)
    return f"row {row:,} ({place(span.path, span.line + row - span.row)})" if span.path else f"row {row:,}"


class Source(Protocol):
    """Where rows come from."""

    def rows(self) -> Iterator[Row | Problem]:
        """Yield each row in order, and a problem in the place of each that can't be read."""
        ...

    def listing(self) -> str | None:
        """Return a fingerprint of the source that is had without reading it, or None."""
        ...


class FileSource:
    """JSON Lines files, in the order of their names.

    :param fs: the fsspec filesystem.
    :param pattern: a path, a glob or a folder on it.
    :param url: how the user spelt it.
    :raises InputError: nothing is there, or it isn't JSON Lines.
    """

    def __init__(self, fs: Any, pattern: str, url: str) -> None:
        self._fs = fs
        self._url = url
        self._scheme = f"{url.split('://', 1)[0]}://" if "://" in url else ""
        self._files = self._find(pattern)

    def _find(self, pattern: str) -> list[dict[str, Any]]:
        try:
            if any(mark in pattern for mark in "*?["):
                found = list(self._fs.glob(pattern, detail=True).values())
            elif self._fs.isdir(pattern):
                found = [entry for entry in self._fs.ls(pattern, detail=True) if entry["name"].endswith(SUFFIXES)]
            else:
                found = [self._fs.info(pattern)]
        except FileNotFoundError:
            found = []
        except (OSError, ValueError) as error:
            raise _source_error(self._url, f"can't be read: {type(error).__name__}: {error}") from error
        files = sorted((entry for entry in found if entry["type"] == "file"), key=lambda entry: str(entry["name"]))
        if not files:
            raise _source_error(self._url, "no such file")
        for entry in files:
            if not entry["name"].endswith(SUFFIXES):
                raise _source_error(
                    self._scheme + entry["name"], f"not a kind of file that is read here ({', '.join(SUFFIXES)})"
                )
        return files

    def listing(self) -> str | None:
        """Return a hash over names, sizes and what the store says of the last change."""
        seen = [
            [e["name"], e["size"], str(e.get("ETag") or e.get("etag") or e.get("mtime") or e.get("LastModified"))]
            for e in self._files
        ]
        return hashlib.blake2b(orjson.dumps(seen), digest_size=16).hexdigest()

    def rows(self) -> Iterator[Row | Problem]:
        """Yield the rows of each file in turn."""
        for entry in self._files:
            path = self._scheme + entry["name"]
            try:
                with self._fs.open(entry["name"], "rb") as raw:
                    file = io.BufferedReader(raw, 1 << 20)
                    lines = gzip.GzipFile(fileobj=file) if path.endswith(".gz") else file
                    yield from _read_lines(path, lines)
            except (OSError, zlib.error) as error:
                yield Problem(path, "", f"can't be read: {type(error).__name__}: {error}")


def _read_lines(path: str, lines: Iterable[bytes]) -> Iterator[Row | Problem]:
    """Parse lines one by one, blank ones left out, counting all of them."""
    number = 0

    def counted() -> Iterator[bytes]:
        nonlocal number
        try:
            for number, line in enumerate(lines, 1):  # noqa: B007 - the reader's own count stays behind on empty lines
                yield line
        except EOFError as error:
            # gzip's word for a file that was cut, the reader's for the end of the rows.
            raise OSError(f"line {number + 1:,}: {error}") from error

    reader = jsonlines.Reader(counted(), loads=orjson.loads)
    while True:
        try:
            value = reader.read(skip_empty=True, allow_none=True)
        except EOFError:
            return
        except jsonlines.InvalidLineError as error:
            yield Problem(place(path, number), "", _what_is_wrong(error))
        else:
            yield _as_row(path, number, value)


def _what_is_wrong(error: jsonlines.InvalidLineError) -> str:
    cause = error.__cause__
    if isinstance(cause, UnicodeDecodeError):
        return f"not UTF-8: {cause.reason} at byte {cause.start}"
    return f"not JSON: {cause or error}"[:200]


class IterableSource:
    """Rows from memory, or from whatever ``open_rows`` gives when the plan is made.

    :param open_rows: returns the iterable; called once for each reading, and not at all when a plan exists already.
    :param listing: fingerprint of the rows if they are at hand, else None.
    """

    def __init__(self, open_rows: Callable[[], Iterable[Any]], listing: str | None = None) -> None:
        self._open_rows = open_rows
        self._listing = listing

    def listing(self) -> str | None:
        """Return the fingerprint that was given."""
        return self._listing

    def rows(self) -> Iterator[Row | Problem]:
        """Yield the rows; a bare string becomes ``{"prompt": string}``."""
        given = self._open_rows()
        if isinstance(given, FileSource):
            yield from given.rows()
            return
        if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
            yield Problem("source", "", f"a list or iterable of rows is needed, not {_kind(given)}")
            return
        for number, value in enumerate(given, 1):
            yield _as_row("", number, value)


def _as_row(path: str, line: int, value: Any) -> Row | Problem:
    if isinstance(value, dict):
        return Row(path, line, value)
    if isinstance(value, str) and not path:
        return Row(path, line, {"prompt": value})
    if isinstance(value, Mapping):
        return Row(path, line, dict(value))
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return Row(path, line, dump())
    needed = "an object" if path else "a string, a mapping or a pydantic model"
    return Problem(place(path, line), "", f"a row must be {needed}, not {_kind(value)}")


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _source_error(where: str, message: str) -> InputError:
    return InputError([Problem(where, "", message)])


def open_source(source: Any, resolve: Callable[[str], tuple[Any, str]] | None = None) -> Source:
    """Return the source for what a user may give.

    :param source: a path, glob or folder of JSON Lines files; or a list or another iterable of strings (prompts),
        mappings (rows, or ready-made requests) or pydantic models; or a callable that returns one, called late.
    :param resolve: gives filesystem and path for a URL; default fsspec's own.
    :raises InputError: there is nothing to read.
    """
    if isinstance(source, str):
        if not source.strip():
            raise _source_error("source", "an empty path")
        if resolve is None:
            from fsspec.core import url_to_fs

            resolve = url_to_fs
        try:
            fs, path = resolve(source)
        except (OSError, ValueError, ImportError) as error:
            raise _source_error(source, f"can't be opened: {type(error).__name__}: {error}") from error
        return FileSource(fs, path, source)
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
            digest.update(orjson.dumps(row, default=str, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SORT_KEYS))
            digest.update(b"\n")
    except (TypeError, ValueError):
        return None
    return digest.hexdigest()
