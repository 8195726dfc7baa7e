"""Tables: Parquet files, frames of pandas and polars, pyarrow's own; their values, types and odd cases."""

from __future__ import annotations

import gzip
import json
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal

import numpy as np
import orjson
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from airflow_openai_batch.engine import tabular
from airflow_openai_batch.engine.sources import Row, open_source
from airflow_openai_batch.engine.tabular import is_table
from airflow_openai_batch.engine.values import json_form
from airflow_openai_batch.exceptions import Problem

LONG = "a very long text \u2028\u2029\x85 " * 50_000

ODD = pa.table(
    {
        "text": ["before\u2028after", None, "", "\ufeffx\r\n"],
        "long": pa.array([LONG, None, LONG, ""], pa.large_string()),
        "label": pa.array(["a", None, "a", "b"]).dictionary_encode(),
        "whole": pa.array([2**64 - 1, None, 0, 1], pa.uint64()),
        "price": pa.array([Decimal("1.50"), None, Decimal("-0.01"), Decimal("999.99")]),
        "raw": pa.array([b"\x00\xff", None, b"", b"x"]),
        "day": pa.array([date(1, 1, 1), None, date(9999, 12, 31), date(2026, 1, 1)]),
        "seen": pa.array([0, None, 1_500_000, -1], pa.timestamp("us", "Europe/Berlin")),
        "at": pa.array([time(1, 2, 3), None, time(0), time(23, 59, 59, 999_999)]),
        "took": pa.array([timedelta(days=1), None, timedelta(0), timedelta(microseconds=1)]),
        "tags": pa.array([["a", None], None, [], [""]]),
        "nested": pa.array([{"a": [{"b": None}], "c": Decimal("0.1")}, None, {"a": None, "c": None}, {"a": []}]),
        "attrs": pa.array([[("k", 1), ("l", None)], None, [], [("", 0)]], pa.map_(pa.string(), pa.int64())),
        "ok": [True, None, False, True],
        "score": [1.5, None, float("inf"), float("nan")],
        "none": pa.nulls(4),
    }
)  # fmt: skip

IN_JSON = [
    {
        "text": "before\u2028after", "long": LONG, "label": "a", "whole": 2**64 - 1, "price": "1.50", "raw": "AP8=",
        "day": "0001-01-01", "seen": "1970-01-01T01:00:00+01:00", "at": "01:02:03", "took": "P1D", "tags": ["a", None],
        "nested": {"a": [{"b": None}], "c": "0.1"}, "attrs": {"k": 1, "l": None}, "ok": True, "score": 1.5,
        "none": None,
    },
    dict.fromkeys(ODD.column_names),
    {
        "text": "", "long": LONG, "label": "a", "whole": 0, "price": "-0.01", "raw": "", "day": "9999-12-31",
        "seen": "1970-01-01T01:00:01.500000+01:00", "at": "00:00:00", "took": "PT0S", "tags": [],
        "nested": {"a": None, "c": None}, "attrs": {}, "ok": False, "score": None, "none": None,
    },
    {
        "text": "\ufeffx\r\n", "long": "", "label": "b", "whole": 1, "price": "999.99", "raw": "eA==",
        "day": "2026-01-01", "seen": "1970-01-01T00:59:59.999999+01:00", "at": "23:59:59.999999",
        "took": "PT0.000001S", "tags": [""],
        "nested": {"a": [], "c": None}, "attrs": {"": 0}, "ok": True, "score": None, "none": None,
    },
]  # fmt: skip


def read(source):
    return list(open_source(source).rows())


def data(source):
    rows = read(source)
    assert all(isinstance(row, Row) for row in rows), rows
    return [row.data for row in rows]


def in_json(source):
    return [json.loads(orjson.dumps(row, default=json_form)) for row in data(source)]


def problems(source):
    return [str(row) for row in read(source) if isinstance(row, Problem)]


