"""``/v1/batches``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Body, Query
from fastapi.responses import Response  # noqa: TC002 - FastAPI reads the annotations

from airflow_openai_batch.emulator.batches import InlineCreate, read_create
from airflow_openai_batch.emulator.calls import Call
from airflow_openai_batch.emulator.errors import json_response
from airflow_openai_batch.emulator.oddities import shown_batch, shown_create
from airflow_openai_batch.emulator.state import Emulator  # noqa: TC001 - likewise

if TYPE_CHECKING:
    from airflow_openai_batch.emulator.batches import Batch, BatchCreate
    from airflow_openai_batch.emulator.files import StoredFile
    from airflow_openai_batch.emulator.state import State

router = APIRouter(prefix="/v1/batches", route_class=Call)


@router.post("", name="batches.create")
async def create(body: Annotated[dict[str, Any], Body()], state: Emulator) -> Response:
    """Make a batch of a file, or of requests that come with the call."""
    oddities = state.settings.oddities
    asked = read_create(body, oddities)
    if not isinstance(asked, InlineCreate):
        file = state.files.for_batch(asked.input_file_id)
        batch = await _made(asked, file, state)
    else:
        file = await asyncio.to_thread(state.files.keep_unlisted, asked.input_file_content)
        state.files.pin(file)
        try:
            batch = await _made(asked, file, state)
        finally:
            state.files.unpin(file)
    answer, status = shown_create(batch.to_json(), oddities)
    return json_response(answer, status_code=status)


async def _made(asked: BatchCreate, file: StoredFile | None, state: State) -> Batch:
    if file is not None and "early_limits" in state.settings.oddities:
        await state.runner.check_limit(file.path, asked.endpoint)
    batch = state.batches.create(asked, file, state.faults.for_batch)
    state.runner.start(batch)
    return batch


@router.get("", name="batches.list")
async def list_batches(
    state: Emulator, after: str | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> Response:
    """List batches, newest first."""
    return json_response(state.batches.page(after=after, limit=limit))


@router.get("/{batch_id}", name="batches.retrieve")
async def retrieve(batch_id: str, state: Emulator) -> Response:
    """Show a batch."""
    return json_response(shown_batch(state.batches.get(batch_id).to_json(), state.settings.oddities))


@router.post("/{batch_id}/cancel", name="batches.cancel")
async def cancel(batch_id: str, state: Emulator) -> Response:
    """Cancel a batch."""
    batch = state.batches.get(batch_id)
    state.batches.cancel(batch)
    state.ledger.batch_changed(batch.id, status=batch.status)
    return json_response(shown_batch(batch.to_json(), state.settings.oddities))
