"""A shard is answered row by row: each is asked for once, whatever ends the process, and what came in is kept."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from collections import Counter

import pytest

from airflow_openai_batch.engine import direct as direct_module
from airflow_openai_batch.engine.direct import Direct
from airflow_openai_batch.engine.store import Store
from airflow_openai_batch.exceptions import (
    AuthenticationError,
    CostCapError,
    JobOwnedError,
    JournalError,
    StoreError,
    UnreachableError,
)

NAME = "00000.r0.a0"
FOLDER = f"_job/direct/{NAME}"


def line(row, text=None):
    body = {"model": "m", "messages": [{"role": "user", "content": f"text {row}" if text is None else text}]}
    request = {"custom_id": f"r{row}", "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(request, separators=(",", ":")).encode() + b"\n"


def lines(number):
    return [line(row) for row in range(number)]


class Killed(BaseException):
    """The process is dead."""


class TickingStore(Store):
    """Dies, or fails, at the so-manieth write."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.fuse, self.error, self.points = None, Killed, []

    def _point(self, name):
        self.points.append(name)
        if self.fuse == 0:
            if self.error is Killed:
                raise Killed
            raise self.error(name)
        if self.fuse is not None:
            self.fuse -= 1

    def create(self, name, content):
        self._point(f"create {name}")
        created = super().create(name, content)
        self._point(f"created {name}")
        return created

    def put(self, name, content):
        self._point(f"put {name}")
        super().put(name, content)
        self._point(f"was put {name}")

    def remove(self, names):
        for name in names:
            self._point(f"remove {name}")
            super().remove([name])

    @contextlib.contextmanager
    def publish(self, name):
        self._point(f"publish {name}")
        with super().publish(name) as file:
            yield file
            self._point(f"commit {name}")


@pytest.fixture
def folder(tmp_path):
    """Open the folder: each time as a process of its own would."""

    def folder():
        return TickingStore.at(str(tmp_path / "out"))

    return folder


@pytest.fixture
def run(folder, fake, clock):
    def run(given, *, store=None, concurrency=2, **options):
        store = store or folder()
        return Direct(store, fake, clock, concurrency).run(NAME, given, len(given), **options)

    return run


def raw(store, kind):
    content = store.read(f"_job/raw/{NAME}.{kind}.jsonl")
    return None if content is None else [json.loads(item) for item in content.splitlines()]


def answered(store):
    return [item["custom_id"] for kind in ("output", "error") for item in raw(store, kind) or []]


def asked(fake):
    return Counter(request["custom_id"] for request in fake.asked)


def test_a_shard_is_answered_and_published(run, folder, fake):
    sizes = run(lines(20))
    store = folder()
    assert [item["response"]["body"]["choices"][0]["message"]["content"] for item in raw(store, "output")] == [
        f"text {row}" for row in range(20)
    ]
    assert sizes == {"output": store.size(f"_job/raw/{NAME}.output.jsonl"), "error": None}
    assert not store.exists(f"_job/raw/{NAME}.error.jsonl")
    assert store.below("_job") == [f"_job/direct/{NAME}.json", f"_job/raw/{NAME}.output.jsonl"]
    assert asked(fake) == {f"r{row}": 1 for row in range(20)}


def test_failures_are_in_a_file_of_their_own(run, folder, fake):
    fake.direct = lambda request: (
        fake.refused(request, 400)
        if request["custom_id"] == "r1"
        else fake.not_run(request, "connection_error")
        if request["custom_id"] == "r2"
        else fake.answered(request)
    )
    sizes = run(lines(4))
    assert [item["custom_id"] for item in raw(folder(), "output")] == ["r0", "r3"]
    assert [item["custom_id"] for item in raw(folder(), "error")] == ["r1", "r2"]
    assert all(sizes.values())


def test_a_shard_of_failures_has_no_output_file(run, folder, fake):
    fake.direct = lambda request: fake.refused(request, 500)
    assert run(lines(3))["output"] is None
    assert raw(folder(), "output") is None


def test_a_second_run_of_what_is_done_asks_for_nothing(run, fake):
    sizes = run(lines(20))
    assert run(lines(20)) == sizes
    assert fake.calls["ask"] == 1


def test_a_row_is_claimed_before_it_is_sent(folder, clock, fake):
    store = folder()

    def answer(request):
        claims = [store.read(f"{FOLDER}/{name}") for name in store.names(FOLDER) if ".claim." in name]
        assert request["custom_id"] in {wire for claim in claims for wire in json.loads(claim)["rows"]}
        return fake.answered(request)

    fake.direct = answer
    Direct(store, fake, clock, 2).run(NAME, lines(50), 50)
    assert len(fake.asked) == 50


def test_claims_have_four_rows_for_each_call_in_the_air(run, fake):
    seen = []
    run(lines(20), concurrency=2, reserve=lambda chunk: seen.append([json.loads(item)["custom_id"] for item in chunk]))
    assert [len(chunk) for chunk in seen] == [8, 8, 4]
    assert [wire for chunk in seen for wire in chunk] == [f"r{row}" for row in range(20)]


