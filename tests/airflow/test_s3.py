"""A job whose source and destination are on S3 through an Airflow connection, on each of two servers."""

from __future__ import annotations

import json
import re

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import DAG
from airflow.sdk.io import store

from airflow_openai_batch import list_partitions
from airflow_openai_batch.engine.journal import Journal
from airflow_openai_batch.engine.models import Key
from airflow_openai_batch.engine.records import UploadRecord
from airflow_openai_batch.engine.sources import open_source
from airflow_openai_batch.operators.base import open_store, resolve_source
from airflow_openai_batch.operators.openai_batch import OpenAIBatchOperator


@pytest.fixture
def bucket(s3, monkeypatch):
    """A bucket with a connection ``lake`` to its server."""
    # A process keeps the first store of a connection.
    monkeypatch.setattr(store, "_STORE_CACHE", {})
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", s3.connection())
    return s3.bucket


@pytest.fixture
def ambient(s3, monkeypatch):
    """A bucket that is reached with what the environment has, as with a machine's own role."""
    monkeypatch.setattr(store, "_STORE_CACHE", {})
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret)
    return s3.bucket


def test_credentials_may_be_those_of_the_machine(run_dag, connection, ambient):
    ambient.put_object(Key="in/a.jsonl", Body=b'{"text": "great food"}\n{"text": "awful food"}')
    with DAG("ambient", schedule=None) as dag:
        OpenAIBatchOperator(
            task_id="label",
            source="s3://lake-bucket/in/*.jsonl",
            prompt="Is this positive or negative? {{ row.text }}",
            model="gpt-5-mini",
            destination="s3://lake-bucket/out",
            poll_interval=0.2,
        )
    run = run_dag(dag)
    assert run.state == "success"
    assert run.xcoms["label"]["files"] == ["s3://lake-bucket/out/results/part-00000.jsonl"]
    assert json.loads(ambient.Object("out/manifest.json").get()["Body"].read())["rows"]["succeeded"] == 2


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"login": "no-such-key"}, "Forbidden"),
        ({"password": "no-such-secret"}, "Forbidden"),
        ({"login": "reader-key", "password": "reader-secret"}, "Access Denied"),
    ],
)
def test_a_key_that_may_not_write_fails_the_task_with_what_to_check_and_nothing_is_bought(
    run_dag, connection, seaweedfs, emulator, monkeypatch, fields, told
):
    monkeypatch.setattr(store, "_STORE_CACHE", {})
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", seaweedfs.connection(**fields))
    with DAG("denied", schedule=None) as dag:
        OpenAIBatchOperator(
            task_id="label", source=[{"prompt": "a"}], model="gpt-5-mini", destination="s3://lake@lake-bucket/denied"
        )
    run = run_dag(dag)
    assert run.state == "failed"
    assert "s3://lake@lake-bucket/denied/" in str(run.errors["label"])
    assert told in str(run.errors["label"])
    assert "the connection may read and write there" in str(run.errors["label"])
    assert emulator.ledger.calls == {}


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


@pytest.mark.parametrize(
    ("source", "by", "expected"),
    [
        ("reviews", None, ["dt=1", "dt=2/lang=ko"]),
        ("reviews/", "file", ["dt=1/a.jsonl", "dt=1/b [1].jsonl", "dt=2/lang=ko/a.jsonl"]),
        ("reviews/dt=*", None, ["dt=1", "dt=2/lang=ko"]),
        ("reviews/dt=1/*.jsonl", None, ["a.jsonl", "b [1].jsonl"]),
        ("reviews/**/*.jsonl", "folder", ["dt=1", "dt=2/lang=ko"]),
        ("reviews/dt=1/a.jsonl", None, ["a.jsonl"]),
    ],
)
def test_partitions_on_s3_are_listed_with_the_connection_in_their_names_and_can_be_read(bucket, source, by, expected):
    for name in ("dt=1/a.jsonl", "dt=1/b [1].jsonl", "dt=2/lang=ko/a.jsonl"):
        bucket.put_object(Key=f"reviews/{name}", Body=b'{"text": "great food"}')
    # What tools leave behind: a folder's own marker, a job's mark of success, an empty part.
    for name in ("reviews/", "reviews/dt=1/", "reviews/dt=3/", "reviews/dt=1/_SUCCESS", "reviews/dt=1/c.jsonl"):
        bucket.put_object(Key=name, Body=b"")
    parts = list_partitions(f"s3://lake@lake-bucket/{source}", "s3://lake@lake-bucket/labels", by=by)
    names = [part["destination"].removeprefix("s3://lake@lake-bucket/labels/") for part in parts]
    # A name that was made safe has a hash at its end.
    assert [re.sub(r"b--1-.jsonl-\w{10}$", "b [1].jsonl", name) for name in names] == expected
    assert all(part["source"].startswith("s3://lake@lake-bucket/reviews/") for part in parts)
    rows = [row for part in parts for row in open_source(part["source"], resolve_source).rows()]
    assert {row.data["text"] for row in rows} == {"great food"}
    assert {row.data.get("dt") for row in rows} <= ({None} if "dt=1/" in source else {"1", "2"})
    assert len(rows) == (2 if "dt=1/*" in source else 1 if "dt=1/a" in source else 3)


def test_a_listing_sees_what_has_come_since_the_last_one(bucket):
    for day in (1, 2):
        bucket.put_object(Key=f"reviews/dt={day}/a.jsonl", Body=b'{"text": "great food"}')
        for source in ("reviews", "reviews/dt=*", "reviews/*/*.jsonl"):
            assert len(list_partitions(f"s3://lake@lake-bucket/{source}", "s3://lake@lake-bucket/labels")) == day


@pytest.mark.parametrize("source", ["no-such-bucket/reviews", "lake-bucket/nothing", "lake-bucket/nothing/*.jsonl"])
def test_a_dataset_that_is_not_on_s3_is_named(bucket, source):
    with pytest.raises(AirflowFailException, match=f"s3://lake@{re.escape(source)}: no such file"):
        list_partitions(f"s3://lake@{source}", "s3://lake@lake-bucket/labels")


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
