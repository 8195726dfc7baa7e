"""Synchronous calls: a line for every row, within the server's limits, and an error for what concerns all rows."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from contextlib import ExitStack
from datetime import datetime, timezone
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import pytest
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

from airflow_openai_batch.client import ClientConfig, OpenAIBatchClient, direct
from airflow_openai_batch.client.pacing import asked_to_wait, seconds_of, until_reset
from airflow_openai_batch.emulator.server import running
from airflow_openai_batch.engine.answers import parse_line, read_line
from airflow_openai_batch.exceptions import (
    AuthenticationError,
    NotFoundError,
    QuotaError,
    RateLimitError,
    StoreError,
    UnreachableError,
)

CHAT = "/v1/chat/completions"
CALL = "chat.completions.create"


def request(row, text=None, url=CHAT, **body):
    said = f"text {row}" if text is None else text
    given = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": said}]}
    line = {"custom_id": f"r{row}", "method": "POST", "url": url, "body": body or given}
    return json.dumps(line).encode() + b"\n"


def requests(number):
    return [request(row) for row in range(number)]


class Asked:
    """The lines that came, by row."""

    def __init__(self):
        self.raw = []

    def __call__(self, line):
        assert line.endswith(b"\n")
        self.raw.append(line)

    @property
    def lines(self):
        return {line["custom_id"]: line for line in map(json.loads, self.raw)}

    @property
    def statuses(self):
        return Counter((line["response"] or {}).get("status_code") for line in map(json.loads, self.raw))


@pytest.fixture
def start(monkeypatch):
    """Start an emulator of one's own; a client of it, and what it asks."""
    # A growing random wait between tries is tested apart.
    monkeypatch.setattr(direct, "_RANDOM", lambda _state: 0.01)
    with ExitStack() as stack:

        def start(*, key="sk-test", config=None, **options):
            emulator = stack.enter_context(running(**options))
            client = OpenAIBatchClient(ClientConfig("my_conn", key, emulator.base_url, **(config or {})))
            stack.callback(client.close)
            return client, emulator

        yield start


def ask(client, lines, concurrency=8):
    asked = Asked()
    client.ask(lines, asked, concurrency=concurrency)
    return asked


@pytest.mark.parametrize(
    ("url", "body", "kind"),
    [
        (CHAT, {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "é\u2028x"}]}, ChatCompletion),
        ("/v1/responses", {"model": "gpt-5-mini", "input": "hi"}, Response),
        ("/v1/embeddings", {"model": "text-embedding-3-small", "input": ["a", "b"]}, CreateEmbeddingResponse),
    ],
)
def test_each_endpoint_is_answered_as_a_batch_answers_it(start, url, body, kind):
    client, emulator = start()
    (line,) = ask(client, [request(7, url=url, **body)]).lines.values()
    assert (line["custom_id"], line["error"], line["response"]["status_code"]) == ("r7", None, 200)
    assert line["id"]
    assert line["response"]["request_id"].startswith("req_")
    kind.model_validate(line["response"]["body"], strict=True)
    assert read_line(line, None).status == "succeeded"
    assert emulator.ledger.bought(url, body) == ["synchronous"]


