"""``/v1/uploads``."""

from __future__ import annotations

import asyncio
from typing import Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response  # noqa: TC002 - FastAPI reads the annotations
from pydantic import BaseModel, ConfigDict, Field

from airflow_openai_batch.emulator.batches import ExpiresAfter  # noqa: TC001 - pydantic reads the annotation
from airflow_openai_batch.emulator.calls import Call
from airflow_openai_batch.emulator.errors import json_response
from airflow_openai_batch.emulator.routes.files import hide, read_form, save_file
from airflow_openai_batch.emulator.state import Emulator  # noqa: TC001 - FastAPI reads the annotation
from airflow_openai_batch.emulator.uploads import MAX_PART_BYTES

router = APIRouter(prefix="/v1/uploads", route_class=Call)


class UploadCreate(BaseModel):
    """The body of POST /v1/uploads."""

    model_config = ConfigDict(extra="forbid", strict=True)
    bytes: int = Field(ge=1)
    filename: str
    mime_type: str
    purpose: Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
    expires_after: ExpiresAfter | None = None


class UploadComplete(BaseModel):
    """The body of POST /v1/uploads/{id}/complete."""

    model_config = ConfigDict(extra="forbid", strict=True)
    part_ids: list[str]
    md5: str | None = None


@router.post("", name="uploads.create")
async def create(asked: UploadCreate, state: Emulator) -> Response:
    """Begin an upload."""
    after = asked.expires_after
    upload = state.uploads.create(
        filename=asked.filename,
        purpose=asked.purpose,
        size=asked.bytes,
        lifetime=None if after is None else after.seconds,
    )
    return json_response(upload.to_json())


@router.post("/{upload_id}/parts", name="uploads.parts.create")
async def add_part(upload_id: str, request: Request, state: Emulator) -> Response:
    """Take a part."""
    upload = state.uploads.pending(upload_id)
    async with read_form(request, MAX_PART_BYTES) as form:
        path = await save_file(state, form.get("data"), MAX_PART_BYTES, "data")
    return json_response(state.uploads.add_part(upload, path))


@router.post("/{upload_id}/complete", name="uploads.complete")
async def complete(upload_id: str, asked: UploadComplete, state: Emulator) -> Response:
    """Make a file of the parts."""
    upload = state.uploads.pending(upload_id)
    whole = await asyncio.to_thread(state.uploads.join, upload, asked.part_ids, asked.md5)
    hide(state, state.uploads.finish(upload, whole))
    return json_response(upload.to_json())


@router.post("/{upload_id}/cancel", name="uploads.cancel")
async def cancel(upload_id: str, state: Emulator) -> Response:
    """Drop an upload."""
    upload = state.uploads.pending(upload_id)
    state.uploads.cancel(upload)
    return json_response(upload.to_json())
