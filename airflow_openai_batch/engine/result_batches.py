"""Results -> Arrow record batches that all have one schema.

What the schema is has three sources: the plan's own schema of the source, the rows (:meth:`Typed.survey`), and the
job's structured output. Where a value gives the lie to it, the column concerned becomes a wider one, and whoever
writes begins again (:class:`Loosened`): that ends, since a column can only become wider, and at last is text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jsonlines
import orjson

from airflow_openai_batch.engine.columns import (
    Column,
    MisfitError,
    declared_column,
    load_schema,
    plain,
    seen_column,
    text_column,
    text_of,
)
from airflow_openai_batch.engine.outputs import output_of
from airflow_openai_batch.engine.shapes import Shape

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pyarrow as pa

FIELDS = (
    "row",
    "custom_id",
    "input",
    "status",
    "output",
    "finish_reason",
    "model",
    "usage",
    "error",
    "batch_id",
    "round",
)
"""Of a result, in this order; behind them :data:`CACHED`, where the job looked for answers that were known."""

CACHED = "cached"

USAGE = ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens", "total_tokens")

Flattened = tuple[str, "str | None", Column]
"""A field of a result, what it has of it or None for all, and how."""

_MOST_MISFITS = 3
"""Times that single columns are made text; then all are that have a type of the source's."""

_REPETITIVE = ["status", "finish_reason", "model", "error.code", "batch_id", "round"]


class Loosened(Exception):  # noqa: N818 - a turn of events
    """A column has another type from now on; what was written before it doesn't fit what comes."""


class _Surveyed:
    """What both kinds of table know of the rows' columns."""

    def __init__(self) -> None:
        self._rows = Shape()

    def survey(self, joints: Iterable[bytes]) -> None:
        """Look at all rows; lines that can't be read are somebody else's to report."""
        for joint in jsonlines.Reader(joints, loads=orjson.loads).iter(type=dict, skip_invalid=True, skip_empty=True):
            self.see(joint.get("input"))

    def see(self, columns: Any) -> None:
        """Look at the columns of one row."""
        self._rows.see(columns)


class Typed(_Surveyed):
    """Nested, typed columns, as Parquet has them.

    :param columns: the source's schema as the plan keeps it, or nothing.
    :param response_format: the job's structured output, normalized.
    :param endpoint: the job's.
    :param cached: whether results say if the cache gave them.
    """

    def __init__(
        self,
        columns: str = "",
        response_format: dict[str, Any] | None = None,
        endpoint: str = "",
        *,
        cached: bool = False,
    ) -> None:
        super().__init__()
        self._cached = cached
        self._source = columns
        self._output = output_of(response_format, endpoint)
        self._columns: dict[str, Column] | None = None
        self._declared: set[str] = set()
        self._begun = False
        self._misfits = 0

    @property
    def schema(self) -> pa.Schema:
        """What all batches have, as far as is known."""
        import pyarrow as pa

        names = list(self._named())
        kinds = [column.type for column in self._named().values()]
        own = pa.struct(list(zip(spelt(names), kinds, strict=True))) if names else pa.string()
        text, number = pa.string(), pa.int64()
        return pa.schema(
            [
                pa.field("row", number, nullable=False),
                ("custom_id", text),
                ("input", own),
                pa.field("status", text, nullable=False),
                ("output", self._output.type),
                ("finish_reason", text),
                ("model", text),
                ("usage", pa.struct([(name, number) for name in USAGE])),
                ("error", pa.struct([("code", text), ("message", text), ("status_code", number), ("output", text)])),
                ("batch_id", text),
                ("round", number),
                *([(CACHED, pa.bool_())] if self._cached else []),
            ]
        )

    def repetitive(self) -> bool | list[str]:
        """Return the columns that a dictionary makes smaller: not vectors, each of which is another."""
        import pyarrow as pa

        return _REPETITIVE if pa.types.is_nested(self._output.type) and self._has_floats() else True

    def _has_floats(self) -> bool:
        import pyarrow as pa

        kind = self._output.type
        while not pa.types.is_struct(kind) and pa.types.is_nested(kind):
            kind = kind.value_type
        return bool(pa.types.is_float32(kind))

    def batch(self, results: list[dict[str, Any]]) -> pa.RecordBatch:
        """Return results as a record batch.

        :raises Loosened: its schema isn't that of the batches before.
        """
        import pyarrow as pa

        outputs = [result["output"] for result in results]
        if self._output.look(outputs) and self._begun:
            raise Loosened(f"output is {self._output.type} by now")
        own = self._input([result["input"] for result in results])
        output, rest = self._output.array(outputs)
        schema = self.schema
        errors = [_error(result["error"], rest.get(place)) for place, result in enumerate(results)]
        made = {"input": own, "output": output, "error": pa.array(errors, schema.field("error").type)}
        arrays = [
            made.get(field.name)
            if field.name in made
            else pa.array([_scalar(result[field.name], field.type) for result in results], field.type)
            for field in schema
        ]
        self._begun = True
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _named(self) -> dict[str, Column]:
        if self._columns is None:
            self._columns = self._find_columns()
        return self._columns

    def _find_columns(self) -> dict[str, Column]:
        """Return the columns: those of the source's schema first, as far as rows have them, then others."""
        if not self._rows.only(dict) or not self._rows.fields:
            return {}
        found: dict[str, Column] = {}
        for field in load_schema(self._source) or ():
            shape = self._rows.fields.get(field.name)
            if shape is not None:
                found[field.name] = declared_column(field.type, shape) or text_column()
        self._declared = set(found)
        others = {name: seen_column(shape) for name, shape in self._rows.fields.items() if name not in found}
        return {**found, **others}

    def _input(self, rows: list[dict[str, Any]]) -> pa.Array:
        import pyarrow as pa

        columns = self._named()
        if not columns:
            return pa.array([text_of(row or None) for row in rows], pa.string())
        arrays, misfits = [], {}
        for name, column in columns.items():
            try:
                arrays.append(column.array([row.get(name) for row in rows]))
            except MisfitError as error:
                misfits[name] = str(error)
        if misfits:
            self._misfits += 1
            also = self._declared if self._misfits >= _MOST_MISFITS else ()
            columns.update(dict.fromkeys((*misfits, *also), text_column()))
            name, why = next(iter(misfits.items()))
            raise Loosened(f"column {name!r} of the input is text by now: {why}")
        return pa.StructArray.from_arrays(arrays, names=spelt(list(columns)))