def test_large_requests_make_smaller_claims(run, monkeypatch):
    monkeypatch.setattr(direct_module, "MOST_BYTES", 3 * len(line(0)))
    seen = []
    run(lines(10), reserve=lambda chunk: seen.append(len(chunk)))
    assert seen == [3, 3, 3, 1]


def test_a_cap_that_is_reached_sends_nothing_of_the_next_claim(run, folder, fake, clock):
    reserved = []

    def reserve(chunk):
        if len(reserved) == 2:
            raise CostCapError("shard", 1, 1, 1, 0)
        reserved.append(len(chunk))

    with pytest.raises(CostCapError):
        run(lines(40), reserve=reserve)
    assert sorted(asked(fake)) == sorted(f"r{row}" for row in range(16))
    direct = Direct(folder(), fake, clock)
    assert direct.spent_claims(NAME) == []
    assert sum(len(piece) for piece in direct.answered(NAME)) == 16
    run(lines(40))
    assert set(asked(fake).values()) == {1}
    assert len(raw(folder(), "output")) == 40


@pytest.mark.parametrize("error", [AuthenticationError, UnreachableError, KeyboardInterrupt, SystemExit])
def test_what_came_in_before_a_stop_is_kept(run, folder, fake, clock, error):
    count = iter(range(1_000))

    def answer(request):
        if next(count) == 13:
            raise error("stop")
        return fake.answered(request)

    fake.direct = answer
    with pytest.raises(error):
        run(lines(30))
    direct = Direct(folder(), fake, clock)
    assert sum(len(piece) for piece in direct.answered(NAME)) == 13
    # The row whose answer never came may have been bought; those of its claim that never went out were not.
    assert direct.spent_claims(NAME) == ["r13"]
    assert direct.lost(NAME) == 1
    fake.direct = fake.answered
    run(lines(30))
    assert asked(fake) == {f"r{row}": 1 + (row == 13) for row in range(30)}
    assert direct.spent_claims(NAME) == ["r13"]
    assert len(answered(folder())) == 30


@pytest.mark.parametrize("error", [Killed, StoreError])
def test_a_death_at_any_write_loses_no_row_and_buys_few_twice(tmp_path, clock, fake, error):
    def store_at(number):
        return TickingStore.at(str(tmp_path / f"out{number}"))

    store = store_at("whole")
    Direct(store, fake, clock, 2).run(NAME, lines(20), 20)
    assert len(store.points) > 20
    for fuse in range(len(store.points)):
        fake.asked.clear()
        store = store_at(fuse)
        store.fuse, store.error = fuse, error
        with pytest.raises(error):
            Direct(store, fake, clock, 2).run(NAME, lines(20), 20)
        told = sum(asked(fake).values())
        lost = Direct(store_at(fuse), fake, clock, 2).lost(NAME)
        again = store_at(fuse)
        sizes = Direct(again, fake, clock, 2).run(NAME, lines(20), 20)
        assert sorted(answered(again)) == sorted(f"r{row}" for row in range(20)), store.points[-1]
        assert sizes["output"] == again.size(f"_job/raw/{NAME}.output.jsonl")
        assert again.below("_job") == [f"_job/direct/{NAME}.json", f"_job/raw/{NAME}.output.jsonl"]
        twice = sum(asked(fake).values()) - 20
        assert twice <= lost <= 8 + 1, store.points[-1]
        assert told <= 20
        assert len(Direct(again, fake, clock, 2).spent_claims(NAME)) >= twice


def test_a_kill_without_a_word_buys_at_most_two_claims_twice(tmp_path, clock, fake):
    """Nothing can be written any more: not even the answers that came in."""
    for fuse in range(12):
        fake.asked.clear()
        store = TickingStore.at(str(tmp_path / f"out{fuse}"))
        store.fuse = fuse
        with pytest.raises(Killed):
            Direct(store, fake, clock, 2).run(NAME, lines(40), 40)
        Direct(Store.at(str(tmp_path / f"out{fuse}")), fake, clock, 2).run(NAME, lines(40), 40)
        assert sum(asked(fake).values()) - 40 <= 16
        assert set(asked(fake)) == {f"r{row}" for row in range(40)}


def test_answers_of_several_runs_are_published_once_each(run, folder, fake):
    count = iter(range(1_000))

    def answer(request):
        if next(count) % 7 == 6:
            raise UnreachableError("gone")
        return fake.answered(request)

    fake.direct = answer
    runs = 0
    while True:
        runs += 1
        try:
            run(lines(30))
            break
        except UnreachableError:
            assert runs < 20
    assert sorted(answered(folder())) == sorted(f"r{row}" for row in range(30))
    assert runs > 3


def test_a_double_of_an_answer_is_dropped(folder, clock):
    class Doubling:
        def ask(self, lines, take, *, concurrency):  # noqa: ARG002 - the protocol's
            for item in lines:
                value = {"custom_id": json.loads(item)["custom_id"], "response": {"status_code": 200, "body": {}}}
                for _ in range(2):
                    take(json.dumps(value).encode() + b"\n")

    store = folder()
    Direct(store, Doubling(), clock, 2).run(NAME, lines(10), 10)
    assert answered(store) == [f"r{row}" for row in range(10)]


