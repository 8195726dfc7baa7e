"""Rate limits of synchronous calls: requests and tokens that a model takes in a minute, and the headers that tell.

Each is a bucket that fills all the time, as at the service: after a minute without calls it is full. A call takes one
request and its body's tokens (bytes by four) when it arrives; one for which there isn't enough is refused, and takes
nothing. Batches have limits of their own.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_openai_batch.emulator.errors import APIError
from airflow_openai_batch.emulator.tokens import BYTES_PER_TOKEN

if TYPE_CHECKING:
    from airflow_openai_batch.emulator.settings import Settings

_WORDS = {"requests": "requests per min (RPM)", "tokens": "tokens per min (TPM)"}
_MINUTE, _HOUR = 60, 3_600


def spelt(seconds: float) -> str:
    """Return a time as the service's headers have it: ``250ms``, ``1.5s``, ``6m0s``."""
    if seconds < 1:
        return f"{round(seconds * 1_000)}ms"
    if seconds < _MINUTE:
        return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
    whole = round(seconds)
    hours, rest = divmod(whole, _HOUR)
    return (f"{hours}h" if hours else "") + f"{rest // _MINUTE}m{rest % _MINUTE}s"


@dataclass
class _Bucket:
    """What is left of one limit.

    :param rate: how much of it comes back in a second.
    """

    limit: int
    rate: float
    left: float
    at: float

    def fill(self, now: float) -> None:
        self.left = min(float(self.limit), self.left + (now - self.at) * self.rate)
        self.at = now

    @property
    def reset(self) -> float:
        return (self.limit - self.left) / self.rate


class RateLimits:
    """The buckets of all models. Lives on the event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        limits = {"requests": settings.requests_per_minute, "tokens": settings.tokens_per_minute}
        self._limits = {kind: limit for kind, limit in limits.items() if limit is not None}
        self._buckets: dict[str, dict[str, _Bucket]] = {}

    def take(self, model: str, size: int) -> dict[str, str]:
        """Take a call out of the limits of its model, and return the headers of its answer.

        :param size: bytes of its body.
        :raises APIError: 429, where there isn't enough left.
        """
        now = time.monotonic()
        buckets = self._buckets.setdefault(model, {})
        wanted = {"requests": 1, "tokens": -(-size // BYTES_PER_TOKEN)}
        for kind, limit in self._limits.items():
            bucket = buckets.setdefault(kind, _Bucket(limit, limit / self._settings.minute, float(limit), now))
            bucket.fill(now)
        for kind, bucket in buckets.items():
            if bucket.left < wanted[kind]:
                raise self._refusal(model, kind, bucket, wanted[kind], _headers(buckets))
        for kind, bucket in buckets.items():
            bucket.left -= wanted[kind]
        return _headers(buckets)

    def _refusal(self, model: str, kind: str, bucket: _Bucket, wanted: int, headers: dict[str, str]) -> APIError:
        wait = (min(wanted, bucket.limit) - bucket.left) / bucket.rate
        message = (
            f"Rate limit reached for {model} in organization {self._settings.organization} on {_WORDS[kind]}: "
            f"Limit {bucket.limit}, Used {bucket.limit - int(bucket.left)}, Requested {wanted}. Please try again in "
            f"{spelt(wait)}. Visit https://platform.openai.com/account/rate-limits to learn more."
        )
        again = {"retry-after": str(max(1, round(wait))), "retry-after-ms": str(max(1, -int(-wait * 1_000 // 1)))}
        return APIError(429, message, kind=kind, code="rate_limit_exceeded", headers={**headers, **again})


def _headers(buckets: dict[str, _Bucket]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for kind, bucket in buckets.items():
        headers[f"x-ratelimit-limit-{kind}"] = str(bucket.limit)
        headers[f"x-ratelimit-remaining-{kind}"] = str(int(bucket.left))
        headers[f"x-ratelimit-reset-{kind}"] = spelt(bucket.reset)
    return headers
