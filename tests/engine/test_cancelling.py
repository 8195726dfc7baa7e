"""What is cancelled stays so, whatever breaks on the way; and a process that is told to end buys nothing more."""

from __future__ import annotations

from dataclasses import replace

import pytest

from airflow_openai_batch.engine.models import Done
from airflow_openai_batch.engine.runner import advance
from airflow_openai_batch.exceptions import (
    JobHaltedError,
    JobTimeoutError,
    NotFoundError,
    RejectedError,
    UnreachableError,
)

ROWS = [{"prompt": word} for word in "abcdefgh"]
LOST = UnreachableError("no answer")


def messages(fake):
    return [request["body"]["messages"][-1]["content"] for batch in fake.batches for request in fake.requests(batch)]


# A job that is stopped


def test_shards_that_waited_for_room_are_not_sent_once_the_job_is_stopped(fakes, fake):
    def make():
        return fakes.job(ROWS, requests_per_batch=2, max_enqueued_tokens=60)

    advance(make())
    make().cancel("by a test")
    fake.end(status="cancelled", answer=lambda request: fake.not_run(request, "batch_cancelled"))
    done = fakes.finish(make())
    assert fake.calls["create_batch"] == 1
    assert done.statuses == ["cancelled"] * 8
    assert done.manifest["rows"]["cancelled"] == 8
    assert done.lines[-1]["error"]["code"] == "job_cancelled"


def test_what_failed_in_passing_is_not_repaired_once_the_job_is_stopped(fakes, fake):
    def make():
        return fakes.job(ROWS, requests_per_batch=4)

    advance(make())
    fake.end("batch-0", answer=fake.refused)
    make().cancel("by a test")
    fake.end("batch-1", "cancelled", answer=fake.answered)
    done = fakes.finish(make())
    assert fake.calls["create_batch"] == 2
    assert done.statuses == ["failed"] * 4 + ["succeeded"] * 4


def test_a_lost_create_of_a_stopped_job_is_found_and_cancelled(fakes, fake):
    fake.lost["create_batch"] = [LOST]
    listed = fake.list_batches
    fake.list_batches = lambda: iter(())
    advance(fakes.job(ROWS))
    fakes.job(ROWS).cancel("by a test")
    fake.list_batches = listed
    waiting = advance(fakes.job(ROWS))
    assert waiting.batches == ("batch-0",)
    assert fake.batches["batch-0"].status == "cancelling"


def test_a_batch_that_was_created_while_the_job_was_stopped_is_cancelled_as_well(fakes, fake):
    make = fake.create_batch

    def stop_meanwhile(**given):
        fakes.job(ROWS, requests_per_batch=4).cancel("by a test")
        return make(**given)

    fake.create_batch = stop_meanwhile
    advance(fakes.job(ROWS, requests_per_batch=4))
    assert [batch.status for batch in fake.batches.values()] == ["cancelling"] * 2


def test_rows_that_are_asked_directly_are_left_once_the_job_is_stopped(fakes, fake):
    def stop(request):
        if len(fake.asked) == 3:
            fakes.job(ROWS, route="direct").cancel("by a test")
            raise LOST
        return fake.answered(request)

    fake.direct = stop
    with pytest.raises(UnreachableError):
        advance(fakes.job(ROWS, route="direct", direct_at_once=1))
    fake.direct = fake.answered
    done = fakes.finish(fakes.job(ROWS, route="direct"))
    assert len(fake.asked) == 3
    assert done.statuses == ["succeeded"] * 2 + ["cancelled"] * 6


def test_a_job_without_a_plan_has_nothing_to_cancel(fakes):
    assert fakes.job(ROWS).cancel("by a test") == ()


def test_a_job_that_begins_anew_cancels_the_lost_create_of_the_old_one(fakes, fake):
    fake.lost["create_batch"] = [LOST]
    listed = fake.list_batches
    fake.list_batches = lambda: iter(())
    advance(fakes.job(ROWS))
    fake.list_batches = listed
    advance(fakes.job(ROWS[:2], on_input_change="restart"))
    assert [batch.status for batch in fake.batches.values()] == ["cancelling", "in_progress"]


