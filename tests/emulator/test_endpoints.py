"""What answers say: usage, limits, structured output, vectors, and 400s."""

from __future__ import annotations

import json
import math

import pytest
from openai import BadRequestError, NotFoundError

CHAT = "/v1/chat/completions"


def ask(api, text, **options):
    return api.client.chat.completions.create(
        model="gpt-5-mini", messages=[{"role": "user", "content": text}], **options
    )


def test_tokens_are_a_quarter_of_the_bytes_rounded_up(api):
    answer = api.client.chat.completions.create(
        model="gpt-5-mini", messages=[{"role": "system", "content": "12345"}, {"role": "user", "content": "가나다"}]
    )
    assert answer.usage.prompt_tokens == math.ceil((5 + 9) / 4)
    assert answer.usage.completion_tokens == math.ceil(9 / 4)
    assert answer.usage.total_tokens == 4 + 3


def test_answers_say_that_they_are_emulated(api):
    answer = ask(api, "hi")
    assert answer.model == "gpt-5-mini-emulated"
    assert answer.system_fingerprint == "fp_emulated"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_token_limit_cuts_a_chat_answer(api, name):
    answer = ask(api, "가" * 10, **{name: 2})
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.content == "가가"
    assert ask(api, "short", **{name: 2}).choices[0].finish_reason == "stop"


def test_a_token_limit_makes_a_response_incomplete(api):
    answer = api.client.responses.create(model="gpt-5-mini", input="a long enough text", max_output_tokens=1)
    assert answer.status == "incomplete"
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.output_text == "a lo"
    assert answer.usage.output_tokens == 1


def test_a_token_limit_cuts_a_completion(api):
    answer = api.client.completions.create(model="gpt-3.5-turbo-instruct", prompt="a long text", max_tokens=1)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("a lo", "length")


def test_structured_output_satisfies_its_schema_and_carries_the_label(api):
    schema = {
        "type": "object",
        "properties": {
            "sentiment": {"type": "string", "enum": ["negative", "positive"]},
            "score": {"type": "number", "minimum": 0, "maximum": 1},
        },
        "required": ["sentiment", "score"],
        "additionalProperties": False,
    }
    chat = ask(
        api,
        "The food was excellent.",
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}},
    )
    assert json.loads(chat.choices[0].message.content) == {"sentiment": "positive", "score": 0}
    response = api.client.responses.create(
        model="gpt-5-mini",
        input="The food was awful.",
        text={"format": {"type": "json_schema", "name": "x", "schema": schema, "strict": True}},
    )
    assert json.loads(response.output_text) == {"sentiment": "negative", "score": 0}


def test_json_mode_answers_with_an_object(api):
    answer = ask(api, "hello", response_format={"type": "json_object"})
    assert json.loads(answer.choices[0].message.content) == {"answer": "hello"}


def test_embeddings_are_deterministic_unit_vectors(api):
    create = api.client.embeddings.create
    one = create(model="text-embedding-3-small", input="a", encoding_format="float").data[0].embedding
    assert len(one) == 1_536
    assert math.isclose(math.hypot(*one), 1, rel_tol=1e-9)
    assert create(model="text-embedding-3-small", input=["b", "a"], encoding_format="float").data[1].embedding == one
    decoded = create(model="text-embedding-3-small", input="a", encoding_format="base64").data[0].embedding
    assert len(decoded) > 1_536
    large = create(model="text-embedding-3-large", input="a", encoding_format="float")
    assert len(large.data[0].embedding) == 3_072
    small = create(model="text-embedding-3-large", input="a", dimensions=64, encoding_format="float")
    assert len(small.data[0].embedding) == 64
    assert create(model="text-embedding-3-small", input=[1, 2, 3]).usage.prompt_tokens == 3
    assert len(create(model="text-embedding-3-small", input=[[1, 2], [3]]).data) == 2


def test_moderations_flag_by_words(api):
    flags = api.client.moderations.create(input=["a nice day", "I will kill you"]).results
    assert [flag.flagged for flag in flags] == [False, True]
    assert flags[1].categories.violence
    parts = [{"type": "text", "text": "a nice day"}, {"type": "image_url", "image_url": {"url": "data:x"}}]
    assert len(api.client.moderations.create(input=parts).results) == 1


