"""Requests -> shards on the store, streamed: one pass, one shard of each model open at a time.

Two kinds of file come out, line for line in step with the rows: shards (``_job/shards``), which are uploaded as they
are, and joints (``_job/rows``), which hold what results need of a row: its number, the user's id and columns, and the
shard it went to. A joint file closes whenever a shard does, and becomes one part of the results, so that parts cover
consecutive rows even where several models are mixed.

Nothing of a plan with a problem in it is kept, and reading goes on to the end so that all problems are counted. When
reading breaks, what was written stays for the next try to write over: another attempt may be writing the same names.
"""

from __future__ import annotations

import contextlib
import hashlib
from array import array
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, BinaryIO, NoReturn

import orjson

from airflow_openai_batch.engine.behind import WriteBehind
from airflow_openai_batch.engine.columns import dump_schema
from airflow_openai_batch.engine.journal import JOB
from airflow_openai_batch.engine.models import Part, Plan, Range, Shard, SourceSpan
from airflow_openai_batch.engine.progress import Progress
from airflow_openai_batch.engine.requests import (
    BYTES_PER_TOKEN,
    MAX_BYTES,
    MAX_REQUESTS,
    Request,
    RequestBuilder,
    RowError,
)
from airflow_openai_batch.engine.sources import Row, Source, place
from airflow_openai_batch.engine.store import DRAFTS
from airflow_openai_batch.exceptions import MAX_PROBLEMS_SHOWN, InputError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_openai_batch.engine.store import Store

SHARDS = "_job/shards"
JOINTS = "_job/rows"

MAX_SPANS = 1_000
"""Ranges kept for a shard whose rows are scattered; past that the file itself tells which rows it holds."""

MAX_SOURCE_SPANS = 10_000
"""Jumps in line numbers that are kept for messages about a row's place."""

PROGRESS_EVERY = 1_000
"""Rows after which the clock is looked at."""

PIECE = 1 << 20
"""Bytes gathered before a write."""


class _Sink:
    """One file being written: gathers lines; a thread digests and writes them, neither of which holds Python's lock."""

    def __init__(self, store: Store | None, name: str) -> None:
        self._stack = ExitStack()
        self._file: BinaryIO | None = self._stack.enter_context(store.publish(name)) if store else None
        self._lines: list[bytes] = []
        self._gathered = 0
        self._digest = hashlib.blake2b(digest_size=16)
        self._behind: WriteBehind | None = None
        self.bytes = 0

    def write(self, line: bytes) -> None:
        self._lines.append(line)
        size = len(line)
        self.bytes += size
        self._gathered += size
        if self._gathered >= PIECE:
            self._flush()

    def _flush(self) -> None:
        if self._behind is None:
            self._behind = WriteBehind(self._take)
        self._behind.write(b"".join(self._lines))
        self._lines.clear()
        self._gathered = 0

    def _take(self, piece: bytes) -> None:
        self._digest.update(piece)
        if self._file is not None:
            self._file.write(piece)

    def close(self) -> str:
        """Publish the file; return its digest."""
        if self._behind is None:
            self._take(b"".join(self._lines))
        else:
            self._flush()
            self._behind.finish()
        self._stack.close()
        return self._digest.hexdigest()

    def abandon(self) -> None:
        """Leave nothing behind."""
        if self._behind is not None:
            self._behind.give_up()
        with contextlib.suppress(_AbandonedError):
            self._stack.__exit__(_AbandonedError, _AbandonedError(), None)


class ShardWriter:
    """Writes one shard; ``close`` publishes it and says what is in it."""

    def __init__(self, store: Store | None, number: int, round_: int, model: str) -> None:
        self._shard = Shard(number, round_, 0, 0, model, 0, 0, (), 0, "")
        self._sink = _Sink(store, f"{SHARDS}/{self._shard.name}")
        self._spans: list[Range] | None = []
        self._first = self._last = self._run = -1
        self.number = number
        self.rows = 0
        self.inputs = 0
        self.size = 0

    def add(self, row: int, line: bytes, inputs: int) -> None:
        """Append the request of a row; rows come in ascending order."""
        self._sink.write(line)
        self.rows += 1
        self.inputs += inputs
        self.size += len(line)
        if row != self._last + 1 or self._first < 0:
            self._end_run()
            self._run = row
            if self._first < 0:
                self._first = row
        self._last = row

    def _end_run(self) -> None:
        if self._spans is not None and self._run >= 0:
            self._spans.append((self._run, self._last))
            if len(self._spans) > MAX_SPANS:
                self._spans = None

    def close(self) -> Shard:
        """Publish the file."""
        self._end_run()
        digest = self._sink.close()
        return Shard(
            number=self.number,
            round=self._shard.round,
            rows=self.rows,
            bytes=self._sink.bytes,
            model=self._shard.model,
            first=self._first,
            last=self._last,
            spans=None if self._spans is None else tuple(self._spans),
            tokens=self._sink.bytes // BYTES_PER_TOKEN,
            digest=digest,
        )

    def abandon(self) -> None:
        """Leave nothing behind."""
        self._sink.abandon()