# A call that comes to nothing


def test_all_batches_are_cancelled_whichever_of_the_calls_fails(fakes, fake):
    def make():
        return fakes.job(ROWS, requests_per_batch=2)

    advance(make())
    fake.errors["cancel_batch"] = [LOST, NotFoundError("no such batch", status=404)]
    with pytest.raises(NotFoundError, match="It may run on and bill"):
        make().cancel("by a test")
    assert [batch.status for batch in fake.batches.values()] == ["in_progress"] * 2 + ["cancelling"] * 2
    advance(make())
    assert [batch.status for batch in fake.batches.values()] == ["cancelling"] * 4


@pytest.mark.parametrize("options", [{"deadline": 7_200.0}, {}], ids=["for a deadline", "since it is overdue"])
def test_a_cancellation_that_did_not_arrive_is_asked_for_again_before_its_rows_are(fakes, fake, clock, options):
    advance(fakes.job(ROWS, **options))
    fake.batches["batch-0"] = replace(fake.batches["batch-0"], expires_at=clock.now + 86_400)
    clock.now += 90_001 if not options else 7_200
    for error in (LOST, RejectedError("not now"), NotFoundError("no such call", status=404)):
        fake.errors["cancel_batch"] = [error]
        waiting = advance(fakes.job(ROWS, **options))
        assert waiting.batches == ("batch-0",)
        assert fake.batches["batch-0"].status == "in_progress"
        clock.now += 100_000
    waiting = advance(fakes.job(ROWS, **options))
    assert fake.batches["batch-0"].status == "cancelling"
    assert (len(fake.batches), fake.asked) == (1, [])
    assert waiting.until == clock.now + 3_600


def test_a_batch_that_runs_on_for_an_hour_after_a_second_cancellation_was_taken_has_expired(fakes, fake, clock):
    fake.cancel_batch = fake.retrieve_batch
    advance(fakes.job(ROWS))
    fake.batches["batch-0"] = replace(fake.batches["batch-0"], expires_at=clock.now)
    for seconds in (3_600, 100_000, 3_599):
        clock.now += seconds
        assert advance(fakes.job(ROWS)).batches == ("batch-0",)
    clock.now += 1
    assert advance(fakes.job(ROWS)).batches == ("batch-1",)


def test_a_batch_whose_task_was_killed_runs_on_for_the_next_try_where_the_call_did_not_arrive(fakes, fake):
    advance(fakes.job(ROWS))
    fake.errors["cancel_batch"] = [LOST]
    with pytest.raises(UnreachableError):
        fakes.job(ROWS).cancel("on_kill", again=True)
    assert advance(fakes.job(ROWS), new_try=True).batches == ("batch-0",)
    fake.end()
    assert fakes.finish(fakes.job(ROWS)).statuses == ["succeeded"] * 8


# Rows that never ran


@pytest.mark.parametrize("status", ["cancelled", "expired"])
def test_a_row_without_a_line_in_a_batch_that_was_cut_short_never_ran(fakes, fake, status):
    advance(fakes.job(ROWS, max_rounds=1))
    if status == "cancelled":
        fakes.job(ROWS).cancel("by a test")
    fake.end(status=status, answer=lambda request: fake.answered(request) if request["custom_id"] < "r4" else None)
    outcome = advance(fakes.job(ROWS, max_rounds=1))
    if status == "cancelled":
        assert outcome.manifest["rows"]["cancelled"] == 4
        return
    fake.end(answer=lambda _request: None, status=status)
    done = fakes.finish(fakes.job(ROWS, max_rounds=1))
    assert done.statuses == ["succeeded"] * 4 + ["expired"] * 4
    assert done.lines[-1]["error"]["code"] == "batch_expired"


