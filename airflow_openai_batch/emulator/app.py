"""The emulator as an ASGI application."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import weakref
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI

from airflow_openai_batch import __version__
from airflow_openai_batch.emulator import errors
from airflow_openai_batch.emulator.azure import AzurePaths
from airflow_openai_batch.emulator.calls import CommonHeaders
from airflow_openai_batch.emulator.routes import batches, control, files, inference, uploads
from airflow_openai_batch.emulator.settings import Settings
from airflow_openai_batch.emulator.state import assemble

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


def _keep() -> None:
    """Leave a directory that the user named."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return an emulator; ``app.state.emulator`` has its parts.

    Faults that close connections need the emulator's own server (``server.running`` or the command line).

    :param settings: default: all defaults.
    :raises ValueError: for a mode, a fault or a responder that can't be understood.
    """
    settings = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await app.state.emulator.runner.stop()
            await asyncio.to_thread(clean_up)

    app = FastAPI(
        title="OpenAI Batch API emulator",
        version=__version__,
        lifespan=lifespan,
        openapi_url=None,
        redirect_slashes=False,
    )
    if settings.data is None:
        directory = Path(tempfile.mkdtemp(prefix="openai-batch-emulator-"))
        # Also for an application that is never started, or not stopped.
        clean_up: Callable[[], object] = weakref.finalize(app, shutil.rmtree, directory, ignore_errors=True)
    else:
        directory = Path(settings.data)
        directory.mkdir(parents=True, exist_ok=True)
        clean_up = _keep
    app.state.emulator = assemble(settings, directory)
    if settings.mode == "azure":
        app.add_middleware(AzurePaths)
    app.add_middleware(CommonHeaders, settings=settings)
    errors.install(app, settings.oddities)
    for part in (files, uploads, batches, inference, control):
        app.include_router(part.router)
    return app
