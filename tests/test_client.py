"""The client: errors that say what to check, one create, transfers that last."""

from __future__ import annotations

import gzip
import io
import json
import time

import openai
import pytest
from tenacity import RetryCallState

from airflow_openai_batch.client import (
    MAX_RETRY_AFTER,
    AsyncOpenAIBatchClient,
    ClientConfig,
    OpenAIBatchClient,
    synchronous,
    translate,
)
from airflow_openai_batch.client.transport import httpx
from airflow_openai_batch.emulator.server import running
from airflow_openai_batch.engine.models import Counts
from airflow_openai_batch.exceptions import (
    AuthenticationError,
    NotFoundError,
    QueueFullError,
    QuotaError,
    RateLimitError,
    RejectedError,
    UnreachableError,
)

CHAT = "/v1/chat/completions"
LINE = (
    b'{"custom_id":"r0","method":"POST","url":"/v1/chat/completions",'
    b'"body":{"model":"gpt-5-mini","messages":[{"role":"user","content":"hi"}]}}\n'
)


@pytest.fixture
def calls(emulator):
    """How often each kind of call was made since."""
    before = emulator.ledger.calls
    return lambda kind: emulator.ledger.calls.get(kind, 0) - before.get(kind, 0)


@pytest.fixture
def connect(emulator):
    """Make clients with settings of one's own."""
    made = []

    def connect(**settings):
        options = {"name": "my_conn", "api_key": "sk-test", "base_url": emulator.base_url, "max_retries": 0}
        made.append(OpenAIBatchClient(ClientConfig(**{**options, **settings})))
        return made[-1]

    yield connect
    for client in made:
        client.close()


def upload(client, content=LINE, name="in.jsonl"):
    return client.upload(name, lambda: io.BytesIO(content))


def create(client, **more):
    file = upload(client)
    return client.create_batch(
        input_file_id=file.id, endpoint=CHAT, completion_window="24h", metadata={"a": "b"}, **more
    )


def finish(client, batch):
    give_up = time.monotonic() + 10
    while not batch.ended:
        assert time.monotonic() < give_up
        time.sleep(0.02)
        batch = client.retrieve_batch(batch.id)
    return batch


def download(client, file_id):
    target = io.BytesIO()
    size = client.download(file_id, target)
    assert size == len(target.getvalue())
    return target.getvalue()


def test_a_batch_goes_through_its_life(client):
    batch = create(client)
    assert (batch.endpoint, batch.metadata, batch.output_file_id) == (CHAT, {"a": "b"}, None)
    batch = finish(client, batch)
    assert (batch.status, batch.counts) == ("completed", Counts(1, 1, 0))
    assert b'"hi"' in download(client, batch.output_file_id)
    assert next(iter(client.list_batches())).id == batch.id


def test_the_connection_test_names_the_server(client, emulator):
    assert client.check() == f"The Batch API answers at {emulator.base_url}/"


def test_a_wrong_key_names_the_connection_and_is_not_tried_again(connect, calls):
    client = connect(api_key="wrong-key-1234567890", max_retries=5)
    with pytest.raises(AuthenticationError, match=r"connection 'my_conn' .*Check its API key") as caught:
        create(client)
    assert (caught.value.status, caught.value.retryable) == (401, False)
    assert "wrong-key-1234567890" not in str(caught.value)
    assert calls("files.create") == 1


def test_a_wrong_path_in_the_base_url_says_to_check_it(connect, emulator):
    client = connect(base_url=f"{emulator.url}/v2", max_retries=5)
    with pytest.raises(NotFoundError, match=rf"'my_conn' \({emulator.url}/v2\): .*Check its base URL"):
        client.check()


