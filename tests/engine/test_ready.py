"""Request lines are taken as they stand where they would be accepted word for word, and only there."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_openai_batch.engine.chunks import ChunkMaker
from airflow_openai_batch.engine.requests import RequestBuilder, RequestSpec
from airflow_openai_batch.engine.shards import Limits
from airflow_openai_batch.engine.sources import Rows

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "caf\u00e9 \u2028 \U0001f600"}]


def request(body=None, *, endpoint=CHAT, **fields):
    body = {"model": "m", "messages": MESSAGES, "temperature": 0.5} if body is None else body
    return {"custom_id": "a", "method": "POST", "url": endpoint, "body": body} | fields


def encoded(*requests):
    return [json.dumps(one).encode() + b"\n" for one in requests]


def maker(endpoint=CHAT, limits=None, **spec):
    return ChunkMaker(RequestBuilder(RequestSpec(endpoint=endpoint, **spec)), limits or Limits())


def taken(lines, endpoint=CHAT):
    return maker(endpoint).ready.take("file.jsonl", 1, lines)


def test_bodies_stand_as_they_were_written():
    line = (
        b'{"custom_id": "a", "method": "POST", "url": "%b", "body": {"model": "m",  "messages": [{"role":"user"}]}}\n'
    )
    rows = taken([line % CHAT.encode(), *encoded(request(custom_id="b"))])
    assert rows[:3] == ("file.jsonl", 1, ["a", "b"])
    assert rows.bodies[0] == b'{"model": "m",  "messages": [{"role":"user"}]}'
    assert rows.models == ["m", "m"]


def test_what_is_taken_becomes_lines_with_ids_of_ours():
    made = maker()
    chunk = made.chunk(7, made.ready.take("file.jsonl", 1, encoded(request(), request(custom_id='"b"'))))
    lines = [json.loads(line) for line in chunk.portions(0, 2)["m"].lines.splitlines()]
    assert lines == [request(custom_id="r7"), request(custom_id="r8")]
    joints = [json.loads(line) for line in chunk.joints(0, 2, {"m": 3}).splitlines()]
    assert joints == [
        {"shard": 3, "row": 7, "custom_id": "a", "input": {}},
        {"shard": 3, "row": 8, "custom_id": '"b"', "input": {}},
    ]


@pytest.mark.parametrize(
    "odd",
    [
        request(note="a column"),
        request(custom_id=""),
        request(custom_id=7),
        request(method="GET"),
        request(endpoint="/v1/responses"),
        request({"messages": MESSAGES}),
        request({"model": "", "messages": MESSAGES}),
        request({"model": "m", "messages": []}),
        request({"model": "m", "messages": ["hi"]}),
        request({"model": "m", "messages": [{"content": "hi"}]}),
        request({"model": "m", "messages": MESSAGES, "stream": False}),
        request([]),
        {"text": "a row"},
        None,
    ],
)
def test_a_block_with_anything_else_in_it_is_not_taken(odd):
    assert taken(encoded(request(), odd, request())) is None


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"not json\n",
        encoded(request())[0].replace(b"temperature", b"temp\xff"),
        encoded(request())[0].replace(b"0.5", b'"\\ud800"'),
        encoded(request())[0].replace(b"0.5", b"NaN"),
    ],
)
def test_what_is_no_json_is_not_taken(line):
    assert taken([line]) is None


def test_a_body_that_may_not_fit_a_batch_is_not_taken():
    lines = encoded(request({"model": "m", "messages": MESSAGES, "user": "x" * 900}))
    assert maker(limits=Limits(bytes=2_000)).ready.take("", 1, lines) is not None
    assert maker(limits=Limits(bytes=1_000)).ready.take("", 1, lines) is None


def test_nothing_is_taken_where_bodies_are_made_anew():
    assert maker(model=("m", "n")).ready is None
    assert maker(model="m", image_columns=("image",)).ready is None


ODD = st.sampled_from([None, "", "text", 0, 1.5, True, False, [], ["x"], {}, {"role": 1}, [{"role": "user"}], [1, 2]])
BODY = st.one_of(
    ODD,
    st.fixed_dictionaries(
        {},
        optional={
            "model": st.sampled_from(["m", "m", "n", "", None, 3]),
            **dict.fromkeys(("messages", "input", "prompt", "conversation"), ODD | st.just(MESSAGES)),
            "stream": st.sampled_from([True, False, None]),
            "other": ODD,
        },
    ),
)
FIELDS = {
    "custom_id": st.sampled_from(["a", "b", "", None, 3]),
    "method": st.sampled_from(["POST", "POST", "GET", None]),
    "body": BODY,
    "note": ODD,
}


@st.composite
def requests(draw):
    endpoint = draw(st.sampled_from([CHAT, "/v1/responses", "/v1/embeddings", "/v1/completions", "/v1/new"]))
    right = {"model": "m", "messages": MESSAGES, "input": "text", "prompt": "text"}
    made = request(draw(st.just(right) | BODY), endpoint=endpoint)
    for name in draw(st.sets(st.sampled_from(list(FIELDS)), max_size=2)):
        made[name] = draw(FIELDS[name])
    for name in draw(st.sets(st.sampled_from([*made, "url"]), max_size=1)):
        made.pop(name)
    return endpoint, made


@given(requests())
def test_what_is_taken_is_what_parsing_would_have_made(drawn):
    endpoint, made = drawn
    both = maker(endpoint)
    rows = both.ready.take("", 1, encoded(made))
    if rows is None:
        return
    quick, parsed = both.chunk(0, rows), both.chunk(0, Rows("", 1, [made]))
    assert parsed.problems == []
    for name in ("models", "identities", "columns", "custom_ids", "inputs"):
        assert getattr(quick, name) == getattr(parsed, name), name
    assert [orjson.loads(body) for body in quick.bodies] == [orjson.loads(body) for body in parsed.bodies]


@pytest.mark.parametrize("endpoint", [CHAT, "/v1/responses", "/v1/embeddings", "/v1/completions", "/v1/new"])
def test_right_requests_of_each_endpoint_are_taken(endpoint):
    body = {"model": "m", "messages": MESSAGES, "input": "text", "prompt": "text"}
    assert taken(encoded(request(body, endpoint=endpoint)), endpoint).models == ["m"]


@given(st.integers(0, 200), st.binary(min_size=1, max_size=3))
def test_a_damaged_line_is_taken_only_if_it_can_be_parsed(place, bytes_):
    line = encoded(request())[0]
    damaged = line[:place] + bytes_ + line[place + len(bytes_) :]
    if taken([damaged]) is not None:
        assert orjson.loads(damaged)["custom_id"]
