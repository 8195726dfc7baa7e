"""What makes a batch fail, with codes, messages and lines."""

from __future__ import annotations

import json

import pytest


def chat(custom_id="a", **body):
    body = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "x"}], **body}
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {key: value for key, value in body.items() if value is not None},
    }


def without(row, name):
    return {key: value for key, value in row.items() if key != name}


BAD_LINES = {
    "no JSON": ("{nonsense", "invalid_json_line", "This line is not parseable as valid JSON."),
    "no object": ("[1]", "invalid_json_line", "This line is not parseable as valid JSON."),
    "blank": ("", "invalid_json_line", "This line is not parseable as valid JSON."),
    **{
        f"no {name}": (without(chat(), name), "missing_required_parameter", f"Missing required parameter: '{name}'.")
        for name in ("custom_id", "method", "url", "body")
    },
    "custom_id of another type": (
        {**chat(), "custom_id": 5},
        "invalid_type",
        "Invalid type for 'custom_id': expected a string.",
    ),
    "another method": ({**chat(), "method": "GET"}, "invalid_method", "Invalid method: 'GET'."),
    "another url": (
        {**chat(), "url": "/v1/embeddings"},
        "invalid_url",
        "The URL provided for this request does not match the batch endpoint.",
    ),
    "no model": (chat(model=None), "invalid_request", "Model parameter is required."),
    "no messages": (chat(messages=None), "invalid_request", "Messages parameter is required."),
    "unknown model": (
        chat(model="gpt-99"),
        "model_not_found",
        "The provided model 'gpt-99' is not supported by the Batch API.",
    ),
    "streaming": (
        chat(stream=True),
        "streaming_unsupported",
        "Chat Completions: Streaming is not supported in the Batch API.",
    ),
    "duplicate": (
        chat("first"),
        "duplicate_custom_id",
        "The custom_id for this request is a duplicate of another request. ",
    ),
    "another model": (
        chat(model="gpt-4o"),
        "mismatched_model",
        "The model 'gpt-4o' for this request does not match the rest of the batch. ",
    ),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_fails_the_batch_with_its_code_message_and_line(api, case):
    line, code, message = BAD_LINES[case]
    batch = api.run([chat("first"), line, chat("last")])
    assert batch.status == "failed"
    assert batch.failed_at is not None
    assert batch.in_progress_at is None
    (error,) = batch.errors.data
    assert (error.code, error.line) == (code, 2)
    assert error.message.startswith(message)
    assert (batch.output_file_id, batch.error_file_id) == (None, None)
    assert batch.errors.object == "list"


def test_every_bad_line_is_reported(api):
    batch = api.run([chat("a"), "nonsense", chat("b", stream=True), chat("a"), chat("c")])
    assert [(error.line, error.code) for error in batch.errors.data] == [
        (2, "invalid_json_line"),
        (3, "streaming_unsupported"),
        (4, "duplicate_custom_id"),
    ]


def test_the_report_has_an_end(api):
    batch = api.run(["nonsense"] * 150)
    assert len(batch.errors.data) == 100


def test_blank_lines_alone_are_an_empty_file(api):
    batch = api.run("\n\n")
    (error,) = batch.errors.data
    assert (error.code, error.line) == ("empty_file", None)
    assert error.message.startswith("The input file is empty.")


def test_blank_lines_at_the_end_are_nothing(api):
    batch = api.run(json.dumps(chat()) + "\n\n \n")
    assert (batch.status, batch.request_counts.total) == ("completed", 1)


def test_the_last_line_needs_no_newline(api):
    assert api.run(json.dumps(chat("a")) + "\n" + json.dumps(chat("b"))).request_counts.completed == 2


def test_unicode_line_separators_do_not_end_a_line(api):
    batch = api.run(json.dumps(chat("a\u2028b"), ensure_ascii=False) + "\n")
    assert batch.request_counts.total == 1
    content = api.client.files.content(batch.output_file_id).content
    assert json.loads(content.split(b"\n")[0])["custom_id"] == "a\u2028b"


def test_too_many_requests_fail_the_batch(start):
    api = start(max_requests=3)
    batch = api.run(api.rows(4))
    assert batch.errors.data[0].code == "too_many_tasks"
    assert api.run(api.rows(3)).status == "completed"


def test_a_file_larger_than_a_batch_may_be_fails_the_batch(start):
    api = start(max_batch_bytes=300)
    batch = api.run(api.rows(5))
    assert batch.errors.data[0].code == "invalid_request"
    assert "more than the maximum of 300" in batch.errors.data[0].message


def test_embeddings_are_counted_by_their_inputs(start):
    api = start(max_embedding_inputs=4)

    def row(custom_id, value):
        body = {"model": "text-embedding-3-small", "input": value}
        return {"custom_id": custom_id, "method": "POST", "url": "/v1/embeddings", "body": body}

    fits = [row("a", ["x", "y"]), row("b", "z"), row("c", [1, 2, 3])]
    assert api.run(fits, "/v1/embeddings").status == "completed"
    batch = api.run([*fits, row("d", "w")], "/v1/embeddings")
    assert batch.errors.data[0].code == "too_many_tasks"


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("/v1/responses", "Input parameter is required."),
        ("/v1/embeddings", "Input parameter is required."),
        ("/v1/completions", "Prompt parameter is required."),
        ("/v1/images/generations", "Prompt parameter is required."),
    ],
)
def test_each_endpoint_wants_its_own_parameter(api, endpoint, message):
    row = {"custom_id": "a", "method": "POST", "url": endpoint, "body": {"model": "gpt-5-mini"}}
    batch = api.run([row], endpoint)
    assert batch.errors.data[0].message == message


def test_models_are_an_option(start):
    api = start(models=["my-model"])
    assert api.run([chat(model="my-model")]).status == "completed"
    assert api.run([chat()]).errors.data[0].code == "model_not_found"
