"""Raw + joints -> results: one a row, in input order, each row exactly once.

Landing knows no format: it makes a result of each row, and what it is given writes them (:mod:`formats`). A result is
the joint's bytes, which nobody need parse, and what the answer adds to them.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import orjson

from airflow_openai_batch.engine.answers import RANK, Answer, Check
from airflow_openai_batch.engine.behind import written_behind
from airflow_openai_batch.engine.digests import new_digest
from airflow_openai_batch.engine.formats import Loosened, open_format
from airflow_openai_batch.engine.halves import root_of
from airflow_openai_batch.engine.models import STATUSES, Part, Shard
from airflow_openai_batch.engine.planner import JOINTS
from airflow_openai_batch.engine.quick import line_reader
from airflow_openai_batch.engine.raws import Raw, RawFiles
from airflow_openai_batch.engine.sifted import Harvest, Sifted
from airflow_openai_batch.exceptions import JournalError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_openai_batch.engine.formats import Format, Write
    from airflow_openai_batch.engine.journal import JobState
    from airflow_openai_batch.engine.models import Status
    from airflow_openai_batch.engine.records import Attempt, EndRecord, RowIssue, Sifting
    from airflow_openai_batch.engine.store import Store

log = logging.getLogger(__name__)

RESULTS = "results"
MAX_ERRORS_SHOWN = 10

_PIECE = 1 << 20

_ENDED = {"cancelled": "was cancelled", "expired": "expired"}


@dataclass
class Tally:
    """What landing counted."""

    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATUSES, 0))
    models: dict[str, dict[str, int]] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    format: str = "jsonl"

    def add(self, model: str, statuses: dict[str, int]) -> None:
        """Add results of a model."""
        of_model = self.models.setdefault(model, {})
        for status, count in statuses.items():
            self.rows[status] += count
            of_model[status] = of_model.get(status, 0) + count

    def example(self, joint: bytes, answer: Answer, batch: str | None) -> None:
        """Keep a few examples of results without a good answer."""
        if len(self.errors) < MAX_ERRORS_SHOWN:
            row = orjson.loads(joint)["row"]
            self.errors.append({"row": row, "status": answer.status, "error": answer.error, "batch_id": batch})


class _Run:
    """What one shard's batch returned, or didn't.

    :param attempt: None where no batch ran it.
    :param stopped: whether that is since the job was stopped.
    """

    def __init__(self, raw: Raw, shard: Shard, attempt: Attempt | None, *, stopped: bool = False) -> None:
        self._stopped = stopped
        self.raw = raw
        self.shard = shard
        self.ran = attempt is not None
        self.round = attempt.key.round if attempt else 0
        self.batch = attempt.batch.batch_id if attempt and attempt.batch else None
        self._end = attempt.end if attempt else None
        self._issues = {issue.row: issue for issue in self._end.issues} if self._end else {}

    def covers(self, first: int, last: int) -> bool:
        """Whether the shard has rows in that range."""
        return self.shard.first <= last and self.shard.last >= first

    def absent(self, row: int, wire: str) -> Answer:
        """Say what became of a row without a line."""
        if self._stopped and not self.ran:
            error = {"code": "job_cancelled", "message": "the job was cancelled before this row was sent"}
            return Answer(wire, "cancelled", error=error)
        if not self.ran:
            return Answer(wire, "missing", error={"code": "not_run", "message": "no batch ran this row"})
        # All rows without a line were counted alike.
        listed = self._end is not None and "missing" in self._end.rows
        return absent(wire, self._end, self._issues.get(row), listed=listed)

    def had(self, row: int) -> bool:
        """Whether the row was in the shard."""
        spans = self.shard.spans
        return spans is None or any(first <= row <= last for first, last in spans)


class Landing:
    """Writes the results of a job whose rounds are over.

    :param foreign: the batch was made elsewhere: its wire ids are the user's own.
    :param harvest: takes the answers that the cache is to have.
    """

    def __init__(
        self, store: Store, state: JobState, check: Check | None, *, foreign: bool, harvest: Harvest | None = None
    ) -> None:
        self._harvest = harvest
        self._sifted: Sifted | None = None
        self._store = store
        self._state = state
        self._check = check
        self._read = line_reader(check)
        self._foreign = foreign
        self._first: dict[int, list[_Run]] = {}
        self._later: list[_Run] = []

    def land(self, parts: tuple[Part, ...], format_: Format | None = None) -> Tally:
        """Write every part, each published whole.

        :param format_: what to write; default JSON Lines.
        """
        format_ = format_ or open_format("jsonl")
        format_.survey(lambda: self._joints(parts))
        while True:
            files = RawFiles(self._store)
            self._open(files)
            try:
                return self._land(parts, format_)
            except Loosened as why:
                if self._harvest is not None:
                    self._harvest.drop()
                log.info("Landing again from the start: %s", why)
            finally:
                files.close()
                if self._sifted is not None:
                    self._sifted.close()
                for run in self._runs():
                    run.raw.close()

    def _open(self, files: RawFiles) -> None:
        step = self._state.record.repeats

        def run(shard: Shard) -> _Run:
            attempt = self._state.ended(shard)
            raw = Raw(files, self._read, shard, attempt, step=step, foreign=self._foreign)
            return _Run(raw, shard, attempt, stopped=self._state.stop is not None)

        self._first = {}
        sifting = self._state.record.sifting
        for shard in self._state.rounds[0]:
            # Joints name the shard as it was planned; a sifted one's rows were of several.
            roots = [root_of(shard.number)] if shard.kind == "plan" else _planned(sifting, shard.model)
            opened = run(shard)
            for root in roots:
                self._first.setdefault(root, []).append(opened)
        if sifting is not None:
            self._sifted = Sifted(self._store, sifting, self._check)
            nowhere = Shard(0, 0, 0, 0, "", 0, 0, (), 0, "")
            self._nobody = _Run(Raw(files, self._read, nowhere, None, step=step, foreign=False), nowhere, None)
            for root, model in enumerate(sifting.models):
                # The canary's rows are few and known one by one; the others' shards follow each other.
                nothing = Shard(0, 0, 0, 0, model, 0, 0, (), 0, "")
                runs = sorted(self._first.get(root, []), key=lambda run: run.shard.kind != "canary")
                self._first[root] = runs or [
                    _Run(Raw(files, self._read, nothing, None, step=step, foreign=False), nothing, None)
                ]
        later = [run(shard) for shards in self._state.rounds[1:] for shard in shards]
        self._later = [run for run in later if run.ran]

    def _runs(self) -> Iterator[_Run]:
        yield from {id(run): run for runs in self._first.values() for run in runs}.values()
        yield from self._later

    @property
    def _looks_back(self) -> bool:
        """Whether rows share the answers of others, which may stand far before them."""
        sifting = self._state.record.sifting
        return sifting is not None and sifting.repeats > 0

    def _joints(self, parts: tuple[Part, ...]) -> Iterator[bytes]:
        for part in parts:
            with self._store.open(f"{JOINTS}/{part.number:05d}.jsonl") as joints:
                yield from joints

    def _land(self, parts: tuple[Part, ...], format_: Format) -> Tally:
        tally = Tally(format=format_.name)
        for part, following in zip(parts, (*parts[1:], None), strict=True):
            self._turn_to(part, following)
            name = f"{RESULTS}/part-{part.number:05d}.{format_.suffix}"
            with self._store.publish(name) as target, format_.writer(target) as write:
                self._write(part, write, tally)
            tally.files.append(self._store.address(name))
        return tally

    def _turn_to(self, part: Part, following: Part | None) -> None:
        """Close what no row needs any more, begin to fetch what the next part needs."""
        for run in self._runs():
            if run.shard.last < part.first and not self._looks_back:
                run.raw.close()
            elif following and run.covers(following.first, following.first + following.rows - 1):
                run.raw.fetch_ahead()

    def _write(self, part: Part, write: Write, tally: Tally) -> None:  # noqa: C901 - one loop, for each of millions of rows
        row, last = part.first, part.first + part.rows - 1
        later = [run for run in self._later if run.covers(row, last)]
        counts: dict[str, dict[str, int]] = {}
        digest = new_digest()
        head, foreign, sifted = b"\n", self._foreign, self._sifted
        name = f"{JOINTS}/{part.number:05d}.jsonl"
        with self._store.open(name) as joints, written_behind(digest.update) as digested:
            while lines := joints.readlines(_PIECE):
                digested.writelines(lines)
                for joint in lines:
                    if not joint.startswith(head):
                        head = joint[: joint.index(b",") + 1]
                        cut, runs = len(head), self._first[int(head[9:-1])]
                        run, model = runs[0], runs[0].shard.model
                        count = counts.setdefault(model, defaultdict(int))
                    cached = False
                    if sifted is not None:
                        answer, by, cached = self._find(row, runs, later, sifted)
                        if answer.status != "succeeded":
                            tally.example(joint, answer, by.batch)
                    else:
                        if row > run.shard.last and len(runs) > 1:
                            run = next((run for run in runs if run.shard.last >= row), runs[-1])
                        wire = orjson.loads(joint)["custom_id"] if foreign else f"r{row}"
                        answer = run.raw.answer(row, wire) or run.absent(row, wire)
                        by = run
                        if answer.status != "succeeded":
                            answer, by = self._better(answer, run, later, row, wire)
                            if answer.status != "succeeded":
                                tally.example(joint, answer, by.batch)
                    _, status, _, output, reason, answered_by, usage, error = answer
                    count[status] += 1
                    tail = {
                        "status": status,
                        "output": output,
                        "finish_reason": reason,
                        "model": answered_by or model or None,
                        "usage": usage,
                        "error": error,
                        "batch_id": by.batch,
                        "round": by.round,
                    }
                    if sifted is not None:
                        tail["cached"] = cached
                    # Without the shard, the closing brace and the newline.
                    write(joint[cut:-2], tail, by.raw.size)
                    row += 1
        if part.digest and digest.hexdigest() != part.digest:
            raise JournalError(
                f"{self._store.address(name)} isn't as it was planned, so answers can't be "
                "joined to their rows. The raw answers are kept beside it; restore the file and clear the task."
            )
        for model, statuses in counts.items():
            tally.add(model, statuses)

    def _find(self, row: int, runs: list[_Run], later: list[_Run], sifted: Sifted) -> tuple[Answer, _Run, bool]:
        """Return the answer of a row of a sifted job, who gave it, and whether that was the cache."""
        known = sifted.known(row, f"r{row}")
        if known is not None and known.answer is not None:
            return known.answer, self._nobody, True
        asked = row if known is None else known.row
        wire = f"r{asked}"
        run = next((run for run in runs if run.shard.first <= asked <= run.shard.last and run.had(asked)), runs[-1])
        answer = run.raw.answer(asked, wire) or run.absent(asked, wire)
        if answer.status != "succeeded":
            # A row far back may have gone again in a round whose rows are all before this part's.
            answer, run = self._better(answer, run, later if asked == row else self._later, asked, wire)
        if asked != row:
            return answer._replace(usage=None), run, False
        if self._harvest is not None and answer.status == "succeeded":
            self._harvest.take(row, run.raw.line())
        return answer, run, False

    def _better(self, answer: Answer, run: _Run, later: list[_Run], row: int, wire: str) -> tuple[Answer, _Run]:
        """Return a row's best answer of all rounds, of equals the latest, and who gave it."""
        model = run.shard.model
        for other in later:
            if other.shard.model != model or not other.covers(row, row):
                continue
            found = other.raw.answer(row, wire)
            if found is None and other.had(row):
                found = other.absent(row, wire)
            if found is not None and RANK.get(found.status, 0) >= RANK.get(answer.status, 0):
                answer, run = found, other
            if answer.status == "succeeded":
                break
        return answer, run


def _planned(sifting: Sifting | None, model: str) -> list[int]:
    """Return the numbers of the shards that a model had in the plan."""
    return [number for number, name in enumerate(sifting.models if sifting else ()) if name == model]


def absent(wire: str, end: EndRecord | None, issue: RowIssue | None, *, listed: bool) -> Answer:
    """Say what became of a row that a batch returned no line for.

    :param issue: what failed the row in the batch's validation, if it is known.
    :param listed: whether the batch has lines for rows that never ran, so that one without has been lost.
    """
    if end is not None and end.status in _ENDED and not listed:
        error = {"code": f"batch_{end.status}", "message": f"the batch {_ENDED[end.status]} before this row ran"}
        return Answer(wire, cast("Status", end.status), may_repeat=True, error=error)
    if end is None or end.status != "failed":
        error = {"code": "missing", "message": "the batch returned no line for this row"}
        return Answer(wire, "missing", may_repeat=True, error=error)
    told = issue or end.failure
    if told is None:
        error = {"code": "batch_failed", "message": "the batch failed for other rows; this one never ran"}
        return Answer(wire, "failed", may_repeat=True, error=error)
    return Answer(wire, "failed", error={"code": told.code, "message": told.message})
