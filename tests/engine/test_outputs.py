"""The type of ``output`` in a table, and what becomes of an answer that isn't of it."""

from __future__ import annotations

import base64
import struct
from enum import Enum
from typing import Literal, Optional, Union

import pyarrow as pa
import pytest
from pydantic import BaseModel

from airflow_openai_batch.engine.outputs import output_of, schema_type
from airflow_openai_batch.engine.structured import normalize


class Mood(Enum):
    GOOD = "good"
    BAD = "bad"


class Dish(BaseModel):
    name: str
    price: Optional[float]  # noqa: UP045 - as users write it


class Review(BaseModel):
    mood: Mood
    dishes: list[Dish]
    stars: Literal[1, 2, 3]
    note: Optional[str] = None  # noqa: UP045
    paid: Union[int, float]  # noqa: UP007
    ok: bool


class Node(BaseModel):
    name: str
    children: list[Node]


def converted(output, *values):
    """The type, the values and the texts of those that don't fit."""
    output.look(list(values))
    array, rest = output.array(list(values))
    assert array.type == output.type
    return str(array.type), array.to_pylist(), rest


def structured(model):
    return output_of(normalize(model), "/v1/chat/completions")


def test_plain_answers_are_text_and_what_is_no_text_is_json():
    output = output_of(None, "/v1/chat/completions")
    assert converted(output, "", None, "hi", {"a": ["é"]}) == ("string", ["", None, "hi", '{"a":["é"]}'], {})


@pytest.mark.parametrize("response_format", [{"type": "json_object"}, {"type": "text"}])
def test_answers_of_no_schema_are_text(response_format):
    output = output_of(response_format, "/v1/chat/completions")
    assert converted(output, {"a": 1}, "cut") == ("string", ['{"a":1}', "cut"], {})


def test_a_pydantic_model_is_a_struct():
    fits = {
        "mood": "good",
        "dishes": [{"name": "soup", "price": None}],
        "stars": 1,
        "note": None,
        "paid": 2,
        "ok": True,
    }
    kind, values, rest = converted(structured(Review), fits, None)
    assert kind == (
        "struct<mood: string, dishes: list<element: struct<name: string, price: double>>, stars: int64, note: string, "
        "paid: double, ok: bool>"
    )
    assert (values, rest) == ([{**fits, "paid": 2.0}, None], {})


def test_a_model_that_holds_itself_is_a_struct_down_to_where_it_begins_anew():
    leaf = {"name": "c", "children": []}
    node = {"name": "a", "children": [{"name": "b", "children": [leaf]}]}
    assert converted(structured(Node), node) == (
        "struct<name: string, children: list<element: struct<name: string, children: list<element: string>>>>",
        [{"name": "a", "children": [{"name": "b", "children": ['{"name":"c","children":[]}']}]}],
        {},
    )


PLACE = {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}


@pytest.mark.parametrize(
    ("part", "kind", "value", "wanted"),
    [
        ({"type": "string"}, "string", "a", "a"),
        ({"type": ["string", "null"]}, "string", None, None),
        ({"type": "integer"}, "int64", 3.0, 3),
        ({"type": ["integer", "number"]}, "double", 3, 3.0),
        ({"type": "number"}, "double", 2**60, float(2**60)),
        ({"type": "null"}, "string", None, None),
        ({"enum": ["a", "b", None]}, "string", "b", "b"),
        ({"enum": [1, 2]}, "int64", 2, 2),
        ({"enum": [1, "a"]}, "string", 1, "1"),
        ({"const": True}, "bool", True, True),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "int64", 1, 1),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "double", 1, 1.0),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "string", 1, "1"),
        ({"anyOf": [{"type": "string"}, {"enum": ["a"]}]}, "string", "a", "a"),
        ({"allOf": [{"$ref": "#/$defs/place"}]}, "struct<x: double>", {"x": 1}, {"x": 1.0}),
        ({"$ref": "#/$defs/a~1b"}, "int64", 1, 1),
        ({"$ref": "#/$defs/none"}, "string", [1], "[1]"),
        ({"$ref": "https://example.com"}, "string", [1], "[1]"),
        ({"type": "array", "items": PLACE}, "list<element: struct<x: double>>", [{"x": 1}, None], [{"x": 1.0}, None]),
        ({"type": "array"}, "string", [1], "[1]"),
        ({"type": "array", "prefixItems": [{}], "items": {"type": "string"}}, "string", ["a"], '["a"]'),
        ({"type": "object"}, "string", {"a": 1}, '{"a":1}'),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, "string", {"a": 1}, '{"a":1}'),
        ({"properties": {"x": {"type": "number"}}}, "struct<x: double>", {}, {"x": None}),
        ({"type": "object", "properties": {"a": {}, "A": {}}}, "string", {"a": 1}, '{"a":1}'),
        ({}, "string", "as it is", "as it is"),
        (True, "string", 1, "1"),
    ],
    ids=str,
)
def test_each_part_of_a_schema_has_its_type(part, kind, value, wanted):
    schema = {
        "type": "object",
        "properties": {"part": part},
        "$defs": {"place": PLACE, "a/b": {"type": "integer"}},
    }
    output = output_of({"type": "json_schema", "json_schema": {"schema": schema}}, "/v1/responses")
    assert converted(output, {"part": value}) == (f"struct<part: {kind}>", [{"part": wanted}], {})


