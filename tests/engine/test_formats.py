"""The same results in every format, whoever reads them."""

from __future__ import annotations

import base64
import csv
import datetime as dt
import gzip
import json
import struct
from decimal import Decimal
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_openai_batch.engine import formats
from airflow_openai_batch.engine.formats import open_format
from airflow_openai_batch.engine.models import RESULT_FORMATS
from airflow_openai_batch.engine.runner import advance
from airflow_openai_batch.engine.sources import open_source
from airflow_openai_batch.engine.structured import normalize
from airflow_openai_batch.exceptions import ConfigurationError, JournalError

reads_fixed_lists = pytest.mark.skipif(
    int(pa.__version__.split(".")[0]) < 26, reason="this pyarrow reads no lists of a fixed size with nulls among them"
)
NOON = dt.datetime(2020, 7, 1, 12, tzinfo=dt.timezone.utc)
ODD = [
    {"prompt": "a\u2028b\r\n", "n": 1, "mixed": 1, "": "no name", "a.b": [1], "Case": "x", "case": 1, "none": None},
    {"prompt": 'say "hi", so; é', "n": None, "mixed": "t", "more": {"k": [{"z": 1.5}]}, "huge": 2**64 - 1},
    {"prompt": "=1+1", "n": -(2**63), "mixed": {"a": None}, "late": True, "empty": {}, "text": ""},
    {"prompt": "x" * 300_000, "late": None, "list": [], "huge": 1},
]


@pytest.fixture
def land(fakes, fake):
    """Land rows in a format; answers are given by wire id, or echo the prompt."""

    def land(rows, result_format="parquet", answers=None, lines=None, **options):
        options = {"requests_per_batch": 2, "max_rounds": 1, "result_format": result_format, **options}
        source = rows if callable(rows) else lambda: open_source(rows)
        advance(fakes.job(source, **options))

        def answer(request):
            if lines is not None:
                return lines(request)
            return fake.answered(request, (answers or {}).get(request["custom_id"]))

        for batch in list(fake.batches):
            if not fake.batches[batch].ended:
                fake.end(batch, answer=answer)
        return advance(fakes.job(source, **options)).manifest

    return land


def table(manifest):
    return pa.concat_tables(pq.read_table(name) for name in manifest["files"])


def sheet(manifest):
    """The rows of CSV files as a spreadsheet sees them."""
    rows = []
    usual = csv.field_size_limit(1 << 20)
    for name in manifest["files"]:
        with Path(name).open(encoding="utf-8-sig", newline="") as file:
            rows += csv.DictReader(file)
    csv.field_size_limit(usual)
    return rows


@pytest.mark.parametrize("name", RESULT_FORMATS)
def test_each_part_is_a_file_and_the_manifest_says_of_which_format(land, name):
    manifest = land(["a", "b", "c"], name)
    assert manifest["format"] == name
    assert [Path(file).name for file in manifest["files"]] == [f"part-0000{part}.{name}" for part in range(2)]
    assert all(Path(file).is_file() for file in manifest["files"])


def test_another_format_is_refused():
    with pytest.raises(ConfigurationError, match=r"one of jsonl, jsonl\.gz, jsonl\.zst, parquet, csv is .* not 'xml'"):
        open_format("xml")


@pytest.mark.parametrize("name", ["jsonl.gz", "jsonl.zst"])
def test_packed_lines_are_the_plain_ones(land, fakes, name):
    plain = [Path(file).read_bytes() for file in land(ODD, "jsonl")["files"]]
    packed = [Path(file) for file in land(ODD, name)["files"]]
    unpacked = [
        gzip.decompress(file.read_bytes())
        if name.endswith("gz")
        else pa.input_stream(str(file)).read()
        if file.suffix != ".zst"
        else pa.CompressedInputStream(str(file), "zstd").read()
        for file in packed
    ]
    assert unpacked == plain
    assert [json.loads(line)["input"] for lines in plain for line in lines.splitlines()] == ODD


@pytest.mark.parametrize("name", RESULT_FORMATS)
def test_landing_again_gives_the_same_bytes(land, fakes, name):
    first = {file: Path(file).read_bytes() for file in land(ODD, name)["files"]}
    (fakes.out / "manifest.json").unlink()
    again = land(ODD, name)
    assert {file: Path(file).read_bytes() for file in again["files"]} == first


