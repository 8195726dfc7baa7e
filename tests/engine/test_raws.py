"""Raw files are read by row, in whatever order their lines stand, and fetched before they are needed."""

from __future__ import annotations

import json
import random
import tempfile
import threading
import time
from pathlib import Path

import pytest

from airflow_openai_batch.engine.models import Key, Shard
from airflow_openai_batch.engine.quick import line_reader
from airflow_openai_batch.engine.raws import RAW, Raw, RawFiles
from airflow_openai_batch.engine.records import Attempt, EndRecord
from airflow_openai_batch.engine.store import Store
from airflow_openai_batch.exceptions import JournalError, StoreError

SAID = {"status_code": 200, "body": {"text": "hi"}}
RAW_SAID = json.dumps(SAID).encode()


def line(wire, text="hi", **more):
    response = {"status_code": 200, "body": {"text": text}}
    return json.dumps({"id": "batch_req_1", "custom_id": wire, "response": response, **more}).encode() + b"\n"


@pytest.fixture
def raw(tmp_path):
    """A shard's raw files, opened."""
    opened = []

    def raw(*files, rows=None, foreign=False, noise=None, step=1, first=0, store=None):
        store = store or Store.at(str(tmp_path))
        sizes = [len(content) for content in (*files, b"", b"")[:2]]
        for kind, content in zip(("output", "error"), files, strict=False):
            with store.publish(f"{RAW}/{Key(0, 0, 0)}.{kind}.jsonl") as file:
                file.write(content)
        rows = rows or sum(content.count(b"\n") for content in files)
        end = EndRecord(0.0, "batch_1", "completed", *sizes, (), {}, {}, 0, {}, noise or {})
        shard = Shard(0, 0, rows, 0, "m", first, first + (rows - 1) * step, None, 0, "")
        source = RawFiles(store)
        opened.append(
            (source, Raw(source, line_reader(None), shard, Attempt(Key(0, 0, 0), end=end), step=step, foreign=foreign))
        )
        return opened[-1][1]

    yield raw
    for source, one in opened:
        source.close()
        one.close()


def texts(raw, wires):
    """What is read of each row; ids that aren't ours have the place they are given in."""
    found = [raw.answer(int(wire[1:]) if wire[1:].isdigit() else row, wire) for row, wire in enumerate(wires)]
    return [answer and answer.output["text"] for answer in found]


def test_lines_are_read_in_the_order_of_rows(raw):
    wires = [f"r{n}" for n in range(500)]
    lines = [line(wire, wire) for wire in wires]
    random.Random(1).shuffle(lines)
    assert texts(raw(b"".join(lines[:300]), b"".join(lines[300:])), wires) == wires


def test_a_row_without_a_line_has_no_value(raw):
    one = raw(line("r0") + line("r2"), rows=3)
    assert texts(one, ["r0", "r1", "r2", "r99"]) == ["hi", None, "hi", None]
    assert one.size == 0


def test_the_length_of_a_line_is_told(raw):
    one = raw(line("r0", "x" * 100))
    one.answer(0, "r0")
    assert one.size == len(line("r0", "x" * 100))


def test_the_first_of_several_equal_lines_counts(raw):
    assert texts(raw(line("r0", "a") + line("r1", "b") + line("r0", "c"), line("r1", "d"), rows=2), ["r0", "r1"]) == [
        "a",
        "b",
    ]


def refusal(wire):
    return json.dumps({"id": "b", "custom_id": wire, "response": {"status_code": 500, "body": {}}}).encode() + b"\n"


@pytest.mark.parametrize("foreign", [False, True])
def test_the_better_of_several_lines_counts(raw, foreign):
    output = refusal("r0") + line("r0", "a") + line("r1", "b") + line("r0", "c")
    error = refusal("r1") + refusal("r2") + line("r2", "d") + line("r9", "e")
    one = raw(output, error, rows=3, noise={"duplicate": 4}, foreign=foreign)
    assert texts(one, ["r0", "r1", "r2", "r9"]) == ["a", "b", "d", "e"]


def test_lines_are_not_parsed_to_be_found_where_none_is_doubled(raw, monkeypatch):
    one = raw(line("r0", "a") + line("r1", "b"))
    monkeypatch.setattr(one, "_key", lambda _line: pytest.fail("parsed"))
    assert texts(one, ["r0", "r1"]) == ["a", "b"]


def test_a_batch_that_did_not_run_has_no_lines(tmp_path):
    source = RawFiles(Store.at(str(tmp_path)))
    one = Raw(source, line_reader(None), Shard(0, 0, 1, 0, "m", 0, 0, None, 0, ""), None, step=1, foreign=False)
    assert one.answer(0, "r0") is None


