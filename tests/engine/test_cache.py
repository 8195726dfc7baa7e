"""The answer cache gives back what was added, never anything else, whatever happens to its files."""

from __future__ import annotations

import hashlib
import logging
import os
import random
import tempfile
import threading
from array import array
from pathlib import Path

import duckdb
import orjson
import polars as pl
import psutil
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_openai_batch.engine import cache_files, cache_folder, cache_lookup, cache_merge, spill
from airflow_openai_batch.engine.cache import Cache, request_key
from airflow_openai_batch.engine.store import Store
from airflow_openai_batch.exceptions import StoreError

DAY = 86_400


class Clock:
    def __init__(self):
        self.now = 1_800_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=["file", "moto", "seaweedfs"])
def store(request, tmp_path):
    if request.param == "file":
        return Store.at(str(tmp_path / "cache"))
    return request.getfixturevalue(request.param).store()


@pytest.fixture
def local(tmp_path):
    return Store.at(str(tmp_path / "cache"))


@pytest.fixture
def small(monkeypatch):
    """Limits so low that a few entries reach them."""
    monkeypatch.setattr(cache_files, "GROUP_ROWS", 8)
    monkeypatch.setattr(cache_folder, "SPLIT_ROWS", 64)
    monkeypatch.setattr(cache_lookup, "KEYS_AT_ONCE", 16)
    monkeypatch.setattr(cache_lookup, "FILES_AT_ONCE", 2)
    monkeypatch.setattr(cache_lookup, "_ROWS_HELD", 3)
    monkeypatch.setattr(spill, "GATHERED", 1_000)


def key(n):
    return hashlib.blake2b(b"%d" % n, digest_size=16).digest()


def answer(n, more=""):
    return orjson.dumps({"n": n, "more": more})


def entries(numbers, more=""):
    return ((key(n), answer(n, more)) for n in numbers)


def found(cache, numbers):
    return dict(cache.look_up((key(n), n) for n in numbers))


def answers(numbers, more=""):
    return {n: answer(n, more) for n in numbers}


def open_cache(store, clock, ttl=None):
    return Cache(store, ttl=ttl, clock=clock)


def files(store):
    # SeaweedFS lists the bare name of a folder that was there once.
    return [name for name in store.below("v1") if "/" in name]


# Keys


def test_the_order_of_a_bodys_keys_does_not_matter():
    one = {"model": "m", "messages": [{"role": "user", "content": "é"}], "n": 1}
    other = {"n": 1, "messages": [{"content": "é", "role": "user"}], "model": "m"}
    assert request_key("/v1/responses", one) == request_key("/v1/responses", other)
    assert len(request_key("/v1/responses", one)) == 16


def test_all_else_of_a_request_matters():
    body = {"model": "m", "input": ["a", "b"]}
    others = [{**body, "model": "n"}, {**body, "input": ["b", "a"]}, {**body, "seed": None}, {}]
    keys = [request_key("/v1/embeddings", item) for item in (body, *others)]
    keys.append(request_key("/v1/responses", body))
    assert len(set(keys)) == len(keys)


def test_an_endpoint_is_the_same_where_it_lacks_its_version():
    assert request_key("/chat/completions", {}) == request_key("/v1/chat/completions", {})


def test_a_key_stays_what_it_is_from_version_to_version():
    told = request_key("/v1/responses", {"model": "m", "input": "é"}).hex()
    assert told == hashlib.blake2b('["/v1/responses",{"input":"é","model":"m"}]'.encode(), digest_size=16).hexdigest()


# What is added is found


def test_a_folder_without_a_cache_has_nothing(store, clock):
    assert found(open_cache(store, clock), range(5)) == {}
    assert store.below("") == []


def test_what_was_added_is_found_by_another(store, clock):
    assert open_cache(store, clock).add(entries(range(500)), writer="job-1") == 500
    assert found(open_cache(store, clock), range(490, 600)) == answers(range(490, 500))
    assert len(files(store)) == 1


