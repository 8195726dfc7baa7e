"""``advance``: the whole job, whatever stops it in between."""

from __future__ import annotations

import gzip
import json
import logging
import time
import uuid
from dataclasses import replace
from datetime import datetime

import pytest

from airflow_openai_batch.engine.files import FileSource
from airflow_openai_batch.engine.journal import Journal
from airflow_openai_batch.engine.models import Done, Ended, Key, Waiting
from airflow_openai_batch.engine.runner import advance
from airflow_openai_batch.engine.sources import open_source
from airflow_openai_batch.engine.steps import Submit
from airflow_openai_batch.engine.store import Store
from airflow_openai_batch.engine.submit import Submitter
from airflow_openai_batch.exceptions import (
    AuthenticationError,
    InputError,
    JobOwnedError,
    JobTimeoutError,
    QueueFullError,
    QuotaError,
    RejectedError,
    UnreachableError,
)
from tests.engine.conftest import landed

ROWS = [{"prompt": f"row {n}", "n": n} for n in range(4)]


def again(text="[[emulate:status=500,once]]"):
    """A row whose request ends badly once and is answered then."""
    return {"prompt": f"{text} {uuid.uuid4().hex}"}


def test_a_job_runs_from_rows_to_results(desk, emulator):
    done = desk.run(ROWS, requests_per_batch=2)
    assert done.outputs == [row["prompt"] for row in ROWS]
    assert done.lines[2] == {
        "row": 2,
        "custom_id": "r2",
        "input": ROWS[2],
        "status": "succeeded",
        "output": "row 2",
        "finish_reason": "stop",
        "model": "gpt-5-mini-emulated",
        "usage": done.lines[2]["usage"],
        "error": None,
        "batch_id": done.manifest["batches"][1],
        "round": 0,
    }


def test_the_manifest_sums_the_job_up(desk):
    done = desk.run([*ROWS, {"prompt": "[[emulate:status=400]]"}], requests_per_batch=3)
    manifest = done.manifest
    assert set(manifest) == {
        "version", "job", "destination", "results", "format", "files", "rows", "usage", "models", "endpoint", "batches",
        "rounds", "started_at", "finished_at", "errors_sample", "noise", "cached", "repeats", "estimate", "cost",
    }  # fmt: skip
    assert manifest == json.loads((desk.out / "manifest.json").read_bytes())
    assert (manifest["version"], manifest["format"], manifest["rounds"]) == (1, "jsonl", 1)
    assert (manifest["destination"], manifest["results"]) == (str(desk.out), f"{desk.out}/results")
    assert manifest["files"] == [f"{desk.out}/results/part-0000{n}.jsonl" for n in range(2)]
    assert manifest["endpoint"] == "/v1/chat/completions"
    assert manifest["rows"] == {
        "total": 5, "succeeded": 4, "failed": 1, "invalid": 0, "refused": 0, "truncated": 0, "filtered": 0,
        "expired": 0, "cancelled": 0, "missing": 0,
    }  # fmt: skip
    assert len(set(manifest["batches"])) == 2
    begun, over = (datetime.fromisoformat(manifest[name]) for name in ("started_at", "finished_at"))
    assert begun.utcoffset() is not None
    assert begun <= over
    (error,) = manifest["errors_sample"]
    assert (error["row"], error["status"], error["error"]["status_code"]) == (4, "failed", 400)


def test_usage_is_the_sum_over_what_was_answered(desk):
    done = desk.run(ROWS, requests_per_batch=3)
    for name, count in done.manifest["usage"].items():
        assert count == sum(line["usage"][name] for line in done.lines)
    assert done.manifest["usage"]["total_tokens"] > 0
    assert done.manifest["models"] == {
        "gpt-5-mini": {"rows": 4, "statuses": {"succeeded": 4}, **done.manifest["usage"]}
    }


