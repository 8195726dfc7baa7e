"""Raw + joints -> results: one line a row, in input order, each row exactly once.

Landing holds an index of a raw file at a time (a line's id, where it stands and its length), never its text.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections import OrderedDict
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from airflow_openai_batch.engine.answers import Answer, Check, parse_line, read_line
from airflow_openai_batch.engine.models import STATUSES, Attempt, EndRecord, Key, Part, RowIssue, Shard, root_of
from airflow_openai_batch.engine.planner import JOINTS
from airflow_openai_batch.engine.requests import wire_id
from airflow_openai_batch.exceptions import JournalError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_openai_batch.engine.journal import JobState
    from airflow_openai_batch.engine.store import Store

RESULTS = "results"
RAW = "_job/raw"
MAX_ERRORS_SHOWN = 10

_OPEN_RAWS = 8
"""Raw files indexed at a time. Rounds and models interleave, so a few files serve several parts."""

_PIECE = 1 << 20

_RANK = {"succeeded": 3, "truncated": 2, "refused": 2, "filtered": 2, "invalid": 2, "failed": 1}
"""Which answer a row gets when several rounds gave one: the better; of equals the later."""


def raw_names(attempt: Attempt) -> list[str]:
    """Return the store's names of the raw files that an attempt has."""
    end = attempt.end
    if end is None:
        return []
    sizes = {"output": end.output_bytes, "error": end.error_bytes}
    return [f"{RAW}/{attempt.key}.{kind}.jsonl" for kind, size in sizes.items() if size]


class _Raw:
    """One attempt's raw files with an index from wire id to line. The first line of an id counts.

    Lines are read where they stand rather than mapped: mapped pages count as this process's memory.
    """

    def __init__(self, store: Store, shard: Shard, attempt: Attempt) -> None:
        self.shard = shard
        self._stack = ExitStack()
        self._files: list[int] = []
        self._slots: dict[str, int] = {}
        self._numbers, self._starts, self._lengths = array("B"), array("q"), array("q")
        for name in raw_names(attempt):
            file = self._stack.enter_context(self._stack.enter_context(store.local(name)).open("rb", _PIECE))
            start = 0
            for line in file:
                value = parse_line(line)
                if value is not None and value["custom_id"] not in self._slots:
                    self._slots[value["custom_id"]] = len(self._starts)
                    self._numbers.append(len(self._files))
                    self._starts.append(start)
                    self._lengths.append(len(line))
                start += len(line)
            self._files.append(file.fileno())

    def answer(self, wire: str, check: Check | None) -> Answer | None:
        """Return the answer to a wire id, or None where there is no line of it."""
        slot = self._slots.get(wire)
        if slot is None:
            return None
        line = os.pread(self._files[self._numbers[slot]], self._lengths[slot], self._starts[slot])
        value = parse_line(line)
        return None if value is None else read_line(value, check)

    def close(self) -> None:
        self._stack.close()


