"""The raw files of attempts, indexed by row: landing reads answers in input order, OpenAI writes them in any.

An index holds where lines stand, never their text. Lines are read where they stand rather than mapped: mapped pages
count as this process's memory. Files of a remote store are copied to the local disk, those of the next part in a
thread while the present one is landed.
"""

from __future__ import annotations

import re
import tempfile
import threading
from array import array
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_openai_batch.engine.answers import RANK, Answer, parse_line
from airflow_openai_batch.engine.nearby import Read, reader_of
from airflow_openai_batch.engine.requests import row_of
from airflow_openai_batch.exceptions import JournalError

if TYPE_CHECKING:
    from typing import BinaryIO

    from airflow_openai_batch.engine.models import Shard
    from airflow_openai_batch.engine.records import Attempt
    from airflow_openai_batch.engine.store import Store

RAW = "_job/raw"

_PIECE = 1 << 20

_SPARSE = 16
"""Rows from a shard's first to its last, to those it has: past that they are kept one by one."""

_head = re.compile(rb'\{"id": ?"[^"\\]*", ?"custom_id": ?"r(0|[1-9][0-9]{0,17})"').match
"""Finds the row of a line as OpenAI writes them, without parsing it. Other lines are parsed."""


Reader = Callable[[int, str], "Answer | None"]
Head = Callable[[bytes], "re.Match[bytes] | None"]


def _no_head(_line: bytes) -> None:
    return None


def raw_names(attempt: Attempt | None) -> list[str]:
    """Return the store's names of the raw files that an attempt has."""
    if attempt is None or attempt.end is None:
        return []
    sizes = {"output": attempt.end.output_bytes, "error": attempt.end.error_bytes}
    return [f"{RAW}/{attempt.key}.{kind}.jsonl" for kind, size in sizes.items() if size]


class _StoppedError(Exception):
    """The landing is over before its files were fetched."""


class RawFiles:
    """Gives the local paths of raw files, fetching them where the store is remote. Close it when all is landed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stop = threading.Event()
        self._thread: ThreadPoolExecutor | None = None

    def ahead(self, attempt: Attempt | None) -> Future[_Copies] | None:
        """Begin to fetch an attempt's files in a thread; None where there is nothing to fetch."""
        if self._store.is_local or not raw_names(attempt):
            return None
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="openai-batch-fetch")
        return self._thread.submit(self.get, attempt)

    def get(self, attempt: Attempt | None) -> _Copies:
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
    """Where the line of each id stands: start and length, the files being one after the other.

    A table of all rows from a shard's first to its last is the least, unless most of them are other shards'. Rows that
    aren't in it, and ids that aren't ours, are kept one by one.

    :param step: from a row of the shard to the next, as far as is known.
    """

    def __init__(self, shard: Shard, step: int) -> None:
        self.first, self.step = shard.first, step
        span = (shard.last - shard.first) // step + 1
        self.span = span if span <= _SPARSE * shard.rows else 0
        self.starts, self.lengths = array("q", bytes(8 * self.span)), array("i", bytes(4 * self.span))
        self.others: dict[int | str, tuple[int, int]] = {}

    def note(
        self,
        lines: BinaryIO,
        start: int,
        head: Head,
        key_of: Callable[[bytes], int | str | None],
        is_better: Callable[[bytes, int, int], bool],
    ) -> None:
        """Note the lines of a file; of several of an id the best counts, of equals the first.

        :param start: the bytes of the files before it.
        :param head: finds the row of a line.
        :param key_of: finds the id of a line where ``head`` can't.
        :param is_better: whether a line is, than the one that is noted with its start and length.
        """
        first, step, span, starts, lengths = self.first, self.step, self.span, self.starts, self.lengths
        for line in lines:
            found, length = head(line), len(line)
            key = key_of(line) if found is None else int(found[1])
            if type(key) is int:
                place, odd = divmod(key - first, step)
                if not odd and 0 <= place < span:
                    if not lengths[place] or is_better(line, starts[place], lengths[place]):
                        starts[place] = start
                        lengths[place] = length
                    start += length
                    continue
            if key is not None and (key not in self.others or is_better(line, *self.others[key])):
                self.others[key] = (start, length)
            start += length


