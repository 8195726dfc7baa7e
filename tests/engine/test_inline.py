"""Requests that are sent in the create call: no file, and still nothing is bought twice."""

from __future__ import annotations

import json

import pytest

from airflow_openai_batch.engine import inline
from airflow_openai_batch.engine.inline import INLINE_BYTES, Since, bytes_per_batch
from airflow_openai_batch.engine.journal import Journal
from airflow_openai_batch.engine.models import Waiting
from airflow_openai_batch.engine.runner import advance
from airflow_openai_batch.exceptions import (
    ConfigurationError,
    JournalError,
    NotFoundError,
    QueueFullError,
    RejectedError,
    UnreachableError,
)

ROWS = [{"prompt": f"row {n}\u2028é"} for n in range(4)]
INLINE = {"submission": "inline"}


def trail(desk):
    journal = Journal(desk.job(ROWS).store)
    return journal.state(journal.job()).all_attempts()


@pytest.fixture
def gateway(start):
    """Jobs on an emulator that takes requests inline and is as OpenAI in all else, and its ledger."""
    return start(oddity=["inline_create"])


def test_a_job_runs_without_a_file_and_leaves_none(gateway):
    desk, ledger = gateway
    rows = [*ROWS, {"prompt": "late [[emulate:status=500,once]]"}]
    done = desk.run(rows, requests_per_batch=2, **INLINE)
    assert done.outputs[:4] == [row["prompt"] for row in ROWS]
    assert done.statuses == ["succeeded"] * 5
    assert done.manifest["rounds"] == 2
    assert "files.create" not in ledger.calls
    assert ledger.calls["batches.create"] == len(ledger.batches) == 4
    assert (ledger.rows_billed, ledger.rows_billed_twice, ledger.files) == (5, 0, [])
    assert desk.api.retrieve_batch(done.manifest["batches"][0]).input_file_id is None


def test_what_is_sent_are_the_lines_of_the_shard(fakes, fake):
    advance(fakes.job(ROWS, metadata={"team": "menu"}, **INLINE))
    assert fake.inline["batch-0"].encode() == (fakes.out / "_job" / "shards" / "00000.jsonl").read_bytes()
    assert [json.loads(line)["custom_id"] for line in fake.inline["batch-0"].split("\n") if line] == [
        "r0",
        "r1",
        "r2",
        "r3",
    ]
    assert fake.batches["batch-0"].metadata["team"] == "menu"
    assert (fake.calls["upload"], fake.calls["files_named"], fake.calls["find_file"]) == (0, 0, 0)


@pytest.mark.parametrize("when", ["during", "after"])
def test_a_create_whose_answer_was_lost_is_adopted_by_its_metadata(start, when):
    desk, ledger = start(oddity=["inline_create"], fault=[f"drop,call=batches.create,when={when},times=1"])
    done = desk.run(ROWS, **INLINE)
    assert done.statuses == ["succeeded"] * 4
    assert (len(ledger.batches), ledger.rows_billed) == (1, 4)
    assert trail(desk)[0].batch.adopted


def test_a_create_that_never_arrived_is_made_again_once_it_can_not_exist(fakes, fake, clock):
    fake.errors["create_batch"] = [UnreachableError("no answer")]
    # One create's time for a process that stands still after its intent, one for the call, and the list's.
    assert advance(fakes.job(ROWS, **INLINE)).until == clock.now + 90
    clock.now += 89
    assert advance(fakes.job(ROWS, **INLINE)).batches == ()
    clock.now += 1
    assert advance(fakes.job(ROWS, **INLINE)).batches == ("batch-0",)
    first, second = trail(fakes)
    assert (first.void.reason, first.fence, first.doom, second.key.attempt) == ("absent", None, None, 1)
    assert fake.calls["delete_file"] == 0


def test_a_batch_is_found_however_wrong_the_servers_clock_is(fakes, fake, clock, monkeypatch):
    fake.lost["create_batch"] = [UnreachableError("no answer")]
    monkeypatch.setattr(fake, "clock", lambda: clock.now - 7_200)
    assert advance(fakes.job(ROWS, **INLINE)).batches == ("batch-0",)
    assert fake.calls["create_batch"] == 1


