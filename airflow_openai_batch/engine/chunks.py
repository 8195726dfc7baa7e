"""Rows -> lines of shards and joints, a block of rows at a time.

What is done here is done for each of millions of rows: one loop makes the requests of a block, and what comes of them
is in lists, which one formatting makes the bytes of a file of.
"""

from __future__ import annotations

from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from airflow_openai_batch.engine.ready import ReadyLines, ReadyRows
from airflow_openai_batch.engine.requests import RequestBuilder, RowError, count_inputs
from airflow_openai_batch.engine.sources import place
from airflow_openai_batch.engine.values import json_form
from airflow_openai_batch.exceptions import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow_openai_batch.engine.shards import Limits
    from airflow_openai_batch.engine.sources import Rows

_NO_JSON = (TypeError, ValueError, RecursionError)

_DIGITS = 20
"""More than a request's number has."""

_JOINT = b'{"shard":%d,"row":%d,"custom_id":%b,"input":%b}\n'

_flat = chain.from_iterable


class Portion(NamedTuple):
    """Requests for one shard.

    :param numbers: theirs, ascending.
    :param lines: all of their lines.
    :param inputs: how much of a batch's count they take up.
    :param line: gives the line of one, by its place among them.
    """

    numbers: Sequence[int]
    lines: bytes
    inputs: int
    line: Callable[[int], bytes]


