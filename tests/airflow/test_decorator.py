"""``@task.openai_batch``: the function gives the rows, the task gives the manifest."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Literal

import pytest
from airflow.sdk import DAG, task
from pydantic import BaseModel

QUICK = {"model": "gpt-5-mini", "poll_interval": 0.2}
PROMPT = "Is this positive or negative? {{ row.text }}"


class Verdict(BaseModel):
    label: Literal["positive", "negative"]


@pytest.mark.parametrize("deferrable", [True, False])
def test_the_function_returns_or_yields_rows_or_a_path(run_dag, connection, tmp_path, deferrable):
    with DAG(f"decorated_{deferrable}", schedule=None) as dag:

        @task
        def words():
            return ["great", "awful"]

        @task.openai_batch(destination=f"{tmp_path}/prompts", deferrable=deferrable, **QUICK)
        def prompts(adjectives, *, noun, ds=None):
            assert ds
            return [f"Positive or negative? {adjective} {noun}" for adjective in adjectives]

        @task.openai_batch(destination=f"{tmp_path}/rows", prompt=PROMPT, deferrable=deferrable, **QUICK)
        def rows():
            yield {"text": "great food"}
            yield {"text": "awful food"}

        @task.openai_batch(destination=f"{tmp_path}/path", prompt=PROMPT, deferrable=deferrable, **QUICK)
        def path(run_id=None):
            assert run_id
            file = tmp_path / "rows.jsonl"
            file.write_text('{"text": "great food"}\n{"text": "awful food"}')
            return str(file)

        @task.openai_batch(destination=f"{tmp_path}/requests", deferrable=deferrable, **QUICK)
        def requests():
            for custom_id, text in (("x", "great food"), ("y", "awful food")):
                body = {"messages": [{"role": "user", "content": f"Positive or negative? {text}"}]}
                yield {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}

        prompts(words(), noun="food")
        rows()
        path()
        requests()
    run = run_dag(dag)
    assert run.state == "success"
    for name in ("prompts", "rows", "path", "requests"):
        assert run.outputs(name) == ["positive", "negative"]
    assert [line["custom_id"] for line in run.results("requests")] == ["x", "y"]


def test_a_pydantic_class_makes_the_answers_structured(run_dag, connection, tmp_path):
    with DAG("structured", schedule=None) as dag:

        @task.openai_batch(destination=f"{tmp_path}/out", prompt=PROMPT, response_format=Verdict, **QUICK)
        def label():
            return [{"text": "great food"}, {"text": "awful food"}]

        label()
    run = run_dag(dag)
    assert run.outputs("label") == [{"label": "positive"}, {"label": "negative"}]


def test_the_function_is_called_once_whatever_follows(run_dag, connection, tmp_path):
    calls = []
    with DAG("called_once", schedule=None) as dag:

        @task.openai_batch(destination=f"{tmp_path}/out", prompt=PROMPT, deferrable=True, **QUICK)
        def label():
            calls.append(1)
            yield {"text": "great food"}
            yield {"text": f"awful [[emulate:status=500,once]] {tmp_path}"}

        label()
    this_run = dict.fromkeys(("logical_date", "run_after"), datetime(2026, 1, 2, tzinfo=timezone.utc))
    first = run_dag(dag, **this_run)
    assert first.xcoms["label"]["rounds"] == 2
    assert run_dag(dag, **this_run).xcoms == first.xcoms
    assert len(calls) == 1


def test_it_can_be_mapped(run_dag, connection, tmp_path):
    with DAG("decorated_mapped", schedule=None) as dag:

        @task.openai_batch(destination=f"{tmp_path}/{{{{ ti.map_index }}}}", prompt=PROMPT, **QUICK)
        def label(text):
            return [{"text": text}]

        label.expand(text=["great food", "awful food"])
    run = run_dag(dag)
    assert [run.outputs(f"label[{i}]") for i in (0, 1)] == [["positive"], ["negative"]]


def test_what_isnt_rows_fails_the_task_at_once(run_dag, connection, tmp_path):
    with DAG("decorated_bad", schedule=None, default_args={"retries": 3}) as dag:

        @task.openai_batch(destination=f"{tmp_path}/nothing", **QUICK)
        def nothing():
            return None

        @task.openai_batch(destination=f"{tmp_path}/mapping", **QUICK)
        def mapping():
            return {"text": "one row alone"}

        @task.openai_batch(destination=f"{tmp_path}/missing", **QUICK)
        def missing():
            return f"{tmp_path}/missing.jsonl"

        nothing()
        mapping()
        missing()
    run = run_dag(dag)
    assert set(run.states.values()) == {"failed"}
    assert set(run.tries.values()) == {1}
    assert "a list or iterable of rows is needed, not null" in str(run.errors["nothing"])
    assert "not dict" in str(run.errors["mapping"])
    assert "missing.jsonl: no such file" in str(run.errors["missing"])


def test_the_manifest_is_one_xcom_small_and_plain(run_dag, connection, tmp_path):
    with DAG("one_xcom", schedule=None) as dag:

        @task.openai_batch(destination=f"{tmp_path}/out", **QUICK)
        def label() -> dict:
            return [f"great number {number}" for number in range(200)]

        @task
        def read(manifest):
            return manifest["rows"]["total"]

        read(label())
    run = run_dag(dag)
    assert run.xcoms["read"] == 200
    assert len(json.dumps(run.xcoms["label"])) < 5_000