@pytest.mark.parametrize("which", ["the job's clock", "the monotonic clock"])
def test_a_process_that_stood_still_after_its_intent_sends_nothing_any_more(fakes, fake, clock, monkeypatch, which):
    job = fakes.job(ROWS, **INLINE)
    create = job.store.create
    ticks = [100.0]
    monkeypatch.setattr(inline.time, "monotonic", lambda: ticks[0])

    def slow(name, content):
        created = create(name, content)
        if name.endswith(".a0.intent.json"):
            if which == "the job's clock":
                clock.now += 31
            else:
                ticks[0] += 31
        return created

    monkeypatch.setattr(job.store, "create", slow)
    assert advance(job).batches == ("batch-0",)
    first, second = trail(fakes)
    assert (first.void.reason, first.void.message) == ("absent", "not sent: 31 s went by after its intent")
    assert second.batch.batch_id == "batch-0"
    assert fake.calls["create_batch"] == 1


def test_the_clock_that_went_on_further_counts(clock, monkeypatch):
    monkeypatch.setattr(inline.time, "monotonic", lambda: 5.0)
    since = Since(clock)
    clock.now += 3
    assert since.seconds() == 3
    monkeypatch.setattr(inline.time, "monotonic", lambda: 12.0)
    assert since.seconds() == 7


@pytest.mark.parametrize("file_id", [None, "file-made-by-the-server"])
def test_a_list_without_metadata_gives_no_create_up(fakes, fake, clock, monkeypatch, file_id):
    fake.lost["create_batch"] = [UnreachableError("no answer")]
    shown = fake.list_batches
    hide = {"input_file_id": file_id, "metadata": {}}
    monkeypatch.setattr(fake, "list_batches", lambda: (type(batch)(**{**vars(batch), **hide}) for batch in shown()))
    assert advance(fakes.job(ROWS, **INLINE)).batches == ()
    clock.now += 90
    with pytest.raises(RejectedError, match=r"create of shard 00000\.r0\.a0 made batch batch-0 can't be told"):
        advance(fakes.job(ROWS, **INLINE))
    assert fake.calls["create_batch"] == 1
    monkeypatch.setattr(fake, "list_batches", shown)
    assert advance(fakes.job(ROWS, **INLINE)).batches == ("batch-0",)


def test_a_nameless_batch_of_long_ago_is_nobody_elses_doubt(fakes, fake, clock, monkeypatch):
    fake.create_batch(input_file_content="{}", endpoint="/v1/chat/completions", metadata={})
    clock.now += 3_600
    fake.errors["create_batch"] = [UnreachableError("no answer")]
    advance(fakes.job(ROWS, **INLINE))
    clock.now += 90
    assert advance(fakes.job(ROWS, **INLINE)).batches == ("batch-1",)


def test_a_key_that_does_not_see_the_jobs_batches_gives_no_create_up(fakes, fake, clock, monkeypatch):
    options = {"requests_per_batch": 2, **INLINE}
    fake.lost["create_batch"] = [UnreachableError("no answer")]
    shown = fake.list_batches
    monkeypatch.setattr(fake, "list_batches", lambda: iter(()))
    assert advance(fakes.job(ROWS, **options)).batches == ("batch-1",)
    fake.end("batch-1")
    advance(fakes.job(ROWS, **options))
    clock.now += 90

    def other_project(batch_id):
        raise NotFoundError(f"no {batch_id}", status=404)

    retrieve = fake.retrieve_batch
    monkeypatch.setattr(fake, "retrieve_batch", other_project)
    with pytest.raises(
        NotFoundError, match=r"no batch-1\. The answer to the create of shard 00000\.r0\.a0 was lost, and"
    ):
        advance(fakes.job(ROWS, **options))
    monkeypatch.setattr(fake, "retrieve_batch", retrieve)
    monkeypatch.setattr(fake, "list_batches", shown)
    assert advance(fakes.job(ROWS, **options)).batches == ("batch-0",)
    assert fake.calls["create_batch"] == 2


