"""What an ended batch returned is on the store, whole, and counted."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from airflow_openai_batch.engine.journal import Journal
from airflow_openai_batch.engine.models import Counts, Usage, Waiting
from airflow_openai_batch.engine.records import RowIssue
from airflow_openai_batch.engine.runner import advance
from airflow_openai_batch.exceptions import NotFoundError, UnreachableError
from tests.engine.conftest import answered, refused

ROWS = [{"prompt": f"row {n}"} for n in range(4)]


@pytest.fixture
def collected(fakes, fake):
    """End the job's first batch and return what was noted of it."""

    def collected(status="completed", answer=fake.answered, issues=(), rows=ROWS, **options):
        advance(fakes.job(rows, **options))
        fake.end(status=status, answer=answer, issues=issues)
        advance(fakes.job(rows, **options))
        journal = Journal(fakes.job(rows).store)
        return journal.state(journal.job()).all_attempts()[0].end

    return collected


def by_row(**special):
    """Answers by wire id; the rest succeed."""
    from functools import partial

    def answer(fake, request):
        make = special.get(request["custom_id"], lambda f, r: f.answered(r))
        return make(fake, request)

    return lambda fake: partial(answer, fake)


def test_rows_are_counted_by_status_and_those_that_may_go_again_are_noted(collected, fake):
    answer = by_row(
        r0=lambda f, r: f.refused(r, 400),
        r1=lambda f, r: f.refused(r, 503),
        r2=lambda _f, _r: None,
    )(fake)
    end = collected(answer=answer)
    assert end.rows == {"succeeded": 1, "failed": 2, "missing": 1}
    assert end.open == {"failed": ((1, 1),), "missing": ((2, 2),)}
    assert (end.answered, end.status, end.batch_id) == (3, "completed", "batch-0")
    assert end.usage == {"gpt-5-mini": Usage(3, 0, 2, 0, 5)}


def test_both_files_of_an_expired_batch_are_read(collected, fake):
    late = {f"r{n}": lambda f, r: f.not_run(r) for n in (1, 2)}
    end = collected("expired", by_row(**late)(fake))
    assert end.rows == {"succeeded": 2, "expired": 2}
    assert end.open == {"expired": ((1, 2),)}
    assert end.answered == 2


def test_raw_files_are_kept_byte_for_byte(collected, fakes, fake):
    collected(answer=by_row(r0=lambda f, r: f.refused(r, 400))(fake), delete_files=False)
    contents = {file.name: content for file, content in fake.files.values()}
    for kind, lines in (("output", 3), ("error", 1)):
        kept = (fakes.out / "_job" / "raw" / f"00000.r0.a0.{kind}.jsonl").read_bytes()
        assert kept == contents[f"{kind}.jsonl"]
        assert len(kept.splitlines()) == lines


def test_lines_that_belong_to_no_row_are_counted_apart(collected, fake, monkeypatch):
    real = fake.put

    def put(name, content):
        if name == "output.jsonl":
            lines = content.splitlines(keepends=True)
            foreign = json.dumps({**json.loads(lines[0]), "custom_id": "r99"}).encode() + b"\n"
            content = b"".join([*lines, lines[0], foreign, b'{"cut', b"\n", b"\n"])
        return real(name, content)

    monkeypatch.setattr(fake, "put", put)
    end = collected()
    assert end.noise == {"duplicate": 1, "unknown": 1, "unreadable": 1}
    assert end.rows == {"succeeded": 4}


def test_what_was_returned_twice_is_counted_once(collected, fake, monkeypatch):
    real = fake.put
    monkeypatch.setattr(fake, "put", lambda name, body: real(name, body * 2 if name == "output.jsonl" else body))
    assert collected().usage["gpt-5-mini"].total_tokens == 4 * 5


def doubled(row, status, text="second"):
    """A second line of a row, as it is written."""
    request = {"custom_id": f"r{row}", "body": {"messages": [{"content": text}]}}
    return json.dumps(answered(request) if status == 200 else refused(request, status)).encode() + b"\n"


