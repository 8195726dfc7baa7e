"""A job whose source and destination are on S3 through an Airflow connection; the server is moto's."""

from __future__ import annotations

import json

import boto3
import pytest
from airflow.sdk import DAG
from moto.server import ThreadedMotoServer

from airflow_openai_batch.engine.journal import Journal
from airflow_openai_batch.engine.models import Key, UploadRecord
from airflow_openai_batch.operators.base import open_store
from airflow_openai_batch.operators.openai_batch import OpenAIBatchOperator


@pytest.fixture(scope="module")
def endpoint():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint, monkeypatch):
    """A bucket with a connection ``lake`` to its server."""
    connection = {"conn_type": "aws", "login": "testing", "password": "testing"}
    connection["extra"] = {"endpoint_url": endpoint, "region_name": "us-east-1"}
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", json.dumps(connection))
    s3 = boto3.resource("s3", endpoint_url=endpoint, region_name="us-east-1")
    bucket = s3.Bucket("lake-bucket")
    if bucket.creation_date is None:
        bucket.create()
    bucket.objects.all().delete()
    return bucket


def test_source_journal_and_results_may_be_on_s3(run_dag, connection, bucket):
    bucket.put_object(Key="in/a.jsonl", Body=b'{"text": "great food"}\n{"text": "awful food"}')
    with DAG("on_s3", schedule=None) as dag:
        OpenAIBatchOperator(
            task_id="label",
            source="s3://lake@lake-bucket/in/*.jsonl",
            prompt="Is this positive or negative? {{ row.text }}",
            model="gpt-5-mini",
            destination="s3://lake@lake-bucket/out",
            poll_interval=0.2,
        )
    run = run_dag(dag)
    assert run.state == "success"
    assert run.xcoms["label"]["files"] == ["s3://lake@lake-bucket/out/results/part-00000.jsonl"]
    body = bucket.Object("out/results/part-00000.jsonl").get()["Body"].read()
    assert [json.loads(line)["output"] for line in body.splitlines()] == ["positive", "negative"]
    assert json.loads(bucket.Object("out/manifest.json").get()["Body"].read())["rows"]["succeeded"] == 2


def test_only_one_of_two_writers_creates_a_name_on_s3(bucket):
    store = open_store("s3://lake@lake-bucket/job")
    key = Key(0, 0, 0)
    assert Journal(store).write(key, UploadRecord(1.0, "first")) is True
    assert Journal(store).write(key, UploadRecord(2.0, "second")) is False
    assert b"first" in store.read("_job/batches/00000.r0.a0.upload.json")


@pytest.mark.parametrize("size", [10, 12 << 20], ids=["one piece", "multipart"])
def test_a_write_that_fails_half_way_publishes_nothing_on_s3(bucket, size):
    store = open_store("s3://lake@lake-bucket/job")

    def write_half():
        with store.publish("results/part.jsonl") as file:
            file.write(b"x" * size)
            raise RuntimeError("cut")

    with pytest.raises(RuntimeError, match="cut"):
        write_half()
    assert store.exists("results/part.jsonl") is False
    with store.publish("results/part.jsonl") as file:
        file.write(b"y" * size)
    assert store.size("results/part.jsonl") == size


def test_a_missing_bucket_is_named_with_what_to_check(bucket):
    store = open_store("s3://lake@no-such-bucket/job")
    with pytest.raises(Exception, match=r"s3://lake@no-such-bucket/job/a.json.*bucket") as caught:
        store.create("a.json", b"{}")
    assert type(caught.value).__name__ == "StoreError"


def test_a_given_up_job_is_kept_under_a_dated_name_on_s3(bucket):
    store = open_store("s3://lake@lake-bucket/job")
    store.create("_job/job.json", b"{}")
    store.create("manifest.json", b"{}")
    assert store.move_aside("20260101T000000Z", last="_job/job.json") == "s3://lake@lake-bucket/job.20260101T000000Z"
    assert sorted(item.key for item in bucket.objects.all()) == [
        "job.20260101T000000Z/_job/job.json",
        "job.20260101T000000Z/manifest.json",
    ]