@pytest.mark.parametrize(
    ("said", "text"),
    [(b'"content": "so \\ud83d", "logprobs": NaN', "so \ufffd"), (b'"content": "caf\xe9"', "caf\ufffd")],
)
def test_an_answer_that_is_no_json_to_the_letter_is_one_all_the_same(said, text):
    body = b'{"object": "chat.completion", "choices": [{"message": {%b}}], "usage": {"prompt_tokens": 3}}' % said

    class Gateway(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server, ExitStack() as stack:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack.callback(server.shutdown)
        client = OpenAIBatchClient(ClientConfig("my_conn", "sk-test", f"http://127.0.0.1:{server.server_port}/v1"))
        stack.callback(client.close)
        (line,) = ask(client, requests(1)).raw
    answer = read_line(parse_line(line), None)
    assert (answer.status, answer.output, answer.usage["input_tokens"]) == ("succeeded", text, 3)


def test_a_line_begins_as_those_of_batches_do(start):
    client, _ = start()
    (raw,) = ask(client, requests(1)).raw
    assert raw.startswith(b'{"id":"direct_')
    assert raw.index(b'"custom_id":"r0"') < raw.index(b'"response"')
    assert raw.count(b"\n") == 1


@pytest.mark.parametrize("path", ["/chat/completions", CHAT])
@pytest.mark.parametrize("azure", ["v1", "classic"])
def test_azure_is_called_by_its_own_paths(start, azure, path):
    key = "0123456789abcdef0123456789abcdef"
    _, emulator = start(mode="azure")
    base = f"{emulator.url}/openai" + ("/v1/" if azure == "v1" else "")
    version = "2024-10-21" if azure == "classic" else None
    client = OpenAIBatchClient(ClientConfig("az", key, base, azure=azure, api_version=version))
    assert ask(client, [request(0, url=path)]).statuses == {200: 1}
    client.close()


def test_a_token_is_asked_for_as_ever(start):
    _, emulator = start(mode="azure")
    config = ClientConfig("az", "", f"{emulator.url}/openai/v1/", azure="v1", token=lambda: "eyJ-token")
    client = OpenAIBatchClient(config)
    assert ask(client, requests(3)).statuses == {200: 3}
    client.close()


def test_failures_are_lines_that_the_engine_reads(start):
    client, _ = start()
    texts = ["[[emulate:status=400]]", "[[emulate:status=500]]", "[[emulate:status=429]]", "[[emulate:refusal]]"]
    asked = ask(client, [request(row, text) for row, text in enumerate(texts)])
    answers = [
        read_line(parse_line(line), None) for line in sorted(asked.raw, key=lambda raw: parse_line(raw)["custom_id"])
    ]
    assert [(answer.status, answer.may_repeat) for answer in answers] == [
        ("failed", False),
        ("failed", True),
        ("failed", True),
        ("refused", False),
    ]
    assert asked.lines["r0"]["response"]["body"]["error"]["message"]
    assert asked.lines["r2"]["response"]["body"]["error"]["code"] == "rate_limit_exceeded"


def test_what_fails_in_passing_is_asked_again(start):
    client, emulator = start()
    texts = [f"[[emulate:status={status},once]]" for status in (408, 409, 429, 500, 503)]
    assert ask(client, [request(row, text) for row, text in enumerate(texts)]).statuses == {200: 5}
    assert emulator.ledger.calls[CALL] == 10


def test_a_row_is_asked_six_times_at_the_most(start):
    client, emulator = start()
    assert ask(client, [request(0, "[[emulate:status=503]]")]).statuses == {503: 1}
    assert emulator.ledger.calls[CALL] == direct.TRIES == 6


def test_an_unknown_model_is_a_line_of_its_row(start):
    client, emulator = start()
    body = {"model": "gpt-99", "messages": [{"role": "user", "content": "x"}]}
    asked = ask(client, [request(0, **body), request(1)])
    assert asked.statuses == {404: 1, 200: 1}
    assert read_line(asked.lines["r0"], None).error["code"] == "model_not_found"
    assert emulator.ledger.calls[CALL] == 2


@pytest.mark.parametrize("concurrency", [1, 5, 20])
def test_so_many_calls_are_in_the_air_as_was_asked_for_and_never_more(start, concurrency):
    client, emulator = start()
    emulator.add_fault(fault="latency", call="chat.*", seconds=0.1, times=None)
    assert ask(client, requests(3 * concurrency), concurrency).statuses == {200: 3 * concurrency}
    assert emulator.ledger.calls_at_once[CALL] == concurrency


def test_requests_are_read_as_there_is_room_for_them(start):
    client, emulator = start()
    asked, ahead = Asked(), []

    def lines():
        for row in range(200):
            ahead.append(row - len(asked.raw))
            yield request(row)

    client.ask(lines(), asked, concurrency=4)
    assert max(ahead) < 8
    assert len(asked.raw) == emulator.ledger.rows_billed == 200


def test_lines_are_read_and_taken_in_the_callers_thread(start):
    client, _ = start()
    threads = set()

    def lines():
        threads.add(threading.current_thread())
        yield from requests(4)

    client.ask(lines(), lambda _: threads.add(threading.current_thread()), concurrency=2)
    assert threads == {threading.current_thread()}


def test_a_slow_row_holds_up_no_other(start):
    client, emulator = start()
    emulator.add_fault(fault="latency", call=CALL, seconds=1.5)
    asked, when = Asked(), {}

    def take(line):
        asked(line)
        when[json.loads(line)["custom_id"]] = time.monotonic()

    client.ask(requests(60), take, concurrency=2)
    assert max(when, key=when.get) == "r0"


def test_nothing_to_ask_is_done_at_once(start):
    client, emulator = start()
    assert ask(client, []).raw == []
    assert emulator.ledger.calls == {}


# What the server wants.


def test_after_a_429_all_wait_as_long_as_it_says(start):
    client, emulator = start()
    emulator.add_fault(fault="status", call=CALL, status=429, retry_after=1, times=1, skip=3)
    begun = time.monotonic()
    assert ask(client, requests(40), 4).statuses == {200: 40}
    assert time.monotonic() - begun >= 1
    assert emulator.ledger.calls[CALL] == 41


def test_no_call_goes_out_while_the_server_wants_a_pause(start):
    times = []

    def responder(prompt):
        times.append(time.monotonic())
        return prompt.text

    client, emulator = start(responder=responder)
    emulator.add_fault(fault="status", call=CALL, status=429, retry_after=0.8, times=1, skip=4)
    ask(client, requests(30), 2)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert sum(gap >= 0.7 for gap in gaps) == 1


@pytest.mark.parametrize("what", ["requests", "tokens"])
def test_a_limit_that_is_used_up_is_waited_for(start, what):
    times = []

    def responder(prompt):
        times.append(time.monotonic())
        return prompt.text

    client, emulator = start(responder=responder)
    emulator.add_fault(fault="used_up", call=CALL, what=what, seconds=0.8, skip=6)
    assert ask(client, requests(30), 2).statuses == {200: 30}
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert sum(gap >= 0.7 for gap in gaps) == 1
    assert emulator.ledger.calls[CALL] == 30


def test_less_left_than_is_in_the_air_is_waited_for_too(start):
    client, emulator = start()
    emulator.add_fault(fault="latency", call=CALL, seconds=0.1, times=8)
    emulator.add_fault(fault="used_up", call=CALL, left=3, seconds=1)
    begun = time.monotonic()
    ask(client, requests(20), 8)
    assert time.monotonic() - begun >= 1


@pytest.mark.parametrize(("limits", "concurrency"), [({"requests_per_minute": 20}, 8), ({"tokens_per_minute": 600}, 8)])
def test_a_key_with_small_limits_gets_all_its_answers(start, limits, concurrency):
    client, emulator = start(**limits, minute=1.0)
    asked = ask(client, requests(60), concurrency)
    assert asked.statuses == {200: 60}
    assert emulator.ledger.rows_billed_twice == 0
    # Of the calls that are made, few are refused.
    assert emulator.ledger.calls[CALL] < 90


def test_no_credit_is_for_all_rows_and_never_asked_again(start):
    client, emulator = start()
    emulator.add_fault(
        fault="status", call=CALL, status=429, code="insufficient_quota", message="No money.", times=None
    )
    with pytest.raises(QuotaError, match=r"'my_conn'.*has no credit left: No money"):
        ask(client, requests(50), 4)
    assert emulator.ledger.calls[CALL] <= 4


def test_a_wait_that_is_too_long_for_a_worker_slot_is_not_begun(start):
    client, emulator = start()
    emulator.add_fault(fault="status", call=CALL, status=429, retry_after=3600, times=None)
    with pytest.raises(RateLimitError, match="no call for 3,600 s") as caught:
        ask(client, requests(50), 4)
    assert caught.value.retryable
    assert emulator.ledger.calls[CALL] <= 4


def test_a_row_waits_so_long_in_all_and_no_longer(start, monkeypatch):
    monkeypatch.setattr(direct, "MAX_WAIT", 0.5)
    client, emulator = start()
    emulator.add_fault(fault="status", call=CALL, status=429, retry_after=0.2, times=None)
    assert ask(client, requests(1)).statuses == {429: 1}
    assert emulator.ledger.calls[CALL] == 3


def test_the_wait_between_tries_grows():
    class State:
        outcome = None

        def __init__(self, number):
            self.attempt_number = number

    waits = [max(direct._RANDOM(State(number)) for _ in range(200)) for number in (1, 4, 9)]
    assert waits[0] <= 0.5 < waits[1] <= 4 < waits[2] <= 30


# What ends it all.


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_is_raised_at_once_and_what_is_in_the_air_is_kept(start, status):
    client, emulator = start()
    emulator.add_fault(fault="latency", call=CALL, seconds=0.3, skip=2, times=3)
    emulator.add_fault(fault="status", call=CALL, status=status, message="bad key", skip=6, times=None)
    asked = Asked()
    with pytest.raises(AuthenticationError, match=r"'my_conn'.*bad key.*Check its API key"):
        client.ask(requests(100), asked, concurrency=4)
    assert len(asked.raw) == 6 == emulator.ledger.rows_billed
    assert emulator.ledger.calls[CALL] <= 10


def test_a_key_that_nobody_knows_is_asked_with_once(start):
    client, emulator = start(key="wrong-key-1234567890")
    with pytest.raises(AuthenticationError) as caught:
        ask(client, requests(100), 3)
    assert "wrong-key-1234567890" not in str(caught.value)
    assert emulator.ledger.calls[CALL] <= 3


def test_a_wrong_address_is_for_all_rows(start):
    _, emulator = start()
    client = OpenAIBatchClient(ClientConfig("my_conn", "sk-test", f"{emulator.url}/v9"))
    with pytest.raises(NotFoundError, match="Check its base URL"):
        ask(client, requests(50))
    client.close()


def test_a_server_that_is_not_there_gives_lines_that_may_go_again(start):
    start()
    client = OpenAIBatchClient(ClientConfig("my_conn", "sk-test", "http://127.0.0.1:9/v1"))
    asked = ask(client, requests(3))
    assert asked.statuses == {None: 3}
    line = asked.lines["r1"]
    assert line["error"]["code"] == "connection_error"
    assert "no answer from connection 'my_conn'" in line["error"]["message"]
    answer = read_line(line, None)
    assert (answer.status, answer.may_repeat) == ("failed", True)
    client.close()


def test_a_server_that_answers_nobody_ends_it(start):
    start()
    client = OpenAIBatchClient(ClientConfig("my_conn", "sk-test", "http://127.0.0.1:9/v1"))
    asked = Asked()
    with pytest.raises(UnreachableError, match="16 requests, one after the other"):
        client.ask(requests(1_000), asked, concurrency=4)
    assert direct.GIVE_UP <= len(asked.raw) < 30
    client.close()


# What may have been bought without an answer.


def test_an_answer_that_takes_too_long_is_asked_for_once_more_and_no_further(start):
    client, emulator = start(config={"answer_timeout": 0.3})
    emulator.add_fault(fault="latency", call=CALL, seconds=1, when="after", times=None)
    (line,) = ask(client, requests(1)).lines.values()
    assert (line["response"], line["error"]["code"]) == (None, "connection_error")
    assert "Timeout" in line["error"]["message"]
    assert emulator.ledger.calls[CALL] == direct.UNKNOWN_TRIES == 2


def test_a_late_answer_the_second_time_in_time_is_one_line(start):
    client, emulator = start(config={"answer_timeout": 0.3})
    emulator.add_fault(fault="latency", call=CALL, seconds=1, when="after")
    assert ask(client, requests(5), 2).statuses == {200: 5}
    assert emulator.ledger.rows_billed_twice == 1


@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_a_connection_that_breaks_is_asked_for_once_more_and_no_further(start, when):
    client, emulator = start()
    emulator.add_fault(fault="drop", call=CALL, when=when, times=1)
    assert ask(client, requests(3), 1).statuses == {200: 3}
    emulator.add_fault(fault="drop", call=CALL, when=when, times=None)
    assert ask(client, requests(1)).statuses == {None: 1}
    assert emulator.ledger.calls[CALL] == 3 + 1 + 2


# Stops.


def test_an_error_of_the_source_is_raised_after_what_it_gave_was_answered(start):
    client, emulator = start()
    emulator.add_fault(fault="latency", call=CALL, seconds=0.2, times=None)

    def lines():
        yield from requests(10)
        raise StoreError("gone")

    asked = Asked()
    with pytest.raises(StoreError, match="gone"):
        client.ask(lines(), asked, concurrency=8)
    assert len(asked.raw) == emulator.ledger.rows_billed == 10


def test_an_error_of_the_taker_is_raised_after_the_rest_was_offered(start):
    client, emulator = start()
    asked = Asked()

    def take(line):
        asked(line)
        if len(asked.raw) == 3:
            raise StoreError("full")

    with pytest.raises(StoreError, match="full"):
        client.ask(requests(100), take, concurrency=4)
    assert 3 <= len(asked.raw) == emulator.ledger.rows_billed <= 3 + 8


def test_a_signal_stops_at_once_and_loses_nothing_that_has_come_in(start):
    client, emulator = start()
    emulator.add_fault(fault="latency", call=CALL, seconds=30, skip=20, times=None)
    asked = Asked()
    main = threading.main_thread().ident

    def interrupt():
        give_up = time.monotonic() + 10
        while len(asked.raw) < 20 and time.monotonic() < give_up:
            time.sleep(0.02)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        client.ask(requests(100), asked, concurrency=4)
    assert time.monotonic() - begun < 10
    thread.join()
    assert len(asked.raw) == 20
    assert not [thread for thread in threading.enumerate() if thread.name == "openai-batch-direct"]


def test_answers_that_wait_when_a_signal_comes_are_taken(start):
    client, emulator = start()
    asked = Asked()

    def take(line):
        asked(line)
        if len(asked.raw) == 1:
            give_up = time.monotonic() + 10
            while emulator.ledger.rows_billed < 8 and time.monotonic() < give_up:
                time.sleep(0.02)
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        client.ask(requests(100), take, concurrency=4)
    assert len(asked.lines) == 8


# Headers.


@pytest.mark.parametrize(
    ("spell", "seconds"),
    [
        ("1s", 1),
        ("6m0s", 360),
        ("250ms", 0.25),
        ("1m30.5s", 90.5),
        ("1h2m3s", 3723),
        ("1d", 86_400),
        ("12", 12),
        ("0s", 0),
        ("", None),
        (None, None),
        ("soon", None),
        ("-1s", None),
        ("2026-01-01T00:00:00Z", None),
    ],
)
def test_times_of_headers_are_read(spell, seconds):
    assert seconds_of(spell) == seconds


def test_a_wait_is_read_in_each_of_its_forms():
    date = format_datetime(datetime.fromtimestamp(1_000_030, timezone.utc), usegmt=True)
    assert asked_to_wait({"retry-after": "7"}, 0) == 7
    assert asked_to_wait({"retry-after": "7", "retry-after-ms": "1500"}, 0) == 1.5
    assert asked_to_wait({"retry-after": date}, 1_000_000) == 30
    assert asked_to_wait({"retry-after": date}, 2_000_000) == 0
    assert asked_to_wait({"retry-after": "nonsense"}, 0) == 0
    assert asked_to_wait({"retry-after": "inf"}, 0) == 0
    assert asked_to_wait({"retry-after": date.replace("GMT", "-0000")}, 1_000_000) == 30
    assert asked_to_wait({"retry-after": f"Wed, 21 Oct {10**30} 07:28:00 GMT"}, 0) == 0
    assert asked_to_wait({}, 0) == 0


def test_the_longer_of_two_limits_counts():
    told = {
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-remaining-tokens": "900",
        "x-ratelimit-reset-tokens": "20s",
    }
    assert until_reset(told, 4, 100) == 1
    assert until_reset(told, 4, 1_000) == 20
    assert until_reset({}, 4, 1_000) == 0
