"""OpenAI's files -> raw on the store, streamed through a spool on the local disk, and counted on the way.

Output and error file are both read whatever the batch's status: an expired or cancelled batch keeps, and charges, what
it finished. A file is published whole or not at all, and the ``end`` entry is written only when both are there.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from airflow_openai_batch.engine.answers import RANK, Answer, Check, parse_line
from airflow_openai_batch.engine.late import names_too_little
from airflow_openai_batch.engine.models import BatchIssue, BatchSnapshot, Key, Shard, Usage
from airflow_openai_batch.engine.quick import line_reader
from airflow_openai_batch.engine.raws import RAW
from airflow_openai_batch.engine.records import Attempt, EndRecord, RowIssue
from airflow_openai_batch.engine.requests import row_of
from airflow_openai_batch.engine.results import absent
from airflow_openai_batch.engine.rounds import compress, expand
from airflow_openai_batch.engine.shards import SHARDS
from airflow_openai_batch.exceptions import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from airflow_openai_batch.engine.api import BatchAPI
    from airflow_openai_batch.engine.store import Store

log = logging.getLogger(__name__)

MAX_ISSUES = 1_000
"""Validation errors kept by row; a batch with more is taken to have failed as a whole."""

_PIECE = 1 << 20

_TRIES = 3
"""Downloads of a file that seems to be cut."""

_NEVER_RAN = frozenset({"expired", "cancelled"})


@dataclass
class _Count:
    """What was counted so far.

    :ivar lesser: what a better line of the same row would take the place of, and its model.
    """

    rows: dict[str, int] = field(default_factory=dict)
    open: dict[str, set[int]] = field(default_factory=dict)
    lesser: dict[str, tuple[Answer, str]] = field(default_factory=dict)
    noise: dict[str, int] = field(default_factory=lambda: {"duplicate": 0, "unknown": 0, "unreadable": 0})
    usage: dict[str, dict[str, int]] = field(default_factory=dict)
    answered: int = 0

    def add(self, row: int, status: str, *, may_repeat: bool, open_as: str = "") -> None:
        self.rows[status] = self.rows.get(status, 0) + 1
        if may_repeat:
            self.open.setdefault(open_as or status, set()).add(row)

    def add_usage(self, model: str, tokens: dict[str, int]) -> None:
        total = self.usage.setdefault(model, dict.fromkeys(tokens, 0))
        for name, number in tokens.items():
            total[name] += number

    def take_back(self, row: int, better: Answer) -> bool:
        """Forget what was counted of a row if this line is better; whether it is."""
        before, model = self.lesser.get(better.wire, (None, ""))
        if before is None or RANK.get(better.status, 0) <= RANK.get(before.status, 0):
            return False
        del self.lesser[better.wire]
        self.rows[before.status] -= 1
        if not self.rows[before.status]:
            del self.rows[before.status]
        if before.may_repeat:
            self.open[before.status].discard(row)
        self.answered -= before.status not in _NEVER_RAN
        if before.usage is not None:
            self.add_usage(model, {name: -number for name, number in before.usage.items()})
        return True


class _NotWholeError(Exception):
    """What came in place of a file isn't what it holds, or not all of it."""


