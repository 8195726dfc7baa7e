"""One shard being written: what a batch may hold, and the file on its way to the store."""

from __future__ import annotations

import contextlib
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO, Literal

from airflow_openai_batch.engine.behind import PIECE, WriteBehind
from airflow_openai_batch.engine.chunks import Portion
from airflow_openai_batch.engine.digests import new_digest
from airflow_openai_batch.engine.models import Range, Shard
from airflow_openai_batch.engine.requests import BYTES_PER_TOKEN, MAX_BYTES, MAX_REQUESTS

if TYPE_CHECKING:
    from airflow_openai_batch.engine.sampling import Tally
    from airflow_openai_batch.engine.store import Store

Kind = Literal["plan", "sifted", "canary"]

SHARDS = "_job/shards"

MAX_SPANS = 1_000
"""Ranges kept for a shard whose rows are scattered; past that the file itself tells which rows it holds."""


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
        self.room = bytes if tokens is None else min(bytes, tokens * BYTES_PER_TOKEN)


class Sink:
    """One file being written: gathers lines; a thread digests and writes them, neither of which holds Python's lock.

    :param store: None to digest alone.
    """

    def __init__(self, store: Store | None, name: str) -> None:
        self._stack = ExitStack()
        self._file: BinaryIO | None = self._stack.enter_context(store.publish(name)) if store else None
        self._lines: list[bytes] = []
        self._due = PIECE
        self._digest = new_digest()
        self._behind: WriteBehind | None = None
        self.bytes = 0

    def write(self, lines: bytes) -> None:
        """Append lines."""
        self._lines.append(lines)
        self.bytes += len(lines)
        if self.bytes >= self._due:
            self._flush()

    def _flush(self) -> None:
        if self._behind is None:
            self._behind = WriteBehind(self._take)
        self._behind.writelines(self._lines)
        self._lines.clear()
        self._due = self.bytes + PIECE

    def _take(self, piece: bytes) -> None:
        self._digest.update(piece)
        if self._file is not None:
            self._file.write(piece)

    def publish(self) -> str:
        """Publish the file; return its digest."""
        if self._behind is None:
            self._take(b"".join(self._lines))
        else:
            self._behind.writelines(self._lines)
            self._behind.finish()
        self._stack.close()
        return self._digest.hexdigest()

    def abandon(self) -> None:
        """Leave nothing behind."""
        if self._behind is not None:
            self._behind.give_up()
        with contextlib.suppress(_AbandonedError):
            self._stack.__exit__(_AbandonedError, _AbandonedError(), None)


class ShardWriter(Sink):
    """Writes one shard; ``close`` publishes it and says what is in it. Rows come in ascending order.

    :param limits: what it may hold; None for whatever comes.
    :param tally: weighs its requests, and counts some of them.
    """

    def __init__(
        self,
        store: Store | None,
        number: int,
        round_: int,
        model: str,
        limits: Limits | None = None,
        *,
        kind: Kind = "plan",
        tally: Tally | None = None,
    ) -> None:
        self._shard = Shard(number, round_, 0, 0, model, 0, 0, (), 0, "", kind)
        self._tally = tally
        super().__init__(store, f"{SHARDS}/{self._shard.name}")
        self._room = float("inf") if limits is None else limits.room
        self._requests = float("inf") if limits is None else limits.requests
        self._spans: list[Range] | None = []
        self._first = self._last = self._run = -1
        self._rows = self._inputs = 0
        self.number = number

    def add(self, row: int, line: bytes, inputs: int) -> bool:
        """Append the request of a row.

        :return: whether there was room for it; there always is for the first.
        """
        portion = Portion((row,), line, inputs, lambda _: line)
        if not self.has_room(portion):
            return False
        self.take(portion)
        return True

    def has_room(self, portion: Portion) -> bool:
        """Whether there is room for all of some requests; there always is for the first."""
        full = self.bytes + len(portion.lines) > self._room or self._inputs + portion.inputs > self._requests
        return not full or (not self._rows and len(portion.numbers) == 1)

    def take(self, portion: Portion) -> None:
        """Append requests."""
        numbers = portion.numbers
        together = numbers[-1] - numbers[0] == len(numbers) - 1
        for first in numbers[:1] if together else numbers:
            if first != self._last + 1 or self._first < 0:
                self._begin_run(first)
            self._last = first
        self._last = numbers[-1]
        self._rows += len(numbers)
        self._inputs += portion.inputs
        if self._tally is not None:
            self._tally.take(len(numbers), len(portion.lines), portion.line)
        self.write(portion.lines)

    def _begin_run(self, row: int) -> None:
        self._end_run()
        self._run = row
        if self._first < 0:
            self._first = row

    def _end_run(self) -> None:
        if self._spans is not None and self._run >= 0:
            self._spans.append((self._run, self._last))
            if len(self._spans) > MAX_SPANS:
                self._spans = None

    def close(self) -> Shard:
        """Publish the file."""
        self._end_run()
        digest = self.publish()
        return replace(
            self._shard,
            rows=self._rows,
            bytes=self.bytes,
            first=self._first,
            last=self._last,
            spans=None if self._spans is None else tuple(self._spans),
            tokens=self.bytes // BYTES_PER_TOKEN,
            digest=digest,
        )
