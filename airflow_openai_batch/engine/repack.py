"""Shards made of shards: those of a later round, and the halves of one that is too large. Lines stay as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_openai_batch.engine.halves import halves_of
from airflow_openai_batch.engine.shards import SHARDS, Limits, ShardWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from airflow_openai_batch.engine.models import Shard
    from airflow_openai_batch.engine.store import Store


def repack(
    store: Store,
    round_: int,
    shards: Iterable[tuple[Shard, set[int]]],
    limits: Limits,
    measure: Callable[[bytes], tuple[int, int]],
) -> tuple[Shard, ...]:
    """Write the shards of a later round: the same lines, only for the rows that may go again.

    :param shards: shards of round 0 with the rows wanted of each.
    :param measure: gives a line's row number and how much of the batch's count it takes up.
    """
    done: list[Shard] = []
    writers: dict[str, ShardWriter] = {}
    try:
        for shard, wanted in shards:
            with store.open(f"{SHARDS}/{shard.name}") as lines:
                for line in lines:
                    row, inputs = measure(line)
                    if row not in wanted:
                        continue
                    writer = writers.get(shard.model)
                    if writer is not None and writer.add(row, line, inputs):
                        continue
                    if writer is not None:
                        done.append(writers.pop(shard.model).close())
                    number = len(done) + len(writers)
                    writer = writers[shard.model] = ShardWriter(store, number, round_, shard.model, limits)
                    writer.add(row, line, inputs)
        done.extend(writer.close() for writer in writers.values())
    except BaseException:
        for writer in writers.values():
            writer.abandon()
        raise
    return tuple(sorted(done, key=lambda item: item.number))


def halve(store: Store, shard: Shard, measure: Callable[[bytes], tuple[int, int]]) -> tuple[Shard, Shard]:
    """Write the two halves of a shard: the same lines in two files."""
    first, second = (ShardWriter(store, number, shard.round, shard.model) for number in halves_of(shard.number))
    try:
        with store.open(f"{SHARDS}/{shard.name}") as lines:
            for number, line in enumerate(lines):
                row, inputs = measure(line)
                (first if number < shard.rows // 2 else second).add(row, line, inputs)
        return first.close(), second.close()
    except BaseException:
        first.abandon()
        second.abandon()
        raise
