"""Instances of JSON schemas."""

from __future__ import annotations

from enum import Enum

import jsonschema
import pytest
from pydantic import BaseModel, Field

from airflow_openai_batch.emulator.structured import enum_values, instance, wanted_schema


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Node(BaseModel):
    name: str
    next: Node | None = None
    children: list[Node] = []


class Dish(BaseModel):
    name: str = Field(min_length=20, max_length=30)
    price: float = Field(gt=0, lt=1)
    stars: int = Field(ge=1, le=5)
    tags: list[str] = Field(min_length=2)
    colour: Colour
    note: str | None
    extra: dict[str, int] = {}


SCHEMAS = {
    "model": Dish.model_json_schema(),
    "recursive model": Node.model_json_schema(),
    "const": {"const": 5},
    "enum of mixed": {"enum": [None, 3, "x"]},
    "null": {"type": "null"},
    "type list": {"type": ["null", "integer"]},
    "anyOf with null first": {"anyOf": [{"type": "null"}, {"type": "string"}]},
    "oneOf": {"oneOf": [{"type": "integer", "minimum": 7}, {"type": "string"}]},
    "allOf": {
        "allOf": [{"$ref": "#/$defs/a"}, {"properties": {"y": {"type": "integer"}}, "required": ["y"]}],
        "$defs": {"a": {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}},
    },
    "tuple": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False, "minItems": 2},
    "unique enum array": {
        "type": "array",
        "items": {"enum": ["a", "b", "c"]},
        "minItems": 2,
        "uniqueItems": True,
    },
    "empty array": {"type": "array", "items": {"type": "string"}, "maxItems": 0},
    "integer above": {"type": "integer", "exclusiveMinimum": 10},
    "integer below": {"type": "integer", "maximum": -3},
    "integer step": {"type": "integer", "minimum": 11, "multipleOf": 5},
    "number between": {"type": "number", "exclusiveMinimum": 0.25, "exclusiveMaximum": 0.5},
    "number at the edge": {"type": "number", "minimum": 2, "maximum": 2},
    "zero excluded": {"type": "integer", "exclusiveMinimum": 0},
    "negative": {"type": "number", "exclusiveMaximum": 0},
    "date": {"type": "string", "format": "date"},
    "uuid": {"type": "string", "format": "uuid"},
    "pattern": {"type": "string", "pattern": "^[0-9]{4}$"},
    "short string": {"type": "string", "maxLength": 3},
    "definitions": {"$ref": "#/definitions/x", "definitions": {"x": {"type": "boolean"}}},
    "anything": {},
}


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("answer", ["positive", "a somewhat longer answer than that", ""])
def test_an_instance_satisfies_its_schema(name, answer):
    schema = SCHEMAS[name]
    made = instance(schema, answer)
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.Draft202012Validator(schema, format_checker=checker).validate(made)


def test_enums_take_the_answer_where_they_have_it():
    assert instance({"enum": ["NEGATIVE", "POSITIVE"]}, "positive") == "POSITIVE"
    assert instance({"enum": ["neg", "pos"]}, "positive") == "pos"
    assert instance({"enum": ["up", "down"]}, "positive") == "up"


def test_booleans_follow_their_names():
    schema = {"type": "object", "properties": {"is_positive": {"type": "boolean"}, "is_negative": {"type": "boolean"}}}
    assert instance(schema, "negative") == {"is_positive": False, "is_negative": True}


def test_free_strings_are_the_answer():
    assert instance({"type": "object", "properties": {"x": {"type": "string"}}}, "hello") == {"x": "hello"}


def test_an_endless_schema_ends_all_the_same():
    assert instance({"$ref": "#"}, "x") is None


def test_the_schema_is_found_where_each_endpoint_has_it():
    schema = {"type": "object"}
    chat = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}
    assert wanted_schema("/v1/chat/completions", chat) == schema
    text = {"text": {"format": {"type": "json_schema", "name": "x", "schema": schema}}}
    assert wanted_schema("/v1/responses", text) == schema
    assert wanted_schema("/v1/responses", {"text": {"format": {"type": "text"}}}) is None
    assert wanted_schema("/v1/chat/completions", {}) is None


def test_enum_values_are_found_at_any_depth():
    assert set(enum_values({"properties": {"a": {"anyOf": [{"enum": ["x"]}, {"const": "y"}]}}})) == {"x", "y"}