def test_adding_nothing_leaves_no_trace(local, clock):
    assert open_cache(local, clock).add([], writer="job") == 0
    assert local.below("") == []


def test_every_row_of_a_key_gets_its_answer(local, clock, small):
    cache = open_cache(local, clock)
    cache.add(entries(range(40)), writer="job")
    rows = [(key(row % 7), row) for row in range(400)]
    random.Random(1).shuffle(rows)
    told = list(cache.look_up(rows))
    assert len(told) == 400
    assert dict(told) == {row: answer(row % 7) for row in range(400)}


def test_of_answers_added_together_the_last_counts(local, clock):
    cache = open_cache(local, clock)
    assert cache.add([(key(1), answer(1, "old")), (key(1), answer(1, "new"))], writer="job") == 1
    assert found(cache, [1]) == answers([1], "new")


def test_a_job_that_adds_again_writes_over_its_files(store, clock):
    cache = open_cache(store, clock)
    for _ in range(3):
        cache.add(entries(range(20)), writer="job")
        clock.now += DAY
    assert len(files(store)) == 1
    assert found(cache, range(20)) == answers(range(20))


@pytest.mark.parametrize("writer", ["manual__2026-01-01T00:00:00+00:00", "../../up", "é", "a/b", "", "x" * 300, ".."])
def test_any_writer_has_a_file_name_of_its_own(local, clock, writer):
    cache = open_cache(local, clock)
    cache.add(entries([1]), writer=writer)
    cache.add(entries([2]), writer="job")
    assert found(cache, [1, 2]) == answers([1, 2])
    assert {name.rsplit("/", 1)[0] for name in files(local)} == {"v1/0-any"}
    assert len(local.below("")) == 3


def test_a_large_job_has_a_file_for_each_digit(store, clock, small):
    cache = open_cache(store, clock)
    cache.add(entries(range(200)), writer="job")
    assert {name.split("/")[1] for name in files(store)} == {f"1-{digit:x}" for digit in range(16)}
    assert found(cache, range(-5, 250)) == answers(range(200))


def test_a_very_large_one_for_each_two(local, clock, small):
    cache = open_cache(local, clock)
    cache.add(entries(range(1_200)), writer="job")
    assert {name.split("/")[1][:2] for name in files(local)} == {"2-"}
    assert found(cache, range(1_300)) == answers(range(1_200))


def test_large_answers_are_split_by_their_bytes(local, clock, monkeypatch):
    monkeypatch.setattr(cache_folder, "SPLIT_BYTES", 100_000)
    monkeypatch.setattr(cache_files, "GROUP_BYTES", 10_000)
    cache = open_cache(local, clock)
    cache.add(entries(range(200), "x" * 1_000), writer="job")
    assert {name.split("/")[1][:2] for name in files(local)} == {"1-"}
    assert found(cache, range(200)) == answers(range(200), "x" * 1_000)


def test_a_file_is_plain_parquet(local, clock):
    open_cache(local, clock).add(entries(range(3)), writer="job")
    table = pq.read_table(local.path("v1/0-any/job.parquet"))
    assert table.column_names == ["key", "created", "answer"]
    assert table.column("key").to_pylist() == sorted(map(key, range(3)))
    assert set(table.column("created").to_pylist()) == {int(clock.now)}


def test_other_readers_of_parquet_take_a_file_as_it_is(local, clock):
    open_cache(local, clock).add(entries(range(3)), writer="job")
    path = local.path("v1/0-any/job.parquet")
    expected = sorted(answers(range(3)).values())
    assert sorted(pl.read_parquet(path)["answer"]) == expected
    assert sorted(row for (row,) in duckdb.sql(f"select answer from '{path}'").fetchall()) == expected
    assert sorted(pa.dataset.dataset(path).to_table().column("answer").to_pylist()) == expected