def test_answers_of_every_round_are_part_of_the_usage(fakes, fake):
    advance(fakes.job(["a"], response_format={"type": "json_object"}))
    fake.end(answer=lambda request: fake.answered(request, "no json"))
    assert isinstance(advance(fakes.job(["a"], response_format={"type": "json_object"})), Waiting)
    fake.end(answer=lambda request: fake.answered(request, '{"a": 1}'))
    done = fakes.finish(fakes.job(["a"], response_format={"type": "json_object"}))
    assert (done.outputs, done.lines[0]["round"]) == ([{"a": 1}], 1)
    assert done.manifest["usage"]["total_tokens"] == 10
    assert done.manifest["rounds"] == 2


def test_a_finished_job_returns_its_manifest_at_no_cost(desk, emulator):
    done = desk.run(ROWS)
    calls = emulator.ledger.calls
    assert advance(desk.job(ROWS)) == Done(done.manifest)
    assert emulator.ledger.calls == calls


def test_results_can_be_derived_again_at_no_cost(desk, emulator):
    done = desk.run(ROWS)
    (desk.out / "manifest.json").unlink()
    billed, created = emulator.ledger.rows_billed, emulator.ledger.calls["batches.create"]
    redone = desk.run(ROWS)
    assert redone.lines == done.lines
    assert (emulator.ledger.rows_billed, emulator.ledger.calls["batches.create"]) == (billed, created)


def test_nothing_is_left_at_openai(desk, emulator):
    before = {file["id"] for file in emulator.ledger.files}
    desk.run([*ROWS, {"prompt": "[[emulate:status=400]]"}])
    assert {file["id"] for file in emulator.ledger.files} == before


def test_files_are_left_where_the_user_wants_them(fakes, fake):
    advance(fakes.job(ROWS, delete_files=False))
    fake.end()
    fakes.finish(fakes.job(ROWS, delete_files=False))
    assert fake.calls["delete_file"] == 0


def test_a_file_that_can_not_be_deleted_fails_nothing(fakes, fake):
    advance(fakes.job(ROWS))
    fake.end()
    fake.errors["delete_file"] = [UnreachableError("no")]
    assert fakes.finish(fakes.job(ROWS)).manifest["rows"]["succeeded"] == 4


def test_raw_answers_are_kept_and_no_draft_is(desk):
    desk.run([*ROWS, {"prompt": "[[emulate:status=400]]"}])
    left = desk.left()
    assert {"out/_job/raw/00000.r0.a0.output.jsonl", "out/_job/raw/00000.r0.a0.error.jsonl"} <= set(left)
    assert not [name for name in left if "tmp" in name or "/." in name]


def test_rows_that_failed_in_passing_go_again_and_are_landed_in_their_place(desk):
    rows = [ROWS[0], again(), ROWS[1], again("[[emulate:lost,once]]"), ROWS[2]]
    done = desk.run(rows, requests_per_batch=2)
    assert done.statuses == ["succeeded"] * 5
    assert [line["round"] for line in done.lines] == [0, 1, 0, 1, 0]
    assert done.outputs == [row["prompt"] for row in rows]


def test_rows_that_were_refused_for_good_do_not_go_again(desk, emulator):
    markers = ("status=400", "refusal", "content_filter", "length")
    done = desk.run([{"prompt": f"[[emulate:{marker}]] text"} for marker in markers])
    assert done.statuses == ["failed", "refused", "filtered", "truncated"]
    assert done.manifest["rounds"] == 1


def test_max_rounds_is_the_number_of_tries(desk):
    assert desk.run([{"prompt": "[[emulate:status=500]] 1"}], max_rounds=1).manifest["rounds"] == 1
    desk.folder /= "more"
    done = desk.run([{"prompt": "[[emulate:status=500]] 2"}], max_rounds=3)
    assert done.manifest["rounds"] == 3
    assert (done.statuses, done.lines[0]["round"]) == (["failed"], 2)


def test_a_submitting_task_stops_when_all_is_submitted_and_a_later_one_when_all_has_ended(fakes, fake):
    assert isinstance(advance(fakes.job(ROWS), stop="submitted"), Waiting)
    fake.end()
    assert advance(fakes.job(ROWS), stop="ended") == Ended(("batch-0",))
    assert not (fakes.out / "manifest.json").exists()
    assert isinstance(advance(fakes.job(ROWS)), Done)


