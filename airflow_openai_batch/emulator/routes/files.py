"""``/v1/files``."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, Response
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from airflow_openai_batch.emulator.batches import ExpiresAfter
from airflow_openai_batch.emulator.calls import Call, drain
from airflow_openai_batch.emulator.errors import (
    APIError,
    from_validation,
    invalid_value,
    json_response,
    missing_parameter,
)
from airflow_openai_batch.emulator.files import PURPOSES, TOO_LARGE, check_batch_file
from airflow_openai_batch.emulator.state import Emulator, State  # noqa: TC001 - FastAPI reads the annotations

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from starlette.datastructures import FormData

    from airflow_openai_batch.emulator.files import StoredFile

router = APIRouter(prefix="/v1/files", route_class=Call)

# What a form may have beside the file's own bytes: boundaries, headers, small fields.
_FORM_MARGIN = 64 * 1024
_RANGE = re.compile(r"bytes=(\d+)-\d*$")
_LISTED = 10_000


class _Download(FileResponse):
    chunk_size = 256 * 1024


@asynccontextmanager
async def read_form(request: Request, max_bytes: int) -> AsyncIterator[FormData]:
    """Give the form; its files are on disk once they are large, and gone afterwards.

    :raises APIError: 400 for one that is larger than a file may be, or no form.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > max_bytes + _FORM_MARGIN:
        await drain(request.receive)
        raise APIError(400, TOO_LARGE)
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise APIError(400, "Invalid content type: expected multipart/form-data.")
    try:
        form = await request.form()
    except HTTPException as error:
        raise APIError(400, f"Could not parse multipart form: {error.detail}") from error
    try:
        yield form
    finally:
        await form.close()


async def save_file(state: State, file: Any, max_bytes: int, name: str = "file") -> Path:
    """Copy an uploaded file to the emulator's directory and return where it is."""
    if not isinstance(file, UploadFile):
        raise missing_parameter(name)
    if (file.size or 0) > max_bytes:
        raise APIError(400, TOO_LARGE)
    return await asyncio.to_thread(state.files.save, file.file)


def hide(state: State, file: StoredFile) -> None:
    """Let the ``missing_file`` fault, and a server that reads files at leisure, act on a new file."""
    if "pending_files" in state.settings.oddities:
        file.pending_until = time.monotonic() + state.settings.file_processing
    for fault in state.faults.for_file():
        file.hidden_until = time.monotonic() + fault.seconds


def _lifetime(form: FormData) -> int | None:
    given = {key: form[f"expires_after[{key}]"] for key in ("anchor", "seconds") if f"expires_after[{key}]" in form}
    if not given:
        return None
    try:
        return ExpiresAfter.model_validate(given, strict=False).seconds
    except ValidationError as error:
        first: Any = error.errors()[0]
        raise from_validation({**first, "loc": ("body", "expires_after", *first["loc"])}) from error


@router.post("", name="files.create")
async def create(request: Request, state: Emulator) -> Response:
    """Take a file."""
    async with read_form(request, state.settings.max_file_bytes) as form:
        purpose, file = form.get("purpose"), form.get("file")
        if not isinstance(purpose, str):
            raise missing_parameter("purpose")
        if purpose not in PURPOSES:
            raise invalid_value("purpose", purpose, PURPOSES)
        lifetime = _lifetime(form)
        path = await save_file(state, file, state.settings.max_file_bytes)
        filename = getattr(file, "filename", None) or "upload"
    if purpose == "batch":
        try:
            await asyncio.to_thread(check_batch_file, path, filename)
        except APIError:
            path.unlink()
            raise
    stored = state.files.adopt(path, filename=filename, purpose=purpose, lifetime=lifetime)
    hide(state, stored)
    return json_response(stored.to_json())


@router.get("", name="files.list")
async def list_files(
    state: Emulator,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=_LISTED)] = _LISTED,
    order: Literal["asc", "desc"] = "desc",
    purpose: str | None = None,
) -> Response:
    """List files."""
    page = state.files.page(after=after, limit=limit, ascending=order == "asc", purpose=purpose)
    return json_response(page)


@router.get("/{file_id}", name="files.retrieve")
async def retrieve(file_id: str, state: Emulator) -> Response:
    """Show a file."""
    return json_response(state.files.get(file_id).to_json())


@router.delete("/{file_id}", name="files.delete")
async def delete(file_id: str, state: Emulator) -> Response:
    """Delete a file."""
    state.files.get(file_id)
    state.files.delete(file_id)
    return json_response({"id": file_id, "object": "file", "deleted": True})


@router.get("/{file_id}/content", name="files.content")
async def content(file_id: str, request: Request, state: Emulator) -> Response:
    """Send a file's bytes, whole or the ``Range`` that was asked for."""
    file = state.files.get(file_id)
    if "no_ranges" in state.settings.oddities:
        scope = request.scope
        scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"range"]
        return _Download(file.path, media_type="application/octet-stream", filename=file.filename)
    wanted = _RANGE.match(request.headers.get("range", ""))
    if wanted and int(wanted[1]) >= file.size:
        headers = {"content-range": f"bytes */{file.size}"}
        raise APIError(416, "The requested range is not satisfiable.", headers=headers)
    return _Download(file.path, media_type="application/octet-stream", filename=file.filename)
