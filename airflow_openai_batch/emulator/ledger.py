"""What the emulator was asked and what it would have billed. Tests judge by it.

A row is billed when it really ran: a 200 answer that reached an output file, or a synchronous 200. Rows that the
emulator itself loses or garbles are counted apart and never billed, so that running them again is no double bill.

A million rows take about 35 MB: per row eight bytes of its body's hash, four for its batch, eight for where its
``custom_id`` ends in one long byte string. Who was billed twice is worked out when somebody asks.
"""

from __future__ import annotations

import threading
from array import array
from collections import Counter
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# The report of double billing lists at most so many bodies; the counts are always exact.
_LISTED = 1_000
_SYNCHRONOUS = "synchronous"


def body_hash(url: str, body: Any) -> bytes:
    """Return eight bytes that identify a request, whatever the order of its keys."""
    return blake2b(orjson.dumps(body, option=orjson.OPT_SORT_KEYS), digest_size=8, key=url.encode()).digest()


class Ledger:
    """Calls, batches, rows and files. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: Counter[str] = Counter()
        self._clear()

    def _clear(self) -> None:
        self._calls: Counter[str] = Counter()
        self._most: Counter[str] = Counter()
        self._synchronous: list[dict[str, Any]] = []
        self._tokens = {"input_tokens": 0, "output_tokens": 0}
        self._faults: Counter[str] = Counter()
        self._rows: Counter[str] = Counter()
        self._batches: dict[str, dict[str, Any]] = {}
        self._batch_ids: list[str] = []
        self._numbers: dict[str, int] = {}
        self._files: dict[str, dict[str, Any]] = {}
        self._hashes = array("Q")
        self._origins = array("I")
        self._ends = array("Q")
        self._names = bytearray()

    def reset(self) -> None:
        """Forget everything but the files and batches that exist."""
        with self._lock:
            kept = self._files, self._batches, self._batch_ids, self._numbers
            self._clear()
            self._files, self._batches, self._batch_ids, self._numbers = kept

    # What the server writes.

    def called(self, kind: str) -> None:
        """Count an API call that arrived, whatever became of it."""
        with self._lock:
            self._calls[kind] += 1
            self._running[kind] += 1
            self._most[kind] = max(self._most[kind], self._running[kind])

    def over(self, kind: str) -> None:
        """Note that a call was answered, or its connection closed."""
        with self._lock:
            self._running[kind] -= 1

    def faulted(self, fault: str) -> None:
        """Count a fault that was acted out."""
        with self._lock:
            self._faults[fault] += 1

    def file_created(self, file_id: str, facts: Mapping[str, Any]) -> None:
        """Note a file that now exists."""
        with self._lock:
            self._files[file_id] = {"id": file_id, **facts}

    def file_deleted(self, file_id: str) -> None:
        """Note that a file is gone: deleted or expired."""
        with self._lock:
            self._files.pop(file_id, None)

    def batch_created(self, batch_id: str, facts: Mapping[str, Any]) -> None:
        """Note a batch that now exists."""
        with self._lock:
            self._batches[batch_id] = {"id": batch_id, "rows": 0, "billed": 0, **facts}
            self._batch_ids.append(batch_id)
            self._numbers[batch_id] = len(self._batch_ids)

    def batch_changed(self, batch_id: str, **facts: Any) -> None:
        """Note what became of a batch."""
        with self._lock:
            self._batches[batch_id].update(facts)

    def bill(self, batch_id: str | None, rows: Iterable[tuple[bytes, str]]) -> None:
        """Bill rows that ran.

        :param batch_id: the batch they belong to, ``None`` for a synchronous call.
        :param rows: ``(body_hash, custom_id)`` of each.
        """
        with self._lock:
            origin = 0 if batch_id is None else self._numbers[batch_id]
            number = 0
            for digest, custom_id in rows:
                self._hashes.append(int.from_bytes(digest, "big"))
                self._origins.append(origin)
                self._names += custom_id.encode("utf-8", "replace")
                self._ends.append(len(self._names))
                number += 1
            if batch_id is None:
                self._rows[_SYNCHRONOUS] += number
            else:
                self._batches[batch_id]["billed"] += number

    def bill_call(self, url: str, model: str, digest: bytes, input_tokens: int, output_tokens: int) -> None:
        """Bill a synchronous call that was answered with 200, whether or not the answer arrived."""
        self.bill(None, [(digest, "")])
        with self._lock:
            tokens = {"input_tokens": input_tokens, "output_tokens": output_tokens}
            for name, number in tokens.items():
                self._tokens[name] += number
            if len(self._synchronous) < _LISTED:
                self._synchronous.append({"body": digest.hex(), "url": url, "model": model, **tokens})

    def count_rows(self, counts: Mapping[str, int]) -> None:
        """Count rows that were not billed, by what became of them: ``failed``, ``not_run``, ``lost``, ``garbled``."""
        with self._lock:
            self._rows.update(counts)

    # What tests read.

    @property
    def calls(self) -> dict[str, int]:
        """API calls that arrived, by kind, e.g. ``{"batches.create": 3}``."""
        with self._lock:
            return dict(self._calls)

    @property
    def calls_at_once(self) -> dict[str, int]:
        """Most calls of a kind that were under way at the same time."""
        with self._lock:
            return dict(self._most)

    @property
    def synchronous(self) -> dict[str, Any]:
        """Synchronous calls that were billed: ``calls, input_tokens, output_tokens``, and the first 1,000 of them.

        ``data`` has of each ``body`` (its hash), ``url``, ``model``, ``input_tokens`` and ``output_tokens``.
        """
        with self._lock:
            calls = [dict(call) for call in self._synchronous]
            return {"calls": self._rows[_SYNCHRONOUS], **self._tokens, "data": calls}

    def bought(self, url: str, body: Any) -> list[str]:
        """Return where a request was billed, once for each time: batches' ids, ``synchronous`` for calls."""
        key = int.from_bytes(body_hash(url, body), "big")
        with self._lock:
            return [self._row(index)["batch"] for index, known in enumerate(self._hashes) if known == key]

    @property
    def faults(self) -> dict[str, int]:
        """Faults acted out, by name."""
        with self._lock:
            return dict(self._faults)

    @property
    def batches(self) -> list[dict[str, Any]]:
        """Batches in order of creation: ``id, endpoint, metadata, status, rows, billed, created_at, model``."""
        with self._lock:
            return [dict(batch) for batch in self._batches.values()]

    @property
    def files(self) -> list[dict[str, Any]]:
        """Files that exist now: ``id, filename, purpose, bytes``."""
        with self._lock:
            return [dict(file) for file in self._files.values()]

    @property
    def rows_billed(self) -> int:
        """Rows billed in all, synchronous calls included."""
        with self._lock:
            return len(self._hashes)

    @property
    def bodies_billed(self) -> int:
        """Distinct bodies among the rows billed."""
        with self._lock:
            return len(set(self._hashes))

    @property
    def rows_billed_twice(self) -> int:
        """Rows billed beyond the first of their body: 0 says that nothing was paid for twice."""
        return self.rows_billed - self.bodies_billed

    @property
    def rows(self) -> dict[str, int]:
        """Rows not billed, by what became of them, and how many of the billed ones were ``synchronous``."""
        with self._lock:
            return dict(self._rows)

    @property
    def billed_twice(self) -> list[dict[str, Any]]:
        """Bodies billed more than once: ``{"body": hash, "times": n, "rows": [{"batch", "custom_id"}]}``."""
        with self._lock:
            times = {key: number for key, number in Counter(self._hashes).items() if number > 1}
            listed = dict(list(times.items())[:_LISTED])
            rows: dict[int, list[dict[str, str]]] = {key: [] for key in listed}
            if listed:
                for index, key in enumerate(self._hashes):
                    if key in rows:
                        rows[key].append(self._row(index))
        return [{"body": f"{key:016x}", "times": times[key], "rows": rows[key]} for key in listed]

    def _row(self, index: int) -> dict[str, str]:
        start = self._ends[index - 1] if index else 0
        origin = self._origins[index]
        return {
            "batch": self._batch_ids[origin - 1] if origin else _SYNCHRONOUS,
            "custom_id": self._names[start : self._ends[index]].decode(),
        }

    def snapshot(self) -> dict[str, Any]:
        """Return all of it as the JSON of ``GET /emulator/ledger``."""
        files, batches = self.files, self.batches
        return {
            "emulated": True,
            "calls": self.calls,
            "calls_at_once": self.calls_at_once,
            "faults": self.faults,
            "batches": {"created": len(batches), "data": batches},
            "rows": {
                "billed": self.rows_billed,
                "bodies": self.bodies_billed,
                "billed_twice": {"count": self.rows_billed_twice, "data": self.billed_twice},
                **dict.fromkeys(("synchronous", "failed", "not_run", "lost", "garbled"), 0),
                **self.rows,
            },
            "synchronous": self.synchronous,
            "files": {"live": len(files), "bytes": sum(file["bytes"] for file in files), "data": files},
        }
