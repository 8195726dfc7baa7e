"""The store keeps its promises on a local disk and on two S3 servers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest
from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from airflow_openai_batch.engine.models import Waiting
from airflow_openai_batch.engine.runner import advance
from airflow_openai_batch.engine.store import Store, says_exists, says_unable
from airflow_openai_batch.exceptions import ExclusiveCreateError, StoreError


@pytest.fixture(params=["file", "moto", "seaweedfs"])
def store(request, tmp_path):
    if request.param == "file":
        return Store.at(str(tmp_path / "out"))
    return request.getfixturevalue(request.param).store()


@pytest.fixture
def s3_of_store(request):
    """How fsspec gets to the store from another process."""
    name = request.node.callspec.params["store"]
    return {} if name == "file" else request.getfixturevalue(name).options()


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


def test_a_writer_that_is_killed_half_way_publishes_nothing(store, s3_of_store, tmp_path):
    code = f"""
    import time
    from airflow_openai_batch.engine.store import Store
    with Store.at({store.url!r}, **{s3_of_store!r}).publish("folder/a.bin") as file:
        for _ in range(20):
            file.write(b"x" * (1 << 20))
        print("written", flush=True)
        time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"written\n"
        os.kill(writer.pid, signal.SIGKILL)
    assert not store.exists("folder/a.bin")
    assert store.names("folder") == []
    publish(store, "folder/a.bin", b"whole")
    assert store.read("folder/a.bin") == b"whole"


def test_a_bucket_that_is_not_there_is_named(s3):
    store = Store.at("s3://no-such-bucket/out", **s3.options())
    for write in (lambda: store.create("a", b""), lambda: publish(store, "a", b"x"), lambda: store.put("a", b"x")):
        with pytest.raises(StoreError, match=r"s3://no-such-bucket/out/a: .*bucket does not exist") as caught:
            write()
        assert "Check that the bucket or folder exists" in str(caught.value)


DENIED = {"wrong key": ("no-such-key", "secret"), "wrong secret": ("lake-key", "secret"), "may only read": None}


@pytest.mark.parametrize("why", DENIED)
def test_a_store_that_denies_access_is_named_with_what_to_check(seaweedfs, why):
    key, secret = DENIED[why] or ("reader-key", "reader-secret")
    denied = Store.at(seaweedfs.store().url, **seaweedfs.options() | {"key": key, "secret": secret})
    calls = {
        "create": lambda: denied.create("a", b""),
        "write": lambda: publish(denied, "a", b"x" * (12 << 20)),
        "read": lambda: denied.read("a"),
        "list": lambda: denied.names("folder"),
        "look for": lambda: denied.exists("a"),
    }
    if why == "may only read":
        seaweedfs.store().put("a", b"there")
        assert calls.pop("read")() == b"there"
        assert calls.pop("look for")()
        del calls["list"]
    for doing, call in calls.items():
        told = rf"Could not {doing} s3://lake-bucket/out/.*(?i:denied|forbidden|key|sign)"
        with pytest.raises(StoreError, match=told) as caught:
            call()
        assert "the connection may read and write there" in str(caught.value)


def test_a_store_that_is_not_reached_is_named():
    unreached = {"endpoint_url": "http://127.0.0.1:9", "key": "a", "secret": "b", "skip_instance_cache": True}
    store = Store.at("s3://bucket/out", **unreached, config_kwargs={"retries": {"max_attempts": 0}})
    store.fs.retries = 1
    with pytest.raises(StoreError, match=r"Could not create s3://bucket/out/a: .*127\.0\.0\.1:9"):
        store.create("a", b"")


class Overwriting(MemoryFileSystem):
    """Takes no notice of what it is asked for."""

    def pipe_file(self, path, value, **_mode):
        super().pipe_file(path, value)


class Looking(MemoryFileSystem):
    """Looks first and writes then."""

    pipe_file = AbstractFileSystem.pipe_file


class Unknowing(MemoryFileSystem):
    """Was written before there were exclusive creates."""

    def pipe_file(self, path, value):
        super().pipe_file(path, value)


class Refusing(MemoryFileSystem):
    """Passes on the server's refusal."""

    def pipe_file(self, path, value, mode="overwrite"):
        if mode == "create":
            cause = type("ClientError", (Exception,), {"response": {"Error": {"Code": "NotImplemented"}}})()
            raise OSError(22, "A header you provided implies functionality that is not implemented") from cause
        super().pipe_file(path, value)


INEXACT = [Overwriting, Looking, Unknowing, Refusing]


@pytest.fixture
def memory():
    yield
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.mark.parametrize("kind", INEXACT)
def test_a_store_without_exclusive_create_is_refused_before_anything_is_uploaded(fakes, fake, memory, kind):
    store = Store(kind(), "/out", "memory://out")
    with pytest.raises(ExclusiveCreateError, match=r"memory://out has no exclusive create .*single_writer=True"):
        advance(fakes.job([{"prompt": "a"}], store=store))
    assert not fake.calls
    assert store.below("") == []
    assert not ExclusiveCreateError.retryable


@pytest.mark.parametrize("kind", INEXACT)
def test_a_store_without_exclusive_create_will_do_for_a_single_writer(fakes, fake, memory, kind):
    def job():
        store = Store(kind(), "/out", "memory://out")
        return fakes.job([{"prompt": "a"}], store=store, single_writer=True, delete_files=False)

    assert isinstance(advance(job()), Waiting)
    assert isinstance(advance(job()), Waiting)
    fake.end()
    assert advance(job()).manifest["rows"]["succeeded"] == 1
    assert len(fake.batches) == 1


def test_a_store_with_exclusive_create_is_taken(fakes, memory):
    store = Store(MemoryFileSystem(), "/out", "memory://out")
    assert isinstance(advance(fakes.job([{"prompt": "a"}], store=store)), Waiting)


def test_exclusive_create_is_proved_once_a_job(fakes, s3_store, monkeypatch):
    proofs = []
    prove = Store.prove_exclusive
    monkeypatch.setattr(Store, "prove_exclusive", lambda *given: proofs.append(given) or prove(*given))
    for _ in range(3):
        advance(fakes.job([{"prompt": "a"}], store=s3_store))
    assert len(proofs) == 1


def test_every_way_of_saying_that_there_is_no_exclusive_create_is_understood():
    assert says_unable(NotImplementedError())
    assert not says_unable(PermissionError())
