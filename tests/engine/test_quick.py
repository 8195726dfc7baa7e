"""A line is read by its types where it has a shape that is known, and means what it means read in full."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_openai_batch.engine import quick
from airflow_openai_batch.engine.answers import parse_line, read_line
from airflow_openai_batch.engine.quick import line_reader

CHAT_USAGE = {
    "prompt_tokens": 5,
    "completion_tokens": 7,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 2, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 3, "audio_tokens": 0},
}
RESPONSE_USAGE = {
    "input_tokens": 5,
    "input_tokens_details": {"cached_tokens": 2},
    "output_tokens": 7,
    "output_tokens_details": {"reasoning_tokens": 3},
    "total_tokens": 12,
}


def chat(**fields):
    message = {"role": "assistant", "content": "hi", "refusal": None, "annotations": []}
    choices = [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "m",
        "choices": choices,
        "usage": CHAT_USAGE,
    } | fields


def response(**fields):
    content = [{"type": "output_text", "text": "hi", "annotations": []}]
    output = [{"id": "rs_1", "type": "reasoning", "summary": []}, {"type": "message", "content": content}]
    made = {"id": "resp_1", "object": "response", "status": "completed", "model": "m", "output": output}
    return made | {"usage": RESPONSE_USAGE} | fields


def line(body, *, status=200, error=None, wire="r0", **more):
    told = {"status_code": status, "request_id": "req_1", "body": body}
    return (
        json.dumps({"id": "batch_req_1", "custom_id": wire, "response": told, "error": error, **more}).encode() + b"\n"
    )


def both(content, check=None):
    """What the reader makes of a line when the one before it had the same shape, and what reading it in full makes."""
    value = parse_line(content)
    in_full = None if value is None else read_line(value, check)
    found = []
    for before in (chat(), response()):
        read = line_reader(check)
        assert read(line(before)).status in {"succeeded", "invalid"}
        found.append(read(content))
    return found, in_full


@pytest.mark.parametrize("body", [chat(), response()], ids=["chat", "response"])
def test_a_line_like_the_one_before_is_not_parsed_in_full(body, monkeypatch):
    read = line_reader(None)
    first = read(line(body))
    monkeypatch.setattr(quick, "parse_line", lambda _line: pytest.fail("parsed in full"))
    assert read(line(body)) == first
    assert (first.status, first.output, first.model) == ("succeeded", "hi", "m")
    assert first.usage == {
        "input_tokens": 5, "cached_tokens": 2, "output_tokens": 7, "reasoning_tokens": 3, "total_tokens": 12,
    }  # fmt: skip


@pytest.mark.parametrize("make", [chat, response])
def test_tokens_with_a_point_are_counted_whatever_was_read_before(make):
    usage = json.loads(json.dumps(make()["usage"]), parse_int=float)
    found, in_full = both(line(make(usage=usage)))
    assert found == [in_full, in_full] == [read_line(json.loads(line(make())), None)] * 2


def test_shapes_may_change_from_line_to_line():
    read = line_reader(None)
    lines = [
        chat(),
        response(),
        chat(choices=[]),
        {"object": "list", "data": [{"embedding": [1.0]}]},
        response(),
        chat(),
    ]
    assert [read(line(body)).output for body in lines] == ["hi", "hi", chat(choices=[]), [1.0], "hi", "hi"]


@pytest.mark.parametrize(
    "content", [b"\n", b"", b"not json\n", b"[]\n", b'{"custom_id":1}\n', b"{}\n", b'{"custom_id":"r0"']
)
def test_a_line_that_cannot_be_read_is_none(content):
    found, in_full = both(content)
    assert [*found, in_full] == [None, None, None]


TEXT = st.sampled_from(["hi", "", '{"a": 1}', "[", "caf\u00e9 \u2028"])
ODD = st.sampled_from([None, "", "text", 0, 1, -3, 2.5, 7.0, True, [], ["x"], {}, {"a": 1}, 10**30])
TOKENS = st.sampled_from([0, 1, 12, None, "5", 2.0, True, -1])
DETAILS = ODD | st.fixed_dictionaries({}, optional={"cached_tokens": TOKENS, "reasoning_tokens": TOKENS})
USAGE = ODD | st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(
            ("prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens"), TOKENS
        ),
        **dict.fromkeys(
            (
                "prompt_tokens_details",
                "completion_tokens_details",
                "input_tokens_details",
                "output_tokens_details",
            ),
            DETAILS,
        ),
    },
)
MESSAGE = ODD | st.fixed_dictionaries(
    {},
    optional={"content": TEXT | ODD, "refusal": TEXT | ODD, "tool_calls": ODD, "role": st.just("assistant")},
)
CHOICE = ODD | st.fixed_dictionaries(
    {},
    optional={"message": MESSAGE, "finish_reason": st.sampled_from(["stop", "length", "content_filter", "x", None, 3])},
)
CONTENT = ODD | st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["output_text", "refusal", "other", None]),
        "text": TEXT | ODD,
        "refusal": TEXT | ODD,
    },
)
ITEM = ODD | st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["message", "reasoning", None, 3]),
        "content": ODD | st.lists(CONTENT, max_size=3),
    },
)
BODY = ODD | st.one_of(
    st.fixed_dictionaries(
        {"object": st.sampled_from(["chat.completion", "chat.completion", "other", None, 3])},
        optional={"choices": ODD | st.lists(CHOICE, max_size=2), "model": ODD | TEXT, "usage": USAGE},
    ),
    st.fixed_dictionaries(
        {"object": st.just("response")},
        optional={
            "status": st.sampled_from(["completed", "incomplete", "failed", None, 3]),
            "output": ODD | st.lists(ITEM, max_size=3),
            "model": ODD | TEXT,
            "usage": USAGE,
            "incomplete_details": ODD | st.just({"reason": "max_output_tokens"}),
            "error": ODD,
        },
    ),
    # Right but for one part.
    st.builds(lambda usage: chat(usage=usage), USAGE),
    st.builds(lambda choice: chat(choices=[choice]), CHOICE),
    st.builds(lambda usage: response(usage=usage), USAGE),
    st.builds(lambda item: response(output=[item]), ITEM),
    st.builds(
        lambda contents: response(output=[{"type": "message", "content": contents}]), st.lists(CONTENT, max_size=3)
    ),
)


def is_an_object(value):
    return None if isinstance(value, dict) else "no object"


@given(
    BODY,
    st.sampled_from([200, 200, 200, 201, 299, 400, 429, 500, 0, "200", None, 200.0, True]),
    st.sampled_from([None, None, None, {"code": "batch_expired", "message": "m"}, "text", {}, ""]),
    st.sampled_from([None, is_an_object]),
)
def test_whatever_a_line_holds_means_what_it_means_read_in_full(body, status, error, check):
    found, in_full = both(line(body, status=status, error=error), check)
    assert found == [in_full, in_full]


@given(st.sampled_from([chat(), response()]), st.integers(0, 600), st.binary(min_size=1, max_size=3))
def test_a_damaged_line_means_nothing_else_than_read_in_full(body, place, bytes_):
    content = line(body)
    damaged = content[:place] + bytes_ + content[place + len(bytes_) :]
    found, in_full = both(damaged)
    for answer in found:
        # What isn't asked for is looked over: it may be no UTF-8, or a number that no float can hold.
        assert answer == in_full or in_full is None
