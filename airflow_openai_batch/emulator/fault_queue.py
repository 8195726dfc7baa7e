"""The faults that wait for their turn, and who uses them up."""

from __future__ import annotations

import threading
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_openai_batch.emulator.faults import AnyFault, BatchFault, CallFault, ClockSkew, MissingFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_openai_batch.emulator.clock import Clock
    from airflow_openai_batch.emulator.ledger import Ledger

F = TypeVar("F", bound=AnyFault)


class Faults:
    """The faults that are waiting for their turn. Safe to use from any thread."""

    def __init__(self, clock: Clock, ledger: Ledger) -> None:
        self._clock = clock
        self._ledger = ledger
        self._lock = threading.Lock()
        self._waiting: list[AnyFault] = []

    def add(self, fault: AnyFault) -> None:
        """Let ``fault`` wait for its turn."""
        with self._lock:
            self._waiting.append(fault)
        if isinstance(fault, ClockSkew):
            self._clock.skew = fault.seconds

    def clear(self) -> None:
        """Forget all of them."""
        with self._lock:
            self._waiting.clear()
        self._clock.skew = 0.0

    def to_json(self) -> list[dict[str, Any]]:
        """Return the faults that still wait, with how often is left of each."""
        with self._lock:
            return [fault.model_dump() for fault in self._waiting]

    def for_call(self, kind: str) -> list[CallFault]:
        """Use up and return the faults of a call."""
        return self._take(CallFault, lambda fault: fnmatchcase(kind, fault.call))

    def for_batch(self) -> list[BatchFault]:
        """Use up and return the faults of a batch that is being created."""
        return self._take(BatchFault)

    def for_file(self) -> list[MissingFile]:
        """Use up and return the faults of a file that was uploaded."""
        return self._take(MissingFile)

    def _take(self, kind: type[F], matches: Callable[[F], bool] = lambda _: True) -> list[F]:
        with self._lock:
            meant = [fault for fault in self._waiting if isinstance(fault, kind) and matches(fault)]
            taken = [fault for fault in meant if not fault.skip]
            for fault in meant:
                if fault.skip:
                    fault.skip -= 1
                elif fault.times is not None:
                    fault.times -= 1
            self._waiting = [fault for fault in self._waiting if fault.times != 0]
        for fault in taken:
            self._ledger.faulted(str(getattr(fault, "fault", "")))
        return taken
