"""Everything that one emulator is made of, put together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

from airflow_openai_batch.emulator import responders
from airflow_openai_batch.emulator.batches import BatchStore
from airflow_openai_batch.emulator.clock import Clock
from airflow_openai_batch.emulator.connections import Connections
from airflow_openai_batch.emulator.endpoints import Endpoints
from airflow_openai_batch.emulator.fault_queue import Faults
from airflow_openai_batch.emulator.faults import parse
from airflow_openai_batch.emulator.files import FileStore
from airflow_openai_batch.emulator.ledger import Ledger
from airflow_openai_batch.emulator.rate_limits import RateLimits
from airflow_openai_batch.emulator.runner import Runner
from airflow_openai_batch.emulator.token_queue import TokenQueue
from airflow_openai_batch.emulator.uploads import UploadStore

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_openai_batch.emulator.settings import Settings


@dataclass(slots=True)
class State:
    """The parts of an emulator, as routes see them."""

    settings: Settings
    clock: Clock
    ledger: Ledger
    faults: Faults
    files: FileStore
    uploads: UploadStore
    batches: BatchStore
    endpoints: Endpoints
    runner: Runner
    rate_limits: RateLimits
    connections: Connections = field(default_factory=Connections)


def assemble(settings: Settings, directory: Path) -> State:
    """Put an emulator together.

    :param directory: where the bytes of files go.
    :raises ValueError: for a fault or a responder that can't be understood.
    """
    clock, ledger = Clock(), Ledger()
    faults = Faults(clock, ledger)
    for fault in settings.fault:
        faults.add(parse(fault))
    files = FileStore(directory, clock, ledger)
    endpoints = Endpoints(settings.known_models, responders.load(settings.responder), clock)
    runner = Runner(
        settings=settings,
        clock=clock,
        files=files,
        endpoints=endpoints,
        ledger=ledger,
        queue=TokenQueue(settings),
    )
    return State(
        settings=settings,
        clock=clock,
        ledger=ledger,
        faults=faults,
        files=files,
        uploads=UploadStore(files, clock, settings.max_file_bytes),
        batches=BatchStore(settings, clock),
        endpoints=endpoints,
        runner=runner,
        rate_limits=RateLimits(settings),
    )


def state_of(request: Request) -> State:
    """Return the emulator that ``request`` was made to."""
    state: State = request.app.state.emulator
    return state


Emulator = Annotated[State, Depends(state_of)]
