"""A shard's requests, answered one by one by synchronous calls, resumable by row.

What happens is kept in ``_job/direct/{name}/``, in files that are numbered in one row, each created exclusively::

    00000.claim.json   these rows may be asked for from now on
    00001.claim.json
    00002.jsonl        these answers came in, of whichever rows
    00003.free.json    the process was stopped: these rows of its claims were never asked for

Answers are written when so many have come in as a claim has rows, or :data:`LONGEST` after the last, and when the run
is stopped by an error or a signal. Whoever goes on asks for the rows that have no answer, under claims of its own. So
a ``kill -9`` makes those rows be bought twice that were in the air, and those whose answers weren't written yet: at
most as many as two claims have. :meth:`Direct.spent_claims` tells which may have been.

When all are answered the answers become the two files that a batch leaves, ``_job/raw/{name}.output.jsonl`` and
``.error.jsonl``; ``_job/direct/{name}.json`` says so, and the folder is removed.

Two processes at once don't share the work: the one that finds the number of its next claim taken stops, before it
sends anything of it. The last claim has no rows: whoever has it makes the two files.
"""

from __future__ import annotations

import logging
import re
import tempfile
import uuid
from collections import Counter, deque
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from airflow_openai_batch.engine.answers import parse_line, parse_lines
from airflow_openai_batch.engine.progress import Progress
from airflow_openai_batch.engine.raws import RAW
from airflow_openai_batch.exceptions import JobOwnedError, JournalError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from airflow_openai_batch.engine.api import DirectAPI
    from airflow_openai_batch.engine.store import Store

log = logging.getLogger(__name__)

DIRECT = "_job/direct"

ROWS = 4
"""Rows of a claim, times the calls in the air."""

MOST_BYTES = 8 << 20
"""Bytes of requests in a claim, and of answers that are held."""

LONGEST = 10.0
"""Seconds that an answer waits to be written, if others come in."""

_FILE = re.compile(r"(\d{5,})\.(claim\.json|free\.json|jsonl)")
_GOOD = range(200, 300)
_PIECE = 1 << 20
_wire = re.compile(rb'\{"custom_id": ?"([^"\\]*)"').match
"""Finds the id of a request as the planner writes it, without parsing it."""

Sizes = dict[str, "int | None"]
"""Bytes of the ``output`` and the ``error`` file, None where there is none."""


class Direct:
    """Answers shards by synchronous calls.

    :param concurrency: calls in the air at once.
    """

    def __init__(self, store: Store, api: DirectAPI, clock: Callable[[], float], concurrency: int = 8) -> None:
        self._store = store
        self._api = api
        self._clock = clock
        self._concurrency = concurrency

    def run(
        self,
        name: str,
        lines: Iterable[bytes],
        rows: int,
        *,
        reserve: Callable[[Sequence[bytes]], None] | None = None,
    ) -> Sizes:
        """Answer all lines of a shard and publish its raw files; what was answered before isn't asked for again.

        :param name: of the attempt: ``00000.r0.a0``.
        :param lines: the shard's requests, the same ones in each run.
        :param rows: how many there are, for the log.
        :param reserve: gets the lines of each claim before any of them is sent; an error that it raises ends the run,
            after what is in the air was answered and kept.
        :return: the sizes of the files.
        :raises JobOwnedError: another process is at work on this shard.
        :raises APIError: no row would be answered; what was answered is kept.
        """
        folder = _Folder(self._store, name)
        sizes = folder.done()
        if sizes is None:
            answered = {value["custom_id"] for value in folder.values()}
            run = _Run(folder, answered, self._clock, self._concurrency * ROWS, reserve)
            run.progress = Progress(f"Asking for the answers of shard {name}", "rows", rows)
            run.progress.add(len(answered))
            try:
                self._api.ask(run.requests(lines), run.take, concurrency=self._concurrency)
                run.write()
            except BaseException:
                run.stop()
                raise
            sizes = folder.publish(self._clock(), again=self.spent_claims(name) if folder.resumed else [])
        folder.sweep()
        return sizes

    def answered(self, name: str) -> Iterator[list[bytes]]:
        """Yield the lines of the answers that are kept of a shard that isn't done, some at a time."""
        folder = _Folder(self._store, name)
        if folder.done() is None:
            for piece in folder.names(".jsonl"):
                yield folder.lines(piece)

    def spent_claims(self, name: str) -> list[str]:
        """Return the rows of claims that brought no answer which was kept: they may have been bought for nothing.

        :return: wire ids, one as often as it was claimed in vain. Of a shard that is under way, rows in the air are
            among them.
        """
        folder = _Folder(self._store, name)
        if folder.done() is not None:
            return folder.again()
        claims: Counter[str] = Counter()
        for file in folder.names(".claim.json"):
            claims.update(folder.record(file)["rows"])
        for file in folder.names(".free.json"):
            claims.subtract(folder.record(file)["rows"])
        claims.subtract({value["custom_id"] for value in folder.values()})
        return list((+claims).elements())

    def lost(self, name: str) -> int:
        """Return how many :meth:`spent_claims` has."""
        return len(self.spent_claims(name))


