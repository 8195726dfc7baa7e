"""The steps around a job that others made: land it, cancel it; and what refers to a job in an XCom."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.exceptions import ConfigurationError, JournalError
from airflow_openai_batch.operators.base import JobOperator, concurrency, final_errors, open_folder, open_store
from airflow_openai_batch.operators.outcome import checked_manifest
from airflow_openai_batch.operators.parameters import check_parameters, check_target, parameters_checked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from airflow_openai_batch.engine.job import Job
    from airflow_openai_batch.engine.models import Done, Ended, Waiting
    from airflow_openai_batch.engine.sources import Source


class OpenAIBatchDownloadOperator(JobOperator):
    """Land the results of a job, or of a batch that was made elsewhere; the last of three steps.

    Waits, deferred, if the batches haven't ended yet. The task's result is the manifest.

    :param job: what :class:`OpenAIBatchSubmitOperator` or the sensor returned. Templated.
    :param batch_id: instead of ``job``: a batch made by whatever tool; its rows are the lines of its input file.
        Templated.
    :param destination: with ``batch_id``: the folder to land in. Templated.
    :param result_format: as in :class:`OpenAIBatchOperator`; default what the job was begun with, or is landed as.
    :param max_failed_ratio: the share of rows without a good answer above which the task fails; default 0.05.
    :param conn_id: default the job's own connection, or ``openai_default``. Templated.
    :param poll_interval: seconds between looks at the batches. Templated.
    :param deferrable: wait in the triggerer (default) or, False, in the worker slot.
    """

    template_fields: Sequence[str] = (*JobOperator.template_fields, "job", "batch_id")

    def __init__(
        self,
        *,
        job: Any = None,
        batch_id: str | None = None,
        destination: str = "",
        result_format: str | None = None,
        max_failed_ratio: float = 0.05,
        **kwargs: Any,
    ) -> None:
        super().__init__(destination=destination, **kwargs)
        with parameters_checked():
            check_target(job, batch_id)
            if result_format is not None:
                check_parameters({"result_format": result_format})
            if batch_id is not None and not destination:
                raise ConfigurationError("destination: with batch_id, say where the rows shall be landed")
            check_parameters({"max_failed_ratio": max_failed_ratio})
        self.job = job
        self.batch_id = batch_id
        self.result_format = result_format
        self.max_failed_ratio = max_failed_ratio

    @property
    def results_location(self) -> str:
        """Where the results are, or will be; for the link."""
        return str(self.job["destination"]) if isinstance(self.job, dict) else super().results_location

    def open_job(self, context: Context) -> Job | Waiting:
        """Return the job that is referred to, or made of the batch."""
        if self.batch_id:
            return open_foreign(self, self.results_location, self.batch_id, self.result_format)
        return open_reference(self, self.job, self.result_format)

    def finish(self, outcome: Done | Ended | Waiting, job: Job, context: Context) -> Any:
        """Return the manifest, or fail where too many rows did."""
        return checked_manifest(outcome, self.max_failed_ratio, self.conn_id)


class OpenAIBatchCancelOperator(JobOperator):
    """Cancel a job's batches, or a single one. Rows that were finished stay paid for and can be downloaded.

    A batch that has ended already is left as it is. The task's result is the list of ids.

    :param job: what :class:`OpenAIBatchSubmitOperator` returned. Templated.
    :param batch_id: instead of ``job``: one batch. Templated.
    :param conn_id: default the job's own connection, or ``openai_default``. Templated.
    """

    template_fields: Sequence[str] = ("conn_id", "job", "batch_id")
    operator_extra_links = ()

    def __init__(self, *, job: Any = None, batch_id: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        with parameters_checked():
            check_target(job, batch_id)
        self.job = job
        self.batch_id = batch_id

    def execute(self, context: Context) -> list[str]:
        """Cancel."""
        with final_errors(), closing(self.hook):
            if self.batch_id:
                cancelled: tuple[str, ...] = (self.hook.client.cancel_batch(self.batch_id).id,)
            else:
                cancelled = open_reference(self, self.job).cancel("OpenAIBatchCancelOperator")
        self.log.info("Cancelled: %s", ", ".join(cancelled) or "none was running")
        return list(cancelled)


def job_reference(job: Job, conn_id: str) -> dict[str, Any]:
    """Return what refers to a job in an XCom."""
    record = job.known()
    state = job.journal.state(record)
    batches = [attempt.batch.batch_id for group in state.attempts.values() for attempt in group if attempt.batch]
    return {"job": record.job, "destination": record.destination, "conn_id": conn_id, "batches": batches}


def open_reference(operator: JobOperator, reference: Any, result_format: str | None = None) -> Job:
    """Return the job that an XCom refers to.

    :param result_format: how to land it, None for its own format.
    :raises JournalError: it isn't a reference, or the destination holds another job by now.
    """
    from airflow_openai_batch.engine.job import Job, JobSpec
    from airflow_openai_batch.engine.journal import Journal

    if not isinstance(reference, Mapping) or not {"job", "destination"} <= reference.keys():
        raise JournalError(f"job: the result of OpenAIBatchSubmitOperator is needed, not {str(reference)[:200]!r}")
    operator.use_connection(reference.get("conn_id"))
    store = open_store(str(reference["destination"]))
    record = Journal(store).job()
    if record is None or record.job != reference["job"]:
        raise JournalError(f"{store.url} doesn't hold job {reference['job']} (any more)")
    spec = replace(JobSpec.of(record), result_format=result_format)
    return Job(
        store, operator.hook.client, spec, _no_source, record=record, at_once=concurrency(), open_store=open_folder
    )


def open_foreign(
    operator: JobOperator, destination: str, batch_id: str, result_format: str | None = None
) -> Job | Waiting:
    """Return the job made of a batch that has ended, or what to wait for."""
    from airflow_openai_batch.engine.foreign import take_over
    from airflow_openai_batch.engine.job import Job, JobSpec
    from airflow_openai_batch.engine.models import Waiting

    store = open_store(destination)
    taken = take_over(store, operator.hook.client, batch_id, time.time)
    if isinstance(taken, Waiting):
        return taken
    spec = replace(JobSpec.of(taken), result_format=result_format)
    return Job(store, operator.hook.client, spec, _no_source, record=taken)


def _no_source() -> Source:
    raise JournalError("a job that is only referred to has no source")
