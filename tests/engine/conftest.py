"""Jobs in a folder of their own, on the emulator or on an API in memory whose batches end when a test says so."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pytest

from airflow_openai_batch.client import ClientConfig, OpenAIBatchClient
from airflow_openai_batch.emulator.server import running
from airflow_openai_batch.engine.job import Job, JobSpec
from airflow_openai_batch.engine.lifecycle import Rules
from airflow_openai_batch.engine.models import BatchIssue, BatchSnapshot, Counts, RemoteFile, Waiting
from airflow_openai_batch.engine.requests import RequestSpec
from airflow_openai_batch.engine.runner import advance
from airflow_openai_batch.engine.sources import open_source
from airflow_openai_batch.engine.store import Store
from airflow_openai_batch.exceptions import NotFoundError

REQUEST_FIELDS = {item.name for item in fields(RequestSpec)}


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self, now=1_000_000.0):
        self.now = now

    def __call__(self):
        return self.now


def answered(request, text=None):
    """The line of a chat completion that echoes its prompt."""
    content = request["body"]["messages"][-1]["content"] if text is None else text
    body = {
        "object": "chat.completion",
        "model": "emulated",
        "choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }
    return {"custom_id": request["custom_id"], "response": {"status_code": 200, "body": body}, "error": None}


def not_run(request, code="batch_expired"):
    """The line of a request that never ran."""
    return {"custom_id": request["custom_id"], "response": None, "error": {"code": code, "message": "never ran"}}


def refused(request, status=500):
    """The line of a request that failed with an HTTP status."""
    body = {"error": {"message": "no", "code": f"e{status}"}}
    return {"custom_id": request["custom_id"], "response": {"status_code": status, "body": body}, "error": None}


class FakeAPI:
    """The calls of a job, in memory.

    ``errors["create_batch"] = [error, ...]`` fails the next calls before they have an effect, ``lost`` after.
    """

    answered = staticmethod(answered)
    not_run = staticmethod(not_run)
    refused = staticmethod(refused)

    def __init__(self, clock):
        self.clock = clock
        self.calls = Counter()
        self.errors, self.lost = {}, {}
        self.direct, self.asked = answered, []
        self.files, self.batches, self.inline = {}, {}, {}

    def _call(self, name, errors):
        waiting = errors.get(name)
        if waiting:
            raise waiting.pop(0)

    def _begin(self, name):
        self.calls[name] += 1
        self._call(name, self.errors)

    def put(self, name, content):
        file_id = f"file-{len(self.files)}"
        self.files[file_id] = (RemoteFile(file_id, name, len(content), self.clock()), content)
        return file_id

    def upload(self, name, opener):
        self._begin("upload")
        with opener() as content:
            file_id = self.put(name, content.read())
        self._call("upload", self.lost)
        return self.files[file_id][0]

    def files_named(self, name, *, since):  # noqa: ARG002 - the protocol's
        self._begin("files_named")
        return [file for file, content in self.files.values() if content is not None and file.name == name]

    def find_file(self, file_id):
        self._begin("find_file")
        file, content = self.files.get(file_id, (None, None))
        return file if content is not None else None

    def delete_file(self, file_id):
        self._begin("delete_file")
        self.files[file_id] = (self.files[file_id][0], None)

    def create_batch(self, *, input_file_id=None, input_file_content=None, endpoint, metadata, **_more):
        self._begin("create_batch")
        assert (input_file_id is None) != (input_file_content is None)
        self.inline[f"batch-{len(self.batches)}"] = input_file_content
        batch = BatchSnapshot(
            f"batch-{len(self.batches)}",
            "in_progress",
            endpoint,
            input_file_id,
            created_at=self.clock(),
            metadata=dict(metadata),
        )
        self.batches[batch.id] = batch
        self._call("create_batch", self.lost)
        return batch

    def retrieve_batch(self, batch_id):
        self._begin("retrieve_batch")
        return self.batches[batch_id]

    def list_batches(self):
        self._begin("list_batches")
        yield from reversed(list(self.batches.values()))

    def cancel_batch(self, batch_id):
        self._begin("cancel_batch")
        if not self.batches[batch_id].ended:
            self.batches[batch_id] = replace(self.batches[batch_id], status="cancelling")
        return self.batches[batch_id]

    def download(self, file_id, target):
        self._begin("download")
        content = self.files[file_id][1]
        if content is None:
            raise NotFoundError(f"no {file_id}", status=404)
        return target.write(content)

    def ask(self, lines, take, *, concurrency):  # noqa: ARG002 - the protocol's
        """Answer requests one by one; ``direct`` gives each one's line, ``asked`` has them all."""
        self._begin("ask")
        for line in lines:
            request = json.loads(line)
            self.asked.append(request)
            self._call("answer", self.errors)
            take(json.dumps(self.direct(request)).encode() + b"\n")

    def requests(self, batch_id):
        """The requests of a batch, as they were uploaded or sent with its creation."""
        content = self.inline[batch_id] or self.files[self.batches[batch_id].input_file_id][1].decode()
        return [json.loads(line) for line in content.split("\n") if line]

    def end(self, batch_id=None, status="completed", answer=answered, issues=()):
        """End a batch (the newest): ``answer`` gives each request's line, or None for none."""
        batch_id = batch_id or list(self.batches)[-1]
        done, failed = [], []
        for request in self.requests(batch_id) if status != "failed" else []:
            line = answer(request)
            if line is not None:
                ran = (line["response"] or {}).get("status_code") == 200
                (done if ran else failed).append(json.dumps(line).encode() + b"\n")
        self.batches[batch_id] = replace(
            self.batches[batch_id],
            status=status,
            ended_at=self.clock(),
            output_file_id=self.put("output.jsonl", b"".join(done)) if done else None,
            error_file_id=self.put("error.jsonl", b"".join(failed)) if failed else None,
            counts=Counts(len(done) + len(failed), len(done), len(failed)),
            errors=tuple(BatchIssue(**issue) for issue in issues),
        )