class Raw:
    """The raw files of one attempt: fetched, opened and indexed when an answer is first asked for.

    Of several lines with one id the best counts, of equals the first, as it did when they were collected.

    ``answer(row, wire)`` gives what a row's line says, None where there is none; ``size`` is its length then.

    :param read: reads a line (:func:`quick.line_reader`).
    :param attempt: None where no batch ran: there is no line then.
    :param step: from a row of the shard to the next, as far as is known.
    :param foreign: the batch was made elsewhere: its wire ids are the user's own.
    """

    def __init__(
        self,
        files: RawFiles,
        read: Callable[[bytes], Answer | None],
        shard: Shard,
        attempt: Attempt | None,
        *,
        step: int,
        foreign: bool,
    ) -> None:
        self.answer: Reader = self._first_answer
        self.size = 0
        self._start = 0
        self._read = read
        self._source = files
        self._attempt = attempt
        self._shard = shard
        self._step = step
        self._foreign = foreign
        # Where all lines were found readable, and one for each row, they needn't be parsed to know it.
        noise = attempt.end.noise if attempt and attempt.end else {}
        self._doubled = noise.get("duplicate", 0) > 0
        self._by_head = not (foreign or noise.get("unreadable") or self._doubled)
        self._opened = False
        self._coming: Future[_Copies] | None = None
        self._stack = ExitStack()
        self._files: list[BinaryIO] = []
        self._reads: list[tuple[Read, int]] = []
        self._border = self._end = 0

    def fetch_ahead(self) -> None:
        """Begin to fetch what will soon be asked for."""
        if not self._opened and self._coming is None:
            self._coming = self._source.ahead(self._attempt)

    def line(self) -> bytes:
        """Return the line of the row that was last asked for and had one."""
        return self._line_at(self._start, self.size)

    def _line_at(self, start: int, length: int) -> bytes:
        read, base = self._reads[-1] if start >= self._border else self._reads[0]
        return read(start - base, length)

    def _is_better(self, line: bytes, start: int, length: int) -> bool:
        if not self._doubled:
            return False
        found, before = self._read(line), self._read(self._line_at(start, length))
        return found is not None and before is not None and RANK.get(found.status, 0) > RANK.get(before.status, 0)

    def _first_answer(self, row: int, wire: str) -> Answer | None:
        self._open()
        return self.answer(row, wire)

    def _reader(self, index: _Index) -> Reader:
        """Return the function that reads by an index.

        What it reads is no line of a stream, but a piece of a file that is known to hold one.
        """
        first, step, span, starts, lengths, others = (
            index.first, index.step, index.span, index.starts, index.lengths, index.others,
        )  # fmt: skip
        reads, border, foreign, answer_of = self._reads, self._border, self._foreign, self._read

        def answer(row: int, wire: str) -> Answer | None:
            place, odd = divmod(row - first, step)
            if not odd and 0 <= place < span and not foreign:
                start, length = starts[place], lengths[place]
            else:
                start, length = others.get(wire if foreign else row, (0, 0))
            self._start, self.size = start, length
            if not length:
                return self._look_again(row, wire)
            read, base = reads[-1] if start >= border else reads[0]
            found = answer_of(read(start - base, length))
            if found is None:
                raise self._damaged(row)
            return found if found.wire == wire else self._look_again(row, wire)

        return answer

    def _damaged(self, row: int) -> JournalError:
        return JournalError(
            f"{' or '.join(raw_names(self._attempt))} isn't as it was collected: the line of row {row:,} is damaged. "
            "Restore the file and clear the task."
        )

    def _look_again(self, row: int, wire: str) -> Answer | None:
        """Look for a row once more by what lines hold, where it was looked for by their heads alone."""
        if not self._by_head:
            return None
        self._by_head = False
        self.answer = self._reader(self._indexed())
        return self.answer(row, wire)

    def _open(self) -> None:
        self._opened = True
        coming, self._coming = self._coming, None
        copies = coming.result() if coming is not None else self._source.get(self._attempt)
        self._stack.callback(copies.remove)
        self._files = [self._stack.enter_context(path.open("rb", _PIECE)) for path in copies.paths]
        for file, path in zip(self._files, copies.paths, strict=True):
            self._border = self._end
            self._reads.append((reader_of(file.fileno()), self._end))
            self._end += path.stat().st_size
        self.answer = self._reader(self._indexed())

    def _indexed(self) -> _Index:
        index = _Index(self._shard, self._step)
        for file, (_, start) in zip(self._files, self._reads, strict=True):
            file.seek(0)
            index.note(file, start, _head if self._by_head else _no_head, self._key, self._is_better)
        return index

    def _key(self, line: bytes) -> int | str | None:
        value = parse_line(line)
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
        self._reads = []
        self.answer = self._first_answer


def _remove(coming: Future[_Copies]) -> None:
    """Remove what was fetched for nothing."""
    if not coming.cancelled() and coming.exception() is None:
        coming.result().remove()
