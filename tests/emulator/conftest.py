"""An emulator to talk to, and the few words that every test says to it."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack

import httpx
import pytest
from openai import OpenAI

from airflow_openai_batch.emulator.server import running

QUICK = {"validating": 0.01, "in_progress": 0.03, "finalizing": 0.01, "cancelling": 0.02}
CHAT = "/v1/chat/completions"
TERMINAL = {"completed", "failed", "expired", "cancelled"}
KEY = "sk-test"


class Api:
    """The SDK's client, bare HTTP, and the steps of a batch."""

    def __init__(self, emulator, client, http):
        self.emulator = emulator
        self.ledger = emulator.ledger
        self.client = client
        self.http = http

    @staticmethod
    def body(text="hello", **fields):
        return {"model": "gpt-5-mini", "messages": [{"role": "user", "content": text}], **fields}

    def row(self, custom_id="1", url=CHAT, body=None, **fields):
        return {"custom_id": custom_id, "method": "POST", "url": url, "body": body or self.body(custom_id), **fields}

    def rows(self, number):
        return [self.row(f"r{i}", body=self.body(f"text {i}")) for i in range(1, number + 1)]

    def upload(self, content, name="input.jsonl", **options):
        if isinstance(content, list):
            content = "\n".join(json.dumps(row) if not isinstance(row, str) else row for row in content) + "\n"
        return self.client.files.create(file=(name, content.encode()), purpose="batch", **options)

    def create(self, content, endpoint=CHAT, **options):
        file = content if isinstance(content, str) and content.startswith("file-") else self.upload(content).id
        return self.client.batches.create(input_file_id=file, endpoint=endpoint, completion_window="24h", **options)

    def until(self, batch, *statuses, timeout=10.0):
        give_up = time.monotonic() + timeout
        while batch.status not in statuses:
            assert batch.status not in TERMINAL, batch
            assert time.monotonic() < give_up, batch
            time.sleep(0.01)
            batch = self.client.batches.retrieve(batch.id)
        return batch

    def finish(self, batch, timeout=10.0):
        return self.until(batch, *TERMINAL, timeout=timeout)

    def run(self, content, endpoint=CHAT, **options):
        return self.finish(self.create(content, endpoint, **options))

    def lines(self, file_id):
        return [json.loads(line) for line in self.client.files.content(file_id).text.splitlines()]

    def by_id(self, file_id):
        return {line["custom_id"]: line for line in self.lines(file_id)}

    def post(self, path, body, **options):
        return self.http.post(path, json=body, **options)


@pytest.fixture
def start():
    """Start an emulator with options of one's own."""
    with ExitStack() as stack:

        def start(**options):
            emulator = stack.enter_context(running(**{**QUICK, **options}))
            client = stack.enter_context(OpenAI(base_url=emulator.base_url, api_key=KEY, max_retries=0))
            http = stack.enter_context(
                httpx.Client(
                    base_url=emulator.url, headers={"Authorization": f"Bearer {KEY}"}, trust_env=False, verify=False
                )
            )
            return Api(emulator, client, http)

        yield start


@pytest.fixture(scope="module")
def shared():
    with (
        running(**QUICK) as emulator,
        OpenAI(base_url=emulator.base_url, api_key=KEY, max_retries=0) as client,
        httpx.Client(
            base_url=emulator.url, headers={"Authorization": f"Bearer {KEY}"}, trust_env=False, verify=False
        ) as http,
    ):
        yield Api(emulator, client, http)


@pytest.fixture
def api(shared):
    """The module's emulator, with default options; faults are gone after the test."""
    yield shared
    shared.emulator.clear_faults()
