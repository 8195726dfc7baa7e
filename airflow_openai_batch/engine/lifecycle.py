"""What to do next. Pure: the journal, what the batches looked like, and the time; no I/O, no clock.

A shard's trail of attempts says where it stands:

====================================  ================================================================
trail                                 what follows
====================================  ================================================================
none, or the last one void            submit (after a pause, if the queue was full, or a rate limit reached)
upload, no intent                     submit: the upload is found by its name, or made again
intent, no batch                      look the batch up by its metadata; give up when it can't exist
intent to split, or to give up        do so; a shard that was halved isn't seen any more, its halves are
intent to ask directly, no end        go on asking
batch, no end                         watch; when it has ended and its files are there, collect
end                                   over
====================================  ================================================================

Shards of the canary come first, and alone: while they aren't over, no other is looked at. A shard that goes directly is
asked one by one rather than submitted; when a deadline is near, all that isn't submitted goes so, and what runs is
cancelled, so that its rows make a round that goes so too.

Nothing is bought for a job that was stopped: what runs is cancelled, lost creates are found and cancelled as well, and
shards that nobody runs are over.

When every shard of a round is over, the rows that may go again make the next round; when there are none, the job can
be landed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from airflow_openai_batch.engine.late import LOOK_AGAIN, ended_at, may_come, names_too_little
from airflow_openai_batch.engine.models import BatchSnapshot, Key, Shard, Waiting
from airflow_openai_batch.engine.queueing import pause_until, rate_limited, too_large
from airflow_openai_batch.engine.rounds import OVERDUE, rows_to_repeat
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

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_openai_batch.engine.journal import JobState
    from airflow_openai_batch.engine.records import Attempt, BatchRecord

QUEUE_FULL_CODES = frozenset({"token_limit_exceeded"})

ON_KILL = "on_kill"
"""Why a batch is cancelled whose task was ended by its user."""

SETTLING = 900.0
"""Seconds to the next try where a stuck batch can't be cancelled."""


@dataclass(frozen=True)
class Rules:
    """What the user and the clock allow.

    :param max_rounds: tries a row may have; 0 for a batch that is only landed.
    :param max_enqueued_tokens: estimated input tokens that may be in flight at once, None for no limit of ours.
    :param create_timeout: seconds within which a create call ends.
    :param create_grace: seconds after which a batch that exists is listed.
    :param overdue: seconds after a batch's window, or after its cancellation, at which it is taken to be stuck.
    :param plan_patience: seconds that an attempt whose planning was overtaken waits for the other's plan.
    :param queue_pause: seconds after the first refusal for a full queue or a rate limit; doubles with each.
    :param way: how the job's requests go.
    :param direct_from: the time (seconds of the epoch) from which a deadline has all go directly, None for never.
    """

    max_rounds: int = 2
    max_enqueued_tokens: int | None = None
    create_timeout: float = 30.0
    create_grace: float = 30.0
    overdue: float = 3600.0
    queue_pause: float = 30.0
    plan_patience: float = 10.0
    way: Literal["batch", "direct"] = "batch"
    direct_from: float | None = None


@dataclass(frozen=True)
class Decision:
    """Steps to take now; without any, either what to wait for, or None: the job can be landed."""

    steps: tuple[Step, ...]
    waiting: Waiting | None


def decide(
    state: JobState,
    snapshots: Mapping[str, BatchSnapshot],
    now: float,
    rules: Rules,
    *,
    looked_up: frozenset[Key] = frozenset(),
    cancelled: frozenset[str] = frozenset(),
) -> Decision:
    """Say what to do next.

    :param state: the journal.
    :param snapshots: the batches in flight as the API just showed them, by id.
    :param now: seconds of the epoch.
    :param looked_up: attempts whose batch, or a file of it, was looked for just now and not found.
    :param cancelled: batches whose cancellation was asked for just now.
    """
    survey = _Survey(state, snapshots, now, rules, looked_up, cancelled=cancelled)
    shards = [shard for shards in state.rounds for shard in shards]
    canary = [shard for shard in shards if shard.kind == "canary" and not state.ended(shard)]
    for shard in shards if state.stop else canary or shards:
        survey.look_at(shard)
    survey.make_room()
    if survey.steps:
        return Decision(tuple(survey.steps), None)
    if survey.watched or survey.times:
        return Decision((), survey.waiting())
    rows = () if state.stop else rows_to_repeat(state, rules.max_rounds)
    if rows:
        return Decision((OpenRound(len(state.rounds), rows),), None)
    return Decision((), None)


