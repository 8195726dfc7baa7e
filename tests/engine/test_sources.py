"""Rows in: files line by line, and whatever else can be iterated."""

from __future__ import annotations

import gzip
import json

import pytest
from pydantic import BaseModel

from airflow_openai_batch.engine.models import SourceSpan
from airflow_openai_batch.engine.sources import Row, hash_rows, open_source, place_of
from airflow_openai_batch.exceptions import InputError, Problem


def read(source):
    return list(open_source(source).rows())


def data(source):
    rows = read(source)
    assert all(isinstance(row, Row) for row in rows), rows
    return [row.data for row in rows]


def problems(source):
    return [str(row) for row in read(source) if isinstance(row, Problem)]


def test_each_line_of_a_file_is_a_row(write):
    assert data(write("a.jsonl", [{"a": 1}, {"a": 2}])) == [{"a": 1}, {"a": 2}]


def test_the_last_line_needs_no_newline(write):
    assert data(write("a.jsonl", b'{"a":1}\n{"a":2}')) == [{"a": 1}, {"a": 2}]


def test_a_byte_order_mark_is_no_part_of_the_first_line(write):
    assert data(write("a.jsonl", b'\xef\xbb\xbf{"a":1}\n')) == [{"a": 1}]


def test_windows_line_ends_are_taken(write):
    assert data(write("a.jsonl", b'{"a":1}\r\n{"a":2}\r\n')) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c"], ids=ascii)
def test_only_a_newline_ends_a_line(write, mark):
    text = f"before{mark}after"
    line = json.dumps({"a": text}, ensure_ascii=False) if mark > "\x1f" else json.dumps({"a": text})
    assert data(write("a.jsonl", f"{line}\n{line}\n".encode())) == [{"a": text}] * 2


def test_blank_lines_are_left_out_but_counted(write):
    rows = read(write("a.jsonl", b'\n{"a":1}\n  \n\r\n{"a":2}\n\n'))
    assert [(row.line, row.data["a"]) for row in rows] == [(2, 1), (5, 2)]


def test_a_compressed_file_reads_like_a_plain_one(write):
    assert data(write("a.jsonl.gz", gzip.compress(b'{"a":1}\n{"a":2}'))) == [{"a": 1}, {"a": 2}]


def test_a_compressed_file_in_several_members_is_read_whole(write):
    content = gzip.compress(b'{"a":1}\n') + gzip.compress(b'{"a":2}\n')
    assert data(write("a.ndjson.gz", content)) == [{"a": 1}, {"a": 2}]


def test_a_compressed_file_that_was_cut_names_itself(write):
    content = gzip.compress("".join(json.dumps({"a": i}) + "\n" for i in range(500)).encode())
    path = write("cut.jsonl.gz", content[:-20])
    (problem,) = problems(path)
    assert problem.startswith(path)
    assert "can't be read: OSError: line " in problem
    assert "ended before" in problem


def test_a_file_that_only_claims_to_be_compressed_names_itself(write):
    path = write("plain.jsonl.gz", b'{"a":1}\n')
    (problem,) = problems(path)
    assert problem.startswith(path)
    assert "can't be read" in problem


def test_a_glob_reads_files_in_the_order_of_their_names(write, tmp_path):
    for name in ("b", "a", "c"):
        write(f"in/{name}.jsonl", [{"name": name}])
    write("in/other.txt", b"x")
    assert [row["name"] for row in data(str(tmp_path / "in" / "*.jsonl"))] == ["a", "b", "c"]


def test_a_folder_reads_the_files_it_can_read(write, tmp_path):
    write("in/2.ndjson", [{"n": 2}])
    write("in/1.jsonl.gz", gzip.compress(b'{"n":1}'))
    write("in/README.md", b"# no rows")
    write("in/deeper/3.jsonl", [{"n": 3}])
    assert data(str(tmp_path / "in")) == [{"n": 1}, {"n": 2}]


def test_line_numbers_begin_anew_in_each_file(write, tmp_path):
    write("in/1.jsonl", [{}, {}])
    write("in/2.jsonl", [{}])
    assert [row.line for row in read(str(tmp_path / "in"))] == [1, 2, 1]


def test_an_url_is_read_by_its_filesystem(write):
    path = write("a.jsonl", [{"a": 1}])
    (row,) = read(f"file://{path}")
    assert row.where == f"file://{path}, line 1"


