"""The hook: connection -> client, and the Batch API by hand."""

from __future__ import annotations

import logging
import time

import pytest

from airflow_openai_batch.emulator.server import running
from airflow_openai_batch.exceptions import (
    AuthenticationError,
    ConfigurationError,
    NotFoundError,
    OpenAIBatchError,
    RejectedError,
    UnreachableError,
)
from airflow_openai_batch.hooks.openai_batch import OpenAIBatchHook

KEY = "sk-very-secret"
LINE = (
    b'{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions",'
    b' "body": {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "hi"}]}}\n'
)


@pytest.fixture
def hook(connect, emulator):
    connect(emulator, password=KEY, extra={"max_retries": 0})
    hook = OpenAIBatchHook()
    yield hook
    hook.close()


def config(connect, **fields):
    connect(**{"password": KEY, **fields})
    hook = OpenAIBatchHook()
    found = hook.client.config
    hook.close()
    return found


@pytest.mark.parametrize("conn_type", ["openai_batch", "openai"])
def test_connections_of_both_types_serve(connect, emulator, conn_type):
    connect(emulator, conn_type=conn_type)
    assert OpenAIBatchHook().test_connection() == (True, f"The Batch API answers at {emulator.base_url}/")


def test_without_a_host_it_is_openai_itself(connect):
    found = config(connect)
    assert (found.base_url, found.timeout, found.max_retries) == (None, 60.0, 5)


@pytest.mark.parametrize(
    ("fields", "base_url"),
    [
        ({"host": "https://gateway.example/v1"}, "https://gateway.example/v1"),
        ({"host": "gateway.example"}, "https://gateway.example"),
        ({"host": "gateway.example", "port": 8443, "schema": "http"}, "http://gateway.example:8443"),
        ({"extra": {"openai_client_kwargs": {"base_url": "https://other.example/v1"}}}, "https://other.example/v1"),
    ],
)
def test_the_host_is_the_base_url(connect, fields, base_url):
    assert config(connect, **fields).base_url == base_url


def test_extras_are_the_clients_arguments(connect):
    extra = {"organization": "org-1", "project": "proj_1", "timeout": "7.5", "max_retries": 2}
    extra["openai_client_kwargs"] = {"default_headers": {"X-Team": "lake"}, "timeout": 8}
    connect(password=KEY, extra=extra)
    hook = OpenAIBatchHook()
    found = hook.client.config
    assert (found.organization, found.project, found.timeout, found.max_retries) == ("org-1", "proj_1", 8.0, 2)
    assert hook.client.sdk.default_headers["X-Team"] == "lake"
    hook.close()


def test_the_key_may_be_in_the_clients_arguments(connect):
    assert config(connect, password="", extra={"openai_client_kwargs": {"api_key": KEY}}).api_key == KEY


def test_a_connection_without_a_key_says_where_it_goes(connect):
    connect(password="", host="http://127.0.0.1:1/v1")
    with pytest.raises(AuthenticationError, match="'openai_default' has no API key: it goes into the password field"):
        _ = OpenAIBatchHook().client
    assert OpenAIBatchHook().test_connection()[0] is False


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"extra": {"timeout": "soon"}}, "extra 'timeout' must be a number from 0, not 'soon'"),
        ({"extra": {"max_retries": -1}}, "extra 'max_retries' must be a number from 0"),
        ({"extra": {"openai_client_kwargs": "api_key=sk-x"}}, "extra 'openai_client_kwargs' must be an object"),
        (
            {"extra": {"openai_client_kwargs": {"colour": "red"}}},
            "colour.* Check its base URL and openai_client_kwargs",
        ),
        ({"host": "http://127.0.0.1:port/v1"}, "Invalid port.* Check its base URL"),
    ],
)
async def test_bad_fields_are_named(connect, fields, message):
    connect(**fields)
    with pytest.raises(ConfigurationError, match=f"Connection 'openai_default': .*{message}"):
        _ = OpenAIBatchHook().client
    with pytest.raises(ConfigurationError, match=message):
        await OpenAIBatchHook().aget_client()
    ok, said = OpenAIBatchHook().test_connection()
    assert ok is False
    assert "sk-x" not in said


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"password": "wrong-key"}, "Check its API key"),
        ({"host": "{url}/nowhere"}, "Check its base URL"),
        ({"host": "http://127.0.0.1:1/v1"}, "Check its base URL and network"),
        ({"host": "127.0.0.1:1"}, "Check its base URL"),
    ],
)
def test_the_test_button_says_what_to_check(connect, emulator, fields, says):
    host = fields.get("host", emulator.base_url).format(url=emulator.url)
    connect(**{**fields, "host": host})
    ok, said = OpenAIBatchHook().test_connection()
    assert ok is False
    assert "connection 'openai_default'" in said
    assert says in said
    assert "wrong-key" not in said


