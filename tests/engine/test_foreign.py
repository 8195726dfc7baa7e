"""A batch that was made elsewhere is landed like our own, under its own ids, and nothing of it goes again."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest

from airflow_openai_batch.engine import foreign
from airflow_openai_batch.engine.job import Job, JobSpec
from airflow_openai_batch.engine.models import Waiting
from airflow_openai_batch.engine.runner import advance
from airflow_openai_batch.engine.store import Store
from airflow_openai_batch.exceptions import BatchEndedError, JobMismatchError, NotFoundError
from tests.engine.conftest import landed

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
        if isinstance(record, Waiting):
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
    assert land(batch.id).batches == (batch.id,)
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


@pytest.fixture
def elsewhere(fake):
    """A batch of two rows on the API in memory, ended."""
    line = (
        '{"custom_id": "mine/%d", "url": "/v1/chat/completions", "body": {"model": "m", "messages": [{"content": ""}]}}'
    )
    file_id = fake.put("mine.jsonl", "\n".join(line % n for n in range(2)).encode())
    batch = fake.create_batch(input_file_id=file_id, endpoint="/v1/chat/completions", metadata={})
    fake.end()
    return batch.id


@pytest.fixture
def land_fake(fakes, fake, clock):
    """Go on with the landing of a batch on the API in memory."""

    def land_fake(batch_id):
        store = Store.at(str(fakes.out))
        record = foreign.take_over(store, fake, batch_id, clock)
        if isinstance(record, Waiting):
            return record
        outcome = advance(Job(store, fake, JobSpec(), lambda: None, record=record, clock=clock))
        return outcome if isinstance(outcome, Waiting) else landed(outcome.manifest)

    return land_fake


@pytest.mark.parametrize("with_input", [True, False])
@pytest.mark.parametrize("oddity", ["not named", "not found"])
def test_files_that_are_not_there_yet_are_waited_for(fake, clock, elsewhere, land_fake, with_input, oddity):
    batch = fake.batches[elsewhere]
    if not with_input:
        fake.delete_file(batch.input_file_id)
    output = fake.files[batch.output_file_id]
    if oddity == "not named":
        fake.batches[elsewhere] = replace(batch, output_file_id=None)
    else:
        fake.files[batch.output_file_id] = (output[0], None)
    waiting = land_fake(elsewhere)
    assert (waiting.batches, waiting.until) == ((), clock.now + 60)
    clock.now = waiting.until
    fake.batches[elsewhere] = batch
    fake.files[batch.output_file_id] = output
    assert land_fake(elsewhere).statuses == ["succeeded"] * 2


@pytest.mark.parametrize(
    "issue",
    [
        {"code": "token_limit_exceeded", "message": "Enqueued token limit reached. Limit: 1 enqueued tokens."},
        {"code": "token_limit_exceeded", "message": "Enqueued token limit reached."},
        {"code": "invalid_request", "message": "Cannot find file file-1, or project x has no access to it."},
    ],
)
def test_a_batch_that_failed_in_passing_is_landed_as_it_is_and_nothing_is_sent(
    fake, clock, land_fake, elsewhere, issue
):
    fake.end(elsewhere, status="failed", issues=[issue])
    before = fake.calls.copy()
    done = land_fake(elsewhere)
    assert (done.statuses, [line["error"] for line in done.lines]) == (["failed"] * 2, [issue] * 2)
    assert {name for name in fake.calls if fake.calls[name] > before[name]} == {"retrieve_batch", "download"}


def test_files_that_do_not_come_are_accepted_as_lost(fake, clock, elsewhere, land_fake):
    fake.delete_file(fake.batches[elsewhere].output_file_id)
    assert isinstance(land_fake(elsewhere), Waiting)
    clock.now += 600
    assert land_fake(elsewhere).statuses == ["missing"] * 2


def test_without_input_and_output_the_end_is_an_error_after_ten_minutes(fake, clock, elsewhere, land_fake):
    batch = fake.batches[elsewhere]
    fake.delete_file(batch.input_file_id)
    fake.delete_file(batch.output_file_id)
    assert isinstance(land_fake(elsewhere), Waiting)
    clock.now += 600
    with pytest.raises(NotFoundError, match=batch.output_file_id):
        land_fake(elsewhere)


def test_a_batch_that_is_not_there_is_not_found(land):
    with pytest.raises(NotFoundError, match="batch_none"):
        land("batch_none")