@pytest.mark.parametrize("name", ["none.jsonl", "none/*.jsonl", "*.jsonl"])
def test_a_source_that_is_not_there_is_named(tmp_path, name):
    with pytest.raises(InputError, match="no such file") as caught:
        open_source(str(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)


def test_an_empty_folder_is_no_source(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        open_source(str(tmp_path))


def test_a_file_of_another_kind_is_refused(write):
    with pytest.raises(InputError, match=r"a\.txt: not a kind of file that is read here \(\.jsonl"):
        open_source(write("a.txt", b""))


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
def test_a_bad_line_is_a_problem_in_its_place_and_reading_goes_on(write, line, message):
    path = write("a.jsonl", b'{"a":1}\n\n' + line + b'\n{"a":2}\n')
    first, problem, last = read(path)
    assert (first.data, last.data) == ({"a": 1}, {"a": 2})
    assert str(problem).startswith(f"{path}, line 3: ")
    assert message in str(problem)


def test_a_string_of_a_list_is_a_prompt():
    assert data(["hello"]) == [{"prompt": "hello"}]


def test_a_row_of_a_list_is_known_by_its_position():
    assert [row.where for row in read([{}, {}])] == ["row 0", "row 1"]


def test_a_pydantic_model_is_a_row():
    class Review(BaseModel):
        text: str
        stars: int = 3

    assert data([Review(text="good")]) == [{"text": "good", "stars": 3}]


def test_a_generator_is_read_once():
    source = open_source({"n": n} for n in range(3))
    assert [row.data["n"] for row in source.rows()] == [0, 1, 2]
    assert source.listing() is None


def test_a_callable_is_called_for_each_reading_and_not_before():
    calls = []

    def rows():
        calls.append(1)
        return [{"a": 1}]

    source = open_source(rows)
    assert calls == []
    assert list(source.rows()) == list(source.rows())
    assert len(calls) == 2


def test_a_callable_may_return_files(write):
    path = write("a.jsonl", [{"a": 1}])
    assert data(lambda: open_source(path)) == [{"a": 1}]


@pytest.mark.parametrize("value", [None, 1, b"bytes", {"a": 1}])
def test_what_has_no_rows_is_a_problem(value):
    (problem,) = problems(lambda: value)
    assert "a list or iterable of rows is needed" in problem


@pytest.mark.parametrize(("value", "kind"), [(None, "null"), (1, "int"), ([1], "list")])
def test_a_row_of_a_wrong_type_is_a_problem(value, kind):
    assert problems([{}, value]) == [f"row 1: a row must be a string, a mapping or a pydantic model, not {kind}"]


def test_the_listing_of_files_changes_with_their_names_and_contents(write, tmp_path):
    write("in/a.jsonl", [{"a": 1}])
    first = open_source(str(tmp_path / "in")).listing()
    assert open_source(str(tmp_path / "in")).listing() == first
    write("in/b.jsonl", [{"a": 1}])
    second = open_source(str(tmp_path / "in")).listing()
    write("in/b.jsonl", [{"a": 1}, {"a": 2}])
    assert len({first, second, open_source(str(tmp_path / "in")).listing()}) == 3


def test_the_listing_of_a_list_is_that_of_its_rows():
    assert open_source([{"a": 1, "b": 2}]).listing() == open_source([{"b": 2, "a": 1}]).listing()
    assert open_source([{"a": 1}]).listing() != open_source([{"a": 2}]).listing()
    assert open_source(["a", "b"]).listing() != open_source(["ab"]).listing()


def test_rows_without_a_json_form_have_no_hash():
    assert hash_rows([{(1, 2): "a tuple is no key"}]) is None


def test_a_planned_row_is_found_again_in_its_file():
    spans = [SourceSpan(0, "a.jsonl", 1), SourceSpan(3, "a.jsonl", 6), SourceSpan(5, "b.jsonl", 1)]
    assert place_of(2, spans) == "row 2 (a.jsonl, line 3)"
    assert place_of(4, spans) == "row 4 (a.jsonl, line 7)"
    assert place_of(7, spans) == "row 7 (b.jsonl, line 3)"
    assert place_of(7, [SourceSpan(0, "", 1)]) == "row 7"
