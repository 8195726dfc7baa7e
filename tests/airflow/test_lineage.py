"""OpenLineage: what the operators tell of their inputs, outputs and counts, to the real provider."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.sdk import ObjectStoragePath, task

from airflow_openai_batch.operators.openai_batch import (
    OpenAIBatchCancelOperator,
    OpenAIBatchDownloadOperator,
    OpenAIBatchEstimateOperator,
    OpenAIBatchOperator,
    OpenAIBatchSubmitOperator,
)
from airflow_openai_batch.sensors.openai_batch import OpenAIBatchSensor

extractors = pytest.importorskip("airflow.providers.openlineage.extractors")

from airflow_openai_batch.operators.lineage import dataset_name, folders  # noqa: E402 - it needs the provider

ROWS = [{"text": "great food"}, {"text": "awful food"}]
CONTEXT = {"ti": SimpleNamespace(dag_id="d", task_id="t", run_id="r", map_index=-1)}
QUICK = {"prompt": "{{ row.text }}", "model": "gpt-5-mini", "poll_interval": 0.1, "deferrable": False}


def named(datasets):
    return [(dataset.namespace, dataset.name) for dataset in datasets]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("~/reviews/*.jsonl", ("file", str(Path("~/reviews").expanduser()))),
        ("s3://lake@bucket/reviews/2026/a.jsonl", ("s3://bucket", "reviews/2026/a.jsonl")),
        ("s3://bucket/reviews/", ("s3://bucket", "reviews")),
        ("s3a://bucket", ("s3://bucket", "/")),
        ("s3://bucket/reviews/dt=*/part-?.parquet", ("s3://bucket", "reviews")),
        ("s3://bucket/reviews/dt[=]2026-01-01", ("s3://bucket", "reviews/dt=2026-01-01")),
        ("gcs://bucket/a.csv.gz", ("gs://bucket", "a.csv.gz")),
        ("file:///data/a.jsonl", ("file", "/data/a.jsonl")),
        ("/data/*.jsonl", ("file", "/data")),
        ("/*.jsonl", ("file", "/")),
        ("data/a.jsonl", ("file", f"{Path.cwd()}/data/a.jsonl")),
    ],
)
def test_datasets_are_named_as_openlineage_names_them(url, name):
    assert dataset_name(url) == name


def test_several_files_are_the_folders_that_they_are_in():
    assert folders(["s3://b/x/1.jsonl", "s3://b/x/2.jsonl", "s3://b/y/1.jsonl", "s3://b/x/1.jsonl"]) == [
        "s3://b/x",
        "s3://b/y",
    ]
    assert folders(["s3://b/x/1.jsonl"] * 2) == ["s3://b/x/1.jsonl"]
    assert folders(["", ""]) == []
    assert len(folders(f"/d/{n}/x.jsonl" for n in range(1000))) == 100


def test_before_it_runs_a_task_knows_its_source_and_its_results():
    whole = OpenAIBatchOperator(task_id="t", source="s3://c@lake/in/*.jsonl", destination="s3://c@lake/out")
    told = whole.get_openlineage_facets_on_start()
    assert isinstance(told, extractors.OperatorLineage)
    assert named(told.inputs) == [("s3://lake", "in")]
    assert named(told.outputs) == [("s3://lake", "out/results")]
    assert told.run_facets == {}
    path = OpenAIBatchOperator(task_id="t", source=ObjectStoragePath("file:///in/a.csv"), destination="/out")
    assert named(path.get_openlineage_facets_on_start().inputs) == [("file", "/in/a.csv")]


@pytest.mark.parametrize("rows", [{"source": ROWS}, {"sql": "select 1", "sql_conn_id": "db"}])
def test_rows_that_are_in_no_file_are_no_input(rows):
    told = OpenAIBatchOperator(task_id="t", destination="/out", **rows).get_openlineage_facets_on_start()
    assert (told.inputs, named(told.outputs)) == ([], [("file", "/out/results")])


def test_steps_that_land_nothing_have_no_output():
    submit = OpenAIBatchSubmitOperator(task_id="t", source="/in", destination="/out").get_openlineage_facets_on_start()
    assert (named(submit.inputs), submit.outputs) == ([("file", "/in")], [])
    job = {"job": "x", "destination": "/out", "conn_id": "c", "batches": []}
    for operator in (OpenAIBatchSensor(task_id="t", job=job), OpenAIBatchCancelOperator(task_id="t", job=job)):
        told = operator.get_openlineage_facets_on_start()
        assert (told.inputs, told.outputs) == ([], [])


@pytest.mark.parametrize("operator", [OpenAIBatchEstimateOperator, partial(OpenAIBatchOperator, estimate_only=True)])
def test_an_estimate_has_no_output(operator):
    lineage = operator(
        task_id="t", source="s3://b/in/a.jsonl", destination="s3://b/out", **QUICK
    ).get_openlineage_facets_on_start()
    assert named(lineage.inputs) == [("s3://b", "in/a.jsonl")]
    assert lineage.outputs == []


def test_once_it_is_landed_the_counts_are_there(connection, tmp_path):
    source = tmp_path / "a.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    operator = OpenAIBatchOperator(task_id="t", source=str(source), destination=f"{tmp_path}/out", **QUICK)
    manifest = operator.execute(CONTEXT)
    told = operator.get_openlineage_facets_on_complete(None)
    (output,) = told.outputs
    assert (output.namespace, output.name) == ("file", f"{tmp_path}/out/results")
    assert (output.outputFacets["outputStatistics"].rowCount, output.outputFacets["outputStatistics"].fileCount) == (
        2,
        1,
    )
    facet = told.run_facets["openai_batch"]
    assert (facet.job, facet.rows, facet.usage) == (manifest["job"], manifest["rows"], manifest["usage"])
    assert (facet.batches, facet.rounds, facet.endpoint) == (1, 1, "/v1/chat/completions")
    assert facet.models == ["gpt-5-mini"]


def test_a_job_that_failed_has_its_counts_too(connection, tmp_path):
    rows = [{"text": "[[emulate:status=400]]"}]
    operator = OpenAIBatchOperator(task_id="t", source=rows, destination=f"{tmp_path}/out", **QUICK)
    with pytest.raises(Exception, match="1 of 1 rows"):
        operator.execute(CONTEXT)
    told = extractors.base.DefaultExtractor(operator).extract_on_failure(None)
    assert told.run_facets["openai_batch"].rows["failed"] == 1


def test_a_function_that_returns_a_path_and_a_step_that_has_a_reference_name_the_files_that_were_read(
    run_dag, connection, tmp_path
):
    from airflow.sdk import DAG

    for number, row in enumerate(ROWS):
        (tmp_path / f"{number}.jsonl").write_text(json.dumps(row) + "\n")
    with DAG("lineage_of_steps", schedule=None) as dag:

        @task.openai_batch(destination=f"{tmp_path}/out", **QUICK)
        def label():
            return f"{tmp_path}/*.jsonl"

        label()
    manifest = run_dag(dag).xcoms["label"]
    download = OpenAIBatchDownloadOperator(task_id="t", job=manifest, deferrable=False)
    download.execute(CONTEXT)
    told = download.get_openlineage_facets_on_complete(None)
    assert named(told.inputs) == [("file", str(tmp_path))]
    assert named(told.outputs) == [("file", f"{tmp_path}/out/results")]


def test_without_the_provider_nothing_is_told(monkeypatch):
    monkeypatch.delitem(sys.modules, "airflow_openai_batch.operators.lineage")
    monkeypatch.setitem(sys.modules, "airflow.providers.openlineage.extractors", None)
    operator = OpenAIBatchOperator(task_id="t", source="/in", destination="/out")
    assert operator.get_openlineage_facets_on_start() is None
    assert operator.get_openlineage_facets_on_complete(None) is None


def test_a_run_with_the_provider_switched_on_emits_it_all(airflow_db, connection, tmp_path):
    events = tmp_path / "events.jsonl"
    transport = {"type": "file", "log_file_path": str(events), "append": True}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("lineage_run.py")), str(tmp_path)],
        env={**os.environ, "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    found = {}
    for event in map(json.loads, events.read_text().splitlines()):
        if event["eventType"] == "COMPLETE":
            found[event["job"]["name"]] = event
    for name, folder in (("lineage.whole", "out"), ("lineage.download", "steps")):
        event = found[name]
        assert [(d["namespace"], d["name"]) for d in event["inputs"]] == [("file", f"{tmp_path}/in")]
        (output,) = event["outputs"]
        assert (output["namespace"], output["name"]) == ("file", f"{tmp_path}/{folder}/results")
        assert output["outputFacets"]["outputStatistics"]["rowCount"] == 2
        assert event["run"]["facets"]["openai_batch"]["rows"]["succeeded"] == 2
    assert [d["name"] for d in found["lineage.submit"]["inputs"]] == [f"{tmp_path}/in"]
    assert found["lineage.submit"]["outputs"] == []