def test_parquet_has_the_columns_that_the_documentation_lists(land):
    schema = table(land([{"prompt": "a", "n": 1}])).schema
    assert {field.name: str(field.type) for field in schema} == {
        "row": "int64",
        "custom_id": "string",
        "input": "struct<prompt: string, n: int64>",
        "status": "string",
        "output": "string",
        "finish_reason": "string",
        "model": "string",
        "usage": "struct<input_tokens: int64, cached_tokens: int64, output_tokens: int64, reasoning_tokens: int64, "
        "total_tokens: int64>",
        "error": "struct<code: string, message: string, status_code: int64, output: string>",
        "batch_id": "string",
        "round": "int64",
    }


def test_odd_rows_have_one_schema_in_all_parts(land):
    manifest = land(ODD)
    assert len({str(pq.read_schema(file)) for file in manifest["files"]}) == 1
    first, second, third, fourth = table(manifest)["input"].to_pylist()
    assert first == {
        "prompt": "a\u2028b\r\n", "n": 1, "mixed": "1", "": "no name", "a.b": [1], "Case": "x", "case_1": 1,
        "none": None, "more": None, "huge": None, "late": None, "empty": None, "text": None, "list": None,
    }  # fmt: skip
    assert (second["more"], second["huge"], second["mixed"]) == ({"k": [{"z": 1.5}]}, str(2**64 - 1), "t")
    assert (third["late"], third["empty"], third["text"], third["mixed"]) == (True, "{}", "", '{"a":null}')
    assert (fourth["list"], fourth["huge"], len(fourth["prompt"])) == ([], "1", 300_000)


@pytest.mark.filterwarnings("ignore")
def test_spark_reads_them(land):
    """Runs where PySpark and Java are; the suite doesn't install them, which are half a gigabyte."""
    sql = pytest.importorskip("pyspark.sql")
    builder = sql.SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    spark = builder.config("spark.driver.host", "127.0.0.1").config("spark.driver.bindAddress", "127.0.0.1")
    manifest = land(ODD)
    session = spark.getOrCreate()
    try:
        frame = session.read.parquet(f"file://{manifest['results']}").orderBy("row")
        assert [row.asDict(recursive=True) for row in frame.collect()] == table(manifest).to_pylist()
    finally:
        session.stop()


def test_every_reader_of_parquet_reads_them(land, fakes):
    files = f"{land(ODD)['results']}/*.parquet"
    expected = table({"files": sorted(map(str, fakes.out.glob("results/*.parquet")))})
    outputs = expected["output"].to_pylist()
    assert pl.read_parquet(files)["output"].to_list() == outputs
    assert pl.read_parquet(files)["input"].to_list() == expected["input"].to_pylist()
    assert pd.read_parquet(Path(files).parent)["output"].to_list() == outputs
    rows = duckdb.sql(f"select output, input.n, input.more.k[1].z, usage.total_tokens from '{files}' order by row")
    assert rows.fetchall() == [
        (output, row["n"], row["more"] and 1.5, 5)
        for output, row in zip(outputs, expected["input"].to_pylist(), strict=True)
    ]


TYPED = pa.table(
    {
        "prompt": ["a", "b", None],
        "when": pa.array([NOON, None, NOON], pa.timestamp("ms", "America/New_York")),
        "day": pa.array([dt.date(2020, 1, 1), None, None]),
        "price": pa.array([Decimal("1.50"), None, Decimal("-0.01")], pa.decimal128(8, 2)),
        "data": pa.array([b"\x00", None, b""]),
        "took": pa.array([dt.timedelta(seconds=1), None, None], pa.duration("s")),
        "kind": pa.array(["x", None, "y"]).dictionary_encode(),
        "tags": pa.array(
            [{"a": [Decimal("1.5")]}, None, {"a": None}], pa.struct([("a", pa.list_(pa.decimal128(4, 1)))])
        ),
        "pairs": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int8())),
        "vector": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.float32(), 2)),
        "none": pa.nulls(3),
    }
)


