"""One destination is one job: planned when empty, gone on with when it is this one, refused when it is another."""

from __future__ import annotations

import json
import logging

import pytest

from airflow_openai_batch.engine.job import JobSpec
from airflow_openai_batch.engine.requests import RequestSpec
from airflow_openai_batch.engine.runner import advance
from airflow_openai_batch.engine.sources import open_source
from airflow_openai_batch.exceptions import InputError, JobMismatchError, JournalError

ROWS = [{"prompt": "a"}, {"prompt": "b"}]
OTHER = {"owner": {"task": "another"}}


def must_not_be_read():
    raise AssertionError("the source was read again")


def generator(rows=ROWS):
    return lambda: open_generator(rows)


def open_generator(rows):
    from airflow_openai_batch.engine.sources import open_source

    return open_source(row for row in rows)


def test_an_empty_destination_is_planned(fakes):
    record = fakes.job(ROWS).open()
    assert (record.plan.rows, record.destination, record.owner) == (2, str(fakes.out), {"task": "t"})
    assert fakes.job(ROWS).open() == record


def test_a_retry_goes_on_without_reading_rows_that_can_be_read_only_once(fakes):
    first = fakes.job(generator()).open()
    assert fakes.job(generator([{"prompt": "something else"}])).open() == first


def test_a_retry_of_files_that_did_not_change_reads_none_of_them(fakes, write, monkeypatch):
    path = write("a.jsonl", ROWS)
    first = fakes.job(path).open()
    monkeypatch.setattr("airflow_openai_batch.engine.files.FileSource.rows", lambda _: must_not_be_read())
    assert fakes.job(path).open() == first


def test_a_retry_goes_on_when_the_source_is_gone(fakes, write, tmp_path):
    path = write("a.jsonl", ROWS)
    first = fakes.job(path).open()
    (tmp_path / "a.jsonl").unlink()
    assert fakes.job(path).open() == first


def test_another_owner_must_bring_the_source(fakes, write, tmp_path):
    path = write("a.jsonl", ROWS)
    fakes.job(path).open()
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(InputError, match="no such file"):
        fakes.job(path, **OTHER).open()


def test_another_owner_with_the_same_rows_and_parameters_goes_on(fakes, write):
    first = fakes.job(generator()).open()
    assert fakes.job(generator(), **OTHER).open() == first
    assert fakes.job(ROWS, **OTHER).open() == first
    assert fakes.job(write("same.jsonl", ROWS), **OTHER).open() == first


def test_files_that_were_only_touched_are_the_same_rows(fakes, write):
    path = write("a.jsonl", ROWS)
    first = fakes.job(path).open()
    write("a.jsonl", b'\n{"prompt": "a"}\n\n{"prompt": "b"}')
    assert fakes.job(path).open() == first


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"prompt": "{{ row.prompt }}!"}, 'prompt changed (prompt was null, is "{{ row.prompt }}!")'),
        ({"model": "gpt-5"}, 'model changed (model was "gpt-5-mini", is "gpt-5")'),
        ({"system": "S"}, "system changed"),
        ({"body": {"temperature": 0}}, 'body changed (body was {}, is {"temperature":0})'),
        ({"endpoint": "/v1/responses"}, "endpoint changed"),
        ({"response_format": {"type": "json_object"}}, "response_format changed"),
        ({"completion_window": "7d"}, "completion_window changed"),
        ({"model": "gpt-5", "system": "S"}, "model, system changed"),
    ],
)
def test_changed_parameters_are_refused_by_name(fakes, change, named):
    job = fakes.job(ROWS).open().job
    with pytest.raises(JobMismatchError) as caught:
        fakes.job(ROWS, **change).open()
    assert named in str(caught.value)
    assert f"{fakes.out} holds another job ({job})" in str(caught.value)
    assert 'on_input_change="restart"' in str(caught.value)
    assert not caught.value.retryable


def test_changed_rows_are_refused(fakes, write):
    path = write("a.jsonl", ROWS)
    fakes.job(path).open()
    write("a.jsonl", [*ROWS, {"prompt": "c"}])
    with pytest.raises(JobMismatchError, match="the source's rows changed"):
        fakes.job(path).open()


def test_rows_in_another_order_are_other_rows(fakes):
    fakes.job(ROWS).open()
    with pytest.raises(JobMismatchError, match="the source's rows changed"):
        fakes.job(ROWS[::-1]).open()


@pytest.mark.parametrize(
    "change", [{"max_rounds": 5}, {"timeout": 5.0}, {"metadata": {"team": "x"}}, {"max_enqueued_tokens": 10}]
)
def test_settings_may_change_between_tries(fakes, change):
    first = fakes.job(ROWS).open()
    assert fakes.job(ROWS, **change).open() == first


