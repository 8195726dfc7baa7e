"""Start and stop the emulated OpenAI Batch API."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import httpx

from tools.processes import HOST, Program, StackError, check_port, deadline, free_ports, tail

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

READY_WITHIN = 30.0


class Emulator:
    """The emulator as a process of its own.

    :param home: the run's folder; the log goes there.
    :param env: the environment to start it in.
    :param options: its command-line options.
    :param port: where it listens; ``None`` takes a free port.
    :param command: another command that starts it, on that port.
    """

    def __init__(
        self,
        home: Path,
        *,
        env: Mapping[str, str],
        options: Sequence[str] = (),
        port: int | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        if port is not None:
            check_port(port, "the emulator")
        self.port = port or free_ports(1)[0]
        self.address = f"http://{HOST}:{self.port}"
        self.base_url = f"{self.address}/v1"
        self._program = Program(
            "emulator",
            [*(command or self._command()), *options],
            env=env,
            log=home / "emulator.log",
            home=home,
        )

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "airflow_openai_batch.emulator", "--port", str(self.port)]

    def wait_ready(self, seconds: float = READY_WITHIN) -> None:
        """Wait until it answers.

        :raises StackError: it ended, or the time is over.
        """
        for _ in deadline(seconds, pause=0.1):
            self._program.check()
            try:
                if httpx.get(f"{self.address}/emulator/health", trust_env=False).is_success:
                    return
            except httpx.TransportError:
                continue
        log = self._program.log
        raise StackError(f"The emulator didn't answer within {seconds:.0f} s.\n{tail(log)}", log)

    def ledger(self) -> Any:
        """Return what the emulator has been asked for."""
        return httpx.get(f"{self.address}/emulator/ledger", trust_env=False).raise_for_status().json()

    def add_fault(self, fault: str, **fields: Any) -> None:
        """Let something go wrong; ``python -m airflow_openai_batch.emulator --help`` lists what can."""
        body = {"fault": fault, **fields}
        httpx.post(f"{self.address}/emulator/faults", json=body, trust_env=False).raise_for_status()

    def stop(self, seconds: float = 5) -> None:
        """Interrupt it; what doesn't heed that is ended with the run."""
        self._program.interrupt(seconds)