def test_a_server_that_is_not_there_says_to_check_the_base_url(connect):
    client = connect(base_url="http://127.0.0.1:9/v1")
    with pytest.raises(UnreachableError, match=r"no answer from connection 'my_conn'.*Check its base URL and network"):
        client.check()


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, None, RejectedError),
        (400, "token_limit_exceeded", QueueFullError),
        (401, "invalid_api_key", AuthenticationError),
        (403, None, AuthenticationError),
        (404, None, NotFoundError),
        (408, None, UnreachableError),
        (409, None, UnreachableError),
        (413, None, RejectedError),
        (429, None, RateLimitError),
        (429, "insufficient_quota", QuotaError),
        (429, "credit_balance_exhausted", QuotaError),
        (429, "project_spend_limit_exceeded", QuotaError),
        (429, "organization_usage_limit_exceeded", QuotaError),
        (429, "slow_down", RateLimitError),
        (429, "token_limit_exceeded", QueueFullError),
        (500, None, UnreachableError),
        (503, None, UnreachableError),
    ],
)
def test_each_status_has_its_error(connect, emulator, status, code, kind):
    emulator.add_fault(fault="status", call="batches.retrieve", status=status, code=code, message="what happened")
    with pytest.raises(kind, match=r"Looking at batch batch_1: .*what happened") as caught:
        connect().retrieve_batch("batch_1")
    assert type(caught.value) is kind
    assert caught.value.status == status


@pytest.mark.parametrize("fault", [{"fault": "status", "status": 500}, {"fault": "drop"}, {"fault": "latency"}])
def test_a_create_is_sent_once_whatever_becomes_of_it(connect, emulator, calls, fault):
    client = connect(max_retries=5, create_timeout=0.3)
    emulator.add_fault(call="batches.create", times=3, **fault)
    with pytest.raises(UnreachableError):
        create(client)
    assert calls("batches.create") == 1


def test_other_calls_are_tried_again(connect, emulator, calls):
    emulator.add_fault(fault="status", call="batches.retrieve", status=500)
    client = connect(max_retries=1)
    batch = create(client)
    assert client.retrieve_batch(batch.id).id == batch.id
    assert calls("batches.retrieve") == 2


@pytest.mark.parametrize(
    "fault", [{"fault": "status", "status": 503}, {"fault": "cut_upload"}, {"fault": "drop", "when": "before"}]
)
def test_an_upload_is_tried_again_from_its_beginning(connect, emulator, fault):
    emulator.add_fault(call="files.create", **fault)
    assert upload(connect(max_retries=1)).bytes == len(LINE)


def test_an_upload_that_was_refused_is_not_tried_again(connect, calls):
    with pytest.raises(RejectedError, match=r"Must be \.jsonl"):
        upload(connect(max_retries=5), name="in.txt")
    assert calls("files.create") == 1


def test_an_upload_gives_up_after_its_retries(connect, emulator, calls):
    emulator.add_fault(fault="status", call="files.create", status=500, times=5)
    with pytest.raises(UnreachableError, match=r"Uploading in\.jsonl"):
        upload(connect(max_retries=1))
    assert calls("files.create") == 2


@pytest.mark.parametrize("after_bytes", [0, 1, 70_000])
def test_a_download_that_broke_goes_on_where_it_was(connect, emulator, calls, after_bytes):
    content = LINE * 2_000
    client = connect(max_retries=2)
    file = upload(client, content)
    emulator.add_fault(fault="cut_download", call="files.content", after_bytes=after_bytes, times=2)
    assert download(client, file.id) == content
    assert calls("files.content") == 3


def test_a_download_gives_up_after_its_retries(connect, emulator):
    client = connect()
    file = upload(client, LINE * 100)
    emulator.add_fault(fault="cut_download", call="files.content", after_bytes=100)
    with pytest.raises(UnreachableError, match=f"Downloading file {file.id}"):
        download(client, file.id)


@pytest.fixture
def serving(connect):
    """A client whose server gives a file by ``serve(request)``: a status, headers and pieces. Its ranges are noted."""

    def serving(serve, **settings):
        asked = []

        def handle(request):
            asked.append(request.headers.get("range"))
            status, headers, pieces = serve(request)
            return httpx.Response(status, content=iter(pieces), headers=headers)

        http = openai.DefaultHttpxClient(transport=httpx.MockTransport(handle))
        return connect(options={"http_client": http}, **settings), asked

    return serving


def broken(*pieces):
    yield from pieces
    raise httpx.ReadError("cut")


