"""A finished job's results are read back: rows, a table, a frame."""

from __future__ import annotations

import datetime as dt
import shutil
import sys
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from airflow_openai_batch import merge_manifests, read_results
from airflow_openai_batch.engine import reading
from airflow_openai_batch.engine.models import RESULT_FORMATS
from airflow_openai_batch.engine.runner import advance
from airflow_openai_batch.engine.sources import open_source
from airflow_openai_batch.exceptions import ConfigurationError, JobUnfinishedError, JournalError

ROWS = [
    {"prompt": "a\u2028b\nc", "n": 1, "empty": "", "tags": ["x", None], "none": None},
    {"prompt": 'say "hi"', "n": None, "empty": None, "tags": [], "more": {"k": 1.5}},
    {"prompt": "", "n": 3},
]


@pytest.fixture
def done(fakes, fake):
    """A finished job over rows; the manifest."""

    def done(rows=ROWS, result_format="jsonl", out=None, **options):
        options = {"requests_per_batch": 2, "max_rounds": 1, "result_format": result_format, "out": out, **options}
        source = lambda: open_source(rows)  # noqa: E731 - opened for each try
        advance(fakes.job(source, **options))
        for batch in list(fake.batches):
            if not fake.batches[batch].ended:
                fake.end(batch)
        return advance(fakes.job(source, **options)).manifest

    return done


def without_nulls(value):
    """A row as one that leaves out what is null."""
    if isinstance(value, dict):
        return {name: without_nulls(item) for name, item in value.items() if item is not None}
    return value


@pytest.mark.parametrize("name", RESULT_FORMATS)
def test_rows_come_in_order_with_the_fields_of_a_result(done, fakes, name):
    done(result_format=name)
    rows = list(read_results(str(fakes.out)))
    assert [list(row) for row in rows] == [
        [
            "row", "custom_id", "input", "status", "output", "finish_reason", "model", "usage", "error", "batch_id",
            "round",
        ]
    ] * 3  # fmt: skip
    assert [row["output"] for row in rows] == [row["prompt"] for row in ROWS]
    assert [row["row"] for row in rows] == [0, 1, 2]
    assert rows[0]["usage"] == {
        "input_tokens": 3, "cached_tokens": 0, "output_tokens": 2, "reasoning_tokens": 0, "total_tokens": 5,
    }  # fmt: skip
    assert {row["error"] for row in rows} == {None}
    if name != "csv":
        assert [without_nulls(row["input"]) for row in rows] == [without_nulls(row) for row in ROWS]


def test_csv_gives_text_and_tells_empty_from_nothing(done, fakes):
    done(result_format="csv")
    first, second, third = (row["input"] for row in read_results(fakes.out))
    assert first == {"prompt": "a\u2028b\nc", "n": "1", "empty": "", "tags": '["x",null]', "none": None, "more": None}
    assert (second["empty"], second["tags"], second["more"]) == (None, "[]", '{"k":1.5}')
    assert third["prompt"] == ""


def test_errors_come_back_from_csv(done, fakes, fake, monkeypatch):
    monkeypatch.setattr(type(fake), "answered", staticmethod(lambda request: fake.refused(request, 400)))
    monkeypatch.setattr(fake, "end", lambda batch: type(fake).end(fake, batch, answer=fake.answered))
    done(["a"], "csv")
    (row,) = read_results(fakes.out)
    assert (row["status"], row["output"], row["usage"]) == ("failed", None, None)
    assert row["error"] == {"code": "e400", "message": "no", "status_code": 400}
    assert row["input"] == {"prompt": "a"}


@pytest.mark.parametrize("name", RESULT_FORMATS)
def test_a_table_has_the_same_columns_whatever_the_format(done, fakes, name):
    done(result_format=name)
    table = read_results(fakes.out, as_="arrow")
    assert table["output"].to_pylist() == [row["prompt"] for row in ROWS]
    kinds = {field.name: str(field.type) for field in table.schema}
    own = {
        "csv": "struct<prompt: string, n: string, empty: string, tags: string, none: string, more: string>",
    }.get(
        name,
        "struct<prompt: string, n: int64, empty: string, tags: list<element: string>, none: string, "
        "more: struct<k: double>>",
    )
    assert (kinds["input"], kinds["row"]) == (own, "int64")
    assert kinds["usage"].startswith("struct<input_tokens: int64")


def test_lines_of_a_typed_source_make_a_typed_table(done, fakes):
    when = dt.datetime(2020, 1, 1, tzinfo=dt.timezone.utc)
    given = pa.table({"prompt": ["a"], "when": [when], "price": [Decimal("1.50")]})
    done(given, "jsonl")
    (row,) = read_results(fakes.out, as_="arrow")["input"].to_pylist()
    assert row == {"prompt": "a", "when": when, "price": Decimal("1.50")}
    (row,) = read_results(fakes.out)
    assert row["input"] == {"prompt": "a", "when": "2020-01-01T00:00:00+00:00", "price": "1.50"}


