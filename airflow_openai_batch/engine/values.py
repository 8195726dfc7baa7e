"""Values of rows: Arrow's made Python's, Python's made JSON's, and the Arrow types that a row's values have.

What JSON has no form for gets the usual one: decimals are strings, bytes base64, dates and times ISO 8601, lengths of
time ISO 8601 durations, maps objects. Not-a-number and infinities become null, since JSON has neither. A moment with
nanoseconds that a ``datetime`` can't hold is a string at once; of times of day and durations what is below a
microsecond is dropped.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_NATIVE = frozenset({str, int, float, bool, type(None)})
"""Types of values that JSON has a form of its own for."""

_KNOWN_EXTENSIONS = frozenset({"arrow.uuid", "arrow.json", "arrow.bool8"})
"""Extension types whose values are plain Python's; of others the storage is read."""

_FORMS: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    ((bytes, bytearray, memoryview), lambda value: base64.b64encode(value).decode()),
    (Decimal, str),
    ((datetime, date, time), lambda value: value.isoformat()),
    ((set, frozenset), lambda value: sorted(value, key=str)),
    (tuple, list),
    (Mapping, dict),
)
"""JSON forms by type; dates and tuples are here for their subclasses, which orjson leaves to its caller."""


def json_form(value: Any) -> Any:
    """Return what stands for a value in JSON; given to orjson, which asks for what it doesn't know itself.

    :raises TypeError: it has none.
    """
    if type(value).__name__ in {"NaTType", "NAType"}:
        return None
    for kinds, form in _FORMS:
        if isinstance(value, kinds):
            return form(value)
    if callable(dump := getattr(value, "model_dump", None)):
        return dump()
    return _of_numpy(value) if type(value).__module__ == "numpy" else _as_pydantic_has_it(value)


def _of_numpy(value: Any) -> Any:
    if value.dtype.kind == "M":
        text = str(value)
        return None if text == "NaT" else text
    if value.dtype.kind == "m":
        return value.astype("timedelta64[us]").item()
    return value.tolist()


def _as_pydantic_has_it(value: Any) -> Any:
    """Durations, addresses, paths and the like."""
    import pydantic_core

    try:
        return pydantic_core.to_jsonable_python(value)
    except (pydantic_core.PydanticSerializationError, ValueError) as error:
        raise TypeError(f"no JSON form for {type(value).__name__}") from error


class Unreadable:
    """Stands in a list of values for one that Python can't hold; ``message`` says why."""

    def __init__(self, message: str) -> None:
        self.message = message


class Partly(list[Any]):
    """A list of values of which some are :class:`Unreadable`."""


def reader(kind: Any) -> Callable[[Any], list[Any]]:
    """Return a function that makes Python values of an array.

    :param kind: the array's Arrow type.
    :return: values come out as ``None``, ``datetime``, ``Decimal`` and so on; where one can't, in a :class:`Partly`.
    """
    import pyarrow as pa
    from pyarrow import types

    if types.is_dictionary(kind):
        return _words_reader(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType) and kind.extension_name not in _KNOWN_EXTENSIONS:
        stored = reader(kind.storage_type)
        return lambda array: stored(array.storage)
    if types.is_timestamp(kind) and kind.unit == "ns":
        return _moments
    coarse, fix = _in_microseconds(kind), _map_fixer(kind)
    text = None if coarse == kind else _in_microseconds(kind, moments=pa.string())

    def values(array: Any) -> list[Any]:
        if text is not None:
            try:
                array = array.cast(coarse)
            except pa.ArrowInvalid:
                array = array.cast(text, safe=False)
        try:
            found: list[Any] = array.to_pylist()
        except (OverflowError, ValueError):
            return Partly(_one(scalar, fix) for scalar in array)
        return found if fix is None else [fix(value) for value in found]

    return values


def _words_reader(kind: Any) -> Callable[[Any], list[Any]]:
    """Return a reader of dictionary-encoded values of a type."""
    import pyarrow as pa

    inner = reader(kind)
    held: dict[Any, tuple[Any, list[Any]]] = {}

    def values(array: Any) -> list[Any]:
        try:
            return inner(array.dictionary_decode())
        except pa.ArrowNotImplementedError:
            # As for the views of polars. All pieces of a column share their dictionary, which may be a large one; it is
            # held together with its words, so that no other can be at its address.
            dictionary = array.dictionary
            key = (len(dictionary), *(buffer and buffer.address for buffer in dictionary.buffers()))
            if key not in held:
                held.clear()
                held[key] = (dictionary, inner(dictionary))
            words = held[key][1]
            return [None if index is None else words[index] for index in array.indices.to_pylist()]

    return values