@pytest.fixture
def pauses(monkeypatch):
    """The pauses between tries, none of which is made."""
    made = []
    monkeypatch.setattr("tenacity.nap.time.sleep", made.append)
    return made


def test_a_download_that_breaks_again_and_again_is_done_as_long_as_each_piece_brings_some(serving, pauses):
    content = LINE * 1_000

    def serve(request):
        begin = range_of(request)
        piece = content[begin : begin + 5_000]
        whole = begin + len(piece) == len(content)
        return 206 if begin else 200, {}, [piece] if whole else broken(piece)

    client, asked = serving(serve, max_retries=1)
    assert download(client, "f") == content
    assert asked[:3] == [None, "bytes=5000-", "bytes=10000-"]
    assert len(asked) == -(-len(content) // 5_000)
    assert max(pauses) <= 1


def test_a_download_that_gets_no_further_is_given_up(serving, pauses):
    client, asked = serving(lambda _: (200, {}, broken(LINE)), max_retries=3)
    with pytest.raises(UnreachableError, match="Downloading file f"):
        download(client, "f")
    assert len(asked) == 4
    assert len(pauses) == 3


@pytest.mark.parametrize("encoding", ["gzip", "GZIP"])
def test_the_length_of_a_compressed_download_is_not_the_files(serving, encoding):
    content, packed = LINE * 1_000, gzip.compress(LINE * 1_000)
    headers = {"content-encoding": encoding, "content-length": str(len(packed))}
    client, asked = serving(lambda _: (200, headers, [packed]))
    assert (download(client, "f"), len(asked)) == (content, 1)


def test_a_length_that_does_not_arrive_is_still_seen_where_nothing_is_compressed(serving):
    headers = {"content-encoding": "identity", "content-length": str(len(LINE) + 1)}
    client, _ = serving(lambda _: (200, headers, [LINE]))
    with pytest.raises(UnreachableError, match="bytes arrived"):
        download(client, "f")


def range_of(request):
    return int((request.headers.get("range") or "bytes=0-")[6:-1])


@pytest.mark.parametrize("ranged", [206, 416])
def test_a_compressed_download_that_broke_begins_anew(serving, pauses, ranged):
    content, packed = LINE * 1_000, gzip.compress(LINE * 1_000, 0)
    encoded = {"content-encoding": "gzip"}

    def serve(request):
        if begin := range_of(request):
            return ranged, encoded, [packed[begin:]]
        return 200, encoded, broken(packed[:5_000]) if len(asked) == 1 else [packed]

    client, asked = serving(serve, max_retries=1)
    assert download(client, "f") == content
    assert asked == [None, None]
    assert len(pauses) == 1


@pytest.mark.parametrize("headers", [{"content-range": "bytes 0-137999/138000"}, {"content-encoding": "gzip"}])
def test_a_part_that_does_not_go_on_where_it_should_is_not_appended(serving, pauses, headers):
    content = LINE * 1_000

    def serve(request):
        if range_of(request):
            return 206, headers, [content]
        return 200, {}, broken(content[:5_000]) if len(asked) == 1 else [content]

    client, asked = serving(serve, max_retries=2)
    assert download(client, "f") == content
    assert asked == [None, "bytes=5000-", None]
    assert len(pauses) == 2


def test_a_file_is_not_whole_because_nothing_is_there_after_it_when_its_size_is_another(serving, pauses):
    def serve(request):
        if range_of(request):
            return 416, {"content-range": "bytes */9"}, []
        return 200, {}, broken(LINE)

    client, _ = serving(serve, max_retries=1)
    with pytest.raises(UnreachableError, match=rf"has 9 bytes, {len(LINE)} arrived"):
        download(client, "f")
    assert len(pauses) == 1


def test_a_file_that_is_not_there_is_not_found(connect, calls):
    with pytest.raises(NotFoundError, match="Downloading file file-none"):
        download(connect(max_retries=5), "file-none")
    assert calls("files.content") == 1


def test_files_are_found_by_their_name(client):
    name = "found-by-name.jsonl"
    assert client.files_named(name, since=0) == []
    first, second = (upload(client, name=name) for _ in range(2))
    upload(client, name="another.jsonl")
    assert {file.id for file in client.files_named(name, since=0)} == {first.id, second.id}
    assert client.files_named(name, since=second.created_at + 1) == []


def test_deleting_a_file_twice_is_no_error(client):
    file = upload(client)
    client.delete_file(file.id)
    client.delete_file(file.id)
    with pytest.raises(NotFoundError):
        download(client, file.id)


def test_cancelling_a_batch_that_has_ended_returns_it(client):
    batch = finish(client, create(client))
    assert client.cancel_batch(batch.id).status == "completed"


def test_a_refused_cancellation_is_not_asked_for_again(connect, calls):
    client = connect(max_retries=5)
    batch = finish(client, create(client))
    begun = time.monotonic()
    assert client.cancel_batch(batch.id).status == "completed"
    assert calls("batches.cancel") == 1
    assert time.monotonic() - begun < 2


def test_a_cancellation_that_met_a_server_error_is_asked_for_again(connect, emulator, calls):
    client = connect(max_retries=1)
    batch = create(client)
    emulator.add_fault(fault="status", call="batches.cancel", status=500)
    assert client.cancel_batch(batch.id).status in {"cancelling", "cancelled", "completed"}
    assert calls("batches.cancel") == 2


def test_batches_are_listed_page_by_page_as_they_are_asked_for():
    with running(in_progress=60) as emulator:
        client = OpenAIBatchClient(ClientConfig("c", "sk-test", emulator.base_url, max_retries=0))
        file = upload(client)
        made = []
        for number in range(101):
            emulator.add_fault(fault="clock_skew", seconds=number)
            sent = {"endpoint": CHAT, "completion_window": "24h", "metadata": {}}
            made.append(client.create_batch(input_file_id=file.id, **sent).id)
        listing = client.list_batches()
        assert next(listing).id == made[-1]
        assert emulator.ledger.calls["batches.list"] == 1
        assert [batch.id for batch in listing] == made[-2::-1]
        assert emulator.ledger.calls["batches.list"] == 2
        client.close()


def test_the_key_never_shows_in_a_repr():
    config = ClientConfig("c", "sk-secret", options={"default_headers": {"x": "sk-secret"}})
    assert "sk-secret" not in repr(config)


def test_options_are_the_sdks_own(connect):
    client = connect(organization="org", project="proj", options={"default_headers": {"x-mine": "1"}})
    assert isinstance(client.sdk, openai.OpenAI)
    assert (client.sdk.organization, client.sdk.project) == ("org", "proj")
    assert client.sdk.default_headers["x-mine"] == "1"


async def test_the_async_client_looks_lists_and_cancels(emulator, client):
    made = create(client)
    asynchronous = AsyncOpenAIBatchClient(ClientConfig("c", "sk-test", emulator.base_url))
    assert (await asynchronous.retrieve_batch(made.id)).id == made.id
    assert made.id in [batch.id async for batch in asynchronous.list_batches()]
    assert (await asynchronous.cancel_batch(made.id)).status in {"cancelling", "cancelled"}
    await asynchronous.close()


async def test_the_async_client_never_tries_again_by_itself(emulator, calls):
    emulator.add_fault(fault="status", call="batches.retrieve", status=500, times=3)
    asynchronous = AsyncOpenAIBatchClient(ClientConfig("c", "sk-test", emulator.base_url, max_retries=5))
    with pytest.raises(UnreachableError):
        await asynchronous.retrieve_batch("batch_1")
    await asynchronous.close()
    assert calls("batches.retrieve") == 1


def test_an_upload_waits_as_long_as_openai_asks(client, emulator):
    emulator.add_fault(fault="status", call="files.create", status=429, retry_after=1)
    begun = time.monotonic()
    client.upload("a.jsonl", lambda: io.BytesIO(b'{"custom_id": "a"}\n'))
    assert time.monotonic() - begun >= 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3_600),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("1800", 1_800),
        ("99999999999", 3_600),
        (f"Wed, 21 Oct {10**30} 07:28:00 GMT", 0),
        ("soon", 0),
        ("nan", 0),
        (None, 0),
    ],
)
def test_an_error_says_how_long_openai_wants_to_be_left_alone(header, seconds):
    headers = {} if header is None else {"retry-after": header}
    response = httpx.Response(429, headers=headers, request=httpx.Request("POST", "http://server.example/v1"))
    error = openai.RateLimitError("no", response=response, body=None)
    assert translate(error, ClientConfig("c", "sk-test"), "Asking").retry_after == seconds