class _Folder:
    """The files of one shard.

    :ivar resumed: another run has claimed before.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._name = name
        self._folder = f"{DIRECT}/{name}"
        self._done = f"{DIRECT}/{name}.json"
        self._listed = [file for file in store.names(self._folder) if _FILE.fullmatch(file)]
        self._next = max((int(file.partition(".")[0]) for file in self._listed), default=-1) + 1
        self._me = uuid.uuid4().hex
        self.resumed = bool(self._listed)

    def names(self, ending: str) -> list[str]:
        """Return the files of a kind, in the order in which they were made."""
        found = (file for file in self._listed if file.endswith(ending))
        return sorted(found, key=lambda file: int(file.partition(".")[0]))

    def record(self, file: str) -> Any:
        """Read a file of JSON."""
        path = f"{self._folder}/{file}"
        try:
            return orjson.loads(self._store.read(path) or b"")
        except orjson.JSONDecodeError as error:
            raise JournalError(f"{self._store.address(path)} is damaged: {error}. Nothing was bought") from error

    def lines(self, file: str) -> list[bytes]:
        """Return the lines of a file of answers.

        :raises JobOwnedError: it is gone: another process has finished the shard.
        """
        content = self._store.read(f"{self._folder}/{file}")
        if content is None:
            raise self._overtaken()
        return [line + b"\n" for line in content.split(b"\n") if line]

    def values(self) -> Iterator[dict[str, Any]]:
        """Yield the answers that are kept, parsed."""
        for file in self.names(".jsonl"):
            for value in parse_lines(self.lines(file)):
                if value is None:
                    raise JournalError(f"{self._store.address(self._folder)}/{file} is damaged. Nothing was bought")
                yield value

    def claim(self, at: float, wires: list[str]) -> None:
        """Claim rows.

        :raises JobOwnedError: another process has claimed since, or is done.
        """
        path = f"{self._folder}/{self._next:05d}.claim.json"
        content = orjson.dumps({"at": at, "by": self._me, "rows": wires})
        # A client below us that repeats a write whose answer was lost is told that the name is taken.
        taken = not self._store.create(path, content) and self._store.read(path) != content
        if taken or self._store.exists(self._done):
            if not taken:
                self._store.remove([path])
            raise self._overtaken()
        self._add(path)

    def _overtaken(self) -> JobOwnedError:
        return JobOwnedError(
            f"Another try of the task is asking for the answers of shard {self._name} at this moment. What this one "
            "got is kept; nothing more was sent. A later try goes on from there."
        )

    def add(self, ending: str, content: bytes) -> None:
        """Create a file under the next number that is free."""
        while not self._store.create(path := f"{self._folder}/{self._next:05d}{ending}", content):
            self._next += 1
        self._add(path)

    def _add(self, path: str) -> None:
        self._listed.append(path.rpartition("/")[2])
        self._next += 1

    def done(self) -> Sizes | None:
        """Return the sizes of the raw files, None where they aren't published yet."""
        told = self._store.read(self._done)
        return None if told is None else {kind: orjson.loads(told)[kind] for kind in ("output", "error")}

    def again(self) -> list[str]:
        """Return the rows that were asked for again, when it is done."""
        again: list[str] = orjson.loads(self._store.read(self._done) or b"{}").get("again", [])
        return again

    def publish(self, at: float, *, again: list[str]) -> Sizes:
        """Make the raw files of the answers; of several to a row the first counts.

        :raises JobOwnedError: another process has claimed rows since: it makes them.
        """
        self.claim(at, [])
        seen: set[str] = set()
        with ExitStack() as stack:
            spools: dict[str, BinaryIO] = {
                kind: stack.enter_context(tempfile.TemporaryFile(prefix="openai-batch-"))
                for kind in ("output", "error")
            }
            for file in self.names(".jsonl"):
                for line in self.lines(file):
                    value = parse_line(line)
                    if value is not None and value["custom_id"] not in seen:
                        seen.add(value["custom_id"])
                        spools["output" if _is_good(value) else "error"].write(line)
            sizes: Sizes = {kind: self._publish_one(kind, spool) for kind, spool in spools.items()}
        self._store.put(self._done, orjson.dumps({**sizes, "again": again}))
        return sizes

    def _publish_one(self, kind: str, spool: BinaryIO) -> int | None:
        size = spool.tell()
        if not size:
            return None
        spool.seek(0)
        with self._store.publish(f"{RAW}/{self._name}.{kind}.jsonl") as target:
            while piece := spool.read(_PIECE):
                target.write(piece)
        return size

    def sweep(self) -> None:
        """Remove what is in the raw files now."""
        self._store.remove([f"{self._folder}/{file}" for file in self._listed])
        self._store.prune(self._folder)


