"""The operator mapped over a dataset's partitions: each is a job of its own, and what fails is tried again alone."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import DAG, task

from airflow_openai_batch import OpenAIBatchOperator, list_partitions, merge_manifests
from airflow_openai_batch.exceptions import ConfigurationError
from tests.airflow_versions import DagBag

EXAMPLE = Path(__file__).resolve().parents[2] / "dags" / "partitions.py"
PROMPT = "Is this positive or negative? {{ row.text }}"
QUICK = {"prompt": PROMPT, "model": "gpt-5-mini", "poll_interval": 0.2}
AGAIN = {"retries": 2, "retry_delay": 0.01}


@pytest.fixture
def reviews(tmp_path):
    """A dataset of three partitions with two rows each; every row differs."""
    for day in (1, 2, 3):
        write(tmp_path, day, [{"text": f"great food {tmp_path} {day}"}, {"text": f"awful food {tmp_path} {day}"}])
    return tmp_path / "reviews"


def write(folder, day, rows):
    file = folder / "reviews" / f"dt={day}" / "part-0.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def over_partitions(dag_id, source, destination, **given):
    """Make a DAG that is mapped over the partitions and adds up what came of them, whatever failed."""
    with DAG(dag_id, schedule=None, default_args=AGAIN) as dag:

        @task
        def parts():
            return list_partitions(str(source), str(destination))

        @task(trigger_rule="all_done")
        def total(manifests):
            return merge_manifests(manifests)

        total(OpenAIBatchOperator.partial(task_id="label", **{**QUICK, **given}).expand_kwargs(parts()).output)
    return dag


@pytest.fixture
def this_run():
    return dict.fromkeys(("logical_date", "run_after"), datetime(2026, 1, 2, tzinfo=timezone.utc))


def test_each_partition_becomes_a_job_and_the_manifests_one(run_dag, connection, reviews, tmp_path, emulator):
    before = len(emulator.ledger.batches)
    run = run_dag(over_partitions("partitions", reviews, tmp_path / "labels"))
    assert run.state == "success"
    for place, day in enumerate((1, 2, 3)):
        assert run.xcoms[f"label[{place}]"]["destination"] == f"{tmp_path}/labels/dt={day}"
        assert run.outputs(f"label[{place}]") == ["positive", "negative"]
    total = run.xcoms["total"]
    assert (total["jobs"], total["skipped"], total["batches"], total["files"]) == (3, 0, 3, 3)
    assert (total["rows"]["total"], total["rows"]["succeeded"]) == (6, 6)
    assert total["destinations"] == [f"{tmp_path}/labels/dt={day}" for day in (1, 2, 3)]
    assert len(emulator.ledger.batches) - before == 3


def test_a_partition_that_fails_in_passing_is_tried_again_alone_and_nothing_is_bought_twice(
    run_dag, connect, reviews, tmp_path, emulator
):
    connect(emulator, extra={"max_retries": 0})
    before = len(emulator.ledger.batches)
    # One download of the three fails, once its batch is bought.
    emulator.add_fault("status,call=files.content,status=500")
    run = run_dag(over_partitions("retried_partition", reviews, tmp_path / "labels"))
    assert run.state == "success"
    assert sorted(run.tries[f"label[{place}]"] for place in range(3)) == [1, 1, 2]
    assert run.xcoms["total"]["rows"]["succeeded"] == 6
    assert [batch["rows"] for batch in emulator.ledger.batches[before:]] == [2, 2, 2]
    assert (emulator.ledger.rows_billed, emulator.ledger.rows_billed_twice) == (6, 0)


def test_partitions_land_though_one_cannot_and_once_mended_only_that_one_is_sent(
    run_dag, connection, reviews, tmp_path, emulator, this_run
):
    mended = (reviews / "dt=2" / "part-0.jsonl").read_text()
    (reviews / "dt=2" / "part-0.jsonl").write_text(mended + '{"txt": "no such column"}\n')
    dag = over_partitions("mended_partition", reviews, tmp_path / "labels")
    run = run_dag(dag, **this_run)
    # Another try would read the same, so there is none.
    assert {name: (run.states[name], run.tries[name]) for name in run.states if name.startswith("label")} == {
        "label[0]": ("success", 1),
        "label[1]": ("failed", 1),
        "label[2]": ("success", 1),
    }
    assert (run.xcoms["total"]["jobs"], run.xcoms["total"]["rows"]["succeeded"]) == (2, 4)

    (reviews / "dt=2" / "part-0.jsonl").write_text(mended)
    calls = emulator.ledger.calls
    again = run_dag(dag, **this_run)
    assert again.state == "success"
    assert (again.xcoms["total"]["jobs"], again.xcoms["total"]["rows"]["succeeded"]) == (3, 6)
    assert emulator.ledger.calls["batches.create"] - calls["batches.create"] == 1
    assert emulator.ledger.calls["files.create"] - calls["files.create"] == 1
    assert (emulator.ledger.rows_billed, emulator.ledger.rows_billed_twice) == (6, 0)
    assert again.xcoms["label[0]"] == run.xcoms["label[0]"]


def test_a_partition_that_comes_later_moves_the_others_places_but_not_their_jobs(
    run_dag, connection, reviews, tmp_path, emulator, this_run
):
    dag = over_partitions("grown", reviews, tmp_path / "labels")
    run_dag(dag, **this_run)
    write(tmp_path, 0, [{"text": f"great food {tmp_path} 0"}])
    again = run_dag(dag, **this_run)
    assert again.xcoms["total"]["rows"]["succeeded"] == 7
    assert again.outputs("label[0]") == ["positive"]
    assert (emulator.ledger.rows_billed, emulator.ledger.rows_billed_twice) == (7, 0)


def test_what_a_task_is_mapped_over_fails_at_once_where_it_cannot_be_right(run_dag, connection, tmp_path):
    with DAG("bad_mapped", schedule=None, default_args=AGAIN) as dag:
        OpenAIBatchOperator.partial(task_id="label", source=[{"text": "great food"}], **QUICK).expand_kwargs(
            [
                {"destination": f"{tmp_path}/0", "max_rounds": 0},
                {"destination": f"{tmp_path}/1"},
                {"destination": f"{tmp_path}/2", "timeout": -1},
            ]
        )
    run = run_dag(dag)
    assert run.states == {"label[0]": "failed", "label[1]": "success", "label[2]": "failed"}
    assert set(run.tries.values()) == {1}
    assert isinstance(run.errors["label[0]"], AirflowFailException)
    assert isinstance(run.errors["label[0]"], ConfigurationError)
    assert "max_rounds: a whole number from 1 is needed, not 0" in str(run.errors["label[0]"])
    assert "timeout: a positive number of seconds" in str(run.errors["label[2]"])


def test_a_dataset_without_files_fails_the_task_that_lists_it_in_one_try(run_dag, connection, tmp_path):
    run = run_dag(over_partitions("no_partitions", tmp_path / "nowhere", tmp_path / "labels"))
    assert (run.states["parts"], run.tries["parts"]) == ("failed", 1)
    assert "nowhere: no such file" in str(run.errors["parts"])


def test_the_example_runs_as_it_is_and_over_a_dataset_that_has_partitions(run_dag, connection, reviews, tmp_path):
    dag = DagBag(dag_folder=str(EXAMPLE), load_op_links=False).dags["openai_batch_partitions"]
    conf = {"results": str(tmp_path / "results"), "poll_interval": 0.2}
    run = run_dag(dag, run_conf=conf)
    assert run.state == "success"
    assert run.xcoms["total"]["rows"]["succeeded"] == 252
    languages = [destination.rsplit("/", 1)[1] for destination in run.xcoms["total"]["destinations"]]
    assert languages == ["language=en", "language=ja", "language=ko"]

    run = run_dag(dag, run_conf={**conf, "source": str(reviews)})
    assert run.state == "success"
    assert run.xcoms["dataset"] == str(reviews)
    assert run.xcoms["total"]["rows"]["succeeded"] == 6
