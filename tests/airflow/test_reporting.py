"""Metrics, log lines and the text of a failure: what those see who don't look at the results."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import Stats
from airflow.sdk import DAG

from airflow_openai_batch.emulator.server import running
from airflow_openai_batch.engine.models import Waiting
from airflow_openai_batch.operators.openai_batch import (
    OpenAIBatchDownloadOperator,
    OpenAIBatchOperator,
    OpenAIBatchSubmitOperator,
)
from airflow_openai_batch.operators.reporting import Report, fields
from airflow_openai_batch.sensors.openai_batch import OpenAIBatchSensor

ROWS = [{"text": "great food"}, {"text": "awful food"}]
QUICK = {"prompt": "Is this positive or negative? {{ row.text }}", "model": "gpt-5-mini", "poll_interval": 0.2}


class Metrics:
    """What was sent to Airflow's Stats under our prefix."""

    def __init__(self):
        self.counted = defaultdict(int)
        self.gauges = defaultdict(list)
        self.timings = defaultdict(list)
        self.tags = {}

    def of_task(self, task_id):
        return {name: count for (name, task), count in self.counted.items() if task == task_id}


@pytest.fixture
def metrics(monkeypatch):
    seen = Metrics()
    real = {kind: getattr(Stats, kind) for kind in ("incr", "gauge", "timing")}

    def spy(kind, note):
        def call(name, value=1, *args, tags=None, **kwargs):
            if name.startswith("openai_batch."):
                note(name, value, tags)
                seen.tags[name] = tags
            # Airflow's own must like what it is given.
            return real[kind](name, value, *args, tags=tags, **kwargs)

        monkeypatch.setattr(Stats, kind, staticmethod(call))

    def count(name, value, tags):
        seen.counted[name, tags["task_id"]] += value

    spy("incr", count)
    spy("gauge", lambda _name, value, tags: seen.gauges[tags["task_id"]].append(value))
    spy("timing", lambda _name, value, tags: seen.timings[tags["task_id"]].append(value))
    return seen


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_landed_job_is_counted_once_by_status_and_by_tokens(run_dag, connection, metrics, tmp_path, deferrable):
    rows = [*ROWS, {"text": "[[emulate:status=400]]"}]
    with DAG(f"counted_{deferrable}", schedule=None) as dag:
        OpenAIBatchOperator(
            task_id="label",
            source=rows,
            destination=f"{tmp_path}/out",
            max_failed_ratio=0.5,
            deferrable=deferrable,
            **QUICK,
        )
    this_run = dict.fromkeys(("logical_date", "run_after"), datetime(2026, 1, 2, tzinfo=timezone.utc))
    usage = run_dag(dag, **this_run).xcoms["label"]["usage"]
    counted = {
        "openai_batch.rows.succeeded": 2,
        "openai_batch.rows.failed": 1,
        "openai_batch.tokens.input": usage["input_tokens"],
        "openai_batch.tokens.output": usage["output_tokens"],
        "openai_batch.tokens.total": usage["total_tokens"],
    }
    assert metrics.of_task("label") == counted
    assert metrics.tags["openai_batch.rows.succeeded"] == {"dag_id": dag.dag_id, "task_id": "label"}
    assert max(metrics.gauges["label"]) == 1
    assert metrics.gauges["label"][-1] == 0
    (waited,) = metrics.timings["label"]
    assert timedelta(0) < waited < timedelta(minutes=1)

    # Cleared: it returns what is there.
    run_dag(dag, **this_run)
    assert metrics.of_task("label") == counted
    assert len(metrics.timings["label"]) == 1