class _Survey:
    """Where every shard stands, gathered one by one."""

    def __init__(
        self,
        state: JobState,
        snapshots: Mapping[str, BatchSnapshot],
        now: float,
        rules: Rules,
        looked_up: frozenset[Key],
        *,
        cancelled: frozenset[str],
    ) -> None:
        self._state = state
        self._cancelled = cancelled
        self._snapshots = snapshots
        self._now = now
        self._rules = rules
        self._looked_up = looked_up
        self._ready: list[tuple[Shard, Key]] = []
        self._asked: list[Ask] = []
        self._refused: list[tuple[Shard, tuple[Attempt, ...]]] = []
        self._held: list[Shard] = []
        self._put_off: list[Shard] = []
        self._tokens = 0
        self._busy: set[str] = set()
        self._looking = False
        self._late = 0
        self.steps: list[Step] = []
        self.watched: list[str] = []
        self.times: list[float] = []

    def look_at(self, shard: Shard) -> None:
        trail = self._state.of(shard)
        last = trail[-1] if trail else None
        if self._state.stop and (last is None or not _may_have_bought(last)):
            return
        if last is None:
            self._ready.append((shard, Key(shard.number, shard.round, 0)))
        elif last.end:
            return
        elif last.void:
            self._refused.append((shard, trail))
        elif last.batch:
            self._in_flight(shard, last, last.batch)
        elif last.intent and last.intent.purpose == "split":
            self.steps.append(Split(shard, last.key))
        elif last.intent and last.intent.purpose == "give_up":
            self.steps.append(GiveUp(shard, last.key, trail[-2]))
        elif last.intent and last.intent.purpose == "direct":
            self._asked.append(Ask(shard, last.key))
        elif last.intent:
            # Without a file to delete, a create may begin as late as another one lasts.
            sent = last.intent.at + self._rules.create_timeout * (1 if last.intent.file_id else 2)
            self._unclear(shard, last, (last.fence.at if last.fence else sent) + self._rules.create_grace)
        else:
            self._ready.append((shard, last.key))

    def _in_flight(self, shard: Shard, last: Attempt, batch: BatchRecord) -> None:
        self._tokens += shard.tokens
        self._busy.add(shard.model)
        snapshot = self._snapshots.get(batch.batch_id)
        if snapshot is None:
            self.watched.append(batch.batch_id)
        elif not snapshot.ended:
            self._running(shard, last, snapshot)
        elif _never_ran(snapshot) and self._state.record.foreign is None:
            self.steps.append(Requeue(last, snapshot))
        else:
            self._ended(shard, last, snapshot)

    def _ended(self, shard: Shard, last: Attempt, snapshot: BatchSnapshot) -> None:
        """Collect a batch, unless files of it may still come; it holds no room in the queue any more."""
        noted_at = last.late.at if last.late else None
        final = not may_come(snapshot, noted_at, self._now)
        # Where no end is known, collecting notes that something is wanting.
        in_vain = names_too_little(snapshot) and (noted_at is not None or ended_at(snapshot, self._now) is not None)
        if final or not (in_vain or last.key in self._looked_up):
            self.steps.append(Collect(shard, last, snapshot, final))
        else:
            self._tokens -= shard.tokens
            self._late += 1
            self.times.append(self._now + LOOK_AGAIN)

    def _running(self, shard: Shard, last: Attempt, snapshot: BatchSnapshot) -> None:
        """Watch a batch, unless it is stuck: cancelled when its window is long over, and then given up in its turn."""
        cancel = self._to_cancel(last, snapshot)
        if cancel is not None:
            self.steps.append(cancel)
            return
        if self._rules.direct_from is not None and last.cancel is None:
            self.times.append(self._rules.direct_from)
        late = self._stuck_at(last, snapshot)
        if self._now < late:
            self.watched.append(snapshot.id)
            if late < math.inf:
                self.times.append(late)
        elif snapshot.status != "cancelling" and last.recancel is None:
            # Nobody took a cancellation, so all of its rows may still be run, and billed.
            self.watched.append(snapshot.id)
            self.times.append(self._now + SETTLING)
        else:
            self.steps.append(Collect(shard, last, replace(snapshot, status="expired"), final=True))

    def _stuck_at(self, last: Attempt, snapshot: BatchSnapshot) -> float:
        """Return when a batch is taken to be stuck."""
        late = math.inf if snapshot.expires_at is None else snapshot.expires_at + self._rules.overdue
        told = last.recancel or last.cancel
        return late if told is None else max(late, told.at + self._rules.overdue)

    def _to_cancel(self, last: Attempt, snapshot: BatchSnapshot) -> Cancel | None:
        """Say whether a running batch is to be cancelled now.

        A call that was noted may have come to nothing. It is made again; but not for a task that was killed and was
        started anew since, to which the batch's answers are welcome, unless the batch is stuck.
        """
        due, told = self._rules.direct_from, last.cancel
        if snapshot.id in self._cancelled or snapshot.status == "cancelling":
            return None
        if self._state.stop is not None:
            return Cancel(last, "stopped", again=False)
        if self._now >= self._stuck_at(last, snapshot):
            return Cancel(last, OVERDUE, again=True) if last.recancel is None else None
        if due is not None and self._now >= due:
            return Cancel(last, "deadline", again=True)
        return None if told is None or told.reason == ON_KILL else Cancel(last, told.reason, told.again)

    def _unclear(self, shard: Shard, last: Attempt, deadline: float) -> None:
        self._tokens += shard.tokens
        self._busy.add(shard.model)
        if last.key not in self._looked_up or deadline <= self._now:
            self.steps.append(Resolve(last, give_up=deadline <= self._now))
        else:
            self.times.append(deadline)
            self._looking = True

    def make_room(self) -> None:
        """Submit the shards that fit, in order; hold back those of a model whose queue is full.

        A rate limit on creates holds for all models.
        """
        for shard, trail in self._refused:
            self._go_again(shard, trail)
        self._ready.sort(key=lambda entry: (entry[1].round, entry[1].shard))
        full, limited = {shard.model for shard in self._held}, bool(self._put_off)
        limit = self._rules.max_enqueued_tokens
        for shard, key in self._ready:
            if self._goes_directly(shard):
                self._asked.append(Ask(shard, key))
            elif limited:
                self._put_off.append(shard)
            elif shard.model in full or (limit is not None and self._tokens and self._tokens + shard.tokens > limit):
                self._held.append(shard)
            else:
                self._tokens += shard.tokens
                self.steps.append(Submit(shard, key))

        # One shard at a time: a shard has as many calls under way as the job may have.
        self.steps.extend(self._asked[:1])

    def _goes_directly(self, shard: Shard) -> bool:
        due = self._rules.direct_from
        return shard.kind == "canary" or self._rules.way == "direct" or (due is not None and self._now >= due)

    def _go_again(self, shard: Shard, trail: tuple[Attempt, ...]) -> None:
        if self._goes_directly(shard):
            self._ready.append((shard, Key(shard.number, shard.round, len(trail))))
            return
        pause = pause_until(trail, self._state, self._rules.queue_pause)
        if too_large(shard, trail, alone=shard.model not in self._busy):
            key = Key(shard.number, shard.round, len(trail))
            self.steps.append(Split(shard, key) if shard.rows > 1 else GiveUp(shard, key, trail[-1]))
        elif pause is not None and pause > self._now:
            (self._put_off if rate_limited(trail) else self._held).append(shard)
            self.times.append(pause)
        else:
            self._ready.append((shard, Key(shard.number, shard.round, len(trail))))

    def waiting(self) -> Waiting:
        reason = f"{len(self.watched)} batch(es) running"
        if self._held:
            reason += f", {len(self._held)} shard(s) waiting for room in the queue"
        if self._put_off:
            reason += f", {len(self._put_off)} shard(s) waiting for the rate limit of new batches"
        if self._late:
            reason += f", {self._late} ended whose files aren't there yet"
        if self._looking:
            reason += ", a create whose answer was lost is being looked for"
        wake: Literal["any", "all"] = "any" if self._held else "all"
        return Waiting(tuple(self.watched), wake, min(self.times, default=None), reason)


def _may_have_bought(attempt: Attempt) -> bool:
    """Whether an attempt that isn't over may have bought something, or still may."""
    if attempt.end or attempt.void:
        return False
    return attempt.batch is not None or (attempt.intent is not None and attempt.intent.purpose in {"create", "direct"})


def _never_ran(snapshot: BatchSnapshot) -> bool:
    return snapshot.status == "failed" and any(
        issue.code in QUEUE_FULL_CODES or "cannot find file" in (issue.message or "").lower()
        for issue in snapshot.errors
    )