def test_images_are_pictures(api):
    answer = api.client.images.generate(model="gpt-image-1", prompt="a dog", n=2)
    assert len(answer.data) == 2
    assert answer.usage.output_tokens == 2 * 1_056
    edited = api.client.images.edit(model="gpt-image-1", prompt="a dog", image=("dog.png", b"x", "image/png"))
    assert edited.data[0].b64_json.startswith("iVBOR")


def test_a_video_is_done_at_once(api):
    with pytest.warns(DeprecationWarning, match="Sora"):
        video = api.client.videos.create(model="sora-2", prompt="a dog", seconds="8")
    assert (video.status, video.seconds, video.progress) == ("completed", "8", 100)


@pytest.mark.parametrize(
    ("url", "body", "param"),
    [
        (CHAT, {"messages": []}, "model"),
        (CHAT, {"model": "gpt-5"}, "messages"),
        (CHAT, {"model": "gpt-5", "messages": "x"}, "messages"),
        (CHAT, {"model": "gpt-5", "messages": []}, "messages"),
        (CHAT, {"model": "gpt-5", "messages": [{"role": "user", "content": "x"}], "max_tokens": 0}, "max_tokens"),
        (CHAT, {"model": "gpt-5", "messages": [{"role": "user", "content": "x"}], "max_tokens": "x"}, "max_tokens"),
        (CHAT, {"model": "gpt-5", "messages": [{"role": "user", "content": "x"}], "stream": True}, "stream"),
        ("/v1/responses", {"model": "gpt-5"}, "input"),
        ("/v1/responses", {"model": "gpt-5", "input": 5}, "input"),
        ("/v1/completions", {"model": "gpt-5"}, "prompt"),
        ("/v1/embeddings", {"model": "text-embedding-3-small"}, "input"),
        ("/v1/embeddings", {"model": "text-embedding-3-small", "input": ""}, None),
        ("/v1/embeddings", {"model": "text-embedding-3-small", "input": "x", "dimensions": 9_999}, "dimensions"),
        (
            "/v1/embeddings",
            {"model": "text-embedding-3-small", "input": "x", "encoding_format": "y"},
            "encoding_format",
        ),
        ("/v1/moderations", {}, "input"),
        ("/v1/images/generations", {}, "prompt"),
        ("/v1/images/generations", {"prompt": 5}, "prompt"),
        ("/v1/images/generations", {"prompt": "x", "n": "many"}, "n"),
        ("/v1/images/edits", {"prompt": "x"}, "images"),
        ("/v1/videos", {}, "prompt"),
    ],
)
def test_a_bad_request_is_a_400_that_names_the_parameter(api, url, body, param):
    response = api.post(url, body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_a_body_that_is_no_json_is_a_400(api):
    assert api.http.post(CHAT, content=b"{").status_code == 400
    assert api.post(CHAT, [1]).status_code == 400


def test_an_unknown_model_is_a_404(api):
    with pytest.raises(NotFoundError) as caught:
        api.client.chat.completions.create(model="gpt-99", messages=[{"role": "user", "content": "x"}])
    assert caught.value.code == "model_not_found"
    with pytest.raises(BadRequestError, match="model parameter"):
        api.client.chat.completions.create(model="", messages=[{"role": "user", "content": "x"}])


def test_a_row_that_is_a_bad_request_fails_alone(api):
    rows = [api.row("good"), api.row("bad", body=api.body("x", max_tokens=0))]
    batch = api.run(rows)
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 1)
    assert api.lines(batch.error_file_id)[0]["response"]["status_code"] == 400


@pytest.mark.parametrize(
    "schema", [{"properties": 5, "type": "object"}, {"$ref": "#/nowhere"}, {"pattern": "(", "type": "string"}]
)
def test_a_schema_that_is_none_is_a_400(api, schema):
    body = api.body("x", response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    response = api.post(CHAT, body)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_json_schema")
