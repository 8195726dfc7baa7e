"""``OpenAIBatchOperator`` in a real DAG run: ``dag.test()`` with the trigger running in process."""

from __future__ import annotations

import copy
import json
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred
from airflow.sdk import DAG, Param, task

from airflow_openai_batch.engine import runner
from airflow_openai_batch.exceptions import JobHaltedError
from airflow_openai_batch.operators.base import LEEWAY, JobOperator
from airflow_openai_batch.operators.openai_batch import OpenAIBatchOperator

PROMPT = "Is this positive or negative? {{ row.text }}"
ROWS = [{"text": "great food"}, {"text": "awful food"}]
QUICK = {"prompt": PROMPT, "model": "gpt-5-mini", "poll_interval": 0.2}


def batches_since(emulator, number):
    return emulator.ledger.batches[number:]


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_dataset_becomes_results_whether_the_task_defers_or_not(run_dag, connection, tmp_path, deferrable):
    with DAG(f"whole_{deferrable}", schedule=None) as dag:
        OpenAIBatchOperator(
            task_id="label", source=ROWS, destination=str(tmp_path / "out"), deferrable=deferrable, **QUICK
        )
    run = run_dag(dag)
    assert run.state == "success"
    assert run.xcoms["label"]["rows"]["succeeded"] == 2
    assert run.outputs("label") == ["positive", "negative"]
    assert [line["input"] for line in run.results("label")] == ROWS


def test_source_destination_model_and_metadata_are_templated(run_dag, connection, emulator, tmp_path):
    Path(tmp_path, "a.jsonl").write_text(json.dumps(ROWS[0]))
    Path(tmp_path, "b.jsonl").write_text(json.dumps(ROWS[1]) + "\n\n")
    before = len(emulator.ledger.batches)
    with DAG("templated", schedule=None, params={"folder": Param(str(tmp_path)), "model": "gpt-4.1"}) as dag:
        OpenAIBatchOperator(
            task_id="label",
            source="{{ params.folder }}/*.jsonl",
            destination="{{ params.folder }}/{{ ds }}",
            prompt=PROMPT,
            model="{{ params.model }}",
            endpoint="/v1/{{ 'chat' }}/completions",
            conn_id="openai_{{ 'default' }}",
            metadata={"dag": "{{ dag.dag_id }}", "rows": 2},
            poll_interval="{{ 0.2 }}",
        )
    run = run_dag(dag, logical_date=datetime(2026, 1, 2, tzinfo=timezone.utc))
    assert run.xcoms["label"]["destination"] == f"{tmp_path}/2026-01-02"
    assert run.outputs("label") == ["positive", "negative"]
    (batch,) = batches_since(emulator, before)
    assert batch["model"].startswith("gpt-4.1")
    assert (batch["metadata"]["dag"], batch["metadata"]["rows"]) == ("templated", "2")


