"""The job's durable record, and the only writer of it.

``_job/job.json`` is written once, when the plan is complete; ``_job/owners/N.json`` by each other task instance that
takes the job over; ``_job/stop.json`` when it is to stop for good; ``_job/rounds/N.json`` once for each later round,
``_job/rounds/N.M.split.json`` when a shard had to be halved. Each attempt to run a shard leaves a trail of small files,
each created exclusively and never changed::

    _job/batches/00000.r0.a0.upload.json   a file of a name that is known may now exist at OpenAI
    _job/batches/00000.r0.a0.intent.json   its id; a batch with this key's metadata may now exist
    _job/batches/00000.r0.a0.doom.json     the create is given up: the file is there and will be deleted
    _job/batches/00000.r0.a0.fence.json    the file was deleted, so that no create of this attempt can succeed any more
    _job/batches/00000.r0.a0.batch.json    the batch's id: created by us, or found by its metadata
    _job/batches/00000.r0.a0.cancel.json   we asked for its cancellation
    _job/batches/00000.r0.a0.recancel.json it still ran, and a call that asked again was taken
    _job/batches/00000.r0.a0.void.json     the attempt provably bought nothing; the next may claim
    _job/batches/00000.r0.a0.late.json     the batch ended, and its files weren't there, or not whole
    _job/batches/00000.r0.a0.end.json      the batch ended and what it returned is on the store

Whoever creates ``intent`` owns the create call; everybody else waits for ``batch`` or ``void``. Since the files never
change, one that was read once is never read again, and what was read is kept in ``_job/digest.json`` for the next
process, so that it reads one file instead of hundreds. The digest decides nothing: an entry counts only while its own
file is there, and without a digest all of them are read.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
from pydantic import TypeAdapter, ValidationError

from airflow_openai_batch.engine.models import Key, Shard
from airflow_openai_batch.engine.records import (
    Attempt,
    BatchRecord,
    CancelRecord,
    DoomRecord,
    EndRecord,
    FenceRecord,
    IntentRecord,
    JobRecord,
    LateRecord,
    OwnerRecord,
    RecancelRecord,
    RoundRecord,
    SplitRecord,
    StopRecord,
    UploadRecord,
    VoidRecord,
)
from airflow_openai_batch.exceptions import ExclusiveCreateError, JournalError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airflow_openai_batch.engine.store import Store

log = logging.getLogger(__name__)

VERSION = 1
"""Format of the job's folder and of the manifest."""

JOB = "_job/job.json"
MANIFEST = "manifest.json"
_OWNERS = "_job/owners"
_STOP = "_job/stop.json"
_DIGEST = "_job/digest.json"
_ROUNDS = "_job/rounds"
_BATCHES = "_job/batches"
_PLANS = "_job/plans"
_ENTRY = re.compile(r"(\d{5,})\.r(\d+)\.a(\d+)\.(upload|intent|doom|fence|batch|cancel|recancel|void|late|end)\.json")
_SPLIT = re.compile(r"\d+\.\d+\.split\.json")

DIGEST_EVERY = 16
"""Files read one by one, or written, after which the digest is written anew."""

_KINDS: dict[str, type[Any]] = {
    "upload": UploadRecord,
    "intent": IntentRecord,
    "doom": DoomRecord,
    "fence": FenceRecord,
    "batch": BatchRecord,
    "cancel": CancelRecord,
    "recancel": RecancelRecord,
    "void": VoidRecord,
    "late": LateRecord,
    "end": EndRecord,
}

_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {
    kind: TypeAdapter(kind) for kind in (JobRecord, OwnerRecord, RoundRecord, SplitRecord, StopRecord, *_KINDS.values())
}

Record = (
    UploadRecord
    | IntentRecord
    | DoomRecord
    | FenceRecord
    | BatchRecord
    | CancelRecord
    | RecancelRecord
    | VoidRecord
    | LateRecord
    | EndRecord
)
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class JobState:
    """The journal as it stood at one moment.

    :param rounds: the shards of each round, round 0 being the plan's; halves stand in the place of what was split.
    :param attempts: by round and shard, in the order in which they were made.
    :param stop: nothing more is to be bought.
    """

    record: JobRecord
    rounds: tuple[tuple[Shard, ...], ...]
    attempts: dict[tuple[int, int], tuple[Attempt, ...]]
    stop: StopRecord | None = None

    def of(self, shard: Shard) -> tuple[Attempt, ...]:
        """Return the attempts at one shard."""
        return self.attempts.get((shard.round, shard.number), ())

    def ended(self, shard: Shard) -> Attempt | None:
        """Return the attempt that ran the shard to its end."""
        return next((attempt for attempt in self.of(shard) if attempt.end), None)

    def all_attempts(self) -> list[Attempt]:
        """Return every attempt, by round, shard and order."""
        return [attempt for place in sorted(self.attempts) for attempt in self.attempts[place]]

    def batch_ids(self) -> tuple[str, ...]:
        """Return the ids of all the job's batches, in the same order."""
        return tuple(attempt.batch.batch_id for attempt in self.all_attempts() if attempt.batch)

    def ends(self) -> Iterator[EndRecord]:
        """Yield what is known of every batch that has ended."""
        return (attempt.end for attempt in self.all_attempts() if attempt.end)

    def first_submission(self) -> float | None:
        """Return when the job's first request was sent, None while none was."""
        return min((attempt.intent.at for attempt in self.all_attempts() if attempt.intent), default=None)

    def unclear(self) -> list[Attempt]:
        """Return the attempts whose create may have made a batch that isn't known."""
        return [
            attempt
            for attempt in self.all_attempts()
            if attempt.intent and attempt.intent.purpose == "create" and not (attempt.batch or attempt.void)
        ]

    def in_flight(self) -> list[Attempt]:
        """Return the attempts whose batch is known and not collected."""
        return [a for group in self.attempts.values() for a in group if a.batch and not a.end and not a.void]


def _kind_of(name: str) -> type[Any]:
    """Return what a file of the journal holds."""
    last = name.rpartition("/")[2]
    if name.startswith(_ROUNDS):
        return SplitRecord if _SPLIT.fullmatch(last) else RoundRecord
    return _KINDS[last.split(".")[-2]]


def _leaves(shard: Shard, splits: Mapping[tuple[int, int], SplitRecord]) -> Iterator[Shard]:
    split = splits.get((shard.round, shard.number))
    if split is None:
        yield shard
    else:
        for half in split.shards:
            yield from _leaves(half, splits)


