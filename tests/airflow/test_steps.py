"""Three steps: submit, wait, download, with a small reference to the job passed by XCom; and cancel."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import DAG

from airflow_openai_batch.operators.openai_batch import (
    OpenAIBatchCancelOperator,
    OpenAIBatchDownloadOperator,
    OpenAIBatchSubmitOperator,
)
from airflow_openai_batch.sensors.openai_batch import OpenAIBatchSensor

ROWS = [{"text": "great food"}, {"text": "awful food"}]
ROW = {"prompt": "Is this positive or negative? {{ row.text }}", "model": "gpt-5-mini"}


@pytest.mark.parametrize("deferrable", [True, False])
def test_the_steps_pass_a_small_reference_and_take_its_connection(run_dag, connect, emulator, tmp_path, deferrable):
    connect(emulator, "elsewhere")
    steps = {"poll_interval": 0.2, "deferrable": deferrable}
    with DAG(f"steps_{deferrable}", schedule=None) as dag:
        submit = OpenAIBatchSubmitOperator(
            task_id="submit", source=ROWS, destination=f"{tmp_path}/out", conn_id="elsewhere", **ROW
        )
        wait = OpenAIBatchSensor(task_id="wait", job=submit.output, **steps)
        download = OpenAIBatchDownloadOperator(task_id="download", job=wait.output, **steps)
        OpenAIBatchCancelOperator(task_id="nothing_to_cancel", job=download.output) << download
    run = run_dag(dag)
    reference = run.xcoms["submit"]
    assert reference.keys() == {"job", "destination", "conn_id", "batches"}
    assert (reference["destination"], reference["conn_id"]) == (f"{tmp_path}/out", "elsewhere")
    assert len(reference["batches"]) == 1
    assert len(json.dumps(reference)) < 500
    assert run.xcoms["wait"] == reference
    assert run.outputs("download") == ["positive", "negative"]


def test_a_manifest_refers_to_its_job_too(run_dag, connection, tmp_path):
    with DAG("download_alone", schedule=None) as dag:
        submit = OpenAIBatchSubmitOperator(task_id="submit", source=ROWS, destination=f"{tmp_path}/out", **ROW)
        first = OpenAIBatchDownloadOperator(task_id="first", job=submit.output, poll_interval=0.2)
        OpenAIBatchDownloadOperator(task_id="second", job=first.output, poll_interval=0.2)
        OpenAIBatchCancelOperator(task_id="cancel", job=submit.output) << first
    run = run_dag(dag)
    assert run.outputs("first") == ["positive", "negative"]
    assert run.xcoms["second"] == run.xcoms["first"]
    assert run.xcoms["cancel"] == []


def test_rows_that_fail_in_passing_go_again_while_the_sensor_waits(run_dag, connection, tmp_path):
    rows = [*ROWS, {"text": f"great [[emulate:status=429,once]] {tmp_path}"}]
    with DAG("steps_repair", schedule=None) as dag:
        submit = OpenAIBatchSubmitOperator(task_id="submit", source=rows, destination=f"{tmp_path}/out", **ROW)
        wait = OpenAIBatchSensor(task_id="wait", job=submit.output, poll_interval=0.2)
        OpenAIBatchDownloadOperator(task_id="download", job=submit.output, poll_interval=0.2) << wait
    run = run_dag(dag)
    assert len(run.xcoms["submit"]["batches"]) == 1
    assert len(run.xcoms["wait"]["batches"]) == 2
    assert run.outputs("download") == ["positive", "negative", "positive"]


def test_cancelling_ends_the_batches_of_a_job_or_a_single_one(run_dag, connect, slow_emulator, tmp_path, make_batch):
    connect(slow_emulator)
    with _sdk(slow_emulator) as sdk:
        single = make_batch(sdk=sdk)
    with DAG("cancelling", schedule=None) as dag:
        submit = OpenAIBatchSubmitOperator(task_id="submit", source=ROWS, destination=f"{tmp_path}/out", **ROW)
        cancel = OpenAIBatchCancelOperator(task_id="job", job=submit.output)
        OpenAIBatchCancelOperator(task_id="batch", batch_id=single.id)
        OpenAIBatchDownloadOperator(
            task_id="download", job=submit.output, max_failed_ratio=1, poll_interval=0.1
        ).set_upstream(cancel)
    made = len(slow_emulator.ledger.batches)
    run = run_dag(dag)
    assert run.xcoms["job"] == run.xcoms["submit"]["batches"]
    assert run.xcoms["batch"] == [single.id]
    cancelled = {batch["id"] for batch in slow_emulator.ledger.batches if batch["status"].startswith("cancel")}
    assert cancelled >= {single.id, *run.xcoms["job"]}
    # What was cancelled on purpose isn't bought after all; what it had finished can be had.
    assert len(slow_emulator.ledger.batches) - made == 1
    assert run.xcoms["download"]["rows"]["total"] == 2
    assert run.xcoms["download"]["rows"]["cancelled"] >= 1


def _sdk(emulator):
    from openai import OpenAI

    return OpenAI(base_url=emulator.base_url, api_key="sk-test")


def test_a_reference_that_leads_nowhere_is_no_reason_to_retry(run_dag, connection, tmp_path):
    gone = {"job": "abc", "destination": f"{tmp_path}/gone", "conn_id": "openai_default", "batches": []}
    with DAG("bad_references", schedule=None, default_args={"retries": 3}) as dag:
        OpenAIBatchSensor(task_id="gone", job=gone)
        OpenAIBatchDownloadOperator(task_id="not_a_reference", job="s3://bucket/out")
        OpenAIBatchCancelOperator(task_id="too_little", job={"job": "abc"})
    run = run_dag(dag)
    assert set(run.states.values()) == {"failed"}
    assert set(run.tries.values()) == {1}
    assert {type(error) for error in run.errors.values()} == {AirflowFailException}
    assert f"{tmp_path}/gone doesn't hold job abc" in str(run.errors["gone"])
    assert "OpenAIBatchSubmitOperator" in str(run.errors["not_a_reference"])
    assert not Path(tmp_path, "gone").exists()
