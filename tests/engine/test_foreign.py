"""A batch that was made elsewhere is landed like our own, under its own ids, and nothing of it goes again."""

from __future__ import annotations

import json
import time

import pytest

from airflow_openai_batch.engine import foreign
from airflow_openai_batch.engine.job import Job, JobSpec
from airflow_openai_batch.engine.models import BatchSnapshot
from airflow_openai_batch.engine.runner import advance
from airflow_openai_batch.engine.store import Store
from airflow_openai_batch.exceptions import BatchEndedError, JobMismatchError, NotFoundError

TEXTS = ["fine", "[[emulate:status=500]] bad", "[[emulate:lost]] gone", "fine too"]


@pytest.fixture
def make(client):
    """Create a batch by hand, and wait for its end."""

    def make(texts=TEXTS, ids=None, *, patience=10.0):
        rows = [
            {
                "custom_id": (ids or [f"mine/{n}" for n in range(len(texts))])[n],
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {"model": "gpt-5-mini", "messages": [{"role": "user", "content": text}]},
            }
            for n, text in enumerate(texts)
        ]
        content = "\n".join(map(json.dumps, rows)).encode()
        file = client.sdk.files.create(file=("mine.jsonl", content), purpose="batch")
        batch = client.create_batch(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={}
        )
        give_up = time.monotonic() + patience
        while patience and not (batch := client.retrieve_batch(batch.id)).ended:
            assert time.monotonic() < give_up
            time.sleep(0.02)
        return batch

    return make


@pytest.fixture
def land(desk, client):
    def land(batch_id):
        store = Store.at(str(desk.out))
        record = foreign.take_over(store, client, batch_id, time.time)
        if isinstance(record, BatchSnapshot):
            return record
        return desk.finish(Job(store, client, JobSpec(), lambda: None, record=record))

    return land


def test_its_rows_are_landed_in_the_order_of_its_input_under_their_own_ids(make, land):
    batch = make()
    done = land(batch.id)
    assert [line["custom_id"] for line in done.lines] == [f"mine/{n}" for n in range(4)]
    assert done.statuses == ["succeeded", "failed", "missing", "succeeded"]
    assert [line["row"] for line in done.lines] == [0, 1, 2, 3]
    assert {line["batch_id"] for line in done.lines} == {batch.id}
    assert (done.manifest["batches"], done.manifest["rounds"]) == ([batch.id], 1)
    assert done.manifest["endpoint"] == "/v1/chat/completions"


def test_ids_that_look_like_ours_are_the_users_own(make, land):
    done = land(make(["a", "b", "c"], ["r2", "r0", "x"]).id)
    assert [(line["custom_id"], line["output"]) for line in done.lines] == [("r2", "a"), ("r0", "b"), ("x", "c")]


def test_while_it_runs_there_is_its_snapshot_and_nothing_at_the_destination(make, land, desk):
    batch = make(["a"], patience=0)
    assert land(batch.id).id == batch.id
    assert desk.left() == []


def test_its_files_are_left_alone(make, land, client):
    batch = make(["a"])
    land(batch.id)
    assert [file.id for file in client.files_named("mine.jsonl", since=0)].count(batch.input_file_id) == 1


def test_landing_again_costs_nothing(make, land, emulator):
    batch = make(["a"])
    done = land(batch.id)
    calls = emulator.ledger.calls
    assert land(batch.id).manifest == done.manifest
    assert emulator.ledger.calls == calls


def test_without_its_input_file_the_rows_that_came_back_are_landed(make, land, client, caplog):
    batch = make()
    client.delete_file(batch.input_file_id)
    done = land(batch.id)
    assert sorted(line["custom_id"] for line in done.lines) == ["mine/0", "mine/1", "mine/3"]
    assert "its input file" in caplog.text or "The input file" in caplog.text


def test_a_batch_that_left_nothing_is_an_error_with_its_reason(make, land, client, emulator, desk):
    emulator.add_fault(fault="fail", code="invalid_request", message="Nothing fits.")
    batch = make(["a"])
    client.delete_file(batch.input_file_id)
    with pytest.raises(BatchEndedError, match=r"ended as failed .* invalid_request: Nothing fits\."):
        land(batch.id)
    assert desk.left() == []


def test_a_batch_that_failed_says_so_in_every_row(make, land, emulator):
    emulator.add_fault(fault="fail", code="invalid_request", message="Nothing fits.")
    done = land(make(["a", "b"]).id)
    assert done.statuses == ["failed"] * 2
    assert done.lines[0]["error"] == {"code": "invalid_request", "message": "Nothing fits."}


def test_one_destination_holds_one_batch(make, land):
    land(make(["a"]).id)
    with pytest.raises(JobMismatchError, match="which isn't batch"):
        land("batch_other")


def test_the_destination_of_a_job_takes_no_batch(desk, land, make):
    desk.run([{"prompt": "a"}])
    with pytest.raises(JobMismatchError, match="which isn't batch"):
        land(make(["a"]).id)


def test_the_destination_of_a_batch_takes_no_job(desk, land, make):
    land(make(["a"]).id)
    with pytest.raises(JobMismatchError, match="holds another job"):
        advance(desk.job([{"prompt": "a"}]))


def test_a_batch_that_is_not_there_is_not_found(land):
    with pytest.raises(NotFoundError, match="batch_none"):
        land("batch_none")
