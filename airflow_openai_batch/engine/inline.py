"""Requests sent in the create call itself, for gateways that take no files for batches (``submission="inline"``).

The field ``input_file_content`` is a string: the shard's lines, as they would stand in an uploaded file.

Nothing is bought twice by the rules of ``submit``, but for what needs a file. What is weaker without one:

- A create that is given up can't be made to fail by deleting its file. So a process that stood still after its intent
  sends nothing any more once the intent is older than a create call lasts (:class:`Since`, looked at right before the
  call), and others wait for that long, for the call itself and for the list before they give the create up. What stays
  open is a process that stands still, or a body that trickles, for a minute or more within the call.
- The batch of a create whose answer was lost is known by its metadata alone. Where the server shows none, the job ends
  with an error rather than buy again.
- A key that doesn't see the batch can't be told from a create that made none by whether it sees the file. A batch of
  the job's that is known must be there for the key; before the first one is, a key of another project that is given to
  the connection within that time isn't noticed.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal

from airflow_openai_batch.engine.digests import new_digest
from airflow_openai_batch.engine.requests import MAX_BYTES
from airflow_openai_batch.engine.shards import SHARDS
from airflow_openai_batch.exceptions import APIError, ConfigurationError, RejectedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_openai_batch.engine.models import Shard
    from airflow_openai_batch.engine.store import Store

Submission = Literal["file", "inline"]

SUBMISSIONS: tuple[Submission, ...] = ("file", "inline")

INLINE_BYTES = 8 << 20
"""Bytes of a shard that is sent inline, where the user gives no limit: it is in memory three times over, and bodies of
calls have limits of 10 MB and up."""

LOOK_BACK = 86_400.0
"""Seconds before the intent back to which the batch of a create is looked for: no file's time tells the server's."""

_FIELDS = ("input_file_content", "input_file_id")


def bytes_per_batch(submission: Submission, asked: int | None) -> int:
    """Return the bytes that a shard may have: what the user asked for, or else what its way allows."""
    return asked or (INLINE_BYTES if submission == "inline" else MAX_BYTES)


class Since:
    """Seconds since it was made. The clock that went on further counts: one stands still in a suspended machine."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._at = clock()
        self._ticks = time.monotonic()

    def seconds(self) -> float:
        """Return the seconds."""
        return max(self._clock() - self._at, time.monotonic() - self._ticks)


def content_of(store: Store, shard: Shard, most: int) -> str | None:
    """Return a shard's lines; None where it isn't as it was planned.

    :param most: bytes that a shard may have; one that was planned for an upload may have more.
    :raises ConfigurationError: it has more.
    """
    if shard.bytes > most:
        raise ConfigurationError(
            f"Shard {shard.name} was planned for an upload and has {shard.bytes:,} bytes, more than the {most:,} that "
            'are sent inline. Nothing was bought for it. Use submission="file", allow it by max_batch_bytes, or begin '
            "at another destination"
        )
    content = store.read(f"{SHARDS}/{shard.name}") or b""
    planned = new_digest(content).hexdigest() == shard.digest
    return content.decode() if planned else None


def advised(error: APIError) -> APIError:
    """Return a refusal of requests in the create call with what to do about it; any other error as it is."""
    if not isinstance(error, RejectedError) or error.retryable:
        return error
    if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        advice = (
            "The requests were sent in the create call, which is too large for this server. Begin at another "
            'destination with a smaller max_batch_bytes, or upload files: submission="file"'
        )
    elif error.param in _FIELDS or any(name in str(error) for name in _FIELDS):
        advice = (
            "This server doesn't take requests in the create call (input_file_content). Nothing was bought. Use "
            "submission=\"file\", the operator's parameter or the connection's extra, and clear the task"
        )
    else:
        return error
    return RejectedError(f"{error}. {advice}", status=error.status, code=error.code, param=error.param)
