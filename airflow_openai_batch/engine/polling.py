"""Poll intervals, backoff and failure budgets. Pure: numbers in, numbers out; the caller has clock and dice."""

from __future__ import annotations

MAX_BACKOFF = 600.0
"""Seconds; a poll or a queue is tried again at least this often."""

YOUNG = 600.0
"""Seconds for which a batch is polled at the user's interval; older ones ever more rarely, up to six times it."""


def interval(base: float, age: float, dice: float = 1.0) -> float:
    """Return the seconds to the next poll of a batch: never more than the interval of its age, up to a tenth less.

    :param base: the user's poll interval, seconds.
    :param age: seconds since the wait began.
    :param dice: a number from 0 to 1; it keeps several triggerers from asking in step.
    """
    return base * min(6.0, max(1.0, age / YOUNG)) * (0.9 + 0.1 * dice)


def backoff(base: float, failures: int, dice: float) -> float:
    """Return the seconds to wait after so many failures in a row: doubling, with full jitter above the half.

    :param base: seconds after the first failure.
    :param failures: how many in a row, at least 1.
    :param dice: a number from 0 to 1.
    """
    ceiling = min(MAX_BACKOFF, base * 2.0 ** min(failures - 1, 20))
    return ceiling * (0.5 + 0.5 * dice)
