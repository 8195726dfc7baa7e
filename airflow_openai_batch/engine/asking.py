"""Requests of a shard, asked one by one: claimed in the journal, paid for within the caps, counted like a batch's."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

from airflow_openai_batch.engine.answers import parse_line, parse_lines
from airflow_openai_batch.engine.digests import new_digest
from airflow_openai_batch.engine.direct import Direct
from airflow_openai_batch.engine.records import IntentRecord
from airflow_openai_batch.engine.shards import SHARDS
from airflow_openai_batch.exceptions import JournalError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from airflow_openai_batch.engine.collect import Collector
    from airflow_openai_batch.engine.job import Job
    from airflow_openai_batch.engine.journal import JobState
    from airflow_openai_batch.engine.models import Key, Shard
    from airflow_openai_batch.engine.money import Account, Allowance
    from airflow_openai_batch.engine.steps import Ask

log = logging.getLogger(__name__)

_PIECE = 1 << 20


class TimeIsUpError(Exception):
    """The job's timeout has passed; nothing more is asked, and what was answered is kept.

    :ivar timeout: seconds.
    """

    def __init__(self, timeout: float) -> None:
        super().__init__(f"{timeout:g} s have passed")
        self.timeout = timeout


class Asker:
    """Asks shards."""

    def __init__(self, job: Job, collector: Collector, account: Account) -> None:
        self._job = job
        self._collector = collector
        self._account = account

    def ask(self, step: Ask, state: JobState) -> bool:
        """Ask what isn't answered yet, nothing if the job was stopped; False where the shard is in other hands.

        :raises TimeIsUpError: the job's timeout has passed.
        :raises CostCapError: a cap has no room for the next requests; what was answered is kept.
        """
        shard, key, journal = step.shard, step.key, self._job.journal
        claimed = any(attempt.key == key and attempt.intent for attempt in state.of(shard))
        allowance = self._account.allowance(shard, key, state)
        if not claimed:
            self._check_digest(shard)
            if not journal.write(key, IntentRecord(self._job.clock(), "", 0.0, "direct")):
                return False
        log.info("Asking shard %s directly: %s rows", key, f"{shard.rows:,}")
        api: Any = self._job.api
        direct = Direct(self._job.store, api, self._job.clock, concurrency=self._job.spec.direct_at_once)
        if allowance is not None:
            self._look_back(direct, shard, key, allowance)
            direct = Direct(
                self._job.store,
                cast("Any", _Metered(api, allowance)),
                self._job.clock,
                concurrency=self._job.spec.direct_at_once,
            )
        check = self._go_on(state)

        def reserve(lines: Sequence[bytes]) -> None:
            check()
            if allowance is not None:
                allowance.reserve(lines)

        if state.stop is not None:
            direct.run(str(key), (), shard.rows)
        else:
            with self._job.store.open(f"{SHARDS}/{shard.name}") as lines:
                direct.run(str(key), lines, shard.rows, reserve=reserve)
        end = self._collector.take(shard, key, "completed" if state.stop is None else "cancelled")
        journal.write(key, end)
        rows = ", ".join(f"{count:,} {status}" for status, count in sorted(end.rows.items()))
        log.info("Asked shard %s: %s", key, rows)
        return True

    def _go_on(self, state: JobState) -> Callable[[], None]:
        """Return what is called before more is asked; it raises an error where nothing more is to be."""
        job, timeout = self._job, self._job.spec.timeout
        begun = state.first_submission() or job.clock()

        def check() -> None:
            job.halt.check()
            if timeout is not None and job.clock() >= begun + timeout:
                raise TimeIsUpError(timeout)

        return check

    def _look_back(self, direct: Direct, shard: Shard, key: Key, allowance: Allowance) -> None:
        """Book what an earlier process asked for."""
        for answers in direct.answered(str(key)):
            for value in parse_lines(answers):
                if value is not None:
                    allowance.note(value, shard.bytes // max(1, shard.rows))
        lost = direct.lost(str(key))
        allowance.note_lost(shard.bytes * lost // max(1, shard.rows))

    def _check_digest(self, shard: Shard) -> None:
        name = f"{SHARDS}/{shard.name}"
        digest = new_digest()
        with self._job.store.open(name) as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
        if digest.hexdigest() != shard.digest:
            raise JournalError(
                f"{self._job.store.address(name)} isn't as it was planned. Nothing was bought for it; restore the "
                "file, or start the job again at another destination."
            )


class _Metered:
    """An API whose answers are booked as they come."""

    def __init__(self, api: Any, allowance: Allowance) -> None:
        self._api = api
        self._allowance = allowance

    def ask(self, lines: Iterable[bytes], take: Callable[[bytes], None], *, concurrency: int) -> None:
        def booked(line: bytes) -> None:
            value = parse_line(line)
            if value is not None:
                self._allowance.note(value)
            take(line)

        self._api.ask(lines, booked, concurrency=concurrency)
