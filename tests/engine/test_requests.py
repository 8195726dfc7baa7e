"""A row becomes a request, or says which field of it is wrong."""

from __future__ import annotations

import json
import logging
from datetime import date
from decimal import Decimal
from uuid import UUID

import pytest

from airflow_openai_batch.engine.chunks import ChunkMaker
from airflow_openai_batch.engine.endpoints import ENDPOINTS
from airflow_openai_batch.engine.requests import (
    RequestBuilder,
    RequestSpec,
    count_inputs,
    measure,
    row_of,
    wire_id,
)
from airflow_openai_batch.engine.shards import Limits
from airflow_openai_batch.engine.sources import Rows
from airflow_openai_batch.exceptions import ConfigurationError

CHAT = "/v1/chat/completions"


def build(data, number=0, **spec):
    """The requests of one row."""
    builder = RequestBuilder(RequestSpec(**{"model": "m", **spec}))
    return ChunkMaker(builder, Limits()).chunk(number, Rows("", 1, [data]))


def raw_line(data, **spec):
    made = build(data, **spec)
    (portion,) = made.portions(0, len(made.bodies)).values()
    assert len(portion.numbers) == 1
    return portion.lines


def line(data, **spec):
    return json.loads(raw_line(data, **spec))


def body(data, **spec):
    return line(data, **spec)["body"]


def joint(data, **spec):
    made = build(data, **spec)
    (identity,), (columns,) = made.identities, made.columns
    return {"custom_id": json.loads(identity), "input": json.loads(columns)}


def ready(**fields):
    return {"custom_id": "mine", "method": "POST", "url": CHAT, "body": {"messages": [{"role": "user"}]}} | fields


def refusal(data, **spec):
    made = build(data, **spec)
    (problem,) = made.problems
    assert not made.bodies
    return f"{problem.field}: {problem.message}"


def test_a_line_holds_our_id_and_the_endpoint():
    wire = line({"prompt": "hi"}, number=7)
    assert wire == {
        "custom_id": "r7",
        "method": "POST",
        "url": CHAT,
        "body": {"messages": [{"role": "user", "content": "hi"}], "model": "m"},
    }


def test_the_joint_holds_what_results_need_of_the_row():
    assert joint({"prompt": "hi", "custom_id": "a", "n": 1}, number=3) == {
        "custom_id": "a",
        "input": {"prompt": "hi", "custom_id": "a", "n": 1},
    }


def test_a_row_without_an_id_is_known_by_its_number():
    assert joint({"prompt": "hi"}, number=3)["custom_id"] == "r3"


def test_a_number_may_be_an_id():
    assert joint({"prompt": "hi", "custom_id": 12})["custom_id"] == "12"


def test_an_id_of_a_database_may_be_one():
    assert joint({"prompt": "hi", "custom_id": UUID(int=1)})["custom_id"] == "00000000-0000-0000-0000-000000000001"
    assert joint({"prompt": "hi", "custom_id": Decimal("7.0")})["custom_id"] == "7.0"


def test_a_whole_number_of_more_than_64_bits_has_no_form():
    assert refusal({"prompt": "hi", "n": 2**64}) == ": Integer exceeds 64-bit range"


@pytest.mark.parametrize(("value", "kind"), [(True, "bool"), (["a"], "list"), ({}, "dict")])
def test_nothing_else_may_be_an_id(value, kind):
    wanted = f"custom_id: must be a string or a number, not {kind}"
    assert refusal({"prompt": "hi", "custom_id": value}) == wanted


def test_prompt_and_system_are_rendered_over_the_row():
    made = body({"text": "good", "tone": "terse"}, prompt="Rate: {{ row.text }}", system="Be {{ row.tone }}.")
    assert made["messages"] == [
        {"role": "system", "content": "Be terse."},
        {"role": "user", "content": "Rate: good"},
    ]


def test_a_system_prompt_goes_before_a_rows_own_messages():
    own = [{"role": "user", "content": "hi"}]
    assert body({"messages": own}, system="S")["messages"] == [{"role": "system", "content": "S"}, *own]


