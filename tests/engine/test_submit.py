"""Shards become batches, each once, whatever happens to the calls."""

from __future__ import annotations

import logging

import pytest

from airflow_openai_batch.engine.journal import Journal
from airflow_openai_batch.engine.models import Key, Waiting
from airflow_openai_batch.engine.records import DoomRecord
from airflow_openai_batch.engine.runner import advance
from airflow_openai_batch.exceptions import (
    JournalError,
    QueueFullError,
    RateLimitError,
    RejectedError,
    UnreachableError,
)

ROWS = [{"prompt": f"row {n}"} for n in range(4)]


@pytest.fixture
def created(emulator):
    """The batches that were created since."""
    before = len(emulator.ledger.batches)
    return lambda: emulator.ledger.batches[before:]


def unique(rows, desk):
    return [{"prompt": f"{row['prompt']} of {desk.folder.name}"} for row in rows]


def trail(desk):
    journal = Journal(desk.job(ROWS).store)
    return journal.state(journal.job()).all_attempts()


def test_a_batch_names_its_job_shard_round_and_attempt(fakes, fake):
    job = fakes.job(ROWS, metadata={"team": "menu"})
    advance(job)
    assert fake.batches["batch-0"].metadata == {
        "team": "menu",
        "job": job.known().job,
        "shard": "00000",
        "round": "0",
        "attempt": "0",
    }


@pytest.mark.parametrize("when", ["during", "after"])
def test_a_create_whose_answer_was_lost_is_adopted_and_never_repeated(desk, emulator, created, caplog, when):
    emulator.add_fault(fault="drop", call="batches.create", when=when)
    billed = emulator.ledger.rows_billed
    with caplog.at_level(logging.INFO):
        done = desk.run(unique(ROWS, desk))
    assert done.statuses == ["succeeded"] * 4
    assert len(created()) == 1
    assert done.manifest["batches"] == [created()[0]["id"]]
    assert emulator.ledger.rows_billed == billed + 4
    assert "Adopted batch" in caplog.text
    assert trail(desk)[0].batch.adopted


def test_a_create_that_never_arrived_is_made_again_once_it_can_not_exist(desk, emulator, created, quick_rules):
    emulator.add_fault(fault="drop", call="batches.create", when="before")
    done = desk.run(unique(ROWS, desk), rules=quick_rules)
    assert done.statuses == ["succeeded"] * 4
    assert len(created()) == 1
    first, second = trail(desk)
    assert (first.void.reason, second.key.attempt) == ("absent", 1)
    # The first one's file is gone, lest a process that stood still sends its create after all.
    assert first.fence.at <= first.void.at
    assert first.intent.file_id != second.intent.file_id
    left = {file["id"] for file in emulator.ledger.files}
    assert not left & {first.intent.file_id, second.intent.file_id}


def test_a_create_that_the_list_does_not_show_yet_is_waited_for(fakes, fake, clock, monkeypatch):
    fake.lost["create_batch"] = [UnreachableError("no answer")]
    shown = fake.list_batches
    monkeypatch.setattr(fake, "list_batches", lambda: iter(()))
    outcome = advance(fakes.job(ROWS))
    assert (outcome.batches, outcome.until) == ((), clock.now + 60)
    monkeypatch.setattr(fake, "list_batches", shown)
    clock.now += 30
    assert advance(fakes.job(ROWS)).batches == ("batch-0",)
    assert fake.calls["create_batch"] == 1


@pytest.mark.parametrize("kept", [{}, {"tenant": "7"}, {"JOB": "x"}], ids=["none", "the server's", "part of it"])
def test_a_batch_whose_metadata_is_not_ours_is_known_by_its_file(fakes, fake, monkeypatch, kept):
    real = fake.create_batch
    monkeypatch.setattr(fake, "create_batch", lambda **call: real(**{**call, "metadata": kept}))
    fake.lost["create_batch"] = [UnreachableError("no answer")]
    assert advance(fakes.job(ROWS)).batches == ("batch-0",)


def test_the_batch_of_another_job_is_never_adopted(fakes, fake, clock):
    advance(fakes.job(ROWS, out=fakes.folder / "out2"))
    fake.errors["create_batch"] = [UnreachableError("no answer")]
    assert advance(fakes.job(ROWS)).batches == ()
    clock.now += 60
    assert advance(fakes.job(ROWS)).until == clock.now + 30
    clock.now += 30
    assert advance(fakes.job(ROWS)).batches == ("batch-1",)


def test_a_file_that_can_not_be_deleted_does_not_hold_up_what_never_arrived(fakes, fake, clock):
    fake.errors["create_batch"] = [UnreachableError("no answer")]
    fake.errors["delete_file"] = [UnreachableError("no answer"), RejectedError("no such thing here")]
    advance(fakes.job(ROWS))
    clock.now += 60
    with pytest.raises(UnreachableError):
        advance(fakes.job(ROWS))
    advance(fakes.job(ROWS))
    clock.now += 30
    assert advance(fakes.job(ROWS)).batches == ("batch-0",)