def test_parquet_gives_pythons_types(done, fakes):
    day = dt.date(2020, 1, 1)
    done(pa.table({"prompt": ["a"], "day": [day]}), "parquet")
    assert next(read_results(fakes.out))["input"] == {"prompt": "a", "day": day}


@pytest.mark.parametrize("name", RESULT_FORMATS)
def test_a_frame_is_the_table_in_pandas(done, fakes, name):
    done(result_format=name)
    frame = read_results(fakes.out, as_="pandas")
    assert frame["output"].to_list() == [row["prompt"] for row in ROWS]
    assert frame["row"].dtype == "int64"


def test_without_pandas_a_frame_is_refused_before_anything_is_read(done, fakes, monkeypatch):
    done()
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match='as_="pandas" needs pandas, which isn\'t installed'):
        read_results(fakes.out, as_="pandas")


def test_rows_are_read_as_they_are_asked_for(done, fakes):
    manifest = done()
    rows = read_results(fakes.out)
    assert next(rows)["row"] == 0
    Path(manifest["files"][1]).unlink()
    assert next(rows)["row"] == 1
    with pytest.raises(Exception, match=r"part-00001\.jsonl"):
        next(rows)


@pytest.mark.parametrize("name", ["jsonl", "parquet"])
def test_a_folder_that_was_moved_still_reads(done, fakes, tmp_path, name):
    done(result_format=name)
    shutil.move(fakes.out, tmp_path / "elsewhere")
    assert len(list(read_results(tmp_path / "elsewhere"))) == 3
    assert read_results(f"file://{tmp_path}/elsewhere/", as_="arrow").num_rows == 3


def test_results_without_the_jobs_own_files_still_read(done, fakes):
    done()
    shutil.rmtree(fakes.out / "_job")
    assert read_results(fakes.out, as_="arrow")["input"].to_pylist()[0]["n"] == 1


def test_only_files_that_the_manifest_names_are_read(done, fakes):
    done()
    (fakes.out / "results" / "part-00009.jsonl").write_bytes(b"not ours")
    assert len(list(read_results(fakes.out))) == 3


def test_the_manifest_of_a_task_reads_what_it_names(done, fakes):
    lines = done()
    done(result_format="parquet")
    assert [row["row"] for row in read_results(lines)] == [0, 1, 2]
    assert next(read_results({"job": lines["job"], "destination": str(fakes.out)}))["output"] == ROWS[0]["prompt"]


def test_many_jobs_are_read_one_after_the_other(done, tmp_path):
    manifests = [done([f"{n}", "b"], out=tmp_path / f"job {n}") for n in range(2)]
    merged = merge_manifests(manifests)
    assert [row["output"] for row in read_results(merged)] == ["0", "b", "1", "b"]
    assert read_results(merged, as_="arrow")["output"].to_pylist() == ["0", "b", "1", "b"]


def test_a_job_that_runs_has_no_results_yet(fakes):
    advance(fakes.job(["a"]))
    with pytest.raises(JobUnfinishedError, match="isn't finished"):
        read_results(fakes.out)


def test_a_folder_without_a_job_is_named(tmp_path):
    with pytest.raises(JournalError, match=f"There is no job at {tmp_path}"):
        read_results(str(tmp_path))


@pytest.mark.parametrize("where", ["", None, 5, {}, {"destination": ""}, {"destinations": []}])
def test_what_is_no_place_is_refused(where):
    with pytest.raises(ConfigurationError, match="a job's folder or its manifest is needed"):
        read_results(where)


def test_what_is_no_kind_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="one of rows, arrow, pandas is needed, not 'spark'"):
        read_results(tmp_path, as_="spark")


@pytest.mark.parametrize("name", ["jsonl", "jsonl.gz"])
def test_a_part_that_was_cut_is_named(done, fakes, name):
    (first, _) = done(result_format=name)["files"]
    Path(first).write_bytes(Path(first).read_bytes()[:-20])
    with pytest.raises(JournalError, match=r"part-00000\.jsonl.* is damaged"):
        list(read_results(fakes.out))


def test_rows_of_csv_may_be_longer_than_what_is_read_at_once(done, fakes, monkeypatch):
    monkeypatch.setattr(reading, "_BLOCK", 4_096)
    texts = ["a", "x" * 20_000, "b\n" * 40_000, "c"]
    done([{"prompt": text} for text in texts], "csv", requests_per_batch=10)
    assert [row["output"] for row in read_results(fakes.out)] == texts


@pytest.mark.parametrize("name", RESULT_FORMATS)
def test_results_on_an_object_store_are_read_with_its_options(fakes, fake, moto, name):
    store = moto.store()
    options = {"requests_per_batch": 2, "result_format": name, "store": store}
    advance(fakes.job(ROWS, **options))
    for batch in list(fake.batches):
        fake.end(batch)
    advance(fakes.job(ROWS, **options))
    assert [row["output"] for row in read_results(store.url, **moto.options())] == [row["prompt"] for row in ROWS]
    assert read_results(store.url, as_="arrow", **moto.options()).num_rows == 3