class Collector:
    """Brings ended batches to the store.

    :param foreign: the batch was made elsewhere: its wire ids are the user's own, none of its rows goes again.
    """

    def __init__(
        self, api: BatchAPI, store: Store, check: Check | None, clock: Callable[[], float], *, foreign: bool
    ) -> None:
        self._api = api
        self._store = store
        self._check = check
        self._clock = clock
        self._foreign = foreign

    def collect(self, shard: Shard, attempt: Attempt, snapshot: BatchSnapshot, *, final: bool) -> EndRecord | None:
        """Fetch what the batch returned and say what is in it; None where a file isn't there, and may still come.

        :param final: whether such a file is given up, and its rows are missing.
        """
        if names_too_little(snapshot) and not final:
            log.warning("Batch %s names no file though it counts answers; looking again in a while", snapshot.id)
            return None
        count = _Count()
        seen: set[str] = set()
        sizes: dict[str, int | None] = {}
        counts = snapshot.counts
        for kind, file_id, lines in (
            ("output", snapshot.output_file_id, counts.completed),
            ("error", snapshot.error_file_id, counts.failed),
        ):
            name = f"{RAW}/{attempt.key}.{kind}.jsonl"
            try:
                sizes[kind] = self._fetch(name, file_id, shard, count, seen, lines=lines, final=final)
            except (NotFoundError, _NotWholeError) as error:
                if not final:
                    log.warning("File %s of batch %s: %s; looking again in a while", file_id, snapshot.id, error)
                    return None
                log.warning("File %s of batch %s: %s; its rows are missing", file_id, snapshot.id, error)
                sizes[kind] = None
        return self._end(shard, snapshot, sizes, count, seen)

    def take(self, shard: Shard, key: Key, status: str = "completed") -> EndRecord:
        """Say what is in the raw files of requests that were asked directly.

        :param status: ``completed``, or ``cancelled`` where some weren't asked any more.
        """
        count = _Count()
        seen: set[str] = set()
        sizes: dict[str, int | None] = {}
        for kind in ("output", "error"):
            name = f"{RAW}/{key}.{kind}.jsonl"
            sizes[kind] = self._store.size(name) if self._store.exists(name) else None
            if sizes[kind]:
                with self._store.open(name) as lines:
                    self._scan(lines, shard, count, seen)
        return self._end(shard, BatchSnapshot("", status), sizes, count, seen)

    def _end(
        self, shard: Shard, snapshot: BatchSnapshot, sizes: dict[str, int | None], count: _Count, seen: set[str]
    ) -> EndRecord:
        issues, failure = self._issues(shard, snapshot)
        end = EndRecord(
            at=self._clock(),
            batch_id=snapshot.id,
            status=snapshot.status,
            output_bytes=sizes["output"],
            error_bytes=sizes["error"],
            files=tuple(
                file_id
                for file_id, kind in ((snapshot.output_file_id, "output"), (snapshot.error_file_id, "error"))
                if file_id and sizes[kind] is not None
            ),
            rows={},
            open={},
            answered=count.answered,
            usage={model: Usage(**tokens) for model, tokens in count.usage.items()},
            noise=count.noise,
            issues=issues,
            failure=failure,
        )
        if len(seen) < shard.rows:
            by_row = {issue.row: issue for issue in issues}
            listed = snapshot.status in count.rows
            for row, wire in self._members(shard):
                if wire not in seen:
                    answer = absent(wire, end, by_row.get(row), listed=listed)
                    # A row that never ran because of others in its batch has not had a try.
                    open_as = "blocked" if snapshot.status == "failed" else ""
                    count.add(row, answer.status, may_repeat=answer.may_repeat, open_as=open_as)
        ranges = (
            {} if self._foreign else {status: compress(sorted(rows)) for status, rows in count.open.items() if rows}
        )
        return EndRecord(**{**end.__dict__, "rows": count.rows, "open": ranges})

    def _fetch(
        self, name: str, file_id: str | None, shard: Shard, count: _Count, seen: set[str], *, lines: int, final: bool
    ) -> int | None:
        """Bring a file to the store and count what is in it.

        :param lines: how many the batch counts in it.
        :param final: whether it is taken as it is.
        :raises NotFoundError: it isn't there.
        :raises _NotWholeError: what came can't be it.
        """
        if not file_id:
            return None
        with tempfile.TemporaryFile(prefix="openai-batch-") as spool:
            size = self._download(file_id, spool, lines)
            spool.seek(0)
            before = len(seen) + sum(count.noise.values()) - count.noise["unreadable"]
            self._scan(spool, shard, count, seen)
            readable = len(seen) + sum(count.noise.values()) - count.noise["unreadable"] - before
            if not (final or readable):
                _check_kind(spool, size, some=lines > 0)
            spool.seek(0)
            with self._store.publish(name) as target:
                shutil.copyfileobj(spool, target, _PIECE)
        return size

    def _download(self, file_id: str, spool: BinaryIO, lines: int) -> int:
        """Bring a file to the local disk; one that seems to be cut once more, until two of them agree."""
        before = -1
        for _ in range(_TRIES):
            spool.seek(0)
            spool.truncate()
            size = self._api.download(file_id, spool)
            if not size or size == before or not _seems_cut(spool, size, lines):
                break
            before = size
        return size

    def _scan(self, lines: BinaryIO, shard: Shard, count: _Count, seen: set[str]) -> None:
        read = line_reader(self._check)
        for line in lines:
            answer = read(line)
            if answer is None:
                count.noise["unreadable"] += bool(line.strip())
                continue
            wire = answer.wire
            row: int | None = 0 if self._foreign else row_of(wire)
            if row is None or not (self._foreign or self._holds(shard, row)):
                count.noise["unknown"] += 1
                continue
            if wire in seen:
                count.noise["duplicate"] += 1
                if not count.take_back(row, answer):
                    continue
            seen.add(wire)
            model = shard.model or answer.model or ""
            if answer.usage is not None:
                count.add_usage(model, answer.usage)
            count.answered += answer.status not in _NEVER_RAN
            count.add(row, answer.status, may_repeat=answer.may_repeat)
            if answer.status != "succeeded":
                count.lesser[wire] = answer._replace(output=None, error=None), model

    @staticmethod
    def _holds(shard: Shard, row: int) -> bool:
        if not shard.first <= row <= shard.last:
            return False
        if shard.spans is None:
            return True
        place = bisect_right(shard.spans, (row, shard.last)) - 1
        return place >= 0 and shard.spans[place][0] <= row <= shard.spans[place][1]

    def _members(self, shard: Shard) -> Iterable[tuple[int, str]]:
        """Yield the rows of a shard with their wire ids, in the order of its lines."""
        if shard.spans is not None and not self._foreign:
            for row in expand(shard.spans):
                yield row, f"r{row}"
            return
        with self._store.open(f"{SHARDS}/{shard.name}") as lines:
            for number, line in enumerate(lines):
                value = parse_line(line)
                if value is not None:
                    ours = None if self._foreign else row_of(value["custom_id"])
                    yield number if ours is None else ours, value["custom_id"]

    def _issues(self, shard: Shard, snapshot: BatchSnapshot) -> tuple[tuple[RowIssue, ...], RowIssue | None]:
        """Map a failed batch's errors to rows; what has no line failed the batch as a whole."""
        if snapshot.status != "failed":
            return (), None
        by_line = {issue.line: issue for issue in snapshot.errors if issue.line}
        whole = [issue for issue in snapshot.errors if not issue.line]
        if not by_line or len(by_line) > MAX_ISSUES:
            return (), _row_issue(
                -1, (whole or [*by_line.values(), BatchIssue("batch_failed", "no reason was given")])[0]
            )
        rows = [
            _row_issue(row, by_line[number])
            for number, (row, _wire) in enumerate(self._members(shard), 1)
            if number in by_line
        ]
        return tuple(rows), _row_issue(-1, whole[0]) if whole else None


