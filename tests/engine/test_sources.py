"""Rows in: whatever can be iterated, and what is found to be something else."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import date
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pyarrow as pa
import pytest
from pydantic import BaseModel
from upath import UPath

from airflow_openai_batch.engine.models import SourceSpan
from airflow_openai_batch.engine.sources import BLOCK, Row, hash_rows, open_source, place_of
from airflow_openai_batch.exceptions import InputError, Problem


def read(source):
    return list(open_source(source).rows())


def data(source):
    rows = read(source)
    assert all(isinstance(row, Row) for row in rows), rows
    return [row.data for row in rows]


def problems(source):
    return [str(row) for row in read(source) if isinstance(row, Problem)]


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


def test_a_row_may_hold_values_that_json_has_no_form_for():
    rows = [{"day": date(2026, 1, 1), "price": Decimal("1.50"), "id": UUID(int=1)}, {"day": None}]
    source = open_source(row for row in rows)
    assert [row.data for row in source.rows()] == rows
    assert source.schema() == pa.schema([("day", pa.date32()), ("price", pa.decimal128(3, 2)), ("id", pa.string())])


def test_prompts_and_plain_rows_have_no_schema():
    for given in (["a", "b"], [{"a": 1, "b": [None, "x"]}]):
        source = open_source(given)
        list(source.rows())
        assert source.schema() is None


def test_the_share_of_a_list_is_known_that_of_a_generator_is_not():
    rows = [{"text": "x" * BLOCK} for _ in range(4)]
    source = open_source(rows)
    assert [source.fraction() for _ in source.rows()] == [0.25, 0.5, 0.75, 1]
    source = open_source(iter(rows))
    assert {source.fraction() for _ in source.rows()} == {None}


def test_a_path_may_be_an_object(write, tmp_path):
    path = Path(write("in/a.jsonl", [{"a": 1}]))
    for given in (path, tmp_path / "in", UPath(f"file://{path}")):
        assert data(given) == data(lambda given=given: given) == [{"a": 1}]
    with pytest.raises(InputError, match="no such file"):
        open_source(tmp_path / "none")


def test_the_listing_of_a_list_is_that_of_its_rows():
    assert open_source([{"a": 1, "b": 2}]).listing() == open_source([{"b": 2, "a": 1}]).listing()
    assert open_source([{"a": 1}]).listing() != open_source([{"a": 2}]).listing()
    assert open_source(["a", "b"]).listing() != open_source(["ab"]).listing()


def test_rows_without_a_json_form_have_no_hash():
    assert hash_rows([{(1, 2): "a tuple is no key"}]) is None
    assert hash_rows([{"a": object()}]) is None


def test_rows_with_other_values_have_the_same_hash_in_every_process():
    code = (
        "from decimal import Decimal\nfrom airflow_openai_batch.engine.sources import hash_rows\n"
        "print(hash_rows([{'a': {'x', 'y', 'z'}, 'b': b'1', 'c': Decimal(1)}]))"
    )
    made = {
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(made) == 1
    assert made != {"None\n"}


def test_a_planned_row_is_found_again_in_its_file():
    spans = [SourceSpan(0, "a.jsonl", 1), SourceSpan(3, "a.jsonl", 6), SourceSpan(5, "b.jsonl", 1)]
    assert place_of(2, spans) == "row 2 (a.jsonl, line 3)"
    assert place_of(4, spans) == "row 4 (a.jsonl, line 7)"
    assert place_of(7, spans) == "row 7 (b.jsonl, line 3)"
    assert place_of(7, [SourceSpan(0, "", 1)]) == "row 7"