@reads_fixed_lists
@pytest.mark.parametrize("given", ["file", "table"])
def test_columns_of_a_typed_source_come_back_typed(land, tmp_path, given):
    pq.write_table(TYPED, tmp_path / "in.parquet")
    source = (lambda: open_source(str(tmp_path / "in.parquet"))) if given == "file" else (lambda: open_source(TYPED))
    manifest = land(source, prompt="{{ row.prompt or 'none' }}")
    columns = table(manifest)["input"].combine_chunks()
    assert columns.to_pylist() == TYPED.to_pylist()
    types = {field.name: str(field.type) for field in columns.type}
    assert types.pop("pairs").startswith("map<string, int8")
    assert types == {
        "prompt": "string",
        "when": "timestamp[us, tz=America/New_York]",
        "day": "date32[day]",
        "price": "decimal128(8, 2)",
        "data": "binary",
        "took": "duration[us]",
        "kind": "string",
        "tags": "struct<a: list<element: decimal128(4, 1)>>",
        "vector": "fixed_size_list<element: float>[2]",
        "none": "string",
    }
    assert pl.read_parquet(manifest["files"]).unnest("input")["when"].to_list() == [NOON, None, NOON]
    asked = "select epoch(input.when), input.price, input.tags.a[1], input.vector from read_parquet(?) order by row"
    assert duckdb.execute(asked, [manifest["files"]]).fetchall() == [
        (NOON.timestamp(), Decimal("1.50"), Decimal("1.5"), [1, 2]),
        (None, None, None, None),
        (NOON.timestamp(), Decimal("-0.01"), None, [3, 4]),
    ]


def test_a_value_that_its_type_does_not_hold_makes_text_of_its_column_alone(land, caplog):
    nanos = pa.array([1_577_836_800_000_000_000, None, 1_577_836_800_000_000_001], pa.timestamp("ns"))
    given = pa.table({"prompt": ["a", "b", "c"], "fine": pa.array([1, 2, 3], pa.int8()), "nanos": nanos})
    with caplog.at_level("INFO"):
        columns = table(land(lambda: open_source(given)))["input"].combine_chunks()
    assert {field.name: str(field.type) for field in columns.type} == {
        "prompt": "string", "fine": "int8", "nanos": "string",
    }  # fmt: skip
    assert columns.field("nanos").to_pylist() == ["2020-01-01T00:00:00", None, "2020-01-01T00:00:00.000000001"]
    assert "Landing again from the start: column 'nanos' of the input is text by now" in caplog.text


def test_columns_beside_ready_made_requests_are_the_input(land):
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    rows = [
        {"custom_id": f"u{n}", "method": "POST", "url": "/v1/chat/completions", "body": body, "label": n}
        for n in range(3)
    ]
    found = table(land(rows, model=None))
    assert found["input"].to_pylist() == [{"label": n} for n in range(3)]
    assert found["custom_id"].to_pylist() == ["u0", "u1", "u2"]


def test_rows_without_columns_have_no_input(land):
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    rows = [{"custom_id": f"u{n}", "method": "POST", "url": "/v1/chat/completions", "body": body} for n in range(3)]
    found = table(land(rows, model=None))
    assert (found["input"].to_pylist(), found["input"].type) == ([None] * 3, pa.string())


def test_a_result_for_each_model_has_the_number_of_its_row(land):
    found = table(land(["a", "b", "c"], model=["gpt-5-mini", "gpt-4.1"]))
    assert found["row"].to_pylist() == [0, 0, 1, 1, 2, 2]
    assert found["output"].to_pylist() == ["a", "a", "b", "b", "c", "c"]


SCHEMA = {
    "type": "object",
    "properties": {"label": {"enum": ["good", "bad"]}, "score": {"type": ["number", "null"]}},
    "required": ["label", "score"],
    "additionalProperties": False,
}


