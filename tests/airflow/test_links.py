"""The links on a task: to the batch in OpenAI's dashboard, and to the results."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from airflow.sdk import DAG
from airflow.sdk.bases.operator import BaseOperator

from airflow_openai_batch.links.openai_batch import OpenAIBatchLink, ResultsLink, results_url
from airflow_openai_batch.operators import base
from airflow_openai_batch.operators.openai_batch import (
    OpenAIBatchDownloadOperator,
    OpenAIBatchOperator,
    OpenAIBatchSubmitOperator,
)
from airflow_openai_batch.sensors.openai_batch import OpenAIBatchSensor
from airflow_openai_batch.triggers.openai_batch import OpenAIBatchTrigger

ROW = {"source": ["great food"], "model": "gpt-5-mini"}


@pytest.fixture
def as_if_openai(monkeypatch):
    """Take the emulator for OpenAI: the link is left empty elsewhere, since the dashboard doesn't know its batches."""
    monkeypatch.setattr(
        base.JobOperator, "base_url", property(lambda _self: None, lambda _self, _value: None), raising=False
    )


def stored(monkeypatch):
    """Note the links that are in the database each time a trigger begins to wait."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    seen = []
    run = OpenAIBatchTrigger.run

    async def noting(self):
        with create_session() as session:
            found = session.scalars(select(XComModel).where(XComModel.key.startswith("_link_openai_batch"))).all()
            seen.append({(x.dag_id, x.task_id, x.key): x.value for x in found})
        async for event in run(self):
            yield event

    monkeypatch.setattr(OpenAIBatchTrigger, "run", noting)
    return seen


def test_both_are_there_while_the_task_waits_and_after(run_dag, connection, as_if_openai, tmp_path, monkeypatch):
    waiting = stored(monkeypatch)
    with DAG("linked", schedule=None) as dag:
        OpenAIBatchOperator(task_id="whole", destination=f"{tmp_path}/whole", poll_interval=0.1, deferrable=True, **ROW)
    run = run_dag(dag)
    (batch,) = run.xcoms["whole"]["batches"]
    links = {"batch": f"https://platform.openai.com/batches/{batch}", "results": f"file://{tmp_path}/whole"}
    assert run.links["whole"] == links
    in_between = {key: value for (dag_id, _, key), value in waiting[0].items() if dag_id == "linked"}
    assert batch in str(in_between["_link_openai_batch"])
    assert f"file://{tmp_path}/whole" in str(in_between["_link_openai_batch_results"])


def test_every_step_has_them(run_dag, connection, as_if_openai, tmp_path, make_batch):
    foreign = make_batch()
    steps = {"poll_interval": 0.1, "deferrable": False}
    with DAG("linked_steps", schedule=None) as dag:
        submit = OpenAIBatchSubmitOperator(task_id="submit", destination=f"{tmp_path}/steps", **ROW)
        wait = OpenAIBatchSensor(task_id="wait", job=submit.output, **steps)
        OpenAIBatchDownloadOperator(task_id="download", job=submit.output, **steps).set_upstream(wait)
        OpenAIBatchSensor(task_id="foreign", batch_id=foreign.id, **steps)
    run = run_dag(dag)
    (batch,) = run.xcoms["submit"]["batches"]
    expected = {"batch": f"https://platform.openai.com/batches/{batch}", "results": f"file://{tmp_path}/steps"}
    assert [run.links[name] for name in ("submit", "wait", "download")] == [expected] * 3
    assert run.links["foreign"]["batch"].endswith(foreign.id)


def test_no_link_leads_to_openai_for_batches_of_another_server(run_dag, connection, tmp_path, make_batch):
    foreign = make_batch()
    with DAG("linked_elsewhere", schedule=None) as dag:
        OpenAIBatchOperator(task_id="whole", destination=f"{tmp_path}/whole", poll_interval=0.1, **ROW)
        OpenAIBatchSensor(task_id="foreign", batch_id=foreign.id, poll_interval=0.1)
    run = run_dag(dag)
    assert not run.links["whole"]["batch"]
    assert not run.links["foreign"]["batch"]
    assert run.links["whole"]["results"]


@pytest.mark.parametrize(
    ("batches", "base_url", "url"),
    [
        (("batch_1",), None, "https://platform.openai.com/batches/batch_1"),
        (("batch_1",), "https://eu.api.openai.com/v1", "https://platform.openai.com/batches/batch_1"),
        (("batch_1", "batch_2"), None, "https://platform.openai.com/batches"),
        ((), None, ""),
        (("batch_1",), "https://gateway.example/v1", ""),
    ],
)
def test_the_dashboard_shows_one_batch_or_all(batches, base_url, url):
    operator = SimpleNamespace(watched_batches=batches, base_url=base_url)
    assert OpenAIBatchLink().get_link(operator, ti_key=None) == url


@pytest.mark.parametrize(
    ("destination", "url"),
    [
        ("s3://lake@bucket/labels/a b", "https://s3.console.aws.amazon.com/s3/buckets/bucket?prefix=labels/a%20b/"),
        ("gs://bucket/labels", "https://console.cloud.google.com/storage/browser/bucket/labels"),
        ("file:///data/labels", "file:///data/labels"),
        ("/data/a b", "file:///data/a%20b"),
    ],
)
def test_results_are_shown_where_they_are(destination, url):
    assert results_url(destination) == url


def test_without_a_destination_there_is_no_link():
    assert ResultsLink().get_link(BaseOperator(task_id="other"), ti_key=None) == ""
