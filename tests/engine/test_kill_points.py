"""Whatever dies at whatever moment, running the same job again loses no row and buys none twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

ROWS = [[row, "succeeded"] for row in range(12)]


@pytest.fixture
def api():
    """An emulator of its own, in another process: the job's processes are killed, it isn't."""
    command = [sys.executable, "-m", "airflow_openai_batch.emulator", "--port", "0"]
    command += ["--validating", "0.02", "--in-progress", "0.05", "--finalizing", "0.02"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        yield process.stdout.readline().split()[-1]
        process.terminate()


@pytest.fixture
def s3():
    """A bucket on moto's server, and the environment that reaches it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    boto3.resource("s3", endpoint_url=endpoint, region_name="us-east-1").Bucket("kill-points").create()
    yield {"S3_ENDPOINT": endpoint}
    server.stop()


def killed_at_every_point(folder: str, api: str, step: int, **env: str) -> list[dict]:
    program = Path(__file__).with_name("kill_points.py")
    command = [sys.executable, str(program), folder, api, "--step", str(step)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **env})
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def judge(points: list[dict]) -> None:
    for point in points:
        assert point["killed"], point["name"]
        assert point["finished"], point["name"]
        assert point["results"] == ROWS, point["name"]
        assert point["billed_twice"] == 0, point["name"]
        assert point["files_left"] == 0, point["name"]


def test_a_job_killed_at_any_point_ends_with_every_row_once_and_none_billed_twice(api, tmp_path):
    points = killed_at_every_point(str(tmp_path), api, step=1)
    assert len(points) > 100
    judge(points)


def test_a_job_on_s3_killed_at_any_fourth_point_ends_likewise(api, s3):
    points = killed_at_every_point("s3://kill-points/jobs", api, step=4, **s3)
    assert len(points) > 25
    judge(points)
