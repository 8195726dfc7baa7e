"""Markers: requests that ask for what happens to them."""

from __future__ import annotations

import json

import pytest


def one(api, text, **body):
    """Run a batch of one row beside a plain one; return it with its lines by custom id."""
    batch = api.run([api.row("plain"), api.row("x", body=api.body(text, **body))])
    output = api.by_id(batch.output_file_id)
    errors = api.by_id(batch.error_file_id) if batch.error_file_id else {}
    return batch, output, errors


@pytest.mark.parametrize(
    ("status", "code"), [(400, None), (408, None), (429, "rate_limit_exceeded"), (500, None), (503, None)]
)
def test_status_makes_a_row_fail(api, status, code):
    batch, output, errors = one(api, f"[[emulate:status={status}]]")
    assert set(output) == {"plain"}
    assert errors["x"]["response"]["status_code"] == status
    assert errors["x"]["response"]["body"]["error"]["code"] == code
    assert batch.request_counts.failed == 1


def test_status_zero_is_a_connection_that_broke(api):
    _, _, errors = one(api, "[[emulate:status=0]]")
    assert errors["x"]["response"] == {"status_code": 0, "request_id": "", "body": None}


def test_error_makes_a_row_that_never_ran(api):
    batch, _, errors = one(api, "[[emulate:error=request_timeout]]")
    assert errors["x"]["response"] is None
    assert errors["x"]["error"]["code"] == "request_timeout"
    assert (batch.request_counts.completed, batch.request_counts.failed, batch.request_counts.total) == (1, 0, 2)


def test_refusal_is_a_message_without_content(api):
    message = one(api, "[[emulate:refusal]]")[1]["x"]["response"]["body"]["choices"][0]["message"]
    assert message["content"] is None
    assert message["refusal"]


def test_content_filter_is_a_finish_reason(api):
    choice = one(api, "[[emulate:content_filter]]")[1]["x"]["response"]["body"]["choices"][0]
    assert choice["finish_reason"] == "content_filter"


def test_content_filter_refuses_a_picture(api):
    response = api.post("/v1/images/generations", {"prompt": "[[emulate:content_filter]]"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "content_policy_violation")


def test_length_cuts_the_answer(api):
    choice = one(api, "some text [[emulate:length]]")[1]["x"]["response"]["body"]["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"] == "some text [[em"


def test_invalid_json_is_no_json(api):
    _, output, _ = one(api, "[[emulate:invalid_json]]", response_format={"type": "json_object"})
    content = output["x"]["response"]["body"]["choices"][0]["message"]["content"]
    with pytest.raises(json.JSONDecodeError):
        json.loads(content)


def test_a_lost_row_is_in_neither_file(api):
    batch, output, errors = one(api, "[[emulate:lost]]")
    assert set(output) == {"plain"}
    assert errors == {}
    assert batch.request_counts.completed == 2


def test_a_row_can_be_there_twice(api):
    batch = api.run([api.row("x", body=api.body("[[emulate:twice]]"))])
    lines = api.lines(batch.output_file_id)
    assert len(lines) == 2
    assert lines[0] == lines[1]
    assert batch.request_counts.completed == 1


def test_a_garbled_line_is_no_json(api):
    batch = api.run([api.row("plain"), api.row("x", body=api.body("[[emulate:garbled]]"))])
    good = []
    for line in api.client.files.content(batch.output_file_id).text.splitlines():
        try:
            good.append(json.loads(line)["custom_id"])
        except json.JSONDecodeError:
            good.append(None)
    assert sorted(good, key=str) == [None, "plain"]


def test_once_is_over_after_the_first_time(start):
    api = start()
    rows = [api.row("x", body=api.body("[[emulate:status=500,once]]")), api.row("y", body=api.body("other"))]
    assert api.run(rows).request_counts.failed == 1
    assert api.run(rows).request_counts.failed == 0
    other = [api.row("x", body=api.body("another body [[emulate:status=500,once]]"))]
    assert api.run(other).request_counts.failed == 1


@pytest.mark.parametrize(
    ("url", "body"),
    [
        ("/v1/responses", {"model": "gpt-5", "input": "[[emulate:status=429]]"}),
        ("/v1/embeddings", {"model": "text-embedding-3-small", "input": ["x", "[[emulate:status=429]]"]}),
        ("/v1/completions", {"model": "gpt-5", "prompt": "[[emulate:status=429]]"}),
    ],
)
def test_markers_work_at_every_endpoint_and_without_a_batch(api, url, body):
    assert api.post(url, body).status_code == 429


def test_an_error_marker_without_a_batch_is_a_500(api):
    assert api.post("/v1/responses", {"model": "gpt-5", "input": "[[emulate:error=batch_expired]]"}).status_code == 500
    assert api.post("/v1/responses", {"model": "gpt-5", "input": "[[emulate:status=0]]"}).status_code == 500
