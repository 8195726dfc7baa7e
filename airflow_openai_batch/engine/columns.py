"""The user's columns between JSON and Arrow.

On the way to the API all values become JSON: dates ISO text, decimals text, bytes base64. A column takes them back to
its type. Types are kept to what pandas, polars, DuckDB and Spark all read: no unsigned integers, no nanoseconds, no
times of day, no null type, no nameless or recursive structure. What has no such type is text: a string as it is,
anything else as JSON.

pyarrow is imported by the functions that need it: this module costs nothing.
"""

from __future__ import annotations

import base64
import logging
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from airflow_openai_batch.engine.shapes import HUGE, LONG, MANY, Shape, is_clear

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa
    from pydantic import TypeAdapter

log = logging.getLogger(__name__)

MAX_PRECISION = 38
"""Digits of a decimal; more aren't read by Spark and polars."""


class MisfitError(ValueError):
    """A value that its column's type doesn't hold."""


def dump_schema(schema: pa.Schema) -> str:
    """Return a schema as the plan keeps it: serialized, base64. What pandas noted beside it is left out."""
    return base64.b64encode(schema.remove_metadata().serialize()).decode()


def load_schema(text: str) -> pa.Schema | None:
    """Return the schema of a plan, None where there is none or it can't be read (any more)."""
    if not text:
        return None
    import pyarrow as pa

    try:
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
    except (pa.ArrowException, ValueError, OSError) as error:
        log.warning("The source's schema can't be read, so columns get their types from the rows: %s", error)
        return None


def text_of(value: Any) -> str | None:
    """Return a value as text: a string as it is, anything else as JSON."""
    if value is None or isinstance(value, str):
        return value
    return orjson.dumps(value, default=str).decode()


class Column(Protocol):
    """How JSON values become an Arrow array."""

    @property
    def type(self) -> pa.DataType:
        """The array's type."""
        ...

    def array(self, values: list[Any]) -> pa.Array:
        """Convert values; null stays null.

        :raises MisfitError: one doesn't fit.
        """
        ...


@dataclass(frozen=True)
class Leaf:
    """A column of single values.

    :param type: of the array.
    :param carried: the type that JSON values have already; Arrow casts it to ``type``.
    :param prepare: applied to each value but null before that, or None.
    """

    type: pa.DataType
    carried: pa.DataType
    prepare: Callable[[Any], Any] | None = None

    def array(self, values: list[Any]) -> pa.Array:
        """Convert."""
        import pyarrow as pa

        try:
            if self.prepare is not None:
                values = [None if value is None else self.prepare(value) for value in values]
            array = pa.array(values, type=self.carried)
            return array if self.carried == self.type else array.cast(self.type)
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
            raise MisfitError(str(error)[:200]) from error


@dataclass(frozen=True)
class Structs:
    """A column of objects; a field that one lacks is null.

    Made field by field: where an object is null, Arrow has an empty text in each of its fields, and casts that too.
    """

    fields: dict[str, Column]

    @property
    def type(self) -> pa.DataType:
        """A struct."""
        import pyarrow as pa

        return pa.struct([(name, field.type) for name, field in self.fields.items()])

    def array(self, values: list[Any]) -> pa.Array:
        """Convert."""
        import pyarrow as pa

        _check(values, dict)
        arrays = [
            field.array([None if value is None else value.get(name) for value in values])
            for name, field in self.fields.items()
        ]
        missing = pa.array([value is None for value in values], pa.bool_())
        return pa.StructArray.from_arrays(arrays, fields=list(self.type), mask=missing)


@dataclass(frozen=True)
class Lists:
    """A column of lists.

    :param size: of each, -1 where they differ.
    """

    item: Column
    size: int = -1

    @property
    def type(self) -> pa.DataType:
        """A list."""
        return list_of(self.item.type, self.size)

    def array(self, values: list[Any]) -> pa.Array:
        """Convert."""
        import pyarrow as pa

        _check(values, list)
        if self.size < 0:
            items = self.item.array([item for value in values for item in value or ()])
            return pa.ListArray.from_arrays(offsets_of(values), items, self.type)
        if any(value is not None and len(value) != self.size for value in values):
            raise MisfitError(f"a list that hasn't {self.size} items")
        filler = [None] * self.size
        items = self.item.array([item for value in values for item in (filler if value is None else value)])
        missing = pa.array([value is None for value in values], pa.bool_())
        return pa.FixedSizeListArray.from_arrays(items, type=self.type, mask=missing)


