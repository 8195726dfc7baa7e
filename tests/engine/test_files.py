"""Files of a source: which ones are found, in what order, and whether they go together."""

from __future__ import annotations

import gzip
import uuid

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_openai_batch.engine.files import FileSource, partitions
from airflow_openai_batch.engine.sources import SUFFIXES, Row, kind_of, open_source, place
from airflow_openai_batch.exceptions import InputError, Problem, StoreError


def read(source):
    return list(open_source(str(source)).rows())


def data(source):
    rows = read(source)
    assert all(isinstance(row, Row) for row in rows), rows
    return [row.data for row in rows]


def problems(source):
    return [str(row) for row in read(source) if isinstance(row, Problem)]


@pytest.fixture
def table(tmp_path):
    """Write a Parquet file of columns and return its path."""

    def table(name, columns, **options):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path, **options)
        return str(path)

    return table


def test_a_glob_reads_files_in_the_order_of_their_names(write, tmp_path):
    for name in ("b", "a", "c"):
        write(f"in/{name}.jsonl", [{"name": name}])
    write("in/other.txt", b"x")
    assert [row["name"] for row in data(tmp_path / "in" / "*.jsonl")] == ["a", "b", "c"]


def test_a_folder_reads_all_that_can_be_read_in_it_and_below(write, tmp_path):
    write("in/2.ndjson", [{"n": 2}])
    write("in/1.jsonl.gz", gzip.compress(b'{"n":1}'))
    write("in/README.md", b"# no rows")
    write("in/deeper/and/3.jsonl", [{"n": 3}])
    assert [row["n"] for row in data(tmp_path / "in")] == [1, 2, 3]
    assert [row["n"] for row in data(f"{tmp_path}/in/")] == [1, 2, 3]


@pytest.mark.parametrize("name", ["_SUCCESS", "_x.jsonl", ".x.jsonl", "_temporary/0/x.jsonl", ".hidden/x.jsonl"])
@pytest.mark.parametrize("source", ["in", "in/**", "in/**/*.jsonl", "in*"])
def test_hidden_files_and_those_of_unfinished_writes_are_left_out(write, tmp_path, name, source):
    write("in/sub/a.jsonl", [{"n": 1}])
    write(f"in/{name}", [{"n": "hidden"}])
    assert data(tmp_path / source) == [{"n": 1}]


@pytest.mark.parametrize("source", ["in/_x.jsonl", "in/_*.jsonl", "in/_[x].jsonl"])
def test_a_hidden_file_is_read_where_it_is_asked_for(write, tmp_path, source):
    write("in/_x.jsonl", [{"n": 1}])
    assert data(tmp_path / source) == [{"n": 1}]


def test_a_hidden_folder_is_read_where_it_is_the_source(write, tmp_path):
    write("_in/a.jsonl", [{"n": 1}])
    assert data(tmp_path / "_in") == [{"n": 1}]


def test_folders_named_key_and_value_become_columns_of_text(write, tmp_path):
    write("in/dt=2026-01-01/lang=en/a.jsonl", [{"n": 1}])
    write("in/dt=2026-01-02/lang=a%2Fb/a.jsonl", [{"n": 2}])
    write("in/dt=007/lang=__HIVE_DEFAULT_PARTITION__/a.jsonl", [{"n": 3}])
    assert data(tmp_path / "in") == [
        {"n": 3, "dt": "007", "lang": None},
        {"n": 1, "dt": "2026-01-01", "lang": "en"},
        {"n": 2, "dt": "2026-01-02", "lang": "a/b"},
    ]


@pytest.mark.parametrize("source", ["in/dt=*", "in/*/*.jsonl", "in/dt=2026-*/a.jsonl"])
def test_folders_that_a_glob_stands_for_become_columns_too(write, tmp_path, source):
    write("in/dt=2026-01-01/a.jsonl", [{"n": 1}])
    write("in/dt=2026-01-02/a.jsonl", [{"n": 2}])
    assert [row["dt"] for row in data(tmp_path / source)] == ["2026-01-01", "2026-01-02"]


def test_the_fixed_part_of_a_path_gives_no_columns(write, tmp_path):
    write("dt=1/in/a.jsonl", [{"n": 1}])
    assert data(tmp_path / "dt=1") == data(tmp_path / "dt=1/in/*.jsonl") == data(tmp_path / "dt=1/in/a.jsonl")
    assert data(tmp_path / "dt=1") == [{"n": 1}]


