"""How fast synchronous calls may go: as many at once as was asked for, and as the server has room for.

A server says so in three ways, all of which hold for every call of the key, not for the one that was answered: it
names a time to come back (``Retry-After``), it tells what is left of its limits (``x-ratelimit-...``), or it refuses
(429). The first two pause all calls; a refusal halves how many may be in the air, which then grows again by one for
each round of answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections import deque
from datetime import timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

MAX_RETRY_AFTER = 120.0
"""Seconds; longer than that is waited by nobody in a worker slot. The SDK draws the same line."""

_TIMES = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_TIME = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])")
_SPELL = re.compile(rf"(?:{_TIME.pattern})+")
_KINDS = ("requests", "tokens")
_TOLD = 1.0
"""Seconds; pauses that are shorter aren't worth a line of the log."""


def seconds_of(spell: str | None) -> float | None:
    """Read a time as OpenAI's limits have it: ``1s``, ``6m0s``, ``250ms``; a bare number is seconds."""
    text = (spell or "").strip()
    if _SPELL.fullmatch(text):
        return sum(float(number) * _TIMES[unit] for number, unit in _TIME.findall(text))
    return _number(text)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None


def asked_to_wait(headers: Mapping[str, str], now: float) -> float:
    """Return the seconds that a server asks to wait, 0 where it doesn't.

    :param now: seconds of the epoch; ``Retry-After`` may be a date.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1_000
    text = headers.get("retry-after")
    number = _number(text)
    if number is not None or not text:
        return number or 0.0
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return max(0.0, (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp() - now)


def until_reset(headers: Mapping[str, str], requests: int, tokens: int) -> float:
    """Return the seconds until a limit that is nearly used up is whole again, 0 where none is.

    :param requests: calls in the air besides the one that was answered, and ``tokens`` what they may take: what is left
        of a limit isn't enough where it is less.
    """
    wait = 0.0
    for kind, needed in zip(_KINDS, (requests, tokens), strict=True):
        left = _number(headers.get(f"x-ratelimit-remaining-{kind}"))
        if left is not None and left < max(1, needed):
            wait = max(wait, seconds_of(headers.get(f"x-ratelimit-reset-{kind}")) or 0.0)
    return wait


class Gate:
    """Lets calls out, so many at once, and none while the server wants a pause. Lives on one event loop.

    :param most: calls in the air at once.
    :param where: who is called, for the log.
    :ivar limit: calls that may be in the air at present.
    """

    def __init__(self, most: int, where: str, clock: Callable[[], float]) -> None:
        self._most = most
        self._where = where
        self._clock = clock
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._closed = asyncio.Event()
        self._until = self._cut_at = float("-inf")
        self._good = 0
        self.limit = most
        self.running = 0
        self.tokens = 0

    @property
    def closed(self) -> bool:
        """Whether no call may go out any more."""
        return self._closed.is_set()

    def close(self) -> None:
        """Let no call out any more; those that wait are told at once."""
        self._closed.set()
        while self._waiting:
            self._wake()

    async def sleep(self, seconds: float) -> None:
        """Sleep until then, or until it is closed."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._closed.wait(), seconds)

    async def enter(self, tokens: int) -> bool:
        """Wait for a turn; False where it was closed before.

        :param tokens: what the call may take of the limit of tokens.
        """
        while not self.closed:
            pause = self._until - self._clock()
            if pause > 0:
                await self.sleep(pause)
            elif self.running < self.limit:
                self.running += 1
                self.tokens += tokens
                return True
            else:
                turn = asyncio.get_running_loop().create_future()
                self._waiting.append(turn)
                await turn
        return False

    def leave(self, tokens: int) -> None:
        """Give the place of a call that is over to the next."""
        self.running -= 1
        self.tokens -= tokens
        self._wake()

    def _wake(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def heard(self, status: int, headers: Mapping[str, str], *, begun: float, wait: float) -> None:
        """Learn from an answer; the call that it is to is still counted as in the air.

        :param begun: when that call began.
        :param wait: seconds that the server asks to wait.
        """
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            # Calls that went out together are refused together: they count as one refusal.
            if begun > self._cut_at:
                self._cut_at = self._clock()
                self.limit = max(1, self.limit // 2)
                self._good = 0
        elif status < HTTPStatus.BAD_REQUEST and self.limit < self._most:
            self._good += 1
            if self._good >= self.limit:
                self.limit += 1
                self._good = 0
                self._wake()
        others = self.running - 1
        tokens = self.tokens * others // max(1, self.running)
        self.pause(max(wait, until_reset(headers, others, tokens)))

    def pause(self, seconds: float) -> None:
        """Let no call out for so long, :data:`MAX_RETRY_AFTER` at most."""
        until = self._clock() + min(seconds, MAX_RETRY_AFTER)
        if seconds > 0 and until > self._until:
            if until - self._until > _TOLD and seconds > _TOLD:
                log.info("Calls to %s pause for %.0f s: its rate limit is reached", self._where, seconds)
            self._until = until