@dataclass(frozen=True)
class Maps:
    """A column of maps, which JSON has as objects or as lists of pairs."""

    key: Column
    item: Column

    @property
    def type(self) -> pa.DataType:
        """A map."""
        import pyarrow as pa

        return pa.map_(self.key.type, self.item.type)

    def array(self, values: list[Any]) -> pa.Array:
        """Convert."""
        import pyarrow as pa

        pairs = [list(value.items()) if isinstance(value, dict) else value for value in values]
        _check(pairs, list)
        try:
            flat = [(text_of(key), item) for value in pairs for key, item in value or ()]
        except (TypeError, ValueError) as error:
            raise MisfitError(f"not pairs: {error}") from error
        keys, items = self.key.array([key for key, _ in flat]), self.item.array([item for _, item in flat])
        return pa.MapArray.from_arrays(offsets_of(pairs), keys, items)


def _check(values: list[Any], kind: type) -> None:
    if not all(value is None or isinstance(value, kind) for value in values):
        raise MisfitError(f"not all are of type {kind.__name__}")


def offsets_of(values: list[Any]) -> pa.Array:
    """Return where each list begins among the items of all, null where it is null."""
    import pyarrow as pa

    offsets: list[int | None] = []
    end = 0
    for value in values:
        offsets.append(None if value is None else end)
        end += len(value or ())
    return pa.array([*offsets, end], pa.int32())


def list_of(kind: pa.DataType, size: int = -1) -> pa.DataType:
    """Return the type of lists, its items named as Parquet names them; ``size`` where all have one."""
    import pyarrow as pa

    return pa.list_(pa.field("element", kind), size)


def plain(kind: pa.DataType) -> Column:
    """Return a column whose JSON values have its type already."""
    return Leaf(kind, kind)


def text_column() -> Column:
    """Return a column that takes any value as text."""
    import pyarrow as pa

    return Leaf(pa.string(), pa.string(), text_of)


def seen_column(shape: Shape) -> Column:
    """Return the column for values that were seen; what doesn't go together is text."""
    import pyarrow as pa

    # Where all are null it is text too: readers dislike a type that has no values.
    simple = (((str,), pa.string()), ((bool,), pa.bool_()), ((int, LONG), pa.int64()), ((int, float), pa.float64()))
    for kinds, kind in simple:
        if shape.only(*kinds):
            return plain(kind)
    if shape.only(list):
        return Lists(seen_column(shape.items) if shape.items else plain(pa.string()))
    if shape.only(dict) and shape.fields and is_clear(list(shape.fields)):
        return Structs({name: seen_column(field) for name, field in shape.fields.items()})
    return text_column()


def declared_column(kind: pa.DataType, shape: Shape) -> Column | None:
    """Return the column for a type of the source.

    :param shape: what its values look like as JSON.
    :return: None where they don't fit the type, or the type has no column.
    """
    import pyarrow as pa

    while isinstance(kind, pa.BaseExtensionType) or pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        kind = _stored(kind)
    for of_kind in (_nested, _number, _as_text):
        column = of_kind(kind, shape)
        if column is not None:
            return column
    return None


