"""Answers of a job that was sifted: from the cache, by another row with the same request, or bought.

Rows are asked for in ascending order, so what the sieve wrote in that order is read along; only the answer that
another row gave is looked up, wherever it stands.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

import orjson

from airflow_openai_batch.engine.answers import Answer, parse_line, parse_lines, read_line
from airflow_openai_batch.engine.sift import CACHED, KEY_BYTES, KEYS, PAIR, REPEATS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_openai_batch.engine.answers import Check
    from airflow_openai_batch.engine.cache import Cache
    from airflow_openai_batch.engine.records import Sifting
    from airflow_openai_batch.engine.store import Store

_NEVER = -1


class Known(NamedTuple):
    """A row that wasn't bought.

    :param answer: from the cache, None where another row gave it.
    :param row: whose request was sent.
    """

    answer: Answer | None
    row: int


class Sifted:
    """Reads along what the sieve wrote."""

    def __init__(self, store: Store, sifting: Sifting, check: Check | None) -> None:
        self._stack = ExitStack()
        self._check = check
        self._cached = self._open_cached(store) if sifting.cached else iter(())
        self._repeats = self._open_repeats(store) if sifting.repeats else iter(())
        self._next_cached = next(self._cached, None)
        self._next_repeat = next(self._repeats, (_NEVER, _NEVER))

    def _open_cached(self, store: Store) -> Iterator[dict[str, Any]]:
        lines = self._stack.enter_context(store.open(CACHED))
        return (value for value in parse_lines(lines) if value is not None)

    def _open_repeats(self, store: Store) -> Iterator[tuple[int, int]]:
        pairs = self._stack.enter_context(store.open(REPEATS))
        while len(pair := pairs.read(PAIR.size)) == PAIR.size:
            row, leader = PAIR.unpack(pair)
            yield row, leader

    def known(self, row: int, wire: str) -> Known | None:
        """Return what is known of a row, None where its request was sent."""
        if self._next_cached is not None and self._next_cached["custom_id"] == wire:
            answer = read_line(self._next_cached, self._check)
            self._next_cached = next(self._cached, None)
            return Known(answer._replace(usage=None), row)
        if self._next_repeat[0] == row:
            leader = self._next_repeat[1]
            self._next_repeat = next(self._repeats, (_NEVER, _NEVER))
            return Known(None, leader)
        return None

    def close(self) -> None:
        """Close the files."""
        self._stack.close()


class Harvest:
    """Gathers the answers of a landing that are worth keeping, for the cache.

    They wait in a file until the landing is over, since one that breaks is begun anew.
    """

    def __init__(self, store: Store) -> None:
        self._stack = ExitStack()
        self._keys = self._stack.enter_context(store.open(KEYS))
        self._row = 0
        self._spool = cast(
            "BinaryIO",
            self._stack.enter_context(tempfile.TemporaryFile(prefix="openai-batch-answers-")),  # noqa: SIM115 - the stack's
        )

    def take(self, row: int, line: bytes) -> None:
        """Keep the answer of a row; rows come in ascending order.

        :param line: its line of an output file.
        """
        answer = orjson.dumps({"response": (parse_line(line) or {})["response"]})
        if row != self._row:
            self._keys.seek(row * KEY_BYTES)
        self._row = row + 1
        self._spool.write(self._keys.read(KEY_BYTES) + len(answer).to_bytes(8, "little") + answer)

    def drop(self) -> None:
        """Forget what was gathered: the landing is begun anew."""
        self._spool.seek(0)
        self._spool.truncate()

    def bring(self, cache: Cache, writer: str) -> int:
        """Add what was gathered to the cache; return how many answers."""
        self._spool.seek(0)
        return cache.add(self._entries(), writer=writer)

    def _entries(self) -> Iterator[tuple[bytes, bytes]]:
        read: Callable[[int], bytes] = self._spool.read
        while key := read(KEY_BYTES):
            yield key, read(int.from_bytes(read(8), "little"))

    def close(self) -> None:
        """Forget them."""
        self._stack.close()
