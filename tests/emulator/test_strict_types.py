"""Every response parses as the SDK's own type: strictly, with nothing missing and nothing extra."""

from __future__ import annotations

import base64

import pytest
from openai.types import (
    Batch,
    Completion,
    CreateEmbeddingResponse,
    FileDeleted,
    FileObject,
    ImagesResponse,
    Model,
    ModerationCreateResponse,
    Upload,
    Video,
)
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from openai.types.uploads import UploadPart
from pydantic import BaseModel

SCHEMA = {"type": "object", "properties": {"label": {"type": "string", "enum": ["positive", "negative"]}}}
TEXT = {"model": "gpt-5-mini"}
REQUESTS = {
    "/v1/chat/completions": (ChatCompletion, {**TEXT, "messages": [{"role": "user", "content": "hi"}]}),
    "/v1/responses": (Response, {**TEXT, "input": "hi"}),
    "/v1/completions": (Completion, {"model": "gpt-3.5-turbo-instruct", "prompt": "hi"}),
    "/v1/embeddings": (CreateEmbeddingResponse, {"model": "text-embedding-3-small", "input": "hi", "dimensions": 8}),
    "/v1/moderations": (ModerationCreateResponse, {"model": "omni-moderation-latest", "input": "I will kill you"}),
    "/v1/images/generations": (ImagesResponse, {"model": "gpt-image-1", "prompt": "a dog"}),
    "/v1/images/edits": (
        ImagesResponse,
        {"model": "gpt-image-1", "prompt": "a dog", "images": [{"file_id": "file-x"}]},
    ),
    "/v1/videos": (Video, {"model": "sora-2", "prompt": "a dog"}),
}
VARIANTS = {
    "chat refusal": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "[[emulate:refusal]]"}]}),
    "chat filter": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "[[emulate:content_filter]]"}]}),
    "chat length": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 99}], "max_tokens": 2}),
    "chat n": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "n": 3}),
    "chat schema": (
        "/v1/chat/completions",
        {
            "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
        },
    ),
    "responses refusal": ("/v1/responses", {"input": "[[emulate:refusal]]"}),
    "responses filter": ("/v1/responses", {"input": "[[emulate:content_filter]]"}),
    "responses length": ("/v1/responses", {"input": "x" * 99, "max_output_tokens": 2}),
    "responses rich": (
        "/v1/responses",
        {
            "input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
            "instructions": "be short",
            "metadata": {"a": "b"},
            "temperature": 0.2,
            "text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True}},
        },
    ),
    "completions several": ("/v1/completions", {"prompt": ["a", "b [[emulate:length]]"]}),
    "embeddings several": ("/v1/embeddings", {"input": ["a", "b"]}),
    "moderations several": ("/v1/moderations", {"input": ["fine", "idiot"]}),
    "images several": ("/v1/images/generations", {"prompt": "x", "n": 2, "quality": "high", "size": "1536x1024"}),
}


def strictly(kind, payload):
    """Parse ``payload``, and go through what came of it for fields that the type doesn't have."""
    parsed = kind.model_validate(payload, strict=True)
    assert not list(extras(parsed)), list(extras(parsed))
    return parsed


def extras(value, path=""):
    if isinstance(value, BaseModel):
        for name in value.model_extra or {}:
            yield f"{path}.{name}"
        for name in type(value).model_fields:
            yield from extras(getattr(value, name), f"{path}.{name}")
    elif isinstance(value, list):
        for item in value:
            yield from extras(item, f"{path}[]")


@pytest.mark.parametrize("url", REQUESTS)
def test_synchronous_answers_parse_strictly(api, url):
    kind, body = REQUESTS[url]
    response = api.post(url, body)
    assert response.status_code == 200, response.text
    parsed = strictly(kind, response.json())
    if hasattr(parsed, "model"):
        assert parsed.model == body["model"] + "-emulated"