class Chunk:
    """The requests of a block of rows, as columns: one entry for each request, in their order.

    :ivar first: the number of the first of them.
    :ivar bodies: their bodies, as JSON.
    :ivar models: the model of each.
    :ivar inputs: how much of a batch's count each takes up; empty: one each.
    :ivar identities: the ids that results show, as JSON.
    :ivar columns: the rows' columns, as JSON.
    :ivar custom_ids: users' own ids: one for each row that has one; an empty one is none.
    :ivar named: the numbers of these rows, but for requests taken as they stand.
    :ivar unnamed: the numbers of the rows that have none.
    :ivar problems: what is wrong with rows, which have no requests then.
    """

    __slots__ = (
        "_several",
        "_wire",
        "bodies",
        "columns",
        "custom_ids",
        "first",
        "identities",
        "inputs",
        "models",
        "named",
        "problems",
        "unnamed",
    )

    def __init__(self, first: int, wire: bytes, several: int) -> None:
        self._wire = wire
        self._several = several
        self.first = first
        self.bodies: list[bytes] = []
        self.models: list[str] = []
        self.inputs: list[int] = []
        self.identities: list[bytes] = []
        self.columns: list[bytes] = []
        self.custom_ids: list[str] = []
        self.named: list[int] = []
        self.unnamed: Sequence[int] = ()
        self.problems: list[Problem] = []

    def take(self, block: ReadyRows, *, embeds: bool) -> None:
        """Take requests as they stand.

        :param embeds: whether inputs are counted; each has one.
        """
        _, _, self.custom_ids, self.bodies, self.models = block
        self.identities = list(map(orjson.dumps, self.custom_ids))
        self.columns = [b"{}"] * len(self.bodies)
        self.inputs = [1] * len(self.bodies) if embeds else []

    def portions(self, begin: int, end: int) -> dict[str, Portion]:
        """Return some of the requests by model."""
        models = self.models
        if models.count(models[begin]) == len(models):
            return {models[begin]: self._portion(range(begin, end))}
        places: dict[str, list[int]] = {}
        for at in range(begin, end):
            places.setdefault(models[at], []).append(at)
        return {model: self._portion(some) for model, some in places.items()}

    def _portion(self, places: range | list[int]) -> Portion:
        numbers: Sequence[int]
        if isinstance(places, range):
            numbers = range(self.first + places.start, self.first + places.stop)
            bodies, inputs = self.bodies[places.start : places.stop], self.inputs[places.start : places.stop]
        else:
            numbers, bodies = [self.first + at for at in places], [self.bodies[at] for at in places]
            inputs = [self.inputs[at] for at in places] if self.inputs else []
        lines = (self._wire * len(numbers)) % tuple(_flat(zip(numbers, bodies, strict=True)))
        return Portion(
            numbers, lines, sum(inputs) if inputs else len(numbers), lambda at: self._wire % (numbers[at], bodies[at])
        )

    def joints(self, begin: int, end: int, shards: dict[str, int]) -> bytes:
        """Return the joints of some of the requests.

        :param shards: the number of the shard that those of a model went to.
        """
        numbers = range(self.first + begin, self.first + end)
        rows = numbers if self._several == 1 else [number // self._several for number in numbers]
        went = [shards[model] for model in self.models[begin:end]] if len(shards) > 1 else repeat(*shards.values())
        parts = zip(went, rows, self.identities[begin:end], self.columns[begin:end], strict=False)
        return (_JOINT * (end - begin)) % tuple(_flat(parts))


class ChunkMaker:
    """Makes chunks of blocks of rows.

    :param builder: makes the request of a row.
    :param limits: what a batch may hold; a request that is more by itself is a problem.
    :ivar ready: takes lines that are requests as they stand; None where there can't be any.
    """

    def __init__(self, builder: RequestBuilder, limits: Limits) -> None:
        self._builder = builder
        self._limits = limits
        url = orjson.dumps(builder.url).replace(b"%", b"%%")
        self._wire = b'{"custom_id":"r%%d","method":"POST","url":%b,"body":%%b}\n' % url
        self._embeds = builder.endpoint.endswith("/embeddings")
        self._several = len(builder.models) or 1
        # A body that is shorter is surely small enough, whatever number its request has.
        self._surely = limits.bytes - len(self._wire) - _DIGITS
        self.ready = ReadyLines(builder.endpoint, builder.shape, self._surely) if builder.takes_bodies else None

    def chunk(self, row: int, block: Rows | ReadyRows) -> Chunk:
        """Make the requests of a block of rows.

        :param row: the number of its first row, from 0. Requests have the numbers of their rows; with several models
            they are counted on, row by row.
        """
        made = Chunk(row * self._several, self._wire, self._several)
        if isinstance(block, ReadyRows):
            made.take(block, embeds=self._embeds)
            return made
        request, dumps, embeds = self._builder.request, orjson.dumps, self._embeds
        # No request is surely small enough where each is several.
        surely = 0 if self._builder.models else self._surely
        bodies, models, identities, columns = made.bodies, made.models, made.identities, made.columns
        named = made.named
        for number, data in enumerate(block.records, row):
            try:
                custom_id, body, shown = request(data)
                try:
                    identity = dumps(custom_id) if custom_id else b'"r%d"' % number
                    column = dumps(shown) if shown else b"{}"
                    encoded = dumps(body)
                except _NO_JSON:
                    self._add(made, number, custom_id, body, shown)
                    continue
                if len(encoded) > surely:
                    self._add(made, number, custom_id, body, shown)
                    continue
                if embeds:
                    made.inputs.append(self._count(body))
            except RowError as error:
                where = place(block.path, block.line + number - row)
                made.problems.append(Problem(where, error.field, str(error)))
                continue
            if custom_id:
                made.custom_ids.append(custom_id)
                named.append(number)
            bodies.append(encoded)
            models.append(body["model"])
            identities.append(identity)
            columns.append(column)
        made.unnamed = _others(range(row, row + len(block.records)), named)
        return made

    def _add(self, made: Chunk, row: int, custom_id: str | None, body: dict[str, Any], shown: dict[str, Any]) -> None:
        """Add a row's requests to a chunk, whatever they are.

        :raises RowError: a value has no form in JSON, or a request is more than a batch may hold.
        """
        identity = _encode("custom_id", custom_id) if custom_id else b'"r%d"' % row
        column = _encode("", shown) if shown else b"{}"
        inputs = self._count(body)
        if custom_id:
            made.custom_ids.append(custom_id)
            made.named.append(row)
        for number, model in enumerate(self._builder.models or (body["model"],), row * self._several):
            encoded = _encode("body", {**body, "model": model})
            size = len(self._wire % (number, encoded))
            if size > self._limits.bytes:
                raise RowError("", f"its request has {size:,} bytes; a batch takes {self._limits.bytes:,}")
            made.bodies.append(encoded)
            made.models.append(model)
            made.identities.append(identity)
            made.columns.append(column)
            if self._embeds:
                made.inputs.append(inputs)

    def _count(self, body: dict[str, Any]) -> int:
        inputs = count_inputs(body, self._builder.endpoint)
        if inputs > self._limits.requests:
            raise RowError("input", f"{inputs:,} inputs; a batch takes {self._limits.requests:,}")
        return inputs


def _others(rows: range, some: list[int]) -> Sequence[int]:
    """Return the rows that aren't some of them: usually all, or none."""
    if not some:
        return rows
    return () if len(some) == len(rows) else sorted({*rows}.difference(some))


def _encode(name: str, value: Any) -> bytes:
    try:
        # What JSON has a form for, which is nearly all, goes faster without options.
        return orjson.dumps(value)
    except _NO_JSON:
        pass
    try:
        return orjson.dumps(value, default=json_form, option=orjson.OPT_NON_STR_KEYS)
    except _NO_JSON as error:
        raise RowError(name, str(error.__cause__ or error)[:200]) from error
