"""What of a plan needn't be bought, or is bought first; between the plan and the job's record.

Rows that the cache has answers for, and rows whose request is another row's, are taken out of the shards; a sample for
the canary gets shards of its own. What is left is packed anew, so that a job with two new rows in a hundred makes a
fiftieth of the batches. Where nothing is taken out, the plan stays as it is.

Beside the shards stands what landing needs for the rest, in the order of rows::

    _job/sift/cached.jsonl    answers of the cache, as lines of an output file
    _job/sift/repeats.bin     pairs of row and the row whose answer it shares (int64, little-endian)
    _job/sift/keys.bin        the cache's key of every row, 16 bytes each
"""

from __future__ import annotations

import random
import struct
import tempfile
from array import array
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO

import orjson

from airflow_openai_batch.engine.planner import OvertakenError
from airflow_openai_batch.engine.progress import Progress
from airflow_openai_batch.engine.records import Sifting
from airflow_openai_batch.engine.shards import SHARDS, Kind, Limits, ShardWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from airflow_openai_batch.engine.cache import Cache
    from airflow_openai_batch.engine.models import Plan, Shard
    from airflow_openai_batch.engine.sampling import Sampler
    from airflow_openai_batch.engine.store import Store

CACHED = "_job/sift/cached.jsonl"
REPEATS = "_job/sift/repeats.bin"
KEYS = "_job/sift/keys.bin"

PAIR = struct.Struct("<qq")
KEY_BYTES = 16

_BUY, _CACHED, _REPEAT, _CANARY = range(4)
_PIECE = 1 << 20
_EVERY = 1_000


@dataclass(frozen=True)
class Wish:
    """What to look for.

    :param deduplicate: send equal requests once.
    :param canary: rows that are asked first.
    :param cache: where answers of earlier jobs are.
    """

    deduplicate: bool = False
    canary: int = 0
    cache: Cache | None = None

    def __bool__(self) -> bool:
        return self.deduplicate or self.canary > 0 or self.cache is not None