@pytest.mark.parametrize("schema", [{}, {"type": "object"}, {"$ref": "#"}, {"anyOf": [PLACE, {"type": "string"}]}])
def test_a_schema_without_a_form_of_its_own_is_text(schema):
    assert schema_type(schema) is None


@pytest.mark.parametrize(
    "value",
    [
        "cut in the mid",
        {},
        {"mood": "good"},
        {"role": "assistant", "content": None, "tool_calls": []},
        [1],
        {"mood": 1, "dishes": [], "stars": 1, "note": None, "paid": 1, "ok": True},
        {"mood": "good", "dishes": [], "stars": 2**63, "note": None, "paid": 1, "ok": True},
        {"mood": "good", "dishes": [], "stars": 1.5, "note": None, "paid": 1, "ok": True},
        {"mood": "good", "dishes": [], "stars": 1, "note": None, "paid": True, "ok": True},
        {"mood": "good", "dishes": [], "stars": 1, "note": None, "paid": 1, "ok": 1},
        {"mood": "good", "dishes": {}, "stars": 1, "note": None, "paid": 1, "ok": True},
    ],
    ids=str,
)
def test_an_answer_of_another_form_is_null_and_its_text_is_kept(value):
    _, values, rest = converted(structured(Review), None, value)
    assert values == [None, None]
    assert list(rest) == [1]
    assert rest[1] == value or rest[1].startswith(("{", "["))


def test_what_an_open_schema_does_not_name_is_left_out():
    output = structured({"type": "object", "properties": {"a": {"type": "integer"}}})
    assert converted(output, {"a": 1, "more": "x"})[1:] == ([{"a": 1}], {})
    assert converted(output, {"tool_calls": []})[1:] == ([None], {0: '{"tool_calls":[]}'})


def vectors():
    return output_of(None, "/v1/embeddings")


def packed(*floats):
    return base64.b64encode(struct.pack(f"<{len(floats)}f", *floats)).decode()


def test_vectors_of_one_length_are_lists_of_a_fixed_size():
    kind, values, rest = converted(vectors(), [1, 2.5], [0.0, -1.0])
    assert kind == "fixed_size_list<element: float>[2]"
    assert (values, rest) == ([[1.0, 2.5], [0.0, -1.0]], {})


def test_vectors_that_some_rows_lack_are_lists():
    kind, values, rest = converted(vectors(), [1, 2.5], None, [0.0, -1.0])
    assert kind == "list<element: float>"
    assert (values, rest) == ([[1.0, 2.5], None, [0.0, -1.0]], {})


def test_vectors_of_several_lengths_are_lists():
    assert converted(vectors(), [1, 2], None, [3])[:2] == ("list<element: float>", [[1.0, 2.0], None, [3.0]])


def test_base64_is_unpacked():
    assert converted(vectors(), packed(1, 2), [3, 4])[1] == [[1.0, 2.0], [3.0, 4.0]]
    assert converted(vectors(), [packed(1, 2), packed(3, 4)])[1] == [[[1.0, 2.0], [3.0, 4.0]]]


def test_several_vectors_of_a_row_are_a_list_of_them():
    kind, values, _ = converted(vectors(), [[1, 2], [3, 4]], None, [5, 6])
    assert kind == "list<element: fixed_size_list<element: float>[2]>"
    assert values == [[[1.0, 2.0], [3.0, 4.0]], None, [[5.0, 6.0]]]
    assert converted(vectors(), [[1, 2], [3]])[:2] == ("list<element: list<element: float>>", [[[1.0, 2.0], [3.0]]])


def test_a_type_that_changed_is_told_once():
    output = vectors()
    batches = [[[1, 2]], [[3, 4]], [[1]], [[1, 2, 3]], [[[1], [2]]], [[1]]]
    assert [output.look(values) for values in batches] == [True, False, True, False, True, False]


def test_a_row_without_a_vector_changes_the_type_once():
    output = vectors()
    assert [output.look(values) for values in ([[1, 2]], [[3, 4], None], [None], [[5, 6]])] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    "value", ["not base64", packed(1)[:3], "", [], [[]], ["x"], [None], {"data": []}, [[1], "x"], 5]
)
def test_what_is_no_vector_is_null_and_its_text_is_kept(value):
    _, values, rest = converted(vectors(), [1, 2], value)
    assert values in ([[1.0, 2.0], None], [[[1.0, 2.0]], None])
    assert list(rest) == [1]


def test_nothing_but_nulls_has_a_type_too():
    assert converted(vectors(), None, None) == ("list<element: float>", [None, None], {})


def test_vectors_take_no_more_than_their_floats():
    output = vectors()
    values = [[0.1] * 1_536] * 100
    output.look(values)
    array, _ = output.array(values)
    assert array.nbytes <= 100 * 1_536 * 4 + 100
    assert isinstance(array, pa.FixedSizeListArray)
