"""What to do next is a function of the journal, the batches and the time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from airflow_openai_batch.engine.journal import JobState
from airflow_openai_batch.engine.lifecycle import Rules, decide
from airflow_openai_batch.engine.models import BatchIssue, BatchSnapshot, Counts, Key, Plan, Shard
from airflow_openai_batch.engine.records import (
    Attempt,
    BatchRecord,
    CancelRecord,
    EndRecord,
    IntentRecord,
    JobRecord,
    LateRecord,
    UploadRecord,
    VoidRecord,
)
from airflow_openai_batch.engine.rounds import compress, expand, rows_to_repeat
from airflow_openai_batch.engine.steps import Collect, GiveUp, OpenRound, Requeue, Resolve, Split, Submit

NOW = 1_000.0
RULES = Rules(max_rounds=2, create_timeout=30, create_grace=30, queue_pause=30)


def shard(number=0, round_=0, model="m", tokens=100, rows=10):
    first = number * 10
    return Shard(number, round_, rows, 1_000, model, first, first + 9, ((first, first + 9),), tokens, "")


def attempt(of=None, number=0, **trail):
    of = of or shard()
    return Attempt(Key(of.number, of.round, number), **trail)


def upload(at=NOW):
    return {"upload": UploadRecord(at, "f")}


def intent(at=NOW):
    return {**upload(at), "intent": IntentRecord(at, "file", at)}


def running(at=NOW, batch_id="b0"):
    return {**intent(at), "batch": BatchRecord(at, batch_id)}


def void(reason, at=NOW, message="", pause=0.0):
    return {**intent(at), "void": VoidRecord(at, reason, message, pause)}


def end(batch_id="b0", status="completed", at=NOW, answered=1, **open_rows):
    return EndRecord(at, batch_id, status, 1, None, (), {}, open_rows, answered, {}, {})


def ended(batch_id="b0", *, by_us=False, **fields):
    more = {"cancel": CancelRecord(NOW, "", again=True)} if by_us else {}
    return {**running(batch_id=batch_id), **more, "end": end(batch_id, **fields)}


def state(*rounds, trails=()):
    """A journal of these rounds of shards, with these attempts."""
    shards = rounds or ((shard(),),)
    record = JobRecord(1, "job", "/out", 0.0, {}, {}, {}, None, Plan(100, shards[0], (), (), ""))
    attempts = {}
    for item in trails:
        place = (item.key.round, item.key.shard)
        attempts[place] = (*attempts.get(place, ()), item)
    return JobState(record, tuple(shards), attempts)


def snapshot(status, batch_id="b0", *issues):
    return {batch_id: BatchSnapshot(batch_id, status, errors=issues)}


def decision(journal, snapshots=None, now=NOW, rules=RULES, looked_up=()):
    return decide(journal, snapshots or {}, now, rules, looked_up=frozenset(looked_up))


def test_a_shard_that_was_never_sent_is_submitted():
    assert decision(state()).steps == (Submit(shard(), Key(0, 0, 0)),)


def test_an_upload_without_an_intent_goes_on_as_the_same_attempt():
    assert decision(state(trails=[attempt(**upload())])).steps == (Submit(shard(), Key(0, 0, 0)),)


def test_an_intent_without_a_batch_is_looked_up():
    trail = attempt(**intent())
    assert decision(state(trails=[trail])).steps == (Resolve(trail, give_up=False),)


def test_a_lookup_that_found_nothing_waits_until_no_create_can_still_be_under_way():
    trail = attempt(**intent())
    outcome = decision(state(trails=[trail]), looked_up=[trail.key])
    assert outcome.steps == ()
    assert (outcome.waiting.until, outcome.waiting.batches) == (NOW + 60, ())
    assert "a create whose answer was lost" in outcome.waiting.reason


def test_a_lookup_after_that_time_gives_up():
    trail = attempt(**intent())
    assert decision(state(trails=[trail]), now=NOW + 60).steps == (Resolve(trail, give_up=True),)


def test_an_attempt_that_bought_nothing_is_followed_by_the_next():
    trail = attempt(**void("absent"))
    assert decision(state(trails=[trail])).steps == (Submit(shard(), Key(0, 0, 1)),)


@pytest.mark.parametrize("status", ["validating", "in_progress", "finalizing", "cancelling", "odd"])
def test_a_batch_that_has_not_ended_is_watched(status):
    outcome = decision(state(trails=[attempt(**running())]), snapshot(status))
    assert (outcome.steps, outcome.waiting.batches, outcome.waiting.until) == ((), ("b0",), None)


def test_a_batch_that_could_not_be_looked_at_is_watched():
    assert decision(state(trails=[attempt(**running())])).waiting.batches == ("b0",)


@pytest.mark.parametrize("status", ["completed", "expired", "cancelled", "failed"])
def test_a_batch_that_has_ended_is_collected_whatever_its_status(status):
    trail = attempt(**running())
    seen = snapshot(status)
    assert decision(state(trails=[trail]), seen).steps == (Collect(shard(), trail, seen["b0"]),)


def ended_batch(status="completed", *, ended_at=NOW, counts=(10, 9, 1), **files):
    return {"b0": BatchSnapshot("b0", status, ended_at=ended_at, counts=Counts(*counts), **files)}


def test_a_batch_that_counts_answers_and_names_no_file_is_looked_at_again_for_ten_minutes():
    trail = attempt(**running(at=NOW - 50_000))
    waiting = decision(state(trails=[trail]), ended_batch(), now=NOW + 599).waiting
    assert (waiting.batches, waiting.until) == ((), NOW + 659)
    seen = ended_batch()
    steps = decision(state(trails=[trail]), seen, now=NOW + 600).steps
    assert steps == (Collect(shard(), trail, seen["b0"], final=True),)


@pytest.mark.parametrize(
    "seen",
    [
        ended_batch(output_file_id="out"),
        ended_batch(error_file_id="err", counts=(10, 0, 10)),
        ended_batch("expired", counts=(10, 0, 0)),
        ended_batch("cancelled", counts=(0, 0, 0)),
        ended_batch("failed", counts=(10, 0, 10)),
    ],
)
def test_a_batch_that_names_what_it_has_is_collected_at_once(seen):
    trail = attempt(**running())
    assert decision(state(trails=[trail]), seen).steps == (Collect(shard(), trail, seen["b0"]),)


def test_a_batch_whose_file_was_not_found_is_collected_once_more_later():
    trail = attempt(**running())
    seen = ended_batch(output_file_id="out")
    waiting = decision(state(trails=[trail]), seen, looked_up=[trail.key]).waiting
    assert (waiting.batches, waiting.until) == ((), NOW + 60)
    steps = decision(state(trails=[trail]), seen, now=NOW + 600, looked_up=[trail.key]).steps
    assert steps == (Collect(shard(), trail, seen["b0"], final=True),)


@pytest.mark.parametrize("ended_at", [None, NOW + 10**9])
def test_where_the_end_is_not_known_a_file_is_waited_for_from_the_first_look_on(ended_at):
    seen = ended_batch(ended_at=ended_at)
    trail = attempt(**running(at=NOW - 50_000))
    assert decision(state(trails=[trail]), seen).steps == (Collect(shard(), trail, seen["b0"]),)
    noted = state(trails=[attempt(**running(at=NOW - 50_000), late=LateRecord(NOW))])
    assert decision(noted, seen, now=NOW + 599).waiting is not None
    assert decision(noted, seen, now=NOW + 600).steps[0].final


def test_a_batch_whose_files_are_waited_for_holds_no_room_in_the_queue():
    shards = (shard(0), shard(1))
    journal = state(shards, trails=[attempt(shards[0], **running())])
    steps = decision(journal, ended_batch(), rules=Rules(max_enqueued_tokens=150)).steps
    assert steps == (Submit(shards[1], Key(1, 0, 0)),)


@pytest.mark.parametrize(
    "issue",
    [
        BatchIssue("token_limit_exceeded", "Enqueued token limit reached"),
        BatchIssue("invalid_request", "Cannot find file file-1, or project has no access to it."),
    ],
)
def test_a_batch_that_failed_in_passing_sends_its_shard_again(issue):
    trail = attempt(**running())
    seen = snapshot("failed", "b0", issue)
    assert decision(state(trails=[trail]), seen).steps == (Requeue(trail, seen["b0"]),)


@pytest.mark.parametrize(
    "issue",
    [
        BatchIssue("token_limit_exceeded", "Enqueued token limit reached. Limit: 10 enqueued tokens."),
        BatchIssue("invalid_request", "Cannot find file file-1, or project has no access to it."),
    ],
)
def test_a_batch_made_elsewhere_is_collected_however_it_failed(issue):
    trail = attempt(**running())
    journal = state(trails=[trail])
    journal = replace(journal, record=replace(journal.record, foreign="b0"))
    seen = snapshot("failed", "b0", issue)
    assert decision(journal, seen, rules=Rules(max_rounds=0)).steps == (Collect(shard(), trail, seen["b0"]),)


def test_nothing_to_do_means_that_the_job_can_be_landed():
    outcome = decision(state(trails=[attempt(**ended())]))
    assert (outcome.steps, outcome.waiting) == ((), None)


def test_a_full_queue_makes_a_shard_wait_longer_each_time():
    pauses = []
    trails = []
    for number in range(3):
        trails.append(attempt(number=number, **void("queue_full")))
        waiting = decision(state(trails=trails)).waiting
        assert (waiting.wake, waiting.batches) == ("any", ())
        pauses.append(waiting.until - NOW)
    for pause, least in zip(pauses, (15, 30, 60), strict=True):
        assert least <= pause <= 2 * least


def test_a_shard_waits_no_longer_when_a_batch_has_ended_since():
    shards = (shard(0), shard(1))
    trails = [attempt(shards[0], **ended(at=NOW + 5)), attempt(shards[1], **void("queue_full", at=NOW))]
    assert decision(state(shards, trails=trails), now=NOW + 6).steps == (Submit(shards[1], Key(1, 0, 1)),)


def test_a_full_queue_holds_back_the_other_shards_of_its_model_alone():
    shards = (shard(0), shard(1), shard(2, model="other"))
    steps = decision(state(shards, trails=[attempt(shards[0], **void("queue_full"))])).steps
    assert steps == (Submit(shards[2], Key(2, 0, 0)),)


def test_a_file_that_is_not_there_yet_is_tried_again_soon():
    waiting = decision(state(trails=[attempt(**void("file_not_found"))])).waiting
    assert NOW + 1 <= waiting.until <= NOW + 2


def test_our_own_limit_lets_go_what_fits():
    shards = tuple(shard(number, tokens=100) for number in range(4))
    rules = Rules(max_enqueued_tokens=250)
    assert [step.shard.number for step in decision(state(shards), rules=rules).steps] == [0, 1]


def test_our_own_limit_counts_what_runs_and_wakes_when_any_of_it_ends():
    shards = tuple(shard(number, tokens=100) for number in range(3))
    trails = [attempt(item, **running(batch_id=f"b{item.number}")) for item in shards[:2]]
    waiting = decision(state(shards, trails=trails), rules=Rules(max_enqueued_tokens=250)).waiting
    assert (waiting.batches, waiting.wake) == (("b0", "b1"), "any")
    assert "1 shard(s) waiting for room" in waiting.reason


def test_a_shard_larger_than_our_limit_goes_alone():
    assert len(decision(state(), rules=Rules(max_enqueued_tokens=1)).steps) == 1


def test_when_nothing_is_held_back_all_batches_are_waited_for():
    shards = (shard(0), shard(1))
    trails = [attempt(item, **running(batch_id=f"b{item.number}")) for item in shards]
    assert decision(state(shards, trails=trails)).waiting.wake == "all"


def test_no_round_opens_before_every_shard_has_ended():
    shards = (shard(0), shard(1))
    trails = [attempt(shards[0], **ended(expired=((0, 3),))), attempt(shards[1], **running(batch_id="b1"))]
    assert decision(state(shards, trails=trails)).waiting.batches == ("b1",)


def test_rows_that_may_go_again_make_the_next_round():
    trails = [attempt(**ended(expired=((0, 1),), failed=((5, 5),)))]
    assert decision(state(trails=trails)).steps == (OpenRound(1, ((0, 1), (5, 5))),)


def repeats(*by_round, max_rounds=2, answered=1, by_us=False, last_answered=None):
    """What goes again after rounds that left these rows open."""
    rounds = tuple((shard(0, number),) for number in range(len(by_round)))
    trails = []
    for number, rows in enumerate(by_round):
        ran = answered if last_answered is None or number < len(by_round) - 1 else last_answered
        trail = ended(f"b{number}", answered=ran, by_us=by_us, **rows)
        trails.append(attempt(rounds[number][0], **trail))
    return rows_to_repeat(state(*rounds, trails=trails), max_rounds)


ROW = ((3, 3),)


@pytest.mark.parametrize("status", ["failed", "missing", "invalid"])
@pytest.mark.parametrize(("max_rounds", "tries"), [(1, 1), (2, 2)])
def test_a_row_goes_as_often_as_max_rounds_says(status, max_rounds, tries):
    rounds = [{status: ROW}] * tries
    assert repeats(*rounds, max_rounds=max_rounds) == ()
    assert tries == 1 or repeats(*rounds[:-1], max_rounds=max_rounds) == ROW


def test_an_answer_that_does_not_fit_is_asked_for_again_once_however_many_rounds_there_are():
    assert repeats({"invalid": ROW}, max_rounds=5) == ROW
    assert repeats({"invalid": ROW}, {"invalid": ROW}, max_rounds=5) == ()


def test_a_failure_after_an_invalid_answer_may_still_go():
    assert repeats({"invalid": ROW}, {"failed": ROW}, max_rounds=5) == ROW


def test_rows_that_never_ran_use_no_try_up():
    assert repeats(*[{"expired": ROW}] * 4, max_rounds=1) == ROW
    assert repeats({"expired": ROW}, {"failed": ROW}, max_rounds=2) == ROW


def test_rounds_end_when_one_brings_no_answer_at_all():
    assert repeats({"expired": ROW}, answered=0) == ROW
    assert repeats({"expired": ROW}, {"expired": ROW}, last_answered=0) == ()


def test_rows_cancelled_with_their_task_go_again_others_do_not():
    assert repeats({"cancelled": ROW}, by_us=True) == ROW
    assert repeats({"cancelled": ROW}) == ()


def test_a_batch_that_is_only_landed_has_no_second_round():
    assert repeats({"failed": ROW, "expired": ((1, 1),)}, max_rounds=0) == ()


def test_only_the_last_rounds_rows_go_again():
    assert repeats({"expired": ((0, 9),)}, {"expired": ROW}) == ROW


@pytest.mark.parametrize("ranges", [(), ((0, 0),), ((0, 3), (5, 5), (7, 9))])
def test_ranges_and_rows_are_two_spellings_of_one_thing(ranges):
    assert compress(expand(ranges)) == ranges


def refused(shard, times, message="Limit: 1,000 enqueued tokens.", reason="queue_full", **more):
    trails = [attempt(shard, number=number, **void(reason, message=message)) for number in range(times)]
    return decision(state((shard,), trails=trails, **more))


@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("message", ["is rate limited", "Limit: 2,000 batches an hour"])
def test_a_rate_limit_never_makes_a_shard_too_large(rows, message):
    limited = shard(0, rows=rows, tokens=5_000)
    waiting = refused(limited, 40, message=message, reason="rate_limited").waiting
    assert NOW + 300 <= waiting.until <= NOW + 600


def test_a_rate_limit_does_not_count_among_refusals_for_a_full_queue():
    unknown = shard(0, rows=8, tokens=10)
    reasons = ["queue_full", "rate_limited"] * 3
    trails = [attempt(unknown, number=number, **void(reason)) for number, reason in enumerate(reasons)]
    assert decision(state((unknown,), trails=trails)).waiting is not None


def test_a_rate_limit_makes_a_shard_wait_longer_each_time_and_as_long_as_openai_asks():
    first = attempt(**void("rate_limited"))
    again = attempt(number=1, **void("rate_limited"))
    asked = attempt(number=1, **void("rate_limited", pause=1_800))
    assert NOW + 15 <= decision(state(trails=[first])).waiting.until <= NOW + 30
    assert NOW + 30 <= decision(state(trails=[first, again])).waiting.until <= NOW + 60
    assert decision(state(trails=[first, asked])).waiting.until == NOW + 1_800
    assert decision(state(trails=[first, asked]), now=NOW + 1_800).steps == (Submit(shard(), Key(0, 0, 2)),)


def test_a_rate_limit_holds_back_the_shards_of_every_model_for_its_pause():
    shards = (shard(0), shard(1), shard(2, model="other"), shard(3))
    trails = [attempt(shards[0], **void("rate_limited")), attempt(shards[3], **running())]
    outcome = decision(state(shards, trails=trails))
    assert (outcome.steps, outcome.waiting.wake, outcome.waiting.batches) == ((), "all", ("b0",))
    assert "3 shard(s) waiting for the rate limit" in outcome.waiting.reason
    later = decision(state(shards, trails=trails), now=NOW + 30)
    assert [step.shard.number for step in later.steps] == [0, 1, 2]


def test_the_end_of_a_batch_does_not_lift_a_rate_limit():
    shards = (shard(0), shard(1))
    trails = [attempt(shards[0], **ended(at=NOW + 5)), attempt(shards[1], **void("rate_limited", at=NOW))]
    assert decision(state(shards, trails=trails), now=NOW + 6).steps == ()


def test_a_shard_larger_than_the_queue_is_halved_at_once():
    large = shard(0, rows=8, tokens=1001)
    assert refused(large, 1).steps == (Split(large, Key(0, 0, 1)),)


def test_a_shard_that_fits_the_queue_by_far_waits_for_as_long_as_it_takes():
    assert refused(shard(0, rows=8, tokens=400), 20).waiting is not None


def test_a_shard_near_the_limit_is_halved_when_it_is_refused_with_nothing_of_ours_in_the_queue():
    near = shard(0, rows=8, tokens=600)
    assert refused(near, 1).waiting is not None
    assert refused(near, 2).steps == (Split(near, Key(0, 0, 2)),)


def test_a_shard_that_is_always_refused_is_halved_where_no_limit_is_named():
    unknown = shard(0, rows=8, tokens=10)
    assert refused(unknown, 3, message="full").waiting is not None
    assert refused(unknown, 4, message="full").steps == (Split(unknown, Key(0, 0, 4)),)


def test_a_row_larger_than_the_queue_is_given_up():
    row = shard(0, rows=1, tokens=2001)
    assert isinstance(refused(row, 2).steps[0], GiveUp)


def test_a_row_that_may_fit_is_tried_again_and_again_before_it_is_given_up():
    row = shard(0, rows=1, tokens=500)
    assert refused(row, 7).waiting is not None
    assert isinstance(refused(row, 8).steps[0], GiveUp)
    assert refused(shard(0, rows=1, tokens=200), 20).waiting is not None
