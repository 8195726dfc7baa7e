"""Partitions: the same job for each part of a dataset, side by side.

Shows a mapped task: ``list_partitions`` gives source and destination of each partition, the operator is mapped over
them, and ``merge_manifests`` adds up what came of it. Each partition is a job of its own: workers on any number of
machines take them, one that failed is retried or cleared alone, and none is paid for twice.

The source is a partitioned dataset: a folder of folders, or a glob. A single file, such as the reviews that come with
the examples, is first made into one, with a folder for each language.

The source, the results' location, the connection and the model are params: trigger with others, or set the
environment variable ``OPENAI_BATCH_RESULTS`` (a folder, or a URL such as ``s3://bucket/prefix``) for every run.
"""

from __future__ import annotations

import json
import logging
import os
from collections import defaultdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import ObjectStoragePath, Param, dag, task

from airflow_openai_batch import OpenAIBatchOperator, list_partitions, merge_manifests

log = logging.getLogger(__name__)

REVIEWS = Path(__file__).parent / "data" / "reviews.jsonl"
AIRFLOW_HOME = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()
RESULTS = os.environ.get("OPENAI_BATCH_RESULTS") or str(AIRFLOW_HOME / "openai_batch_results")
OF_THIS_RUN = "{{ params.results }}/partitions/{{ run_id | replace(':', '-') | replace('+', '-') }}"


@dag(
    dag_id="openai_batch_partitions",
    schedule=None,
    doc_md=__doc__,
    tags=["openai", "batch", "example"],
    params={
        "source": Param(
            str(REVIEWS), type="string", description="A partitioned dataset, or a file of reviews with a column `text`."
        ),
        "results": Param(
            RESULTS, type="string", description="Where results go: a folder, or a URL such as s3://bucket/prefix."
        ),
        "conn_id": Param("openai_default", type="string", description="The connection to OpenAI."),
        "model": Param("gpt-5-mini", type="string", description="The model that answers."),
        "poll_interval": Param(
            60, type="number", exclusiveMinimum=0, description="Seconds between two looks at the batches."
        ),
    },
    default_args={"retries": 1, "retry_delay": timedelta(seconds=10)},
)
def partitions() -> None:
    """Classify the reviews of each partition, then add up."""

    @task
    def dataset(source: str, folder: str) -> str:
        file = ObjectStoragePath(source)
        if not file.is_file():
            return source
        lines = defaultdict(list)
        with file.open("rb") as reviews:
            for line in reviews:
                lines[json.loads(line).get("language", "unknown")].append(line)
        for language, of_language in lines.items():
            partition = ObjectStoragePath(f"{folder}/language={language}")
            partition.mkdir(parents=True, exist_ok=True)
            (partition / "reviews.jsonl").write_bytes(b"".join(of_language))
        return folder

    @task
    def parts(source: str, destination: str) -> list[dict[str, str]]:
        return list_partitions(source, destination)

    @task
    def total(manifests: Any) -> dict[str, Any]:
        merged = merge_manifests(manifests)
        rows = {status: count for status, count in merged["rows"].items() if count}
        log.info("%s partitions, %s tokens: %s", merged["jobs"], f"{merged['usage']['total_tokens']:,}", rows)
        log.info("The results are in\n%s", "\n".join(merged["destinations"]))
        return merged

    classify = OpenAIBatchOperator.partial(
        task_id="classify",
        system="You judge restaurant reviews. Answer with one word: positive or negative.",
        prompt="{{ row.text }}",
        model="{{ params.model }}",
        conn_id="{{ params.conn_id }}",
        poll_interval="{{ params.poll_interval }}",
        map_index_template="{{ task.destination.rsplit('/', 1)[1] }}",
    ).expand_kwargs(parts(dataset("{{ params.source }}", f"{OF_THIS_RUN}/reviews"), f"{OF_THIS_RUN}/labels"))

    total(classify.output)


partitions()