def test_of_doubled_lines_the_better_counts_for_the_row_its_usage_and_its_next_try(collected, fake, monkeypatch):
    real = fake.put
    more = doubled(0, 200) + doubled(0, 503) + doubled(1, 503) + doubled(2, 200, "third") + doubled(3, 400)
    before = doubled(2, 429)

    def put(name, content):
        return real(name, before + content + more if name == "output.jsonl" else content)

    monkeypatch.setattr(fake, "put", put)
    end = collected(answer=by_row(r0=lambda f, r: f.refused(r, 503), r2=lambda _f, _r: None)(fake))
    assert (end.rows, end.open, end.answered) == ({"succeeded": 4}, {}, 4)
    assert end.noise["duplicate"] == 5
    assert end.usage["gpt-5-mini"] == Usage(3 * 4, 0, 2 * 4, 0, 5 * 4)


def test_an_answer_that_was_billed_and_gives_way_to_a_better_one_is_not_counted(collected, fake, monkeypatch):
    real = fake.put

    def put(name, content):
        spoilt = content.replace(b'"stop"', b'"length"', 1) + doubled(0, 200)
        return real(name, spoilt if name == "output.jsonl" else content)

    monkeypatch.setattr(fake, "put", put)
    end = collected()
    assert (end.rows, end.usage["gpt-5-mini"].total_tokens) == ({"succeeded": 4}, 4 * 5)


@pytest.mark.parametrize("way_round", [1, -1])
def test_of_doubled_lines_the_one_that_was_counted_is_landed(fakes, fake, monkeypatch, way_round):
    real = fake.put
    lines = [doubled(0, 503), doubled(0, 200), doubled(0, 200, "last")]

    def put(name, content):
        return real(name, b"".join(lines[::way_round]) if name == "output.jsonl" else content)

    monkeypatch.setattr(fake, "put", put)
    advance(fakes.job(["a"]))
    fake.end()
    done = fakes.finish(fakes.job(["a"]))
    assert done.outputs == ["second" if way_round > 0 else "last"]
    assert (len(fake.batches), done.manifest["usage"]["total_tokens"]) == (1, 5)


def test_a_batch_that_returned_nothing_leaves_all_its_rows_missing(collected):
    end = collected(answer=lambda _: None)
    assert (end.rows, end.output_bytes, end.error_bytes) == ({"missing": 4}, None, None)


def hide(fake, file_id):
    """Have a file answer 404; called, what is returned brings it back."""
    file, content = fake.files[file_id]
    fake.files[file_id] = (file, None)
    return lambda: fake.files.update({file_id: (file, content)})


@pytest.mark.parametrize("kind", ["output", "error"])
def test_a_file_that_is_not_there_yet_is_waited_for_and_nothing_is_bought_again(fakes, fake, clock, kind):
    advance(fakes.job(ROWS))
    fake.end(answer=by_row(r0=lambda f, r: f.refused(r, 400))(fake))
    show = hide(fake, getattr(fake.batches["batch-0"], f"{kind}_file_id"))
    waiting = advance(fakes.job(ROWS))
    assert (waiting.batches, waiting.until) == ((), clock.now + 60)
    assert "1 ended whose files aren't there yet" in waiting.reason
    assert not [name for name in fakes.left() if "end.json" in name]
    clock.now = waiting.until
    show()
    assert fakes.finish(fakes.job(ROWS)).statuses == ["failed", *["succeeded"] * 3]
    assert fake.calls["create_batch"] == 1


def test_a_file_that_is_gone_for_ten_minutes_leaves_its_rows_missing(fakes, fake, clock, caplog):
    advance(fakes.job(ROWS))
    fake.end()
    file_id = fake.batches["batch-0"].output_file_id
    hide(fake, file_id)
    ended = clock.now
    while not (waiting := advance(fakes.job(ROWS))).batches:
        clock.now = waiting.until
    assert clock.now == ended + 600
    assert f"File {file_id} of batch batch-0: no {file_id}; its rows are missing" in caplog.text
    assert len(fake.requests("batch-1")) == 4