def test_a_job_that_failed_is_counted_and_not_again_when_its_results_are_accepted(
    run_dag, connection, metrics, tmp_path
):
    rows = [ROWS[0], {"text": "[[emulate:status=400]]"}]
    this_run = dict.fromkeys(("logical_date", "run_after"), datetime(2026, 1, 2, tzinfo=timezone.utc))
    with DAG("counted_failure", schedule=None) as dag:
        OpenAIBatchOperator(task_id="label", source=rows, destination=f"{tmp_path}/out", **QUICK)
    assert run_dag(dag, **this_run).state == "failed"
    counted = metrics.of_task("label")
    assert (counted["openai_batch.rows.succeeded"], counted["openai_batch.rows.failed"]) == (1, 1)
    dag.task_dict["label"].max_failed_ratio = 1
    assert run_dag(dag, **this_run).state == "success"
    assert metrics.of_task("label") == counted


def test_a_job_that_is_begun_anew_over_a_landed_one_is_counted_too(run_dag, connection, metrics, tmp_path):
    for number, prompt in enumerate(("{{ row.text }}", "Say: {{ row.text }}")):
        with DAG(f"restarted_{number}", schedule=None) as dag:
            OpenAIBatchOperator(
                task_id="label",
                source=ROWS,
                destination=f"{tmp_path}/out",
                on_input_change="restart",
                deferrable=False,
                **{**QUICK, "prompt": prompt},
            )
        assert run_dag(dag).state == "success"
    assert metrics.of_task("label")["openai_batch.rows.succeeded"] == 4


def test_of_three_steps_the_one_that_lands_counts(run_dag, connect, metrics, tmp_path):
    with DAG("counted_steps", schedule=None) as dag:
        row = {"prompt": QUICK["prompt"], "model": QUICK["model"]}
        submit = OpenAIBatchSubmitOperator(task_id="submit", source=ROWS, destination=f"{tmp_path}/out", **row)
        wait = OpenAIBatchSensor(task_id="wait", job=submit.output, poll_interval=0.1)
        first = OpenAIBatchDownloadOperator(task_id="download", job=wait.output)
        OpenAIBatchDownloadOperator(task_id="again", job=first.output)
    # The batch is still running when the sensor looks first, however slow the machine is.
    with running(in_progress=5) as emulator:
        connect(emulator)
        assert run_dag(dag).state == "success"
    assert {task for _, task in metrics.counted} == {"download"}
    assert metrics.of_task("download")["openai_batch.rows.succeeded"] == 2
    # The submit step ends with its batches in flight, and would leave its gauge there for good.
    assert "submit" not in metrics.gauges
    assert (metrics.gauges["wait"][0], metrics.gauges["wait"][-1]) == (1, 0)
    assert len(metrics.timings["wait"]) == 1


def test_a_batch_made_elsewhere_is_counted_by_the_step_that_lands_it(
    run_dag, connection, metrics, tmp_path, make_batch
):
    batch = make_batch(("a", "great food"))
    with DAG("counted_foreign", schedule=None) as dag:
        wait = OpenAIBatchSensor(task_id="wait", batch_id=batch.id, poll_interval=0.1, deferrable=False)
        land = OpenAIBatchDownloadOperator(task_id="land", batch_id=batch.id, destination=f"{tmp_path}/out")
        wait >> land
    assert run_dag(dag).state == "success"
    assert metrics.of_task("land")["openai_batch.rows.succeeded"] == 1
    assert metrics.gauges["wait"][-1] == 0


def test_each_mapped_instance_has_a_gauge_and_all_count_together(metrics):
    for index in (0, 1):
        ti = SimpleNamespace(dag_id="d", task_id="label", map_index=index)
        report = Report(ti, SimpleNamespace(info=lambda *_: None))
        report.waiting(Waiting(("batch_1", "batch_2"), "all", None, "running"), None, "/out")
        assert metrics.tags["openai_batch.batches_in_flight"] == {
            "dag_id": "d",
            "task_id": "label",
            "map_index": str(index),
        }
        report.done(MANIFEST, landed=True)
        assert metrics.tags["openai_batch.rows.succeeded"] == {"dag_id": "d", "task_id": "label"}
    assert metrics.of_task("label")["openai_batch.rows.succeeded"] == 4