class _Run:
    """One process's part of the work: gives requests out as they are claimed, and writes answers as they come."""

    progress: Progress

    def __init__(
        self,
        folder: _Folder,
        answered: set[str],
        clock: Callable[[], float],
        rows: int,
        reserve: Callable[[Sequence[bytes]], None] | None,
    ) -> None:
        self._folder = folder
        self._answered = answered
        self._clock = clock
        self._rows = rows
        self._reserve = reserve
        self._claimed: deque[tuple[str, bytes]] = deque()
        self._answers: list[bytes] = []
        self._bytes = 0
        self._written_at = clock()

    def requests(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the lines that aren't answered yet, each after its claim."""
        chunk: list[tuple[str, bytes]] = []
        size = 0
        for line in lines:
            wire = _wire_of(line)
            if wire is None or wire in self._answered:
                continue
            if chunk and (len(chunk) == self._rows or size + len(line) > MOST_BYTES):
                yield from self._given_out(chunk)
                chunk, size = [], 0
            chunk.append((wire, line))
            size += len(line)
        if chunk:
            yield from self._given_out(chunk)

    def _given_out(self, chunk: list[tuple[str, bytes]]) -> Iterator[bytes]:
        if self._reserve is not None:
            self._reserve([line for _, line in chunk])
        self._folder.claim(self._clock(), [wire for wire, _ in chunk])
        self._claimed.extend(chunk)
        while self._claimed:
            yield self._claimed.popleft()[1]

    def take(self, line: bytes) -> None:
        """Keep an answer."""
        value = parse_line(line)
        if value is None:
            raise ValueError(f"no answer to any row: {line[:100]!r}")
        if value["custom_id"] in self._answered:
            return
        self._answers.append(line)
        self._answered.add(value["custom_id"])
        self._bytes += len(line)
        self.progress.add(1)
        due = self._clock() - self._written_at >= LONGEST
        if due or len(self._answers) >= self._rows or self._bytes >= MOST_BYTES:
            self.write()

    def write(self) -> None:
        """Write the answers that have come in."""
        if self._answers:
            self._folder.add(".jsonl", b"".join(self._answers))
            self._answers, self._bytes = [], 0
        self._written_at = self._clock()

    def stop(self) -> None:
        """Leave all as it is to be found by whoever goes on; what can't be written now is asked for again."""
        try:
            self.write()
            if self._claimed:
                wires = [wire for wire, _ in self._claimed]
                self._folder.add(".free.json", orjson.dumps({"at": self._clock(), "rows": wires}))
        except StoreError as error:
            log.warning("Answers that came in, or what wasn't sent, couldn't be kept: %s", error)


def _wire_of(line: bytes) -> str | None:
    found = _wire(line)
    if found is not None:
        return found[1].decode()
    value = parse_line(line)
    return None if value is None else str(value["custom_id"])


def _is_good(value: dict[str, Any]) -> bool:
    response = value.get("response")
    return isinstance(response, dict) and response.get("status_code") in _GOOD