def test_structured_answers_are_a_struct_and_others_keep_their_text(land):
    fits = {"label": "good", "score": 1}
    answers = {"r0": json.dumps(fits), "r1": '{"label": "so-so"}', "r2": "no json"}
    manifest = land(["a", "b", "c"], answers=answers, response_format=normalize(SCHEMA))
    found = table(manifest)
    assert str(found["output"].type) == "struct<label: string, score: double>"
    assert found["output"].to_pylist() == [{"label": "good", "score": 1.0}, None, None]
    assert found["status"].to_pylist() == ["succeeded", "invalid", "invalid"]
    assert [error and error["output"] for error in found["error"].to_pylist()] == [
        None, '{"label":"so-so"}', "no json",
    ]  # fmt: skip
    assert found["error"].to_pylist()[2]["code"] == "invalid_json"
    assert duckdb.execute("select output.label from read_parquet(?)", [manifest["files"]]).fetchall()[0] == ("good",)


def test_what_fails_has_its_error_in_columns(land, fake):
    found = table(land(["a", "b", "c"], lines=lambda request: fake.refused(request, 400)))
    assert found["error"].to_pylist() == [{"code": "e400", "message": "no", "status_code": 400, "output": None}] * 3
    assert (found["output"].to_pylist(), found["usage"].to_pylist()) == ([None] * 3, [None] * 3)


def embedded(request, vectors):
    data = [{"object": "embedding", "index": place, "embedding": vector} for place, vector in enumerate(vectors)]
    body = {"object": "list", "model": "e", "data": data, "usage": {"prompt_tokens": 2, "total_tokens": 2}}
    return {"custom_id": request["custom_id"], "response": {"status_code": 200, "body": body}, "error": None}


EMBED = {"endpoint": "/v1/embeddings", "model": "text-embedding-3-small"}


def test_embeddings_are_lists_of_a_fixed_size_for_every_reader(land, fakes):
    manifest = land(["a", "b", "c"], lines=lambda request: embedded(request, [[0.5] * 8]), **EMBED)
    found = table(manifest)
    assert str(found["output"].type) == "fixed_size_list<element: float>[8]"
    assert found["output"].to_pylist() == [[0.5] * 8] * 3
    files = f"{manifest['results']}/*.parquet"
    assert pl.read_parquet(files)["output"].to_list() == [[0.5] * 8] * 3
    assert [list(vector) for vector in pd.read_parquet(fakes.out / "results")["output"]] == [[0.5] * 8] * 3
    assert duckdb.sql(f"select output from '{files}'").fetchall() == [([0.5] * 8,)] * 3


def test_embeddings_in_base64_are_unpacked(land):
    packed = base64.b64encode(struct.pack("<2f", 0.5, -1)).decode()
    found = table(land(["a", "b"], lines=lambda request: embedded(request, [packed]), **EMBED))
    assert found["output"].to_pylist() == [[0.5, -1.0]] * 2


@pytest.mark.parametrize(
    ("vectors", "kind", "wanted"),
    [
        ({"r4": [[1, 2, 3]]}, "list<element: float>", [1.0, 2.0, 3.0]),
        (
            {"r4": [[1, 2], [3, 4]]},
            "list<element: fixed_size_list<element: float>[2]>",
            [[1.0, 2.0], [3.0, 4.0]],
        ),
    ],
    ids=["another length", "several"],
)
def test_a_vector_of_another_form_changes_the_type_in_all_parts(land, vectors, kind, wanted):
    manifest = land(
        list("abcde"), lines=lambda request: embedded(request, vectors.get(request["custom_id"], [[1, 2]])), **EMBED
    )
    assert {str(pq.read_schema(file).field("output").type) for file in manifest["files"]} == {kind}
    first = [1.0, 2.0] if kind == "list<element: float>" else [[1.0, 2.0]]
    assert table(manifest)["output"].to_pylist() == [first] * 4 + [wanted]


def test_embeddings_that_some_rows_lack_are_lists_for_every_reader(land, fake, fakes):
    def line(request):
        return embedded(request, [[1, 2]]) if request["custom_id"] == "r3" else fake.refused(request, 400)

    manifest = land(list("abcd"), lines=line, **EMBED)
    found = table(manifest)
    assert str(found["output"].type) == "list<element: float>"
    assert found["output"].to_pylist() == [None, None, None, [1.0, 2.0]]
    assert pl.read_parquet(f"{manifest['results']}/*.parquet")["output"].to_list() == [None, None, None, [1.0, 2.0]]
    assert pd.read_parquet(fakes.out / "results")["output"][3].tolist() == [1.0, 2.0]


