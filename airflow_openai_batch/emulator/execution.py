"""Runs the rows of a batch and writes its output and error file.

Everything here happens on a worker thread, a few hundred rows at a time. Memory is bounded by the shuffle buffers:
the input is read line by line from where the last call stopped, the outputs are appended to.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import orjson

from airflow_openai_batch.emulator import ids
from airflow_openai_batch.emulator.endpoints import Answer, canonical, failure
from airflow_openai_batch.emulator.faults import Failing, LineFault
from airflow_openai_batch.emulator.ledger import body_hash
from airflow_openai_batch.emulator.oddities import shown_line
from airflow_openai_batch.emulator.text_answers import Usage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow_openai_batch.emulator.batches import Batch
    from airflow_openai_batch.emulator.endpoints import Endpoints
    from airflow_openai_batch.emulator.ledger import Ledger

NOT_RUN = {
    "batch_expired": "This request could not be executed before the completion window expired.",
    "batch_cancelled": "This request was not executed because the batch was cancelled.",
    "request_timeout": "This request timed out before it could be executed.",
}
_OK = 200
# Seconds after which a thread lets go of a batch whose responder is slow.
_PATIENCE = 0.2


class Shuffler:
    """Writes lines to a file in another order than they came in: the service keeps none, so nobody may rely on it.

    A buffer of at most ``LINES`` lines or ``BYTES`` bytes is kept; each further line throws a random one out. The
    order is the same in every run.
    """

    LINES = 1_000
    BYTES = 8 * 1024 * 1024

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written = 0
        self._buffer: list[bytes] = []
        self._size = 0
        self._random = random.Random(0)  # noqa: S311 - order, not secrecy

    def add(self, lines: list[bytes]) -> None:
        """Take lines, each with its newline, and write those that no longer fit the buffer."""
        out = []
        for line in lines:
            self._buffer.append(line)
            self._size += len(line)
            while len(self._buffer) > self.LINES or (self._size > self.BYTES and len(self._buffer) > 1):
                place = self._random.randrange(len(self._buffer))
                self._buffer[place], self._buffer[-1] = self._buffer[-1], self._buffer[place]
                out.append(self._buffer.pop())
                self._size -= len(out[-1])
        self._write(out)

    def close(self, *, empty: bool, newline: bool = True) -> Path | None:
        """Write what is left and return the file, ``None`` if there is none.

        :param newline: whether the last line has one.
        """
        first = self._buffer[:1]
        self._random.shuffle(self._buffer)
        if len(self._buffer) > 1 and self._buffer[:1] == first:
            self._buffer.append(self._buffer.pop(0))
        self._write(self._buffer)
        self._buffer, self._size = [], 0
        if not newline and self.written:
            os.truncate(self.path, self.path.stat().st_size - 1)
        if empty:
            self.path.touch()
        return self.path if empty or self.written else None

    def _write(self, lines: list[bytes]) -> None:
        if lines:
            # Opened anew each time: a thousand batches under way must not need a thousand descriptors.
            with self.path.open("ab") as file:
                file.writelines(lines)
            self.written += len(lines)


class Rows:
    """The rows of one batch.

    :param output: where the lines of 200s go.
    :param errors: where all other lines go.
    :param oddities: of the server, as far as its files are concerned.
    """

    def __init__(
        self,
        batch: Batch,
        endpoints: Endpoints,
        ledger: Ledger,
        output: Path,
        errors: Path,
        *,
        oddities: frozenset[str] = frozenset(),
    ) -> None:
        self._batch = batch
        self._oddities = oddities
        self._endpoints = endpoints
        self._ledger = ledger
        self._output = Shuffler(output)
        self._errors = Shuffler(errors)
        self._offset = 0
        self.done = 0

    def _requests(self) -> Iterator[bytes]:
        with self._batch.input_file.path.open("rb") as file:
            file.seek(self._offset)
            while raw := file.readline():
                self._offset = file.tell()
                if raw.strip():
                    yield raw

    def run(self, number: int) -> None:
        """Run the next ``number`` rows, or fewer if they take long: whoever waits looks up in between."""
        until = time.monotonic() + _PATIENCE
        output: list[bytes] = []
        errors: list[bytes] = []
        billed: list[tuple[bytes, str]] = []
        counts: Counter[str] = Counter()
        for raw in self._requests():
            request = orjson.loads(raw)
            self.done += 1
            answer = self._answer(raw, request)
            action = self._action(answer)
            lines = _act(self._line(request["custom_id"], answer), action)
            if action == "stray":
                lines.append(self._line(f"stray-{self.done}", answer))
            if answer.status == _OK:
                fate = {"lost": "lost", "garbled": "garbled"}.get(action, "billed")
                output += lines
                if fate == "billed":
                    billed.append((answer.digest, request["custom_id"]))
                    counts["input_tokens"] += answer.usage.input
                    counts["output_tokens"] += answer.usage.output
            else:
                fate = "not_run" if answer.marker is not None and answer.marker.action == "error" else "failed"
                errors += lines
            counts[fate] += 1
            number -= 1
            if not number or time.monotonic() > until:
                break
        self._output.add(output)
        self._errors.add(errors)
        self._ledger.bill(self._batch.id, billed)
        self._ledger.count_rows({fate: counts[fate] for fate in ("failed", "not_run", "lost", "garbled")})
        totals = self._batch.totals
        totals.completed += counts["billed"] + counts["lost"] + counts["garbled"]
        totals.failed += counts["failed"]
        totals.input_tokens += counts["input_tokens"]
        totals.output_tokens += counts["output_tokens"]

    def _answer(self, raw: bytes, request: dict[str, Any]) -> Answer:
        failing, url = self._batch.fault(Failing), canonical(request["url"])
        if failing is not None and failing.hits(self.done):
            error = failure(failing.status)
            return Answer(error.status, error.body(), Usage(), body_hash(url, request["body"]), None)
        return self._endpoints.answer(url, raw, request["body"])

    def _action(self, answer: Answer) -> str:
        if answer.line_action:
            return answer.line_action
        faults = (fault for fault in self._batch.faults if isinstance(fault, LineFault) and fault.hits(self.done))
        return next((fault.fault for fault in faults), "")

    def refuse_rest(self, code: str) -> None:
        """Write every row that hasn't run to the error file, with ``code`` and the service's message for it."""
        number = 0
        for raw in self._requests():
            self._errors.add([self._not_run(orjson.loads(raw)["custom_id"], code)])
            number += 1
        self._ledger.count_rows({"not_run": number})

    def close(self, *, empty: bool = False) -> tuple[Path | None, Path | None]:
        """Write what is buffered and return the output and the error file.

        :param empty: make files without lines too, instead of returning ``None`` for them.
        """
        ends = "no_last_newline" not in self._oddities
        output = self._output.close(empty=empty, newline=ends)
        errors = self._errors.close(empty=empty or "empty_error_file" in self._oddities, newline=ends)
        return output, errors

    def _line(self, custom_id: str, answer: Answer) -> bytes:
        key = ids.new_id("")
        if answer.marker is not None and answer.marker.action == "error":
            return self._not_run(custom_id, answer.marker.value)
        response = {
            "status_code": answer.status,
            "request_id": f"req_{key}" if answer.status else "",
            "body": answer.body if answer.status else None,
        }
        line = {"id": f"batch_req_{key}", "custom_id": custom_id, "response": response, "error": None}
        return shown_line(line, self._oddities)

    def _not_run(self, custom_id: str, code: str) -> bytes:
        error = {"code": code, "message": NOT_RUN.get(code, "This request was not executed.")}
        line = {"id": ids.new_id("batch_req_"), "custom_id": custom_id, "response": None, "error": error}
        return shown_line(line, self._oddities)


def _act(line: bytes, action: str) -> list[bytes]:
    if action == "lost":
        return []
    if action == "twice":
        return [line, line]
    return [line[: len(line) // 2] + b"\n"] if action == "garbled" else [line]
