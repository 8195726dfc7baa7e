"""Cancellations: noted in the journal first, asked for then; and how a process is told to buy nothing more.

A note without a call that succeeded is no cancellation: ``lifecycle`` has the call made again.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from airflow_openai_batch.engine.crew import take_all
from airflow_openai_batch.engine.records import CancelRecord, StopRecord
from airflow_openai_batch.exceptions import APIError, JobHaltedError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_openai_batch.engine.api import BatchAPI
    from airflow_openai_batch.engine.journal import Journal
    from airflow_openai_batch.engine.models import BatchSnapshot
    from airflow_openai_batch.engine.records import Attempt, JobRecord

log = logging.getLogger(__name__)


class Halt:
    """Whether this process may still buy something. Any thread may ask, and a signal handler may set it."""

    def __init__(self) -> None:
        self._set = threading.Event()

    def set(self) -> None:
        """Have nothing more bought."""
        self._set.set()

    def check(self) -> None:
        """Go on.

        :raises JobHaltedError: the process was told to end.
        """
        if self._set.is_set():
            raise JobHaltedError


def cancel_one(
    api: BatchAPI, journal: Journal, clock: Callable[[], float], attempt: Attempt, reason: str, *, again: bool
) -> BatchSnapshot | None:
    """Note that a batch is to be cancelled, and ask for it; None where there is no batch."""
    if attempt.batch is None:
        return None
    journal.write(attempt.key, CancelRecord(clock(), reason, again))
    return api.cancel_batch(attempt.batch.batch_id)


def cancel_all(
    api: BatchAPI,
    journal: Journal,
    clock: Callable[[], float],
    record: JobRecord,
    reason: str,
    *,
    again: bool,
    at_once: int = 1,
) -> tuple[str, ...]:
    """Ask for the cancellation of all batches in flight, whichever of the calls fails.

    :param again: whether what isn't finished goes again when the job goes on; if not, nothing of it is bought any more.
    :param at_once: calls under way at once.
    :return: the ids of those that were cancelled.
    :raises APIError: what went wrong with one of them.
    """
    if not again:
        journal.stop(StopRecord(clock(), reason))
    batches = [attempt for attempt in journal.state(record).in_flight() if attempt.batch]

    errors: list[APIError] = []

    def ask(attempt: Attempt) -> bool:
        try:
            cancel_one(api, journal, clock, attempt, reason, again=again)
        except APIError as error:
            log.warning("%s", error)
            errors.append(error)
        return True

    take_all(batches, ask, at_once)
    for error in sorted(errors, key=lambda error: not isinstance(error, NotFoundError)):
        if isinstance(error, NotFoundError):
            raise NotFoundError(f"{error}. It may run on and bill", status=error.status) from error
        raise error
    return tuple(attempt.batch.batch_id for attempt in batches if attempt.batch)