@dataclass
class Landed:
    """A finished job: its manifest and its results."""

    manifest: dict[str, Any]
    lines: list[dict[str, Any]] = field(default_factory=list)

    @property
    def outputs(self):
        return [line["output"] for line in self.lines]

    @property
    def statuses(self):
        return [line["status"] for line in self.lines]


class Desk:
    """Makes jobs below one folder and runs them."""

    def __init__(self, folder, api, clock=time.time):
        self.folder = folder
        self.api = api
        self.clock = clock

    @property
    def out(self):
        return self.folder / "out"

    def job(self, rows, *, out=None, store=None, rules=None, api=None, **options):
        """A job over ``rows``; options are those of the request and of the job together."""
        request = {"model": "gpt-5-mini"} | {k: v for k, v in options.items() if k in REQUEST_FIELDS}
        rest = {k: v for k, v in options.items() if k not in REQUEST_FIELDS}
        spec = JobSpec(RequestSpec(**request), **{"owner": {"task": "t"}, **rest})
        source = rows if callable(rows) else lambda: open_source(rows)
        store = store or Store.at(str(out or self.out))
        return Job(store, api or self.api, spec, source, rules=rules, clock=self.clock)

    @staticmethod
    def finish(job, patience=20.0):
        """Advance until the job is done."""
        give_up = time.monotonic() + patience
        while isinstance(outcome := advance(job), Waiting):
            assert time.monotonic() < give_up, outcome
            time.sleep(0.02)
        return landed(outcome.manifest)

    def run(self, rows, **options):
        return self.finish(self.job(rows, **options))

    def left(self):
        """All that lies at the destination."""
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.glob("out*/**/*") if path.is_file())


def landed(manifest):
    """Read a finished job's results."""
    lines = [json.loads(line) for name in manifest["files"] for line in Path(name).read_bytes().splitlines()]
    return Landed(manifest, lines)


@pytest.fixture
def desk(tmp_path, client):
    """Jobs on the shared emulator."""
    return Desk(tmp_path, client)


@pytest.fixture
def start(tmp_path):
    """Start an emulator with options of one's own: jobs on it, and its ledger."""
    with ExitStack() as stack:

        def start(**options):
            quick = {"validating": 0.02, "in_progress": 0.05, "finalizing": 0.02, "cancelling": 0.02}
            emulator = stack.enter_context(running(**{**quick, **options}))
            client = OpenAIBatchClient(ClientConfig("openai_test", "sk-test", emulator.base_url, max_retries=1))
            stack.callback(client.close)
            return Desk(tmp_path, client), emulator.ledger

        yield start


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def fake(clock):
    """An API in memory."""
    return FakeAPI(clock)


@pytest.fixture
def fakes(tmp_path, fake, clock):
    """Jobs on the API in memory, at a time that stands still."""
    return Desk(tmp_path, fake, clock)


@pytest.fixture
def quick_rules():
    """A create whose answer was lost is given up within a fraction of a second."""
    return Rules(create_timeout=0.2, create_grace=0.1, queue_pause=0.1)


@pytest.fixture
def write(tmp_path):
    """Write a file of rows (bytes as they are, anything else as JSON Lines) and return its path."""

    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, bytes):
            content = b"".join(json.dumps(row).encode() + b"\n" for row in content)
        path.write_bytes(content)
        return str(path)

    return write


PROGRAMS = 3
"""Programs that share the points of a kill out among themselves, each with an emulator: they mostly wait."""


@pytest.fixture
def apis():
    """Emulators in other processes: the job's processes are killed, they aren't."""
    command = [sys.executable, "-m", "airflow_openai_batch.emulator", "--port", "0"]
    command += ["--oddity", "inline_create", "--validating", "0.02", "--in-progress", "0.05", "--finalizing", "0.02"]
    with ExitStack() as stack:
        started = [
            stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True))
            for _ in range(PROGRAMS)
        ]
        yield [process.stdout.readline().split()[-1] for process in started]
        for process in started:
            process.terminate()
