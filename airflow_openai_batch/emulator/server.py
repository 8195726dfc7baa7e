"""Runs the emulator: in this process for tests (:func:`running`), or for good (:func:`serve`).

from airflow_openai_batch.emulator.server import running

with running(in_progress=0.2, fault=["drop,call=batches.create"]) as emulator:
    client = OpenAI(base_url=emulator.base_url, api_key="sk-any")
    ...
    assert emulator.ledger.rows_billed_twice == 0
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import uvicorn

from airflow_openai_batch.emulator.app import create_app
from airflow_openai_batch.emulator.faults import parse
from airflow_openai_batch.emulator.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fastapi import FastAPI

    from airflow_openai_batch.emulator.ledger import Ledger
    from airflow_openai_batch.emulator.state import State

_START_TIMEOUT = 30.0
_GRACE = 1
# Longer than clients poll: a connection that the server closes just as a call comes in is a failure nobody asked for.
_KEEP_ALIVE = 300


@dataclass(frozen=True)
class RunningEmulator:
    """An emulator that is answering.

    :param port: where it listens.
    :param base_url: what the SDK's client takes, e.g. ``http://127.0.0.1:40123/v1``; of the v1 style in mode ``azure``.
    :param ledger: what it was asked and what it billed.
    """

    host: str
    port: int
    ledger: Ledger
    state: State

    @property
    def base_url(self) -> str:
        """The address of the API."""
        return f"{self.url}{prefix(self.state.settings)}"

    @property
    def url(self) -> str:
        """The address of the server, below which ``/emulator/...`` is."""
        return f"http://{self.host}:{self.port}"

    def add_fault(self, *faults: str | Mapping[str, Any], **fields: Any) -> None:
        """Add faults, in the forms that ``faults.parse`` takes, or one by its fields: ``add_fault(fault="drop")``."""
        for fault in [*faults, *([fields] if fields else [])]:
            self.state.faults.add(parse(fault))

    def clear_faults(self) -> None:
        """Forget all faults."""
        self.state.faults.clear()


def prefix(settings: Settings) -> str:
    """Return the path below which the API is."""
    return "/openai/v1" if settings.mode == "azure" else "/v1"


def listen(host: str, port: int) -> socket.socket:
    """Return a socket bound to ``host``; port 0 picks a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


def server_for(app: FastAPI) -> uvicorn.Server:
    """Return uvicorn's server for ``app``, with the protocol that faults need."""
    config = uvicorn.Config(
        app,
        http=app.state.emulator.connections.protocol(),
        ws="none",
        lifespan="on",
        log_level="warning",
        log_config=None,
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=_GRACE,
        server_header=False,
    )
    return uvicorn.Server(config)


def serve(settings: Settings) -> None:
    """Run until SIGINT or SIGTERM. Prints the start-up line once it listens.

    :raises OSError: if the address is taken.
    :raises ValueError: for a fault or a responder that can't be understood.
    """
    with listen(settings.host, settings.port) as bound:
        app = create_app(settings)
        host, port = bound.getsockname()[:2]
        # From here on connections wait in the socket's queue, so that the line may be believed.
        bound.listen()
        shown = f"[{host}]" if ":" in host else host
        print(f"OpenAI Batch API emulator (no real model) on http://{shown}:{port}{prefix(settings)}", flush=True)  # noqa: T201 - the start-up line
        server_for(app).run(sockets=[bound])


@contextmanager
def running(**options: Any) -> Iterator[RunningEmulator]:
    """Run an emulator in a thread of this process, on a free port of 127.0.0.1 unless told otherwise.

    :param options: as :class:`~airflow_openai_batch.emulator.settings.Settings` has them; tests want small
        ``validating``, ``in_progress``, ``finalizing`` and ``cancelling``.
    :raises RuntimeError: if it doesn't start.
    """
    settings = Settings(**options)
    with listen(settings.host, settings.port) as bound:
        app = create_app(settings)
        state: State = app.state.emulator
        host, port = bound.getsockname()[:2]
        server = server_for(app)
        thread = threading.Thread(
            target=server.run, kwargs={"sockets": [bound]}, name="openai-batch-emulator", daemon=True
        )
        thread.start()
        try:
            give_up = time.monotonic() + _START_TIMEOUT
            while not server.started:
                if not thread.is_alive() or time.monotonic() > give_up:
                    raise RuntimeError("The emulator did not start: see its log.")
                time.sleep(0.005)
            yield RunningEmulator(host, port, state.ledger, state)
        finally:
            server.should_exit = True
            thread.join()
