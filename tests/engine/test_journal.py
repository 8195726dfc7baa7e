"""The journal's files are created once, never changed, and checked when they are read."""

from __future__ import annotations

import json
from dataclasses import replace
from unittest import mock

import pytest

from airflow_openai_batch.engine.journal import JOB, MANIFEST, Journal
from airflow_openai_batch.engine.models import Key, Part, Plan, Shard, SourceSpan, Usage
from airflow_openai_batch.engine.records import BatchRecord, EndRecord, JobRecord, RoundRecord, RowIssue, VoidRecord
from airflow_openai_batch.engine.store import Store
from airflow_openai_batch.exceptions import JournalError

SHARD = Shard(0, 0, 3, 100, "m", 0, 2, ((0, 2),), 25, "abc")
LATER = Shard(0, 1, 1, 30, "m", 1, 1, None, 7, "def")
PLAN = Plan(3, (SHARD,), (Part(0, 0, 3),), (SourceSpan(0, "a.jsonl", 1),), "digest")
RECORD = JobRecord(1, "job", "/out", 1.5, {"task": "t"}, {"model": "m"}, {"max_rounds": 2}, "listing", PLAN)
KEY = Key(0, 0, 0)
END = EndRecord(
    at=2.0,
    batch_id="b",
    status="expired",
    output_bytes=10,
    error_bytes=None,
    files=("file-1",),
    rows={"succeeded": 2, "expired": 1},
    open={"expired": ((1, 1),)},
    answered=2,
    usage={"m": Usage(1, 2, 3, 4, 5)},
    noise={"unknown": 1},
    issues=(RowIssue(1, None, "bad"),),
)


@pytest.fixture
def store(tmp_path):
    return Store.at(str(tmp_path))


@pytest.fixture
def journal(store):
    return Journal(store)


def put(store, name, content):
    with store.publish(name) as file:
        file.write(content)


def test_everything_that_was_written_is_read_as_it_was(store, journal):
    journal.create_job(RECORD)
    journal.create_round(RoundRecord(1, 3.0, (LATER,)))
    journal.write(KEY, BatchRecord(1.0, "b", adopted=True))
    journal.write(KEY, END)
    fresh = Journal(store)
    assert fresh.job() == RECORD
    state = fresh.state(RECORD)
    assert state.rounds == ((SHARD,), (LATER,))
    (attempt,) = state.of(SHARD)
    assert (attempt.key, attempt.batch, attempt.end) == (KEY, BatchRecord(1.0, "b", adopted=True), END)
    assert state.ended(SHARD) == attempt
    assert state.of(LATER) == ()


def test_nothing_is_written_twice(journal, store):
    assert journal.create_job(RECORD)
    assert journal.write(KEY, BatchRecord(1.0, "b"))
    other = Journal(store)
    assert not other.create_job(RECORD)
    assert not other.write(KEY, BatchRecord(1.0, "c"))
    assert other.state(RECORD).of(SHARD)[0].batch.batch_id == "b"


def test_attempts_stand_in_the_order_in_which_they_were_made(journal):
    for attempt in (10, 2, 0):
        journal.write(Key(0, 0, attempt), VoidRecord(1.0, "refused", ""))
    assert [attempt.key.attempt for attempt in journal.state(RECORD).of(SHARD)] == [0, 2, 10]


def test_a_batch_is_in_flight_until_it_is_collected_or_void(journal):
    for number in range(3):
        journal.write(Key(number, 0, 0), BatchRecord(1.0, f"b{number}"))
    journal.write(Key(1, 0, 0), END)
    journal.write(Key(2, 0, 0), VoidRecord(1.0, "queue_full", ""))
    assert [attempt.batch.batch_id for attempt in journal.state(RECORD).in_flight()] == ["b0"]


def test_a_refusal_that_was_noted_before_there_were_pauses_is_read(journal, store):
    put(store, f"_job/batches/{KEY}.void.json", b'{"at":1.0,"reason":"queue_full","message":"m"}')
    assert journal.state(RECORD).of(SHARD)[0].void == VoidRecord(1.0, "queue_full", "m", 0.0)


def test_other_files_in_the_folder_are_ignored(journal, store):
    put(store, "_job/batches/notes.txt", b"mine")
    put(store, "_job/batches/00000.r0.a0.other.json", b"{")
    assert journal.state(RECORD).attempts == {}