def test_of_two_processes_one_stops_before_it_sends_what_the_other_claimed(folder, clock, fake):
    first = Direct(folder(), fake, clock, 1)
    second = Direct(folder(), fake, clock, 1)
    done = []

    def reserve(_chunk):
        if len(fake.asked) == 8 and not done:
            done.append(True)
            second.run(NAME, lines(20), 20)

    with pytest.raises(JobOwnedError, match="Another try"):
        first.run(NAME, lines(20), 20, reserve=reserve)
    # Its answers of the last claim weren't written when the second began.
    assert set(asked(fake).values()) == {1}
    assert sorted(answered(folder())) == sorted(f"r{row}" for row in range(20))
    assert first.run(NAME, lines(20), 20)["output"]


def test_of_two_processes_whose_rows_are_all_claimed_one_makes_the_files(folder, clock, fake):
    first = Direct(folder(), fake, clock, 1)
    second = Direct(folder(), fake, clock, 1)

    def answer(request):
        if request["custom_id"] == "r7":
            fake.direct = fake.answered
            second.run(NAME, lines(8), 8)
        return fake.answered(request)

    fake.direct = answer
    with pytest.raises(JobOwnedError):
        first.run(NAME, lines(8), 8)
    assert sorted(answered(folder())) == sorted(f"r{row}" for row in range(8))


def test_answers_are_written_after_a_while_however_few(folder, clock, fake):
    store = folder()

    def answer(request):
        clock.now += 6
        return fake.answered(request)

    fake.direct = answer
    Direct(store, fake, clock, 100).run(NAME, lines(10), 10)
    pieces = [point for point in store.points if point.startswith("created") and point.endswith(".jsonl")]
    assert len(pieces) == 5


def test_a_damaged_file_of_answers_is_no_reason_to_buy_again(run, folder, fake):
    fake.direct = lambda request: fake.answered(request) if request["custom_id"] != "r9" else _stop()
    with pytest.raises(UnreachableError):
        run(lines(20))
    store = folder()
    (first, *_) = [name for name in store.names(FOLDER) if name.endswith(".jsonl")]
    store.put(f"{FOLDER}/{first}", store.read(f"{FOLDER}/{first}")[:-20])
    before = len(fake.asked)
    with pytest.raises(JournalError, match="damaged"):
        run(lines(20))
    assert len(fake.asked) == before


def _stop():
    raise UnreachableError("gone")


def test_ids_of_any_spelling_and_lines_in_any_form_are_joined(run, folder, fake):
    given = [
        b'{"body": {"model": "m", "messages": [{"role": "user", "content": "a"}]}, "custom_id": "x \\u00e9\\"1"}\n',
        '{"custom_id": "é", "body": {"model": "m", "messages": [{"role": "user", "content": "b"}]}}\n'.encode(),
        b"\n",
    ]
    run(given)
    assert [item["custom_id"] for item in raw(folder(), "output")] == ['x é"1', "é"]


def test_memory_is_that_of_a_few_claims(folder, clock):
    body = {"data": "x" * 50_000}

    class Large:
        def ask(self, lines, take, *, concurrency):  # noqa: ARG002 - the protocol's
            for item in lines:
                value = {"custom_id": item[14 : item.index(b'"', 14)].decode(), "response": {"status_code": 200}}
                value["response"]["body"] = body
                take(json.dumps(value).encode() + b"\n")

    def given():
        for row in range(2_000):
            yield line(row)

    store = folder()
    tracemalloc.start()
    try:
        Direct(store, Large(), clock, 8).run(NAME, given(), 2_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert store.size(f"_job/raw/{NAME}.output.jsonl") > 100_000_000
    assert peak < 25_000_000


def test_progress_is_told(run, fake, caplog, monkeypatch):
    monkeypatch.setattr("airflow_openai_batch.engine.progress.EVERY", 0.0)
    with caplog.at_level("INFO"):
        run(lines(10))
    assert "Asking for the answers of shard 00000.r0.a0: 10 rows" in caplog.text
    assert "100% done" in caplog.text


def test_on_the_emulator_a_killed_job_goes_on_by_row(start, tmp_path, clock):
    desk, ledger = start()
    store = TickingStore.at(str(tmp_path / "direct"))
    store.fuse = 9
    with pytest.raises(Killed):
        Direct(store, desk.api, clock, 4).run(NAME, lines_for_emulator(200), 200)
    bought = ledger.rows_billed
    assert 0 < bought < 200
    again = Store.at(str(tmp_path / "direct"))
    Direct(again, desk.api, clock, 4).run(NAME, lines_for_emulator(200), 200)
    assert len(set(answered(again))) == 200
    assert ledger.rows_billed_twice <= 32
    assert ledger.bodies_billed == 200
    assert len(Direct(again, desk.api, clock).spent_claims(NAME)) >= ledger.rows_billed_twice


def lines_for_emulator(number):
    return [line(row).replace(b'"model":"m"', b'"model":"gpt-5-mini"') for row in range(number)]