def test_row_groups_are_small_whatever_the_answers(local, clock, monkeypatch):
    monkeypatch.setattr(cache_files, "GROUP_BYTES", 10_000)
    open_cache(local, clock).add(entries(range(50), "x" * 3_000), writer="job")
    metadata = pq.ParquetFile(local.path("v1/0-any/job.parquet")).metadata
    assert max(metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)) == 4


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    jobs=st.lists(
        st.tuples(st.integers(0, 40), st.integers(0, 60), st.integers(0, 3), st.sampled_from("abcdefghijklmnop")),
        max_size=25,
    ),
    ttl=st.sampled_from([None, 2 * DAY]),
)
def test_whatever_is_added_in_whatever_order_the_newest_is_found(small, jobs, ttl):
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        cache = open_cache(Store.at(folder), clock, ttl)
        model, lost = {}, {}
        for at, (first, count, days, writer) in enumerate(jobs):
            clock.now += 1 + days * DAY
            # A writer's second try takes the place of its first, as far as that wasn't merged.
            for n, (_, _, by) in model.items():
                if by == writer:
                    lost[n] = True
            cache.add(entries(range(first, first + count), str(at)), writer=writer if count else "none")
            for n in range(first, first + count):
                model[n] = (clock.now, answer(n, str(at)), writer)
                lost.pop(n, None)
        told = list(cache.look_up((key(n), n) for n in range(120)))
        assert len(told) == len(dict(told))
        sure = {n for n in model if n not in lost and (ttl is None or model[n][0] > clock.now - ttl)}
        assert sure <= set(dict(told))
        for n, got in told:
            assert orjson.loads(got)["n"] == n
            if n in sure:
                assert got == model[n][1]


# Time


def test_an_answer_counts_until_it_is_too_old(local, clock):
    open_cache(local, clock).add(entries([1]), writer="old")
    clock.now += DAY
    open_cache(local, clock).add(entries([2]), writer="new")
    clock.now += DAY - 1
    assert found(open_cache(local, clock, 2 * DAY), [1, 2]) == answers([1, 2])
    clock.now += 1
    assert found(open_cache(local, clock, 2 * DAY), [1, 2]) == answers([2])
    assert found(open_cache(local, clock), [1, 2]) == answers([1, 2])


def test_the_newest_answer_of_a_key_counts(store, clock):
    cache = open_cache(store, clock)
    cache.add(entries(range(10), "old"), writer="z")
    clock.now += 1
    cache.add(entries(range(5, 10), "new"), writer="a")
    assert found(cache, range(10)) == {**answers(range(5), "old"), **answers(range(5, 10), "new")}


# Merging


def test_a_year_of_nights_leaves_few_files(local, clock):
    cache = open_cache(local, clock)
    counts = []
    for night in range(365):
        cache.add(entries(range(20 * night, 20 * night + 20)), writer=f"night-{night}")
        clock.now += DAY
        counts.append(len(files(local)))
    assert max(counts) <= cache_merge.FILES_MOST
    assert found(cache, range(0, 7_500, 3)) == answers(range(0, 7_300, 3))


def test_files_that_grow_large_are_split_by_digits(local, clock, small):
    cache = open_cache(local, clock)
    for night in range(150):
        cache.add(entries(range(20 * night, 20 * night + 20)), writer=f"night-{night}")
    assert {name.split("/")[1][:2] for name in files(local)} >= {"1-", "2-"}
    assert found(cache, range(3_100)) == answers(range(3_000))
    names = [name.rsplit("/", 1)[0] for name in files(local)]
    assert max(names.count(name) for name in names) <= cache_merge.FILES_MOST


def test_merging_works_on_any_store(store, clock, small):
    cache = open_cache(store, clock)
    for night in range(10):
        cache.add(entries(range(20 * night, 20 * night + 20)), writer=f"night-{night}")
        clock.now += 1
    assert any("merged-" in name for name in files(store))
    assert found(cache, range(250)) == answers(range(200))