def test_a_file_that_was_read_is_not_read_again(journal, store):
    journal.write(KEY, BatchRecord(1.0, "b"))
    put(store, f"_job/batches/{KEY}.batch.json", b"damaged since")
    assert journal.state(RECORD).of(SHARD)[0].batch.batch_id == "b"


def test_an_entry_whose_content_was_never_written_is_damaged(store, journal):
    put(store, f"_job/batches/{KEY}.intent.json", b"")
    with pytest.raises(JournalError, match=r"intent\.json is damaged"):
        journal.state(RECORD)


def test_where_nothing_is_there_is_no_job(journal):
    assert journal.job() is None
    assert journal.manifest() is None


def changed(**fields):
    return json.dumps({"version": 1, "job": "job", "rows": {}} | fields).encode()


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_an_unknown_version_is_refused_with_what_to_do(store, version):
    put(store, JOB, changed(version=version))
    put(store, MANIFEST, changed(version=version))
    for read in (Journal(store).job, Journal(store).manifest):
        with pytest.raises(JournalError, match="this package reads version 1") as caught:
            read()
        assert f"is of version {version!r}" in str(caught.value)
        assert not caught.value.retryable


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"version": 1}', b'{"version": 1, "job": 5}'])
def test_a_damaged_job_is_named(store, content):
    put(store, JOB, content)
    with pytest.raises(JournalError, match=r"_job/job\.json"):
        Journal(store).job()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 1}', b'{"version": 1, "job": "j", "rows": 5}'])
def test_a_damaged_manifest_is_named(store, content):
    put(store, MANIFEST, content)
    with pytest.raises(JournalError, match=r"manifest\.json is damaged"):
        Journal(store).manifest()


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b'{"at": "x", "batch_id": "b"}', b'{"at": 1, "batch_id": 5}'])
def test_a_damaged_entry_is_named(store, content):
    put(store, f"_job/batches/{KEY}.batch.json", content)
    with pytest.raises(JournalError, match=r"(?s)00000\.r0\.a0\.batch\.json is damaged.*Nothing was bought or changed"):
        Journal(store).state(RECORD)


def test_a_damaged_round_is_named(store):
    put(store, "_job/rounds/1.json", b'{"round": 1}')
    with pytest.raises(JournalError, match=r"rounds/1\.json is damaged"):
        Journal(store).state(RECORD)


def many(journal, count):
    for number in range(count):
        key = Key(number, 0, 0)
        journal.write(key, BatchRecord(1.0, f"b{number}"))
        journal.write(key, replace(END, batch_id=f"b{number}"))


def test_what_was_read_is_kept_for_the_next_process(store, journal):
    many(journal, 20)
    state = journal.state(RECORD)
    journal.write_digest(RECORD)
    another = Journal(store)
    with mock.patch.object(store, "read", wraps=store.read) as read:
        assert another.state(RECORD) == state
    assert [call.args for call in read.call_args_list] == [("_job/digest.json",)]
    journal.write(Key(20, 0, 0), BatchRecord(1.0, "b20"))
    assert len(another.state(RECORD).attempts) == 21
    assert len(Journal(store).state(RECORD).attempts) == 21


def test_the_digest_is_written_when_it_saves_something(store, journal):
    many(journal, 7)
    journal.state(RECORD)
    journal.write_digest(RECORD)
    assert not store.exists("_job/digest.json")
    many(journal, 8)
    journal.write_digest(RECORD)
    assert store.exists("_job/digest.json")


def test_an_entry_counts_only_while_its_own_file_is_there(store, journal):
    many(journal, 20)
    journal.state(RECORD)
    journal.write_digest(RECORD)
    store.remove(["_job/batches/00003.r0.a0.end.json"])
    assert Journal(store).state(RECORD).attempts[0, 3][0].end is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"version": 2, "job": "job", "entries": {}}',
        b'{"version": 1, "job": "another", "entries": {"_job/batches/00000.r0.a0.batch.json": {}}}',
        b'{"version": 1, "job": "job", "entries": {"_job/batches/00000.r0.a0.batch.json": {"at": 1}}}',
        b'{"version": 1, "job": "job", "entries": {"_job/batches/odd": {}}}',
        b'{"version": 1, "job": "job", "entries": {"_job/batches/00000.r0.a0.odd.json": {}}}',
    ],
)
def test_a_digest_that_can_not_be_used_is_no_loss(store, journal, content):
    many(journal, 2)
    state = journal.state(RECORD)
    put(store, "_job/digest.json", content)
    assert Journal(store).state(RECORD) == state