def test_a_files_own_column_counts_more_than_its_folders(write, table, tmp_path):
    write("lines/k=folder/a.jsonl", [{"k": "own"}, {}])
    write("text/k=folder/a.csv", b"k\nown\n")
    table("table/k=folder/a.parquet", {"k": ["own"]})
    assert data(tmp_path / "lines") == [{"k": "own"}, {"k": "folder"}]
    assert data(tmp_path / "text") == data(tmp_path / "table") == [{"k": "own"}]


def test_partitions_of_every_kind_of_file_and_their_type(write, table, tmp_path):
    write("text/k=1/a.csv", b"n\nx\n")
    path = table("table/k=1/a.parquet", {"n": ["x"]})
    assert data(tmp_path / "text") == data(tmp_path / "table") == [{"n": "x", "k": "1"}]
    source = open_source(str(tmp_path / "table"))
    assert [row.where for row in source.rows()] == [f"{path}, row 1"]
    assert source.schema() == pa.schema([("k", pa.string()), ("n", pa.string())])


def test_a_folder_name_without_a_key_is_no_column():
    assert partitions(["a", "=b", "c=", "d=e=f"]) == {"c": "", "d": "e=f"}


def test_line_numbers_begin_anew_in_each_file(write, tmp_path):
    write("in/1.jsonl", [{}, {}])
    write("in/2.jsonl", [{}])
    assert [row.line for row in read(tmp_path / "in")] == [1, 2, 1]


def test_an_url_is_read_by_its_filesystem(write):
    path = write("a.jsonl", [{"a": 1}])
    (row,) = read(f"file://{path}")
    assert row.where == f"file://{path}, line 1"


