"""A migrated database for ``dag.test()``, and short ways to run an operator in a real DAG run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from airflow_openai_batch.emulator.server import running
from tests.airflow_versions import noted_errors, store_dag


@pytest.fixture(scope="session")
def airflow_db():
    """The metadata database that ``dag.test()`` needs."""
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True)


@dataclass
class Run:
    """What became of a DAG run: by task, ``task[0]`` and so on where it was mapped."""

    state: str
    states: dict[str, str] = field(default_factory=dict)
    xcoms: dict[str, Any] = field(default_factory=dict)
    links: dict[str, dict[str, Any]] = field(default_factory=dict)
    tries: dict[str, int] = field(default_factory=dict)
    errors: dict[str, BaseException] = field(default_factory=dict)

    def results(self, task: str) -> list[dict[str, Any]]:
        """Return the landed rows of a task that returned a manifest."""
        return read_results(self.xcoms[task])

    def outputs(self, task: str) -> list[Any]:
        """Return what the model answered, row by row."""
        return [line["output"] for line in self.results(task)]


def read_results(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows that a manifest speaks of."""
    return [json.loads(line) for file in manifest["files"] for line in Path(file).read_bytes().splitlines()]


@pytest.fixture(scope="session")
def register(airflow_db):
    """Put a DAG into the database without running it, as the DAG processor does."""
    folder = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    folder.mkdir(exist_ok=True)
    return lambda dag: store_dag(dag, folder)


@pytest.fixture(scope="session")
def run_dag(register):
    """Run a DAG with ``dag.test()`` and return what became of its tasks; ``logical_date`` again: it was cleared."""

    def run(dag, **options) -> Run:
        register(dag)
        with noted_errors() as errors:
            dag_run = dag.test(**options)
        made = Run(str(dag_run.state), errors=errors)
        for ti in dag_run.get_task_instances():
            name = ti.task_id if ti.map_index < 0 else f"{ti.task_id}[{ti.map_index}]"
            of_ti = {"task_ids": ti.task_id, "map_indexes": ti.map_index}
            made.states[name] = str(ti.state)
            made.tries[name] = ti.try_number
            made.xcoms[name] = ti.xcom_pull(**of_ti)
            keys = {"batch": "_link_openai_batch", "results": "_link_openai_batch_results"}
            made.links[name] = {link: ti.xcom_pull(key=key, **of_ti) for link, key in keys.items()}
        return made

    return run


@pytest.fixture
def connect(monkeypatch):
    """Make an Airflow connection to an emulator, or to wherever its fields say."""

    def connect(emulator=None, conn_id="openai_default", **fields) -> str:
        fields = {"conn_type": "openai_batch", "password": "sk-test", **fields}
        if emulator is not None:
            fields["host"] = emulator.base_url
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields))
        return conn_id

    return connect


@pytest.fixture(scope="module")
def slow_emulator():
    """An emulator whose batches run for as long as a test lasts; cancelling is quick."""
    with running(validating=0.02, in_progress=300, finalizing=0.02, cancelling=0.05) as emulator:
        yield emulator


@pytest.fixture
def make_batch(client):
    """Make a batch as any other tool would; lines of the input are ``(custom_id, text)``."""

    def make(*rows, sdk=client.sdk):
        lines = [
            {
                "custom_id": custom_id,
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {"model": "gpt-5-mini", "messages": [{"role": "user", "content": text}]},
            }
            for custom_id, text in rows or [("a", "great food")]
        ]
        content = "".join(json.dumps(line) + "\n" for line in lines).encode()
        file = sdk.files.create(file=("made_elsewhere.jsonl", content), purpose="batch")
        return sdk.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")

    return make


@pytest.fixture
def ended(client):
    """Wait for a batch made by :func:`make_batch`."""

    def ended(batch, sdk=client.sdk):
        while batch.status not in {"completed", "failed", "expired", "cancelled"}:
            batch = sdk.batches.retrieve(batch.id)
        return batch

    return ended