def _check_kind(file: BinaryIO, size: int, *, some: bool) -> None:
    """See whether a file of which no line can be read may be what the batch returned.

    :raises _NotWholeError: it is empty though it shouldn't be, or a page of something else.
    """
    if not size and some:
        raise _NotWholeError("it is empty though the batch counts rows in it")
    file.seek(0)
    if size and b'"custom_id"' not in file.read(_PIECE):
        raise _NotWholeError("no line of it is an answer")


def _seems_cut(file: BinaryIO, size: int, lines: int) -> bool:
    """Whether a file ends in the middle of a line, or has fewer than its batch counts."""
    if parse_line(_last_line(file, size)) is None:
        return True
    file.seek(0)
    return sum(piece.count(b"\n") for piece in iter(lambda: file.read(_PIECE), b"")) < lines - 1


def _last_line(file: BinaryIO, size: int) -> bytes:
    """Return what stands behind the last newline; ``{"custom_id":""}`` where there is nothing."""
    tail = b""
    for start in range(size - 1 - (size - 1) % _PIECE, -1, -_PIECE):
        file.seek(start)
        piece = file.read(min(_PIECE, size - start))
        _, newline, rest = piece.rpartition(b"\n")
        tail = rest + tail
        if newline:
            break
    return tail if tail.strip() else b'{"custom_id":""}'


def _row_issue(row: int, issue: BatchIssue) -> RowIssue:
    return RowIssue(row, issue.code, issue.message)
