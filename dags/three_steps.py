"""Three steps: submit, wait and download as tasks of their own.

Shows the same job as the quickstart, for DAGs that want to see or use what lies between the steps: another task can
run while the batch does, the wait can have its own timeout, a download can be repeated alone. A small job reference
passes between the tasks by XCom; the rows never do. Only the sensor waits, and it waits deferred.

The source, the results' location, the connection and the model are params: trigger with others, or set the
environment variable ``OPENAI_BATCH_RESULTS`` (a folder, or a URL such as ``s3://bucket/prefix``) for every run.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from airflow.sdk import Param, dag

from airflow_openai_batch.operators.openai_batch import OpenAIBatchDownloadOperator, OpenAIBatchSubmitOperator
from airflow_openai_batch.sensors.openai_batch import OpenAIBatchSensor

REVIEWS = Path(__file__).parent / "data" / "reviews.jsonl"
AIRFLOW_HOME = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()
RESULTS = os.environ.get("OPENAI_BATCH_RESULTS") or str(AIRFLOW_HOME / "openai_batch_results")


@dag(
    dag_id="openai_batch_three_steps",
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
def three_steps() -> None:
    """Submit the reviews, wait for the batch, download the answers."""
    submit = OpenAIBatchSubmitOperator(
        task_id="submit",
        source="{{ params.source }}",
        destination="{{ params.results }}/three_steps/{{ run_id | replace(':', '-') | replace('+', '-') }}",
        system="You judge restaurant reviews. Answer with one word: positive or negative.",
        prompt="{{ row.text }}",
        model="{{ params.model }}",
        conn_id="{{ params.conn_id }}",
    )
    wait = OpenAIBatchSensor(
        task_id="wait",
        job=submit.output,
        poll_interval="{{ params.poll_interval }}",
        deferrable=True,
    )
    download = OpenAIBatchDownloadOperator(task_id="download", job=submit.output)

    wait >> download


three_steps()
