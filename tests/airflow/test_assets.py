"""Assets as outlets: their events tell what came of the job, so that a DAG that is scheduled on them needn't look."""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.sdk import DAG, Asset, task

import airflow_openai_batch
from airflow_openai_batch.operators.openai_batch import (
    OpenAIBatchDownloadOperator,
    OpenAIBatchOperator,
    OpenAIBatchSubmitOperator,
)
from tests.airflow_versions import DagBag

ROWS = [{"text": "great food"}, {"text": "awful food"}]
ROW = {"prompt": "Is this positive or negative? {{ row.text }}", "model": "gpt-5-mini"}
FIGURES = {"job", "destination", "results", "format", "rows", "usage", "endpoint", "started_at", "finished_at"}


@pytest.fixture
def events_of(airflow_db):
    """Read the extras of an asset's events from Airflow's database, oldest first."""
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    def events_of(asset):
        with create_session() as session:
            of_asset = AssetEvent.asset_id == AssetModel.id
            found = select(AssetEvent.extra).join(AssetModel, of_asset).where(AssetModel.name == asset.name)
            return list(session.scalars(found.order_by(AssetEvent.id)))

    return events_of


@pytest.mark.parametrize("deferrable", [True, False])
def test_the_event_of_an_outlet_has_the_figures_of_the_manifest(run_dag, connection, tmp_path, events_of, deferrable):
    labels = Asset(name=f"labels_{deferrable}", uri=f"file://{tmp_path}/labels", extra={"team": "reviews"})
    with DAG(f"with_outlet_{deferrable}", schedule=None) as dag:
        label = OpenAIBatchOperator(
            task_id="label",
            source=ROWS,
            destination=f"{tmp_path}/out",
            outlets=[labels],
            poll_interval=0.2,
            deferrable=deferrable,
            **ROW,
        )

        @task(inlets=[labels])
        def read(inlet_events):
            return inlet_events[labels][-1].extra

        label >> read()
    run = run_dag(dag)
    (extra,) = events_of(labels)
    manifest = run.xcoms["label"]
    assert extra == {name: manifest[name] for name in FIGURES | ({"cost"} & manifest.keys())}
    assert (extra["rows"]["total"], extra["rows"]["succeeded"]) == (2, 2)
    assert extra["usage"]["total_tokens"] > 0
    # What a task downstream finds there is the same.
    assert run.xcoms["read"] == extra


def test_the_step_that_lands_tells_the_figures_and_the_one_that_submits_has_none(
    run_dag, connection, tmp_path, events_of
):
    sent, labels = Asset("sent_reviews"), Asset("labelled_reviews")
    with DAG("steps_with_outlets", schedule=None) as dag:
        submit = OpenAIBatchSubmitOperator(
            task_id="submit", source=ROWS, destination=f"{tmp_path}/out", outlets=[sent], **ROW
        )
        OpenAIBatchDownloadOperator(task_id="download", job=submit.output, poll_interval=0.2, outlets=[labels])
    run = run_dag(dag)
    assert events_of(sent) == [{}]
    (extra,) = events_of(labels)
    assert extra["job"] == run.xcoms["submit"]["job"]
    assert extra["destination"] == f"{tmp_path}/out"


def test_the_decorators_task_and_a_cleared_job_tell_them_too(run_dag, connection, tmp_path, events_of):
    labels = Asset("labels_by_decorator")
    for number in (0, 1):
        with DAG(f"decorated_outlet_{number}", schedule=None) as dag:

            @task.openai_batch(destination=f"{tmp_path}/out", outlets=[labels], poll_interval=0.2, **ROW)
            def label():
                return ROWS

            label()
        assert run_dag(dag).state == "success"
    first, second = events_of(labels)
    assert first == second
    assert first["rows"]["succeeded"] == 2


def test_a_job_that_failed_makes_no_event(run_dag, connection, tmp_path, events_of):
    labels = Asset("labels_that_failed")
    with DAG("failing_outlet", schedule=None) as dag:
        OpenAIBatchOperator(
            task_id="label",
            source=[{"text": "[[emulate:status=400]]"}],
            destination=f"{tmp_path}/out",
            outlets=[labels],
            poll_interval=0.2,
            **ROW,
        )
    assert run_dag(dag).state == "failed"
    assert events_of(labels) == []


def test_what_a_hook_of_the_dag_put_there_stays(run_dag, connection, tmp_path, events_of):
    labels = Asset("labels_with_a_note")

    def note(context):
        context["outlet_events"][labels].extra["note"] = "by hand"

    with DAG("noted_outlet", schedule=None) as dag:
        OpenAIBatchOperator(
            task_id="label",
            source=ROWS,
            destination=f"{tmp_path}/out",
            outlets=[labels, Asset("another_one")],
            deferrable=False,
            poll_interval=0.2,
            pre_execute=note,
            **ROW,
        )
    assert run_dag(dag).state == "success"
    (extra,) = events_of(labels)
    assert (extra["note"], extra["rows"]["total"]) == ("by hand", 2)
    (other,) = events_of(Asset("another_one"))
    assert set(other) >= FIGURES


def test_the_example_of_the_docs_is_scheduled_on_the_asset_and_reads_the_results(
    run_dag, register, connection, tmp_path, events_of, capsys, monkeypatch
):
    from airflow.models.asset import AssetDagRunQueue
    from airflow.utils.session import create_session
    from sqlalchemy import select

    page = Path(airflow_openai_batch.__file__).parents[1] / "docs" / "production.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text().partition("## Assets")[2], re.DOTALL)
    monkeypatch.setenv("AIRFLOW__OPENAI_BATCH__POLL_INTERVAL", "0.2")
    folder = tmp_path / "dags"
    folder.mkdir()
    # Here, and without the minutes that a retry waits.
    code = code.replace("s3://my-bucket", str(tmp_path)).replace('"retries": 2', '"retries": 0')
    (folder / "example.py").write_text(code)
    dags = DagBag(dag_folder=str(folder)).dags
    label, use = dags["label_reviews"], dags["use_labels"]
    use.is_paused_upon_creation = False
    register(use)

    today = datetime(2026, 1, 2, tzinfo=timezone.utc)
    source = tmp_path / "reviews" / "2026-01-02" / "a.jsonl"
    source.parent.mkdir(parents=True)
    source.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert run_dag(label, logical_date=today, run_after=today).state == "success"

    with create_session() as session:
        assert "use_labels" in session.scalars(select(AssetDagRunQueue.target_dag_id)).all()
    (extra,) = events_of(Asset("review_labels"))
    capsys.readouterr()
    use.task_dict["count"].python_callable({Asset("review_labels"): [SimpleNamespace(extra=extra)]})
    assert capsys.readouterr().out.splitlines() == ["2 of 2", "r0 positive", "r1 negative"]