@pytest.mark.parametrize("stopped_after", range(1, 19))
def test_a_job_that_dies_anywhere_goes_on_and_buys_nothing_twice(fakes, fake, clock, monkeypatch, stopped_after):
    """Die at each journal entry in turn, before it is written and after."""
    from airflow_openai_batch.engine import store as module

    whole, steps = module.Store.create, []

    def create(self, name, content):
        steps.append(name)
        if len(steps) == (stopped_after + 1) // 2:
            if stopped_after % 2:
                raise KeyboardInterrupt
            whole(self, name, content)
            raise KeyboardInterrupt
        return whole(self, name, content)

    monkeypatch.setattr(module.Store, "create", create)
    died = 0
    for _ in range(10):
        try:
            outcome = advance(fakes.job(ROWS, requests_per_batch=3, delete_files=False))
        except KeyboardInterrupt:
            died += 1
            continue
        if isinstance(outcome, Done):
            break
        for batch in list(fake.batches.values()):
            if batch.status == "in_progress" and batch.id in outcome.batches:
                fake.end(batch.id)
        clock.now = max(clock.now, outcome.until or 0)
    assert died == 1
    assert outcome.manifest["rows"]["succeeded"] == 4
    ran = [request["custom_id"] for batch_id in outcome.manifest["batches"] for request in fake.requests(batch_id)]
    assert sorted(ran) == ["r0", "r1", "r2", "r3"]
    assert len(fake.batches) == 2


def test_while_openai_can_not_be_reached_the_job_waits(fakes, fake, clock, caplog):
    advance(fakes.job(ROWS))
    fake.errors["retrieve_batch"] = [UnreachableError("no answer")]
    outcome = advance(fakes.job(ROWS))
    assert (outcome.batches, outcome.until) == (("batch-0",), clock.now + 30)
    assert "they run on" in caplog.text


def test_many_batches_are_looked_at_by_the_list(fakes, fake):
    advance(fakes.job(ROWS, requests_per_batch=1))
    assert len(fake.batches) == 4
    for batch_id in fake.batches:
        fake.end(batch_id)
    fake.calls.clear()
    assert fakes.finish(fakes.job(ROWS, requests_per_batch=1)).outputs == [row["prompt"] for row in ROWS]
    assert (fake.calls["list_batches"], fake.calls["retrieve_batch"]) == (1, 0)


def test_a_batch_that_the_list_does_not_show_is_retrieved(fakes, fake, monkeypatch):
    advance(fakes.job(ROWS, requests_per_batch=1))
    for batch_id in fake.batches:
        fake.end(batch_id)
    monkeypatch.setattr(fake, "list_batches", lambda: iter(list(fake.batches.values())[:2]))
    assert fakes.finish(fakes.job(ROWS, requests_per_batch=1)).manifest["rows"]["succeeded"] == 4
    assert fake.calls["retrieve_batch"] == 2


def test_a_list_that_fails_is_no_outage_while_batches_can_be_retrieved(fakes, fake):
    advance(fakes.job(ROWS, requests_per_batch=1))
    for batch_id in fake.batches:
        fake.end(batch_id)
    fake.errors["list_batches"] = [UnreachableError("answered 501", status=501)]
    assert isinstance(advance(fakes.job(ROWS, requests_per_batch=1)), Done)


def test_a_list_and_a_batch_that_fail_are_an_outage(fakes, fake, clock):
    advance(fakes.job(ROWS, requests_per_batch=1))
    fake.calls.clear()
    for name in ("list_batches", "retrieve_batch"):
        fake.errors[name] = [UnreachableError("answered 500", status=500)]
    outcome = advance(fakes.job(ROWS, requests_per_batch=1))
    assert (len(outcome.batches), outcome.until, fake.calls["retrieve_batch"]) == (4, clock.now + 30, 1)


