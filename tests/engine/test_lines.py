"""JSON Lines: each line a row, plain or compressed, and what is no row named in its place."""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pytest

from airflow_openai_batch.engine import lines
from airflow_openai_batch.engine.sources import Row, open_source
from airflow_openai_batch.exceptions import Problem

PACKED = ("", ".gz", ".zst")


def pack(content, packed):
    if packed == ".gz":
        return gzip.compress(content)
    if packed == ".zst":
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(content)
        return sink.getvalue().to_pybytes()
    return content


@pytest.fixture(params=PACKED, ids=["plain", "gz", "zst"])
def put(request, write):
    """Write bytes as a file of lines: plain, or packed one way or the other."""
    return lambda content: write(f"a.jsonl{request.param}", pack(content, request.param))


def read(source):
    return list(open_source(source).rows())


def data(source):
    rows = read(source)
    assert all(isinstance(row, Row) for row in rows), rows
    return [row.data for row in rows]


def problems(source):
    return [str(row) for row in read(source) if isinstance(row, Problem)]


def test_each_line_is_a_row(put):
    assert data(put(b'{"a":1}\n{"a":2}\n')) == [{"a": 1}, {"a": 2}]


def test_the_last_line_needs_no_newline(put):
    assert data(put(b'{"a":1}\n{"a":2}')) == [{"a": 1}, {"a": 2}]


def test_a_byte_order_mark_is_no_part_of_the_first_line(put):
    assert data(put(b'\xef\xbb\xbf{"a":1}\n')) == [{"a": 1}]


def test_windows_line_ends_are_taken(put):
    assert data(put(b'{"a":1}\r\n{"a":2}\r\n')) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c"], ids=ascii)
def test_only_a_newline_ends_a_line(put, mark):
    text = f"before{mark}after"
    line = json.dumps({"a": text}, ensure_ascii=False) if mark > "\x1f" else json.dumps({"a": text})
    assert data(put(f"{line}\n{line}\n".encode())) == [{"a": text}] * 2


def test_blank_lines_are_left_out_but_counted(put):
    rows = read(put(b'\n{"a":1}\n  \n\r\n{"a":2}\n\n'))
    assert [(row.line, row.data["a"]) for row in rows] == [(2, 1), (5, 2)]


def test_a_row_is_known_by_its_line(put):
    path = put(b'{"a":1}\n\n{"a":2}\n')
    assert [row.where for row in read(path)] == [f"{path}, line 1", f"{path}, line 3"]


def test_rows_may_have_other_columns_and_types_than_those_before(put):
    rows = [{"a": 1}, {"a": "x", "b": [None, {"c": ""}]}, {}]
    assert data(put("\n".join(map(json.dumps, rows)).encode())) == rows


def test_a_very_long_line_is_a_row(put):
    text = "long \u2028 " * 600_000
    assert data(put(json.dumps({"a": text}).encode() + b'\n{"a":1}\n')) == [{"a": text}, {"a": 1}]


def test_a_line_that_fits_no_batch_ends_the_reading(put, monkeypatch):
    monkeypatch.setattr(lines, "LONGEST", 10)
    path = put(b'{"a":1}\n{"a":"' + b"x" * 100 + b'"}\n{"a":2}\n')
    first, problem = read(path)
    assert first.data == {"a": 1}
    assert str(problem).startswith(f"{path}: can't be read: TooLongError: line 2 has more than 10 bytes")


@pytest.mark.parametrize("packed", [".gz", ".zst"])
def test_a_compressed_file_in_several_pieces_is_read_whole(write, packed):
    content = pack(b'{"a":1}\n', packed) + pack(b'{"a":2}\n', packed)
    assert data(write(f"a.ndjson{packed}", content)) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(("packed", "cause"), [(".gz", "ended before"), (".zst", "Truncated compressed stream")])
def test_a_compressed_file_that_was_cut_names_itself(write, packed, cause):
    content = pack("".join(json.dumps({"a": i}) + "\n" for i in range(500)).encode(), packed)
    path = write(f"cut.jsonl{packed}", content[:-20])
    (problem,) = problems(path)
    assert problem.startswith(f"{path}: can't be read: OSError: ")
    assert cause in problem


def test_a_gz_file_that_was_cut_names_the_line(write):
    content = b"".join(b'{"a":"%d"}\n' % n for n in range(100_000))
    (problem,) = problems(write("cut.jsonl.gz", gzip.compress(content)[:-20]))
    assert "OSError: line " in problem


@pytest.mark.parametrize("packed", [".gz", ".zst"])
def test_a_file_that_only_claims_to_be_compressed_names_itself(write, packed):
    path = write(f"plain.jsonl{packed}", b'{"a":1}\n')
    (problem,) = problems(path)
    assert problem.startswith(f"{path}: can't be read: ")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"not json", "not JSON"),
        (b'{"a":1', "not JSON"),
        (b'{"a":NaN}', "not JSON"),
        (b'{"a":"\xff"}', "not UTF-8: invalid start byte at byte 6"),
        (b"null", "a row must be an object, not null"),
        (b"[1]", "a row must be an object, not list"),
        (b'"text"', "a row must be an object, not str"),
        (b"1", "a row must be an object, not int"),
    ],
)
def test_a_bad_line_is_a_problem_in_its_place_and_reading_goes_on(put, line, message):
    path = put(b'{"a":1}\n\n' + line + b'\n{"a":2}\n')
    first, problem, last = read(path)
    assert (first.data, last.data) == ({"a": 1}, {"a": 2})
    assert str(problem).startswith(f"{path}, line 3: ")
    assert message in str(problem)


def test_lines_have_no_schema(put):
    source = open_source(put(b'{"a":1}\n'))
    list(source.rows())
    assert source.schema() is None
