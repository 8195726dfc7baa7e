"""Structured output: what goes to the API, and what counts as an answer that fits."""

from __future__ import annotations

from enum import Enum
from typing import Optional

import pytest
from pydantic import BaseModel, Field

from airflow_openai_batch.engine.structured import answer_check, for_endpoint, normalize, strict_schema
from airflow_openai_batch.exceptions import ConfigurationError


class Mood(Enum):
    GOOD = "good"
    BAD = "bad"


class Dish(BaseModel):
    name: str = Field(description="as on the menu", default="?")
    price: Optional[float] = None  # noqa: UP045 - as users write it


class Review(BaseModel):
    mood: Mood
    best: Dish = Field(description="the best of them")
    dishes: list[Dish]
    words: int = Field(ge=0)


def objects(node):
    if isinstance(node, list):
        return [found for item in node for found in objects(item)]
    if not isinstance(node, dict):
        return []
    own = [node] if node.get("type") == "object" else []
    return own + [found for value in node.values() for found in objects(value)]


class Node(BaseModel):
    name: str
    children: list[Node]


def test_a_model_that_holds_itself_becomes_an_object_and_its_answers_are_checked():
    response_format = normalize(Node)
    assert response_format["json_schema"]["schema"]["type"] == "object"
    check = answer_check(response_format)
    assert check({"name": "a", "children": [{"name": "b", "children": []}]}) is None
    assert check({"name": "a", "children": [{"name": "b"}]}).startswith("$.children[0]")


def test_a_pydantic_model_becomes_a_strict_schema():
    made = normalize(Review)
    assert made["type"] == "json_schema"
    assert (made["json_schema"]["name"], made["json_schema"]["strict"]) == ("Review", True)
    for found in objects(made["json_schema"]["schema"]):
        assert found["required"] == list(found["properties"])
        assert found["additionalProperties"] is False


def test_optional_fields_are_required_and_may_be_null():
    dish = normalize(Review)["json_schema"]["schema"]["$defs"]["Dish"]
    assert dish["properties"]["price"]["anyOf"] == [{"type": "number"}, {"type": "null"}]
    assert "price" in dish["required"]


def test_defaults_and_what_stands_beside_a_reference_are_left_out():
    schema = normalize(Review)["json_schema"]["schema"]
    assert "default" not in schema["$defs"]["Dish"]["properties"]["name"]
    assert schema["properties"]["best"] == {"$ref": "#/$defs/Dish"}


def test_fields_may_be_called_as_keywords_are():
    class Odd(BaseModel):
        type: str
        default: int
        properties: list[str]
        enum: str = "a"

    schema = normalize(Odd)["json_schema"]["schema"]
    assert schema["required"] == list(schema["properties"]) == ["type", "default", "properties", "enum"]
    assert schema["properties"]["enum"] == {"title": "Enum", "type": "string"}


def test_making_a_schema_strict_leaves_the_given_one_alone():
    given = {"type": "object", "properties": {"a": {"type": "string", "default": "x"}}}
    strict_schema(given)
    assert given == {"type": "object", "properties": {"a": {"type": "string", "default": "x"}}}


def test_a_json_schema_is_taken_as_it_is():
    schema = {"type": "object", "title": "My answer!", "properties": {"a": {"type": "string"}}}
    assert normalize(schema) == {
        "type": "json_schema",
        "json_schema": {"name": "My_answer_", "schema": schema, "strict": False},
    }


def test_a_named_schema_keeps_name_and_strictness():
    made = normalize({"name": "a", "schema": {"type": "object"}, "strict": True})
    assert made["json_schema"] == {"name": "a", "schema": {"type": "object"}, "strict": True}


def test_openais_own_shapes_are_taken():
    own = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}, "strict": True}}
    assert normalize(own) == own
    assert normalize({"type": "json_object"}) == {"type": "json_object"}
    assert normalize(None) is None


def test_what_was_normalized_once_stays_as_it_is():
    assert normalize(normalize(Review)) == normalize(Review)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("json", "not str"),
        (Review.model_construct(), "not Review"),
        ({"type": "json_schema", "json_schema": {"name": "a"}}, "it has no schema"),
        ({"type": "objekt"}, "not a JSON schema"),
        ({"type": "object", "properties": {"a": {"type": "text"}}}, "properties.a.type"),
    ],
)
def test_anything_else_is_refused(given, message):
    with pytest.raises(ConfigurationError, match="response_format: ") as caught:
        normalize(given)
    assert message in str(caught.value)


def test_each_endpoint_has_its_own_place_for_it():
    wanted = normalize(Review)
    assert for_endpoint(wanted, "/v1/chat/completions") == {"response_format": wanted}
    text = for_endpoint(wanted, "/v1/responses")["text"]["format"]
    assert text == {"type": "json_schema", **wanted["json_schema"]}
    assert for_endpoint({"type": "json_object"}, "/v1/responses") == {"text": {"format": {"type": "json_object"}}}


def test_an_endpoint_without_it_refuses():
    with pytest.raises(ConfigurationError, match="/v1/embeddings has no structured output"):
        for_endpoint({"type": "json_object"}, "/v1/embeddings")


def good():
    dish = {"name": "soup", "price": None}
    return {"mood": "good", "best": dish, "dishes": [dish, {"name": "cake", "price": 3.5}], "words": 2}


def test_an_answer_that_fits_passes():
    assert answer_check(normalize(Review))(good()) is None


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"mood": "so-so"}, "$.mood"),
        ({"words": -1}, "$.words"),
        ({"dishes": [{"name": "soup"}]}, "$.dishes[0]"),
        ({"best": {"name": 5, "price": None}}, "$.best.name"),
        ({"more": 1}, "$: Additional properties"),
    ],
)
def test_an_answer_that_does_not_fit_says_where(change, place):
    assert answer_check(normalize(Review))(good() | change).startswith(place)


def test_a_json_object_must_be_one():
    check = answer_check({"type": "json_object"})
    assert check({}) is None
    assert check([]) == "not a JSON object"


def test_plain_text_is_not_checked():
    assert answer_check(None) is None
    assert answer_check({"type": "text"}) is None