def _one(scalar: Any, fix: Callable[[Any], Any] | None) -> Any:
    try:
        return fix(scalar.as_py()) if fix else scalar.as_py()
    except UnicodeDecodeError as error:
        return Unreadable(f"not UTF-8: {error.reason} at byte {error.start}")
    except (OverflowError, ValueError):
        return Unreadable(f"a {scalar.type} out of range: years go from 1 to 9999")


def _moments(array: Any) -> list[Any]:
    """Read nanoseconds: as datetimes where that loses nothing, else as text."""
    import pyarrow as pa

    moments = array.cast(pa.timestamp("us", array.type.tz), safe=False)
    values: list[Any] = moments.to_pylist()
    if moments.cast(array.type).equals(array):
        return values
    texts = array.cast(pa.string()).to_pylist()
    return [
        value if text is None or text.rstrip("Z").endswith("000") else text.replace(" ", "T", 1)
        for value, text in zip(values, texts, strict=True)
    ]


def _rebuild(kind: Any, leaf: Callable[[Any], Any]) -> Any:
    """Return a type with ``leaf`` applied to what it is made of."""
    import pyarrow as pa
    from pyarrow import types

    def inside(field: Any) -> Any:
        return field.with_type(_rebuild(field.type, leaf))

    made = leaf(kind)
    if types.is_struct(kind):
        made = pa.struct([inside(kind.field(index)) for index in range(kind.num_fields)])
    elif types.is_map(kind):
        made = pa.map_(inside(kind.key_field), inside(kind.item_field), keys_sorted=kind.keys_sorted)
    elif types.is_fixed_size_list(kind):
        made = pa.list_(inside(kind.value_field), kind.list_size)
    elif types.is_large_list(kind):
        made = pa.large_list(inside(kind.value_field))
    elif types.is_list(kind):
        made = pa.list_(inside(kind.value_field))
    return made


def _in_microseconds(kind: Any, moments: Any = None) -> Any:
    """Return the type without nanoseconds, which Python's own types don't have; ``moments`` replaces timestamps."""
    import pyarrow as pa
    from pyarrow import types

    def leaf(kind: Any) -> Any:
        if types.is_timestamp(kind) and kind.unit == "ns":
            return moments or pa.timestamp("us", kind.tz)
        if types.is_time64(kind) and kind.unit == "ns":
            return pa.time64("us")
        if types.is_duration(kind) and kind.unit == "ns":
            return pa.duration("us")
        return kind

    return _rebuild(kind, leaf)


def _map_fixer(kind: Any) -> Callable[[Any], Any] | None:
    """Return what makes objects of the maps inside a value (Arrow gives lists of pairs), None where there are none."""
    import pyarrow as pa
    from pyarrow import types

    if types.is_map(kind):
        inner, named = _map_fixer(kind.item_type), comparable(kind.key_type) == pa.string()
        return lambda value: None if value is None else _mapping(value, inner, named=named)
    if types.is_struct(kind):
        fields = [kind.field(index) for index in range(kind.num_fields)]
        fixers = {field.name: fix for field in fields if (fix := _map_fixer(field.type)) is not None}
        if not fixers:
            return None
        return lambda value: value and {**value, **{name: fix(value[name]) for name, fix in fixers.items()}}
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        fix = _map_fixer(kind.value_type)
        return None if fix is None else lambda value: value and [fix(item) for item in value]
    return None


def _mapping(pairs: list[tuple[Any, Any]], inner: Callable[[Any], Any] | None, *, named: bool) -> Any:
    """Return a map as an object, or as pairs where its keys aren't strings, or one stands twice."""
    items = pairs if inner is None else [(key, inner(value)) for key, value in pairs]
    made = dict(items) if named else {}
    return made if named and len(made) == len(items) else [list(item) for item in items]