def test_metadata_and_the_folder_of_images_may_come_from_an_upstream_task(run_dag, connection, emulator, tmp_path):
    Path(tmp_path, "dot.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    before = len(emulator.ledger.batches)
    given = {"source": [{"text": "great food", "image": "dot.png"}], "image_columns": "image", **QUICK}
    with DAG("more_by_xcom", schedule=None) as dag:

        @task
        def pairs():
            return {"team": "lake"}

        @task
        def folder():
            return str(tmp_path)

        OpenAIBatchOperator(
            task_id="label", metadata=pairs(), image_root=folder(), destination=f"{tmp_path}/out", **given
        )
    run = run_dag(dag)
    assert run.state == "success", run.errors
    (batch,) = batches_since(emulator, before)
    assert batch["metadata"]["team"] == "lake"


def test_metadata_may_be_one_native_template_or_nothing_in_the_end(run_dag, connection, emulator, tmp_path):
    before = len(emulator.ledger.batches)
    with DAG(
        "native", schedule=None, render_template_as_native_obj=True, params={"pairs": {"team": "lake"}, "none": None}
    ) as dag:
        for name in ("pairs", "none"):
            OpenAIBatchOperator(
                task_id=name,
                source=ROWS,
                metadata=f"{{{{ params.{name} }}}}",
                destination=f"{tmp_path}/{name}",
                **QUICK,
            )
    run = run_dag(dag)
    assert run.state == "success", run.errors
    assert sorted(str(batch["metadata"].get("team")) for batch in batches_since(emulator, before)) == ["None", "lake"]


def test_rows_come_from_an_upstream_task_and_the_manifest_goes_to_the_next(run_dag, connection, tmp_path):
    with DAG("by_xcom", schedule=None) as dag:

        @task
        def rows():
            # What looks like Airflow's template in somebody's data is data.
            return [*ROWS, {"text": "great {{ undefined.name }}"}]

        @task
        def path():
            file = tmp_path / "rows.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
            return str(file)

        @task
        def count(manifest):
            return manifest["rows"]["total"]

        of_rows = OpenAIBatchOperator(task_id="rows_given", source=rows(), destination=f"{tmp_path}/1", **QUICK)
        OpenAIBatchOperator(task_id="path_given", source=path(), destination=f"{tmp_path}/2", **QUICK)
        count(of_rows.output)
    run = run_dag(dag)
    assert run.state == "success"
    assert run.outputs("rows_given") == ["positive", "negative", "positive"]
    assert run.results("rows_given")[2]["input"] == {"text": "great {{ undefined.name }}"}
    assert run.outputs("path_given") == ["positive", "negative"]
    assert run.xcoms["count"] == 3


def test_it_can_be_mapped_with_a_destination_for_each(run_dag, connection, tmp_path):
    with DAG("mapped", schedule=None) as dag:
        partial = OpenAIBatchOperator.partial(task_id="pairs", **QUICK)
        partial.expand_kwargs([{"source": [row], "destination": f"{tmp_path}/{i}"} for i, row in enumerate(ROWS)])
        partial = OpenAIBatchOperator.partial(
            task_id="by_index", destination=f"{tmp_path}/of-{{{{ ti.map_index }}}}", **QUICK
        )
        partial.expand(source=[[row] for row in ROWS])
    run = run_dag(dag)
    assert run.state == "success"
    assert [run.outputs(f"pairs[{i}]") for i in (0, 1)] == [["positive"], ["negative"]]
    assert [run.outputs(f"by_index[{i}]") for i in (0, 1)] == [["positive"], ["negative"]]


def test_too_many_failed_rows_fail_the_task_at_once_with_all_results_landed(run_dag, connection, tmp_path):
    rows = [*ROWS, {"text": "[[emulate:status=400]]"}]
    with DAG("failing_rows", schedule=None, default_args={"retries": 3}) as dag:
        OpenAIBatchOperator(task_id="strict", source=rows, destination=f"{tmp_path}/1", **QUICK)
        OpenAIBatchOperator(task_id="lenient", source=rows, destination=f"{tmp_path}/2", max_failed_ratio=0.5, **QUICK)
    run = run_dag(dag)
    assert (run.states["strict"], run.tries["strict"]) == ("failed", 1)
    error = run.errors["strict"]
    assert isinstance(error, AirflowFailException)
    assert "1 of 3 rows (33.3%)" in str(error)
    assert f"{tmp_path}/1/results" in str(error)
    assert len(Path(tmp_path, "1/results/part-00000.jsonl").read_text().splitlines()) == 3
    assert run.states["lenient"] == "success"
    assert [line["status"] for line in run.results("lenient")] == ["succeeded", "succeeded", "failed"]


def test_rows_that_fail_in_passing_go_again_in_the_same_try(run_dag, connection, tmp_path, emulator, monkeypatch):
    woken = []
    resume = JobOperator.execute_complete

    def execute_complete(self, context, event=None):
        woken.append(event)
        return resume(self, context, event)

    monkeypatch.setattr(JobOperator, "execute_complete", execute_complete)
    before, billed = len(emulator.ledger.batches), emulator.ledger.rows_billed
    rows = [*ROWS, {"text": f"great [[emulate:status=500,once]] {tmp_path}"}]
    with DAG("rounds", schedule=None) as dag:
        OpenAIBatchOperator(task_id="label", source=rows, destination=f"{tmp_path}/out", deferrable=True, **QUICK)
    run = run_dag(dag)
    assert (run.state, run.tries["label"]) == ("success", 1)
    assert [event["status"] for event in woken] == ["ended", "ended"]
    assert run.xcoms["label"]["rounds"] == 2
    assert [line["round"] for line in run.results("label")] == [0, 0, 1]
    assert [batch["rows"] for batch in batches_since(emulator, before)] == [3, 1]
    assert emulator.ledger.rows_billed - billed == 3


def test_a_finished_job_that_is_cleared_buys_nothing(run_dag, connection, tmp_path, emulator):
    with DAG("cleared", schedule=None) as dag:
        OpenAIBatchOperator(task_id="label", source=ROWS, destination=f"{tmp_path}/out", **QUICK)
    this_run = dict.fromkeys(("logical_date", "run_after"), datetime(2026, 1, 2, tzinfo=timezone.utc))
    first = run_dag(dag, **this_run)
    calls = emulator.ledger.calls
    second = run_dag(dag, **this_run)
    assert second.state == "success"
    assert second.xcoms == first.xcoms
    assert emulator.ledger.calls == calls


def test_after_a_deferral_a_new_worker_needs_the_event_alone(connection, tmp_path, client):
    operator = OpenAIBatchOperator(
        task_id="label", source=ROWS, destination=f"{tmp_path}/out", deferrable=True, **QUICK
    )
    ti = SimpleNamespace(dag_id="d", task_id="label", run_id="r", map_index=-1)
    another = copy.deepcopy(operator)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute({"ti": ti})
    (batch_id,) = deferred.value.trigger.batch_ids
    assert deferred.value.method_name == "execute_complete"
    assert deferred.value.kwargs is None
    while not client.retrieve_batch(batch_id).ended:
        pass
    manifest = another.execute_complete({"ti": ti}, event={"status": "ended", "batches": {batch_id: "completed"}})
    assert manifest["rows"]["succeeded"] == 2
    # The links of this last segment are stored over those of the first.
    assert another.watched_batches == (batch_id,)


@pytest.mark.parametrize(("timeout", "patience"), [(None, None), (3600, timedelta(seconds=3600 + LEEWAY))])
def test_while_no_triggerer_is_up_only_the_jobs_own_timeout_ends_the_wait(
    connect, slow_emulator, tmp_path, monkeypatch, timeout, patience
):
    connect(slow_emulator)
    soon, advance = time.time() + 30, runner.advance
    monkeypatch.setattr(runner, "advance", lambda *args, **given: replace(advance(*args, **given), until=soon))
    operator = OpenAIBatchOperator(
        task_id="label", source=ROWS, destination=f"{tmp_path}/out", timeout=timeout, deferrable=True, **QUICK
    )
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute({"ti": SimpleNamespace(dag_id="d", task_id="label", run_id="r", map_index=-1)})
    assert deferred.value.trigger.until == soon
    assert deferred.value.timeout == patience


def test_a_timeout_fails_the_task_once_and_names_what_still_runs(run_dag, connect, slow_emulator, tmp_path):
    connect(slow_emulator)
    with DAG("timed_out", schedule=None, default_args={"retries": 3}) as dag:
        for name, deferrable in (("deferred", True), ("held", False)):
            OpenAIBatchOperator(
                task_id=name, source=ROWS, destination=f"{tmp_path}/{name}", timeout=0.5, deferrable=deferrable, **QUICK
            )
    run = run_dag(dag)
    assert run.tries == {"deferred": 1, "held": 1}
    running = {batch["id"] for batch in slow_emulator.ledger.batches[-2:]}
    said = [str(error) for error in run.errors.values()]
    assert all("isn't done" in text for text in said)
    assert {batch for batch in running for text in said if batch in text} == running


@pytest.mark.parametrize(
    ("cancel_on_kill", "over", "cancelled"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_a_kill_cancels_the_batches_only_when_the_task_is_over(
    connect, slow_emulator, tmp_path, monkeypatch, cancel_on_kill, over, cancelled
):
    connect(slow_emulator)
    monkeypatch.setattr("airflow_openai_batch.triggers.kill.is_over", lambda _ti: over)
    operator = OpenAIBatchOperator(
        task_id="label",
        source=ROWS,
        destination=f"{tmp_path}/out",
        deferrable=False,
        cancel_on_kill=cancel_on_kill,
        **QUICK,
    )

    class KilledError(Exception):
        pass

    def killed(_seconds):
        # As the signal handler does, in the middle of the wait.
        operator.on_kill()
        raise KilledError

    monkeypatch.setattr("airflow_openai_batch.operators.base.time.sleep", killed)
    with pytest.raises(KilledError):
        operator.execute({"ti": SimpleNamespace(dag_id="d", task_id="label", run_id="r", map_index=-1)})
    (batch_id,) = operator.watched_batches
    states = {batch["id"]: batch["status"] for batch in slow_emulator.ledger.batches}
    assert states[batch_id].startswith("cancel") is cancelled


def test_a_task_that_is_ended_while_it_submits_buys_nothing_more_and_cancels_what_was_on_its_way(
    connect, slow_emulator, tmp_path, monkeypatch
):
    from airflow_openai_batch.client.synchronous import OpenAIBatchClient

    connect(slow_emulator)
    monkeypatch.setattr("airflow_openai_batch.triggers.kill.is_over", lambda _ti: True)
    before = len(slow_emulator.ledger.batches)
    operator = OpenAIBatchOperator(
        task_id="label", source=ROWS * 20, destination=f"{tmp_path}/out", max_batch_requests=1, **QUICK
    )
    create, calls = OpenAIBatchClient.create_batch, []

    def killed(self, **given):
        calls.append(given)
        if len(calls) == 3:
            operator.on_kill()
        return create(self, **given)

    monkeypatch.setattr(OpenAIBatchClient, "create_batch", killed)
    with pytest.raises(JobHaltedError):
        operator.execute({"ti": SimpleNamespace(dag_id="d", task_id="label", run_id="r", map_index=-1)})
    made = slow_emulator.ledger.batches[before:]
    assert 3 <= len(made) <= 3 + 4
    assert {batch["status"] for batch in made} <= {"cancelling", "cancelled"}


def test_a_kill_before_anything_ran_is_no_error(tmp_path):
    OpenAIBatchOperator(task_id="label", source=ROWS, destination=f"{tmp_path}/out", **QUICK).on_kill()


def test_a_connection_that_is_not_defined_is_named_and_not_tried_again(run_dag, tmp_path):
    with DAG("no_connection", schedule=None, default_args={"retries": 2}) as dag:
        OpenAIBatchOperator(
            task_id="label", source=["hi"], model="gpt-5-mini", destination=str(tmp_path / "out"), conn_id="nowhere"
        )
    run = run_dag(dag)
    assert run.states["label"] == "failed"
    assert run.tries["label"] == 1
    assert "'nowhere' isn't defined" in str(run.errors["label"])