class Sifter:
    """Sifts one plan.

    :param measure: gives a line's row number and how much of the batch's count it takes up.
    :param its_turn: asked before files are published: whether no other attempt has begun to plan since.
    :param sampler: weighs what is left to buy.
    """

    def __init__(
        self,
        store: Store,
        wish: Wish,
        *,
        endpoint: str,
        limits: Limits,
        measure: Callable[[bytes], tuple[int, int]],
        its_turn: Callable[[], bool],
        sampler: Sampler,
    ) -> None:
        self._store = store
        self._wish = wish
        self._endpoint = endpoint
        self._limits = limits
        self._measure = measure
        self._its_turn = its_turn
        self._sampler = sampler

    def sift(self, plan: Plan) -> tuple[Plan, Sifting]:
        """Return the plan of what is to be bought, and what isn't.

        :raises OvertakenError: another attempt has begun to plan the same job.
        """
        flags = bytearray(plan.rows)
        cached = repeats = 0
        with ExitStack() as stack:
            if self._wish.deduplicate or self._wish.cache is not None:
                keys = stack.enter_context(tempfile.TemporaryFile(prefix="openai-batch-keys-"))
                self._write_keys(plan, keys)
                cached = self._find_cached(keys, flags)
                repeats = self._find_repeats(keys, flags) if self._wish.deduplicate else 0
        self._choose_canary(flags)
        sifting = Sifting(cached, repeats, tuple(shard.model for shard in plan.shards))
        shards = self._repack(plan, flags) if any(flags) else plan.shards
        return replace(plan, shards=shards), sifting

    def _lines(self, shard: Shard) -> Iterator[bytes]:
        with self._store.open(f"{SHARDS}/{shard.name}") as lines:
            yield from lines

    def _write_keys(self, plan: Plan, keys: BinaryIO) -> None:
        """Write the key of each request at its row's place; keep them with the job where answers are to be cached."""
        from airflow_openai_batch.engine.cache import request_key

        progress = Progress("Looking at requests", "rows", plan.rows)
        for shard in plan.shards:
            following = -1
            for number, line in enumerate(self._lines(shard), 1):
                row, _ = self._measure(line)
                if row != following:
                    keys.seek(row * KEY_BYTES)
                keys.write(request_key(self._endpoint, orjson.loads(line)["body"]))
                following = row + 1
                if not number % _EVERY:
                    progress.add(_EVERY)
        if self._wish.cache is not None:
            self._check_turn()
            with self._store.publish(KEYS) as target:
                keys.seek(0)
                while piece := keys.read(_PIECE):
                    target.write(piece)

    def _find_cached(self, keys: BinaryIO, flags: bytearray) -> int:
        """Write the answers that the cache has, by row; return how many."""
        if self._wish.cache is None:
            return 0
        rows, starts, lengths = array("q"), array("q"), array("q")
        with tempfile.TemporaryFile(prefix="openai-batch-cached-") as spool:
            for row, answer in self._wish.cache.look_up((key, row) for row, key in enumerate(_read(keys))):
                rows.append(row)
                starts.append(spool.tell())
                lengths.append(len(answer))
                spool.write(answer)
                flags[row] = _CACHED
            if not rows:
                return 0
            self._check_turn()
            with self._store.publish(CACHED) as target:
                for place in sorted(range(len(rows)), key=rows.__getitem__):
                    spool.seek(starts[place])
                    # Both are objects: the answer's first brace makes room for whose it is now.
                    target.write(b'{"custom_id":"r%d",%b\n' % (rows[place], spool.read(lengths[place])[1:]))
        return len(rows)

    def _find_repeats(self, keys: BinaryIO, flags: bytearray) -> int:
        """Write which rows share another's answer; return how many. The first of equal rows is the one that is sent."""
        twice = _twice(key for row, key in enumerate(_read(keys)) if not flags[row])
        first: dict[bytes, int] = {}
        pairs = array("q")
        for row, key in enumerate(_read(keys)):
            if flags[row] or not twice or int.from_bytes(key[:8], "big") not in twice:
                continue
            leader = first.setdefault(key, row)
            if leader != row:
                flags[row] = _REPEAT
                pairs.extend((row, leader))
        if pairs:
            self._check_turn()
            with self._store.publish(REPEATS) as target:
                for start in range(0, len(pairs), _PIECE):
                    piece = pairs[start : start + _PIECE]
                    target.write(struct.pack(f"<{len(piece)}q", *piece))
        return len(pairs) // 2

    def _choose_canary(self, flags: bytearray) -> None:
        """Mark rows across all that are to be bought; the same in every run."""
        left = flags.count(_BUY)
        wanted = min(self._wish.canary, left)
        if not wanted:
            return
        dice = random.Random(0)  # noqa: S311 - a sample, no secret
        chosen, place = sorted(dice.sample(range(left), wanted)), -1
        upcoming = iter(chosen)
        target = next(upcoming, None)
        for row, flag in enumerate(flags):
            if flag != _BUY:
                continue
            place += 1
            if place == target:
                flags[row] = _CANARY
                target = next(upcoming, None)
                if target is None:
                    return

    def _repack(self, plan: Plan, flags: bytearray) -> tuple[Shard, ...]:
        """Write what is left into shards of its own, and remove the plan's."""
        done: list[Shard] = []
        writers: dict[tuple[str, Kind], ShardWriter] = {}
        try:
            for shard in plan.shards:
                for line in self._lines(shard):
                    row, inputs = self._measure(line)
                    flag = flags[row]
                    if flag not in {_BUY, _CANARY}:
                        continue
                    kind: Kind = "canary" if flag == _CANARY else "sifted"
                    place = (shard.model, kind)
                    writer = writers.get(place)
                    if writer is not None and writer.add(row, line, inputs):
                        continue
                    if writer is not None:
                        self._check_turn()
                        done.append(writers.pop(place).close())
                    tally = self._sampler.tally(shard.model)
                    number = len(done) + len(writers)
                    writer = ShardWriter(self._store, number, 0, shard.model, self._limits, kind=kind, tally=tally)
                    writers[place] = writer
                    writer.add(row, line, inputs)
            self._check_turn()
            done.extend(writer.close() for writer in writers.values())
        except BaseException:
            for writer in writers.values():
                writer.abandon()
            raise
        self._store.remove([f"{SHARDS}/{shard.name}" for shard in plan.shards])
        return tuple(sorted(done, key=lambda item: item.number))

    def _check_turn(self) -> None:
        if not self._its_turn():
            raise OvertakenError


def _twice(keys: Iterable[bytes]) -> set[int]:
    """Return the beginnings of keys that more than one key has; eight bytes of memory a key."""
    buckets: tuple[array[int], ...] = tuple(array("Q") for _ in range(256))
    for key in keys:
        buckets[key[0]].append(int.from_bytes(key[:8], "big"))
    twice: set[int] = set()
    for bucket in buckets:
        if len(set(bucket)) < len(bucket):
            twice.update(start for start, times in Counter(bucket).items() if times > 1)
    return twice


def _read(keys: BinaryIO) -> Iterator[bytes]:
    """Yield the keys in the order of rows."""
    keys.seek(0)
    while piece := keys.read(_PIECE):
        for start in range(0, len(piece), KEY_BYTES):
            yield piece[start : start + KEY_BYTES]