def packed(content, suffix):
    if not suffix:
        return content
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, {".gz": "gzip", ".zst": "zstd"}[suffix]) as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def parquet(table, **options):
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("compression", ["snappy", "zstd", "gzip", "none"])
def test_odd_values_come_out_of_a_parquet_file_as_they_went_in(write, suffix, compression):
    path = write(f"a.parquet{suffix}", packed(parquet(ODD, compression=compression, row_group_size=3), suffix))
    assert in_json(path) == IN_JSON
    assert [row.where for row in read(path)] == [f"{path}, row {number}" for number in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    "make",
    [
        lambda table: table,
        lambda table: pa.concat_tables([table.slice(0, 1), table.slice(1, 0), table.slice(1)]),
        lambda table: table.combine_chunks().to_batches()[0],
        lambda table: table.to_reader(max_chunksize=2),
        ds.dataset,
        lambda table: (batch for batch in table.to_batches(max_chunksize=1)),
    ],
    ids=["table", "chunks", "batch", "reader", "dataset", "generator of batches"],
)
def test_odd_values_come_out_of_every_table_of_pyarrow(make):
    assert in_json(make(ODD)) == IN_JSON


def test_tables_are_read_a_few_rows_at_a_time_whatever_their_chunks(monkeypatch):
    monkeypatch.setattr(tabular, "ROWS", 7)
    rows = [{"n": number, "label": str(number % 3)} for number in range(100)]
    table = pa.table({"n": range(100), "label": pa.array([row["label"] for row in rows]).dictionary_encode()})
    assert data(table) == data(pl.DataFrame(rows)) == data(pd.DataFrame(rows)) == rows


def test_a_piece_has_no_more_bytes_than_it_may(monkeypatch):
    monkeypatch.setattr(tabular, "PIECE", 2_000)
    table = pa.table({"text": ["x" * 1_000] * 10})
    assert [len(columns[0]) for columns in tabular.pieces_of(table.schema, table.to_batches())] == [1] * 10


def test_the_schema_of_a_parquet_file_is_that_of_its_columns(write):
    source = open_source(write("a.parquet", parquet(ODD)))
    assert source.schema() is None
    list(source.rows())
    written = pq.read_schema(pa.py_buffer(parquet(ODD)))
    assert source.schema() == written.remove_metadata()
    assert source.schema().field("seen").type == pa.timestamp("us", "Europe/Berlin")


@pytest.mark.parametrize(
    "make", [lambda table: table, lambda table: table.to_reader(), pl.from_arrow], ids=["table", "reader", "polars"]
)
def test_the_schema_of_a_table_is_its_own(make):
    source = open_source(make(pa.table({"a": [1], "day": [date(2026, 1, 1)]})))
    assert source.schema() is None
    list(source.rows())
    assert source.schema() == pa.schema([("a", pa.int64()), ("day", pa.date32())])
    assert source.fraction() in {1, None}


def test_a_date_that_python_cannot_hold_is_a_problem_of_its_row_alone(write):
    days = pa.array([0, 2**30, 1], pa.int32()).view(pa.date32())
    table = pa.table({"day": days, "text": pa.array([b"a", b"b", b"\xff"]).view(pa.string())})
    path = write("a.parquet", parquet(table))
    first, *wrong = read(path)
    assert first.data == {"day": date(1970, 1, 1), "text": "a"}
    assert [str(problem) for problem in wrong] == [
        f"{path}, row 2: day: a date32[day] out of range: years go from 1 to 9999",
        f"{path}, row 3: text: not UTF-8: invalid start byte at byte 0",
    ]


def test_a_file_that_isnt_parquet_or_was_cut_names_itself(write):
    whole = parquet(pa.table({"a": range(1_000)}))
    for name, content in (("text", b"no parquet, but long enough to look for its end"), ("cut", whole[:-10])):
        (problem,) = problems(write(f"{name}.parquet", content))
        assert f"{name}.parquet: can't be read: ArrowInvalid: Parquet magic bytes not found" in problem
    for suffix in (".gz", ".zst"):
        (problem,) = problems(write(f"cut.parquet{suffix}", packed(whole, suffix)[:-10]))
        assert f"cut.parquet{suffix}: can't be read: " in problem


