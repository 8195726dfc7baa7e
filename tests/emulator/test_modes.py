"""Modes: Azure's paths, keys and answers, a gateway's, and each oddity by itself. And whose a batch is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from openai import AsyncAzureOpenAI, AzureOpenAI, BadRequestError, NotFoundError, OpenAI

from airflow_openai_batch.emulator import oddities
from airflow_openai_batch.emulator.__main__ import main
from airflow_openai_batch.emulator.server import running
from airflow_openai_batch.emulator.settings import Settings

CHAT = "/v1/chat/completions"
PLAIN = "/chat/completions"
KEY = "0123456789abcdef0123456789abcdef"
VERSION = "2024-10-21"
QUICK = {"validating": 0.01, "in_progress": 0.03, "finalizing": 0.01, "cancelling": 0.02, "file_processing": 0.0}
ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}\+00:00")


def line(custom_id, url=CHAT, text=None):
    body = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": text or custom_id}]}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def jsonl(*lines):
    return "".join(json.dumps(item) + "\n" for item in lines).encode()


class Caller:
    """Bare HTTP to an emulator."""

    def __init__(self, emulator, prefix, headers, params=None):
        self.emulator, self.prefix = emulator, prefix
        self.http = httpx.Client(base_url=emulator.url, headers=headers, params=params, trust_env=False)

    def __call__(self, method, path, **options):
        return self.http.request(method, f"{self.prefix}{path}", **options)

    def upload(self, *lines):
        answer = self("POST", "/files", files={"file": ("in.jsonl", jsonl(*lines))}, data={"purpose": "batch"})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def create(self, file_id, endpoint=CHAT, **fields):
        asked = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h", **fields}
        return self("POST", "/batches", json=asked)

    def create_inline(self, content, **fields):
        asked = {"input_file_content": content, "endpoint": CHAT, "completion_window": "24h", **fields}
        return self("POST", "/batches", json=asked)

    def ended(self, batch_id):
        give_up = time.monotonic() + 10
        while (batch := self("GET", f"/batches/{batch_id}").json())["status"].lower() not in {"completed", "failed"}:
            assert time.monotonic() < give_up, batch
            time.sleep(0.01)
        return batch

    def content(self, file_id):
        return self("GET", f"/files/{file_id}/content").content


@pytest.fixture
def serve():
    """Start an emulator, and call it."""
    started = []

    def serve(*, headers=None, params=None, prefix=None, **options):
        context = running(**{**QUICK, **options})
        emulator = context.__enter__()
        azure = options.get("mode") == "azure"
        headers = headers or ({"api-key": KEY} if azure else {"Authorization": "Bearer sk-test"})
        caller = Caller(emulator, prefix or ("/openai/v1" if azure else "/v1"), headers, params)
        started.append((context, caller))
        return caller

    yield serve
    for context, caller in started:
        caller.http.close()
        context.__exit__(None, None, None)


# Azure.


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/openai/v1/batches", 200),
        ("/openai/v1/batches?api-version=preview", 200),
        (f"/openai/v1/batches?api-version={VERSION}", 400),
        (f"/openai/batches?api-version={VERSION}", 200),
        ("/openai/batches?api-version=2025-04-01-preview", 200),
        ("/openai/batches", 404),
        ("/openai/batches?api-version=latest", 404),
        (f"/openai/deployments/mini/batches?api-version={VERSION}", 404),
        (f"/openai/deployments/mini/files?api-version={VERSION}", 404),
        ("/v1/batches", 404),
        ("/batches", 404),
        ("/emulator/health", 200),
    ],
)
def test_azure_has_two_styles_of_paths_and_no_other(serve, path, status):
    answer = serve(mode="azure", prefix="/")("GET", path[1:])
    assert answer.status_code == status
    if status == 404:
        assert answer.json() == {"error": {"code": "404", "message": "Resource not found"}}


@pytest.mark.parametrize(
    ("headers", "options", "status"),
    [
        ({"api-key": KEY}, {}, 200),
        ({"api-key": "short"}, {}, 401),
        ({"api-key": "sk-an-openai-key-of-enough-characters-0"}, {}, 401),
        ({"Authorization": f"Bearer {KEY}"}, {}, 401),
        ({"Authorization": "Bearer eyJ.a.b"}, {}, 200),
        ({"Authorization": "Basic eyJ.a.b"}, {}, 401),
        ({"X": "y"}, {}, 401),
        ({"api-key": "mine"}, {"key": "mine"}, 200),
        ({"api-key": KEY}, {"key": "mine"}, 401),
        ({"Authorization": "Bearer tok"}, {"token": ["tok"]}, 200),
        ({"Authorization": "Bearer eyJ.a.b"}, {"token": ["tok"]}, 401),
    ],
)
def test_azure_takes_a_key_in_its_own_header_or_an_entra_token(serve, headers, options, status):
    answer = serve(mode="azure", headers=headers, **options)("GET", "/batches")
    assert answer.status_code == status
    if status == 401:
        assert answer.json()["error"]["code"] == "401"
        assert KEY not in answer.text


def test_a_batch_at_azure_looks_as_in_its_guide(serve):
    azure = serve(mode="azure", in_progress=0.3)
    file = azure.upload(line("a"), line("b"))
    made = azure.create(file["id"], metadata={"job": "j"})
    assert made.status_code == 200
    batch = made.json()
    assert (batch["status"], batch["endpoint"], batch["metadata"]) == ("Validating", None, {"job": "j"})
    assert (batch["output_file_id"], batch["error_file_id"]) == ("", "")
    assert batch["request_counts"] == {"total": None, "completed": None, "failed": None}
    assert ISO.fullmatch(batch["created_at"])
    assert ISO.fullmatch(batch["expires_at"])
    assert batch["completed_at"] is None
    batch = azure.ended(batch["id"])
    assert batch["status"] == "Completed"
    assert batch["request_counts"] == {"total": 2, "completed": 2, "failed": None}
    assert azure.content(batch["error_file_id"]) == b""
    lines = [json.loads(text) for text in azure.content(batch["output_file_id"]).splitlines()]
    assert {tuple(item) for item in lines} == {("custom_id", "response", "error")}


@pytest.mark.parametrize("endpoint", [CHAT, PLAIN])
def test_lines_and_batch_must_name_the_endpoint_alike(serve, endpoint):
    azure = serve(mode="azure")
    good = azure.create(azure.upload(line("a", endpoint))["id"], endpoint).json()
    assert azure.ended(good["id"])["status"] == "Completed"
    other = PLAIN if endpoint == CHAT else CHAT
    bad = azure.ended(azure.create(azure.upload(line("a", endpoint))["id"], other).json()["id"])
    assert (bad["status"], bad["errors"]["data"][0]["code"]) == ("Failed", "url_mismatch")


def test_azures_endpoints_window_models_and_size_are_its_own(serve):
    azure = serve(mode="azure")
    file = azure.upload(line("a"))["id"]
    for fields in ({"endpoint": "/v1/videos"}, {"completion_window": "72h"}):
        refused = azure.create(file, **fields)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_value")
    two = [line("a"), {**line("b"), "body": {**line("b")["body"], "model": "gpt-5"}}]
    bad = azure.ended(azure.create(azure.upload(*two)["id"]).json()["id"])
    assert bad["errors"]["data"][0]["code"] == "model_mismatch"
    assert (Settings(mode="azure").requests_limit, Settings().requests_limit) == (100_000, 50_000)
    assert Settings(mode="azure", max_requests=5).requests_limit == 5


def test_a_file_at_azure_is_pending_for_a_while(serve):
    azure = serve(mode="azure", file_processing=0.4)
    file = azure.upload(line("a"))
    assert file["status"] == "pending"
    refused = azure.create(file["id"])
    assert (refused.status_code, "pending" in refused.text) == (400, True)
    give_up = time.monotonic() + 5
    while azure("GET", f"/files/{file['id']}").json()["status"] == "pending":
        assert time.monotonic() < give_up
        time.sleep(0.02)
    assert azure.create(file["id"]).status_code == 200


def test_a_full_queue_at_azure_refuses_the_creation(serve):
    azure = serve(mode="azure", token_limit=["30"], in_progress=30)
    first = azure.create(azure.upload(line("a", text="x" * 100))["id"])
    assert first.status_code == 200
    while azure("GET", f"/batches/{first.json()['id']}").json()["status"] == "Validating":
        time.sleep(0.01)
    refused = azure.create(azure.upload(line("b", text="y" * 100))["id"])
    assert refused.status_code == 400
    (issue,) = refused.json()["errors"]["data"]
    assert refused.json()["errors"]["object"] == "list"
    assert (issue["code"], issue["line"], issue["param"]) == ("token_limit_exceeded", None, None)
    assert "configured limit of 30 for the deployment 'gpt-5-mini'" in issue["message"]
    assert len(azure.emulator.ledger.batches) == 1


def test_a_batch_at_azure_runs_on_when_its_window_is_over(serve):
    azure = serve(mode="azure", window=0.05, in_progress=0.3)
    batch = azure.ended(azure.create(azure.upload(line("a"), line("b"))["id"]).json()["id"])
    assert (batch["status"], batch["request_counts"]["completed"]) == ("Completed", 2)


def test_the_sdks_azure_client_drives_it(serve):
    azure = serve(mode="azure")
    given = {"azure_endpoint": azure.emulator.url, "api_version": VERSION, "max_retries": 0}
    with AzureOpenAI(api_key=KEY, **given) as sdk:
        file = sdk.files.create(file=("in.jsonl", jsonl(line("a", PLAIN))), purpose="batch")
        batch = sdk.batches.create(input_file_id=file.id, endpoint=PLAIN, completion_window="24h")
        azure.ended(batch.id)
        assert sdk.batches.retrieve(batch.id).output_file_id
        said = sdk.chat.completions.create(model="gpt-5-mini", messages=[{"role": "user", "content": "hi"}])
        assert said.choices[0].message.content == "hi"
    with OpenAI(api_key="eyJ.a.b", base_url=azure.emulator.base_url, max_retries=0) as sdk:
        assert [seen.id for seen in sdk.batches.list()] == [batch.id]


async def test_the_sdks_asynchronous_azure_client_drives_it(serve):
    azure = serve(mode="azure")
    given = {"azure_endpoint": azure.emulator.url, "api_version": VERSION, "max_retries": 0}
    async with AsyncAzureOpenAI(azure_ad_token_provider=lambda: "eyJ.a.b", **given) as sdk:
        assert (await sdk.batches.list()).data == []


# A gateway.


def test_a_batch_at_the_gateway_is_wrapped_when_made_and_odd_in_every_way(serve):
    gateway = serve(mode="gateway")
    texts = {"a": "a", "b": "[[emulate:status=400]]", "c": "[[emulate:error=request_timeout]]"}
    file = gateway.upload(*(line(key, text=text) for key, text in texts.items()))
    made = gateway.create(file["id"], completion_window="7d", metadata={"job": "j"})
    assert (made.status_code, made.json()["warning"]) == (201, None)
    batch = made.json()["job"]
    assert (batch["status"], batch["metadata"], batch["output_file_id"]) == ("VALIDATING", None, None)
    assert ISO.fullmatch(batch["created_at"])
    batch = gateway.ended(batch["id"])
    assert (batch["status"], batch["completion_window"]) == ("COMPLETED", "7d")
    output, errors = (gateway.content(batch[f"{kind}_file_id"]) for kind in ("output", "error"))
    assert (output[-1:], errors[-1:]) == (b"}", b"}")
    (good,) = map(json.loads, output.splitlines())
    assert json.loads(good["response"]["body"])["object"] == "chat.completion"
    bad = {item["custom_id"]: item for item in map(json.loads, errors.splitlines())}
    assert "code" not in json.loads(bad["b"]["response"]["body"])["error"]
    assert bad["c"]["error"].keys() == {"message"}


def test_the_gateways_list_is_bare_and_oldest_first(serve):
    gateway = serve(mode="gateway")
    file = gateway.upload(line("a"))["id"]
    made = [gateway.create(file).json()["job"]["id"] for _ in range(3)]
    assert [batch["id"] for batch in gateway("GET", "/batches", params={"limit": 1}).json()] == made


def test_the_gateways_errors_are_told_in_a_message(serve):
    gateway = serve(mode="gateway")
    error = gateway("GET", "/batches/batch_none").json()["error"]
    assert (error["code"], error["type"], error["param"]) == ("404", None, None)
    assert error["message"].startswith("Error code: 404 - {'error': {'message': \"No batch found")


def test_the_gateway_has_no_ranges_and_an_empty_error_file_and_short_ids(serve):
    gateway = serve(mode="gateway")
    file = gateway.upload(line("a"))
    whole = gateway.content(file["id"])
    again = gateway("GET", f"/files/{file['id']}/content", headers={"Range": "bytes=5-"})
    assert (again.status_code, again.content) == (200, whole)
    batch = gateway.ended(gateway.create(file["id"]).json()["job"]["id"])
    assert gateway.content(batch["error_file_id"]) == b""
    long = gateway.create(gateway.upload(line("a" * 65))["id"]).json()["job"]["id"]
    assert gateway.ended(long)["errors"]["data"][0]["code"] == "string_above_max_length"


def test_a_batch_at_the_gateway_may_be_made_of_requests_that_come_with_the_call(serve):
    gateway = serve(mode="gateway")
    content = jsonl(line("a", text="é\u2028"), line("b", text="[[emulate:status=400]]")).decode()
    made = gateway.create_inline(content, completion_window="72h").json()["job"]
    assert made["input_file_id"] is None
    batch = gateway.ended(made["id"])
    assert (batch["status"], batch["request_counts"]) == ("COMPLETED", {"total": 2, "completed": 1, "failed": 1})
    (good,) = map(json.loads, gateway.content(batch["output_file_id"]).splitlines())
    assert json.loads(good["response"]["body"])["choices"][0]["message"]["content"] == "é\u2028"
    ledger = gateway.emulator.ledger
    assert (ledger.rows_billed, ledger.batches[0]["billed"], ledger.calls["batches.create"]) == (1, 1, 1)
    assert {file["filename"] for file in ledger.files} == {
        f"{batch['id']}_{kind}.jsonl" for kind in ("output", "error")
    }


def test_requests_that_come_with_the_call_are_checked_like_a_files(serve):
    gateway = serve(oddity=["inline_create"], max_requests=2)
    for content, code in (
        (jsonl(line("a"), line("a")), "duplicate_custom_id"),
        (jsonl(line("a"), line("b", url=PLAIN)), "invalid_url"),
        (jsonl(line("a"), line("b"), line("c")), "too_many_tasks"),
        (b"{}\nno json\n", "missing_required_parameter"),
    ):
        batch = gateway.ended(gateway.create_inline(content.decode()).json()["id"])
        assert (batch["status"], batch["errors"]["data"][0]["code"]) == ("failed", code)
    for content, message in (("", "File is empty."), ("no json", "Must be .jsonl")):
        refused = gateway.create_inline(content)
        assert refused.status_code == 400
        assert message in refused.json()["error"]["message"]


def test_no_file_of_requests_that_came_with_a_call_is_kept(serve, tmp_path):
    gateway = serve(oddity=["inline_create"], data=tmp_path, in_progress=0.3)
    made = gateway.create_inline(jsonl(line("a")).decode()).json()["id"]
    assert gateway("GET", "/files").json()["data"] == []
    assert len(list(tmp_path.iterdir())) == 1
    output = gateway.ended(made)["output_file_id"]
    time.sleep(0.05)
    assert [path.name for path in tmp_path.iterdir()] == [output]
    assert gateway.create_inline(jsonl(line("a")).decode(), endpoint="/v1/x").status_code == 400
    assert [path.name for path in tmp_path.iterdir()] == [output]


@pytest.mark.parametrize(
    ("options", "fields", "code", "param"),
    [
        ({}, {"input_file_content": "{}"}, "unknown_parameter", "input_file_content"),
        ({"mode": "azure"}, {"input_file_content": "{}"}, "unknown_parameter", "input_file_content"),
        ({"oddity": "inline_create"}, {"input_file_content": ["{}"]}, "invalid_type", "input_file_content"),
        (
            {"oddity": "inline_create"},
            {"input_file_content": "{}", "input_file_id": "file-1"},
            "invalid_value",
            "input_file_content",
        ),
        ({"oddity": "inline_create"}, {}, "missing_required_parameter", "input_file_id"),
        ({"oddity": "inline_create"}, {"input_file_content": "{}", "x": 1}, "unknown_parameter", "x"),
    ],
)
def test_requests_come_with_the_call_only_where_they_may_and_in_place_of_a_file(serve, options, fields, code, param):
    asked = {"endpoint": CHAT, "completion_window": "24h", **fields}
    refused = serve(**options)("POST", "/batches", json=asked)
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["code"], error["param"]) == (code, param)


@pytest.mark.parametrize(("window", "days"), [("24h", 1), ("72h", 3), ("7d", 7), ("1h", 1 / 24)])
def test_a_batch_expires_when_its_own_window_is_over(serve, window, days):
    gateway = serve(oddity=["any_window"], window=86_400)
    batch = gateway.create(gateway.upload(line("a"))["id"], completion_window=window).json()
    assert batch["completion_window"] == window
    assert batch["expires_at"] - batch["created_at"] == days * 86_400


def test_rows_that_a_longer_window_leaves_time_for_are_run(serve):
    gateway = serve(mode="gateway", window=0.2, in_progress=0.6)
    made = gateway.create_inline(jsonl(line("a")).decode(), completion_window="7d").json()["job"]
    assert gateway.ended(made["id"])["status"] == "COMPLETED"


def test_an_oddity_can_be_had_by_itself(serve):
    one = serve(oddity=["upper_case", "no_metadata"])
    batch = one.create(one.upload(line("a"))["id"], metadata={"a": "b"}).json()
    assert (batch["status"], batch["metadata"], batch["endpoint"]) == ("VALIDATING", None, CHAT)
    assert isinstance(batch["created_at"], int)
    assert one("GET", "/batches").json()["object"] == "list"


def test_without_a_mode_it_is_as_strict_as_openai(serve):
    plain = serve()
    file = plain.upload(line("a", PLAIN))["id"]
    for fields in ({"endpoint": PLAIN}, {"completion_window": "72h"}):
        refused = plain.create(file, **fields)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_value")


# Projects.


def test_a_key_sees_what_its_projects_keys_made_and_nothing_else(serve):
    ours = serve(key=["sk-a=proj_a", "sk-a2=proj_a", "sk-b=proj_b"], headers={"Authorization": "Bearer sk-a"})
    theirs = {"headers": {"Authorization": "Bearer sk-b"}}
    file = ours.upload(line("a"))["id"]
    batch = ours.create(file).json()["id"]
    output = ours.ended(batch)["output_file_id"]
    for path in (f"/batches/{batch}", f"/files/{file}", f"/files/{file}/content", f"/files/{output}/content"):
        assert ours("GET", path).status_code == 200
        assert ours("GET", path, headers={"Authorization": "Bearer sk-a2"}).status_code == 200
        assert ours("GET", path, **theirs).status_code == 404
    assert ours("POST", f"/batches/{batch}/cancel", **theirs).status_code == 404
    assert ours("DELETE", f"/files/{file}", **theirs).status_code == 404
    assert ours("GET", "/batches", **theirs).json()["data"] == []
    assert ours("GET", "/files", **theirs).json()["data"] == []
    asked = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
    refused = ours("POST", "/batches", json=asked, **theirs)
    assert f"Cannot find file {file}, or project proj_b does not have access to it." in refused.text
    assert len(ours("GET", "/files").json()["data"]) == 2


def test_the_sdk_meets_another_projects_batch_as_not_found():
    with running(**QUICK, key=["sk-a=proj_a", "sk-b=proj_b"]) as emulator:
        ours, theirs = (OpenAI(base_url=emulator.base_url, api_key=key, max_retries=0) for key in ("sk-a", "sk-b"))
        file = ours.files.create(file=("in.jsonl", jsonl(line("a"))), purpose="batch")
        batch = ours.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
        with pytest.raises(NotFoundError, match="No batch found"):
            theirs.batches.retrieve(batch.id)
        with pytest.raises(BadRequestError, match="Cannot find file"):
            theirs.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
        ours.close()
        theirs.close()


# Options and their documentation.


def test_every_oddity_is_documented_and_part_of_a_mode():
    told = set(re.findall(r"^``(\w+)`` ", oddities.__doc__, re.MULTILINE))
    assert told == oddities.ODDITIES
    page = Path(__file__).parents[2].joinpath("docs", "emulator.md").read_text()
    assert {f"`{name}`" for name in oddities.ODDITIES} <= set(re.findall(r"`\w+`", page))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"mode": "azur"}, "Not a mode: 'azur'; there are openai, azure"), ({"oddity": "odd"}, "Not an oddity: odd; the")],
)
def test_what_is_no_mode_or_oddity_is_said(options, message):
    with pytest.raises(ValueError, match=message):
        Settings(**options)


def test_the_command_line_has_modes(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert "wrapped_create" in text
    command = [sys.executable, "-m", "airflow_openai_batch.emulator", "--port", "0", "--mode", "azure"]
    with subprocess.Popen([*command, "--oddity", "no_metadata"], stdout=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().split()[-1]
            assert url.endswith("/openai/v1")
            assert httpx.get(f"{url}/batches", headers={"api-key": KEY}, trust_env=False).status_code == 200
        finally:
            process.terminate()