class _Raws:
    """The raw files by attempt, a few indexed at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open: OrderedDict[Key, _Raw] = OrderedDict()

    def get(self, shard: Shard, attempt: Attempt) -> _Raw:
        raw = self._open.get(attempt.key)
        if raw is None:
            while len(self._open) >= _OPEN_RAWS:
                self._open.popitem(last=False)[1].close()
            raw = self._open[attempt.key] = _Raw(self._store, shard, attempt)
        self._open.move_to_end(attempt.key)
        return raw

    def forget_before(self, row: int) -> None:
        """Close those that hold nothing from that row on."""
        for key in [key for key, raw in self._open.items() if raw.shard.last < row]:
            self._open.pop(key).close()

    def close(self) -> None:
        for raw in self._open.values():
            raw.close()
        self._open.clear()


@dataclass
class Tally:
    """What landing counted."""

    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATUSES, 0))
    models: dict[str, dict[str, int]] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    def count(self, joint: bytes, model: str, answer: Answer, batch: str | None) -> None:
        """Count one result; keep a few examples of those without a good answer."""
        status = answer.status
        self.rows[status] += 1
        of_model = self.models.setdefault(model, {})
        of_model[status] = of_model.get(status, 0) + 1
        if status != "succeeded" and len(self.errors) < MAX_ERRORS_SHOWN:
            row = orjson.loads(joint)["row"]
            self.errors.append({"row": row, "status": status, "error": answer.error, "batch_id": batch})


class Landing:
    """Writes the results of a job whose rounds are over.

    :param foreign: the batch was made elsewhere: its wire ids are the user's own.
    """

    def __init__(self, store: Store, state: JobState, check: Check | None, *, foreign: bool) -> None:
        self._store = store
        self._check = check
        self._foreign = foreign
        self._first: dict[int, list[tuple[Shard, Attempt | None]]] = {}
        for shard in state.rounds[0]:
            self._first.setdefault(root_of(shard.number), []).append((shard, state.ended(shard)))
        self._later = [
            (shard, attempt)
            for shards in state.rounds[1:]
            for shard in shards
            if (attempt := state.ended(shard)) is not None
        ]
        self._raws = _Raws(store)
        self._issues: dict[Key, dict[int, RowIssue]] = {}

    def land(self, parts: tuple[Part, ...]) -> Tally:
        """Write every part, each published whole."""
        tally = Tally()
        try:
            for part in parts:
                name = f"{RESULTS}/part-{part.number:05d}.jsonl"
                with self._store.publish(name) as target:
                    pieces: list[bytes] = []
                    gathered = 0
                    for line in self._lines(part, tally):
                        pieces.append(line)
                        gathered += len(line)
                        if gathered >= _PIECE:
                            target.write(b"".join(pieces))
                            pieces.clear()
                            gathered = 0
                    target.write(b"".join(pieces))
                tally.files.append(self._store.address(name))
        finally:
            self._raws.close()
        return tally

    def _lines(self, part: Part, tally: Tally) -> Iterator[bytes]:
        last = part.first + part.rows - 1
        later = [(shard, attempt) for shard, attempt in self._later if shard.first <= last and shard.last >= part.first]
        row = part.first
        digest = hashlib.blake2b(digest_size=16)
        self._raws.forget_before(row)
        with self._store.open(f"{JOINTS}/{part.number:05d}.jsonl") as joints:
            for joint in joints:
                digest.update(joint)
                head, _, rest = joint.rstrip(b"\n").partition(b",")
                pieces = self._first[int(head[9:])]
                shard, attempt = next((piece for piece in pieces if piece[0].last >= row), pieces[-1])
                wire = orjson.loads(joint)["custom_id"] if self._foreign else wire_id(row)
                answer, source = self._best(row, wire, shard, attempt, later)
                batch = source.batch.batch_id if source and source.batch else None
                tail = {
                    "status": answer.status,
                    "output": answer.output,
                    "finish_reason": answer.finish_reason,
                    "model": answer.model or shard.model or None,
                    "usage": asdict(answer.usage) if answer.usage else None,
                    "error": answer.error,
                    "batch_id": batch,
                    "round": source.key.round if source else 0,
                }
                tally.count(joint, shard.model, answer, batch)
                yield b"{%b,%b\n" % (rest[:-1], orjson.dumps(tail, option=orjson.OPT_NON_STR_KEYS)[1:])
                row += 1
        if part.digest and digest.hexdigest() != part.digest:
            raise JournalError(
                f"{self._store.address(JOINTS)}/{part.number:05d}.jsonl isn't as it was planned, so answers can't be "
                "joined to their rows. The raw answers are kept beside it; restore the file and clear the task."
            )

    def _best(
        self, row: int, wire: str, shard: Shard, attempt: Attempt | None, later: list[tuple[Shard, Attempt]]
    ) -> tuple[Answer, Attempt | None]:
        best, source = self._answer(row, wire, shard, attempt), attempt
        for other, again in later:
            if best.status == "succeeded":
                break
            if other.model != shard.model or not other.first <= row <= other.last:
                continue
            found = self._raws.get(other, again).answer(wire, self._check) or self._implied(row, wire, again, other)
            if found is not None and _RANK.get(found.status, 0) >= _RANK.get(best.status, 0):
                best, source = found, again
        return best, source

    def _answer(self, row: int, wire: str, shard: Shard, attempt: Attempt | None) -> Answer:
        if attempt is None:
            return Answer(wire, "missing", error={"code": "not_run", "message": "no batch ran this row"})
        found = self._raws.get(shard, attempt).answer(wire, self._check)
        return found or self._absent(row, wire, attempt)

    def _implied(self, row: int, wire: str, attempt: Attempt, shard: Shard) -> Answer | None:
        """Return what a later batch without a line for the row says of it, if the row was in that batch at all."""
        if shard.spans is None or any(first <= row <= last for first, last in shard.spans):
            return self._absent(row, wire, attempt)
        return None

    def _absent(self, row: int, wire: str, attempt: Attempt) -> Answer:
        issues = self._issues.get(attempt.key)
        if issues is None:
            issues = {issue.row: issue for issue in attempt.end.issues} if attempt.end else {}
            self._issues[attempt.key] = issues
        return absent(wire, attempt.end, issues.get(row))


def absent(wire: str, end: EndRecord | None, issue: RowIssue | None) -> Answer:
    """Say what became of a row that a batch returned no line for.

    :param issue: what failed the row in the batch's validation, if it is known.
    """
    if end is None or end.status != "failed":
        error = {"code": "missing", "message": "the batch returned no line for this row"}
        return Answer(wire, "missing", may_repeat=True, error=error)
    told = issue or end.failure
    if told is None:
        error = {"code": "batch_failed", "message": "the batch failed for other rows; this one never ran"}
        return Answer(wire, "failed", may_repeat=True, error=error)
    return Answer(wire, "failed", error={"code": told.code, "message": told.message})
