"""The store keeps its promises on a local disk and on S3."""

from __future__ import annotations

import threading

import pytest

from airflow_openai_batch.engine.store import Store, says_exists
from airflow_openai_batch.exceptions import StoreError


@pytest.fixture(params=["file", "s3"])
def store(request, tmp_path):
    if request.param == "file":
        return Store.at(str(tmp_path / "out"))
    return request.getfixturevalue("s3_store")


def publish(store, name, content):
    with store.publish(name) as file:
        file.write(content)


def test_a_file_that_is_not_there_has_no_content(store):
    assert store.read("a.json") is None
    assert not store.exists("a.json")
    assert store.names("folder") == []


def test_what_was_published_can_be_read(store):
    publish(store, "folder/a.txt", b"content")
    assert store.read("folder/a.txt") == b"content"
    assert store.exists("folder/a.txt")
    assert store.size("folder/a.txt") == 7
    with store.open("folder/a.txt") as file, store.local("folder/a.txt") as path:
        assert file.read() == path.read_bytes() == b"content"


def test_publishing_again_replaces(store):
    publish(store, "a.txt", b"old")
    publish(store, "a.txt", b"new")
    assert store.read("a.txt") == b"new"


def test_a_file_of_several_pieces_is_published_whole(store):
    with store.publish("a.bin") as file:
        for _ in range(12):
            file.write(b"x" * (1 << 20))
    assert store.size("a.bin") == 12 << 20


def test_nothing_is_published_when_the_writer_breaks(store):
    def write():
        with store.publish("folder/a.txt") as file:
            file.write(b"x" * (6 << 20))
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        write()
    assert not store.exists("folder/a.txt")
    assert store.names("folder") == []


def test_only_the_first_creates(store):
    assert store.create("folder/a.json", b"first") is True
    assert store.create("folder/a.json", b"second") is False
    assert store.read("folder/a.json") == b"first"


def test_of_many_that_create_at_once_one_succeeds(store):
    won = []
    ready = threading.Barrier(8)

    def create(n):
        ready.wait()
        if store.create("claim", str(n).encode()):
            won.append(n)

    threads = [threading.Thread(target=create, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [str(n).encode() for n in won] == [store.read("claim")]


def test_names_are_those_of_the_folders_own_files(store):
    for name in ("f/b", "f/a", "f/deeper/c", "other"):
        store.create(name, b"")
    assert store.names("f") == ["a", "b"]


def test_a_new_file_is_listed_at_once(store):
    store.create("f/a", b"")
    store.names("f")
    store.create("f/b", b"")
    assert store.names("f") == ["a", "b"]


def test_removing_takes_what_is_there(store):
    store.create("a", b"")
    store.remove(["a", "never"])
    assert store.read("a") is None


def test_a_folder_moves_aside_whole(store):
    store.create("_job/job.json", b"1")
    publish(store, "results/a", b"2")
    address = store.move_aside("old", last="_job/job.json")
    assert address == f"{store.url}.old"
    assert store.names("_job") == store.names("results") == []
    aside = Store(store.fs, f"{store.root}.old", address)
    assert (aside.read("_job/job.json"), aside.read("results/a")) == (b"1", b"2")


def test_addresses_are_spelt_as_the_user_did(tmp_path):
    store = Store.at(f"file://{tmp_path}/out/")
    assert store.address("a/b") == f"file://{tmp_path}/out/a/b"


def test_drafts_are_never_listed(tmp_path):
    store = Store.at(str(tmp_path))
    with store.publish("f/a") as file:
        file.write(b"x")
        assert store.names("f") == []


def test_what_killed_writers_left_can_be_swept_away(tmp_path):
    store = Store.at(str(tmp_path))
    writer = store.publish("f/a")
    writer.__enter__().write(b"x")
    store.sweep()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    with pytest.raises(StoreError):
        writer.__exit__(None, None, None)


def test_pruning_stops_where_something_is_left(tmp_path):
    store = Store.at(str(tmp_path / "out"))
    store.create("_job/batches/a", b"")
    store.create("_job/keep", b"")
    store.remove(["_job/batches/a"])
    store.prune("_job/batches")
    assert sorted(path.name for path in (tmp_path / "out" / "_job").iterdir() if path.is_file()) == ["keep"]
    assert not (tmp_path / "out" / "_job" / "batches").exists()


def test_a_refusal_of_the_store_says_what_to_check(tmp_path):
    (tmp_path / "out").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match=f"Could not create {tmp_path}/out/a/b: NotADirectoryError") as caught:
        Store.at(str(tmp_path / "out")).create("a/b", b"")
    assert "Check that the bucket or folder exists" in str(caught.value)
    assert caught.value.retryable


def test_every_way_of_saying_that_a_name_is_taken_is_understood():
    refused = OSError("refused")
    refused.__cause__ = type("ClientError", (Exception,), {"response": {"Error": {"Code": "PreconditionFailed"}}})()
    assert says_exists(FileExistsError())
    assert says_exists(refused)
    assert not says_exists(PermissionError())
