"""The synchronous endpoints, and ``/v1/models``. They answer by the code that answers rows of batches."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response  # noqa: TC002 - FastAPI reads the annotations
from starlette.datastructures import UploadFile

from airflow_openai_batch.emulator.calls import Call
from airflow_openai_batch.emulator.endpoints import URLS
from airflow_openai_batch.emulator.errors import UNPARSABLE_BODY, APIError, json_response
from airflow_openai_batch.emulator.routes.files import read_form
from airflow_openai_batch.emulator.state import Emulator  # noqa: TC001 - likewise

router = APIRouter(prefix="/v1", route_class=Call)

# The day of the emulator's first release stands for the day on which every model was made.
_MODELS_CREATED = 1_767_225_600


async def _body(request: Request, max_bytes: int) -> tuple[bytes, Any]:
    """Return the request's body as JSON and as an object. Forms (images, videos) become objects of their fields."""
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        async with read_form(request, max_bytes) as form:
            fields = {
                key: [value.filename, value.size] if isinstance(value, UploadFile) else value
                for key, value in form.multi_items()
            }
        return orjson.dumps(fields), fields
    raw = await request.body()
    try:
        return raw, orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise APIError(400, UNPARSABLE_BODY) from None


async def _answer(request: Request, state: Emulator) -> Response:
    url = request.url.path
    raw, body = await _body(request, state.settings.max_file_bytes)
    if isinstance(body, dict) and body.get("stream"):
        raise APIError(400, "Streaming is not supported by the emulator.", code="unsupported_value", param="stream")
    model = body.get("model") if isinstance(body, dict) else None
    known = isinstance(model, str) and model in state.settings.known_models
    limits = state.rate_limits.take(str(model), len(raw)) if known else {}
    answer = await asyncio.to_thread(state.endpoints.answer, url, raw, body)
    if answer.status == 200:  # noqa: PLR2004 - an HTTP status
        state.ledger.bill_call(url, str(model or ""), answer.digest, answer.usage.input, answer.usage.output)
    # A row's status may be 0, a connection that broke; a call of its own needs a real one.
    return json_response(answer.body, status_code=answer.status or 500, headers=limits)


for _url in URLS:
    router.post(_url.removeprefix("/v1"), name=_url.removeprefix("/v1/").replace("/", ".") + ".create")(_answer)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _MODELS_CREATED, "owned_by": "openai-batch-emulator"}


@router.get("/models", name="models.list")
async def list_models(state: Emulator) -> Response:
    """List the models that exist."""
    return json_response({"object": "list", "data": [_model(name) for name in state.settings.models]})


@router.get("/models/{model}", name="models.retrieve")
async def retrieve_model(model: str, state: Emulator) -> Response:
    """Show a model."""
    if model not in state.settings.known_models:
        raise APIError(404, f"The model '{model}' does not exist", code="model_not_found", param="model")
    return json_response(_model(model))