def test_a_page_that_is_damaged_names_its_file(write):
    content = bytearray(parquet(pa.table({"a": ["x" * 50] * 1_000}), compression="gzip", use_dictionary=False))
    content[100:300] = b"\xff" * 200
    found = read(write("damaged.parquet", bytes(content)))
    assert "damaged.parquet: can't be read: " in str(found[-1])


def test_columns_of_one_name_are_refused(write):
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2]), pa.array([3])], names=["a", "b", "a"])
    path = write("a.parquet", parquet(twice))
    assert problems(path) == [f"{path}: column names stand more than once: 'a'"]
    assert problems(twice) == ["source: column names stand more than once: 'a'"]
    assert problems(pd.DataFrame([[1, 2]], columns=["x", "x"])) == ["source: column names stand more than once: 'x'"]


def test_a_table_without_rows_or_columns_has_no_rows():
    assert data(pa.table({"a": pa.array([], pa.int8())})) == data(pa.table({})) == []
    assert data(pd.DataFrame({"a": []})) == data(pd.DataFrame()) == data(pl.DataFrame()) == []


def test_a_reader_is_read_once():
    source = open_source(pa.table({"a": [1]}).to_reader())
    assert [row.data for row in source.rows()] == [{"a": 1}]
    assert list(source.rows()) == []
    assert source.listing() is None


@pytest.mark.parametrize(
    "make", [lambda table: table, lambda table: table.to_pandas(), pl.from_arrow], ids=["table", "pandas", "polars"]
)
def test_frames_and_tables_are_read_again_and_known_by_their_contents(make):
    source = open_source(make(pa.table({"a": [1, 2], "b": ["x", None]})))
    assert list(source.rows()) == list(source.rows())
    assert source.listing() == open_source(make(pa.table({"a": [1, 2], "b": ["x", None]}))).listing()
    for other in ({"a": [1, 3], "b": ["x", None]}, {"a": [1, 2], "c": ["x", None]}, {"a": [1], "b": ["x"]}):
        assert source.listing() != open_source(make(pa.table(other))).listing()


def test_a_pandas_frame_gives_python_values_and_nulls():
    frame = pd.DataFrame(
        {
            "text": ["a", None, float("nan")],
            "n": [1, 2, 3],
            "maybe": pd.array([1, None, 3], dtype="Int64"),
            "f": [1.5, float("nan"), float("inf")],
            "when": pd.to_datetime(["2026-01-01", None, "2026-01-01 00:00:00.5"], format="ISO8601"),
            "utc": pd.to_datetime(["2026-01-01", None, "2026-07-01"], utc=True),
            "took": pd.to_timedelta(["1h", None, "1s"]),
            "label": pd.Categorical(["x", None, "x"]),
            "month": pd.PeriodIndex(["2026-01", None, "2026-02"], freq="M"),
            "objects": [Decimal("1.5"), None, Decimal(2)],
            "mixed": [1, "a", pd.NaT],
            "dicts": [{"a": 1}, {"b": [2]}, None],
            "lists": [[1], [], np.nan],
            "arrow": pd.array(["x", None, "y"], dtype=pd.ArrowDtype(pa.string())),
        }
    )
    half = datetime(2026, 1, 1, 0, 0, 0, 500_000)  # noqa: DTZ001 - the point
    assert data(frame) == [
        {
            "text": "a", "n": 1, "maybe": 1, "f": 1.5, "when": half.replace(microsecond=0),
            "utc": datetime(2026, 1, 1, tzinfo=timezone.utc), "took": timedelta(hours=1), "label": "x",
            "month": "2026-01", "objects": Decimal("1.5"), "mixed": 1, "dicts": {"a": 1}, "lists": [1], "arrow": "x",
        },
        {
            "text": None, "n": 2, "maybe": None, "f": None, "when": None, "utc": None, "took": None, "label": None,
            "month": None, "objects": None, "mixed": "a", "dicts": {"b": [2]}, "lists": [], "arrow": None,
        },
        {
            "text": None, "n": 3, "maybe": 3, "f": float("inf"), "when": half,
            "utc": datetime(2026, 7, 1, tzinfo=timezone.utc), "took": timedelta(seconds=1), "label": "x",
            "month": "2026-02", "objects": Decimal(2), "mixed": None, "dicts": None, "lists": None, "arrow": "y",
        },
    ]  # fmt: skip
    assert in_json(frame)[2]["f"] is None


