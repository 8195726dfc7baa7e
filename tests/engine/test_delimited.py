"""CSV and TSV: each record a row of text, whatever is in it, and what is no record named in its place."""

from __future__ import annotations

import csv
import io
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_openai_batch.engine import delimited
from airflow_openai_batch.engine.delimited import read_delimited
from airflow_openai_batch.engine.sources import Row, one_by_one, open_source
from airflow_openai_batch.exceptions import Problem


def parsed(content, delimiter=",", more=None):
    """Rows and problems of a file's bytes, problems as text."""
    found = read_delimited("a.csv", io.BufferedReader(io.BytesIO(content)), delimiter, more or {}, lambda _: None)
    return [row.data if isinstance(row, Row) else str(row) for row in one_by_one(found)]


def test_every_field_is_text_and_keeps_its_zeros():
    assert parsed(b"zip,score,day\n01234,1.50,2026-01-01\n") == [{"zip": "01234", "score": "1.50", "day": "2026-01-01"}]


def test_an_empty_field_is_an_empty_string_quoted_or_not():
    assert parsed(b'a,b,c\n,"",x\n') == [{"a": "", "b": "", "c": "x"}]
    assert parsed(b'a\n""\nNULL\n') == [{"a": ""}, {"a": "NULL"}]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r\r\n"], ids=ascii)
def test_quotes_hold_delimiters_quotes_and_line_ends(end):
    content = b"a,b" + end + b'"x, ""y""\n\nz",1' + end + b'"\r",2' + end
    assert parsed(content) == [{"a": 'x, "y"\n\nz', "b": "1"}, {"a": "\r", "b": "2"}]


def test_the_last_record_needs_no_line_end():
    assert parsed(b"a,b\n1,2") == [{"a": "1", "b": "2"}]


def test_a_byte_order_mark_is_no_part_of_the_first_name():
    assert parsed(b"\xef\xbb\xbfa,b\n1,2\n") == [{"a": "1", "b": "2"}]
    assert parsed(b'\xef\xbb\xbf"a",b\n1,2\n') == [{"a": "1", "b": "2"}]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"], ids=ascii)
def test_only_a_line_end_ends_a_record(mark):
    assert parsed(f"a,b\nx{mark}y,{mark}\n".encode()) == [{"a": f"x{mark}y", "b": mark}]


def test_blank_lines_are_no_records_and_not_counted():
    assert parsed(b"\n\na,b\n\n1,2\n\r\n3\n") == [
        {"a": "1", "b": "2"},
        "a.csv, row 2: 1 fields where the header has 2 (line 7)",
    ]


def test_tabs_part_the_fields_of_a_tsv(write):
    (row,) = open_source(write("a.tsv", b'a\tb\n1,5\t"x\ty"\n')).rows()
    assert row.data == {"a": "1,5", "b": "x\ty"}


def test_a_row_is_known_by_its_number_without_the_header(write):
    path = write("a.csv", b'a\n"1\n1"\n2\n')
    assert [row.where for row in open_source(path).rows()] == [f"{path}, row 1", f"{path}, row 2"]


def test_a_file_of_a_header_alone_has_no_rows():
    assert parsed(b"a,b\n") == parsed(b"a,b") == parsed(b"") == parsed(b"\n\n") == []


@pytest.mark.parametrize("name", ["0.csv", "2.csv"])
def test_a_file_of_a_header_alone_fits_all_be_it_the_first(write, tmp_path, name):
    write("in/1.csv", b"id,text\n1,a\n")
    write(f"in/{name}", b"other,columns\n\n")
    write("in/3.csv", b"text,id\nb,2\n")
    rows = list(open_source(str(tmp_path / "in")).rows())
    assert [row.data for row in rows] == [{"id": "1", "text": "a"}, {"text": "b", "id": "2"}]


def test_columns_that_differ_are_named_though_the_first_record_is_bad(write, tmp_path):
    write("in/1.csv", b"id,text\n1,a\n")
    write("in/2.csv", b"id,body\n1\n2,b\n")
    *_, problem = open_source(str(tmp_path / "in")).rows()
    assert "2.csv: its columns differ from those of" in str(problem)


