"""Results in the format that a task asks for, read back where they lie."""

from __future__ import annotations

import sys

import pandas as pd
import pytest
from airflow.sdk import DAG
from airflow.sdk.io import store

from airflow_openai_batch import read_results
from airflow_openai_batch.engine.models import RESULT_FORMATS
from airflow_openai_batch.exceptions import ConfigurationError
from airflow_openai_batch.operators.openai_batch import (
    OpenAIBatchDownloadOperator,
    OpenAIBatchOperator,
    OpenAIBatchSubmitOperator,
)
from airflow_openai_batch.sensors.openai_batch import OpenAIBatchSensor

ROWS = [{"text": "great food"}, {"text": "awful food"}]
ROW = {"prompt": "Is this positive or negative? {{ row.text }}", "model": "gpt-5-mini"}
QUICK = {"poll_interval": 0.2}


@pytest.mark.parametrize("result_format", RESULT_FORMATS)
def test_a_task_lands_its_results_as_it_is_asked_to(run_dag, connection, tmp_path, result_format):
    with DAG(f"landed_as_{result_format}", schedule=None) as dag:
        OpenAIBatchOperator(
            task_id="label", source=ROWS, destination=f"{tmp_path}/out", result_format=result_format, **ROW, **QUICK
        )
    manifest = run_dag(dag).xcoms["label"]
    assert manifest["format"] == result_format
    assert manifest["files"] == [f"{tmp_path}/out/results/part-00000.{result_format}"]
    assert [row["output"] for row in read_results(manifest)] == ["positive", "negative"]
    assert read_results(f"{tmp_path}/out", as_="pandas")["output"].to_list() == ["positive", "negative"]


def test_the_last_step_lands_in_the_format_that_the_first_was_given_or_in_its_own(run_dag, connection, tmp_path):
    with DAG("formats_of_steps", schedule=None) as dag:
        submit = OpenAIBatchSubmitOperator(
            task_id="submit", source=ROWS, destination=f"{tmp_path}/out", result_format="parquet", **ROW
        )
        wait = OpenAIBatchSensor(task_id="wait", job=submit.output, **QUICK)
        first = OpenAIBatchDownloadOperator(task_id="first", job=wait.output, **QUICK)
        second = OpenAIBatchDownloadOperator(task_id="second", job=first.output, result_format="csv", **QUICK)
        third = OpenAIBatchDownloadOperator(task_id="third", job=second.output, **QUICK)
        OpenAIBatchSensor(task_id="fourth", job=third.output, **QUICK)
    run = run_dag(dag)
    assert run.state == "success"
    assert [run.xcoms[task]["format"] for task in ("first", "second", "third")] == ["parquet", "csv", "csv"]
    for task in ("first", "second"):
        assert [row["output"] for row in read_results(run.xcoms[task])] == ["positive", "negative"]


def test_a_batch_made_elsewhere_is_landed_in_any_format(run_dag, connection, make_batch, ended, tmp_path):
    batch = ended(make_batch(("mine", "great food")))
    with DAG("foreign_parquet", schedule=None) as dag:
        OpenAIBatchDownloadOperator(
            task_id="land", batch_id=batch.id, destination=f"{tmp_path}/out", result_format="parquet", **QUICK
        )
    (row,) = read_results(run_dag(dag).xcoms["land"])
    assert (row["custom_id"], row["input"], row["status"]) == ("mine", None, "succeeded")


def test_a_task_that_is_cleared_with_another_format_lands_again_and_buys_nothing(
    run_dag, connection, emulator, tmp_path
):
    def manifest(result_format):
        with DAG(f"again_as_{result_format}", schedule=None) as dag:
            OpenAIBatchOperator(
                task_id="label", source=ROWS, destination=f"{tmp_path}/out", result_format=result_format, **ROW, **QUICK
            )
        return run_dag(dag).xcoms["label"]

    lines = manifest("jsonl")
    made = len(emulator.ledger.batches)
    typed = manifest("parquet")
    assert len(emulator.ledger.batches) == made
    assert (typed["format"], typed["job"], typed["batches"]) == ("parquet", lines["job"], lines["batches"])
    assert pd.read_parquet(typed["files"][0])["output"].to_list() == ["positive", "negative"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: OpenAIBatchOperator(task_id="t", source=ROWS, destination="d", result_format="xlsx", **ROW),
        lambda: OpenAIBatchDownloadOperator(task_id="t", job={}, result_format="xlsx"),
    ],
)
def test_a_format_that_is_none_is_found_when_the_dag_is_parsed(make):
    with pytest.raises(ConfigurationError, match=r"result_format: one of jsonl, .* is needed, not 'xlsx'"):
        make()


@pytest.fixture
def on_lake(moto, monkeypatch):
    """A bucket with a connection ``lake``."""
    monkeypatch.setattr(store, "_STORE_CACHE", {})
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", moto.connection())
    moto.bucket.objects.all().delete()
    return "s3://lake@lake-bucket/out"


@pytest.mark.parametrize("result_format", RESULT_FORMATS)
def test_results_on_s3_are_read_through_the_connection_in_their_name(run_dag, connection, on_lake, result_format):
    with DAG(f"on_s3_as_{result_format}", schedule=None) as dag:
        OpenAIBatchOperator(
            task_id="label", source=ROWS, destination=on_lake, result_format=result_format, **ROW, **QUICK
        )
    manifest = run_dag(dag).xcoms["label"]
    for where, options in (
        (manifest, {}),
        (on_lake, {}),
        ("s3://lake-bucket/out", {"conn_id": "lake"}),
    ):
        assert [row["output"] for row in read_results(where, **options)] == ["positive", "negative"]
        assert read_results(where, as_="arrow", **options)["row"].to_pylist() == [0, 1]


def test_a_connection_without_airflow_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "airflow.sdk", None)
    with pytest.raises(ImportError, match="a connection is a thing of Airflow"):
        read_results("s3://lake@bucket/out")


def test_a_connection_and_options_of_fsspec_do_not_go_together():
    with pytest.raises(ConfigurationError, match="give one of both"):
        read_results("s3://bucket/out", conn_id="lake", anon=True)
