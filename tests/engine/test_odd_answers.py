"""Lines as gateways write them: what was answered, and paid for, is never taken for a failure."""

from __future__ import annotations

import json

import pytest

from airflow_openai_batch.engine.answers import parse_lines, read_line

BODY = {"object": "chat.completion", "choices": [{"message": {"content": "fine"}, "finish_reason": "stop"}]}


def read(error=None, **response):
    return read_line({"custom_id": "r0", "response": response or None, "error": error}, None)


@pytest.mark.parametrize("status", [200, "200"])
@pytest.mark.parametrize("body", [BODY, json.dumps(BODY)])
@pytest.mark.parametrize("error", [None, {}, "", {"code": None, "message": None}, {"message": ""}, {"code": 0}])
def test_an_answer_is_one_whatever_form_it_comes_in(status, body, error):
    answer = read(error, status_code=status, body=body)
    assert (answer.status, answer.output, answer.may_repeat) == ("succeeded", "fine", False)


@pytest.mark.parametrize(
    ("error", "message"),
    [({"message": "no"}, "no"), ({"code": None, "message": "no"}, "no"), ("no", "no"), ([1], "[1]")],
)
def test_a_row_that_was_not_run_goes_again_whether_the_error_has_a_code_or_not(error, message):
    answer = read(error)
    assert (answer.status, answer.may_repeat) == ("failed", True)
    assert answer.error == {"code": None, "message": message}


@pytest.mark.parametrize(
    ("status", "repeats"), [(400, False), ("400", False), (429, True), ("503", True), (None, True), ("", True)]
)
@pytest.mark.parametrize("body", [{"error": {"message": "no"}}, '{"error": {"message": "no"}}', "no"])
def test_a_failure_goes_again_by_its_status(status, repeats, body):
    answer = read(status_code=status, body=body)
    assert (answer.status, answer.may_repeat) == ("failed", repeats)
    assert answer.error["message"] == "no"


def test_lines_of_a_file_without_a_last_newline_are_all_read():
    content = b'{"custom_id":"a"}\r\n\n{"custom_id":"b"}'
    assert [value["custom_id"] for value in parse_lines(content.split(b"\n"))] == ["a", "b"]
