"""The server's idea of what time it is.

Only timestamps go through here, so that the ``clock_skew`` fault shifts what clients are told without changing how
long anything takes: durations are measured on monotonic clocks.
"""

from __future__ import annotations

import time


class Clock:
    """Wall clock with an offset.

    :param skew: seconds by which the server's clock is ahead of the true time; negative for behind.
    """

    def __init__(self, skew: float = 0.0) -> None:
        self.skew = skew

    def now(self) -> int:
        """Return the Unix time in whole seconds, as the API's timestamps are."""
        return int(time.time() + self.skew)
