"""Requests -> shards on the store, streamed: one pass, one shard of each model open at a time.

Two kinds of file come out, line for line in step with the rows: shards (``_job/shards``), which are uploaded as they
are, and joints (``_job/rows``), which hold what results need of a row: its number, the user's id and columns, and the
shard it went to. A joint file closes whenever a shard does, and becomes one part of the results, so that parts cover
consecutive rows even where several models are mixed.

Nothing of a plan with a problem in it is kept, and reading goes on to the end so that all problems are counted. When
reading breaks, what was written stays for the next try to write over: another attempt may be writing the same names.
"""

from __future__ import annotations

from array import array
from collections import Counter
from typing import TYPE_CHECKING

import orjson

from airflow_openai_batch.engine.chunks import ChunkMaker
from airflow_openai_batch.engine.columns import dump_schema
from airflow_openai_batch.engine.digests import new_digest
from airflow_openai_batch.engine.journal import JOB
from airflow_openai_batch.engine.models import Part, Plan, Shard, SourceSpan
from airflow_openai_batch.engine.progress import Progress
from airflow_openai_batch.engine.requests import row_of, wire_id
from airflow_openai_batch.engine.shards import SHARDS, Limits, ShardWriter, Sink
from airflow_openai_batch.engine.sources import Source, place
from airflow_openai_batch.engine.store import DRAFTS
from airflow_openai_batch.exceptions import MAX_PROBLEMS_SHOWN, InputError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from airflow_openai_batch.engine.chunks import Chunk
    from airflow_openai_batch.engine.requests import RequestBuilder
    from airflow_openai_batch.engine.sampling import Sampler
    from airflow_openai_batch.engine.store import Store

JOINTS = "_job/rows"

MAX_SOURCE_SPANS = 10_000
"""Jumps in line numbers that are kept for messages about a row's place."""


class OvertakenError(Exception):
    """Another attempt has begun to plan the same job; its files must not be overwritten."""