def _stored(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values inside a type that says more of them, or how they are kept."""
    import pyarrow as pa

    if not isinstance(kind, pa.BaseExtensionType):
        return kind.value_type
    # Whose values aren't those that are stored.
    spoken = {"arrow.uuid": pa.string(), "arrow.bool8": pa.bool_()}
    return spoken.get(kind.extension_name, kind.storage_type)


def _number(kind: pa.DataType, shape: Shape) -> Column | None:
    import pyarrow as pa

    if pa.types.is_boolean(kind):
        return plain(kind) if shape.only(bool) else None
    if pa.types.is_floating(kind):
        wide = pa.float32() if pa.types.is_float16(kind) else kind
        return plain(wide) if shape.only(int, float) else None
    if pa.types.is_uint64(kind):
        wide = pa.decimal128(20, 0)
        return Leaf(wide, pa.string(), str) if shape.only(int, LONG, HUGE) else None
    if pa.types.is_integer(kind) and shape.only(int, LONG):
        wider = {pa.uint8(): pa.int16(), pa.uint16(): pa.int32(), pa.uint32(): pa.int64()}
        return plain(wider.get(kind, kind))
    return None


def _as_text(kind: pa.DataType, shape: Shape) -> Column | None:
    """Return the column for a type whose JSON values are strings."""
    import pyarrow as pa

    types = pa.types
    if not shape.only(str):
        return None
    if _is_any(kind, types.is_string, types.is_large_string, types.is_string_view, types.is_time):
        return plain(pa.string())
    if _is_any(kind, types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary):
        return Leaf(pa.binary(), pa.binary(), _unbase64)
    if types.is_duration(kind):
        return Leaf(pa.duration("us"), pa.duration("us"), _duration)
    cast = _cast(kind)
    return None if cast is None else Leaf(cast, pa.string())


def _is_any(kind: pa.DataType, *tests: Callable[[pa.DataType], bool]) -> bool:
    return any(test(kind) for test in tests)


def _cast(kind: pa.DataType) -> pa.DataType | None:
    """Return what Arrow can make of strings for a type."""
    import pyarrow as pa

    if pa.types.is_date(kind):
        return pa.date32()
    if pa.types.is_timestamp(kind):
        # An offset is no name of a zone to polars; the moment is the same.
        return pa.timestamp("us", "UTC" if kind.tz and kind.tz[0] in "+-" else kind.tz)
    if pa.types.is_decimal(kind) and kind.precision <= MAX_PRECISION and 0 <= kind.scale <= kind.precision:
        return pa.decimal128(kind.precision, kind.scale)
    return None


def _duration(value: str) -> timedelta:
    """Read an ISO 8601 duration."""
    return _durations().validate_python(value)


@cache
def _durations() -> TypeAdapter[timedelta]:
    from pydantic import TypeAdapter

    return TypeAdapter(timedelta)


def _unbase64(value: str) -> bytes:
    return base64.b64decode(value, validate=True)


def _nested(kind: pa.DataType, shape: Shape) -> Column | None:
    import pyarrow as pa

    types = pa.types
    if types.is_struct(kind):
        return _declared_struct(kind, shape)
    if types.is_map(kind):
        return _declared_map(kind, shape)
    lists = (types.is_list, types.is_large_list, types.is_list_view, types.is_large_list_view)
    if not _is_any(kind, *lists, types.is_fixed_size_list):
        return None
    item = declared_column(kind.value_type, shape.items or Shape()) if shape.only(list) else None
    if item is None:
        return None
    return Lists(item, kind.list_size if types.is_fixed_size_list(kind) else -1)


def _declared_struct(kind: pa.StructType, shape: Shape) -> Column | None:
    names = [field.name for field in kind]
    if not shape.only(dict) or not names or not is_clear(names) or not shape.fields.keys() <= set(names):
        return None
    fields: dict[str, Column] = {}
    for field in kind:
        column = declared_column(field.type, shape.fields.get(field.name) or Shape())
        if column is None:
            return None
        fields[field.name] = column
    return Structs(fields)


def _declared_map(kind: pa.MapType, shape: Shape) -> Column | None:
    import pyarrow as pa

    if not shape.only(dict, list, MANY) or pa.types.is_nested(kind.key_type):
        return None
    # JSON's keys are strings, and what the values look like isn't told apart by key.
    key, item = _key_column(kind.key_type), declared_column(kind.item_type, Shape())
    return None if key is None or item is None else Maps(key, item)


def _key_column(kind: pa.DataType) -> Column | None:
    """Return the column of a map's keys, made of text."""
    import pyarrow as pa

    key = declared_column(kind, Shape())
    return Leaf(key.type, pa.string()) if key is not None and not pa.types.is_binary(key.type) else key
