"""The budget of memory, in the way a user runs a DAG: ``dag.test()`` over three full shards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROWS = 120_000


@pytest.fixture
def far_emulator():
    """An emulator in another process, whose memory isn't ours."""
    command = [sys.executable, "-m", "airflow_openai_batch.emulator", "--port", "0", "--in-progress", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        yield process.stdout.readline().split()[-1]
        process.terminate()


def test_120_000_rows_are_landed_once_each_in_order_with_their_columns_in_little_memory(
    airflow_db, far_emulator, tmp_path
):
    connection = {"conn_type": "openai_batch", "password": "sk-test", "host": far_emulator}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("large_job.py")), str(tmp_path)],
        env={**os.environ, "AIRFLOW_CONN_OPENAI_DEFAULT": json.dumps(connection)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["state"] == "success"
    assert told["grown"] < 150e6, told
    number = 0
    parts = sorted((tmp_path / "many" / "out" / "results").iterdir())
    assert len(parts) == 3
    for part in parts:
        with part.open("rb") as lines:
            for line in lines:
                row = json.loads(line)
                assert (row["row"], row["input"]["id"], row["status"]) == (number, number, "succeeded")
                assert row["input"]["text"] == f"row {number} was great, thank you"
                number += 1
    assert number == ROWS