class Inference:
    """Learns the types of rows of Python values as they pass by, a few rows at a time.

    As long as JSON has all of their types, pyarrow isn't asked: importing it costs more memory than most jobs need.

    :param needed: whether the types are wanted even where JSON has them all.
    :param at_once: rows looked at together. They are held until then, and may be large.
    """

    _PATIENCE = 1_000
    """Rows after which no more is expected of rows that JSON has all types of."""

    def __init__(self, *, needed: bool = False, at_once: int = 32) -> None:
        self._needed = needed
        self._at_once = at_once
        self._rows: list[dict[str, Any]] = []
        self._seen = 0
        self._plain: dict[str, set[type]] = {}
        self._types: dict[str, Any] = {}
        self._given_up = False

    def see(self, rows: Iterable[dict[str, Any]]) -> None:
        """Take rows into account."""
        for row in rows:
            if self._given_up:
                return
            self._rows.append(row)
            if len(self._rows) >= self._at_once:
                self._take()

    def schema(self) -> Any | None:
        """Return the Arrow schema of the rows so far; None where they have none, or where JSON has all their types."""
        if self._rows and not self._given_up:
            self._take()
        if not self._types:
            return None
        import pyarrow as pa

        return pa.schema(list(self._types.items()))

    def _take(self) -> None:
        rows, self._rows = self._rows, []
        self._seen += len(rows)
        if not self._needed and not any(map(_beyond_json, rows)):
            for row in rows:
                for name, value in row.items():
                    self._plain.setdefault(str(name), set()).add(type(value))
            self._given_up = self._seen >= self._PATIENCE
            return
        self._needed = True
        try:
            for name, kinds in self._plain.items():
                self._types[name] = _plain_type(kinds)
            self._plain = {}
            for name in dict.fromkeys(name for row in rows for name in row):
                kind = type_of([row.get(name) for row in rows])
                self._types[str(name)] = merged(self._types.get(str(name)), kind)
        except ValueError:
            self._types, self._given_up = {}, True


def _plain_type(kinds: set[type]) -> Any:
    """Return the Arrow type of values that JSON has.

    :raises ValueError: they have no common one, or are nested.
    """
    import pyarrow as pa

    kinds = kinds - {type(None)}
    if kinds == {int, float}:
        return pa.float64()
    if len(kinds) > 1 or not kinds <= _NATIVE:
        raise ValueError("values of several types, or nested ones")
    types = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    return types[kinds.pop()] if kinds else pa.null()


def _beyond_json(value: Any) -> bool:
    kind = type(value)
    if kind in _NATIVE:
        return False
    if kind is dict:
        return any(map(_beyond_json, value.values()))
    return any(map(_beyond_json, value)) if kind is list else True


def type_of(values: list[Any]) -> Any:
    """Return the Arrow type of a column of Python values.

    :raises ValueError: they have no common one.
    """
    import pyarrow as pa
    from pyarrow import types

    try:
        kind = pa.array(values).type
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        # Identifiers, addresses, enumerations: text in JSON, and text in Arrow.
        try:
            values = orjson.loads(orjson.dumps(values, default=json_form, option=orjson.OPT_NON_STR_KEYS))
            kind = pa.array(values).type
        except (pa.ArrowException, TypeError, OverflowError) as error:
            raise ValueError(str(error)) from error
    if (types.is_temporal(kind) or types.is_binary(kind)) and len({type(item) for item in values} - {type(None)}) > 1:
        raise ValueError(f"values of several types in a column of {kind}")

    def leaf(kind: Any) -> Any:
        if isinstance(kind, pa.BaseExtensionType):
            return pa.string()
        # Drivers give each moment the offset of its season; the moment itself is the same in UTC.
        return pa.timestamp(kind.unit, "UTC") if types.is_timestamp(kind) and kind.tz else kind

    return _rebuild(kind, leaf)


def merged(first: Any | None, second: Any) -> Any:
    """Return the type that holds values of both.

    :raises ValueError: there is none.
    """
    import pyarrow as pa

    if first is None or first == second:
        return second
    try:
        schemas = [pa.schema([("", kind)]) for kind in (first, second)]
        made = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except (pa.ArrowException, TypeError) as error:
        raise ValueError(str(error)) from error
    if made == pa.binary() and pa.string() in {first, second}:
        raise ValueError("text and bytes in one column")
    return made


def comparable(kind: Any) -> Any:
    """Return a type without what only says how it is stored: offsets' width, dictionaries, names of list items."""
    import pyarrow as pa
    from pyarrow import types

    if types.is_dictionary(kind):
        return comparable(kind.value_type)
    if types.is_struct(kind):
        return pa.struct([(field.name, comparable(field.type)) for field in kind])
    if types.is_map(kind):
        return pa.map_(comparable(kind.key_type), comparable(kind.item_type))
    if types.is_list(kind) or types.is_large_list(kind):
        return pa.list_(comparable(kind.value_type))
    plain = {"large_string": pa.string(), "string_view": pa.string()}
    plain |= {"large_binary": pa.binary(), "binary_view": pa.binary()}
    return plain.get(str(kind), kind)