def test_a_worker_slot_is_not_held_for_as_long_as_a_server_asks():
    state = RetryCallState(None, None, (), {})
    error = RateLimitError("no", retry_after=3_600)
    state.set_exception((type(error), error, None))
    assert synchronous._asked_or_random(state) == MAX_RETRY_AFTER


# Servers that answer in other ways than OpenAI.


@pytest.fixture
def answering(connect):
    """A client whose server gives these answers: ``(status, body)`` each, by turns. What it was asked is noted."""

    def answering(*answers, **settings):
        waiting, asked = list(answers), []

        def handle(request):
            asked.append((request.method, request.url.path, dict(request.url.params)))
            status, body = waiting.pop(0)
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            return httpx.Response(status, content=content, headers={"content-type": "application/json"})

        http = openai.DefaultHttpxClient(transport=httpx.MockTransport(handle))
        client = connect(base_url="http://server.example/v1", options={"http_client": http}, **settings)
        return client, asked

    return answering


FULL = {"code": "token_limit_exceeded", "message": "enqueued tokens has surpassed", "line": None, "param": None}
LITELLM = "Error code: 400 - {'error': {'message': 'x', 'code': 'token_limit_exceeded'}}"


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (400, {"errors": {"data": [FULL], "object": "list"}}, QueueFullError, "token_limit_exceeded"),
        (200, {"errors": {"data": [FULL], "object": "list"}}, QueueFullError, "token_limit_exceeded"),
        (400, {"error": {"message": LITELLM, "code": "400"}}, QueueFullError, "token_limit_exceeded"),
        (429, {"error": {"message": "Enqueued token limit reached for x"}}, QueueFullError, "token_limit_exceeded"),
        (
            429,
            {"error": {"message": "Enqueued token limit", "code": "rate_limit_exceeded"}},
            QueueFullError,
            FULL["code"],
        ),
        (
            429,
            {"error": {"message": "slow down", "code": "rate_limit_exceeded"}},
            RateLimitError,
            "rate_limit_exceeded",
        ),
        (200, {"errors": {"data": [{"code": "quota", "message": "no"}]}}, RejectedError, "quota"),
        (200, {"errors": {"data": [{"code": "insufficient_quota"}]}}, QuotaError, "insufficient_quota"),
        (400, {"errors": {"data": [{"code": "invalid", "message": "no"}]}}, RejectedError, "invalid"),
        (400, {"error": {"message": "Error code: 400 - insufficient_quota", "code": 400}}, QuotaError, None),
        (404, {"error": {"code": "404", "message": "Resource not found"}}, NotFoundError, "404"),
        (404, {"detail": "Not Found"}, NotFoundError, None),
        (401, {"statusCode": 401, "message": "Unauthorized"}, AuthenticationError, None),
        (407, {}, AuthenticationError, None),
        (200, {"errors": {"data": []}}, UnreachableError, None),
        (200, {}, UnreachableError, None),
        (200, {"status": "ok"}, UnreachableError, None),
        (200, b"<html>maintenance</html>", UnreachableError, None),
        (200, b"", UnreachableError, None),
    ],
)
def test_a_creation_is_refused_in_many_ways_and_unknown_where_the_answer_is_no_batch(
    answering, status, body, kind, code
):
    client, asked = answering((status, body), max_retries=5)
    with pytest.raises(kind, match="Creating a batch") as caught:
        client.create_batch(input_file_id="f", endpoint=CHAT, completion_window="24h", metadata={})
    assert type(caught.value) is kind
    assert caught.value.code == (code or caught.value.code)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("message", "given", "kind"),
    [
        ("No such File object: file-9", {"input_file_id": "file-9"}, RejectedError),
        ("no such file", {"input_file_id": "file-9"}, RejectedError),
        ("file-9 was not found", {"input_file_id": "file-9"}, RejectedError),
        ("Not Found", {"input_file_id": "file-9"}, NotFoundError),
        ("No such File object: file-9", {"input_file_content": "{}"}, NotFoundError),
    ],
)
def test_a_creation_that_does_not_find_its_file_says_so_as_openai_does(answering, message, given, kind):
    client, _ = answering((404, {"error": {"message": message}}))
    with pytest.raises(kind) as caught:
        client.create_batch(**given, endpoint=CHAT, completion_window="24h", metadata={})
    assert (type(caught.value), caught.value.status) == (kind, 404)
    assert ("cannot find file file-9" in str(caught.value).lower()) is (kind is RejectedError)


