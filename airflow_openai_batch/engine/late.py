"""Files of an ended batch that aren't there (yet), or not whole: how long they are waited for. Pure.

What a batch answered is paid for, and a server may show its files a little later than its end: a batch that names none
though it counts answers, a file that is named and not found, a proxy's page in its place, the first half of it. To
believe one such look is to buy all rows again. So it is looked again for some minutes, and only then is the loss
accepted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_openai_batch.engine.models import BatchSnapshot

PATIENCE = 600.0
"""Seconds after a batch's end for which its files are waited for."""

LOOK_AGAIN = 60.0
"""Seconds between two looks: each may download again what the other file of the batch has."""

_AHEAD = 600.0
"""Seconds by which the server's clock may be ahead; an end that is later than that is no time to go by."""


def may_come(snapshot: BatchSnapshot, noted_at: float | None, now: float) -> bool:
    """Whether files that aren't there may still come.

    :param noted_at: when they were first found wanting, for a server that doesn't say when the batch ended; None where
        they weren't so far.
    """
    since = noted_at if ended_at(snapshot, now) is None else ended_at(snapshot, now)
    return since is None or now < since + PATIENCE


def ended_at(snapshot: BatchSnapshot, now: float) -> float | None:
    """Return when a batch ended, None where the server doesn't say, or can't be right."""
    ended = snapshot.ended_at
    return None if ended is None or ended > now + _AHEAD else ended


def names_too_little(snapshot: BatchSnapshot) -> bool:
    """Whether an ended batch names no file, though by its counts it has answers.

    One that failed as a whole has none, whatever it counts as failed.
    """
    if not names_nothing(snapshot):
        return False
    failed = 0 if snapshot.status == "failed" else snapshot.counts.failed
    return snapshot.counts.completed + failed > 0


def names_nothing(snapshot: BatchSnapshot) -> bool:
    """Whether a batch names neither file."""
    return not (snapshot.output_file_id or snapshot.error_file_id)