def test_a_file_that_another_attempt_took_over_is_left_to_it(fakes, fake, monkeypatch):
    other = fakes.job(ROWS)
    upload = fake.upload

    def overtaken(name, opener):
        file = upload(name, opener)
        monkeypatch.setattr(fake, "upload", upload)
        advance(other)
        return file

    monkeypatch.setattr(fake, "upload", overtaken)
    assert advance(fakes.job(ROWS)).batches == ("batch-0",)
    assert (fake.calls["upload"], fake.calls["delete_file"]) == (1, 0)


def test_a_server_error_on_create_is_an_unknown_outcome(desk, emulator, created, quick_rules):
    emulator.add_fault(fault="status", call="batches.create", status=500)
    assert desk.run(unique(ROWS, desk), rules=quick_rules).statuses == ["succeeded"] * 4
    assert len(created()) == 1


def test_an_upload_whose_answer_was_lost_is_found_by_its_name(fakes, fake):
    fake.lost["upload"] = [UnreachableError("no answer")]
    with pytest.raises(UnreachableError):
        advance(fakes.job(ROWS))
    assert isinstance(advance(fakes.job(ROWS)), Waiting)
    assert (fake.calls["upload"], len(fake.files)) == (1, 1)


def test_half_an_upload_is_deleted_and_made_again(fakes, fake):
    fake.lost["upload"] = [UnreachableError("no answer")]
    with pytest.raises(UnreachableError):
        advance(fakes.job(ROWS))
    name = fake.files["file-0"][0].name
    fake.files.clear()
    half = fake.put(name, b"half")
    advance(fakes.job(ROWS))
    assert (fake.calls["upload"], fake.calls["delete_file"], fake.files[half][1]) == (2, 1, None)
    assert fake.batches["batch-0"].input_file_id != half


def test_uploads_are_tried_again(desk, emulator, created):
    emulator.add_fault(fault="cut_upload", call="files.create", after_bytes=10)
    assert desk.run(unique(ROWS, desk)).statuses == ["succeeded"] * 4
    assert emulator.ledger.faults["cut_upload"] >= 1
    assert len(created()) == 1


def test_a_file_that_openai_does_not_find_yet_is_waited_for(desk, emulator, created):
    emulator.add_fault(fault="missing_file", seconds=0.3)
    assert desk.run(unique(ROWS, desk)).statuses == ["succeeded"] * 4
    assert trail(desk)[0].void.reason == "file_not_found"
    assert len(created()) == 1


def test_a_file_that_is_not_found_in_other_words_yet_is_waited_for(desk, emulator, created):
    emulator.add_fault(fault="status", call="batches.create", status=404, message="No such File object: file-x")
    assert desk.run(unique(ROWS, desk)).statuses == ["succeeded"] * 4
    assert trail(desk)[0].void.reason == "file_not_found"
    assert len(created()) == 1


def test_a_file_that_is_never_found_is_uploaded_again(fakes, fake, clock):
    fake.errors["create_batch"] = [RejectedError("Cannot find file file-0", status=400) for _ in range(5)]
    for _ in range(6):
        outcome = advance(fakes.job(ROWS))
        clock.now = max(clock.now, outcome.until or 0)
    assert outcome.batches == ("batch-0",)
    assert fake.calls["upload"] == 2


def test_a_file_that_was_doomed_is_not_used_again(fakes, fake, clock):
    """Its create is refused because another attempt deletes the file at this moment, and then dies."""
    fake.errors["create_batch"] = [RejectedError("Cannot find file file-0", status=400)]
    waiting = advance(fakes.job(ROWS))
    Journal(fakes.job(ROWS).store).write(Key(0, 0, 0), DoomRecord(clock.now))
    clock.now = waiting.until
    assert advance(fakes.job(ROWS)).batches == ("batch-0",)
    assert fake.batches["batch-0"].input_file_id == "file-1"


def test_a_queue_that_is_full_at_create_is_no_error(fakes, fake, clock):
    fake.errors["create_batch"] = [QueueFullError("Enqueued token limit reached")]
    waiting = advance(fakes.job(ROWS, requests_per_batch=2))
    assert (waiting.batches, waiting.wake) == ((), "any")
    assert "2 shard(s) waiting for room" in waiting.reason
    clock.now = waiting.until
    assert advance(fakes.job(ROWS, requests_per_batch=2)).batches == ("batch-0", "batch-1")
    assert fake.calls["upload"] == 2