def test_the_schema_of_a_pandas_frame_knows_what_its_objects_are():
    frame = pd.DataFrame(
        {"n": np.array([1, 2], np.int16), "day": [date(2026, 1, 1), None], "price": [None, Decimal("1.5")]}
    )
    source = open_source(frame)
    list(source.rows())
    assert source.schema() == pa.schema([("n", pa.int16()), ("day", pa.date32()), ("price", pa.decimal128(2, 1))])
    mixed = open_source(frame.assign(mixed=[1, "a"]))
    list(mixed.rows())
    assert mixed.schema() is None


def test_the_index_of_a_pandas_frame_counts_where_it_has_names():
    frame = pd.DataFrame({"a": [1, 2]}, index=["x", "y"])
    assert data(frame) == [{"a": 1}, {"a": 2}]
    assert data(frame.rename_axis("id")) == [{"id": "x", "a": 1}, {"id": "y", "a": 2}]
    levels = frame.set_index(pd.MultiIndex.from_tuples([("p", 1), ("q", 2)], names=["k", None]))
    assert data(levels) == [{"k": "p", "a": 1}, {"k": "q", "a": 2}]


def test_names_of_columns_become_strings():
    assert data(pd.DataFrame([[1, 2]])) == [{"0": 1, "1": 2}]
    frame = pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "b")]))
    assert data(frame) == [{"('a', 'b')": 1}]


def test_a_polars_frame_gives_python_values_and_nulls():
    frame = pl.DataFrame(
        {
            "text": ["a", None],
            "n": pl.Series([1, None], dtype=pl.UInt64),
            "price": pl.Series([Decimal("1.50"), None], dtype=pl.Decimal(10, 2)),
            "when": [datetime(2026, 1, 1, tzinfo=timezone.utc), None],
            "took": [timedelta(hours=1), None],
            "at": [time(1, 2, 3), None],
            "label": pl.Series(["x", None], dtype=pl.Categorical),
            "kind": pl.Series(["x", None], dtype=pl.Enum(["x"])),
            "tags": [["a"], None],
            "pair": pl.Series([[1, 2], None], dtype=pl.Array(pl.Int8, 2)),
            "st": [{"a": 1, "b": None}, None],
            "raw": [b"x", None],
            "none": [None, None],
            "f": [float("nan"), None],
        }
    )
    first, second = in_json(frame)
    assert first == {
        "text": "a", "n": 1, "price": "1.50", "when": "2026-01-01T00:00:00+00:00", "took": "PT1H", "at": "01:02:03",
        "label": "x", "kind": "x", "tags": ["a"], "pair": [1, 2], "st": {"a": 1, "b": None}, "raw": "eA==",
        "none": None, "f": None,
    }  # fmt: skip
    assert set(second.values()) == {None}


def test_categories_of_frames_one_after_the_other_are_not_mistaken():
    words = [[f"{frame}{word}" for word in "abc"] for frame in range(20)]
    frames = (pl.DataFrame({"a": pl.Series(three, dtype=pl.Categorical)}) for three in words)
    assert [row["a"] for row in data(frames)] == [word for three in words for word in three]
    chunks = pl.concat([pl.DataFrame({"a": pl.Series(three, dtype=pl.Categorical)}) for three in words], rechunk=False)
    assert [row["a"] for row in data(chunks)] == [word for three in words for word in three]


def test_a_frame_with_values_that_arrow_has_no_type_for_is_a_problem():
    frame = pl.DataFrame({"a": pl.Series([object()], dtype=pl.Object)})
    assert problems(frame) == [
        "source: the table can't be read: TypeError: column 'a' holds Python objects, which have no form in Arrow"
    ]