def test_all_bad_records_are_named_and_reading_goes_on():
    content = b'a,b\n1\n1,2,3\n"1\n1",2,3\n\xff,2\n"x"y,2\nx\ry,2\n1,2\n'
    assert parsed(content) == [
        "a.csv, row 1: 1 fields where the header has 2 (line 2)",
        "a.csv, row 2: 3 fields where the header has 2 (line 3)",
        "a.csv, row 3: 3 fields where the header has 2 (line 5)",
        "a.csv, row 4: not UTF-8: invalid start byte at byte 0 of its line (line 6)",
        "a.csv, row 5: not CSV: ',' expected after '\"' (line 7)",
        "a.csv, row 6: not CSV: a carriage return that ends no line stands outside quotes (line 8)",
        {"a": "1", "b": "2"},
    ]


def test_a_quote_that_is_left_open_is_named_with_its_record():
    assert parsed(b'a,b\n1,2\n"3,4\n5,6\n') == [
        {"a": "1", "b": "2"},
        "a.csv, row 2: not CSV: unexpected end of data (line 4)",
    ]


def test_a_quote_that_is_left_open_never_reads_the_file_as_one_field(monkeypatch):
    monkeypatch.setattr(delimited, "LONGEST_FIELD", 200)
    before = csv.field_size_limit(100)
    try:
        found = parsed(b'a,b\n1,2\n"3,4\n' + b"5,6\n" * 1_000)
        assert csv.field_size_limit() == 200
    finally:
        csv.field_size_limit(before)
    assert found == [
        {"a": "1", "b": "2"},
        "a.csv, row 2: a field has more than 200 characters; is a quote left open? The rest isn't read",
    ]


def test_a_line_that_fits_no_batch_ends_the_reading(write, monkeypatch):
    monkeypatch.setattr(delimited, "LONGEST", 10)
    path = write("a.csv", b"a\n1\n" + b"x" * 100 + b"\n2\n")
    first, problem = open_source(path).rows()
    assert first.data == {"a": "1"}
    assert str(problem).startswith(f"{path}: can't be read: OSError: a line has more than 10 bytes")


def test_a_very_long_text_is_a_field():
    text = "long, \u2028 \n" * 300_000
    (row,) = parsed(b'a,b\n"' + text.encode() + b'",2\n')
    assert row == {"a": text, "b": "2"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,,c\n1,2,3\n", "no header: column 2 has no name (an index that pandas wrote?"),
        (b",a\n0,1\n", "no header: column 1 has no name"),
        (b"a, \n1,2\n", "no header: column 2 has no name"),
        (b"a,b,a\n1,2,3\n", "no header: 'a' stands in it twice"),
        (b"a,\xe9\n1,2\n", "no header: not UTF-8: invalid continuation byte at byte 2"),
        ("a,b\n1,2\n".encode("utf-16"), "no header: it is UTF-16; save it as UTF-8"),
        (b'"a,b\n1,2\n', "no header: unexpected end of data"),
    ],
)
def test_a_header_that_names_no_columns_is_one_problem(content, message):
    (problem,) = parsed(content)
    assert problem.startswith("a.csv: ")
    assert message in problem


def test_columns_that_the_folder_gives_stand_behind_the_files_own():
    assert parsed(b"a\n1\n", more={"k": "v", "a": "folder", "n": None}) == [{"a": "1", "k": "v", "n": None}]


@pytest.mark.parametrize("packed", [".gz", ".zst"])
def test_a_compressed_file_that_was_cut_names_itself(write, packed):
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, {".gz": "gzip", ".zst": "zstd"}[packed]) as stream:
        stream.write(b"a,b\n" + b"".join(b"%d,x\n" % n for n in range(100_000)))
    path = write(f"cut.csv{packed}", sink.getvalue().to_pybytes()[:-20])
    *rows, problem = open_source(path).rows()
    assert isinstance(problem, Problem)
    assert str(problem).startswith(f"{path}: can't be read: ")
    assert all(isinstance(row, Row) for row in rows)


def test_text_has_no_schema(write):
    source = open_source(write("a.csv", b"a\n1\n"))
    list(source.rows())
    assert source.schema() is None


FIELD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8) | st.text(
    string.punctuation + " \r\n", max_size=8
)


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from([",", "\t"]), st.sampled_from(["\n", "\r\n"]))
def test_what_a_csv_writer_wrote_is_read_again(drawn, delimiter, end):
    width = drawn.draw(st.integers(1, 4))
    records = drawn.draw(st.lists(st.lists(FIELD, min_size=width, max_size=width), max_size=5))
    header = [f"c{number}" for number in range(width)]
    written = io.StringIO(newline="")
    csv.writer(written, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([header, *records])
    expected = [dict(zip(header, record, strict=True)) for record in records]
    assert parsed(written.getvalue().encode(), delimiter) == expected
