"""One line of an output or error file has one meaning, whoever wrote it."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from airflow_openai_batch.engine.answers import parse_line, read_line, usage_of
from airflow_openai_batch.engine.models import Usage


def read(body=None, *, status=200, error=None, check=None, **line):
    response = None if error else {"status_code": status, "body": body}
    return read_line({"custom_id": "r0", "response": response, "error": error, **line}, check)


def chat(content="hi", reason="stop", **message):
    choice = {"message": {"role": "assistant", "content": content, **message}, "finish_reason": reason}
    return {"object": "chat.completion", "model": "m", "choices": [choice]}


def response(*contents, status="completed", **fields):
    output = [{"type": "reasoning"}, {"type": "message", "content": list(contents)}]
    return {"object": "response", "model": "m", "status": status, "output": output, **fields}


TEXT = {"type": "output_text", "text": "hi"}


@pytest.mark.parametrize(
    ("body", "status", "output", "reason"),
    [
        (chat(), "succeeded", "hi", "stop"),
        (chat(""), "succeeded", "", "stop"),
        (chat("h", "length"), "truncated", "h", "length"),
        (chat("", "content_filter"), "filtered", "", "content_filter"),
        (chat(None, refusal="no"), "refused", None, "stop"),
        (response(TEXT, TEXT), "succeeded", "hihi", "completed"),
        (
            response(TEXT, status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
            "truncated",
            "hi",
            "max_output_tokens",
        ),
        (
            response(status="incomplete", incomplete_details={"reason": "content_filter"}),
            "filtered",
            None,
            "content_filter",
        ),
        (response({"type": "refusal", "refusal": "no"}), "refused", None, "completed"),
        ({"object": "text_completion", "choices": [{"text": "a", "finish_reason": "stop"}]}, "succeeded", "a", "stop"),
        (
            {"object": "text_completion", "choices": [{"text": "a", "finish_reason": "length"}]},
            "truncated",
            "a",
            "length",
        ),
        ({"object": "list", "data": [{"embedding": [0.5], "index": 0}]}, "succeeded", [0.5], None),
        (
            {"object": "list", "data": [{"embedding": [2], "index": 1}, {"embedding": [1], "index": 0}]},
            "succeeded",
            [[1], [2]],
            None,
        ),
    ],
)
def test_an_answer_is_read_by_its_shape(body, status, output, reason):
    answer = read(body)
    assert (answer.status, answer.output, answer.finish_reason) == (status, output, reason)
    assert answer.may_repeat is False


def test_a_refusal_says_why():
    assert read(chat(None, refusal="no")).error == {"code": "refusal", "message": "no"}


def test_tool_calls_are_the_output_where_there_is_no_text():
    calls = [{"id": "c", "type": "function"}]
    assert read(chat(None, "tool_calls", tool_calls=calls)).output["tool_calls"] == calls


def test_several_choices_have_no_shorter_form():
    body = chat()
    body["choices"] *= 2
    assert read(body).output == body


@pytest.mark.parametrize("body", [{"object": "video", "id": "v"}, {"data": [{"b64_json": "AA=="}], "created": 1}])
def test_a_body_of_another_shape_is_the_output(body):
    assert read(body).output == body


def test_a_shape_is_known_without_its_name():
    body = chat()
    del body["object"]
    assert read(body).output == "hi"


def test_a_body_may_come_as_a_json_string():
    assert read(json.dumps(chat())).output == "hi"


@pytest.mark.parametrize("body", [None, "text", ["a"]])
def test_a_body_that_is_no_object_is_invalid_and_may_go_again(body):
    answer = read(body)
    assert (answer.status, answer.may_repeat, answer.output) == ("invalid", True, body)


@pytest.mark.parametrize("body", [{"object": "chat.completion"}, {"object": "chat.completion", "choices": []}])
def test_a_shape_that_is_broken_is_invalid(body):
    answer = read(body)
    assert (answer.status, answer.error["code"]) == ("invalid", "invalid_body")


@pytest.mark.parametrize("status", [0, 408, 409, 429, 500, 503])
def test_failures_in_passing_may_go_again(status):
    answer = read({"error": {"code": "c", "message": "m"}}, status=status)
    assert (answer.status, answer.may_repeat) == ("failed", True)
    assert answer.error == {"code": "c", "message": "m", "status_code": status}


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_other_failures_may_not(status):
    answer = read({"error": {"message": "m", "type": "t"}}, status=status)
    assert (answer.status, answer.may_repeat, answer.error["code"]) == ("failed", False, "t")


def test_a_request_that_the_filter_stopped_is_filtered():
    answer = read({"error": {"code": "content_filter", "message": "m"}}, status=400)
    assert (answer.status, answer.may_repeat) == ("filtered", False)


@pytest.mark.parametrize(
    ("code", "status"), [("batch_expired", "expired"), ("batch_cancelled", "cancelled"), ("request_timeout", "failed")]
)
def test_a_request_that_never_ran_may_go_again(code, status):
    answer = read(error={"code": code, "message": "m"})
    assert (answer.status, answer.may_repeat) == (status, True)
    assert answer.error == {"code": code, "message": "m"}


def test_a_failed_response_is_a_failure_with_its_reason():
    answer = read({"object": "response", "status": "failed", "output": [], "error": {"code": "c", "message": "m"}})
    assert (answer.status, answer.may_repeat, answer.error) == ("failed", True, {"code": "c", "message": "m"})


def test_a_line_with_neither_response_nor_error_failed():
    answer = read_line({"custom_id": "r0"}, None)
    assert (answer.status, answer.may_repeat, answer.error["code"]) == ("failed", True, "no_response")


def no_check(value):
    return None if value == {"a": 1} else "$.a: wrong"


def test_structured_output_is_parsed():
    assert read(chat('{"a": 1}'), check=no_check).output == {"a": 1}


@pytest.mark.parametrize(
    ("content", "code", "output"),
    [("{", "invalid_json", "{"), ('{"a": 2}', "schema_mismatch", {"a": 2}), (None, "invalid_json", None)],
)
def test_structured_output_that_does_not_fit_is_invalid_and_kept(content, code, output):
    answer = read(chat(content), check=no_check)
    assert (answer.status, answer.may_repeat, answer.output) == ("invalid", True, output)
    assert answer.error["code"] == code


def test_structured_output_is_not_asked_for_again_where_the_answer_is_no_text():
    several = chat('{"a": 1}')
    several["choices"] *= 2
    for body in (several, chat(None, "tool_calls", tool_calls=[{"id": "c"}])):
        assert (read(body, check=no_check).status, read(body, check=no_check).may_repeat) == ("succeeded", False)


def test_a_truncated_answer_is_not_checked():
    assert read(chat("{", "length"), check=no_check).status == "truncated"


def test_tokens_have_one_set_of_names():
    chat_usage = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    response_usage = {
        "input_tokens": 10,
        "output_tokens": 5,
        "total_tokens": 15,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens_details": {"reasoning_tokens": 2},
    }
    assert usage_of(chat_usage) == usage_of(response_usage) == asdict(Usage(10, 4, 5, 2, 15))


def test_tokens_may_be_written_with_a_point():
    chat_usage = {
        "prompt_tokens": 10.0,
        "completion_tokens": 5.0,
        "total_tokens": 15.0,
        "prompt_tokens_details": {"cached_tokens": 4.0},
        "completion_tokens_details": {"reasoning_tokens": 2.0},
    }
    told = usage_of(chat_usage)
    assert told == asdict(Usage(10, 4, 5, 2, 15))
    assert {type(number) for number in told.values()} == {int}
    assert usage_of({"input_tokens": 3.0, "output_tokens": 2.0}) == asdict(Usage(3, 0, 2, 0, 5))


@pytest.mark.parametrize("number", [2.5, 1e30, float("inf"), float("nan"), "5", True, None, [5]])
def test_what_is_no_whole_number_is_no_tokens(number):
    assert usage_of({"prompt_tokens": number, "completion_tokens": 2}) == asdict(Usage(0, 0, 2, 0, 2))


def test_tokens_are_summed_where_no_total_is_given():
    assert usage_of({"prompt_tokens": 3}) == asdict(Usage(3, 0, 0, 0, 3))
    assert usage_of(None) is None


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"null", b"{}", b'{"custom_id": 5}', b'{"custom_id": "\xff"}'])
def test_a_line_that_names_no_row_is_none(line):
    assert parse_line(line) is None