def test_merging_drops_what_is_expired_or_was_replaced(local, clock):
    cache = open_cache(local, clock, DAY)
    cache.add(entries(range(50)), writer="old")
    clock.now += DAY
    for night in range(8):
        cache.add(entries(range(100), str(night)), writer=f"night-{night}")
        clock.now += 1
    (name,) = files(local)
    assert pq.ParquetFile(local.path(name)).metadata.num_rows == 100
    assert found(cache, range(100)) == answers(range(100), "7")


def test_a_large_file_is_left_alone(local, clock):
    cache = open_cache(local, clock)
    cache.add(entries(range(5_000)), writer="large")
    for night in range(8):
        cache.add(entries(range(night, night + 10)), writer=f"night-{night}")
    assert len(files(local)) == 2
    assert "v1/0-any/large.parquet" in files(local)


def test_who_may_not_remove_does_not_merge(local, clock, monkeypatch, caplog):
    def refuse(names):
        raise StoreError("no permission")

    monkeypatch.setattr(local, "remove", refuse)
    cache = open_cache(local, clock)
    for night in range(12):
        assert cache.add(entries([night]), writer=f"night-{night}") == 1
    assert len(files(local)) == 12
    assert "couldn't be merged: no permission" in caplog.text
    assert found(cache, range(12)) == answers(range(12))


def test_a_reader_that_finds_files_gone_lists_again(store, clock, small, monkeypatch):
    cache = open_cache(store, clock)
    for night in range(8):
        cache.add(entries(range(20 * night, 20 * night + 20)), writer=f"night-{night}")
    reader, listed, merged = open_cache(store, clock), cache_folder.Folder.files, []

    def files_then_merge(folder):
        names = listed(folder)
        if folder is reader._folder and not merged:
            merged.append(True)
            cache.add(entries(range(160, 180)), writer="night-8")
        return names

    monkeypatch.setattr(cache_folder.Folder, "files", files_then_merge)
    assert found(reader, range(160)) == answers(range(160))
    assert merged


def test_two_that_merge_at_once_harm_nothing(local, clock, monkeypatch, caplog):
    cache = open_cache(local, clock)
    for night in range(8):
        cache.add(entries(range(20 * night, 20 * night + 20)), writer=f"night-{night}")
    small, begun = cache_merge._small, []

    def small_then_other(folder, names):
        if not begun:
            begun.append(True)
            open_cache(local, clock).add(entries(range(160, 180)), writer="other")
        return small(folder, names)

    monkeypatch.setattr(cache_merge, "_small", small_then_other)
    cache.add(entries(range(180, 200)), writer="night-8")
    assert begun
    assert caplog.text == ""
    assert found(cache, range(250)) == answers(range(200))


def test_a_reader_goes_on_while_what_it_reads_is_merged(store, clock, small):
    cache = open_cache(store, clock)
    for night in range(8):
        cache.add(entries(range(20 * night, 20 * night + 20)), writer=f"night-{night}")
    reading = open_cache(store, clock).look_up((key(n), n) for n in range(160))
    told = dict([next(reading)])
    before = files(store)
    cache.add(entries(range(160, 180)), writer="night-8")
    assert not set(before) & set(files(store))
    told.update(reading)
    assert told == answers(range(160))


def test_a_file_that_is_listed_and_never_there_is_passed_over(local, clock, monkeypatch, caplog):
    cache = open_cache(local, clock)
    cache.add(entries([1]), writer="job")
    listed = cache_folder.Folder.files
    ghost = cache_folder.File("v1/0-any/ghost.parquet", "v1/0-any", 0, 255)
    monkeypatch.setattr(cache_folder.Folder, "files", lambda folder: [*listed(folder), ghost])
    assert found(cache, [1]) == answers([1])
    assert "ghost.parquet" in caplog.text


