"""The steps that ``lifecycle`` decides on and ``runner`` takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_openai_batch.engine.models import BatchSnapshot, Key, Range, Shard
    from airflow_openai_batch.engine.records import Attempt


@dataclass(frozen=True)
class Submit:
    """Upload the shard if need be, and create its batch."""

    shard: Shard
    key: Key


@dataclass(frozen=True)
class Ask:
    """Ask the shard's requests one by one."""

    shard: Shard
    key: Key


@dataclass(frozen=True)
class Resolve:
    """Find out whether the create whose answer is unknown made a batch."""

    attempt: Attempt
    give_up: bool


@dataclass(frozen=True)
class Collect:
    """Bring what an ended batch returned to the store.

    :param final: whether a file that isn't there is given up.
    """

    shard: Shard
    attempt: Attempt
    snapshot: BatchSnapshot
    final: bool = False


@dataclass(frozen=True)
class Requeue:
    """A batch failed for a full queue or a file that wasn't there yet: nothing ran, the shard goes again.

    Never one that was made elsewhere: it is landed as it ended, and what it was made of isn't ours to send.
    """

    attempt: Attempt
    snapshot: BatchSnapshot


@dataclass(frozen=True)
class OpenRound:
    """Make a round of the rows that may go again."""

    number: int
    rows: tuple[Range, ...]


@dataclass(frozen=True)
class Cancel:
    """Ask for a batch's cancellation, or ask again where a call before came to nothing.

    :param reason: ``overdue``: it should have ended long ago; ``deadline``: what it hasn't answered is asked directly;
        ``stopped``: the job is to stop; or that of the call before.
    :param again: whether what it doesn't finish goes again.
    """

    attempt: Attempt
    reason: str
    again: bool


@dataclass(frozen=True)
class Split:
    """Halve a shard that is too large for the model's queue."""

    shard: Shard
    key: Key


@dataclass(frozen=True)
class GiveUp:
    """Report a row that is too large for the model's queue all by itself."""

    shard: Shard
    key: Key
    refused: Attempt


Step = Submit | Ask | Resolve | Collect | Requeue | OpenRound | Cancel | Split | GiveUp
