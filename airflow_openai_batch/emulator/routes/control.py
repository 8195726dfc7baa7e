"""``/emulator``: what a test asks of the emulator itself. Needs no key."""

from __future__ import annotations

import asyncio

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response  # noqa: TC002 - FastAPI reads the annotations

from airflow_openai_batch import __version__
from airflow_openai_batch.emulator.errors import APIError, json_response
from airflow_openai_batch.emulator.faults import parse
from airflow_openai_batch.emulator.state import Emulator  # noqa: TC001 - likewise

router = APIRouter(prefix="/emulator")


@router.get("/health")
async def health() -> Response:
    """Say that the emulator is there, and that it is one."""
    return json_response({"status": "ok", "emulated": True, "version": __version__})


@router.get("/ledger")
async def ledger(state: Emulator) -> Response:
    """Show the ledger."""
    return json_response(await asyncio.to_thread(state.ledger.snapshot))


@router.delete("/ledger")
async def reset_ledger(state: Emulator) -> Response:
    """Begin a new ledger; batches and files stay."""
    state.ledger.reset()
    return json_response({"reset": True})


@router.get("/faults")
async def list_faults(state: Emulator) -> Response:
    """Show the faults that wait for their turn."""
    return json_response(state.faults.to_json())


@router.post("/faults")
async def add_faults(request: Request, state: Emulator) -> Response:
    """Add a fault, or a list of them; either all or none."""
    try:
        given = orjson.loads(await request.body())
        faults = [parse(fault) for fault in (given if isinstance(given, list) else [given])]
    except ValueError as error:
        raise APIError(400, str(error)) from error
    for fault in faults:
        state.faults.add(fault)
    return json_response(state.faults.to_json())


@router.delete("/faults")
async def clear_faults(state: Emulator) -> Response:
    """Forget all faults."""
    state.faults.clear()
    return json_response([])