def test_writers_and_readers_at_once_lose_nothing(store, clock, small):
    errors = []

    def work(worker):
        try:
            own = Cache(store if store.is_local else Store(store.fs, store.root, store.url), ttl=None, clock=clock)
            for night in range(4):
                numbers = range(1_000 * worker + 10 * night, 1_000 * worker + 10 * night + 10)
                own.add(entries(numbers), writer=f"w{worker}-{night}")
                seen = range(1_000 * worker, numbers.stop)
                if found(own, seen) != answers(seen):
                    errors.append(f"{worker} misses at {night}")
        except Exception as error:  # noqa: BLE001 - told below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    numbers = [1_000 * worker + n for worker in range(3) for n in range(40)]
    assert found(open_cache(store, clock), numbers) == answers(numbers)


# Damage


def test_a_cache_of_another_version_is_left_alone_with_a_warning(store, clock, caplog):
    store.put("cache.json", orjson.dumps({"format": "airflow-openai-batch cache", "version": 2}))
    cache = open_cache(store, clock)
    assert found(cache, [1]) == {}
    assert cache.add(entries([1]), writer="job") == 0
    assert files(store) == []
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert store.url in warning.message
    assert "version 2, and this is version 1" in warning.message


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"version": 1}', b"\xff\xfe"])
def test_a_folder_that_is_no_cache_is_left_alone_with_a_warning(local, clock, content, caplog):
    local.put("cache.json", content)
    cache = open_cache(local, clock)
    assert found(cache, [1]) == {}
    assert cache.add(entries([1]), writer="job") == 0
    assert "cache.json is damaged" in caplog.text


def _other_schema(path):
    pq.write_table(pa.table({"key": [key(1)], "answer": ["{}"]}), path)


def _other_version(path):
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({"airflow-openai-batch-cache": "2"}), path)


def _cut(path):
    path.write_bytes(path.read_bytes()[:-100])


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(random.Random(1).randbytes(5_000)),
    "cut": _cut,
    "only the magic": lambda path: path.write_bytes(b"PAR1PAR1"),
    "other columns": _other_schema,
    "other version": _other_version,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_named_and_passed_over(local, clock, damage, caplog):
    cache = open_cache(local, clock)
    cache.add(entries(range(20)), writer="bad")
    cache.add(entries(range(20, 40)), writer="good")
    damage(Path(local.path("v1/0-any/bad.parquet")))
    assert found(cache, range(40)) == answers(range(20, 40))
    warnings = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert local.address("v1/0-any/bad.parquet") in warnings[0]
    for night in range(9):
        cache.add(entries([100 + night]), writer=f"night-{night}")
    assert found(cache, range(109)) == {**answers(range(20, 40)), **answers(range(100, 109))}
    assert "v1/0-any/bad.parquet" in files(local)