def test_a_wrapped_creation_is_a_batch(answering):
    client, _ = answering((201, {"job": {"id": "b", "status": "VALIDATING"}, "warning": None}))
    batch = client.create_batch(input_file_id="f", endpoint=CHAT, completion_window="7d", metadata={})
    assert (batch.id, batch.status) == ("b", "validating")


def test_requests_may_be_sent_with_a_creation(connect, answering):
    client, asked = answering((200, {"id": "b", "status": "validating", "input_file_id": None}))
    batch = client.create_batch(input_file_content="{}\n", endpoint=CHAT, completion_window="7d", metadata={"a": "b"})
    assert (batch.id, batch.input_file_id, len(asked)) == ("b", None, 1)
    with running(oddity=["inline_create"], validating=0.0, in_progress=0.0, finalizing=0.0) as emulator:
        client = connect(base_url=emulator.base_url)
        sent = {"endpoint": CHAT, "completion_window": "24h", "metadata": {"a": "b"}}
        batch = finish(client, client.create_batch(input_file_content=LINE.decode(), **sent))
        assert (batch.status, batch.input_file_id, batch.metadata) == ("completed", None, {"a": "b"})


def test_an_upload_waits_until_the_file_is_processed(answering):
    pending, done = ({"id": "f", "filename": "in.jsonl", "bytes": 5, "status": s} for s in ("pending", "processed"))
    client, asked = answering((200, pending), (200, pending), (200, done))
    assert upload(client).id == "f"
    assert [path for _, path, _ in asked] == ["/v1/files", "/v1/files/f", "/v1/files/f"]