class OvertakenError(Exception):
    """Another attempt has begun to plan the same job; its files must not be overwritten."""


class _AbandonedError(Exception):
    """Thrown into the store's writers so that they publish nothing."""


class Limits:
    """What a batch may hold.

    :param requests: requests, or for embeddings inputs; OpenAI takes 50,000.
    :param bytes: bytes of the input file; OpenAI takes 209,715,200.
    :param tokens: input tokens, estimated, that the user allows to be in flight; None for no limit. A single request
        may have more.
    """

    def __init__(
        self,
        requests: int = MAX_REQUESTS,
        bytes: int = MAX_BYTES,  # noqa: A002 - the field's word
        tokens: int | None = None,
    ) -> None:
        self.requests = requests
        self.bytes = bytes
        self._room = bytes if tokens is None else min(bytes, tokens * BYTES_PER_TOKEN)

    def full(self, writer: ShardWriter, line: bytes, inputs: int) -> bool:
        """Whether the shard has no room for one more request."""
        return writer.inputs + inputs > self.requests or writer.size + len(line) > self._room


class Planner:
    """Makes the plan of a job.

    :param store: where shards and joints go; None to read and check alone (the plan's digest is the same).
    :param its_turn: asked before each file is published: whether no other attempt has begun to plan since.
    """

    def __init__(
        self,
        store: Store | None,
        builder: RequestBuilder,
        limits: Limits,
        its_turn: Callable[[], bool] = lambda: True,
    ) -> None:
        self._store = store
        self._its_turn = its_turn
        self._builder = builder
        self._limits = limits
        self._open: dict[str, ShardWriter] = {}
        self._shards: list[Shard] = []
        self._parts: list[Part] = []
        self._sources: list[SourceSpan] = []
        self._written: list[str] = []
        self._joint: _Sink | None = None
        self._part_first = 0
        self._digest = hashlib.blake2b(digest_size=16)
        self._ids: tuple[array[int], ...] = tuple(array("q") for _ in range(256))
        self._problems: list[Problem] = []
        self._count = 0

    def plan(self, source: Source) -> Plan:
        """Read the source once and write its shards.

        :raises InputError: there are problems, or no rows; nothing is left on the store.
        """
        try:
            rows = self._read(source)
            if not rows and not self._count:
                self._problem(Problem("source", "", "it has no rows"))
            self._find_duplicates(source)
            if self._count:
                raise InputError(self._problems, self._count)  # noqa: TRY301 - one way out for every failure
            for model in list(self._open):
                self._close_shard(model)
            self._close_part(rows)
        except BaseException as error:
            self._abandon(tidy=isinstance(error, InputError))
            raise
        schema = source.schema()
        return Plan(
            rows,
            tuple(self._shards),
            tuple(self._parts),
            tuple(self._sources),
            self._digest.hexdigest(),
            "" if schema is None else dump_schema(schema),
        )

    def _read(self, source: Source) -> int:
        rows = number = 0
        build, most_bytes, most_requests = self._builder.build, self._limits.bytes, self._limits.requests
        next_line, last_path = -1, ""
        progress = Progress("Planning", "rows")
        for row in source.rows():
            if isinstance(row, Problem):
                self._problem(row)
                continue
            path, line, data = row
            if line != next_line or path != last_path:
                self._note_jump(rows, path, line)
                last_path = path
            next_line = line + 1
            try:
                requests = build(rows, data)
                for request in requests:
                    if len(request.line) > most_bytes or request.inputs > most_requests:
                        self._refuse(request)
            except RowError as error:
                self._problem(Problem(row.where, error.field, str(error)))
            else:
                number = self._keep(number, requests)
            rows += 1
            if not rows % PROGRESS_EVERY:
                progress.add(PROGRESS_EVERY, source.fraction())
        return number

    def _keep(self, number: int, requests: tuple[Request, ...]) -> int:
        custom_id = requests[0].custom_id
        if custom_id is not None:
            key = hash(custom_id)
            self._ids[key & 255].append(key)
        if not self._count:
            for request in requests:
                self._add(number, request)
                number += 1
        return number

    def _note_jump(self, row: int, path: str, line: int) -> None:
        if len(self._sources) < MAX_SOURCE_SPANS:
            self._sources.append(SourceSpan(row, path, line))

    def _refuse(self, request: Request) -> NoReturn:
        if len(request.line) > self._limits.bytes:
            raise RowError("", f"its request has {len(request.line):,} bytes; a batch takes {self._limits.bytes:,}")
        raise RowError("input", f"{request.inputs:,} inputs; a batch takes {self._limits.requests:,}")

    def _problem(self, problem: Problem) -> None:
        self._count += 1
        if len(self._problems) < MAX_PROBLEMS_SHOWN:
            self._problems.append(problem)

    def _add(self, number: int, request: Request) -> None:
        writer = self._open.get(request.model)
        if writer is not None and self._limits.full(writer, request.line, request.inputs):
            self._close_shard(request.model)
            self._close_part(number)
            writer = None
        if writer is None:
            shard = len(self._shards) + len(self._open)
            writer = self._open[request.model] = ShardWriter(self._store, shard, 0, request.model)
        writer.add(number, request.line, request.inputs)
        if self._joint is None:
            name = f"{JOINTS}/{len(self._parts):05d}.jsonl"
            self._joint = _Sink(self._store, name)
            self._written.append(name)
        self._joint.write(b'{"shard":%d,%b}\n' % (writer.number, request.joint))

    def _check_turn(self) -> None:
        if not self._its_turn():
            raise OvertakenError

    def _close_shard(self, model: str) -> None:
        self._check_turn()
        shard = self._open[model].close()
        del self._open[model]
        self._written.append(f"{SHARDS}/{shard.name}")
        self._shards.append(shard)
        self._shards.sort(key=lambda item: item.number)
        self._digest.update(f"{shard.number}:{shard.digest}".encode())

    def _close_part(self, next_row: int) -> None:
        if self._joint is None:
            return
        self._check_turn()
        digest = self._joint.close()
        self._digest.update(digest.encode())
        rows = next_row - self._part_first
        self._parts.append(Part(len(self._parts), self._part_first, rows, digest))
        self._part_first = next_row
        self._joint = None

    def _abandon(self, *, tidy: bool) -> None:
        for writer in self._open.values():
            writer.abandon()
        if self._joint is not None:
            self._joint.abandon()
        # Another attempt may be at the same plan, and then these are its files too; only bad input fails for all.
        if tidy and self._store is not None and not self._store.exists(JOB):
            self._store.remove(self._written)
            for folder in (DRAFTS, SHARDS, JOINTS):
                self._store.prune(folder)

    def _find_duplicates(self, source: Source) -> None:
        """Report user ids that stand twice. Hashes are kept while reading; only a hit costs a second reading."""
        twice: set[int] = set()
        for bucket in self._ids:
            if len(set(bucket)) < len(bucket):
                twice.update(key for key, times in Counter(bucket).items() if times > 1)
        if not twice:
            return
        places: dict[str, str] = {}
        reread = False
        for row in source.rows():
            reread = True
            custom_id = row.data.get("custom_id") if isinstance(row, Row) else None
            if isinstance(row, Problem) or custom_id is None or hash(str(custom_id)) not in twice:
                continue
            first = places.setdefault(str(custom_id), row.where)
            if first != row.where:
                self._problem(Problem(row.where, "custom_id", f"{custom_id!r} stands already at {first}"))
        if not reread:
            self._find_duplicates_written(twice)

    def _find_duplicates_written(self, twice: set[int]) -> None:
        """Name the ids that stand twice in a source that can be read only once, as the joints have them."""
        if self._store is None:
            self._problem(Problem("source", "custom_id", f"{len(twice):,} of them stand more than once"))
            return
        self._close_part(0)
        places: dict[str, str] = {}
        for name in (name for name in self._written if name.startswith(JOINTS)):
            with self._store.open(name) as joints:
                for joint in map(orjson.loads, joints):
                    custom_id, where = joint["custom_id"], place("", joint["row"] + 1)
                    first = places.setdefault(custom_id, where) if hash(custom_id) in twice else where
                    if first != where:
                        self._problem(Problem(where, "custom_id", f"{custom_id!r} stands already at {first}"))


__all__ = ["JOINTS", "SHARDS", "Limits", "OvertakenError", "Planner", "ShardWriter"]