def test_a_file_that_was_never_read_is_not_deleted(fakes, fake, clock):
    advance(fakes.job(ROWS, max_rounds=1))
    fake.end()
    file_id = fake.batches["batch-0"].output_file_id
    show = hide(fake, file_id)
    while isinstance(outcome := advance(fakes.job(ROWS, max_rounds=1)), Waiting):
        clock.now = outcome.until
        if clock.now > fake.batches["batch-0"].created_at + 500:
            fake.download = lambda *_: (_ for _ in ()).throw(NotFoundError("no", status=404))
            show()
    assert outcome.manifest["rows"]["missing"] == 4
    assert fake.files[file_id][1] is not None


PAGES = [b"<html>busy</html>", b'{"error":{"message":"busy"}}\n', b""]


@pytest.mark.parametrize("page", PAGES, ids=["a page", "an error", "nothing"])
def test_what_comes_in_place_of_a_file_is_not_taken_for_it(fakes, fake, clock, page):
    advance(fakes.job(ROWS))
    fake.end()
    file_id = fake.batches["batch-0"].output_file_id
    whole = fake.files[file_id]
    fake.files[file_id] = (whole[0], page)
    waiting = advance(fakes.job(ROWS))
    assert (waiting.batches, waiting.until) == ((), clock.now + 60)
    fake.files[file_id] = whole
    clock.now = waiting.until
    assert fakes.finish(fakes.job(ROWS)).statuses == ["succeeded"] * 4
    assert fake.calls["create_batch"] == 1


@pytest.mark.parametrize("in_a_line", [True, False], ids=["in a line", "between two"])
def test_a_file_that_was_cut_is_downloaded_once_more(fakes, fake, monkeypatch, in_a_line):
    advance(fakes.job(ROWS))
    fake.end()
    content = fake.files[fake.batches["batch-0"].output_file_id][1]
    download, cuts = fake.download, [content.index(b"\n") + (20 if in_a_line else 1)]

    def cut(file_id, target):
        size = download(file_id, target)
        return target.truncate(cuts.pop()) if cuts else size

    monkeypatch.setattr(fake, "download", cut)
    assert fakes.finish(fakes.job(ROWS)).statuses == ["succeeded"] * 4
    assert fake.calls["create_batch"] == 1


def test_a_last_line_that_is_cut_each_time_is_what_the_server_has(fakes, fake, monkeypatch):
    real = fake.put
    monkeypatch.setattr(fake, "put", lambda name, body: real(name, body[:-9] if name == "output.jsonl" else body))
    advance(fakes.job(ROWS))
    fake.end()
    advance(fakes.job(ROWS))
    assert [request["custom_id"] for request in fake.requests("batch-1")] == ["r3"]
    assert fake.calls["download"] == 2


def test_where_the_server_tells_no_end_files_are_waited_for_from_the_first_look_on(fakes, fake, clock):
    advance(fakes.job(ROWS))
    clock.now += 80_000
    fake.end()
    whole = fake.batches["batch-0"]
    fake.batches["batch-0"] = replace(whole, output_file_id=None)
    first = clock.now
    while not (waiting := advance(fakes.job(ROWS))).batches:
        clock.now = waiting.until
    assert clock.now == first + 600


def test_another_batch_than_the_one_that_was_asked_for_is_no_look_at_it(fakes, fake):
    advance(fakes.job(ROWS))
    retrieve = fake.retrieve_batch
    fake.end()
    fake.retrieve_batch = lambda batch_id: replace(retrieve(batch_id), id="batch_of_others")
    assert isinstance(advance(fakes.job(ROWS)), Waiting)
    fake.retrieve_batch = retrieve
    assert fakes.finish(fakes.job(ROWS)).statuses == ["succeeded"] * 4