def test_timeout_names_the_batches_that_run_on(fakes, clock):
    assert advance(fakes.job(ROWS, timeout=100.0)).until == clock.now + 100
    clock.now += 101
    with pytest.raises(JobTimeoutError, match=r"isn't done 100 s after .*: batch-0\. Clear the task"):
        advance(fakes.job(ROWS, timeout=100.0))


def test_what_was_finished_is_landed_when_the_timeout_passes_and_a_longer_one_goes_on(fakes, fake, clock):
    options = {"requests_per_batch": 2, "max_rounds": 1}
    advance(fakes.job(ROWS, timeout=100.0, **options))
    fake.end("batch-0")
    clock.now += 101
    with pytest.raises(JobTimeoutError, match=r"2 of 4 rows are landed .*/results.*: batch-1\. Clear"):
        advance(fakes.job(ROWS, timeout=100.0, **options))
    lines = [line for part in sorted(fakes.out.glob("results/*")) for line in part.read_text().splitlines()]
    assert [json.loads(line)["status"] for line in lines] == ["succeeded"] * 2 + ["missing"] * 2
    assert not (fakes.out / "manifest.json").exists()
    fake.end("batch-1")
    assert fakes.finish(fakes.job(ROWS, timeout=1000.0, **options)).statuses == ["succeeded"] * 4


def test_a_batch_long_past_its_window_is_cancelled_and_its_rows_go_again(fakes, fake, clock):
    advance(fakes.job(ROWS))
    fake.batches["batch-0"] = replace(fake.batches["batch-0"], expires_at=clock.now + 86_400)
    waiting = advance(fakes.job(ROWS))
    assert waiting.until == clock.now + 86_400 + 3_600
    clock.now = waiting.until
    advance(fakes.job(ROWS))
    assert fake.batches["batch-0"].status == "cancelling"
    fake.end(status="cancelled", answer=lambda request: fake.not_run(request, "batch_cancelled"))
    assert advance(fakes.job(ROWS)).batches == ("batch-1",)
    fake.end()
    assert fakes.finish(fakes.job(ROWS)).statuses == ["succeeded"] * 4


def test_a_batch_that_does_not_even_end_when_cancelled_is_taken_to_have_expired(fakes, fake, clock):
    advance(fakes.job(ROWS, max_rounds=1))
    fake.batches["batch-0"] = replace(fake.batches["batch-0"], expires_at=clock.now)
    for _ in range(2):
        clock.now += 3_601
        waiting = advance(fakes.job(ROWS, max_rounds=1))
    assert waiting.batches == ("batch-1",)
    fake.batches["batch-1"] = replace(fake.batches["batch-1"], expires_at=clock.now)
    for _ in range(2):
        clock.now += 3_601
        outcome = advance(fakes.job(ROWS, max_rounds=1))
    # A second round in which nothing was answered is the last.
    assert isinstance(outcome, Done)
    assert outcome.manifest["rows"]["expired"] == 4


def test_a_destination_that_another_task_instance_works_on_is_refused(fakes):
    advance(fakes.job(ROWS))
    other = fakes.job(ROWS, owner={"task": "other"})
    other._is_live = lambda owner: owner == {"task": "t"}
    with pytest.raises(JobOwnedError, match=r"another task instance is working on \(task t\)"):
        advance(other)


def test_a_job_whose_owner_is_gone_is_gone_on_with(fakes, fake):
    advance(fakes.job(ROWS))
    fake.end()
    assert fakes.finish(fakes.job(ROWS, owner={"task": "other"})).statuses == ["succeeded"] * 4
    assert fake.calls["create_batch"] == 1


def test_who_took_a_job_over_owns_it(fakes):
    advance(fakes.job(ROWS))
    advance(fakes.job(ROWS, owner={"task": "second"}))
    for third in ({"task": "third"}, {"task": "t"}):
        other = fakes.job(ROWS, owner=third)
        other._is_live = lambda owner: owner == {"task": "second"}
        with pytest.raises(JobOwnedError, match=r"working on \(task second\)"):
            advance(other)
    advance(fakes.job(ROWS, owner={"task": "second"}))