def test_a_row_without_a_line_is_missing_where_those_that_never_ran_have_one(fakes, fake):
    advance(fakes.job(ROWS, max_rounds=1))
    lines = {"r0": fake.answered, "r1": lambda _: None}
    fake.end(status="expired", answer=lambda request: lines.get(request["custom_id"], fake.not_run)(request))
    advance(fakes.job(ROWS, max_rounds=1))
    fake.end()
    done = fakes.finish(fakes.job(ROWS, max_rounds=1))
    assert done.statuses == ["succeeded", "missing", *["succeeded"] * 6]


def test_rows_of_a_later_round_that_was_cut_short_go_again(fakes, fake):
    advance(fakes.job(ROWS))
    fake.end(answer=fake.refused)
    advance(fakes.job(ROWS))
    fakes.job(ROWS).cancel("on_kill", again=True)
    fake.end("batch-1", "cancelled", answer=lambda request: fake.not_run(request, "batch_cancelled"))
    assert advance(fakes.job(ROWS), new_try=True).batches == ("batch-2",)
    fake.end("batch-2")
    assert fakes.finish(fakes.job(ROWS)).statuses == ["succeeded"] * 8


def test_rows_of_a_later_round_are_asked_when_the_deadline_is_there(fakes, fake, clock):
    def make():
        return fakes.job(ROWS, deadline=7_200.0)

    advance(make())
    fake.end(answer=fake.refused)
    clock.now = advance(make()).until
    advance(make())
    fake.end("batch-1", "cancelled", answer=lambda request: fake.not_run(request, "batch_cancelled"))
    assert fakes.finish(make()).statuses == ["succeeded"] * 8
    assert len(fake.asked) == 8


# A process that is told to end


def test_a_process_that_was_told_to_end_creates_no_batch_more(fakes, fake):
    job = fakes.job(ROWS, requests_per_batch=2)
    make = fake.create_batch

    def told(**given):
        job.halt.set()
        return make(**given)

    fake.create_batch = told
    with pytest.raises(JobHaltedError):
        advance(job)
    assert len(fake.batches) == 1
    fake.create_batch = make
    advance(fakes.job(ROWS, requests_per_batch=2))
    assert sorted(messages(fake)) == [row["prompt"] for row in ROWS]


def test_a_process_that_was_told_to_end_while_it_uploads_creates_nothing_of_it(fakes, fake):
    job = fakes.job(ROWS)
    upload = fake.upload

    def told(*given):
        job.halt.set()
        return upload(*given)

    fake.upload = told
    with pytest.raises(JobHaltedError):
        advance(job)
    assert not fake.batches
    fake.upload = upload
    advance(fakes.job(ROWS))
    assert (fake.calls["upload"], len(fake.batches)) == (1, 1)


def test_a_process_that_was_told_to_end_keeps_what_it_asked_and_asks_no_more(fakes, fake):
    def make():
        return fakes.job(ROWS, route="direct", direct_at_once=1)

    job = make()

    def told(request):
        job.halt.set()
        return fake.answered(request)

    fake.direct = told
    with pytest.raises(JobHaltedError):
        advance(job)
    before = len(fake.asked)
    fake.direct = fake.answered
    assert isinstance(advance(make()), Done)
    assert 0 < before < len(ROWS)
    assert len(fake.asked) == len(ROWS)


def test_a_timeout_holds_for_rows_that_are_asked_directly(fakes, fake, clock):
    def make(**more):
        return fakes.job(ROWS, route="direct", direct_at_once=1, **more)

    def slow(request):
        clock.now += 60
        return fake.answered(request)

    fake.direct = slow
    with pytest.raises(JobTimeoutError, match="isn't done 100 s after its first submission"):
        advance(make(timeout=100.0))
    assert len(fake.asked) == 4
    assert fakes.finish(make()).statuses == ["succeeded"] * 8
    assert len(fake.asked) == 8