def test_openai_itself_refuses_and_the_error_says_what_to_do(start):
    desk, ledger = start()
    with pytest.raises(RejectedError, match=r"Unknown parameter: 'input_file_content'.*submission=\"file\"") as caught:
        desk.run(ROWS, **INLINE)
    assert (caught.value.retryable, caught.value.status, caught.value.code) == (False, 400, "unknown_parameter")
    assert ledger.batches == []
    assert desk.run(ROWS).statuses == ["succeeded"] * 4
    assert ledger.rows_billed == 4


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (RejectedError("too much", status=413), "smaller max_batch_bytes"),
        (RejectedError("Missing required parameter: 'input_file_id'.", status=400), 'submission="file"'),
        (RejectedError("no", status=400, param="input_file_id"), 'submission="file"'),
        (RejectedError("window", status=400, param="completion_window"), None),
    ],
)
def test_refusals_say_what_to_do(fakes, fake, error, advice):
    fake.errors["create_batch"] = [error]
    with pytest.raises(RejectedError, match=advice or "^window$"):
        advance(fakes.job(ROWS, **INLINE))
    assert trail(fakes)[0].void.reason == "refused"
    assert advance(fakes.job(ROWS)).batches == ("batch-0",)
    assert fake.batches["batch-0"].input_file_id == "file-0"


def test_an_upload_of_before_is_deleted_when_the_requests_go_inline(fakes, fake):
    fake.lost["upload"] = [UnreachableError("no answer")]
    with pytest.raises(UnreachableError):
        advance(fakes.job(ROWS))
    fake.errors["delete_file"] = [UnreachableError("no answer")]
    fake.errors["create_batch"] = [QueueFullError("full")]
    waiting = advance(fakes.job(ROWS, **INLINE))
    assert isinstance(waiting, Waiting)
    assert fake.files["file-0"][1] is not None

    # It is tried once for the attempt that uploaded it.
    fakes.clock.now = waiting.until
    assert advance(fakes.job(ROWS, **INLINE)).batches == ("batch-0",)
    assert fake.batches["batch-0"].input_file_id is None


def test_a_file_is_uploaded_when_the_requests_went_inline_before(fakes, fake, clock):
    fake.errors["create_batch"] = [QueueFullError("full")]
    clock.now = advance(fakes.job(ROWS, **INLINE)).until
    assert advance(fakes.job(ROWS)).batches == ("batch-0",)
    assert (fake.calls["upload"], fake.batches["batch-0"].input_file_id) == (1, "file-0")
    fake.end()
    assert fakes.finish(fakes.job(ROWS)).statuses == ["succeeded"] * 4


def test_an_attempt_in_other_hands_is_left_to_them(fakes, fake, monkeypatch):
    job = fakes.job(ROWS, **INLINE)
    create = job.store.create

    def overtaken(name, content):
        if name.endswith("intent.json"):
            monkeypatch.setattr(job.store, "create", create)
            advance(fakes.job(ROWS, **INLINE))
        return create(name, content)

    monkeypatch.setattr(job.store, "create", overtaken)
    assert advance(job).batches == ("batch-0",)
    assert fake.calls["create_batch"] == 1


def test_a_shard_that_changed_on_the_store_is_never_sent(fakes, fake):
    job = fakes.job(ROWS, **INLINE)
    job.open()
    shard = fakes.out / "_job" / "shards" / "00000.jsonl"
    shard.write_bytes(shard.read_bytes().swapcase())
    with pytest.raises(JournalError, match=r"00000\.jsonl isn't as it was planned"):
        advance(job)
    assert fake.calls["create_batch"] == 0


def test_a_shard_that_was_planned_for_an_upload_is_not_sent_if_it_is_too_large(fakes, fake):
    fakes.job(ROWS).open()
    with pytest.raises(ConfigurationError, match=r"planned for an upload and has \d+ bytes, more than the 100 that"):
        advance(fakes.job(ROWS, bytes_per_batch=100, **INLINE))
    assert trail(fakes) == []
    assert fake.calls["create_batch"] == 0


@pytest.mark.parametrize(
    ("submission", "asked", "most"),
    [("file", None, 209_715_200), ("inline", None, INLINE_BYTES), ("file", 5, 5), ("inline", 10**9, 10**9)],
)
def test_a_shard_is_smaller_where_it_is_sent_inline_unless_the_user_says_otherwise(submission, asked, most):
    assert bytes_per_batch(submission, asked) == most


def test_a_shard_larger_than_the_models_whole_queue_goes_in_pieces(start, quick_rules):
    rows = [{"prompt": f"row {n} " + "word " * 100} for n in range(8)]
    desk, ledger = start(token_limit=[300], oddity=["inline_create"])
    done = desk.run(rows, rules=quick_rules, **INLINE)
    assert done.outputs == [row["prompt"] for row in rows]
    assert (ledger.rows_billed, ledger.rows_billed_twice, ledger.files) == (8, 0, [])