@pytest.mark.parametrize("case", VARIANTS)
def test_unusual_answers_parse_strictly_too(api, case):
    url, change = VARIANTS[case]
    kind, body = REQUESTS[url]
    response = api.post(url, {**body, **change})
    assert response.status_code == 200, response.text
    strictly(kind, response.json())


def test_base64_embeddings_are_what_the_sdk_decodes(api):
    body = REQUESTS["/v1/embeddings"][1]
    payload = api.post("/v1/embeddings", {**body, "encoding_format": "base64"}).json()
    assert len(base64.b64decode(payload["data"][0]["embedding"])) == 4 * 8


@pytest.mark.parametrize("url", REQUESTS)
def test_rows_of_every_endpoint_parse_strictly(api, url):
    kind, body = REQUESTS[url]
    batch = api.run([api.row("a", url, body)], url)
    assert batch.status == "completed", batch
    (line,) = api.lines(batch.output_file_id)
    assert set(line) == {"id", "custom_id", "response", "error"}
    assert line["id"].startswith("batch_req_")
    assert line["error"] is None
    assert set(line["response"]) == {"status_code", "request_id", "body"}
    strictly(kind, line["response"]["body"])


@pytest.mark.parametrize("status", ["validating", "in_progress", "finalizing", "cancelling"])
def test_batches_under_way_parse_strictly(start, status):
    api = start(fault=[f"stuck,status={status}"], in_progress=5 if status == "cancelling" else 0)
    batch = api.create(api.rows(9), metadata={"a": "b"})
    strictly(Batch, api.http.get(f"/v1/batches/{batch.id}").json())
    if status == "cancelling":
        strictly(Batch, api.http.post(f"/v1/batches/{batch.id}/cancel").json())
    batch = api.until(batch, status)
    assert strictly(Batch, api.http.get(f"/v1/batches/{batch.id}").json()).status == status


def test_batches_that_ended_parse_strictly(start):
    api = start()
    api.emulator.add_fault("stuck,after_rows=2", "expire,after_rows=2,skip=1")
    cancelled, expired = api.until(api.create(api.rows(9)), "in_progress"), api.run(api.rows(9))
    api.client.batches.cancel(cancelled.id)
    done, failed = api.run(api.rows(9)), api.run("nonsense\nnonsense\n")
    api.finish(cancelled)
    page = api.http.get("/v1/batches").json()
    assert set(page) == {"object", "data", "first_id", "last_id", "has_more"}
    parsed = {item["id"]: strictly(Batch, item).status for item in page["data"]}
    assert parsed == {
        cancelled.id: "cancelled",
        expired.id: "expired",
        done.id: "completed",
        failed.id: "failed",
    }


def test_files_uploads_and_models_parse_strictly(api):
    form = {"files": {"file": ("x.jsonl", b"{}\n")}, "data": {"purpose": "batch"}}
    file = strictly(FileObject, api.http.post("/v1/files", **form).json())
    strictly(FileObject, api.http.get(f"/v1/files/{file.id}").json())
    page = api.http.get("/v1/files").json()
    assert set(page) == {"object", "data", "first_id", "last_id", "has_more"}
    for item in page["data"]:
        strictly(FileObject, item)
    strictly(FileDeleted, api.http.delete(f"/v1/files/{file.id}").json())
    asked = {"bytes": 3, "filename": "x.jsonl", "mime_type": "application/jsonl", "purpose": "batch"}
    upload = strictly(Upload, api.post("/v1/uploads", asked).json())
    part = strictly(UploadPart, api.http.post(f"/v1/uploads/{upload.id}/parts", files={"data": ("x", b"{}\n")}).json())
    done = strictly(Upload, api.post(f"/v1/uploads/{upload.id}/complete", {"part_ids": [part.id]}).json())
    strictly(FileObject, done.file.model_dump())
    other = api.post("/v1/uploads", asked).json()["id"]
    strictly(Upload, api.http.post(f"/v1/uploads/{other}/cancel").json())
    for item in api.http.get("/v1/models").json()["data"]:
        strictly(Model, item)
