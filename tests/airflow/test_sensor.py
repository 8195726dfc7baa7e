"""A bare ``batch_id``, made by the plain SDK: waited for by the sensor, landed by the download operator."""

from __future__ import annotations

import pytest
from airflow.sdk import DAG

from airflow_openai_batch.operators.openai_batch import OpenAIBatchDownloadOperator
from airflow_openai_batch.sensors.openai_batch import OpenAIBatchSensor


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_batch_made_elsewhere_is_waited_for_and_landed(run_dag, connection, tmp_path, make_batch, deferrable):
    batch = make_batch(("z/9", "great food"), ("a 1", "[[emulate:status=400]]"), ("\u00fc", "awful food"))
    steps = {"poll_interval": 0.1, "deferrable": deferrable}
    with DAG(f"foreign_{deferrable}", schedule=None, params={"batch": batch.id}) as dag:
        wait = OpenAIBatchSensor(task_id="wait", batch_id="{{ params.batch }}", **steps)
        OpenAIBatchDownloadOperator(
            task_id="download",
            batch_id="{{ ti.xcom_pull('wait')['batch_id'] }}",
            destination=f"{tmp_path}/{{{{ params.batch }}}}",
            max_failed_ratio=0.5,
            **steps,
        ).set_upstream(wait)
    run = run_dag(dag)
    assert run.state == "success"
    record = run.xcoms["wait"]
    assert record.keys() == {"batch_id", "status", "output_file_id", "error_file_id", "conn_id"}
    assert (record["batch_id"], record["status"]) == (batch.id, "completed")
    lines = run.results("download")
    assert [(line["custom_id"], line["status"]) for line in lines] == [
        ("z/9", "succeeded"),
        ("a 1", "failed"),
        ("\u00fc", "succeeded"),
    ]
    assert lines[1]["error"]
    assert [line["output"] for line in lines] == ["great food", None, "awful food"]


def test_the_download_waits_by_itself_and_leaves_the_files_of_others_alone(
    run_dag, connection, emulator, tmp_path, make_batch
):
    batch = make_batch()
    with DAG("foreign_alone", schedule=None) as dag:
        OpenAIBatchDownloadOperator(
            task_id="download", batch_id=batch.id, destination=f"{tmp_path}/out", poll_interval=0.1
        )
    run = run_dag(dag)
    assert run.outputs("download") == ["great food"]
    assert batch.input_file_id in {file["id"] for file in emulator.ledger.files}


def test_rows_are_landed_though_the_input_file_is_gone(run_dag, connection, client, tmp_path, make_batch, ended):
    batch = ended(make_batch(("b", "great food"), ("a", "awful food")))
    client.delete_file(batch.input_file_id)
    with DAG("foreign_no_input", schedule=None) as dag:
        OpenAIBatchDownloadOperator(task_id="download", batch_id=batch.id, destination=f"{tmp_path}/out")
    run = run_dag(dag)
    answers = {line["custom_id"]: line["output"] for line in run.results("download")}
    assert answers == {"b": "great food", "a": "awful food"}


def test_batches_that_leave_nothing_to_land_fail_at_once_with_the_reason(
    run_dag, connection, client, emulator, tmp_path, make_batch, ended
):
    emulator.add_fault("fail,code=bad_line,message=Line 1 is odd.")
    failed = ended(make_batch())
    good = ended(make_batch())
    with DAG("foreign_failed", schedule=None, default_args={"retries": 3}) as dag:
        OpenAIBatchSensor(task_id="wait", batch_id=failed.id)
        OpenAIBatchSensor(task_id="unknown", batch_id="batch_unknown")
        first = OpenAIBatchDownloadOperator(task_id="first", batch_id=good.id, destination=f"{tmp_path}/out")
        second = OpenAIBatchDownloadOperator(task_id="second", batch_id=failed.id, destination=f"{tmp_path}/out")
        first >> second
    run = run_dag(dag)
    assert set(run.tries.values()) == {1}
    assert run.states == {"wait": "failed", "unknown": "failed", "first": "success", "second": "failed"}
    assert "bad_line: Line 1 is odd." in str(run.errors["wait"])
    assert "'openai_default'" in str(run.errors["unknown"])
    assert f"isn't batch {failed.id}'s" in str(run.errors["second"])


def test_an_expired_batch_is_no_failure_for_the_sensor_since_it_has_rows_to_land(
    run_dag, connection, emulator, tmp_path, make_batch, ended
):
    emulator.add_fault("expire,after_rows=1")
    batch = ended(make_batch(("a", "great food"), ("b", "awful food")))
    with DAG("foreign_expired", schedule=None) as dag:
        wait = OpenAIBatchSensor(task_id="wait", batch_id=batch.id)
        OpenAIBatchDownloadOperator(
            task_id="download", batch_id=batch.id, destination=f"{tmp_path}/out", max_failed_ratio=1
        ).set_upstream(wait)
    run = run_dag(dag)
    assert run.xcoms["wait"]["status"] == "expired"
    assert [line["status"] for line in run.results("download")] == ["succeeded", "expired"]