@pytest.mark.parametrize(
    "made",
    [
        lambda wire: json.dumps({"custom_id": wire, "id": "x", "response": SAID}).encode(),
        lambda wire: json.dumps({"id": 1, "custom_id": wire, "response": SAID}).encode(),
        lambda wire: json.dumps({"id": 'a "q"', "custom_id": wire, "response": SAID}).encode(),
        lambda wire: b'{"id":"x","custom_id":"r7","response":%b,"custom_id":"%b"}' % (RAW_SAID, wire.encode()),
        lambda wire: b'{"id":"x","custom_id":"\\u0072%b","response":%b}' % (wire[1:].encode(), RAW_SAID),
        lambda wire: json.dumps({"id": "x", "custom_id": wire, "response": SAID}, indent=None).encode() + b"\r",
    ],
    ids=["another order", "a number", "quotes", "twice", "escaped", "CRLF"],
)
def test_lines_may_be_written_in_any_way(raw, made):
    lines = b"".join(made(f"r{n}") + b"\n" for n in range(3))
    assert texts(raw(lines), ["r0", "r1", "r2"]) == ["hi"] * 3


def test_a_line_that_was_unreadable_is_passed_over(raw):
    cut = line("r0")[:-10] + b"\n"
    assert texts(raw(cut + b"\n" + line("r0", "whole"), rows=1, noise={"unreadable": 1}), ["r0"]) == ["whole"]


@pytest.mark.parametrize("noise", [{}, {"unreadable": 1}], ids=["by heads", "in full"])
@pytest.mark.parametrize("odd", [b"\\ud83d", b"\xf0\x9f"])
def test_lines_that_are_no_json_to_the_letter_are_found_by_either_index(raw, noise, odd):
    lines = line("r0", "a?") + line("r1", "b") + line("r2", "c", logprobs=float("nan"))
    assert texts(raw(lines.replace(b"?", odd), noise=noise), ["r0", "r1", "r2"]) == ["a\ufffd", "b", "c"]


def test_a_line_that_was_readable_when_it_was_collected_must_be_still(raw):
    with pytest.raises(
        JournalError, match=r"00000\.r0\.a0\.output\.jsonl isn't as it was collected: the line of row 0"
    ):
        texts(raw(line("r0")[:-10] + b"\n"), ["r0"])


def test_ids_of_others_are_looked_up_as_they_are(raw):
    wires = ["b", "r1", "a", "ü\u2028"]
    assert texts(raw(b"".join(line(wire, wire) for wire in wires), foreign=True), sorted(wires)) == sorted(wires)


@pytest.mark.parametrize("step", [1, 3, 1_000])
def test_the_rows_of_a_shard_may_lie_apart(raw, step):
    rows = range(40, 40 + 10 * step, step)
    wires = [f"r{row}" for row in rows]
    lines = b"".join(line(wire, wire) for wire in reversed(wires))
    assert texts(raw(lines, rows=10, first=40, step=step), wires) == wires
    # Of how far apart they are nothing need be known.
    one = raw(lines, rows=10, first=40, step=step)
    one._step = 1
    assert texts(one, wires) == wires


class Remote(Store):
    """A store whose files must be fetched; ``gate`` holds the fetching up."""

    gate = None

    def open(self, name):
        if self.gate:
            self.gate(name)
        return super().open(name)


@pytest.fixture
def remote(tmp_path):
    store = Remote.at(str(tmp_path / "remote"))
    yield store
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("openai-batch-fetch")]


@pytest.fixture
def copies(tmp_path, monkeypatch):
    """The folder of temporary copies; empty in the end."""
    folder = tmp_path / "copies"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def fetched(raw, remote, copies):
    """Raw files on a remote store; closed when the test ends."""
    one = raw(line("r0"), line("r1"), store=remote)
    remote.is_local = False
    yield one
    one._source.close()
    one.close()


def until(condition):
    give_up = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_files_of_a_remote_store_are_copied_and_removed(fetched, copies):
    assert texts(fetched, ["r0", "r1"]) == ["hi", "hi"]
    assert len(list(copies.glob("*/*"))) == 2


def test_files_are_fetched_before_they_are_asked_for(fetched, copies):
    fetched.fetch_ahead()
    fetched.fetch_ahead()
    until(lambda: len(list(copies.glob("*/*"))) == 2)
    assert texts(fetched, ["r0", "r1"]) == ["hi", "hi"]
    assert len(list(copies.iterdir())) == 1


def test_what_was_fetched_for_nothing_is_removed(fetched, copies):
    fetched.fetch_ahead()
    until(lambda: len(list(copies.glob("*/*"))) == 2)


def test_what_is_being_fetched_when_all_ends_is_given_up(fetched, remote, copies):
    reached, go_on = threading.Event(), threading.Event()

    def hold(_name):
        reached.set()
        go_on.wait(5)

    remote.gate = hold
    fetched.fetch_ahead()
    reached.wait(5)
    threading.Timer(0.05, go_on.set).start()
    fetched._source.close()
    fetched.close()
    assert list(copies.iterdir()) == []


def test_an_error_of_fetching_is_raised_where_the_file_is_needed(fetched, remote, copies):
    def refuse(name):
        raise StoreError(f"no {name}")

    remote.gate = refuse
    fetched.fetch_ahead()
    until(fetched._coming.done)
    with pytest.raises(StoreError, match="output"):
        fetched.answer(0, "r0")
    assert list(copies.iterdir()) == []


def test_local_files_are_read_where_they_are(raw, copies):
    one = raw(line("r0"))
    one.fetch_ahead()
    assert texts(one, ["r0"]) == ["hi"]
    assert isinstance(copies, Path)
