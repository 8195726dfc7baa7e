"""Which rows make the next round. Pure: the journal in, row numbers out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_openai_batch.engine.journal import JobState
    from airflow_openai_batch.engine.models import Range

USES_A_TRY = ("failed", "missing", "invalid")
"""Open statuses that count towards ``max_rounds``; a row that never ran has not been tried."""

OVERDUE = "overdue"
"""Why a batch is cancelled that should have ended long ago."""

MAX_INVALID = 1
"""How often an answer that doesn't fit its schema is asked for again."""


def rows_to_repeat(state: JobState, max_rounds: int) -> tuple[Range, ...]:
    """Return the rows of the last round that may go again.

    A row that never ran (expired, or cancelled when its task was killed) may, as long as rounds bring answers at all;
    one that failed in passing or is missing may up to ``max_rounds`` tries; one with an answer that doesn't fit its
    schema, once.

    :param max_rounds: tries a row may have; 0 for a batch that is only landed.
    """
    if max_rounds < 1:
        return ()
    cancelled = {
        attempt.batch.batch_id: attempt.cancel
        for group in state.attempts.values()
        for attempt in group
        if attempt.cancel and attempt.cancel.again and attempt.batch
    }
    # A round that was cut short says nothing of what rounds bring; one that was stuck does.
    cut_short = {batch for batch, cancel in cancelled.items() if cancel.reason != OVERDUE}
    ended = [
        [attempt.end for shard in shards if (attempt := state.ended(shard)) and attempt.end] for shards in state.rounds
    ]
    if len(ended) > 1 and not any(end.answered or end.issues or end.batch_id in cut_short for end in ended[-1]):
        return ()
    tries, invalid = bytearray(state.record.plan.rows), bytearray(state.record.plan.rows)
    for end in (end for ends in ended for end in ends):
        for status in USES_A_TRY:
            for row in expand(end.open.get(status, ())):
                tries[row] += 1
                invalid[row] += status == "invalid"

    def may_go(row: int, status: str) -> bool:
        return status not in USES_A_TRY or (tries[row] < max_rounds and invalid[row] <= MAX_INVALID)

    again = [
        row
        for end in ended[-1]
        for status, ranges in end.open.items()
        if status != "cancelled" or end.batch_id in cancelled
        for row in expand(ranges)
        if may_go(row, status)
    ]
    return compress(sorted(again))


def expand(ranges: Iterable[Range]) -> Iterable[int]:
    """Yield the rows of ranges."""
    for first, last in ranges:
        yield from range(first, last + 1)


def compress(rows: Iterable[int]) -> tuple[Range, ...]:
    """Return ascending rows as ranges."""
    ranges: list[Range] = []
    for row in rows:
        if ranges and row == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], row)
        else:
            ranges.append((row, row))
    return tuple(ranges)
