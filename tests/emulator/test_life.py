"""The life of a batch, driven by the SDK."""

from __future__ import annotations

import json
import time

import psutil


def test_a_batch_goes_through_every_status_to_completed(start):
    api = start(validating=0.4, in_progress=0.5, finalizing=0.4)
    batch = api.create(api.rows(20), metadata={"job": "j1"})
    assert batch.status == "validating"
    assert batch.request_counts.total == 0
    assert batch.output_file_id is None
    batch = api.until(batch, "in_progress")
    assert batch.request_counts.total == 20
    batch = api.until(batch, "finalizing")
    assert batch.request_counts.completed == 20
    assert batch.output_file_id is None
    batch = api.until(batch, "completed")
    assert batch.metadata == {"job": "j1"}
    assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
    assert batch.expires_at == batch.created_at + 86_400
    assert batch.error_file_id is None
    assert {line["custom_id"] for line in api.lines(batch.output_file_id)} == {f"r{i}" for i in range(1, 21)}


def test_progress_grows_while_in_progress(start):
    api = start(in_progress=0.8)
    batch = api.until(api.create(api.rows(12)), "in_progress")
    seen = set()
    while batch.status == "in_progress":
        seen.add(batch.request_counts.completed)
        time.sleep(0.01)
        batch = api.client.batches.retrieve(batch.id)
    assert len(seen) >= 3


def test_rows_per_second_sets_the_pace(start):
    api = start(rows_per_second=40)
    begun = time.monotonic()
    api.run(api.rows(20))
    assert 0.5 <= time.monotonic() - begun < 10


def test_output_lines_are_not_in_input_order_but_in_the_same_order_every_time(api):
    orders = []
    for _ in range(2):
        batch = api.run(api.rows(30))
        orders.append([line["custom_id"] for line in api.lines(batch.output_file_id)])
    assert orders[0] == orders[1]
    assert orders[0] != [f"r{i}" for i in range(1, 31)]
    assert sorted(orders[0]) == sorted(f"r{i}" for i in range(1, 31))


def test_two_rows_are_out_of_order_too(api):
    batch = api.run(api.rows(2))
    assert [line["custom_id"] for line in api.lines(batch.output_file_id)] == ["r2", "r1"]


def test_http_failures_are_in_the_error_file_with_the_error_in_the_body(api):
    rows = [*api.rows(2), api.row("bad", body=api.body("[[emulate:status=429]]"))]
    batch = api.run(rows)
    assert (batch.request_counts.completed, batch.request_counts.failed) == (2, 1)
    assert set(api.by_id(batch.output_file_id)) == {"r1", "r2"}
    (line,) = api.lines(batch.error_file_id)
    assert line["custom_id"] == "bad"
    assert line["error"] is None
    assert line["response"]["status_code"] == 429
    assert line["response"]["body"]["error"]["code"] == "rate_limit_exceeded"


def test_a_batch_of_failures_alone_completes_without_output_file(api):
    batch = api.run([api.row("a", body=api.body("[[emulate:status=500]]"))])
    assert batch.status == "completed"
    assert batch.output_file_id is None
    assert len(api.lines(batch.error_file_id)) == 1


def test_usage_adds_up_what_the_rows_say(api):
    batch = api.run([*api.rows(5), api.row("x", body=api.body("[[emulate:status=500]]"))])
    usages = [line["response"]["body"]["usage"] for line in api.lines(batch.output_file_id)]
    assert batch.usage.input_tokens == sum(usage["prompt_tokens"] for usage in usages)
    assert batch.usage.output_tokens == sum(usage["completion_tokens"] for usage in usages)
    assert batch.usage.total_tokens == batch.usage.input_tokens + batch.usage.output_tokens


def test_the_window_ends_a_slow_batch_and_what_ran_is_kept(start):
    api = start(in_progress=20, window=1.0)
    batch = api.run(api.rows(100))
    assert batch.status == "expired"
    assert batch.expired_at >= batch.expires_at - 1
    done = api.by_id(batch.output_file_id)
    rest = api.by_id(batch.error_file_id)
    assert done
    assert rest
    assert len(done) + len(rest) == 100
    assert batch.request_counts.completed == len(done)
    assert batch.request_counts.failed == 0
    line = next(iter(rest.values()))
    assert line["response"] is None
    assert line["error"] == {
        "code": "batch_expired",
        "message": "This request could not be executed before the completion window expired.",
    }


def test_a_window_that_ends_in_validation_expires_the_batch_without_files(start):
    api = start(validating=5, window=0.2)
    batch = api.run(api.rows(3))
    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("expired", None, None)


def test_cancelling_keeps_what_ran_and_lists_the_rest(start):
    api = start(in_progress=20, cancelling=0.6)
    batch = api.until(api.create(api.rows(100)), "in_progress")
    time.sleep(0.5)
    batch = api.client.batches.cancel(batch.id)
    assert batch.status == "cancelling"
    assert batch.cancelling_at is not None
    again = api.client.batches.cancel(batch.id)
    assert again.status == "cancelling"
    batch = api.until(batch, "cancelled")
    assert batch.cancelled_at >= batch.cancelling_at
    done, rest = api.by_id(batch.output_file_id), api.by_id(batch.error_file_id)
    assert len(done) + len(rest) == 100
    assert done
    assert {line["error"]["code"] for line in rest.values()} == {"batch_cancelled"}


def test_cancelling_while_validating_leaves_no_files(start):
    api = start(validating=5)
    batch = api.client.batches.cancel(api.create(api.rows(3)).id)
    batch = api.until(batch, "cancelled")
    assert (batch.output_file_id, batch.error_file_id, batch.request_counts.total) == (None, None, 0)


def test_cancelling_while_finalizing_keeps_every_row(start):
    api = start(finalizing=5)
    batch = api.until(api.create(api.rows(3)), "finalizing")
    api.client.batches.cancel(batch.id)
    batch = api.until(batch, "cancelled")
    assert len(api.lines(batch.output_file_id)) == 3
    assert batch.error_file_id is None


def test_deleting_the_input_file_does_not_disturb_a_running_batch(start):
    api = start(in_progress=1)
    batch = api.until(api.create(api.rows(10)), "in_progress")
    api.client.files.delete(batch.input_file_id)
    batch = api.finish(batch)
    assert batch.request_counts.completed == 10


def test_output_expires_after_is_the_output_files_expiry(api):
    batch = api.run(api.rows(1), output_expires_after={"anchor": "created_at", "seconds": 3_600})
    file = api.client.files.retrieve(batch.output_file_id)
    assert file.expires_at == file.created_at + 3_600
    assert file.purpose == "batch_output"


def test_a_slow_responder_does_not_hold_up_a_cancel(start):
    api = start(responder=lambda _: time.sleep(0.05) or "slow", in_progress=0)
    batch = api.until(api.create(api.rows(1_000)), "in_progress")
    api.client.batches.cancel(batch.id)
    assert api.until(batch, "cancelled").request_counts.completed < 500


def test_a_large_batch_runs_fast_and_in_bounded_memory(start):
    api = start(responder="echo")
    process = psutil.Process()
    content = "".join(json.dumps(row) + "\n" for row in api.rows(50_000))
    before = process.memory_info().rss
    batch = api.finish(api.create(content), timeout=60)
    assert batch.request_counts.completed == 50_000
    assert process.memory_info().rss - before < 100e6
    assert api.ledger.rows_billed == 50_000
