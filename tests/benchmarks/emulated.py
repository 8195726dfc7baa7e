"""The emulator in a process of its own, and batches on it that somebody waits for.

Calls that only prepare or count go by ``urllib``, so that a measuring process loads nothing that is to be measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LINE = {
    "custom_id": "r0",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "Hello"}]},
}
_BOUNDARY = "benchmark"


class Emulator:
    """A running emulator.

    :param base_url: what the SDK takes.
    """

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self._control = f"{base_url.removesuffix('/v1')}/emulator"

    def _ask(self, url: str, data: bytes | None = None, kind: str = "application/json") -> Any:
        headers = {"Authorization": "Bearer sk-benchmark", "Content-Type": kind}
        # No proxy of the environment's: this is our own machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(url, data, headers), timeout=60) as answer:
            return json.load(answer)

    def calls(self) -> dict[str, int]:
        """Return how many calls of each kind it has had."""
        calls: dict[str, int] = self._ask(f"{self._control}/ledger")["calls"]
        return calls

    def add_fault(self, **fault: Any) -> None:
        """Let something be otherwise from now on."""
        self._ask(f"{self._control}/faults", json.dumps(fault).encode())

    def make_batches(self, number: int) -> list[str]:
        """Return the ids of so many new batches of one row each."""
        parts = (
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="one.jsonl"\r\n\r\n'
            f"{json.dumps(_LINE)}\n\r\n--{_BOUNDARY}--\r\n"
        )
        kind = f"multipart/form-data; boundary={_BOUNDARY}"
        file = self._ask(f"{self.base_url}/files", parts.encode(), kind)["id"]
        asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        body = json.dumps(asked).encode()
        return [self._ask(f"{self.base_url}/batches", body)["id"] for _ in range(number)]


@contextmanager
def emulator(*options: str) -> Iterator[Emulator]:
    """Run an emulator, its batches as quick as they can be unless told otherwise."""
    quick = ["--validating", "0", "--in-progress", "0", "--finalizing", "0", "--responder", "echo"]
    command = [sys.executable, "-m", "airflow_openai_batch.emulator", "--port", "0", *quick, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Emulator(process.stdout.readline().split()[-1])
        finally:
            process.terminate()


def airflow_environment(home: Path, base_url: str = "") -> dict[str, str]:
    """Return the environment of a process that uses Airflow, with every provider's connection to an emulator."""

    def connection(kind: str) -> str:
        return json.dumps({"conn_type": kind, "password": "sk-benchmark", "host": base_url})

    return {
        **os.environ,
        "PYTHONDONTWRITEBYTECODE": "",  # an installed package is compiled
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        "AIRFLOW_CONN_OPENAI_DEFAULT": connection("openai"),
        "AIRFLOW_CONN_PYDANTICAI_DEFAULT": connection("pydanticai"),
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }
