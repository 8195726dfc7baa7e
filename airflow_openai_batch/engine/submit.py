"""Shards -> batches, so that none is bought twice whatever dies in between.

The create call is made by whoever creates the attempt's ``intent`` and by nobody else, once. When its answer is lost,
the batch is looked for by the metadata it was given, back to the intent's time; only when it isn't there, and the
intent is older than any create call lasts, is the attempt void and the next may claim. Its file is deleted first, and
the batch looked for once more: a process that stood still between intent and create, and sends it after that, is
refused.

A batch that isn't listed is no proof where the key is another project's, which sees nothing of it. So a create is given
up only by a key that sees the file that it names, and ``doom`` says so before the file is deleted.

Requests that are sent in the create call itself have no file; module ``inline`` says what is weaker then.
"""

from __future__ import annotations

import io
import logging
from typing import TYPE_CHECKING, BinaryIO, cast

from airflow_openai_batch.engine.digests import new_digest
from airflow_openai_batch.engine.inline import LOOK_BACK, Since, advised, content_of
from airflow_openai_batch.engine.lifecycle import QUEUE_FULL_CODES, Rules
from airflow_openai_batch.engine.progress import Progress
from airflow_openai_batch.engine.records import (
    Attempt,
    BatchRecord,
    DoomRecord,
    EndRecord,
    FenceRecord,
    IntentRecord,
    RowIssue,
    UploadRecord,
    VoidRecord,
)
from airflow_openai_batch.engine.shards import SHARDS
from airflow_openai_batch.exceptions import (
    APIError,
    JournalError,
    NotFoundError,
    QueueFullError,
    RateLimitError,
    RejectedError,
    UnreachableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_openai_batch.engine.api import BatchAPI
    from airflow_openai_batch.engine.job import JobSpec
    from airflow_openai_batch.engine.journal import JobState, Journal
    from airflow_openai_batch.engine.models import BatchSnapshot, Key, Shard
    from airflow_openai_batch.engine.steps import Requeue, Resolve, Submit
    from airflow_openai_batch.engine.store import Store

log = logging.getLogger(__name__)

SKEW = 600.0
"""Seconds by which OpenAI's clock and ours may differ."""

OUR_METADATA = ("job", "shard", "round", "attempt")
"""What a batch is recognized by."""

FILE_TRIES = 5
"""Creates with one uploaded file that OpenAI doesn't find before it is uploaded again."""


class DigestReader(io.RawIOBase):
    """Reads a shard and digests what it reads, so that what was sent is known to be what was planned."""

    def __init__(self, file: BinaryIO, progress: Progress) -> None:
        self._file = file
        self._progress = progress
        self._digest = new_digest()
        self._digested = 0

    def readable(self) -> bool:
        """Whether it can be read."""
        return True

    def seekable(self) -> bool:
        """Whether it can be sought in; its length is found so."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Say where it is."""
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        """Read on; what was read before, for a repeat, is digested once."""
        start = self._file.tell()
        piece = self._file.read(size)
        if start == self._digested:
            self._digest.update(piece)
            self._digested += len(piece)
            self._progress.add(len(piece))
        return piece

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()

    def digest(self) -> str:
        """Return the digest of the file's beginning, as far as it was read without a gap."""
        return self._digest.hexdigest()


class Submitter:
    """Uploads shards and creates their batches.

    :param create_timeout: seconds after its intent past which a create without a file isn't sent any more.
    :param may_buy: asked right before each create; raises an error where there is to be none.
    """

    def __init__(
        self,
        api: BatchAPI,
        store: Store,
        journal: Journal,
        spec: JobSpec,
        clock: Callable[[], float],
        *,
        create_timeout: float = Rules.create_timeout,
        may_buy: Callable[[], None] = lambda: None,
    ) -> None:
        self._api = api
        self._store = store
        self._journal = journal
        self._spec = spec
        self._clock = clock
        self._create_timeout = create_timeout
        self._may_buy = may_buy

    def submit(self, step: Submit, state: JobState) -> BatchSnapshot | None:
        """Create the batch of a shard; None where somebody else did, or it has to wait.

        :raises APIError: OpenAI refused in a way that waiting won't change.
        """
        if self._spec.submission == "inline":
            return self._submit_inline(step, state)
        shard, key = step.shard, step.key
        job = state.record.job
        trail = state.of(shard)
        kept = self._usable_file(trail) or self._left_behind(shard, key, trail)
        file_id, created_at = kept or self._upload(job, shard, key)
        self._may_buy()
        if not self._journal.write(key, IntentRecord(self._clock(), file_id, created_at)):
            log.info("Attempt %s is in other hands", key)
            others = next((a.intent for a in self._journal.state(state.record).of(shard) if a.key == key), None)
            if kept is None and (others is None or others.file_id != file_id):
                self._api.delete_file(file_id)
            return None
        return self._create({"input_file_id": file_id}, shard, key, state)

    def _submit_inline(self, step: Submit, state: JobState) -> BatchSnapshot | None:
        """Create the batch of a shard that goes with the call."""
        shard, key = step.shard, step.key
        content = content_of(self._store, shard, self._spec.bytes_per_batch)
        if content is None:
            raise self._changed(f"{SHARDS}/{shard.name}")
        self._drop_upload(key, state.of(shard))
        self._may_buy()
        since = Since(self._clock)
        now = self._clock()
        if not self._journal.write(key, IntentRecord(now, "", now)):
            log.info("Attempt %s is in other hands", key)
            return None
        if since.seconds() > self._create_timeout:
            why = f"not sent: {since.seconds():.0f} s went by after its intent"
            self._journal.write(key, VoidRecord(self._clock(), "absent", why))
            log.warning("The create of %s was %s", key, why)
            return None
        return self._create({"input_file_content": content}, shard, key, state)

    def _create(self, requests: dict[str, str], shard: Shard, key: Key, state: JobState) -> BatchSnapshot | None:
        try:
            batch = self._api.create_batch(
                **requests,
                endpoint=state.record.settings.get("url") or self._spec.request.endpoint,
                completion_window=self._spec.completion_window,
                metadata=self._metadata(state.record.job, key),
                output_expires_after=self._spec.output_expires_after,
            )
        except UnreachableError as error:
            log.warning("The answer to creating the batch of %s was lost (%s); it will be looked for", key, error)
            return None
        except QueueFullError as error:
            self._journal.write(key, VoidRecord(self._clock(), "queue_full", str(error)[:500]))
            log.info("Shard %s waits for room: %s", key, error)
            return None
        except RateLimitError as error:
            self._journal.write(key, VoidRecord(self._clock(), "rate_limited", str(error)[:500], error.retry_after))
            log.info("Shard %s waits for the rate limit: %s", key, error)
            return None
        except APIError as error:
            if isinstance(error, RejectedError) and "cannot find file" in str(error).lower():
                self._journal.write(key, VoidRecord(self._clock(), "file_not_found", str(error)[:500]))
                log.info("OpenAI doesn't find the file of %s yet; trying again soon", key)
                return None
            self._journal.write(key, VoidRecord(self._clock(), "refused", str(error)[:500]))
            if "input_file_content" in requests and (better := advised(error)) is not error:
                raise better from error
            raise
        self._journal.write(key, BatchRecord(self._clock(), batch.id))
        log.info("Created batch %s for shard %s: %s rows", batch.id, key, f"{shard.rows:,}")
        return batch

    def resolve(self, step: Resolve, state: JobState) -> BatchSnapshot | None:
        """Look for the batch of a create whose answer is unknown; adopt it, or void the attempt when it can't be."""
        attempt = step.attempt
        intent = attempt.intent
        if intent is None:
            return None
        wanted = self._metadata(state.record.job, attempt.key)
        known = {other.batch.batch_id for group in state.attempts.values() for other in group if other.batch}
        unclear: str | None = None
        inline = not intent.file_id
        for batch in self._api.list_batches():
            # Two servers behind a gateway have two clocks; a time that isn't known says nothing.
            if batch.created_at and batch.created_at < intent.file_created_at - (LOOK_BACK if inline else SKEW):
                break
            # A gateway may drop metadata, or have its own; the file is this shard's alone.
            unnamed = not batch.metadata and batch.id not in known
            by_file = not inline and batch.input_file_id == intent.file_id and batch.id not in known
            if by_file or all(batch.metadata.get(name) == wanted[name] for name in OUR_METADATA):
                self._journal.write(attempt.key, BatchRecord(self._clock(), batch.id, adopted=True))
                log.info("Adopted batch %s for shard %s", batch.id, attempt.key)
                return batch
            recent = not batch.created_at or batch.created_at >= intent.file_created_at - SKEW
            # A server that is sent no file may make one.
            if unnamed and recent and (inline or not batch.input_file_id):
                unclear = unclear or batch.id
        if step.give_up and unclear is not None:
            raise RejectedError(
                f"Whether the create of shard {attempt.key} made batch {unclear} can't be told: the server shows "
                "neither metadata nor input file of it. Nothing was bought again. Where that batch is somebody else's, "
                "or was cancelled, start the job again at another destination"
            )
        if step.give_up and inline:
            self._prove_project(attempt.key, state)
        if step.give_up and not inline and attempt.fence is None:
            self._fence(attempt, intent.file_id, state)
        elif step.give_up:
            self._journal.write(attempt.key, VoidRecord(self._clock(), "absent", "no batch with its metadata"))
            log.info("The create of %s made no batch; trying again", attempt.key)
        return None

    def _prove_project(self, key: Key, state: JobState) -> None:
        """See that the key is of the job's project, as far as a batch of the job's can tell.

        :raises NotFoundError: it doesn't see the newest one.
        """
        known = state.batch_ids()
        try:
            if known:
                self._api.retrieve_batch(known[-1])
        except NotFoundError as error:
            raise NotFoundError(
                f"{error}. The answer to the create of shard {key} was lost, and this connection doesn't see the job's "
                "batches: its key is of another project. Whether the create made a batch can't be told, so nothing was "
                "bought again. Give the connection the key that the job began with and clear the task",
                status=error.status,
            ) from error

    def _fence(self, attempt: Attempt, file_id: str, state: JobState) -> None:
        """Delete the file of a create that made no batch so far, lest a process that stood still sends it yet.

        :raises NotFoundError: the file isn't there, and it wasn't this job that deleted it.
        """
        key = attempt.key
        if attempt.doom is None:
            if self._api.find_file(file_id) is None:
                self._others_doomed(key, file_id, state)
                return
            self._journal.write(key, DoomRecord(self._clock()))
        try:
            self._api.delete_file(file_id)
        except APIError as error:
            if error.retryable:
                raise
            log.warning("Couldn't delete file %s at OpenAI: %s", file_id, error)
        self._journal.write(key, FenceRecord(self._clock()))

    def _others_doomed(self, key: Key, file_id: str, state: JobState) -> None:
        """Accept that a file is gone if another process of this job has seen and deleted it just now."""
        now = self._journal.state(state.record).all_attempts()
        if any(other.key == key and (other.doom or other.batch or other.void) for other in now):
            return
        raise NotFoundError(
            f"The answer to the create of shard {key} was lost, and its file {file_id} isn't there for this "
            "connection: it was uploaded with a key of another project, or somebody deleted it. Whether the create "
            "made a batch can't be told, so nothing was bought again. Give the connection the key that the job began "
            "with and clear the task; where there is none any more, start the job again at another destination",
            status=404,
        )

    def requeue(self, step: Requeue) -> None:
        """Void the attempt of a batch that failed before any row ran."""
        issue = step.snapshot.errors[0]
        full = any(issue.code in QUEUE_FULL_CODES for issue in step.snapshot.errors)
        reason = VoidRecord(self._clock(), "queue_full" if full else "file_not_found", (issue.message or "")[:500])
        self._journal.write(step.attempt.key, reason)
        log.info("Batch %s never ran (%s); its shard goes again", step.snapshot.id, issue.message)

    def _metadata(self, job: str, key: Key) -> dict[str, str]:
        ours = {"job": job, "shard": f"{key.shard:05d}", "round": str(key.round), "attempt": str(key.attempt)}
        return {**self._spec.metadata, **ours}

    @staticmethod
    def _usable_file(trail: tuple[Attempt, ...]) -> tuple[str, float] | None:
        """Return the file of an earlier attempt that never got to run, so that it isn't uploaded again."""
        voids = [attempt for attempt in trail if attempt.void and attempt.intent]
        if not voids or voids[-1].intent is None or not voids[-1].intent.file_id or voids[-1].doom:
            return None
        file_id = voids[-1].intent.file_id
        lost = [
            a
            for a in voids
            if a.void and a.void.reason == "file_not_found" and a.intent and a.intent.file_id == file_id
        ]
        return None if len(lost) >= FILE_TRIES else (file_id, voids[-1].intent.file_created_at)

    def _upload(self, job: str, shard: Shard, key: Key) -> tuple[str, float]:
        source = f"{SHARDS}/{shard.name}"
        if self._store.size(source) != shard.bytes:
            raise self._changed(source)
        self._journal.write(key, UploadRecord(self._clock(), f"{job}-{key}.jsonl"))
        log.info("Uploading shard %s: %s rows, %s bytes", key, f"{shard.rows:,}", f"{shard.bytes:,}")
        readers: list[DigestReader] = []

        def opener() -> BinaryIO:
            progress = Progress(f"Uploading shard {key}", "bytes", shard.bytes)
            readers.append(DigestReader(self._store.reader(source), progress))
            return cast("BinaryIO", readers[-1])

        file = self._api.upload(f"{job}-{key}.jsonl", opener)
        if readers[-1].digest() != shard.digest:
            self._api.delete_file(file.id)
            raise self._changed(source)
        return file.id, file.created_at

    def _drop_upload(self, key: Key, trail: tuple[Attempt, ...]) -> None:
        """Delete what an earlier try of this attempt uploaded, before the user had the requests sent otherwise."""
        begun = next((attempt.upload for attempt in trail if attempt.key == key), None)
        if begun is None:
            return
        try:
            for file in self._api.files_named(begun.file_name, since=begun.at - SKEW):
                self._api.delete_file(file.id)
        except APIError as error:
            log.warning("Couldn't delete the upload of %s at OpenAI: %s", key, error)

    def _changed(self, source: str) -> JournalError:
        return JournalError(
            f"{self._store.address(source)} isn't as it was planned. Nothing was bought for it; restore the file, or "
            "start the job again at another destination."
        )

    def _left_behind(self, shard: Shard, key: Key, trail: tuple[Attempt, ...]) -> tuple[str, float] | None:
        """Return the file that an earlier try of this attempt uploaded whole; delete its other leavings."""
        begun = next((attempt.upload for attempt in trail if attempt.key == key), None)
        if begun is None:
            return None
        found: tuple[str, float] | None = None
        for file in self._api.files_named(begun.file_name, since=begun.at - SKEW):
            if file.bytes != shard.bytes:
                self._api.delete_file(file.id)
            elif found is None:
                log.info("Found the upload of %s from before: %s", key, file.id)
                found = file.id, file.created_at
        return found


def too_large(attempt: Attempt, now: float) -> EndRecord:
    """Return the end of a row that no queue of its model takes: failed, and never run."""
    message = attempt.void.message if attempt.void else None
    return EndRecord(
        at=now,
        batch_id="",
        status="failed",
        output_bytes=None,
        error_bytes=None,
        files=(),
        rows={"failed": 1},
        open={},
        answered=0,
        usage={},
        noise={},
        failure=RowIssue(-1, "token_limit_exceeded", message),
    )
