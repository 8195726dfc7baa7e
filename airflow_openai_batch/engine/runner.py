"""``advance(job)``: look at the journal and at OpenAI, do all that can be done now, say what to wait for.

Crash-only: the first run, a resume after deferral, a retry after ``kill -9``, a cleared task and the loop that doesn't
defer all call this and nothing else. There is no recovery path beside it.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from airflow_openai_batch.engine import lifecycle, structured
from airflow_openai_batch.engine.asking import Asker, TimeIsUpError
from airflow_openai_batch.engine.canary import judge
from airflow_openai_batch.engine.cancelling import cancel_one
from airflow_openai_batch.engine.collect import Collector
from airflow_openai_batch.engine.crew import take_all
from airflow_openai_batch.engine.journal import MANIFEST, JobState
from airflow_openai_batch.engine.landing import Lander
from airflow_openai_batch.engine.late import names_nothing
from airflow_openai_batch.engine.models import BatchSnapshot, Done, Ended, Key, Shard, Waiting
from airflow_openai_batch.engine.money import Account
from airflow_openai_batch.engine.progress import Progress
from airflow_openai_batch.engine.records import (
    CancelRecord,
    IntentRecord,
    JobRecord,
    LateRecord,
    RecancelRecord,
    RoundRecord,
    SplitRecord,
)
from airflow_openai_batch.engine.repack import halve, repack
from airflow_openai_batch.engine.requests import measure
from airflow_openai_batch.engine.results import RESULTS
from airflow_openai_batch.engine.rounds import expand
from airflow_openai_batch.engine.shards import Limits
from airflow_openai_batch.engine.sources import place_of
from airflow_openai_batch.engine.steps import (
    Ask,
    Cancel,
    Collect,
    GiveUp,
    OpenRound,
    Requeue,
    Resolve,
    Split,
    Step,
    Submit,
)
from airflow_openai_batch.engine.submit import SKEW, Submitter, too_large
from airflow_openai_batch.exceptions import (
    MAX_PROBLEMS_SHOWN,
    JobTimeoutError,
    JournalError,
    NotFoundError,
    RateLimitError,
    RejectedError,
    UnreachableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow_openai_batch.engine.job import Job


log = logging.getLogger(__name__)

Stop = Literal["submitted", "ended", "landed"]

_FEW = 3
"""Batches that are retrieved one by one; more are read off the list, a hundred a call."""

_RETRY_SOON = 30.0
"""Seconds to the next look when OpenAI can't be reached."""


def advance(job: Job, *, stop: Stop = "landed", new_try: bool = False) -> Done | Ended | Waiting:
    """Do all that can be done now.

    :param stop: ``submitted``: until what can be submitted is; ``ended``: until no round is left, results not landed;
        ``landed``: to the end.
    :param new_try: whether this is the first call of a new try of the task. Batches that it finds cancelled were
        cancelled when the try before was killed, so their unfinished rows go again.
    :return: :class:`Done` with the manifest, :class:`Ended` (only where ``stop`` says so), or :class:`Waiting`.
    :raises OpenAIBatchError: see its tree; after any of them the same call goes on where this one stopped.
    """
    return _Advance(job, job.open()).run(stop, new_try=new_try)


