"""120,000 rows through three shards, the API in another process: every row once, in order, in little memory."""

from __future__ import annotations

import io
import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import orjson
import pytest
from s3fs import S3FileSystem

ROWS = 120_000
MAX_GROWTH = 150 * 1024 * 1024

RUN = """
import json, sys, time
from airflow_openai_batch.client import ClientConfig, OpenAIBatchClient
from airflow_openai_batch.engine import collect, foreign, job, results, runner, sources, store, structured
from airflow_openai_batch.engine.models import Waiting
from airflow_openai_batch.engine.requests import RequestSpec

def memory(name):
    for line in open("/proc/self/status"):
        if line.startswith(name):
            return int(line.split()[1]) * 1024

base_url, source, destination = sys.argv[1:]
at_destination = store.Store.at(destination)
at_destination.exists("manifest.json")
imported = memory("VmRSS")
client = OpenAIBatchClient(ClientConfig("openai_test", "sk-test", base_url, max_retries=1))
spec = job.JobSpec(
    RequestSpec(prompt="Say it: {{ row.text }}", system="Be brief.", model="gpt-5-mini"), owner={"task": "t"}
)
while isinstance(
    outcome := runner.advance(
        job.Job(at_destination, client, spec, lambda: sources.open_source(source), at_once=4)
    ),
    Waiting,
):
    time.sleep(0.2)
print(json.dumps({"growth": memory("VmHWM") - imported, "manifest": outcome.manifest}))
"""


@pytest.fixture
def another_process():
    """The address of an emulator in a process of its own."""
    options = ["--port", "0", "--validating", "0", "--in-progress", "0", "--finalizing", "0"]
    command = [sys.executable, "-m", "airflow_openai_batch.emulator", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            started = process.stdout.readline()
            yield re.search(r"http://\S+/v1", started)[0]
        finally:
            process.terminate()


def ledger(base_url):
    with urllib.request.urlopen(f"{base_url.removesuffix('/v1')}/emulator/ledger", timeout=10) as answer:
        return json.load(answer)


@pytest.fixture
def on_s3(monkeypatch):
    """A bucket on a server in another process, and the surroundings that reach it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            fs = S3FileSystem(skip_instance_cache=True)
            give_up = time.monotonic() + 30
            while True:
                try:
                    fs.mkdir("memory")
                    break
                except OSError:
                    assert time.monotonic() < give_up
                    time.sleep(0.1)
            yield fs
        finally:
            process.terminate()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory as Linux tells it")
@pytest.mark.parametrize("where", ["on files", "on S3"])
def test_many_rows_take_little_memory_and_each_is_landed_once(tmp_path, another_process, request, where):
    fs = request.getfixturevalue("on_s3") if where == "on S3" else None
    destination = "s3://memory/out" if fs else str(tmp_path / "out")
    with (tmp_path / "in.jsonl").open("wb") as file:
        for n in range(ROWS):
            file.write(b'{"id":%d,"text":"the text of row %d","tags":["a",%d]}\n' % (n, n, n % 7))
    command = [sys.executable, "-c", RUN, another_process, str(tmp_path / "in.jsonl"), destination]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    told = json.loads(done.stdout.splitlines()[-1])
    manifest = told["manifest"]
    assert manifest["rows"] == {**manifest["rows"], "total": ROWS, "succeeded": ROWS}
    assert len(manifest["batches"]) == len(manifest["files"]) == 3
    row = 0
    for name in manifest["files"]:
        with io.BufferedReader(fs.open(name, "rb")) if fs else Path(name).open("rb") as lines:
            for line in lines:
                result = orjson.loads(line)
                text = f"the text of row {row}"
                assert (result["row"], result["status"], result["output"]) == (row, "succeeded", f"Say it: {text}")
                assert result["input"] == {"id": row, "text": text, "tags": ["a", row % 7]}
                row += 1
    assert row == ROWS
    billed = ledger(another_process)["rows"]
    assert (billed["billed"], billed["billed_twice"]["count"]) == (ROWS, 0)
    assert told["growth"] < MAX_GROWTH, f"{told['growth'] / 2**20:.0f} MB"
