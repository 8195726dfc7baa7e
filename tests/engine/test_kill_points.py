"""Whatever dies at whatever moment, running the same job again loses no row and buys none twice."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

ROWS = [[row, "succeeded"] for row in range(12)]


PROGRAMS = 3
"""Programs that share the points out among themselves, each with an emulator of its own: they mostly wait."""


@pytest.fixture
def apis():
    """Emulators in other processes: the job's processes are killed, they aren't."""
    command = [sys.executable, "-m", "airflow_openai_batch.emulator", "--port", "0"]
    command += ["--oddity", "inline_create", "--validating", "0.02", "--in-progress", "0.05", "--finalizing", "0.02"]
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True))
            for _ in range(PROGRAMS)
        ]
        yield [process.stdout.readline().split()[-1] for process in started]
        for process in started:
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


def killed_at_every_point(folder: str, apis: list[str], *options: str, **env: str) -> list[dict]:
    program = Path(__file__).with_name("kill_points.py")
    command = [sys.executable, str(program), folder, *apis, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **env})
    assert done.returncode == 0, done.stderr[-3000:]
    return sorted(map(json.loads, done.stdout.splitlines()), key=lambda point: point["point"])


def judge(points: list[dict], every: int = 1) -> None:
    assert len(points) > 100 // every
    assert [point["point"] for point in points] == [every * place for place in range(len(points))]
    for point in points:
        assert point["killed"], point["name"]
        assert point["finished"], point["name"]
        assert point["results"] == ROWS, point["name"]
        assert point["billed_twice"] == 0, point["name"]
        assert point["files_left"] == 0, point["name"]


def test_a_job_killed_at_any_point_ends_with_every_row_once_and_none_billed_twice(apis, tmp_path):
    judge(killed_at_every_point(str(tmp_path), apis))


def test_a_job_on_s3_killed_at_every_second_point_ends_likewise(apis, s3):
    # All of them take three minutes, which the suite hasn't.
    judge(killed_at_every_point("s3://kill-points/jobs", apis, "--every", "2", **s3), every=2)


def test_a_job_whose_requests_are_sent_inline_ends_likewise(apis, tmp_path):
    points = killed_at_every_point(str(tmp_path), apis, "--kind", "inline")
    assert len(points) > 20
    for point in points:
        assert (point["killed"], point["finished"], point["results"]) == (True, True, ROWS), point["name"]
        assert (point["billed_twice"], point["files_left"]) == (0, 0), point["name"]
    names = [point["name"] for point in points]
    assert {"before create_batch", "after create_batch"} <= set(names)
    assert not any("upload" in name for name in names)


def test_a_sifted_job_killed_at_any_point_ends_likewise_but_for_answers_that_were_on_their_way(apis, tmp_path):
    points = killed_at_every_point(str(tmp_path), apis, "--kind", "sifted")
    assert len(points) > 50
    for point in points:
        assert point["killed"], point["name"]
        assert point["finished"], point["name"]
        assert point["results"] == [[row, "succeeded"] for row in range(15)], point["name"]
        assert point["files_left"] == 0, point["name"]
        # Answers of direct calls that weren't written yet are asked for again; of a batch's, none.
        on_their_way = point["name"] == "after ask" or "_job/direct/" in point["name"]
        assert point["billed_twice"] <= (3 if on_their_way else 0), point["name"]
    assert any("_job/sift" in point["name"] for point in points)
    assert any("after ask" in point["name"] for point in points)
