"""The raw files of attempts, indexed by row: landing reads answers in input order, OpenAI writes them in any.

An index holds where lines stand, never their text. Lines are read where they stand rather than mapped: mapped pages
count as this process's memory. Files of a remote store are copied to the local disk, those of the next part in a
thread while the present one is landed.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from array import array
from bisect import bisect_left
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.engine.answers import parse_lines
from airflow_openai_batch.engine.requests import row_of

if TYPE_CHECKING:
    from typing import BinaryIO

    from airflow_openai_batch.engine.models import Attempt
    from airflow_openai_batch.engine.store import Store

RAW = "_job/raw"

_PIECE = 1 << 20

_head = re.compile(rb'\{"id": ?"[^"\\]*", ?"custom_id": ?"r(0|[1-9][0-9]{0,17})"').match
"""Finds the row of a line as OpenAI writes them, without parsing it. Other lines are parsed."""


def raw_names(attempt: Attempt) -> list[str]:
    """Return the store's names of the raw files that an attempt has."""
    end = attempt.end
    if end is None:
        return []
    sizes = {"output": end.output_bytes, "error": end.error_bytes}
    return [f"{RAW}/{attempt.key}.{kind}.jsonl" for kind, size in sizes.items() if size]


class _StoppedError(Exception):
    """The landing is over before its files were fetched."""


class RawFiles:
    """Gives the local paths of raw files, fetching them where the store is remote. Close it when all is landed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stop = threading.Event()
        self._thread: ThreadPoolExecutor | None = None

    def ahead(self, attempt: Attempt) -> Future[_Copies] | None:
        """Begin to fetch an attempt's files in a thread; None where there is nothing to fetch."""
        if self._store.is_local or not raw_names(attempt):
            return None
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="openai-batch-fetch")
        return self._thread.submit(self.get, attempt)

    def get(self, attempt: Attempt) -> _Copies:
        """Return an attempt's files, fetched."""
        names = raw_names(attempt)
        if self._store.is_local or not names:
            return _Copies([Path(self._store.path(name)) for name in names])
        folder = tempfile.TemporaryDirectory(prefix="openai-batch-")
        try:
            return _Copies([self._copy(name, Path(folder.name)) for name in names], folder)
        except BaseException:
            folder.cleanup()
            raise

    def _copy(self, name: str, folder: Path) -> Path:
        copy = folder / name.rsplit("/", 1)[1]
        with self._store.open(name) as source, copy.open("wb") as target:
            while piece := source.read(_PIECE):
                if self._stop.is_set():
                    raise _StoppedError
                target.write(piece)
        return copy

    def close(self) -> None:
        """End the thread; what it has begun isn't finished."""
        self._stop.set()
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)


class _Copies:
    """Local paths, and the temporary folder that they are in."""

    def __init__(self, paths: list[Path], folder: tempfile.TemporaryDirectory[str] | None = None) -> None:
        self.paths = paths
        self._folder = folder

    def remove(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()


class _Index:
    """Where the line of each id stands: arrays, sorted by row. For ids that aren't ours, a table of them besides."""

    def __init__(self) -> None:
        self.rows, self.starts = array("q"), array("q")
        self.lengths, self.files = array("q"), array("B")
        self._wires: dict[str, int] = {}
        self._next = 0

    def add(self, key: int | str, start: int, length: int, file: int) -> None:
        """Note a line; the first of an id counts."""
        if isinstance(key, str):
            if key in self._wires:
                return
            self._wires[key] = len(self.starts)
        else:
            self.rows.append(key)
        self.starts.append(start)
        self.lengths.append(length)
        self.files.append(file)

    def sort(self) -> None:
        """Make rows findable, once all lines are noted."""
        rows = self.rows
        order = sorted(range(len(rows)), key=rows.__getitem__)
        if order != list(range(len(rows))):
            for name in ("rows", "starts", "lengths", "files"):
                unsorted = getattr(self, name)
                setattr(self, name, array(unsorted.typecode, map(unsorted.__getitem__, order)))

    def slot(self, key: int | str) -> int | None:
        """Return the place of an id's line; rows are asked for in ascending order."""
        if isinstance(key, str):
            return self._wires.get(key)
        rows, place = self.rows, self._next
        if place >= len(rows) or rows[place] != key:
            place = bisect_left(rows, key)
            if place >= len(rows) or rows[place] != key:
                return None
        self._next = place + 1
        return place


class Raw:
    """The raw files of one attempt: fetched, opened and indexed when an answer is first asked for.

    Of several lines with one id the first counts, as it did when they were collected.

    :param foreign: the batch was made elsewhere: its wire ids are the user's own.
    """

    def __init__(self, files: RawFiles, attempt: Attempt, *, foreign: bool) -> None:
        self._source = files
        self._attempt = attempt
        self._foreign = foreign
        # Where all lines were found readable, one needn't be parsed to know that it is.
        noise = attempt.end.noise if attempt.end else {}
        self._by_head = not (foreign or noise.get("unreadable"))
        self._coming: Future[_Copies] | None = None
        self._index: _Index | None = None
        self._stack = ExitStack()
        self._files: list[BinaryIO] = []
        self._fds: list[int] = []
        self._line = b""
        self._values = parse_lines(iter(lambda: self._line, None))

    def fetch_ahead(self) -> None:
        """Begin to fetch what will soon be asked for."""
        if self._index is None and self._coming is None:
            self._coming = self._source.ahead(self._attempt)

    def value(self, row: int, wire: str) -> tuple[dict[str, Any], int] | None:
        """Return a row's line, parsed, and its length in bytes; None where there is none."""
        index = self._index or self._open()
        slot = index.slot(wire if self._foreign else row)
        if slot is None:
            return None
        size = index.lengths[slot]
        self._line = os.pread(self._fds[index.files[slot]], size, index.starts[slot])
        value = next(self._values)
        if value is not None and value["custom_id"] == wire:
            return value, size
        if not self._by_head:
            return None
        self._by_head = False
        self._index = self._indexed()
        return self.value(row, wire)

    def _open(self) -> _Index:
        coming, self._coming = self._coming, None
        copies = coming.result() if coming is not None else self._source.get(self._attempt)
        self._stack.callback(copies.remove)
        for path in copies.paths:
            self._files.append(self._stack.enter_context(path.open("rb", _PIECE)))
            self._fds.append(self._files[-1].fileno())
        self._index = self._indexed()
        return self._index

    def _indexed(self) -> _Index:
        index = _Index()
        head = _head if self._by_head else lambda _line: None
        for number, file in enumerate(self._files):
            file.seek(0)
            start = 0
            for line in file:
                found = head(line)
                key = self._key(line) if found is None else int(found[1])
                if key is not None:
                    index.add(key, start, len(line), number)
                start += len(line)
        index.sort()
        return index

    def _key(self, line: bytes) -> int | str | None:
        if not line.strip():
            return None
        self._line = line
        value = next(self._values)
        if value is None:
            return None
        wire: str = value["custom_id"]
        return wire if self._foreign else row_of(wire)

    def close(self) -> None:
        """Forget the files."""
        coming, self._coming = self._coming, None
        if coming is not None and not coming.cancel():
            coming.add_done_callback(_remove)
        self._stack.close()
        self._index = None


def _remove(coming: Future[_Copies]) -> None:
    """Remove what was fetched for nothing."""
    if not coming.cancelled() and coming.exception() is None:
        coming.result().remove()
