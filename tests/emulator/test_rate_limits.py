"""Rate limits of synchronous calls: headers that tell, refusals that say when to come back."""

from __future__ import annotations

import time

import pytest

from airflow_openai_batch.client.pacing import seconds_of
from airflow_openai_batch.emulator.ledger import body_hash
from airflow_openai_batch.emulator.rate_limits import spelt

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize("url", [CHAT, "/v1/responses", "/v1/embeddings"])
def test_every_synchronous_answer_tells_what_is_left(start, url):
    api = start(requests_per_minute=100, tokens_per_minute=1_000)
    model = "text-embedding-3-small" if url == "/v1/embeddings" else "gpt-5-mini"
    body = {"model": model, "input": "hi"} if url != CHAT else api.body("hi")
    headers = api.post(url, body).headers
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("100", "99")
    size = len(api.http.build_request("POST", url, json=body).content)
    assert headers["x-ratelimit-remaining-tokens"] == str(1_000 - -(-size // 4))
    assert 0 < seconds_of(headers["x-ratelimit-reset-requests"]) <= 0.6
    assert not [name for name in api.http.get("/v1/models").headers if name.startswith("x-ratelimit")]


def test_a_call_over_the_limit_is_refused_and_not_billed(start):
    api = start(requests_per_minute=3, minute=3)
    assert [api.post(CHAT, api.body(f"{number}")).status_code for number in range(4)] == [200, 200, 200, 429]
    refused = api.post(CHAT, api.body("again"))
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
    assert "gpt-5-mini" in error["message"]
    assert "(RPM): Limit 3, Used 3, Requested 1" in error["message"]
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert int(refused.headers["retry-after"]) == 1
    time.sleep(int(refused.headers["retry-after-ms"]) / 1_000)
    assert api.post(CHAT, api.body("again")).status_code == 200
    assert api.ledger.rows_billed == 4


def test_tokens_have_a_limit_of_their_own(start):
    api = start(tokens_per_minute=100)
    assert api.post(CHAT, api.body("x" * 40)).status_code == 200
    refused = api.post(CHAT, api.body("y" * 400))
    assert (refused.status_code, refused.json()["error"]["type"]) == (429, "tokens")


def test_each_model_has_its_own_and_batches_take_nothing(start):
    api = start(requests_per_minute=1)
    assert api.post(CHAT, api.body("a")).status_code == 200
    assert api.post(CHAT, {**api.body("a"), "model": "gpt-5"}).status_code == 200
    assert api.run(api.rows(5)).request_counts.completed == 5


def test_without_limits_there_are_no_headers(start):
    api = start(requests_per_minute=None, tokens_per_minute=None)
    assert not [name for name in api.post(CHAT, api.body("a")).headers if name.startswith("x-ratelimit")]


def test_used_up_says_so_though_it_isnt(api):
    api.emulator.add_fault("used_up,call=chat.*,what=tokens,left=2,seconds=90")
    headers = api.post(CHAT, api.body("told")).headers
    assert (headers["x-ratelimit-remaining-tokens"], headers["x-ratelimit-reset-tokens"]) == ("2", "1m30s")
    assert api.post(CHAT, api.body("true")).headers["x-ratelimit-remaining-tokens"] != "2"


@pytest.mark.parametrize(
    ("seconds", "told"), [(0, "0ms"), (0.25, "250ms"), (1, "1s"), (8.64, "8.64s"), (360, "6m0s"), (3_723, "1h2m3s")]
)
def test_times_are_told_as_the_service_tells_them(seconds, told):
    assert spelt(seconds) == told
    assert seconds_of(told) == seconds


def test_synchronous_calls_are_listed_by_body_and_tokens(start):
    api = start()
    api.run(api.rows(2))
    api.post(CHAT, api.body("text 1"))
    api.post(CHAT, api.body("four"))
    api.post(CHAT, api.body("[[emulate:status=500]]"))
    told = api.ledger.snapshot()["synchronous"]
    assert (told["calls"], told["input_tokens"], told["output_tokens"]) == (2, 2 + 1, 2 + 1)
    assert told["data"][1] == {
        "body": body_hash(CHAT, api.body("four")).hex(),
        "url": CHAT,
        "model": "gpt-5-mini",
        "input_tokens": 1,
        "output_tokens": 1,
    }
    assert api.ledger.bought(CHAT, api.body("text 1")) == [api.ledger.batches[0]["id"], "synchronous"]
    assert api.ledger.bought(CHAT, api.body("nobody")) == []


def test_calls_under_way_at_the_same_time_are_counted(start):
    api = start()
    for number in range(3):
        api.post(CHAT, api.body(f"{number}"))
    assert api.ledger.calls_at_once == {"chat.completions.create": 1}