def test_a_rate_limit_at_create_is_waited_for_as_long_as_openai_asks(fakes, fake, clock):
    fake.errors["create_batch"] = [RateLimitError("is rate limited", status=429, retry_after=900.0)]
    waiting = advance(fakes.job(ROWS, requests_per_batch=2))
    assert (waiting.batches, waiting.until) == ((), clock.now + 900)
    assert "2 shard(s) waiting for the rate limit" in waiting.reason
    assert trail(fakes)[0].void.reason == "rate_limited"
    clock.now = waiting.until
    assert advance(fakes.job(ROWS, requests_per_batch=2)).batches == ("batch-0", "batch-1")
    assert fake.calls["upload"] == 2


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1]])
def test_rows_survive_any_number_of_rate_limits(fakes, fake, clock, rows):
    fake.errors["create_batch"] = [RateLimitError("is rate limited", status=429) for _ in range(12)]
    while not (waiting := advance(fakes.job(rows))).batches:
        clock.now = waiting.until
    fake.end()
    done = fakes.finish(fakes.job(rows))
    assert done.outputs == [row["prompt"] for row in rows]
    assert (fake.calls["create_batch"], fake.calls["upload"], done.manifest["rounds"]) == (13, 1, 1)


def test_a_queue_that_is_full_in_validation_is_waited_for_and_then_goes_on(start, quick_rules):
    rows = [{"prompt": f"row {n} " + "word " * 100} for n in range(6)]
    desk, ledger = start(token_limit=[300])
    done = desk.run(rows, requests_per_batch=2, rules=quick_rules)
    assert done.outputs == [row["prompt"] for row in rows]
    assert ledger.rows_billed == 6
    assert "failed" in {batch["status"] for batch in ledger.batches}
    assert done.manifest["rounds"] == 1


def test_our_own_limit_keeps_shards_back_until_there_is_room(fakes, fake):
    options = {"requests_per_batch": 2, "max_enqueued_tokens": 60}
    for number in range(4):
        waiting = advance(fakes.job(ROWS, **options))
        assert waiting.batches == (f"batch-{number}",)
        assert waiting.wake == ("any" if number < 3 else "all")
        fake.end()
    assert fakes.finish(fakes.job(ROWS, **options)).outputs == [row["prompt"] for row in ROWS]


def test_a_shard_that_changed_on_the_store_is_never_uploaded(fakes, fake):
    job = fakes.job(ROWS)
    job.open()
    shard = fakes.out / "_job" / "shards" / "00000.jsonl"
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(JournalError, match=r"00000\.jsonl isn't as it was planned"):
        advance(job)
    assert fake.calls["upload"] == 0


def test_an_attempt_in_other_hands_is_left_to_them(fakes, fake, monkeypatch):
    """Another try of the task claims the attempt while this one uploads."""
    real = fake.upload

    def slow(name, opener):
        monkeypatch.setattr(fake, "upload", real)
        advance(fakes.job(ROWS))
        return real(name, opener)

    monkeypatch.setattr(fake, "upload", slow)
    assert advance(fakes.job(ROWS)).batches == ("batch-0",)
    assert (fake.calls["create_batch"], fake.calls["delete_file"]) == (1, 1)
    assert fake.files[fake.batches["batch-0"].input_file_id][1] is not None


def test_a_shard_that_changed_without_changing_its_size_is_never_run(fakes, fake):
    job = fakes.job(ROWS)
    job.open()
    shard = fakes.out / "_job" / "shards" / "00000.jsonl"
    shard.write_bytes(shard.read_bytes().swapcase())
    with pytest.raises(JournalError, match=r"00000\.jsonl isn't as it was planned"):
        advance(job)
    assert fake.calls["create_batch"] == 0
    assert fake.calls["delete_file"] == 1


def test_a_shard_larger_than_the_models_whole_queue_goes_in_pieces(start, quick_rules):
    rows = [{"prompt": f"row {n} " + "word " * 100} for n in range(8)]
    desk, ledger = start(token_limit=[300])
    done = desk.run(rows, rules=quick_rules)
    assert done.outputs == [row["prompt"] for row in rows]
    assert (ledger.rows_billed, ledger.rows_billed_twice) == (8, 0)
    assert done.manifest["rounds"] == 1


def test_a_row_larger_than_the_models_whole_queue_is_reported_and_the_rest_is_done(start, quick_rules):
    rows = [{"prompt": f"row {n}"} for n in range(5)]
    rows[2]["prompt"] = "huge " * 2000
    desk, ledger = start(token_limit=[300])
    done = desk.run(rows, rules=quick_rules)
    assert done.statuses == ["succeeded", "succeeded", "failed", "succeeded", "succeeded"]
    assert done.lines[2]["error"]["code"] == "token_limit_exceeded"
    assert (ledger.rows_billed, ledger.rows_billed_twice) == (4, 0)
