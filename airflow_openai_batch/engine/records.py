"""What the journal has files of: the job, its rounds, and the trail of each attempt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from airflow_openai_batch.engine.models import Key, Plan, Range, Shard, Usage  # noqa: TC001 - the journal resolves them when it reads


@dataclass(frozen=True)
class Sifting:
    """What of the plan isn't bought, because its answers are at hand or come by other rows.

    :param cached: rows that the cache has answers for.
    :param repeats: rows whose request is another's, that is bought.
    :param models: of the shards as they were planned, by number.
    """

    cached: int
    repeats: int
    models: tuple[str, ...]


@dataclass(frozen=True)
class JobRecord:
    """``_job/job.json``: who the job is and what was planned. Written once, when the plan is complete.

    :param owner: what identifies the task instance (or other caller) that planned it; equal owners are tries of one.
    :param parameters: everything that shapes requests or results, so that a change can be named.
    :param settings: what may be changed between tries: rounds, limits, metadata and the like.
    :param listing: fingerprint of the source's files (names, sizes, times), None for other sources.
    :param foreign: the batch that was made elsewhere and is only landed here, or None.
    :param estimate: what buying the plan was estimated to cost (:meth:`~cost.Estimate.to_json`), None where it wasn't.
    """

    version: int
    job: str
    destination: str
    created_at: float
    owner: dict[str, str]
    parameters: dict[str, Any]
    settings: dict[str, Any]
    listing: str | None
    plan: Plan
    foreign: str | None = None
    sifting: Sifting | None = None
    estimate: dict[str, Any] | None = None

    @property
    def repeats(self) -> int:
        """Requests that each row makes: one for each model. Row ``n`` makes those from ``n * repeats`` on."""
        models = self.parameters.get("model")
        return len(models) if isinstance(models, list) else 1


@dataclass(frozen=True)
class OwnerRecord:
    """``_job/owners/1.json``: who took the job over from an owner that was gone; the newest is the job's owner."""

    at: float
    owner: dict[str, str]


@dataclass(frozen=True)
class StopRecord:
    """``_job/stop.json``: somebody wanted the job to stop. Nothing more is bought for it, whoever goes on with it."""

    at: float
    reason: str


@dataclass(frozen=True)
class RoundRecord:
    """``_job/rounds/1.json``: the shards of a later round. Written once, when they are on the store."""

    round: int
    created_at: float
    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class SplitRecord:
    """``_job/rounds/0.0.split.json``: a shard that is too large for the model's queue, and its halves instead of it."""

    round: int
    number: int
    shards: tuple[Shard, Shard]


@dataclass(frozen=True)
class UploadRecord:
    """An upload is about to begin: a file of this name may exist at OpenAI from now on."""

    at: float
    file_name: str


@dataclass(frozen=True)
class IntentRecord:
    """The attempt is claimed. For a create: a batch of this file, with this key's metadata, may exist from now on.

    :param file_id: "" where the requests are sent in the create call itself, and for the other purposes.
    :param file_created_at: by OpenAI's clock; no batch of the file is older, however wrong our clock is. Without a
        file by our own.
    :param purpose: ``split`` and ``give_up`` claim the attempt so that nobody submits the shard any more; ``direct``
        has it answered one by one.
    """

    at: float
    file_id: str
    file_created_at: float
    purpose: Literal["create", "split", "give_up", "direct"] = "create"


@dataclass(frozen=True)
class DoomRecord:
    """The attempt's file was seen by whoever gives its create up, and is about to be deleted."""

    at: float


@dataclass(frozen=True)
class FenceRecord:
    """The attempt's file was deleted: a create that a process which stood still sends yet is refused."""

    at: float


@dataclass(frozen=True)
class BatchRecord:
    """The batch of an attempt is known."""

    at: float
    batch_id: str
    adopted: bool = False


@dataclass(frozen=True)
class VoidRecord:
    """An attempt that provably bought nothing: refused, absent, or put off; OpenAI asked for that ``pause``."""

    at: float
    reason: Literal["refused", "absent", "queue_full", "file_not_found", "rate_limited"]
    message: str
    pause: float = 0.0


@dataclass(frozen=True)
class CancelRecord:
    """The batch's cancellation was asked for.

    :param again: whether unfinished rows go again when the job goes on: if its task was killed, not if it was to stop.
    """

    at: float
    reason: str
    again: bool


@dataclass(frozen=True)
class RecancelRecord:
    """The batch still ran after its cancellation was noted, and a call that asked for it again was taken."""

    at: float


@dataclass(frozen=True)
class LateRecord:
    """The batch had ended, and what it returned wasn't there, or not whole."""

    at: float


@dataclass(frozen=True)
class RowIssue:
    """A row that failed its batch's validation."""

    row: int
    code: str | None
    message: str | None


@dataclass(frozen=True)
class EndRecord:
    """A batch has ended and all that it returned is on the store.

    :param files: ids of what it left at OpenAI.
    :param rows: results by status, the rows in neither file counted as missing.
    :param open: by status, rows that may go again, as ranges; ``blocked``: never ran, their batch failed for others.
    :param answered: rows that got an answer, good or bad, in this batch.
    :param noise: lines that belong to no row: ``duplicate``, ``unknown``, ``unreadable``.
    :param issues: rows that failed the batch's validation; ``failure`` is what failed the batch as a whole.
    """

    at: float
    batch_id: str
    status: str
    output_bytes: int | None
    error_bytes: int | None
    files: tuple[str, ...]
    rows: dict[str, int]
    open: dict[str, tuple[Range, ...]]
    answered: int
    usage: dict[str, Usage]
    noise: dict[str, int]
    issues: tuple[RowIssue, ...] = ()
    failure: RowIssue | None = None


@dataclass(frozen=True)
class Attempt:
    """All that the journal knows of one attempt."""

    key: Key
    upload: UploadRecord | None = None
    intent: IntentRecord | None = None
    doom: DoomRecord | None = None
    fence: FenceRecord | None = None
    batch: BatchRecord | None = None
    cancel: CancelRecord | None = None
    void: VoidRecord | None = None
    recancel: RecancelRecord | None = None
    late: LateRecord | None = None
    end: EndRecord | None = None
