"""TaskFlow: a Python function yields the rows, a pydantic model shapes the answers.

Shows ``@task.openai_batch``: the function's rows are streamed into the batch, ``response_format`` asks for
structured output, and the task returns the manifest, from which the next task finds the result files. Each
``output`` in them is parsed JSON of the model's shape.

The source, the results' location, the connection and the model are params: trigger with others, or set the
environment variable ``OPENAI_BATCH_RESULTS`` (a folder, or a URL such as ``s3://bucket/prefix``) for every run.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk import ObjectStoragePath, Param, dag, task
from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Iterator

REVIEWS = Path(__file__).parent / "data" / "reviews.jsonl"
AIRFLOW_HOME = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()
RESULTS = os.environ.get("OPENAI_BATCH_RESULTS") or str(AIRFLOW_HOME / "openai_batch_results")


class Verdict(BaseModel):
    """What the model says about a review."""

    label: Literal["positive", "negative"]


@dag(
    dag_id="openai_batch_taskflow",
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
def taskflow() -> None:
    """Judge every review, then count the verdicts."""

    @task.openai_batch(
        destination="{{ params.results }}/taskflow/{{ run_id | replace(':', '-') | replace('+', '-') }}",
        prompt="Judge this restaurant review: {{ row.text }}",
        response_format=Verdict,
        model="{{ params.model }}",
        conn_id="{{ params.conn_id }}",
        poll_interval="{{ params.poll_interval }}",
    )
    def judge(source: str) -> Iterator[dict[str, Any]]:
        with ObjectStoragePath(source).open("rb") as lines:
            for line in lines:
                row = json.loads(line)
                yield {"id": row["id"], "language": row["language"], "text": row["text"]}

    @task
    def count(manifest: dict[str, Any]) -> dict[str, int]:
        labels: Counter[str] = Counter()
        for file in manifest["files"]:
            with ObjectStoragePath(file).open("rb") as lines:
                for line in lines:
                    result = json.loads(line)
                    labels[result["output"]["label"] if result["status"] == "succeeded" else result["status"]] += 1
        return dict(labels)

    count(judge("{{ params.source }}"))


taskflow()