def test_of_two_that_take_a_job_over_one_gets_it(fakes, monkeypatch):
    advance(fakes.job(ROWS))
    late = fakes.job(ROWS, owner={"task": "late"})
    late._is_live = lambda owner: owner == {"task": "early"}
    take_over = Journal.take_over

    def overtaken(journal, record, number):
        monkeypatch.setattr(Journal, "take_over", take_over)
        advance(fakes.job(ROWS, owner={"task": "early"}))
        return take_over(journal, record, number)

    monkeypatch.setattr(Journal, "take_over", overtaken)
    with pytest.raises(JobOwnedError, match=r"working on \(task early\)"):
        advance(late)


class Intruded(Store):
    """A store at which something else happens before a file is created."""

    before: dict

    def create(self, name, content):
        for ending in list(self.before):
            if name.endswith(ending):
                self.before.pop(ending)()
        return super().create(name, content)


FULL = "Enqueued token limit reached. Limit: 1 enqueued tokens."


@pytest.mark.parametrize("meanwhile", ["running", "ended", "refused"])
def test_a_shard_that_another_attempt_submits_at_this_moment_is_not_halved(fakes, fake, clock, meanwhile):
    fake.errors["create_batch"] = [QueueFullError(FULL)]

    def submit_whole():
        """What an attempt does that stood still since it read the journal."""
        journal = Journal(store)
        state = journal.state(journal.job())
        (whole,) = state.rounds[0]
        if meanwhile == "refused":
            fake.errors["create_batch"] = [QueueFullError(FULL)]
        job = fakes.job(ROWS)
        Submitter(fake, store, journal, job.spec, clock).submit(Submit(whole, Key(0, 0, 1)), state)
        if meanwhile == "ended":
            fake.end()

    store = Intruded.at(str(fakes.out))
    store.before = {"00000.r0.a1.intent.json": submit_whole}
    for _ in range(20):
        outcome = advance(fakes.job(ROWS, store=store, delete_files=False))
        if isinstance(outcome, Done):
            break
        for batch_id in outcome.batches:
            fake.end(batch_id)
        clock.now += 60
    done = landed(outcome.manifest)
    assert done.statuses == ["succeeded"] * 4
    assert not store.before
    bought = [request["custom_id"] for batch_id in fake.batches for request in fake.requests(batch_id)]
    assert sorted(bought) == ["r0", "r1", "r2", "r3"]
    assert len(fake.batches) == (2 if meanwhile == "refused" else 1)


