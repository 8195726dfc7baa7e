"""A DAG run with OpenLineage switched on, in a process of its own: its listener is a plugin of the whole Airflow."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from airflow.sdk import DAG

from airflow_openai_batch.operators.openai_batch import (
    OpenAIBatchDownloadOperator,
    OpenAIBatchOperator,
    OpenAIBatchSubmitOperator,
)

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.airflow_versions import store_dag


def main(folder: Path) -> str:
    """Run the job in one step and in three, over a folder of two files; return the run's state."""
    (folder / "in").mkdir()
    for number, text in enumerate(("great food", "awful food")):
        (folder / "in" / f"{number}.jsonl").write_text(json.dumps({"text": text}) + "\n")
    job = {"source": f"{folder}/in/*.jsonl", "prompt": "{{ row.text }}", "model": "gpt-5-mini"}
    with DAG("lineage", schedule=None) as dag:
        OpenAIBatchOperator(task_id="whole", destination=f"{folder}/out", poll_interval=0.2, **job)
        submit = OpenAIBatchSubmitOperator(task_id="submit", destination=f"{folder}/steps", **job)
        OpenAIBatchDownloadOperator(task_id="download", job=submit.output, poll_interval=0.2)
    dags = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    dags.mkdir(exist_ok=True)
    store_dag(dag, dags)
    return str(dag.test().state)


if __name__ == "__main__":
    sys.exit(0 if main(Path(sys.argv[1])) == "success" else 1)