def test_body_fields_are_added_and_their_templates_rendered():
    made = body({"prompt": "hi", "id": 5}, body={"temperature": 0, "user": "u{{ row.id }}"})
    assert (made["temperature"], made["user"]) == (0, "u5")


def test_the_body_may_bring_its_own_messages():
    messages = [{"role": "user", "content": [{"type": "text", "text": "{{ row.text }}"}]}]
    assert body({"text": "hi"}, body={"messages": messages})["messages"][0]["content"][0]["text"] == "hi"


def test_the_model_of_the_body_counts():
    assert body({"prompt": "hi", "m": "other"}, body={"model": "{{ row.m }}"})["model"] == "other"


def test_a_system_prompt_of_responses_is_its_instructions():
    made = body({"text": "hi"}, endpoint="/v1/responses", prompt="{{ row.text }}", system="S")
    assert made == {"input": "hi", "instructions": "S", "model": "m"}


@pytest.mark.parametrize("endpoint", sorted(ENDPOINTS))
def test_every_endpoint_takes_a_prompt_where_its_body_wants_it(endpoint):
    made = body({"text": "hi"}, endpoint=endpoint, prompt="{{ row.text }}")
    where = ENDPOINTS[endpoint].prompt or "messages"
    assert made == {where: [{"role": "user", "content": "hi"}] if where == "messages" else "hi", "model": "m"}


@pytest.mark.parametrize(
    ("endpoint", "column", "value"),
    [
        (CHAT, "messages", [{"role": "user", "content": "hi"}]),
        ("/v1/responses", "input", [{"role": "user", "content": "hi"}]),
        ("/v1/embeddings", "input", ["a", "b"]),
        ("/v1/moderations", "input", "a"),
        ("/v1/images/generations", "prompt", "a cat"),
    ],
)
def test_without_a_template_the_rows_own_column_is_taken(endpoint, column, value):
    assert body({column: value}, endpoint=endpoint)[column] == value


def test_an_unknown_endpoint_passes_with_a_warning(caplog):
    made = line({"prompt": "hi"}, endpoint="/v1/rerank", body={"anything": 1})
    assert made["body"] == {"anything": 1, "input": "hi", "model": "m"}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "/v1/rerank isn't known" in caplog.text


@pytest.mark.parametrize("endpoint", ["/v1/embeddings", "/v1/images/generations", "/v1/completions"])
def test_a_system_prompt_is_refused_where_there_is_none(endpoint):
    with pytest.raises(ConfigurationError, match=f"system: {endpoint} has no system prompt"):
        build({}, endpoint=endpoint, system="S")


def test_streaming_is_refused_in_the_parameters():
    with pytest.raises(ConfigurationError, match="body: stream isn't supported"):
        build({"prompt": "hi"}, body={"stream": True})


def test_streaming_is_refused_in_a_row():
    wanted = "body.stream: streaming isn't supported in batches"
    assert refusal(ready(body={"stream": True, "messages": [{"role": "user"}]})) == wanted


def test_stream_false_is_no_streaming():
    assert build(ready(body={"stream": False, "messages": [{"role": "user"}]})).bodies


def test_a_ready_made_request_is_taken_as_it_is():
    made = ready(body={"model": "own", "messages": [{"role": "user", "content": "hi"}], "n": 2}, note="mine")
    assert body(made, prompt=None) == made["body"]
    assert joint(made, prompt=None) == {"custom_id": "mine", "input": {"note": "mine"}}


def test_a_ready_made_request_without_a_model_gets_the_jobs():
    assert body(ready())["model"] == "m"


def test_columns_called_url_and_body_are_columns_where_there_is_a_template():
    made = body({"url": "x", "body": "some text", "method": "?"}, prompt="{{ row.body }}")
    assert made["messages"][0]["content"] == "some text"