def test_a_vector_that_is_missing_changes_the_type_in_all_parts(land, fake):
    def line(request):
        return fake.refused(request, 400) if request["custom_id"] == "r4" else embedded(request, [[1, 2]])

    manifest = land(list("abcde"), lines=line, **EMBED)
    assert {str(pq.read_schema(file).field("output").type) for file in manifest["files"]} == {"list<element: float>"}
    assert table(manifest)["output"].to_pylist() == [[1.0, 2.0]] * 4 + [None]


def test_bodies_without_a_shorter_form_are_json(land, fake):
    def line(request):
        body = {"object": "moderation", "results": [{"flagged": False}]}
        return {"custom_id": request["custom_id"], "response": {"status_code": 200, "body": body}, "error": None}

    found = table(land(["a"], lines=line, endpoint="/v1/moderations", model="omni-moderation-latest"))
    assert json.loads(found["output"].to_pylist()[0])["results"] == [{"flagged": False}]


def test_row_groups_have_a_limit_of_rows_and_of_bytes(land, monkeypatch):
    monkeypatch.setattr(formats, "_CHUNK_ROWS", 8)
    monkeypatch.setattr(formats, "_GROUP_ROWS", 32)
    (file,) = land([f"row {n}" for n in range(100)], requests_per_batch=1_000)["files"]
    groups = pq.ParquetFile(file).metadata
    assert [groups.row_group(n).num_rows for n in range(groups.num_row_groups)] == [32, 32, 32, 4]
    assert pq.read_table(file)["row"].to_pylist() == list(range(100))


def test_large_results_make_small_row_groups(land, monkeypatch):
    monkeypatch.setattr(formats, "_CHUNK_BYTES", 4_000)
    monkeypatch.setattr(formats, "_GROUP_BYTES", 20_000)
    (file,) = land(["x" * 2_000 for _ in range(30)], requests_per_batch=1_000)["files"]
    groups = pq.ParquetFile(file).metadata
    assert groups.num_row_groups > 4
    assert pq.read_table(file)["output"].to_pylist() == ["x" * 2_000] * 30


def test_csv_is_flat_with_the_same_columns_in_every_part(land):
    manifest = land(ODD, "csv")
    headers = [Path(name).read_bytes().split(b"\n")[0] for name in manifest["files"]]
    assert headers[0].startswith("\ufeff".encode())
    assert len(set(headers)) == 1
    first, second, third, fourth = sheet(manifest)
    assert list(first) == [
        "row", "custom_id", "input.prompt", "input.n", "input.mixed", "input.", "input.a.b", "input.Case", "input.case",
        "input.none", "input.more", "input.huge", "input.late", "input.empty", "input.text", "input.list", "status",
        "output", "finish_reason", "model", "usage.input_tokens", "usage.cached_tokens", "usage.output_tokens",
        "usage.reasoning_tokens", "usage.total_tokens", "error.code", "error.message", "error.status_code", "batch_id",
        "round",
    ]  # fmt: skip
    assert (first["output"], first["input.a.b"], first["input.case"]) == ("a\u2028b\r\n", "[1]", "1")
    assert (second["output"], second["input.more"]) == ('say "hi", so; é', '{"k":[{"z":1.5}]}')
    assert (second["input.huge"], second["usage.total_tokens"]) == (str(2**64 - 1), "5")
    assert (third["output"], third["input.n"], third["input.late"]) == ("=1+1", str(-(2**63)), "true")
    assert len(fourth["input.prompt"]) == 300_000


def test_csv_tells_an_empty_text_from_nothing(land):
    manifest = land([{"prompt": "a", "x": ""}, {"prompt": "b", "x": None}], "csv")
    lines = Path(manifest["files"][0]).read_text(encoding="utf-8-sig").splitlines()
    assert [line.split(",")[3] for line in lines] == ['"input.x"', '""', ""]