def test_a_batch_that_counts_answers_and_names_no_file_is_looked_at_again(fakes, fake, clock):
    advance(fakes.job(ROWS))
    fake.end()
    whole = fake.batches["batch-0"]
    fake.batches["batch-0"] = replace(whole, output_file_id=None)
    waiting = advance(fakes.job(ROWS))
    assert (waiting.batches, waiting.until) == ((), clock.now + 60)
    clock.now = waiting.until
    fake.batches["batch-0"] = whole
    assert fakes.finish(fakes.job(ROWS)).statuses == ["succeeded"] * 4
    assert fake.calls["create_batch"] == 1


def test_a_batch_that_names_no_file_for_ten_minutes_leaves_its_rows_missing(fakes, fake, clock):
    advance(fakes.job(ROWS))
    fake.end()
    fake.batches["batch-0"] = replace(fake.batches["batch-0"], output_file_id=None)
    advance(fakes.job(ROWS))
    clock.now += 600
    assert advance(fakes.job(ROWS)).batches == ("batch-1",)


def test_rows_that_all_failed_have_an_error_file_alone_and_are_collected_at_once(collected, fake):
    end = collected(answer=lambda request: fake.refused(request, 400))
    assert (end.rows, end.output_bytes) == ({"failed": 4}, None)


def test_a_batch_that_failed_for_some_lines_names_them_and_sends_the_others_again(collected, fake):
    issues = [{"code": "invalid_request", "message": "Model parameter is required.", "line": 2}]
    end = collected("failed", issues=issues)
    assert end.issues == (RowIssue(1, "invalid_request", "Model parameter is required."),)
    assert (end.rows, end.open) == ({"failed": 4}, {"blocked": ((0, 0), (2, 3))})
    assert [request["custom_id"] for request in fake.requests("batch-1")] == ["r0", "r2", "r3"]


def test_a_batch_that_failed_as_a_whole_sends_nothing_again(collected):
    end = collected("failed", issues=[{"code": "model_not_found", "message": "no such model"}])
    assert (end.rows, end.open, end.answered) == ({"failed": 4}, {}, 0)
    assert end.failure == RowIssue(-1, "model_not_found", "no such model")


def test_a_batch_that_failed_without_a_word_sends_nothing_again(collected):
    assert collected("failed").failure.code == "batch_failed"


def test_nothing_is_noted_before_both_files_are_there(fakes, fake):
    advance(fakes.job(ROWS))
    fake.end(answer=by_row(r0=lambda f, r: f.refused(r, 400))(fake))
    fake.errors["download"] = [UnreachableError("cut")]
    with pytest.raises(UnreachableError):
        advance(fakes.job(ROWS))
    assert not [name for name in fakes.left() if "end.json" in name or "raw" in name]
    assert fakes.finish(fakes.job(ROWS)).statuses == ["failed", *["succeeded"] * 3]


def test_a_download_that_is_cut_goes_on_where_it_was(desk, emulator):
    emulator.add_fault(fault="cut_download", call="files.content", after_bytes=1_000)
    done = desk.run(ROWS)
    assert done.outputs == [row["prompt"] for row in ROWS]
    assert emulator.ledger.faults["cut_download"] >= 1


def test_a_list_that_shows_no_files_is_not_believed_of_a_batch_that_has_ended(fakes, fake):
    rows = [{"prompt": f"row {n}"} for n in range(5)]
    advance(fakes.job(rows, requests_per_batch=1))
    for batch_id in list(fake.batches):
        fake.end(batch_id)
    bare = {"output_file_id": None, "error_file_id": None, "counts": Counts()}
    fake.list_batches = lambda: iter([replace(batch, **bare) for batch in reversed(fake.batches.values())])
    assert fakes.finish(fakes.job(rows, requests_per_batch=1)).statuses == ["succeeded"] * 5
    assert fake.calls["create_batch"] == 5
