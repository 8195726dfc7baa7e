"""The second of three steps: wait until a job's batches have ended, repairs included."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_openai_batch.exceptions import BatchEndedError
from airflow_openai_batch.operators.base import JobOperator
from airflow_openai_batch.operators.openai_batch import job_reference, open_reference
from airflow_openai_batch.operators.parameters import check_target, parameters_checked
from airflow_openai_batch.operators.reporting import Report

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from airflow_openai_batch.engine.job import Job
    from airflow_openai_batch.engine.models import Done, Ended, Waiting
    from airflow_openai_batch.engine.runner import Stop


class OpenAIBatchSensor(JobOperator):
    """Wait for a job, or for a batch that was made elsewhere.

    A job's shards that had no room are submitted, and rows that failed in passing go again, as batches end; what they
    returned is brought to the store. The task's result is the job's reference; with ``batch_id`` a small record of the
    batch: ``{"batch_id", "status", "output_file_id", "error_file_id", "conn_id"}``.

    :param job: what :class:`OpenAIBatchSubmitOperator` returned. Templated.
    :param batch_id: instead of ``job``: a batch made by whatever tool. A failed one fails the task; expired and
        cancelled ones don't, since they may have rows to land. Templated.
    :param conn_id: default the job's own connection, or ``openai_default``. Templated.
    :param poll_interval: seconds between looks at the batches; default ``[openai_batch] poll_interval``. Templated.
    :param deferrable: wait in the triggerer (default) or, False, in the worker slot.
    """

    stop: ClassVar[Stop] = "ended"
    template_fields: Sequence[str] = ("conn_id", "poll_interval", "job", "batch_id")

    def __init__(self, *, job: Any = None, batch_id: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        with parameters_checked():
            check_target(job, batch_id)
        self.job = job
        self.batch_id = batch_id

    @property
    def results_location(self) -> str:
        """Where the results will be; for the link."""
        return str(self.job["destination"]) if isinstance(self.job, dict) else ""

    def open_job(self, context: Context) -> Job:
        """Return the job that is referred to."""
        return open_reference(self, self.job)

    def go_on(self, context: Context, *, new_try: bool) -> Any:
        """Wait for the job, or for the single batch."""
        return (
            self._wait_for_batch(self.batch_id, context) if self.batch_id else super().go_on(context, new_try=new_try)
        )

    def finish(self, outcome: Done | Ended | Waiting, job: Job, context: Context) -> Any:
        """Return the job's reference."""
        return job_reference(job, self.conn_id)

    def _wait_for_batch(self, batch_id: str, context: Context) -> dict[str, Any]:
        from airflow_openai_batch.engine.models import Waiting
        from airflow_openai_batch.operators.base import final_errors

        self.watched_batches = (batch_id,)
        report = Report(context["ti"], self.log)
        with final_errors(), closing(self.hook):
            self.base_url = self.hook.client.config.base_url
            while True:
                batch = self.hook.client.retrieve_batch(batch_id)
                if batch.ended:
                    break
                self._wait(Waiting((batch_id,), "all", None, f"batch {batch_id} is {batch.status}"), report)
            report.over()
            if batch.status == "failed":
                reasons = "; ".join(f"{issue.code}: {issue.message}" for issue in batch.errors[:5])
                raise BatchEndedError(f"Batch {batch_id} failed validation, nothing was run or billed: {reasons}")
        return {
            "batch_id": batch.id,
            "status": batch.status,
            "output_file_id": batch.output_file_id,
            "error_file_id": batch.error_file_id,
            "conn_id": self.conn_id,
        }
