"""The life of a batch: validating, in_progress, finalizing, completed, and the ways to end otherwise.

One task of the event loop a batch; work on files and rows goes to a small pool of threads. A batch looks up from
whatever it waits for when it is cancelled or its window ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from airflow_openai_batch.emulator.errors import APIError
from airflow_openai_batch.emulator.execution import Rows
from airflow_openai_batch.emulator.faults import EmptyFiles, Expire, Fail, Stuck, TokenLag
from airflow_openai_batch.emulator.oddities import shown_issue
from airflow_openai_batch.emulator.text_answers import snapshot
from airflow_openai_batch.emulator.validation import Report, batch_error, validate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow_openai_batch.emulator.batches import Batch
    from airflow_openai_batch.emulator.clock import Clock
    from airflow_openai_batch.emulator.endpoints import Endpoints
    from airflow_openai_batch.emulator.files import FileStore
    from airflow_openai_batch.emulator.ledger import Ledger
    from airflow_openai_batch.emulator.settings import Settings
    from airflow_openai_batch.emulator.token_queue import TokenQueue

T = TypeVar("T")
log = logging.getLogger(__name__)

# Rows that one thread runs before the others and the event loop have their turn, and how finely progress shows.
_BLOCK = 500
_STEP = 0.1
_STEPS = 100
_THREADS = 2
# Timers of the event loop fire up to a tick of the clock early.
_TICK = 0.02


def _window_is_over(batch: Batch) -> bool:
    return batch.deadline <= time.monotonic() + _TICK


class Runner:
    """Moves batches through their statuses."""

    def __init__(
        self,
        *,
        settings: Settings,
        clock: Clock,
        files: FileStore,
        endpoints: Endpoints,
        ledger: Ledger,
        queue: TokenQueue,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._files = files
        self._endpoints = endpoints
        self._ledger = ledger
        self._queue = queue
        self._pool = ThreadPoolExecutor(_THREADS, "openai-batch-emulator")
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, batch: Batch) -> None:
        """Begin the life of ``batch``. Its input file stays readable until it has ended."""
        self._files.pin(batch.input_file)
        self._ledger.batch_created(
            batch.id,
            {
                "endpoint": batch.asked.endpoint,
                "metadata": batch.asked.metadata,
                "status": batch.status,
                "created_at": batch.created_at,
                "model": None,
            },
        )
        task = asyncio.get_running_loop().create_task(self._live(batch), name=batch.id)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """End all batches where they are. Nothing of them is kept."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._pool.shutdown)

    async def _live(self, batch: Batch) -> None:
        try:
            await self._go(batch)
        except Exception:
            # A batch whose task died in silence would be in progress for ever, and its client would wait for it.
            log.exception("Batch %s broke the emulator", batch.id)
            self._fail(batch, [batch_error("server_error", "The emulator failed: see its log.")])
        finally:
            self._files.unpin(batch.input_file)

    async def _go(self, batch: Batch) -> None:
        report = await self._validate(batch)
        if report is None:
            await self._end_without_rows(batch)
            return
        if report.errors:
            self._fail(batch, report.errors)
            return
        model = report.model or ""
        if (error := self._queue.enqueue(model, report.tokens)) is not None:
            self._fail(batch, [error])
            return
        try:
            batch.rows = report.rows
            batch.model = snapshot(model)
            self._enter(batch, "in_progress")
            self._ledger.batch_changed(batch.id, rows=report.rows, model=model)
            await self._work(batch)
        finally:
            lag = batch.fault(TokenLag)
            self._queue.release(model, report.tokens, self._settings.token_lag if lag is None else lag.seconds)

    def _enter(self, batch: Batch, status: str) -> None:
        batch.moments[status] = self._clock.now()
        batch.status = status
        self._ledger.batch_changed(batch.id, status=status)

    async def check_limit(self, path: Path, endpoint: str) -> None:
        """Raise Azure's refusal of a batch for which the queue is too full at this moment."""
        if not self._settings.token_limits:
            return
        report = await self._in_thread(validate, path, endpoint, self._settings)
        error = None if report.errors else self._queue.refusal(report.model or "", report.tokens)
        if error is not None:
            envelope = {"errors": {"data": [error], "object": "list"}}
            raise APIError(400, str(error["message"]), envelope=envelope)

    def _fail(self, batch: Batch, errors: list[dict[str, str | int | None]]) -> None:
        batch.errors = [shown_issue(error, self._settings.oddities) for error in errors]
        self._enter(batch, "failed")

    async def _wait(self, batch: Batch, seconds: float) -> bool:
        """Wait, and return whether the batch is to end: it was cancelled, or its window is over."""
        await self._pause(batch, min(seconds, batch.deadline - time.monotonic()))
        return batch.cancelled or _window_is_over(batch)

    async def _pause(self, batch: Batch, seconds: float) -> None:
        """Wait, whatever the window, but not past a cancel."""
        if seconds > 0 and not batch.woken.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(batch.woken.wait(), seconds)

    async def _hang(self, batch: Batch, status: str) -> None:
        """Stay for ever where a ``stuck`` fault says so, or until the batch is cancelled."""
        stuck = batch.fault(Stuck)
        if stuck is not None and stuck.status == status:
            batch.deadline = math.inf
            if status == "cancelling":
                await asyncio.Event().wait()
            await batch.woken.wait()

    async def _in_thread(self, work: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *args)

    async def _validate(self, batch: Batch) -> Report | None:
        """Return what validation found, ``None`` when the batch came to an end meanwhile."""
        begun = time.monotonic()
        await self._hang(batch, "validating")
        if (fail := batch.fault(Fail)) is not None:
            report = Report(errors=[batch_error(fail.code, fail.message, line=fail.line, param=fail.param)])
        else:
            report = await self._in_thread(validate, batch.input_file.path, batch.asked.endpoint, self._settings)
        over = await self._wait(batch, begun + self._settings.validating - time.monotonic())
        return None if over else report

    async def _end_without_rows(self, batch: Batch) -> None:
        if batch.cancelled:
            await self._linger(batch)
        self._enter(batch, "cancelled" if batch.cancelled else "expired")

    async def _work(self, batch: Batch) -> None:
        scratch = self._files.scratch()
        output, errors = scratch.with_suffix(".output"), scratch.with_suffix(".error")
        rows = Rows(batch, self._endpoints, self._ledger, output, errors, oddities=self._settings.oddities)
        over = await self._run_rows(batch, rows)
        await self._hang(batch, "in_progress")
        over = over or batch.cancelled
        if over:
            await self._in_thread(rows.refuse_rest, "batch_cancelled" if batch.cancelled else "batch_expired")
        if not batch.cancelled:
            self._enter(batch, "finalizing")
            await self._hang(batch, "finalizing")
            await self._pause(batch, self._settings.finalizing)
        empty = batch.fault(EmptyFiles) is not None
        done, failed = await self._in_thread(partial(rows.close, empty=empty))
        if batch.cancelled:
            await self._linger(batch)
        batch.output_file_id = self._publish(batch, done, "output")
        batch.error_file_id = self._publish(batch, failed, "error")
        self._enter(batch, "cancelled" if batch.cancelled else "expired" if over else "completed")

    async def _run_rows(self, batch: Batch, rows: Rows) -> bool:
        """Run the rows at the speed that was asked for, and return whether the batch came to an end before all ran."""
        total, begun = batch.rows, time.monotonic()
        settings, expire, stuck = self._settings, batch.fault(Expire), batch.fault(Stuck)
        speed = settings.rows_per_second
        duration = settings.in_progress if speed is None else total / speed
        steps = max(-(-total // _BLOCK), min(total, math.ceil(duration / _STEP), _STEPS))
        block = -(-total // steps)
        last = total
        if expire is not None:
            last = min(last, expire.after_rows)
        if stuck is not None and stuck.status == "in_progress" and stuck.after_rows is not None:
            last = min(last, stuck.after_rows)
        while rows.done < last:
            await self._in_thread(rows.run, min(block, last - rows.done))
            due = begun + duration * rows.done / total
            if await self._wait(batch, due - time.monotonic()):
                break
        return rows.done < total and (batch.cancelled or expire is not None or _window_is_over(batch))

    async def _linger(self, batch: Batch) -> None:
        """Stay ``cancelling`` for as long as that takes."""
        await self._hang(batch, "cancelling")
        await asyncio.sleep(self._settings.cancelling)

    def _publish(self, batch: Batch, path: Path | None, kind: str) -> str | None:
        if path is None:
            return None
        after = batch.asked.output_expires_after
        file = self._files.adopt(
            path,
            filename=f"{batch.id}_{kind}.jsonl",
            purpose="batch_output",
            lifetime=None if after is None else after.seconds,
        )
        return file.id