class Flat(_Surveyed):
    """One level of columns, as CSV has them: numbers and booleans as they are, all else text.

    :param cached: whether results say if the cache gave them.
    """

    def __init__(self, *, cached: bool = False) -> None:
        super().__init__()
        self._cached = cached

    @property
    def schema(self) -> pa.Schema:
        """What all batches have."""
        return self._fields()[0]

    def _fields(self) -> tuple[pa.Schema, list[Flattened]]:
        """Return the schema, and for each column where it comes from and how."""
        import pyarrow as pa

        number, text = plain(pa.int64()), text_column()
        own = self._rows.fields if self._rows.only(dict) else {}
        inputs: list[Flattened] = [("input", name, _flat(seen_column(shape))) for name, shape in own.items()]
        if not self._rows.only(dict):
            inputs = [("input", None, text)]
        usage = [("usage", name, number) for name in USAGE]
        errors = [("error", "code", text), ("error", "message", text), ("error", "status_code", number)]
        fields: list[Flattened] = [
            ("row", None, number),
            ("custom_id", None, text),
            *inputs,
            *((name, None, text) for name in ("status", "output", "finish_reason", "model")),
            *usage,
            *errors,
            ("batch_id", None, text),
            ("round", None, number),
            *([(CACHED, None, plain(pa.bool_()))] if self._cached else []),
        ]
        names = [(top if name is None else f"{top}.{name}", column.type) for top, name, column in fields]
        return pa.schema(names), fields

    def batch(self, results: list[dict[str, Any]]) -> pa.RecordBatch:
        """Return results as a record batch."""
        import pyarrow as pa

        schema, fields = self._fields()
        arrays = []
        for top, name, column in fields:
            values = [result[top] for result in results]
            if name is not None:
                values = [None if value is None else value.get(name) for value in values]
            arrays.append(column.array([_scalar(value, column.type) for value in values]))
        return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _flat(column: Column) -> Column:
    import pyarrow as pa

    kind = column.type
    return (
        column
        if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)
        else text_column()
    )


def spelt(names: list[str]) -> list[str]:
    """Return names that differ in more than their case: the second ``a`` is ``A_1``, as DuckDB calls it."""
    taken: set[str] = set()
    result = []
    for name in names:
        spelling, number = name, 0
        while spelling.casefold() in taken:
            number += 1
            spelling = f"{name}_{number}"
        taken.add(spelling.casefold())
        result.append(spelling)
    return result


def _scalar(value: Any, kind: pa.DataType) -> Any:
    """Return a value of ours for a column of text or whole numbers; gateways put other things there."""
    import pyarrow as pa

    if pa.types.is_string(kind):
        return text_of(value)
    if pa.types.is_int64(kind):
        return value if isinstance(value, int) and -(2**63) <= value < 2**63 else None
    return value


def _error(error: dict[str, Any] | None, output: str | None) -> dict[str, Any] | None:
    if error is None and output is None:
        return None
    error = error or {}
    status = error.get("status_code")
    return {
        "code": text_of(error.get("code")),
        "message": text_of(error.get("message")),
        "status_code": status if isinstance(status, int) else None,
        "output": output,
    }
