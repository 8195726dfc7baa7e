"""Long steps say every few seconds how far they are."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

EVERY = 5.0
"""Seconds between two lines."""


class Progress:
    """Logs rate, share done and time left of one step, every few seconds; a quick one says nothing.

    :param doing: what is done, as the line begins: ``Planning``.
    :param unit: what is counted: ``rows``.
    :param total: how many there are, None where that isn't known; then a share may be told as it goes.
    :param clock: seconds.
    """

    def __init__(
        self, doing: str, unit: str, total: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._doing = doing
        self._unit = unit
        self._total = total
        self._clock = clock
        self._begun = self._told = clock()
        self._lock = threading.Lock()
        self.done = 0

    def add(self, count: int, share: Callable[[], float | None] | None = None) -> None:
        """Count so many more; any thread may.

        :param share: gives the share of the whole that is done, where there is no total; asked only for a line.
        """
        with self._lock:
            self.done += count
            now = self._clock()
            if now - self._told < EVERY:
                return
            self._told = now
            done = self.done
        part = done / self._total if self._total else share() if share else None
        took = now - self._begun
        rate = done / took
        line = (
            f"{self._doing}: {done:,} {self._unit}, {rate:,.0f} a second"
            if rate >= 1
            else (f"{self._doing}: {done:,} {self._unit}")
        )
        if part:
            line += f", {min(part, 1.0):.0%} done, about {_spell(took / part - took)} left"
        log.info("%s", line)


def _spell(seconds: float) -> str:
    seconds = max(0.0, seconds)
    minutes = seconds / 60
    if minutes < 2:  # noqa: PLR2004 - below that seconds read better
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"  # noqa: PLR2004 - likewise
