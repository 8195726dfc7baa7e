"""Quickstart: one operator, one batch.

Shows the shortest way through: a file of restaurant reviews goes in, one answer per review comes out in input order,
at the Batch API's half price. While OpenAI works, the task is deferred and holds no worker slot.

The source, the results' location, the connection and the model are params: trigger with others, or set the
environment variable ``OPENAI_BATCH_RESULTS`` (a folder, or a URL such as ``s3://bucket/prefix``) for every run. The
destination is unique to the run, so a retry or a cleared task goes on with the batch of this run and pays for
nothing twice.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from airflow.sdk import Param, dag

from airflow_openai_batch.operators.openai_batch import OpenAIBatchOperator

REVIEWS = Path(__file__).parent / "data" / "reviews.jsonl"
AIRFLOW_HOME = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()
RESULTS = os.environ.get("OPENAI_BATCH_RESULTS") or str(AIRFLOW_HOME / "openai_batch_results")


@dag(
    dag_id="openai_batch_quickstart",
    schedule=None,
    doc_md=__doc__,
    tags=["openai", "batch", "example"],
    params={
        "source": Param(str(REVIEWS), type="string", description="The reviews: JSON Lines with a column `text`."),
        "results": Param(
            RESULTS, type="string", description="Where results go: a folder, or a URL such as s3://bucket/prefix."
        ),
        "conn_id": Param("openai_default", type="string", description="The connection to OpenAI."),
        "model": Param("gpt-5-mini", type="string", description="The model that answers."),
        "poll_interval": Param(
            60, type="number", exclusiveMinimum=0, description="Seconds between two looks at the batch."
        ),
    },
    default_args={"retries": 1, "retry_delay": timedelta(seconds=10)},
)
def quickstart() -> None:
    """Classify every review."""
    OpenAIBatchOperator(
        task_id="classify",
        source="{{ params.source }}",
        destination="{{ params.results }}/quickstart/{{ run_id | replace(':', '-') | replace('+', '-') }}",
        system="You judge restaurant reviews. Answer with one word: positive or negative.",
        prompt="{{ row.text }}",
        model="{{ params.model }}",
        conn_id="{{ params.conn_id }}",
        poll_interval="{{ params.poll_interval }}",
    )


quickstart()