def test_a_lazy_frame_of_polars_is_run_when_its_rows_are_read():
    frame = pl.DataFrame({"a": range(1_000), "b": ["x"] * 1_000}).lazy().filter(pl.col("a") % 2 == 0)
    source = open_source(frame)
    assert [row.data["a"] for row in source.rows()] == list(range(0, 1_000, 2))
    assert source.schema().field("a").type == pa.int64()
    assert list(source.rows()) == []


def test_a_single_column_is_no_table():
    for column in (pd.Series(["a"]), pl.Series(["a"])):
        assert not is_table(column)
        assert data(column) == [{"prompt": "a"}]
    for other in ([], {}, "a", None, object(), pa.array([1])):
        assert not is_table(other)


def test_whatever_speaks_arrows_protocol_is_a_table():
    class Speaks:
        schema = None

        def __arrow_c_stream__(self, requested_schema=None):
            return pa.table({"a": [1]}).__arrow_c_stream__(requested_schema)

    source = open_source(Speaks())
    assert [row.data for row in source.rows()] == [{"a": 1}]
    assert (source.listing(), source.fraction()) == (None, None)


def test_a_relation_of_duckdb_is_a_table():
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect() as connection:
        relation = connection.sql("SELECT n, DATE '2026-01-01' AS day FROM range(3) t(n)")
        assert data(relation) == [{"n": n, "day": date(2026, 1, 1)} for n in range(3)]


def test_a_csv_that_pandas_reads_in_chunks_is_read_chunk_by_chunk(write):
    with pd.read_csv(write("a.csv", b"n\n0\n1\n2\n3\n4\n"), chunksize=2) as chunks:
        rows = read(chunks)
    assert [(row.line, row.data["n"]) for row in rows] == [(1, 0), (2, 1), (3, 2), (4, 3), (5, 4)]


def test_a_dataset_of_files_is_read_with_its_partitions(write, tmp_path):
    write("in/k=1/a.parquet", parquet(pa.table({"n": [1, 2]})))
    write("in/k=2/a.parquet", parquet(pa.table({"n": [3]})))
    dataset = ds.dataset(tmp_path / "in", partitioning="hive")
    assert data(dataset) == [{"n": 1, "k": 1}, {"n": 2, "k": 1}, {"n": 3, "k": 2}]
    assert data(dataset.filter(ds.field("n") > 2)) == [{"n": 3, "k": 2}]
    assert open_source(dataset).listing() is None


def test_a_function_may_give_a_table_or_many_one_after_the_other():
    frames = [pd.DataFrame({"a": [1, 2]}), pl.DataFrame({"a": [3]}), {"a": 4}, pa.table({"a": [5]})]
    source = open_source(lambda: iter(frames))
    assert [(row.line, row.data["a"]) for row in source.rows()] == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]
    source = open_source(lambda: frames[0])
    assert [row.data for row in source.rows()] == [{"a": 1}, {"a": 2}]
    assert (source.schema(), source.fraction()) == (pa.schema([("a", pa.int64())]), 1)


def test_a_long_column_chunk_is_not_held_whole(write):
    table = pa.table({"text": [f"{number:0100d}" for number in range(100_000)]})
    path = write("a.parquet", parquet(table, row_group_size=100_000, compression="none", use_dictionary=False))
    before = pa.total_allocated_bytes()
    most = 0
    for number, _ in enumerate(open_source(path).rows()):
        if number % 1_000 == 0:
            most = max(most, pa.total_allocated_bytes() - before)
    assert most < 5_000_000 < table.nbytes


def test_gz_around_parquet_is_read_through_a_file_that_is_gone_afterwards(write, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    path = write("a.parquet.gz", gzip.compress(parquet(pa.table({"a": [1]}))))
    assert data(path) == [{"a": 1}]
    assert list((tmp_path / "tmp").iterdir()) == []