class _Advance:
    """One call of :func:`advance`."""

    def __init__(self, job: Job, record: JobRecord) -> None:
        self._job = job
        self._record = record
        self._check = structured.answer_check(record.parameters.get("response_format"))
        foreign = record.foreign is not None
        self._collector = Collector(job.api, job.store, self._check, job.clock, foreign=foreign)
        self._submitter = Submitter(
            job.api,
            job.store,
            job.journal,
            job.spec,
            job.clock,
            create_timeout=job.rules.create_timeout,
            may_buy=job.halt.check,
        )
        self._rules = replace(job.rules, max_rounds=0, overdue=math.inf) if foreign else job.rules_for(record)
        self._account = Account(record, job.spec)
        self._snapshots: dict[str, BatchSnapshot] = {}
        self._looked_up: set[Key] = set()
        self._cancelled: set[str] = set()
        self._lander = Lander(job, record, self._account, self._check)

    def run(self, stop: Stop, *, new_try: bool) -> Done | Ended | Waiting:
        job = self._job
        manifest = job.journal.manifest()
        if manifest is not None:
            self._same_job(manifest)
            return Done(self._lander.in_format(manifest) if stop == "landed" else manifest)
        state = job.journal.state(self._record)
        if state.stop is None:
            self._account.check_estimate(state, self._rules.way)
        lost = self._look(state)
        if new_try and self._note_kills(state):
            state = job.journal.state(self._record)
        while True:
            now = job.clock()
            self._judge_canary(state)
            decision = lifecycle.decide(
                state,
                self._snapshots,
                now,
                self._rules,
                looked_up=frozenset(self._looked_up),
                cancelled=frozenset(self._cancelled),
            )
            if decision.steps:
                progress = Progress("Submitting and collecting", "steps", len(decision.steps))
                try:
                    take_all(decision.steps, partial(self._take, state=state, progress=progress), job.at_once)
                except TimeIsUpError as up:
                    state = job.journal.state(self._record)
                    self._time_out([a.batch.batch_id for a in state.in_flight() if a.batch], state, up.timeout)
                state = job.journal.state(self._record)
                continue
            job.journal.write_digest(self._record)
            if decision.waiting is not None:
                return self._wait(decision.waiting, state, now, lost=lost)
            if stop != "landed":
                return Ended(state.batch_ids())
            return Done(self._lander.land(state))

    def _same_job(self, manifest: dict[str, Any]) -> None:
        if manifest["job"] != self._record.job:
            raise JournalError(
                f"{self._job.store.address(MANIFEST)} is of job {manifest['job']}, the journal beside it of "
                f"{self._record.job}. Nothing was bought or changed."
            )

    def _look(self, state: JobState) -> bool:
        """Take a snapshot of each batch in flight; whether OpenAI couldn't be reached."""
        ids = {attempt.batch.batch_id for attempt in state.in_flight() if attempt.batch}
        try:
            if len(ids) > _FEW:
                oldest = min(a.batch.at for a in state.in_flight() if a.batch) - SKEW
                self._look_at_list(ids, oldest)
            for batch_id in sorted(ids):
                self._snapshots[batch_id] = self._retrieve(batch_id)
        except (UnreachableError, RateLimitError) as error:
            log.warning("Couldn't look at the batches (%s); they run on", error)
            return True
        except NotFoundError as error:
            raise NotFoundError(
                f"{error}. Job {self._record.job} bought this batch, so its rows aren't sent again; the job at "
                f"{self._record.destination} is as it was. Give the connection the key that the batch was made with "
                "and clear the task",
                status=error.status,
                code=error.code,
            ) from error
        return False

    def _retrieve(self, batch_id: str) -> BatchSnapshot:
        batch = self._job.api.retrieve_batch(batch_id)
        if batch.id != batch_id:
            # Another job's answers have the same wire ids.
            raise UnreachableError(f"The server was asked for batch {batch_id} and showed {batch.id}")
        return batch

    def _look_at_list(self, ids: set[str], oldest: float) -> None:
        """Take what the list shows of these batches off ``ids``; what it can't show is asked for one by one."""
        try:
            for batch in self._job.api.list_batches():
                # Some lists show no more of a batch than that it has ended.
                if batch.id in ids and not (batch.ended and names_nothing(batch)):
                    self._snapshots[batch.id] = batch
                    ids.discard(batch.id)
                if not ids or 0 < batch.created_at < oldest:
                    break
        except (NotFoundError, RejectedError, UnreachableError) as error:
            log.info("Looking at %s batches one by one: %s", len(ids), error)

    def _note_kills(self, state: JobState) -> bool:
        """Note the batches that were cancelled while nobody ran this job; whether there were any."""
        found = False
        for attempt in state.in_flight():
            snapshot = self._snapshots.get(attempt.batch.batch_id) if attempt.batch else None
            if attempt.cancel is None and snapshot is not None and snapshot.status in {"cancelling", "cancelled"}:
                note = CancelRecord(self._job.clock(), "found cancelled by a new try", again=True)
                found = self._job.journal.write(attempt.key, note) or found
        return found

    def _judge_canary(self, state: JobState) -> None:
        """See whether the rows that were asked first did well enough, until others are bought."""
        if state.stop is not None:
            return
        shards = [shard for shard in state.rounds[0] if shard.kind == "canary"]
        others = any(attempt.intent for shard in state.rounds[0] if shard not in shards for attempt in state.of(shard))
        ended = [attempt for shard in shards if (attempt := state.ended(shard))]
        if not shards or others or len(ended) < len(shards):
            return
        judge(self._job.store, ended, self._job.spec.canary_max_failed, self._check)
        self._account.check_projection(state, [attempt.end for attempt in ended if attempt.end], self._rules.way)

    def _take(self, step: Step, state: JobState, progress: Progress) -> bool:
        """Take one step; whether the steps after it still make sense."""
        self._job.halt.check()
        go_on = self._do(step, state)
        progress.add(1)
        return go_on

    def _do(self, step: Step, state: JobState) -> bool:
        takers: dict[type, Callable[[Any, JobState], bool | None]] = {
            Submit: self._submit,
            Ask: Asker(self._job, self._collector, self._account).ask,
            Resolve: self._resolve,
            Requeue: lambda step, _: self._submitter.requeue(step),
            Collect: lambda step, _: self._collect(step),
            Cancel: lambda step, _: self._cancel(step),
            Split: self._split,
            GiveUp: self._give_up,
            OpenRound: self._open_round,
        }
        return takers[type(step)](step, state) is not False

    def _submit(self, step: Submit, state: JobState) -> bool:
        self._account.reserve(step.shard, step.key, state)
        batch = self._submitter.submit(step, state)
        if batch is not None:
            self._snapshots[batch.id] = batch
        return batch is not None

    def _resolve(self, step: Resolve, state: JobState) -> None:
        found = self._submitter.resolve(step, state)
        self._looked_up.add(step.attempt.key)
        if found is not None:
            self._snapshots[found.id] = found

    def _claim(self, shard: Shard, key: Key, purpose: Literal["split", "give_up"], state: JobState) -> bool:
        """Claim an attempt, so that nobody submits the shard; False where somebody just does."""
        if any(attempt.key == key for attempt in state.of(shard)):
            return True  # by an attempt that died after it
        return self._job.journal.write(key, IntentRecord(self._job.clock(), "", 0.0, purpose))

    def _split(self, step: Split, state: JobState) -> bool:
        if not self._claim(step.shard, step.key, "split", state):
            return False
        halves = halve(self._job.store, step.shard, self._measure())
        self._job.journal.create_split(SplitRecord(step.shard.round, step.shard.number, halves))
        log.info("Shard %s is too large for the queue of %s; halved", step.shard.name, step.shard.model)
        return True

    def _give_up(self, step: GiveUp, state: JobState) -> bool:
        if not self._claim(step.shard, step.key, "give_up", state):
            return False
        self._job.journal.write(step.key, too_large(step.refused, self._job.clock()))
        row = step.shard.first // self._record.repeats
        log.warning("Row %s is too large for the queue of %s", row, step.shard.model)
        return True

    def _cancel(self, step: Cancel) -> None:
        job, attempt = self._job, step.attempt
        if attempt.batch is None:
            return
        self._cancelled.add(attempt.batch.batch_id)
        try:
            batch = cancel_one(job.api, job.journal, job.clock, attempt, step.reason, again=step.again)
        except (UnreachableError, RateLimitError, RejectedError, NotFoundError) as error:
            log.warning("%s; it runs on, and none of its rows is sent again before another call is taken", error)
            return
        if attempt.cancel is not None and batch is not None:
            job.journal.write(attempt.key, RecancelRecord(job.clock()))
        if batch is not None:
            log.warning("Cancelled batch %s (%s); it is %s", batch.id, step.reason, batch.status)
            self._snapshots[batch.id] = batch

    def _collect(self, step: Collect) -> None:
        if step.snapshot.status == "cancelled" and step.attempt.cancel is None:
            # Nobody of this job asked for it: final. Said before the end is written, so that a new try, which would
            # have the rows go again, can't say otherwise once somebody has gone on from here.
            self._job.journal.write(step.attempt.key, CancelRecord(self._job.clock(), "found cancelled", again=False))
        end = self._collector.collect(step.shard, step.attempt, step.snapshot, final=step.final)
        if end is None:
            self._job.journal.write(step.attempt.key, LateRecord(self._job.clock()))
            self._looked_up.add(step.attempt.key)
            return
        self._job.journal.write(step.attempt.key, end)
        rows = ", ".join(f"{count:,} {status}" for status, count in sorted(end.rows.items()))
        log.info("Collected batch %s (%s): %s", end.batch_id, end.status, rows)
        if end.failure is not None:
            log.warning("Batch %s failed validation: %s: %s", end.batch_id, end.failure.code, end.failure.message)
        for issue in end.issues[:MAX_PROBLEMS_SHOWN]:
            where = place_of(issue.row // self._record.repeats, self._record.plan.sources)
            log.warning("Batch %s failed validation at %s: %s: %s", end.batch_id, where, issue.code, issue.message)

    def _measure(self) -> Callable[[bytes], tuple[int, int]]:
        return partial(measure, endpoint=str(self._record.parameters["endpoint"]))

    def _open_round(self, step: OpenRound, state: JobState) -> None:
        job = self._job
        limits = Limits(job.spec.requests_per_batch, job.spec.bytes_per_batch, job.spec.max_enqueued_tokens)
        wanted = set(expand(step.rows))
        of_shard = ((shard, {row for row in wanted if shard.first <= row <= shard.last}) for shard in state.rounds[0])
        hit = ((shard, rows) for shard, rows in of_shard if rows)
        shards = repack(job.store, step.number, hit, limits, self._measure())
        job.journal.create_round(RoundRecord(step.number, job.clock(), shards))
        log.info("Round %s: %s row(s) go again in %s shard(s)", step.number, f"{len(wanted):,}", len(shards))

    def _wait(self, waiting: Waiting, state: JobState, now: float, *, lost: bool) -> Waiting:
        until = [waiting.until] if waiting.until is not None else []
        if lost:
            until.append(now + _RETRY_SOON)
        timeout = self._job.spec.timeout
        begun = state.first_submission()
        if timeout is not None and begun is not None:
            if now >= begun + timeout:
                self._time_out(waiting.batches, state, timeout)
            until.append(begun + timeout)
        return replace(waiting, until=min(until, default=None))

    def _time_out(self, running: Sequence[str], state: JobState, timeout: float) -> NoReturn:
        """Land what is finished, without a manifest, since the job isn't done; then say what still runs."""
        rows = self._lander.land_parts(state).rows
        finished = self._record.plan.rows - rows["missing"]
        raise JobTimeoutError(
            f"The job at {self._record.destination} isn't done {timeout:,.0f} s after its first submission. "
            f"{finished:,} of {self._record.plan.rows:,} rows are landed at {self._job.store.address(RESULTS)}, the "
            f"others as missing. Still running, and billing what they finish: {', '.join(running) or 'none'}. "
            "Clear the task with a longer timeout to go on where it is; to stop it, use OpenAIBatchCancelOperator."
        )
