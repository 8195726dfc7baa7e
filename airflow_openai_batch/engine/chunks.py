"""Rows -> lines of shards, some rows at a time.

What is done here is done for each of millions of rows: one loop makes the requests of a block of rows, and what comes
of them is in lists, which are taken on as a whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from airflow_openai_batch.engine.requests import RequestBuilder, RowError, count_inputs
from airflow_openai_batch.engine.sources import place
from airflow_openai_batch.engine.values import json_form
from airflow_openai_batch.exceptions import Problem

if TYPE_CHECKING:
    from airflow_openai_batch.engine.shards import Limits
    from airflow_openai_batch.engine.sources import Rows

_NO_JSON = (TypeError, ValueError, RecursionError)


class Chunk:
    """The requests of a block of rows, as columns: one entry for each request, in their order.

    :ivar lines: lines of shards, each with its newline.
    :ivar models: the model of each.
    :ivar inputs: how much of a batch's count each takes up; empty: one each.
    :ivar identities: the ids that results show, as JSON.
    :ivar columns: the rows' columns, as JSON.
    :ivar custom_ids: users' own ids: one for each row that has one.
    :ivar problems: what is wrong with rows, which have no requests then.
    """

    __slots__ = ("columns", "custom_ids", "identities", "inputs", "lines", "models", "problems")

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.models: list[str] = []
        self.inputs: list[int] = []
        self.identities: list[bytes] = []
        self.columns: list[bytes] = []
        self.custom_ids: list[str] = []
        self.problems: list[Problem] = []


class ChunkMaker:
    """Makes chunks of blocks of rows.

    :param builder: makes the request of a row.
    :param limits: what a batch may hold; a request that is more by itself is a problem.
    """

    def __init__(self, builder: RequestBuilder, limits: Limits) -> None:
        self._builder = builder
        self._limits = limits
        url = orjson.dumps(builder.url).replace(b"%", b"%%")
        self._head = b'{"custom_id":"r%%d","method":"POST","url":%b,"body":%%b}\n' % url
        self._embeds = builder.endpoint.endswith("/embeddings")

    def chunk(self, first: int, block: Rows) -> Chunk:
        """Make the requests of a block of rows.

        :param first: the number of its first row, from 0. Requests have the numbers of their rows; with several models
            they are counted on, row by row.
        """
        made = Chunk()
        request, several, head, most, dumps = (
            self._builder.request,
            self._builder.models,
            self._head,
            self._limits.bytes,
            orjson.dumps,
        )
        lines, models, identities, columns, ids = (
            made.lines,
            made.models,
            made.identities,
            made.columns,
            made.custom_ids,
        )
        for row, data in enumerate(block.records, first):
            try:
                custom_id, body, shown = request(data)
                if several or self._embeds:
                    self._add(made, row, custom_id, body, shown)
                    continue
                try:
                    identity = dumps(custom_id) if custom_id else b'"r%d"' % row
                    column = dumps(shown) if shown else b"{}"
                    line = head % (row, dumps(body))
                except _NO_JSON:
                    self._add(made, row, custom_id, body, shown)
                    continue
                if len(line) > most:
                    self._check_size(line, 1)
            except RowError as error:
                where = place(block.path, block.line + row - first)
                made.problems.append(Problem(where, error.field, str(error)))
                continue
            if custom_id is not None:
                ids.append(custom_id)
            identities.append(identity)
            columns.append(column)
            lines.append(line)
            models.append(body["model"])
        return made

    def _add(self, made: Chunk, row: int, custom_id: str | None, body: dict[str, Any], shown: dict[str, Any]) -> None:
        """Add a row's requests to a chunk: one for each model, of inputs to be counted, or of values that need a form.

        :raises RowError: a value has none, or a request is more than a batch may hold.
        """
        identity = _encode("custom_id", custom_id) if custom_id else b'"r%d"' % row
        column = _encode("", shown) if shown else b"{}"
        inputs = count_inputs(body, self._builder.endpoint)
        if custom_id is not None:
            made.custom_ids.append(custom_id)
        bodies = [{**body, "model": model} for model in self._builder.models] or [body]
        for number, one in enumerate(bodies, row * len(bodies)):
            line = self._head % (number, _encode("body", one))
            self._check_size(line, inputs)
            made.lines.append(line)
            made.models.append(one["model"])
            if self._embeds:
                made.inputs.append(inputs)
            made.identities.append(identity)
            made.columns.append(column)

    def _check_size(self, line: bytes, inputs: int) -> None:
        if len(line) > self._limits.bytes:
            raise RowError("", f"its request has {len(line):,} bytes; a batch takes {self._limits.bytes:,}")
        if inputs > self._limits.requests:
            raise RowError("input", f"{inputs:,} inputs; a batch takes {self._limits.requests:,}")


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
