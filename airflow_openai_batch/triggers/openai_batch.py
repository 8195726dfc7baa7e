"""Waits for batches by their ids, and never touches the store: all that spends money or writes happens on a worker.

A poll that fails is tried again, later each time, for as long as it takes: it says nothing about the batches, which run
and bill all the same. Only when the API has said five times in a row that the key or an id is wrong is the task woken,
to say so.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_openai_batch.engine import polling
from airflow_openai_batch.exceptions import APIError, AuthenticationError, NotFoundError
from airflow_openai_batch.hooks.openai_batch import OpenAIBatchHook
from airflow_openai_batch.triggers.kill import is_over
from airflow_openai_batch.triggers.poller import Look, shared_poller

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from airflow_openai_batch.engine.models import BatchSnapshot

MAX_REFUSALS = 5

_DICE = random.random()  # noqa: S311 - no secret
"""Keeps triggerers from asking in step; one for all triggers of a process, whose looks are to be gathered."""

_cancelling: set[asyncio.Task[None]] = set()
"""Cancellations under way; a task that nobody holds may be collected as garbage."""


class OpenAIBatchTrigger(BaseTrigger):
    """Fires once: when batches have ended, or a time has come.

    :param conn_id: the connection; never a key, since a trigger's arguments are plain text in the database.
    :param batch_ids: the batches to watch; none to wait for ``until`` alone.
    :param wake: ``any``: when one of them has ended; ``all``: when all have.
    :param poll_interval: seconds between two looks; they grow rarer, to six times that, as hours go by.
    :param not_before: seconds of the epoch before which it doesn't fire.
    :param until: seconds of the epoch at which it fires in any case, None for never.
    :param cancel_on_kill: cancel the batches when a user ends the task (marks it failed or success) while it waits.
    :param since: seconds of the epoch at which the task deferred; it comes back in the event.

    The event is ``{"status": "ended" | "time" | "error", "batches": {id: status}, "message", "since"}``.
    """

    def __init__(
        self,
        *,
        conn_id: str,
        batch_ids: list[str],
        wake: str = "all",
        poll_interval: float = 60.0,
        not_before: float = 0.0,
        until: float | None = None,
        cancel_on_kill: bool = False,
        since: float | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # Airflow's has no types
        self.conn_id = conn_id
        self.batch_ids = list(batch_ids)
        self.wake = wake
        self.poll_interval = poll_interval
        self.not_before = not_before
        self.until = until
        self.cancel_on_kill = cancel_on_kill
        self.since = since
        self._seen: dict[str, BatchSnapshot] = {}
        self._told = ""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments; a restarted triggerer begins anew from these."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "conn_id": self.conn_id,
                "batch_ids": self.batch_ids,
                "wake": self.wake,
                "poll_interval": self.poll_interval,
                "not_before": self.not_before,
                "until": self.until,
                "cancel_on_kill": self.cancel_on_kill,
                "since": self.since,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Watch, then fire once."""
        event = await self._watch()
        await asyncio.sleep(max(0.0, self.not_before - time.time()))
        yield TriggerEvent(event)

    async def on_kill(self) -> None:
        """Cancel the batches if the task is over for good; Airflow 3.3 and later call this.

        Airflow cancels this very call about a second later, with its next look at the triggers, and the first question
        about a task's state takes a triggerer several seconds: so the work goes on in a task of its own.
        """
        work = asyncio.create_task(self._cancel_batches())
        _cancelling.add(work)
        work.add_done_callback(_cancelling.discard)
        await asyncio.shield(work)

    async def _cancel_batches(self) -> None:
        if not self.cancel_on_kill or not await asyncio.to_thread(is_over, self.task_instance):
            self.log.info("The task may go on with its batches; none is cancelled: %s", ", ".join(self.batch_ids))
            return
        client = await OpenAIBatchHook(self.conn_id).aget_client()
        try:
            for batch_id in self.batch_ids:
                try:
                    await client.cancel_batch(batch_id)
                except APIError as error:
                    self.log.warning("Batch %s wasn't cancelled: %s", batch_id, error)
                else:
                    self.log.info("Batch %s is being cancelled; what it finished can still be landed", batch_id)
        finally:
            await client.close()

    async def _watch(self) -> dict[str, Any]:
        if not self.batch_ids:
            await asyncio.sleep(max(0.0, (self.until or 0.0) - time.time()))
            return self._event("time")
        begun = time.time()
        failures = refusals = 0
        wait = 0.0
        hook = OpenAIBatchHook(self.conn_id)
        async with shared_poller(self.conn_id, hook.aget_client) as poller:
            while True:
                left = None if self.until is None else self.until - time.time()
                if left is not None and left <= 0:
                    return self._event("time")
                look = await poller.look(tuple(self.batch_ids), wait if left is None else min(wait, left))
                self._seen.update(look.batches)
                self._tell()
                if self._over():
                    return self._event("ended")
                problem = _problem(look)
                if problem is None:
                    failures = refusals = 0
                    wait = polling.interval(self.poll_interval, time.time() - begun, _DICE)
                    continue
                failures += 1
                refusals = refusals + 1 if isinstance(problem, (AuthenticationError, NotFoundError)) else 0
                if refusals >= MAX_REFUSALS:
                    return {**self._event("error"), "message": str(problem)}
                wait = polling.backoff(self.poll_interval, failures, random.random())  # noqa: S311 - no secret
                wait = max(wait, min(problem.retry_after, polling.MAX_BACKOFF))
                self.log.warning(
                    "Poll failed (%s in a row), next in %.0f s; batches run on: %s", failures, wait, problem
                )

    def _over(self) -> bool:
        ended = sum(self._seen[i].ended for i in self.batch_ids if i in self._seen)
        return ended == len(self.batch_ids) or (self.wake == "any" and ended > 0)

    def _tell(self) -> None:
        """Log progress when it has changed. Counts can be full long before a batch has completed: say its status."""
        batches = self._seen.values()
        statuses = ", ".join(
            f"{count} {status}" for status, count in sorted(Counter(b.status for b in batches).items())
        )
        done = sum(b.counts.completed + b.counts.failed for b in batches)
        text = f"{done:,} of {sum(b.counts.total for b in batches):,} rows done; batches: {statuses}"
        if statuses and text != self._told:
            self._told = text
            self.log.info("%s", text)

    def _event(self, status: str) -> dict[str, Any]:
        batches = {i: self._seen[i].status for i in self.batch_ids if i in self._seen}
        return {"status": status, "batches": batches, **({"since": self.since} if self.since else {})}


def _problem(look: Look) -> APIError | None:
    return next(iter(look.errors.values()), None)