class Journal:
    """Reads and writes the job's record.

    :param store: the destination.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: dict[str, Any] = {}
        self._digested: set[str] | None = None

    def manifest(self) -> dict[str, Any] | None:
        """Return the manifest, or None while the job isn't done.

        :raises JournalError: it is damaged or of an unknown version.
        """
        content = self._store.read(MANIFEST)
        if content is None:
            return None
        try:
            manifest = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise self._damaged(MANIFEST, error) from error
        if not isinstance(manifest, dict) or not isinstance(manifest.get("rows"), dict) or "job" not in manifest:
            raise self._damaged(MANIFEST, "it isn't a manifest")
        self._check_version(MANIFEST, manifest)
        return manifest

    def job(self) -> JobRecord | None:
        """Return the job's record, or None where nothing was planned."""
        return self._read(JOB, JobRecord)

    def create_job(self, record: JobRecord) -> bool:
        """Write the job's record; False where another was first."""
        return self._create(JOB, record)

    def owners(self, record: JobRecord) -> list[dict[str, str]]:
        """Return the job's owners, the one of today last."""
        return [record.owner, *(taken.owner for taken in self._takeovers())]

    def _takeovers(self) -> Iterator[OwnerRecord]:
        for number in sorted(self._numbers(_OWNERS)):
            taken = self._read(f"{_OWNERS}/{number}.json", OwnerRecord)
            if taken is not None:
                yield taken

    def take_over(self, record: OwnerRecord, number: int) -> bool:
        """Become the owner after ``number`` others; False where another was first."""
        return self._create(f"{_OWNERS}/{number}.json", record)

    def claim_plan(self) -> int:
        """Begin to plan; whoever has begun before and is still at it is overtaken.

        :raises ExclusiveCreateError: the store can't keep two planners apart.
        """
        while True:
            number = self._newest_claim() + 1
            name = f"{_PLANS}/{number}.json"
            if self._store.create(name, b"{}"):
                try:
                    self._store.prove_exclusive(name, b"{}")
                except ExclusiveCreateError:
                    self.drop_claim(number)
                    raise
                return number

    def is_its_turn(self, claim: int) -> bool:
        """Whether the plan is still that claim's: nobody has begun since, and nobody has finished."""
        return self._newest_claim() == claim and not self._store.exists(JOB)

    def drop_claim(self, claim: int) -> None:
        """Undo a claim that came to nothing."""
        self._store.remove([f"{_PLANS}/{claim}.json"])
        self._store.prune(_PLANS)

    def _newest_claim(self) -> int:
        return max(self._numbers(_PLANS), default=-1)

    def _numbers(self, folder: str) -> Iterator[int]:
        return (int(name[:-5]) for name in self._store.names(folder) if name[:-5].isdigit())

    def stop(self, record: StopRecord) -> bool:
        """Have nothing more bought for the job; False where it was stopped before."""
        return self._create(_STOP, record)

    def create_round(self, record: RoundRecord) -> bool:
        """Write a later round's record; False where another was first."""
        return self._create(f"{_ROUNDS}/{record.round}.json", record)

    def create_split(self, record: SplitRecord) -> bool:
        """Put a shard's halves in its place; False where another was first."""
        return self._create(f"{_ROUNDS}/{record.round}.{record.number}.split.json", record)

    def write(self, key: Key, record: Record) -> bool:
        """Add an entry to an attempt's trail; False where another was first."""
        kind = next(name for name, cls in _KINDS.items() if isinstance(record, cls))
        return self._create(f"{_BATCHES}/{key}.{kind}.json", record)

    def state(self, record: JobRecord) -> JobState:
        """Read all that has happened: one listing, the digest of before, and each file that isn't in it."""
        names = self._store.below("_job")
        if self._digested is None:
            self._digested = self._read_digest(record) if _DIGEST in names else set()
        rounds = [record.plan.shards]
        splits: dict[tuple[int, int], SplitRecord] = {}
        trails: dict[Key, dict[str, Any]] = {}
        for name in sorted(names, key=lambda name: (len(name), name)):
            folder, _, last = name.rpartition("/")
            if folder == _ROUNDS and _SPLIT.fullmatch(last):
                split = self._read(name, SplitRecord)
                if split is not None:
                    splits[split.round, split.number] = split
            elif folder == _ROUNDS and last.endswith(".json"):
                later = self._read(name, RoundRecord)
                if later is not None:
                    rounds.append(later.shards)
            elif folder == _BATCHES and (match := _ENTRY.fullmatch(last)):
                key = Key(int(match[1]), int(match[2]), int(match[3]))
                entry = self._read(name, _KINDS[match[4]])
                if entry is not None:
                    trails.setdefault(key, {})[match[4]] = entry
        attempts: dict[tuple[int, int], tuple[Attempt, ...]] = {}
        for key in sorted(trails):
            place = (key.round, key.shard)
            attempts[place] = (*attempts.get(place, ()), Attempt(key, **trails[key]))
        leaves = tuple(tuple(leaf for shard in shards for leaf in _leaves(shard, splits)) for shards in rounds)
        return JobState(record, leaves, attempts, self._read(_STOP, StopRecord) if _STOP in names else None)

    def write_digest(self, record: JobRecord) -> None:
        """Keep what was read for the next process, if that saves it much."""
        entries = {name: entry for name, entry in self._seen.items() if name.startswith((_ROUNDS, _BATCHES))}
        if len(entries) - len(self._digested or ()) < DIGEST_EVERY:
            return
        self._store.put(_DIGEST, orjson.dumps({"version": VERSION, "job": record.job, "entries": entries}))
        self._digested = set(entries)

    def _read_digest(self, record: JobRecord) -> set[str]:
        """Take what the digest has for seen; one that can't be used is no loss."""
        try:
            digest = orjson.loads(self._store.read(_DIGEST) or b"null")
            if digest["version"] != VERSION or digest["job"] != record.job:
                return set()
            entries = {
                name: _ADAPTERS[_kind_of(name)].validate_python(told) for name, told in digest["entries"].items()
            }
        except (orjson.JSONDecodeError, ValidationError, LookupError, TypeError, AttributeError) as error:
            log.warning("%s can't be used (%s); reading each file", self._store.address(_DIGEST), error)
            return set()
        self._seen = {**entries, **self._seen}
        return set(entries)

    def _create(self, name: str, record: Any) -> bool:
        content = orjson.dumps(record, option=orjson.OPT_INDENT_2 if name == JOB else None)
        created = self._store.create(name, content)
        if created:
            self._seen[name] = record
        return created

    def _read(self, name: str, kind: type[_T]) -> _T | None:
        seen: _T | None = self._seen.get(name)
        if seen is not None:
            return seen
        content = self._store.read(name)
        if content is None:
            return None
        try:
            if kind is JobRecord:
                self._check_version(name, orjson.loads(content))
            value: _T = _ADAPTERS[kind].validate_json(content)
        except (ValidationError, orjson.JSONDecodeError) as error:
            raise self._damaged(name, error) from error
        self._seen[name] = value
        return value

    def _check_version(self, name: str, content: Any) -> None:
        version = content.get("version") if isinstance(content, dict) else None
        if version != VERSION:
            raise JournalError(
                f"{self._store.address(name)} is of version {version!r}; this package reads version {VERSION}. "
                "Finish the job with the release that began it, or use another destination."
            )

    def _damaged(self, name: str, why: Any) -> JournalError:
        return JournalError(f"{self._store.address(name)} is damaged: {str(why)[:300]}. Nothing was bought or changed.")