def test_a_file_that_can_not_be_processed_is_refused(answering):
    client, _ = answering((200, {"id": "f", "status": "pending"}), (200, {"id": "f", "status": "error"}))
    with pytest.raises(RejectedError, match=r"Waiting for file f: connection 'my_conn' .* its status is error"):
        upload(client)


def test_a_file_that_stays_pending_is_given_up(answering):
    client, _ = answering((200, {"id": "f", "status": "pending"}), transfer_timeout=-1.0)
    with pytest.raises(UnreachableError, match="still has it as pending"):
        upload(client)


def test_a_cancellation_may_be_answered_with_anything(answering):
    client, asked = answering((200, {"ok": True}), (200, {"id": "b", "status": "CANCELLING"}))
    assert client.cancel_batch("b").status == "cancelling"
    assert [path for _, path, _ in asked] == ["/v1/batches/b/cancel", "/v1/batches/b"]


def looking_at(*answers):
    waiting = list(answers)

    def handle(_request):
        status, body = waiting.pop(0)
        return httpx.Response(status, json=body)

    http = openai.DefaultAsyncHttpxClient(transport=httpx.MockTransport(handle))
    return AsyncOpenAIBatchClient(ClientConfig("c", "sk-test", "http://server/v1", options={"http_client": http}))


@pytest.mark.parametrize("status", [400, 403, 404, 409, 422])
@pytest.mark.parametrize("state", ["completed", "expired", "cancelling"])
async def test_a_cancellation_refused_with_any_4xx_returns_the_batch_that_has_ended(answering, status, state):
    refused = status, {"error": {"message": f"Cannot cancel a batch with status '{state}'."}}
    answers = refused, (200, {"id": "b", "status": state})
    client, asked = answering(*answers, max_retries=5)
    assert (client.cancel_batch("b").status, len(asked)) == (state, 2)
    assert (await looking_at(*answers).cancel_batch("b")).status == state