def test_metrics_that_cannot_be_sent_fail_no_task(run_dag, connection, monkeypatch, tmp_path):
    tried = []

    def down(name, *_args, **_kwargs):
        if name.startswith("openai_batch."):
            tried.append(name)
            raise OSError("no route to host")

    for kind in ("incr", "gauge", "timing"):
        monkeypatch.setattr(Stats, kind, staticmethod(down))
    with DAG("unmetered", schedule=None) as dag:
        OpenAIBatchOperator(task_id="label", source=ROWS, destination=f"{tmp_path}/out", **QUICK)
    assert run_dag(dag).state == "success"
    assert {"openai_batch.batches_in_flight", "openai_batch.waited", "openai_batch.rows.succeeded"} <= set(tried)


MANIFEST = {
    "job": "1f0c",
    "destination": "s3://lake/out put",
    "rows": {"total": 3, "succeeded": 2, "failed": 1, "expired": 0},
    "usage": {"input_tokens": 30, "cached_tokens": 0, "output_tokens": 4, "total_tokens": 34},
    "rounds": 2,
}


@pytest.fixture
def logged():
    """A report of a task, and the lines that it logs."""
    lines = []
    log = SimpleNamespace(info=lambda text, *args: lines.append(text % args))
    return Report(SimpleNamespace(dag_id="d", task_id="t", map_index=-1), log), lines


def test_the_end_of_a_job_is_one_line_with_its_figures_as_fields(logged):
    report, lines = logged
    report.done(MANIFEST, landed=True)
    report.done(MANIFEST, landed=False)
    told = (
        "s3://lake/out put (job=1f0c rows=3 succeeded=2 failed=1 tokens_input=30 tokens_cached=0 tokens_output=4 "
        "tokens_total=34 rounds=2)"
    )
    assert lines == [f"Job done: {told}", f"Job was done before: {told}"]


def test_a_wait_and_a_wake_are_a_line_each(logged):
    report, lines = logged
    report.waiting(Waiting(("b1", "b2"), "any", None, "2 batch(es) running"), None, "s3://lake/out put")
    report.waiting(Waiting(("b1",), "all", None, "1 batch(es) running"), 60.0, "/out")
    report.woken({"status": "ended", "batches": {"b1": "completed", "b2": "expired"}, "since": 0.0})
    report.woken({"status": "error", "batches": {}, "message": "the key is wrong"})
    report.woken({"status": "time", "batches": {}})
    assert lines == [
        'Deferring: 2 batch(es) running (destination="s3://lake/out put" batches_in_flight=2)',
        "1 batch(es) running; next look in 60 s (destination=/out batches_in_flight=1)",
        "Woken: b1 completed, b2 expired (event=ended batches=2)",
        "Woken: the key is wrong (event=error batches=0)",
        "Woken: the time has come (event=time batches=0)",
    ]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"job": "1f0c", "rows": 1000}, "job=1f0c rows=1000"),
        ({"a": None, "b": "two words", "c": ""}, 'b="two words" c=""'),
        ({"a": 'a "quoted"\nline', "b": "x=y"}, r'a="a \"quoted\"\nline" b="x=y"'),
    ],
)
def test_fields_can_be_taken_apart_again(values, text):
    assert fields(**values) == text


def test_the_first_line_of_a_failure_stands_alone_in_a_chat(run_dag, connection, tmp_path):
    rows = [*ROWS, {"text": "[[emulate:status=400]]"}, {"text": "[[emulate:refusal]]"}]
    with DAG("failing_notice", schedule=None) as dag:
        OpenAIBatchOperator(task_id="label", source=rows, destination=f"{tmp_path}/out", **QUICK)
    run = run_dag(dag)
    first, *rest = str(run.errors["label"]).splitlines()
    assert first.startswith("2 of 4 rows (50.0%) have no good answer, more than max_failed_ratio=0.05: ")
    assert "1 failed" in first
    assert " tokens were billed. " in first
    assert first.endswith(f"Results: {tmp_path}/out/results")
    assert rest[0].startswith("First error: ")
    assert 'on_input_change="restart"' in rest[-1]