@pytest.mark.parametrize("name", ["none.jsonl", "none/*.jsonl", "*.jsonl"])
def test_a_source_that_is_not_there_is_named(tmp_path, name):
    with pytest.raises(InputError, match="no such file") as caught:
        open_source(str(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)


def test_a_file_whose_name_looks_like_a_glob_is_read(write):
    assert data(write("in [1].jsonl", [{"n": 1}])) == [{"n": 1}]


@pytest.mark.parametrize("name", ["", "deeper/other.txt", "_x.jsonl"])
def test_a_folder_without_files_to_read_is_no_source(write, tmp_path, name):
    (tmp_path / "in").mkdir()
    if name:
        write(f"in/{name}", b"{}")
    with pytest.raises(InputError, match="no such file"):
        open_source(str(tmp_path / "in"))


def test_a_file_of_another_kind_is_refused(write):
    with pytest.raises(InputError, match=r"a\.txt: not a kind of file that is read here \(\.jsonl, \.jsonl\.gz, "):
        open_source(write("a.txt", b""))


@pytest.mark.parametrize(("one", "other"), [("a.csv", "b.parquet"), ("a.csv", "b.tsv"), ("a.csv.gz", "b.jsonl")])
def test_files_of_two_kinds_are_not_read_together(write, tmp_path, one, other):
    write(f"in/{one}", b"")
    write(f"in/{other}", b"")
    with pytest.raises(InputError, match=rf"{other} is .*, .*{one} is .*; choose one kind, with a glob"):
        open_source(str(tmp_path / "in"))


def test_an_unknown_scheme_is_refused():
    with pytest.raises(InputError, match=r"nosuch://bucket/a\.jsonl: can't be opened: ValueError"):
        open_source("nosuch://bucket/a.jsonl")


def test_an_empty_path_is_refused():
    with pytest.raises(InputError, match="an empty path"):
        open_source(" ")


def test_a_file_that_may_not_be_read_names_itself(write, monkeypatch):
    path = write("a.jsonl", [{}])
    source = open_source(path)
    monkeypatch.setattr(source._fs, "open", lambda *_: (_ for _ in ()).throw(PermissionError("no permission")))
    assert [str(row) for row in source.rows()] == [f"{path}: can't be read: PermissionError: no permission"]


def test_a_store_that_cannot_be_asked_is_no_fault_of_the_source(write, monkeypatch):
    path = write("a.jsonl", [{}])
    told = {ConnectionResetError: (StoreError, "can't be listed"), PermissionError: (InputError, "can't be read")}
    for error, (kind, words) in told.items():
        fs = fsspec.filesystem("file", skip_instance_cache=True)
        monkeypatch.setattr(fs, "isdir", lambda _, error=error: (_ for _ in ()).throw(error("no")))
        with pytest.raises(kind, match=rf"a\.jsonl:? {words}: {error.__name__}: no"):
            FileSource(fs, path, path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_a_store_that_breaks_off_is_no_fault_of_the_rows(write, monkeypatch, name):
    class Broken:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def seek(self, *_):
            return 1_000

        def tell(self):
            return 1_000

        def read(self, _count):
            raise ConnectionResetError("reset by peer")

    path = write(name, b"")
    source = open_source(path)
    monkeypatch.setattr(source._fs, "open", lambda *_args, **_more: Broken())
    with pytest.raises(StoreError, match=f"{name} can't be read any further: ConnectionResetError") as caught:
        list(source.rows())
    assert caught.value.retryable


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet", "a.csv.gz", "a.parquet.zst"])
def test_files_without_a_byte_are_no_rows_or_no_files(write, name):
    found = read(write(name, b""))
    if "parquet" in name:
        assert "can't be read: ArrowInvalid" in str(found[0])
    else:
        assert found == []


def test_columns_that_differ_between_files_are_named_with_both_files(table, tmp_path):
    first = table("in/1.parquet", {"id": [1], "text": ["a"], "n": pa.array([1], pa.int32()), "st": [{"a": 1}]})
    table("in/2.parquet", {"text": ["a"], "id": [2], "n": pa.array([1], pa.int32()), "st": [{"a": 2}]})
    third = table("in/3.parquet", {"id": ["3"], "n": [1], "more": [1], "st": [{"a": 1, "b": 2}]})
    told = (
        "'id' is string, there int64; 'more' is new; 'n' is int64, there int32; "
        "'st' is struct<a: int64, b: int64>, there struct<a: int64>; 'text' is missing"
    )
    assert problems(tmp_path / "in") == [f"{third}: its columns differ from those of {first}: {told}"]
    assert [row.data["id"] for row in read(tmp_path / "in") if isinstance(row, Row)] == [1, 2]


def test_headers_that_differ_between_files_are_named_with_both_files(write, tmp_path):
    first = write("in/1.csv", b"a,b\n1,2\n")
    write("in/2.csv", b"b,a\n2,1\n")
    third = write("in/3.csv", b"a,c\n1,2\n")
    assert problems(tmp_path / "in") == [
        f"{third}: its columns differ from those of {first}: 'b' is missing; 'c' is new"
    ]
    assert [row.data for row in read(tmp_path / "in") if isinstance(row, Row)] == [{"a": "1", "b": "2"}] * 2


def test_partitions_that_only_some_files_have_are_a_difference(write, tmp_path):
    write("in/a.csv", b"n\n1\n")
    write("in/k=1/a.csv", b"n\n1\n")
    (problem,) = problems(tmp_path / "in")
    assert problem.endswith("'k' is new")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.array(["a"]), pa.array(["a"], pa.large_string())),
        (pa.array(["a"]), pa.array(["a"]).dictionary_encode()),
        (pa.array(["a"]), pa.nulls(1)),
        (pa.nulls(1), pa.array([1])),
        (pa.array([b"a"]), pa.array([b"a"], pa.large_binary())),
        (pa.array([["a"]]), pa.array([["a"]], pa.large_list(pa.field("other", pa.large_string(), nullable=False)))),
        (pa.array([{"a": "x"}]), pa.array([{"a": "x"}], pa.struct([pa.field("a", pa.large_string(), nullable=False)]))),
    ],
    ids=str,
)
def test_how_a_type_is_stored_is_no_difference(table, tmp_path, one, other):
    table("in/1.parquet", {"a": one})
    table("in/2.parquet", {"a": other})
    assert len(data(tmp_path / "in")) == 2


def test_a_column_without_values_takes_its_type_from_another_file(table, tmp_path):
    table("in/1.parquet", {"a": pa.nulls(2)})
    table("in/2.parquet", {"a": pa.array([1], pa.int16())})
    table("in/3.parquet", {"a": pa.nulls(1)})
    source = open_source(str(tmp_path / "in"))
    assert [row.data["a"] for row in source.rows()] == [None, None, 1, None]
    assert source.schema() == pa.schema([("a", pa.int16())])


def test_files_without_rows_differ_from_none(write, table, tmp_path):
    table("tables/1.parquet", {"wrong": pa.array([], pa.int8())})
    table("tables/2.parquet", {"a": [1]})
    table("tables/3.parquet", {"a": pa.array([], pa.string())})
    assert data(tmp_path / "tables") == [{"a": 1}]
    write("text/1.csv", b"")
    write("text/2.csv", b"a\n1\n")
    write("text/3.csv", b"a\n")
    assert data(tmp_path / "text") == [{"a": "1"}]


