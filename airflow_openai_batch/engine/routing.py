"""Which way requests go: in batches, or one by one ("directly"). Pure: times and numbers in, a way out.

Small jobs may go directly, as may whatever isn't answered when a deadline comes near; each such row costs the standard
price, so the author asks for both.
"""

from __future__ import annotations

import re
from datetime import datetime, time, timedelta, timezone
from typing import Any, Literal

from airflow_openai_batch.exceptions import ConfigurationError

Route = Literal["batch", "direct", "auto"]
ROUTES = ("batch", "direct", "auto")

DIRECT_AT_ONCE = 8
"""Direct calls under way, unless the author says otherwise."""

SECONDS_A_CALL = 5.0
"""What a direct call is taken to last, for the time that a deadline must leave."""

CANCELLING = 600.0
"""Seconds that a batch may take to be cancelled (Batch API guide: up to 10 minutes)."""

TOO_NEAR = 3_600.0
"""Seconds to a deadline within which ``auto`` doesn't try a batch: many take longer."""

_CLOCK = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")


def check_deadline(value: Any) -> float | str | None:
    """Return a deadline as the job keeps it: seconds from its beginning, or a time of day in UTC.

    :param value: seconds, a timedelta, a time of day (``time``, or ``"06:00"``; UTC unless it has a zone), or None.
    :raises ConfigurationError: it is none of these, or not after the beginning.
    """
    if value is None:
        return None
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, time):
        if value.tzinfo is not None:
            offset = value.utcoffset()
            if offset is None:
                raise ConfigurationError(
                    f"deadline: {value!r} has a zone whose offset changes by day; give the time in UTC"
                )
            value = (datetime.combine(datetime(2000, 1, 2, tzinfo=timezone.utc), value) - offset).time()
        return f"{value:%H:%M}"
    if isinstance(value, str) and _CLOCK.fullmatch(value):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise ConfigurationError(f'deadline: seconds, a timedelta or a time of day ("06:00") is needed, not {value!r}')
    return float(value)


def deadline_at(begun: float, deadline: float | str | None) -> float | None:
    """Return when a job is to be done, in seconds of the epoch.

    :param begun: when it was planned.
    :param deadline: as :func:`check_deadline` returns it; of a time of day the next one counts.
    """
    if deadline is None or not isinstance(deadline, str):
        return None if deadline is None else begun + deadline
    hours, minutes = map(int, deadline.split(":"))
    start = datetime.fromtimestamp(begun, timezone.utc)
    due = start.replace(hour=hours, minute=minutes, second=0, microsecond=0)
    return (due if due > start else due + timedelta(days=1)).timestamp()


def direct_from(begun: float, due: float | None, rows: int, at_once: int) -> float | None:
    """Return the time at which batches are given up for a deadline: the rows could all be asked directly by then.

    Never more than half of the time is taken from the batches.

    :param rows: how many the job buys.
    """
    if due is None:
        return None
    needed = CANCELLING + rows * SECONDS_A_CALL / at_once
    return due - min(needed, (due - begun) / 2)


def way(route: Route, rows: int, below: int, begun: float, due: float | None) -> Literal["batch", "direct"]:
    """Return the way that a whole job goes.

    :param rows: how many it buys.
    :param below: ``auto`` sends fewer rows than these directly.
    """
    if route != "auto":
        return route
    return "direct" if rows < below or (due is not None and due - begun < TOO_NEAR) else "batch"
