"""120,000 rows through ``dag.test()``, in a process of its own that says how much memory it took."""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

from airflow.sdk import DAG

from airflow_openai_batch.operators.openai_batch import OpenAIBatchOperator

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.airflow_versions import store_dag

ROWS = 120_000

FEW = 100
"""Rows of the run before, after which all that Airflow loads for a run is in memory: the budget is for the data."""


def run(folder: Path, rows: int) -> str:
    """Make a source of so many rows and run it through a DAG; return the run's state."""
    folder.mkdir()
    source = folder / "in.jsonl"
    with source.open("w") as file:
        file.writelines(json.dumps({"id": n, "text": f"row {n} was great, thank you"}) + "\n" for n in range(rows))
    with DAG(f"rows_{rows}", schedule=None) as dag:
        OpenAIBatchOperator(
            task_id="label",
            source=str(source),
            prompt="Is this positive or negative? {{ row.text }}",
            model="gpt-5-mini",
            destination=str(folder / "out"),
            poll_interval=1,
        )
    dags = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    dags.mkdir(exist_ok=True)
    store_dag(dag, dags)
    return str(dag.test().state)


def peak() -> int:
    """Return the most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(folder: str) -> None:
    if (state := run(Path(folder, "few"), FEW)) != "success":
        sys.exit(f"the small run ended as {state}")
    before = peak()
    state = run(Path(folder, "many"), ROWS)
    sys.stdout.write("\n" + json.dumps({"state": state, "before": before, "grown": peak() - before}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