def test_with_several_models_every_row_goes_to_each_and_has_a_result_for_each(desk):
    rows = [{"text": again()["prompt"] if n == 1 else f"{n} great", "custom_id": f"id {n}"} for n in range(5)]
    models = ["gpt-5-mini", "gpt-5-nano", "gpt-4.1-mini"]
    done = desk.run(rows, prompt="{{ row.text }}", model=models, requests_per_batch=2)
    assert [(line["row"], line["custom_id"]) for line in done.lines] == [(n // 3, f"id {n // 3}") for n in range(15)]
    assert [line["input"] for line in done.lines] == [{**rows[n // 3]} for n in range(15)]
    assert [line["model"].startswith(models[n % 3]) for n, line in enumerate(done.lines)] == [True] * 15
    assert done.statuses == ["succeeded"] * 15
    assert done.manifest["rows"]["total"] == 15
    assert {name: told["statuses"] for name, told in done.manifest["models"].items()} == {
        name: {"succeeded": 5} for name in models
    }
    assert done.manifest["rounds"] == 2
    assert {line["round"] for line in done.lines if line["row"] == 1} == {1}


def test_a_problem_in_a_row_is_told_by_its_place_whatever_the_number_of_models(desk, fakes, fake, write, caplog):
    name = write("in.jsonl", [{"prompt": f"row {n}"} for n in range(3)])
    job = fakes.job(lambda: open_source(str(name)), model=["a", "b"])
    advance(job)
    fake.end("batch-1", status="failed", issues=[{"code": "bad", "message": "no", "line": 2}])
    fake.end("batch-0")
    advance(fakes.job(lambda: open_source(str(name)), model=["a", "b"]))
    fake.end("batch-2")
    done = fakes.finish(fakes.job(lambda: open_source(str(name)), model=["a", "b"]))
    assert "row 1 (" in caplog.text
    assert "in.jsonl, line 2)" in caplog.text
    assert [(error["row"], error["status"]) for error in done.manifest["errors_sample"]] == [(1, "failed")]


@pytest.mark.parametrize("given", ["a", ["a", "b"]], ids=["one", "several"])
def test_a_row_that_names_its_own_model_goes_to_it_unless_several_are_given(desk, given):
    line = {"custom_id": "x", "method": "POST", "url": "/v1/chat/completions"}
    line["body"] = {"model": "gpt-5-nano", "messages": [{"role": "user", "content": "hi"}]}
    if given == "a":
        assert desk.run([line], model="a").lines[0]["model"].startswith("gpt-5-nano")
    else:
        with pytest.raises(InputError, match="names its own model"):
            desk.run([line], model=given)


def test_without_a_model_each_row_names_its_own(desk):
    rows = [{"prompt": "hi", "model": name} for name in ("gpt-5-mini", "gpt-5-nano", "gpt-5-mini")]
    done = desk.run(rows, model=None)
    assert sorted(done.manifest["models"]) == ["gpt-5-mini", "gpt-5-nano"]
    with pytest.raises(InputError, match="or a model in each row"):
        desk.run([{"prompt": "hi", "model": 3}], model=None, out=desk.folder / "other")


@pytest.mark.parametrize("dies_after", ["intent.json", "split.json"])
def test_a_shard_whose_halving_was_cut_short_is_halved_by_the_next(fakes, fake, dies_after):
    fake.errors["create_batch"] = [QueueFullError(FULL)]

    class Dying(Store):
        def create(self, name, content):
            made = super().create(name, content)
            if name.endswith(("00000.r0.a1.intent.json", "split.json")) and name.endswith(dies_after):
                raise KeyboardInterrupt
            return made

    with pytest.raises(KeyboardInterrupt):
        advance(fakes.job(ROWS, store=Dying.at(str(fakes.out))))
    assert len(advance(fakes.job(ROWS)).batches) == 2
    assert (fake.calls["create_batch"], len(fake.batches)) == (3, 2)


@pytest.mark.parametrize("first", ["collected", "noted"])
def test_attempts_agree_on_what_becomes_of_a_batch_found_cancelled(fakes, fake, first):
    advance(fakes.job(ROWS))
    fake.end(status="cancelled", answer=lambda request: fake.not_run(request, "batch_cancelled"))
    store = Intruded.at(str(fakes.out))
    outcomes = []
    if first == "collected":
        # A new try is about to note that the rows go again, when one of before has landed them as cancelled.
        store.before = {"cancel.json": lambda: outcomes.append(advance(fakes.job(ROWS)))}
        outcomes.append(advance(fakes.job(ROWS, store=store), new_try=True))
        assert [isinstance(outcome, Done) for outcome in outcomes] == [True, True]
        assert outcomes[0].manifest["rows"] == outcomes[1].manifest["rows"]
        assert len(fake.batches) == 1
    else:
        # The one of before is about to land them, when the new try notes that they go again.
        store.before = {"cancel.json": lambda: outcomes.append(advance(fakes.job(ROWS), new_try=True))}
        outcomes.append(advance(fakes.job(ROWS, store=store)))
        assert [outcome.batches for outcome in outcomes] == [("batch-1",), ("batch-1",)]
        fake.end()
        assert fakes.finish(fakes.job(ROWS)).statuses == ["succeeded"] * 4


def test_a_job_that_is_late_but_done_is_landed(fakes, fake, clock):
    advance(fakes.job(ROWS, timeout=100.0))
    fake.end()
    clock.now += 1_000
    assert isinstance(advance(fakes.job(ROWS, timeout=100.0)), Done)


@pytest.mark.parametrize("error", [AuthenticationError("key"), QuotaError("no credit"), RejectedError("no")])
def test_a_refused_create_fails_the_task_and_a_retry_uses_the_same_upload(fakes, fake, error):
    fake.errors["create_batch"] = [error]
    with pytest.raises(type(error)):
        advance(fakes.job(ROWS))
    assert isinstance(advance(fakes.job(ROWS)), Waiting)
    assert (fake.calls["upload"], fake.calls["create_batch"], len(fake.batches)) == (1, 2, 1)


def test_cancelling_asks_for_every_batch_in_flight(fakes, fake):
    advance(fakes.job(ROWS, requests_per_batch=2))
    fake.end("batch-0")
    advance(fakes.job(ROWS, requests_per_batch=2))
    assert fakes.job(ROWS, requests_per_batch=2).cancel("test") == ("batch-1",)
    assert [batch.status for batch in fake.batches.values()] == ["completed", "cancelling"]


@pytest.mark.parametrize("noted", [True, False], ids=["by a worker", "by a triggerer"])
def test_what_was_cancelled_with_its_task_goes_again_in_the_next_try(fakes, fake, noted):
    advance(fakes.job(ROWS))
    if noted:
        fakes.job(ROWS).cancel("test", again=True)

    def half(request):
        done = request["custom_id"] in {"r0", "r2"}
        return fake.answered(request) if done else fake.not_run(request, "batch_cancelled")

    fake.end(status="cancelled", answer=half)
    assert isinstance(advance(fakes.job(ROWS), new_try=True), Waiting)
    assert [request["custom_id"] for request in fake.requests("batch-1")] == ["r1", "r3"]
    fake.end()
    done = fakes.finish(fakes.job(ROWS))
    assert done.statuses == ["succeeded"] * 4
    assert [line["round"] for line in done.lines] == [0, 1, 0, 1]


@pytest.mark.parametrize("by_operator", [True, False], ids=["by the cancel operator", "by somebody else"])
def test_rows_of_a_batch_that_was_cancelled_on_purpose_stay_cancelled(fakes, fake, by_operator):
    advance(fakes.job(ROWS))
    if by_operator:
        fakes.job(ROWS).cancel("test")
    fake.end(status="cancelled", answer=lambda request: fake.not_run(request, "batch_cancelled"))
    done = fakes.finish(fakes.job(ROWS))
    assert (done.statuses, done.manifest["rounds"]) == (["cancelled"] * 4, 1)
    assert done.lines[0]["error"] == {"code": "batch_cancelled", "message": "never ran"}


def test_an_expired_batch_keeps_what_was_done_and_the_rest_goes_again(desk, emulator):
    emulator.add_fault(fault="expire", after_rows=1)
    done = desk.run([{"prompt": f"expiring {n} {uuid.uuid4().hex}"} for n in range(3)], max_rounds=1)
    assert done.statuses == ["succeeded"] * 3
    assert [line["round"] for line in done.lines] == [0, 1, 1]
    assert emulator.ledger.faults["expire"] == 1


def test_rows_expire_when_no_batch_gets_to_them(fakes, fake):
    for _ in range(2):
        advance(fakes.job(ROWS))
        fake.end(status="expired", answer=fake.not_run)
    done = fakes.finish(fakes.job(ROWS))
    assert (done.statuses, done.manifest["rounds"]) == (["expired"] * 4, 2)


def bad(rows, **options):
    return pytest.param(rows, options)


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        bad([]),
        bad([None]),
        bad([{"prompt": 5}]),
        bad([{"text": "a"}]),
        bad([{"text": "a"}], prompt="{{ row.nope }}"),
        bad([{"prompt": "a"}], model=None),
        bad([{"prompt": "a", "custom_id": "x"}] * 2),
        bad([{"prompt": "a" * 300}], bytes_per_batch=300),
        bad([{"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": {"input": "a"}}]),
        bad([{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"stream": True}}]),
        bad(lambda: (_ for _ in ()).throw(InputError([]))),
    ],
)
def test_bad_input_costs_nothing_and_leaves_nothing(desk, emulator, rows, options):
    calls = emulator.ledger.calls
    with pytest.raises(InputError):
        advance(desk.job(rows, **options))
    assert emulator.ledger.calls == calls
    assert not desk.out.exists()


def test_another_job_at_the_destination_costs_nothing(desk, emulator):
    desk.run(ROWS)
    calls, left = emulator.ledger.calls, desk.left()
    from airflow_openai_batch.exceptions import JobMismatchError

    with pytest.raises(JobMismatchError):
        advance(desk.job(ROWS[:2]))
    assert (emulator.ledger.calls, desk.left()) == (calls, left)


def test_no_secret_is_written_or_logged(desk, emulator, caplog):
    from airflow_openai_batch.client import ClientConfig, OpenAIBatchClient

    key = "sk-very-secret-indeed-1234567890"
    client = OpenAIBatchClient(ClientConfig("c", key, emulator.base_url, max_retries=1))
    emulator.add_fault(fault="status", call="files.create", status=500)
    with caplog.at_level(logging.DEBUG):
        done = desk.run([*ROWS, {"prompt": "[[emulate:status=400]]"}], api=client)
    client.close()
    assert done.manifest["rows"]["succeeded"] == 4
    assert "Uploading" in caplog.text
    assert key not in caplog.text
    for name in desk.left():
        assert key.encode() not in (desk.folder / name).read_bytes(), name


def test_the_journal_tells_the_whole_story(desk):
    desk.run([ROWS[0], again()])
    journal = Journal(Store.at(str(desk.out)))
    state = journal.state(journal.job())
    assert len(state.rounds) == 2
    for attempt in state.all_attempts():
        assert attempt.upload.at <= attempt.intent.at <= attempt.batch.at <= attempt.end.at
    assert state.in_flight() == []


def left_on(store):
    """All keys of the store's bucket, and the uploads that were begun and not ended."""
    bucket = store.root.split("/")[0]
    store.fs.invalidate_cache()
    pending = store.fs.call_s3("list_multipart_uploads", Bucket=bucket).get("Uploads", [])
    return [path for path in store.fs.find(bucket) if "/in/" not in path] + pending


def test_a_job_on_s3_runs_from_files_to_results(desk, s3_store):
    bucket = s3_store.root.split("/")[0]
    s3_store.fs.pipe_file(f"{bucket}/in/b.jsonl.gz", gzip.compress(b'{"prompt":"b"}\n'))
    s3_store.fs.pipe_file(f"{bucket}/in/a.jsonl", b'{"prompt":"a"}\n' * 2)
    job = desk.job(lambda: FileSource(s3_store.fs, f"{bucket}/in", f"s3://{bucket}/in"), store=s3_store)
    while isinstance(outcome := advance(job), Waiting):
        time.sleep(0.02)
    manifest = outcome.manifest
    assert manifest["files"] == [f"s3://{bucket}/out/results/part-00000.jsonl"]
    lines = [json.loads(line) for line in s3_store.read("results/part-00000.jsonl").splitlines()]
    assert [line["output"] for line in lines] == ["a", "a", "b"]
    again = desk.job(lambda: FileSource(s3_store.fs, f"{bucket}/in", f"s3://{bucket}/in"), store=s3_store)
    assert advance(again) == Done(manifest)


def test_bad_input_leaves_nothing_on_s3(desk, s3_store):
    bucket = s3_store.root.split("/")[0]
    before = left_on(s3_store)
    s3_store.fs.pipe_file(f"{bucket}/in/a.jsonl", b'{"prompt":"a"}\n{"prompt":5}\n')
    job = desk.job(lambda: FileSource(s3_store.fs, f"{bucket}/in", f"s3://{bucket}/in"), store=s3_store)
    with pytest.raises(InputError, match=rf"s3://{bucket}/in/a\.jsonl, line 2: prompt: must be a string"):
        advance(job)
    assert left_on(s3_store) == before
    with pytest.raises(InputError):
        advance(desk.job([{"prompt": "a"}] * 5 + [None], store=s3_store, requests_per_batch=2))
    assert left_on(s3_store) == before
