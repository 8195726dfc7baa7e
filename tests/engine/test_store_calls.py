"""What a wake-up costs the store: each call to S3 takes some 30 ms, so their number must not grow with the job."""

from __future__ import annotations

from collections import Counter
from unittest import mock

import pytest
from s3fs import S3FileSystem

from airflow_openai_batch.engine.models import Done, Waiting
from airflow_openai_batch.engine.runner import advance

HANDFUL = 6
"""Calls of a wake-up that finds nothing new: job, manifest, digest (s3fs makes up to two calls for each), a listing."""


@pytest.fixture
def counted(monkeypatch):
    """Count the calls that reach S3, by name."""
    calls = Counter()
    call = S3FileSystem._call_s3

    async def counting(fs, method, *args, **kwargs):
        calls[method if isinstance(method, str) else method.__name__] += 1
        return await call(fs, method, *args, **kwargs)

    monkeypatch.setattr(S3FileSystem, "_call_s3", counting)
    return calls


def wake(desk, counted, store, rows):
    """One wake-up in a process that knows nothing yet; its outcome and its calls to the store."""
    job = desk.job(rows, store=store, requests_per_batch=1, delete_files=False)
    job._resumed = True
    counted.clear()
    store.fs.invalidate_cache()
    return advance(job), Counter(counted)


@pytest.mark.parametrize("shards", [10, 60])
def test_a_wake_up_costs_a_handful_of_calls_and_those_for_what_changed(fakes, fake, s3_store, counted, shards):
    rows = [{"prompt": f"row {n}"} for n in range(shards)]
    assert isinstance(advance(fakes.job(rows, store=s3_store, requests_per_batch=1, delete_files=False)), Waiting)
    outcome, calls = wake(fakes, counted, s3_store, rows)
    assert len(outcome.batches) == shards
    assert sum(calls.values()) <= HANDFUL, calls
    # The journal's, and s3fs's own question whether manifest.json is a folder.
    assert calls["list_objects_v2"] == 2

    fake.end("batch-0")
    fake.end("batch-1")
    outcome, calls = wake(fakes, counted, s3_store, rows)
    assert len(outcome.batches) == shards - 2
    # For each of the two: a raw file and an entry, each put and looked at; and a second look at the journal.
    assert sum(calls.values()) <= HANDFUL + 1 + 2 * 4, calls
    _, calls = wake(fakes, counted, s3_store, rows)
    assert sum(calls.values()) <= HANDFUL + 2, calls

    for batch_id in fake.batches:
        if not fake.batches[batch_id].ended:
            fake.end(batch_id)
    outcome, _ = wake(fakes, counted, s3_store, rows)
    assert isinstance(outcome, Done)
    assert outcome.manifest["rows"]["succeeded"] == shards


def test_two_hundred_shards_are_read_back_with_one_listing_and_no_file_of_each(fakes, fake):
    rows = [{"prompt": f"row {n}"} for n in range(200)]
    advance(fakes.job(rows, requests_per_batch=1, delete_files=False))
    again = fakes.job(rows, requests_per_batch=1, delete_files=False)
    again._resumed = True
    with (
        mock.patch.object(again.store, "read", wraps=again.store.read) as read,
        mock.patch.object(again.store, "below", wraps=again.store.below) as listed,
        mock.patch.object(again.store, "names", wraps=again.store.names) as names,
    ):
        assert len(advance(again).batches) == 200
    assert [call.args[0] for call in read.call_args_list] == ["_job/job.json", "manifest.json", "_job/digest.json"]
    assert (listed.call_count, names.call_count) == (1, 0)
