"""What all tests share: an Airflow home of their own, the emulator, and a job folder."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

HOME = tempfile.mkdtemp(prefix="openai-batch-tests-")
os.environ.update(
    {
        "AIRFLOW_HOME": HOME,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(Path(HOME, "dags")),
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
        "AIRFLOW__OPENAI_BATCH__MIN_WAIT": "0",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        # moto and botocore look for these; no test speaks to AWS.
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
)

import pytest  # noqa: E402 - Airflow reads the environment when it is imported

from airflow_openai_batch.client import ClientConfig, OpenAIBatchClient  # noqa: E402 - likewise
from airflow_openai_batch.emulator.server import running  # noqa: E402 - likewise


@pytest.fixture(scope="session")
def shared_emulator():
    """One emulator for the tests that leave no faults behind; batches take a fraction of a second."""
    with running(validating=0.05, in_progress=0.1, finalizing=0.05) as emulator:
        yield emulator


@pytest.fixture
def emulator(shared_emulator):
    """The shared emulator, without anybody's faults."""
    shared_emulator.clear_faults()
    shared_emulator.ledger.reset()
    yield shared_emulator
    shared_emulator.clear_faults()


@pytest.fixture
def client(emulator):
    """A client of the emulator that gives up quickly."""
    client = OpenAIBatchClient(ClientConfig("openai_test", "sk-test", emulator.base_url, max_retries=1))
    yield client
    client.close()


@pytest.fixture
def connection(emulator, monkeypatch):
    """The Airflow connection ``openai_default``, to the emulator."""
    value = json.dumps({"conn_type": "openai_batch", "password": "sk-test", "host": emulator.base_url})
    monkeypatch.setenv("AIRFLOW_CONN_OPENAI_DEFAULT", value)
    return "openai_default"
