"""120,000 rows through ``dag.test()``, in a process of its own that says how much memory it took."""

from __future__ import annotations

import importlib
import json
import resource
import sys
from pathlib import Path

import psutil
from airflow.sdk import DAG

from airflow_openai_batch.operators.openai_batch import OpenAIBatchOperator

sys.path.insert(0, str(Path(__file__).parent))
from conftest import _register

ROWS = 120_000

LOADED_BY_A_RUN = (
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.task_runner",
    "airflow.jobs.triggerer_job_runner",
    "airflow_openai_batch.client",
    "airflow_openai_batch.engine.runner",
    "airflow_openai_batch.triggers.openai_batch",
)
"""Loaded before the memory is measured: the budget is for the data."""


def main(folder: str) -> None:
    for module in LOADED_BY_A_RUN:
        importlib.import_module(module)
    source = Path(folder, "in.jsonl")
    with source.open("w") as file:
        file.writelines(json.dumps({"id": n, "text": f"row {n} was great, thank you"}) + "\n" for n in range(ROWS))
    with DAG("large", schedule=None) as dag:
        OpenAIBatchOperator(
            task_id="label",
            source=str(source),
            prompt="Is this positive or negative? {{ row.text }}",
            model="gpt-5-mini",
            destination=f"{folder}/out",
            poll_interval=1,
        )
    _register(dag)
    imported = psutil.Process().memory_info().rss
    state = str(dag.test().state)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - imported
    sys.stdout.write("\n" + json.dumps({"state": state, "grown": grown}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