def test_limits_of_a_batch_may_change_between_tries(fakes):
    first = fakes.job(generator([{"prompt": "a"}] * 5), requests_per_batch=2).open()
    assert fakes.job(generator([{"prompt": "a"}] * 5), requests_per_batch=3, **OTHER).open() == first


def test_a_manifest_without_its_job_is_refused(fakes):
    fakes.out.mkdir()
    (fakes.out / "manifest.json").write_text("{}")
    with pytest.raises(JobMismatchError, match=r"manifest\.json is there, but no job beside it"):
        fakes.job(ROWS).open()


def test_restart_gives_the_old_job_up_and_keeps_its_folder(fakes, fake, caplog):
    advance(fakes.job(ROWS))
    old = (fakes.out / "_job" / "job.json").read_bytes()
    with caplog.at_level(logging.WARNING):
        outcome = advance(fakes.job([{"prompt": "c"}], on_input_change="restart"))
    assert fake.batches["batch-0"].status == "cancelling"
    assert outcome.batches == ("batch-1",)
    (kept,) = (path for path in fakes.folder.iterdir() if path.name.startswith("out."))
    assert (kept / "_job" / "job.json").read_bytes() == old
    assert "1 batch(es) cancelled" in caplog.text


def test_restart_leaves_a_job_that_did_not_change_alone(fakes, fake):
    advance(fakes.job(ROWS, on_input_change="restart"))
    assert advance(fakes.job(ROWS, on_input_change="restart")).batches == ("batch-0",)
    assert fake.calls["cancel_batch"] == 0


def test_restart_begins_anew_after_a_finished_job(fakes, fake):
    advance(fakes.job(ROWS))
    fake.end()
    first = fakes.finish(fakes.job(ROWS))
    advance(fakes.job([{"prompt": "c"}], on_input_change="restart"))
    fake.end()
    second = fakes.finish(fakes.job([{"prompt": "c"}], on_input_change="restart"))
    assert (first.outputs, second.outputs) == (["a", "b"], ["c"])
    assert first.manifest["job"] != second.manifest["job"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "is damaged"), (b'{"version": 99}', "is of version 99; this package reads version 1")],
)
def test_a_journal_that_can_not_be_read_stops_everything(fakes, fake, content, message):
    advance(fakes.job(ROWS))
    (fakes.out / "_job" / "job.json").write_bytes(content)
    calls = sum(fake.calls.values())
    for options in ({}, {"on_input_change": "restart"}):
        with pytest.raises(JournalError, match=message):
            advance(fakes.job(ROWS, **options))
    assert sum(fake.calls.values()) == calls


def test_of_two_planners_the_first_counts(fakes):
    late = fakes.job(ROWS)

    def source():
        first.append(fakes.job(ROWS).open())
        return open_generator(ROWS)

    first = []
    late._source = source
    assert late.open() == first[0]


def test_a_job_can_be_gone_on_with_from_its_record_alone(fakes):
    job = fakes.job(ROWS, prompt="{{ row.prompt }}", metadata={"a": "b"}, timeout=5.0, max_rounds=3)
    record = job.open()
    assert JobSpec.of(record) == job.spec


def test_a_record_holds_no_more_than_json(fakes):
    spec = JobSpec(RequestSpec(body={"n": 1, "seed": 2}), metadata={"a": "b"})
    assert json.loads(json.dumps(spec.parameters()))["body"] == {"n": 1, "seed": 2}
    assert "request" not in spec.settings()


def test_what_is_not_there_can_not_be_gone_on_with(fakes):
    with pytest.raises(JournalError, match="There is no job at"):
        fakes.job(ROWS).known()


def test_a_planner_that_was_overtaken_overwrites_nothing(fakes, fake):
    """A zombie still reads its source when its retry, with other rows, has planned and submitted."""

    def retry():
        return open_source(lambda: iter([{"prompt": "retry 0"}, {"prompt": "retry 1"}]))

    def slow():
        yield {"prompt": "zombie 0"}
        advance(fakes.job(retry))
        yield {"prompt": "zombie 1"}

    assert advance(fakes.job(lambda: open_source(slow))).batches == ("batch-0",)
    fake.end()
    done = fakes.finish(fakes.job(retry))
    assert [line["input"]["prompt"] for line in done.lines] == ["retry 0", "retry 1"]
    assert done.outputs == ["retry 0", "retry 1"]
    assert fake.calls["create_batch"] == 1


def test_answers_are_never_joined_to_rows_that_changed(fakes, fake):
    advance(fakes.job(ROWS))
    fake.end()
    joints = fakes.out / "_job" / "rows" / "00000.jsonl"
    joints.write_bytes(joints.read_bytes().replace(b"row", b"ROW", 2))
    with pytest.raises(JournalError, match=r"rows/00000\.jsonl isn't as it was planned"):
        advance(fakes.job(ROWS))
    assert not (fakes.out / "manifest.json").exists()
