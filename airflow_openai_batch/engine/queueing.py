"""How long a refused shard waits, and when it is too large for any queue of tokens. Pure.

A rate limit on creates says nothing about a shard's size: it makes a shard wait, however often, and never smaller.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING

from airflow_openai_batch.engine import polling

if TYPE_CHECKING:
    from airflow_openai_batch.engine.journal import JobState
    from airflow_openai_batch.engine.models import Shard
    from airflow_openai_batch.engine.records import Attempt, VoidRecord

REFUSED_OFTEN = 4
"""Refusals in a row after which a shard is taken to be too large, where the message names no limit."""

HOPELESS = 8
"""Refusals in a row after which a single row is taken to be too large."""

FILE_PAUSE = 2.0
"""Seconds after the first create that didn't find its file; doubles with each."""

PASSING = frozenset({"queue_full", "file_not_found", "rate_limited"})
"""Why a shard was put off."""

_LIMIT = re.compile(r"(?:Limit: |configured limit of )([\d,.]*\d)([KMB]?)", re.IGNORECASE)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}


def limit_in(message: str) -> int | None:
    """Return the limit that a refusal names: OpenAI's ``Limit: 2,000,000``, Azure's ``configured limit of 30K``."""
    found = _LIMIT.search(message)
    return round(float(found[1].replace(",", "")) * _UNITS[found[2].upper()]) if found else None


def _refusals(trail: tuple[Attempt, ...]) -> list[VoidRecord]:
    """Return the refusals in passing at the end of a trail."""
    voids = [attempt.void for attempt in trail if attempt.void]
    lasting = [number for number, void in enumerate(voids) if void.reason not in PASSING]
    return voids[lasting[-1] + 1 :] if lasting else voids


def rate_limited(trail: tuple[Attempt, ...]) -> bool:
    """Whether the last refusal was for too many creates, and not for what the shard holds."""
    last = trail[-1].void
    return last is not None and last.reason == "rate_limited"


def pause_until(trail: tuple[Attempt, ...], state: JobState, base: float) -> float | None:
    """Return when a shard may be submitted again: later after each refusal, and not before OpenAI asked to.

    After a full queue at once when one of ours has ended.

    :param base: seconds after the first refusal for a full queue or a rate limit.
    """
    refusals = _refusals(trail)
    if not refusals:
        return None
    last = refusals[-1]
    if last.reason == "queue_full" and any(end.at > last.at for end in state.ends()):
        return None
    # The pause is spread by the shard's name rather than by dice, so that every reader of the journal agrees on it.
    dice = zlib.crc32(f"{state.record.job}{trail[-1].key}".encode()) % 1000 / 1000
    first = FILE_PAUSE if last.reason == "file_not_found" else base
    return last.at + max(last.pause, polling.backoff(first, len(refusals), dice))


def too_large(shard: Shard, trail: tuple[Attempt, ...], *, alone: bool) -> bool:
    """Whether a refused shard would be refused by an empty queue as well.

    The limit stands in OpenAI's message, our tokens are an estimate that may be off by half, and others use the queue
    too. Halving needlessly costs little, so a doubt is enough for it; giving up a row takes near certainty.

    :param alone: whether nothing of this job is in flight for the model.
    """
    refusals = [void for void in _refusals(trail) if void.reason == "queue_full"]
    if not refusals:
        return False
    limit = limit_in(refusals[-1].message)
    often = len(refusals)
    if shard.rows == 1:
        sure = limit is not None and often > 1 and shard.tokens > 2 * limit
        return alone and (sure or (often >= HOPELESS and (limit is None or 4 * shard.tokens > limit)))
    if limit is None:
        return alone and often >= REFUSED_OFTEN
    return shard.tokens > limit or (alone and often > 1 and 2 * shard.tokens > limit)