@pytest.mark.parametrize("name", ["custom_id", "method", "body"])
def test_a_ready_made_request_needs_its_fields(name):
    request = ready()
    del request[name]
    assert refusal(request) == f"{name}: a ready-made request needs it"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"custom_id": 5}, "custom_id: must be a string, not int"),
        ({"custom_id": ""}, "custom_id: must not be empty"),
        ({"method": None}, "method: must be a string, not null"),
        ({"method": "GET"}, "method: must be POST, not 'GET'"),
        ({"url": "/v1/responses"}, f"url: '/v1/responses' differs from the job's endpoint '{CHAT}'"),
        ({"body": "text"}, "body: must be an object, not str"),
        ({"body": {}}, f"body.messages: {CHAT} needs it"),
        ({"body": {"messages": "hi"}}, "body.messages: must be a list of at least one message"),
        ({"body": {"messages": []}}, "body.messages: must be a list of at least one message"),
        ({"body": {"messages": [{"role": "user"}, "hi"]}}, "body.messages[1]: must be an object with a role"),
        ({"body": {"messages": [{"content": "hi"}]}}, "body.messages[0]: must be an object with a role"),
        (
            {"body": {"model": 5, "messages": [{"role": "user"}]}},
            "model: no model: give model=, or a model in each row",
        ),
    ],
)
def test_a_ready_made_request_that_would_fail_is_refused_by_its_field(fields, message):
    assert refusal(ready(**fields)).startswith(message)


def test_a_row_without_a_model_is_refused():
    assert refusal({"prompt": "hi"}, model=None).startswith("model: no model: give model=")


def test_a_row_without_a_prompt_says_which_columns_it_has():
    wanted = "prompt: no prompt= template and no column 'messages' or 'prompt'; columns are: text, stars"
    assert refusal({"text": "a", "stars": 1}) == wanted


@pytest.mark.parametrize(("value", "kind"), [(5, "int"), (None, "null"), ({}, "dict")])
def test_a_prompt_column_of_a_wrong_type_is_refused(value, kind):
    assert refusal({"prompt": value}) == f"prompt: must be a string or a list, not {kind}"


@pytest.mark.parametrize("name", ["prompt", "system", "body"])
def test_a_missing_column_is_named_with_the_parameter_that_wants_it(name):
    spec = {"prompt": "hi", name: {"user": "{{ row.nope }}"} if name == "body" else "{{ row.nope }}"}
    assert refusal({"text": "a"}, **spec) == f"{name}: no column 'nope'; there are: text"


def test_columns_without_a_json_form_of_their_own_get_one():
    row = {"prompt": "hi", "day": date(2026, 1, 2), "sum": Decimal("1.10"), "raw": b"\x00", "set": {"b", "a"}}
    assert joint(row)["input"] == {
        "prompt": "hi",
        "day": "2026-01-02",
        "sum": "1.10",
        "raw": "AA==",
        "set": ["a", "b"],
    }


def test_a_column_without_any_json_form_is_refused():
    assert refusal({"prompt": "hi", "thing": object()}) == ": no JSON form for object"


def test_structured_output_keeps_other_settings_of_text():
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}, "strict": False}}
    made = body({"prompt": "hi"}, endpoint="/v1/responses", response_format=wanted, body={"text": {"verbosity": "low"}})
    assert made["text"]["verbosity"] == "low"
    assert made["text"]["format"]["schema"] == {"type": "object"}


@pytest.mark.parametrize(
    ("value", "count"), [("a", 1), (["a", "b", "c"], 3), ([[1, 2], [3]], 2), ([1, 2, 3], 1), ([], 1), (None, 1)]
)
def test_embedding_inputs_are_counted(value, count):
    assert count_inputs({"input": value}, "/v1/embeddings") == count


def test_other_requests_count_once():
    assert count_inputs({"input": ["a", "b"]}, "/v1/responses") == 1


def test_a_line_tells_its_row_and_its_inputs_again():
    line = raw_line({"input": ["a", "b"]}, number=123, endpoint="/v1/embeddings")
    assert measure(line, "/v1/embeddings") == (123, 2)


@pytest.mark.parametrize("wire", ["", "r", "x1", "r-1", "r1.0", "r٣", "request-1"])
def test_a_foreign_id_is_no_row_of_ours(wire):
    assert row_of(wire) is None


def test_a_row_is_found_again_by_its_wire_id():
    assert row_of(wire_id(49_999)) == 49_999