def test_the_whole_api_is_there_by_hand(hook, tmp_path):
    path = tmp_path / "requests.jsonl"
    path.write_bytes(LINE)
    file = hook.upload_file(path)
    assert (file.name, file.bytes) == ("requests.jsonl", len(LINE))
    assert hook.upload_file(LINE, name="bytes.jsonl").name == "bytes.jsonl"
    batch = hook.create_batch(file.id, endpoint="/v1/chat/completions", metadata={"team": "lake"})
    while not batch.ended:
        time.sleep(0.02)
        batch = hook.retrieve_batch(batch.id)
    assert (batch.status, batch.metadata, batch.counts.completed) == ("completed", {"team": "lake"}, 1)
    assert next(iter(hook.list_batches())).id == batch.id
    assert hook.cancel_batch(batch.id).status == "completed"
    target = tmp_path / "out.jsonl"
    assert hook.download_file(batch.output_file_id, target) == target.stat().st_size > 0
    hook.delete_file(batch.output_file_id)
    hook.delete_file(batch.output_file_id)
    with pytest.raises(NotFoundError):
        hook.download_file(batch.output_file_id, tmp_path / "gone.jsonl")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out.jsonl", "requests.jsonl"]


async def test_a_batch_is_made_by_hand_of_a_file_or_of_its_content_and_not_of_both(connect):
    with running(oddity=["inline_create"], validating=0.0, in_progress=0.0, finalizing=0.0) as emulator:
        connect(emulator)
        hook = OpenAIBatchHook()
        batch = hook.create_batch(input_file_content=LINE.decode(), endpoint="/v1/chat/completions")
        assert batch.input_file_id is None
        batch = await hook.acreate_batch(input_file_content=LINE.decode(), endpoint="/v1/chat/completions")
        assert len(emulator.ledger.batches) == 2
        for given in ({}, {"input_file_id": "file-1", "input_file_content": "{}"}):
            with pytest.raises(ConfigurationError, match="give either input_file_id or input_file_content"):
                hook.create_batch(endpoint="/v1/chat/completions", **given)
        hook.close()


async def test_all_of_it_is_there_for_code_on_an_event_loop(hook, tmp_path):
    file = await hook.aupload_file(LINE)
    batch = await hook.acreate_batch(file.id, endpoint="/v1/chat/completions")
    while not batch.ended:
        batch = await hook.aretrieve_batch(batch.id)
    assert [found.id for found in await hook.alist_batches(limit=1)] == [batch.id]
    assert (await hook.acancel_batch(batch.id)).status == "completed"
    assert await hook.adownload_file(batch.output_file_id, tmp_path / "out.jsonl") > 0
    await hook.adelete_file(file.id)
    client = await hook.aget_client()
    assert (await client.retrieve_batch(batch.id)).status == "completed"
    await client.close()


def test_list_goes_through_the_pages_as_it_is_asked_for(hook, emulator):
    file = hook.upload_file(LINE)
    made = [hook.create_batch(file.id, endpoint="/v1/chat/completions").id for _ in range(101)]
    before = emulator.ledger.calls.get("batches.list", 0)
    listed = hook.list_batches()
    assert [next(listed).id for _ in range(101)] == made[::-1]
    assert emulator.ledger.calls["batches.list"] - before == 2


def test_creating_a_batch_is_never_repeated(connect, emulator):
    connect(emulator, extra={"max_retries": 5})
    hook = OpenAIBatchHook()
    file = hook.upload_file(LINE)
    before = emulator.ledger.calls.get("batches.create", 0)
    emulator.add_fault("drop,call=batches.create")
    with pytest.raises(UnreachableError, match="Creating a batch"):
        hook.create_batch(file.id, endpoint="/v1/chat/completions")
    assert emulator.ledger.calls["batches.create"] - before == 1
    hook.close()


def test_the_key_shows_nowhere(hook, emulator, caplog, tmp_path):
    caplog.set_level(logging.DEBUG)
    shown = [repr(hook), str(hook.__dict__), repr(hook.client), repr(hook.client.config), repr(vars(hook.client))]
    emulator.add_fault("status,status=401,call=batches.retrieve,message=Incorrect API key provided: sk-v***cret.")
    with pytest.raises(OpenAIBatchError) as refused:
        hook.retrieve_batch("batch_1")
    with pytest.raises(RejectedError) as rejected:
        hook.create_batch("file-unknown", endpoint="/v1/chat/completions")
    shown += [str(refused.value), repr(refused.value), str(rejected.value), caplog.text]
    assert not [text for text in shown if KEY in text]


def test_a_closed_hook_can_be_used_again(hook):
    first = hook.get_conn()
    hook.close()
    hook.close()
    assert first.sdk.is_closed()
    assert hook.test_connection()[0] is True