def test_the_listing_of_files_changes_with_their_names_and_contents(write, tmp_path):
    write("in/a.jsonl", [{"a": 1}])
    first = open_source(str(tmp_path / "in")).listing()
    assert open_source(str(tmp_path / "in")).listing() == first
    write("in/b.jsonl", [{"a": 1}])
    second = open_source(str(tmp_path / "in")).listing()
    write("in/b.jsonl", [{"a": 1}, {"a": 2}])
    assert len({first, second, open_source(str(tmp_path / "in")).listing()}) == 3


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "jsonl.gz"])
def test_the_share_that_was_read_grows_to_the_whole(write, table, tmp_path, kind):
    for number in (1, 2):
        if kind == "parquet":
            table(f"in/{number}.parquet", {"a": list(range(1_000))})
        else:
            lines = b"\n".join(b'{"a":"%d"}' % n for n in range(150_000))
            write(f"in/{number}.{kind}", gzip.compress(lines) if kind.endswith("gz") else lines)
    source = open_source(str(tmp_path / "in"))
    shares = [source.fraction() for number, _ in enumerate(source.rows()) if number % 50 == 0]
    assert shares == sorted(shares)
    assert 0 < shares[0] <= 0.5
    assert 0.5 < shares[-1] <= source.fraction() == 1


def test_a_place_is_a_line_of_lines_and_a_row_of_all_else():
    assert [place(f"s3://b/a{suffix}", 2) for suffix in (".jsonl", ".ndjson.gz", ".JSONL.zst")] == [
        "s3://b/a.jsonl, line 2",
        "s3://b/a.ndjson.gz, line 2",
        "s3://b/a.JSONL.zst, line 2",
    ]
    assert [place(f"a{suffix}", 2) for suffix in (".csv", ".parquet.gz")] == ["a.csv, row 2", "a.parquet.gz, row 2"]
    assert place("", 2) == "row 1"


def test_every_suffix_has_a_kind_whatever_its_case():
    assert all(kind_of(f"a{suffix}") and kind_of(f"A{suffix.upper()}") for suffix in SUFFIXES)
    assert kind_of("a.json") is kind_of("parquet") is kind_of("a.parquet.bz2") is None


def test_a_filesystem_that_knows_no_cache_is_asked_without(table, monkeypatch):
    path = table("a.parquet", {"a": [1]})
    fs = fsspec.filesystem("file")
    opened, calls = fs.open, []

    def plain(name, mode, **more):
        calls.append(more)
        if more:
            raise TypeError("unexpected keyword")
        return opened(name, mode)

    monkeypatch.setattr(fs, "open", plain)
    assert [row.data for row in FileSource(fs, path, path).rows()] == [{"a": 1}]
    assert calls == [{"cache_type": "none"}, {}]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
def test_a_store_in_memory_is_read_like_a_disk(tmp_path, suffix, packed):
    columns = {"a": ["x", "y"], "b": ["\u2028", ""]}
    plain = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table(columns), plain)
    else:
        lines = {"csv": "a,b\nx,\u2028\ny,\n", "jsonl": '{"a":"x","b":"\u2028"}\n{"a":"y","b":""}\n'}
        plain.write_text(lines[suffix], encoding="utf-8")
    content = plain.read_bytes()
    if packed:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, {".gz": "gzip", ".zst": "zstd"}[packed]) as stream:
            stream.write(content)
        content = sink.getvalue().to_pybytes()
    folder = f"memory://{uuid.uuid4().hex}"
    with fsspec.open(f"{folder}/k=1/a.{suffix}{packed}", "wb") as file:
        file.write(content)
    assert data(folder) == [{"a": "x", "b": "\u2028", "k": "1"}, {"a": "y", "b": "", "k": "1"}]


def test_files_on_s3_are_read_by_path_glob_and_folder(s3_store):
    bucket = s3_store.url.split("/")[2]
    for number in range(3):
        with s3_store.fs.open(f"{bucket}/in/k={number}/a.parquet", "wb") as file:
            pq.write_table(pa.table({"n": range(number * 1_000, number * 1_000 + 1_000)}), file, row_group_size=300)
    for pattern, files in (("in", 3), ("in/k=[01]/*.parquet", 2), ("in/k=2/a.parquet", 1), ("in/k=*", 3)):
        source = FileSource(s3_store.fs, f"{bucket}/{pattern}", f"s3://{bucket}/{pattern}")
        assert len(list(source.rows())) == 1_000 * files, pattern
        assert source.fraction() == 1