def test_a_damaged_file_on_s3_is_passed_over(s3, clock, caplog):
    store = s3.store()
    cache = open_cache(store, clock)
    cache.add(entries(range(20)), writer="bad")
    cache.add(entries(range(20, 40)), writer="good")
    store.put("v1/0-any/bad.parquet", store.read("v1/0-any/bad.parquet")[:500])
    assert found(cache, range(40)) == answers(range(20, 40))
    assert store.address("v1/0-any/bad.parquet") in caplog.text


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_byte_is_spoilt_no_answer_is_wrong(small, data):
    with tempfile.TemporaryDirectory() as folder:
        clock, store = Clock(), Store.at(folder)
        cache = open_cache(store, clock)
        cache.add(entries(range(30), "x" * 50), writer="bad")
        path = Path(store.path("v1/0-any/bad.parquet"))
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, len(content) - 1))
            content[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        told = found(cache, range(40))
        assert told.items() <= answers(range(30), "x" * 50).items()
        for night in range(9):
            cache.add(entries([100 + night]), writer=f"night-{night}")
        told = found(cache, range(109))
        assert told.items() <= {**answers(range(30), "x" * 50), **answers(range(100, 109))}.items()
        assert set(range(100, 109)) <= set(told)


@pytest.mark.parametrize("bad", [b"", b"{", b"[1]", b'"text"', b"null", b"\xff"])
def test_an_answer_that_is_no_object_is_ignored(local, clock, bad, caplog):
    cache = open_cache(local, clock)
    cache.add([(key(1), bad), (key(2), answer(2))], writer="job")
    assert found(cache, [1, 2]) == answers([2])
    assert "no JSON object" in caplog.text


def test_a_file_that_somebody_wrote_anew_is_ignored(local, clock, caplog):
    cache = open_cache(local, clock)
    cache.add(entries([1, 2]), writer="job")
    path = local.path("v1/0-any/job.parquet")
    table = pq.read_table(path)
    swapped = table.column("answer").take([1, 0])
    pq.write_table(table.set_column(2, table.schema.field("answer"), swapped), path)
    assert found(cache, [1, 2]) == {}
    assert "isn't as it was written" in caplog.text


def test_files_of_others_in_the_folder_are_no_concern(local, clock):
    cache = open_cache(local, clock)
    cache.add(entries([1]), writer="job")
    for name in ("v1/notes.txt", "v1/0-any/readme.md", "v1/3-abc/x.parquet", "v2/0-any/x.parquet", "v1/1-A/x.parquet"):
        local.put(name, b"others")
    assert found(cache, [1]) == answers([1])


# A store that refuses


def test_a_key_that_may_not_list_or_write_is_told(seaweedfs, clock):
    store = seaweedfs.store()
    open_cache(store, clock).add(entries([1]), writer="job")
    options = {**seaweedfs.options(), "key": "reader-key", "secret": "reader-secret"}
    reader = open_cache(Store.at(store.url, **options), clock)
    with pytest.raises(StoreError, match="Could not list"):
        found(reader, [1])
    with pytest.raises(StoreError, match="Could not write"):
        reader.add(entries([2]), writer="job-2")


def test_a_bucket_that_is_not_there_is_told_to_who_writes(moto, clock):
    store = Store.at("s3://no-such-bucket/cache", **moto.options())
    with pytest.raises(StoreError):
        open_cache(store, clock).add(entries([2]), writer="job")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads all")
def test_a_file_that_may_not_be_read_is_told(local, clock):
    open_cache(local, clock).add(entries([1]), writer="job")
    Path(local.path("v1/0-any/job.parquet")).chmod(0)
    with pytest.raises(StoreError, match="PermissionError"):
        found(open_cache(local, clock), [1])


# Memory


def test_a_spill_gives_back_what_it_was_given(monkeypatch):
    monkeypatch.setattr(spill, "GATHERED", 500)
    records = [(key(n), b"x" * (n % 40)) for n in range(300)]
    with spill.Spill() as spilled:
        for record in records:
            spilled.add(*record)
        assert sum(spilled.counts) == 300
        back = [record for bucket in range(256) for record in spilled.records(bucket)]
        placed = [(k, spilled.payload(at, size)) for b in range(256) for k, at, size in spilled.places(b)]
    assert sorted(back) == sorted(placed) == sorted(records)


def test_a_key_of_another_length_is_an_error(local, clock):
    with pytest.raises(ValueError, match="16 bytes"):
        open_cache(local, clock).add([(b"short", b"{}")], writer="job")


def test_rows_of_a_key_beyond_what_is_held_are_read_again(local, clock, small):
    cache = open_cache(local, clock)
    cache.add(entries(range(5)), writer="job")
    told = array("q", (row for row, _ in cache.look_up((key(1), row) for row in range(50))))
    assert sorted(told) == list(range(50))


def open_files():
    return psutil.Process().num_fds()


def test_a_reader_that_stops_early_leaves_nothing_open(local, clock):
    cache = open_cache(local, clock)
    cache.add(entries(range(10)), writer="job")
    before = open_files()
    looking = cache.look_up((key(n), n) for n in range(10))
    next(looking)
    assert open_files() > before
    looking.close()
    assert open_files() == before
