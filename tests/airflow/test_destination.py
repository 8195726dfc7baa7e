"""``[openai_batch] results_root``: destinations that are relative lie below it, wherever one is taken."""

from __future__ import annotations

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import DAG, task

from airflow_openai_batch import read_results
from airflow_openai_batch.exceptions import ConfigurationError
from airflow_openai_batch.operators.destination import below_root
from airflow_openai_batch.operators.openai_batch import (
    OpenAIBatchDownloadOperator,
    OpenAIBatchOperator,
    OpenAIBatchSubmitOperator,
)
from airflow_openai_batch.sensors.openai_batch import OpenAIBatchSensor

ROWS = [{"text": "great food"}]
ROW = {"prompt": "Is this positive or negative? {{ row.text }}", "model": "gpt-5-mini"}


@pytest.fixture
def root(monkeypatch, tmp_path):
    """A folder that is the ``results_root``."""
    monkeypatch.setenv("AIRFLOW__OPENAI_BATCH__RESULTS_ROOT", f"{tmp_path}/below/")
    return f"{tmp_path}/below"


@pytest.mark.parametrize(
    ("destination", "meant"),
    [
        ("labels/2026", "s3://lake@bucket/batches/labels/2026"),
        ("s3://other/labels", "s3://other/labels"),
        ("/labels", "/labels"),
        ("~/labels", "/home/me/labels"),
        ("~nobody-there/labels", "s3://lake@bucket/batches/~nobody-there/labels"),
        ("s3://bucket/~/labels", "s3://bucket/~/labels"),
        ("", ""),
    ],
)
def test_only_relative_destinations_lie_below_the_root(monkeypatch, destination, meant):
    monkeypatch.setenv("AIRFLOW__OPENAI_BATCH__RESULTS_ROOT", "s3://lake@bucket/batches")
    monkeypatch.setenv("HOME", "/home/me")
    assert below_root(destination) == meant


@pytest.mark.parametrize("root", [None, "", "  "])
def test_without_a_root_they_are_as_they_were_given(monkeypatch, root):
    if root is not None:
        monkeypatch.setenv("AIRFLOW__OPENAI_BATCH__RESULTS_ROOT", root)
    assert below_root("labels/2026") == "labels/2026"


def test_a_root_must_be_whole_itself(monkeypatch):
    monkeypatch.setenv("AIRFLOW__OPENAI_BATCH__RESULTS_ROOT", "batches")
    with pytest.raises(ConfigurationError, match=r"\[openai_batch\] results_root: a URL or an absolute path"):
        below_root("labels")


def test_a_root_may_lie_in_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("AIRFLOW__OPENAI_BATCH__RESULTS_ROOT", "~/batches")
    assert below_root("labels") == "/home/me/batches/labels"


def test_source_destination_cache_and_images_may_lie_in_the_home_folder(run_dag, connection, tmp_path, monkeypatch):
    home = tmp_path / "home"
    (home / "rows").mkdir(parents=True)
    (home / "rows/a.jsonl").write_text('{"text": "great food", "image": "dot.png"}\n')
    (home / "dot.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with DAG("at_home", schedule=None) as dag:
        OpenAIBatchOperator(
            task_id="whole",
            source="~/rows/*.jsonl",
            destination="~/labels",
            cache="~/cache",
            image_columns="image",
            image_root="~",
            poll_interval=0.2,
            **ROW,
        )

        @task
        def read():
            return [row["status"] for row in read_results("~/labels")]

        dag.get_task("whole") >> read()
    # Airflow's own folders are found by then.
    monkeypatch.setenv("HOME", str(home))
    run = run_dag(dag)
    assert run.state == "success", run.errors
    assert run.xcoms["whole"]["destination"] == f"{home}/labels"
    assert run.links["whole"]["results"] == f"file://{home}/labels"
    assert run.xcoms["read"] == ["succeeded"]
    assert {path.name for path in home.iterdir()} == {"rows", "dot.png", "labels", "cache"}
    assert list(elsewhere.iterdir()) == []


def test_the_operator_the_decorator_their_links_and_read_results_take_it(run_dag, connection, root, monkeypatch):
    with DAG("below_root", schedule=None) as dag:
        OpenAIBatchOperator(task_id="whole", source=ROWS, destination="{{ 'a' }}/b", poll_interval=0.2, **ROW)

        @task.openai_batch(destination="decorated", poll_interval=0.2, **ROW)
        def label():
            return ROWS

        @task
        def read(manifest):
            return [row["output"] for row in read_results("decorated")] + [r["output"] for r in read_results(manifest)]

        read(label())
    run = run_dag(dag)
    assert run.state == "success"
    assert run.xcoms["whole"]["destination"] == f"{root}/a/b"
    assert run.links["whole"]["results"] == f"file://{root}/a/b"
    assert run.outputs("label") == ["positive"]
    assert run.xcoms["read"] == ["positive", "positive"]


def test_steps_pass_the_whole_address_on(run_dag, connection, root):
    with DAG("steps_below_root", schedule=None) as dag:
        submit = OpenAIBatchSubmitOperator(task_id="submit", source=ROWS, destination="steps", **ROW)
        wait = OpenAIBatchSensor(task_id="wait", job=submit.output, poll_interval=0.1)
        OpenAIBatchDownloadOperator(task_id="download", job=wait.output, poll_interval=0.1)
    run = run_dag(dag)
    assert run.xcoms["submit"]["destination"] == f"{root}/steps"
    assert run.xcoms["download"]["destination"] == f"{root}/steps"
    assert {run.links[step]["results"] for step in run.links} == {f"file://{root}/steps"}


def test_a_batch_made_elsewhere_is_landed_below_it(run_dag, connection, root, make_batch):
    batch = make_batch(("a", "great food"))
    with DAG("foreign_below_root", schedule=None) as dag:
        OpenAIBatchDownloadOperator(task_id="land", batch_id=batch.id, destination="foreign", poll_interval=0.1)
    run = run_dag(dag)
    assert run.xcoms["land"]["destination"] == f"{root}/foreign"
    assert run.links["land"]["results"] == f"file://{root}/foreign"


def test_a_root_that_cannot_be_right_fails_the_task_at_once(run_dag, connection, monkeypatch):
    monkeypatch.setenv("AIRFLOW__OPENAI_BATCH__RESULTS_ROOT", "batches")
    with DAG("bad_root", schedule=None, default_args={"retries": 3}) as dag:
        OpenAIBatchOperator(task_id="whole", source=ROWS, destination="a", **ROW)
    run = run_dag(dag)
    assert (run.states["whole"], run.tries["whole"]) == ("failed", 1)
    assert isinstance(run.errors["whole"], AirflowFailException)
    assert "results_root" in str(run.errors["whole"])
