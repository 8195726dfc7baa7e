"""Two attempts at one job alive at once, as processes on the emulator: no shard is bought by both.

``test_properties.py`` stops an attempt at any point and lets another overtake it, in one process and by a clock of its
own; here the clocks, the processes and SIGSTOP are real.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections import Counter

import pytest

from airflow_openai_batch.client import ClientConfig, OpenAIBatchClient
from airflow_openai_batch.emulator.server import running
from airflow_openai_batch.engine.job import Job, JobSpec
from airflow_openai_batch.engine.lifecycle import Rules
from airflow_openai_batch.engine.models import Done
from airflow_openai_batch.engine.requests import RequestSpec
from airflow_openai_batch.engine.runner import advance
from airflow_openai_batch.engine.sources import open_source
from airflow_openai_batch.engine.store import Store
from airflow_openai_batch.exceptions import OpenAIBatchError

ROWS = 12
SPAWN = multiprocessing.get_context("spawn")
"""Not forked: the emulator's thread lives in this process."""


class StoppingAPI:
    """A client that stops its own process in front of the n-th call of a name."""

    def __init__(self, client, stop_at):
        self._client = client
        self._stop_at = stop_at
        self._seen = Counter()

    def __getattr__(self, name):
        method = getattr(self._client, name)

        def call(*args, **kwargs):
            self._seen[name] += 1
            if (name, self._seen[name]) == self._stop_at:
                os.kill(os.getpid(), signal.SIGSTOP)
            return method(*args, **kwargs)

        return call


def attempt(folder, api_url, stop_at, ready, told):
    """One attempt of a task, and its retries: what it raised, and what it returned."""
    rows = [{"text": f"{n} great" + ("[[emulate:status=500,once]]" if n % 5 == 0 else "")} for n in range(ROWS)]
    client = OpenAIBatchClient(ClientConfig("test", "sk-test", api_url, create_timeout=1.0, max_retries=1))
    spec = JobSpec(RequestSpec(prompt="{{ row.text }}", model="gpt-5-mini"), requests_per_batch=4, owner={"task": "t"})
    rules = Rules(create_timeout=1.0, create_grace=0.3)
    errors = []
    ready.wait()
    for _ in range(400):
        job = Job(Store.at(folder), StoppingAPI(client, stop_at), spec, lambda: open_source(rows), rules=rules)
        stop_at = stop_at if not errors else None
        try:
            while not isinstance(outcome := advance(job), Done):
                time.sleep(0.05)
        except OpenAIBatchError as error:
            errors.append(repr(error))
            continue
        told.put((outcome.manifest, errors))
        return


@pytest.fixture
def server(request):
    """An emulator of its own; its batches take the seconds that the test asks for."""
    with running(validating=0.02, in_progress=getattr(request, "param", 0.3), finalizing=0.02) as emulator:
        yield emulator


@pytest.fixture
def begin(tmp_path, server):
    """Start an attempt; all of them go when ``ready`` is set."""
    ready, told, processes = SPAWN.Event(), SPAWN.Queue(), []

    def begin(stop_at=None):
        arguments = (str(tmp_path / "out"), server.base_url, stop_at, ready, told)
        processes.append(SPAWN.Process(target=attempt, args=arguments))
        processes[-1].start()
        return processes[-1]

    yield begin, ready, told
    for process in processes:
        process.kill()
        process.join()


def stopped(process, patience=30.0):
    give_up = time.monotonic() + patience
    while os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is None:
        assert time.monotonic() < give_up
        time.sleep(0.02)


def judge(folder, server, outcomes):
    for manifest, errors in outcomes:
        assert manifest["rows"]["succeeded"] == ROWS, errors
        assert len(errors) < 5, errors
    parts = sorted((folder / "out" / "results").iterdir())
    lines = [json.loads(line) for part in parts for line in part.read_bytes().splitlines()]
    assert [(line["row"], line["status"]) for line in lines] == [(row, "succeeded") for row in range(ROWS)]
    created = Counter((b["metadata"]["shard"], b["metadata"]["round"]) for b in server.ledger.batches)
    assert max(created.values()) == 1, created
    assert server.ledger.rows_billed_twice == 0
    assert server.ledger.rows_billed == ROWS


@pytest.mark.parametrize("slow", ["files.create", "batches.create", "batches.retrieve", "files.content"])
def test_attempts_that_begin_at_the_same_moment_share_the_job(tmp_path, server, begin, slow):
    start, ready, told = begin
    server.add_fault(fault="latency", call=slow, seconds=0.3, times=6)
    for _ in range(2):
        start()
    time.sleep(1.5)
    ready.set()
    judge(tmp_path, server, [told.get(timeout=60) for _ in range(2)])


@pytest.mark.parametrize(
    "stop_at",
    [
        ("upload", 1),
        ("upload", 3),
        ("create_batch", 1),
        ("create_batch", 3),
        ("retrieve_batch", 1),
        ("download", 2),
        ("delete_file", 1),
    ],
    ids=lambda stop_at: f"{stop_at[0]}-{stop_at[1]}",
)
def test_a_zombie_that_wakes_up_when_its_retry_is_done_changes_nothing(tmp_path, server, begin, stop_at):
    start, ready, told = begin
    zombie = start(stop_at)
    ready.set()
    stopped(zombie)
    start()
    first = told.get(timeout=60)
    judge(tmp_path, server, [first])
    os.kill(zombie.pid, signal.SIGCONT)
    judge(tmp_path, server, [told.get(timeout=60)])


@pytest.mark.parametrize("server", [2.0], indirect=True, ids=["long"])
@pytest.mark.parametrize("stop_at", [("upload", 2), ("create_batch", 1), ("create_batch", 3)])
def test_a_zombie_that_wakes_up_in_the_midst_of_its_retry_buys_nothing(tmp_path, server, begin, stop_at):
    start, ready, told = begin
    zombie = start(stop_at)
    ready.set()
    stopped(zombie)
    start()
    give_up = time.monotonic() + 30
    while len(server.ledger.batches) < 3:
        # The retry has given up the create that it finds no batch of, and made the next.
        assert time.monotonic() < give_up
        time.sleep(0.02)
    os.kill(zombie.pid, signal.SIGCONT)
    judge(tmp_path, server, [told.get(timeout=60) for _ in range(2)])