@pytest.mark.parametrize("then", [(200, {"id": "b", "status": "in_progress"}), (404, {"detail": "no"})])
async def test_a_cancellation_refused_for_a_batch_that_runs_on_or_is_not_seen_stays_refused(answering, then):
    refused = 400, {"error": {"message": "not today"}}
    client, _ = answering(refused, then)
    with pytest.raises(RejectedError, match=r"Cancelling batch b: .*not today"):
        client.cancel_batch("b")
    with pytest.raises(RejectedError, match=r"Cancelling batch b: .*not today"):
        await looking_at(refused, then).cancel_batch("b")


def test_a_list_that_is_oldest_first_is_turned_round_whole(answering):
    pages = [
        {"data": [{"id": "1", "created_at": 1}, {"id": "2", "created_at": 2}], "has_more": True},
        {"data": [{"id": "3", "created_at": 3}], "has_more": False},
    ]
    client, asked = answering(*((200, page) for page in pages))
    assert [batch.id for batch in client.list_batches()] == ["3", "2", "1"]
    assert [query.get("after") for _, _, query in asked] == [None, "2"]


def page(*batches, more):
    return 200, {"data": [{"id": key, "created_at": at} for key, at in batches], "has_more": more}


@pytest.mark.parametrize(
    ("pages", "ids"),
    [
        ([page(("1", 5), ("2", 5), more=True), page(("3", 5), ("4", 9), more=False)], ["4", "1", "2", "3"]),
        ([page(("4", 9), ("3", 9), more=True), page(("2", 9), ("1", 5), more=False)], ["4", "3", "2", "1"]),
        ([page(("1", 5), more=True), page(("2", 5), more=False)], ["1", "2"]),
    ],
)
def test_a_page_of_equal_times_tells_no_order_so_the_list_is_read_on(answering, pages, ids):
    client, _ = answering(*pages)
    assert [batch.id for batch in client.list_batches()] == ids


def test_batches_of_an_unknown_time_come_before_the_old_ones_of_a_list_that_is_turned_round(answering):
    client, _ = answering(page(("1", 1), ("2", None), ("3", 3), more=False))
    assert [batch.id for batch in client.list_batches()] == ["2", "3", "1"]


@pytest.mark.parametrize("odd", [None, {"status": "completed"}])
async def test_an_entry_that_is_no_batch_is_left_out_of_a_look_and_hides_nothing_from_a_search(answering, odd):
    listed = {"data": [{"id": "2", "created_at": 2}, odd, {"id": "1", "created_at": 1}], "has_more": False}
    client, _ = answering((200, listed))
    listing = client.list_batches()
    assert next(listing).id == "2"
    with pytest.raises(UnreachableError, match=r"Listing batches: .* something else than the Batch API"):
        next(listing)
    looking = looking_at((200, listed))
    assert [batch.id async for batch in looking.list_batches()] == ["2", "1"]
    await looking.close()


def test_an_entry_that_is_no_batch_comes_first_of_a_list_that_tells_no_order(answering):
    client, _ = answering((200, {"data": [{"id": "1", "created_at": 1}, None], "has_more": False}))
    with pytest.raises(UnreachableError, match="Listing batches"):
        next(client.list_batches())


def test_files_that_can_not_be_listed_are_not_found_by_name(answering):
    for status in (404, 405):
        client, _ = answering((status, {"detail": "no"}))
        assert client.files_named("in.jsonl", since=0) == []


def test_a_file_is_found_by_its_id_or_not_there(client):
    file = upload(client)
    assert client.find_file(file.id) == file
    assert client.find_file("file-none") is None


def test_azure_says_nothing_of_when_a_batch_ends(answering):
    body = {"id": "b", "status": "Validating", "expires_at": 5}
    for azure, expires_at in ((None, 5.0), ("v1", None)):
        client, _ = answering((200, body), azure=azure)
        assert client.retrieve_batch("b").expires_at == expires_at
