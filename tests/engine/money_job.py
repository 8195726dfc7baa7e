"""A job that asks directly, within a cap: a program of its own, so that it can be killed. Judged by others.

Exit status: 0 when the job is done, 3 when its cap has no room for the rest.
"""

from __future__ import annotations

import sys

from airflow_openai_batch.client import ClientConfig, OpenAIBatchClient
from airflow_openai_batch.engine.job import Job, JobSpec
from airflow_openai_batch.engine.requests import RequestSpec
from airflow_openai_batch.engine.runner import advance
from airflow_openai_batch.engine.sources import open_source
from airflow_openai_batch.engine.store import Store
from airflow_openai_batch.exceptions import CostCapError

ROWS = 160
AT_ONCE = 4
CAPPED = 3
RATE = 10.0
"""US dollars for 1M tokens out; those in are free, since their number is estimated with room to spare."""

WORDS = 4
"""Tokens that each answer has, and may have."""


def job_of(folder: str, api_url: str, cap: float) -> Job:
    """Return the job, the same in every process but for the cap."""
    rates = {"input": 0, "output": RATE}
    request = RequestSpec(prompt="{{ row.text }}", model="gpt-5-mini", body={"max_completion_tokens": WORDS})
    spec = JobSpec(
        request,
        owner={"task": "money"},
        max_cost_usd=cap,
        prices={"gpt-5-mini": rates},
        route="direct",
        direct_at_once=AT_ONCE,
    )
    client = OpenAIBatchClient(ClientConfig("test", "sk-test", api_url, max_retries=1))
    rows = [{"text": f"This is row {n}."} for n in range(ROWS)]
    return Job(Store.at(folder), client, spec, lambda: open_source(rows))


def main() -> None:
    """Do the job as far as it goes."""
    folder, api_url, cap = sys.argv[1:]
    job = job_of(folder, api_url, float(cap))
    print("begun", flush=True)  # noqa: T201 - from here on it may be killed
    try:
        advance(job)
    except CostCapError:
        sys.exit(CAPPED)


if __name__ == "__main__":
    main()