class Planner:
    """Makes the plan of a job.

    :param store: where shards and joints go; None to read and check alone (the plan's digest is the same).
    :param its_turn: asked before each file is published: whether no other attempt has begun to plan since.
    :param sampler: weighs the requests, for an estimate.
    """

    def __init__(
        self,
        store: Store | None,
        builder: RequestBuilder,
        limits: Limits,
        its_turn: Callable[[], bool] = lambda: True,
        sampler: Sampler | None = None,
    ) -> None:
        self._sampler = sampler
        self._store = store
        self._its_turn = its_turn
        self._builder = builder
        self._limits = limits
        self._open: dict[str, ShardWriter] = {}
        self._shards: list[Shard] = []
        self._parts: list[Part] = []
        self._sources: list[SourceSpan] = []
        self._written: list[str] = []
        self._joint: Sink | None = None
        self._part_first = 0
        self._digest = new_digest()
        self._ids: tuple[array[int], ...] = tuple(array("q") for _ in range(256))
        self._unnamed: list[range] = []
        self._problems: list[Problem] = []
        self._count = 0

    def plan(self, source: Source) -> Plan:
        """Read the source once and write its shards.

        :raises InputError: there are problems, or no rows; nothing is left on the store.
        """
        try:
            rows = self._read(source)
            if not rows and not self._count:
                self._problem(Problem("source", "", "it has no rows"))
            self._find_duplicates(source)
            if self._count:
                raise InputError(self._problems, self._count)  # noqa: TRY301 - one way out for every failure
            for model in list(self._open):
                self._close_shard(model)
            self._close_part(rows)
        except BaseException as error:
            self._abandon(tidy=isinstance(error, InputError))
            raise
        schema = source.schema()
        return Plan(
            rows,
            tuple(self._shards),
            tuple(self._parts),
            tuple(self._sources),
            self._digest.hexdigest(),
            "" if schema is None else dump_schema(schema),
        )

    def _read(self, source: Source) -> int:
        """Read all rows; return how many requests were made of them."""
        rows = number = 0
        maker = ChunkMaker(self._builder, self._limits)
        next_line, last_path = -1, ""
        progress = Progress("Planning", "rows")
        for block in source.requests(maker.ready):
            if isinstance(block, Problem):
                self._problem(block)
                continue
            path, line, records = block[:3]
            if line != next_line or path != last_path:
                self._note_jump(rows, path, line)
                last_path = path
            next_line = line + len(records)
            chunk = maker.chunk(rows, block)
            for problem in chunk.problems:
                self._problem(problem)
            self._note_ids(chunk.custom_ids)
            self._note_unnamed(chunk.unnamed)
            # Nothing comes of a plan with a problem; what is left to do then is to find all of them.
            if not self._count and chunk.models:
                self._assign(chunk, 0, len(chunk.models))
                number += len(chunk.models)
            rows += len(records)
            progress.add(len(records), source.fraction)
        return number

    def _assign(self, chunk: Chunk, begin: int, end: int) -> None:
        """Write some of a chunk's requests to the shards of their models, and their joints, as if one by one."""
        open_, portions = self._open, chunk.portions(begin, end)
        if all(model in open_ and open_[model].has_room(portion) for model, portion in portions.items()):
            for model, portion in portions.items():
                open_[model].take(portion)
            if self._joint is None:
                self._joint = self._sink(f"{JOINTS}/{len(self._parts):05d}.jsonl")
            self._joint.write(chunk.joints(begin, end, {model: open_[model].number for model in portions}))
        elif end - begin > 1:
            middle = (begin + end) // 2
            self._assign(chunk, begin, middle)
            self._assign(chunk, middle, end)
        else:
            self._next_shard(chunk.first + begin, chunk.models[begin])
            self._assign(chunk, begin, end)

    def _sink(self, name: str) -> Sink:
        self._written.append(name)
        return Sink(self._store, name)

    def _note_jump(self, row: int, path: str, line: int) -> None:
        if len(self._sources) < MAX_SOURCE_SPANS:
            self._sources.append(SourceSpan(row, path, line))

    def _note_ids(self, custom_ids: Iterable[str]) -> None:
        ids = self._ids
        for key in map(hash, custom_ids):
            ids[key & 255].append(key)

    def _note_unnamed(self, rows: Sequence[int]) -> None:
        """Note rows whose ids are ours: one by one if they are mixed with others, else as spans."""
        if not isinstance(rows, range):
            self._note_ids(map(wire_id, rows))
        elif self._unnamed and self._unnamed[-1].stop == rows.start:
            self._unnamed[-1] = range(self._unnamed[-1].start, rows.stop)
        else:
            self._unnamed.append(rows)

    def _problem(self, problem: Problem) -> None:
        self._count += 1
        if len(self._problems) < MAX_PROBLEMS_SHOWN:
            self._problems.append(problem)

    def _next_shard(self, number: int, model: str) -> None:
        """Begin a shard: its model's first, or since the open one has no room for a request of a number."""
        if model in self._open:
            self._close_shard(model)
            self._close_part(number)
        shard = len(self._shards) + len(self._open)
        self._open[model] = ShardWriter(
            self._store, shard, 0, model, self._limits, tally=self._sampler.tally(model) if self._sampler else None
        )

    def _check_turn(self) -> None:
        if not self._its_turn():
            raise OvertakenError

    def _close_shard(self, model: str) -> None:
        self._check_turn()
        shard = self._open[model].close()
        del self._open[model]
        self._written.append(f"{SHARDS}/{shard.name}")
        self._shards.append(shard)
        self._shards.sort(key=lambda item: item.number)
        self._digest.update(f"{shard.number}:{shard.digest}".encode())

    def _close_part(self, next_row: int) -> None:
        if self._joint is None:
            return
        self._check_turn()
        digest = self._joint.publish()
        self._digest.update(digest.encode())
        rows = next_row - self._part_first
        self._parts.append(Part(len(self._parts), self._part_first, rows, digest))
        self._part_first = next_row
        self._joint = None

    def _abandon(self, *, tidy: bool) -> None:
        for writer in self._open.values():
            writer.abandon()
        if self._joint is not None:
            self._joint.abandon()
        # Another attempt may be at the same plan, and then these are its files too; only bad input fails for all.
        if tidy and self._store is not None and not self._store.exists(JOB):
            self._store.remove(self._written)
            for folder in (DRAFTS, SHARDS, JOINTS):
                self._store.prune(folder)

    def _find_duplicates(self, source: Source) -> None:
        """Report ids that stand twice: users' own, and one that a row without gets from us.

        Hashes are kept while reading; only a hit costs a second reading.
        """
        if any(self._ids):
            for span in self._unnamed:
                self._note_ids(map(wire_id, span))
        twice: set[int] = set()
        for bucket in self._ids:
            if len(set(bucket)) < len(bucket):
                twice.update(key for key, times in Counter(bucket).items() if times > 1)
        if not twice:
            return
        places: dict[str, str] = {}
        number = -1
        reread = False
        for row in source.rows():
            reread = True
            if isinstance(row, Problem):
                continue
            number += 1
            given = row.data.get("custom_id")
            custom_id = wire_id(number) if given is None or given == "" else str(given)
            if hash(custom_id) in twice:
                self._note_place(custom_id, row.where, places)
        if not reread:
            self._find_duplicates_written(twice)

    def _note_place(self, custom_id: str, where: str, places: dict[str, str]) -> None:
        first = places.setdefault(custom_id, where)
        if first != where:
            ours = "" if row_of(custom_id) is None else " (a row without custom_id gets r and its number)"
            self._problem(Problem(where, "custom_id", f"{custom_id!r} stands already at {first}{ours}"))

    def _find_duplicates_written(self, twice: set[int]) -> None:
        """Name the ids that stand twice in a source that can be read only once, as the joints have them."""
        if self._store is None:
            self._problem(Problem("source", "custom_id", f"{len(twice):,} of them stand more than once"))
            return
        self._close_part(0)
        places: dict[str, str] = {}
        last = -1
        for name in (name for name in self._written if name.startswith(JOINTS)):
            with self._store.open(name) as joints:
                for joint in map(orjson.loads, joints):
                    # With several models a row has several.
                    if joint["row"] != last and hash(joint["custom_id"]) in twice:
                        last = joint["row"]
                        self._note_place(joint["custom_id"], place("", joint["row"] + 1), places)
