"""Links on a task in Airflow's UI. Both exist while the task waits: Airflow evaluates them after every segment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

DASHBOARD = "https://platform.openai.com/batches"


def batch_url(batch_ids: list[str] | tuple[str, ...]) -> str:
    """Return the dashboard's page of a batch, or of all batches where there are several."""
    return f"{DASHBOARD}/{quote(batch_ids[0])}" if len(batch_ids) == 1 else DASHBOARD


def results_url(destination: str) -> str:
    """Return a page that shows a destination: the console for S3 and GCS, else the destination as a URL."""
    parts = urlsplit(destination)
    bucket, path = parts.netloc.rpartition("@")[2], parts.path.lstrip("/")
    if parts.scheme in {"s3", "s3a"}:
        return f"https://s3.console.aws.amazon.com/s3/buckets/{quote(bucket)}?prefix={quote(path)}/"
    if parts.scheme in {"gs", "gcs"}:
        return f"https://console.cloud.google.com/storage/browser/{quote(bucket)}/{quote(path)}"
    return destination if parts.scheme else f"file://{quote(destination)}"


class OpenAIBatchLink(BaseOperatorLink):
    """To the job's batch in OpenAI's dashboard; empty until there is one, and for other servers."""

    name = "OpenAI batch"
    xcom_key = "_link_openai_batch"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002 - Airflow's signature
        """Return the address."""
        seen: Any = getattr(operator, "watched_batches", ())
        elsewhere = "api.openai.com" not in (getattr(operator, "base_url", None) or "api.openai.com")
        return batch_url(seen) if seen and not elsewhere else ""


class ResultsLink(BaseOperatorLink):
    """To where the results are, or will be."""

    name = "Results"
    xcom_key = "_link_openai_batch_results"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002 - Airflow's signature
        """Return the address."""
        destination: Any = getattr(operator, "results_location", None)
        return results_url(destination) if destination else ""