def test_other_programs_read_the_csv(land):
    (file,) = land([{"prompt": 'two\nlines, "quoted"', "n": 1}, {"prompt": "b", "n": 2}], "csv")["files"]
    wanted = [('two\nlines, "quoted"', 1), ("b", 2)]
    assert list(pd.read_csv(file)[["output", "input.n"]].itertuples(index=False, name=None)) == wanted
    assert pl.read_csv(file)[["output", "input.n"]].rows() == wanted
    assert duckdb.sql(f"select output, \"input.n\" from read_csv('{file}')").fetchall() == wanted


def test_rows_that_are_tables_of_their_own_stay_json(land):
    manifest = land([{"prompt": "a", **{f"column {n}": n for n in range(1_001)}}], "parquet")
    assert json.loads(table(manifest)["input"].to_pylist()[0])["column 1000"] == 1_000


@pytest.mark.parametrize("name", ["parquet", "csv", "jsonl.gz"])
def test_joints_that_changed_are_found_in_every_format(fakes, fake, name):
    rows = [{"prompt": "a", "n": 1}, {"prompt": "b", "n": 2}]
    advance(fakes.job(rows, result_format=name))
    joints = fakes.out / "_job" / "rows" / "00000.jsonl"
    joints.write_bytes(joints.read_bytes().replace(b'"n":2', b'"n":3'))
    fake.end()
    with pytest.raises(JournalError, match="isn't as it was planned"):
        advance(fakes.job(rows, result_format=name))
    assert not list(fakes.out.glob("results/*"))
    assert not list(fakes.out.glob("_job/tmp/*"))


@pytest.mark.parametrize("name", RESULT_FORMATS)
def test_a_landing_that_breaks_leaves_no_part_and_no_thread(land, fakes, monkeypatch, name):
    import threading

    from airflow_openai_batch.engine import results

    def broken(_line):
        raise RuntimeError("broken")

    monkeypatch.setattr(results, "line_reader", lambda _check: broken)
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="broken"):
        land(ODD, name)
    assert threading.active_count() == before
    assert not list(fakes.out.glob("results/*"))
    assert not list(fakes.out.glob("_job/tmp/*"))


def test_a_finished_job_is_landed_again_in_another_format(land, fakes, fake):
    lines = land(ODD, "jsonl")
    calls = dict(fake.calls)
    typed = land(ODD, "parquet")
    assert (typed["format"], len(typed["files"])) == ("parquet", 2)
    assert {name: typed[name] for name in lines if name not in {"format", "files"}} == {
        name: lines[name] for name in lines if name not in {"format", "files"}
    }
    assert table(typed)["output"].to_pylist() == [row["prompt"] for row in ODD]
    assert dict(fake.calls) == calls
    # Whoever has the old manifest still finds its files.
    assert all(Path(name).is_file() for name in lines["files"])
    assert json.loads((fakes.out / "manifest.json").read_bytes())["format"] == "parquet"


def test_a_step_before_the_last_leaves_the_format_alone(land, fakes):
    land(ODD, "jsonl")
    job = fakes.job(ODD, requests_per_batch=2, max_rounds=1, result_format="csv")
    assert advance(job, stop="ended").manifest["format"] == "jsonl"


def test_without_a_wish_a_job_has_the_format_that_it_was_begun_with(land, fakes):
    from dataclasses import replace

    from airflow_openai_batch.engine.job import Job, JobSpec

    land(ODD, "csv")
    (fakes.out / "manifest.json").unlink()
    job = fakes.job(ODD, requests_per_batch=2)
    record = job.known()
    spec = replace(JobSpec.of(record), result_format=None)
    again = Job(job.store, job.api, spec, lambda: open_source(ODD), record=record)
    assert advance(again).manifest["format"] == "csv"


def test_what_runs_out_of_time_is_landed_in_its_format(fakes, fake, clock):
    from airflow_openai_batch.exceptions import JobTimeoutError

    rows = ["a", "b", "c"]
    options = {"requests_per_batch": 2, "timeout": 100, "result_format": "parquet"}
    advance(fakes.job(rows, **options))
    fake.end("batch-0")
    clock.now += 101
    with pytest.raises(JobTimeoutError):
        advance(fakes.job(rows, **options))
    found = pa.concat_tables(pq.read_table(file) for file in sorted(fakes.out.glob("results/*.parquet")))
    assert found["status"].to_pylist() == ["succeeded", "succeeded", "missing"]
