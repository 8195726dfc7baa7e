"""The type of ``output`` in a table: text, the struct of a JSON schema, or vectors.

An answer that doesn't fit is null there, and its text stands in ``error.output``: nothing that was paid for is lost,
and no answer changes the type of the others.
"""

from __future__ import annotations

import base64
import binascii
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from airflow_openai_batch.engine.columns import MisfitError, list_of, offsets_of, text_of
from airflow_openai_batch.engine.shapes import is_clear

if TYPE_CHECKING:
    import pyarrow as pa

Fit = Callable[[Any], Any]
"""Returns a JSON value as Arrow takes it for a type, or raises :class:`MisfitError`."""

_CHOICES = ("anyOf", "oneOf", "allOf")
_NAMES = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_INT64 = range(-(2**63), 2**63)
_FLOAT_BYTES = 4


class Output(Protocol):
    """How the outputs of a job become a column."""

    def look(self, values: list[Any]) -> bool:
        """Look at the outputs that are converted next; whether the type is another from now on."""
        ...

    @property
    def type(self) -> pa.DataType:
        """The column's type."""
        ...

    def array(self, values: list[Any]) -> tuple[pa.Array, dict[int, str]]:
        """Convert outputs; return the text of those that don't fit by their place."""
        ...


def output_of(response_format: dict[str, Any] | None, endpoint: str) -> Output:
    """Return the type of a job's outputs.

    :param response_format: structured output, normalized, or None.
    """
    if endpoint.endswith("/embeddings"):
        return Vectors()
    if response_format is not None and response_format.get("type") == "json_schema":
        known = schema_type(response_format["json_schema"]["schema"])
        if known is not None:
            return Structured(*known)
    return Text()


class Text:
    """Text as it is, anything else as JSON."""

    def look(self, values: list[Any]) -> bool:  # noqa: ARG002 - the protocol's
        """Need nothing: any value is text."""
        return False

    @property
    def type(self) -> pa.DataType:
        """A string."""
        import pyarrow as pa

        return pa.string()

    def array(self, values: list[Any]) -> tuple[pa.Array, dict[int, str]]:
        """Convert."""
        import pyarrow as pa

        return pa.array([text_of(value) for value in values], pa.string()), {}


class Structured:
    """Parsed answers of one schema."""

    def __init__(self, kind: pa.DataType, fit: Fit) -> None:
        self._type = kind
        self._fit = fit

    def look(self, values: list[Any]) -> bool:  # noqa: ARG002 - the protocol's
        """Need nothing: the schema has told the type."""
        return False

    @property
    def type(self) -> pa.DataType:
        """What the schema says."""
        return self._type

    def array(self, values: list[Any]) -> tuple[pa.Array, dict[int, str]]:
        """Convert."""
        import pyarrow as pa

        fitting: list[Any] = []
        rest: dict[int, str] = {}
        for place, value in enumerate(values):
            try:
                fitting.append(None if value is None else self._fit(value))
            except MisfitError:
                fitting.append(None)
                rest[place] = text_of(value) or ""
        return pa.array(fitting, self._type), rest


def schema_type(schema: dict[str, Any]) -> tuple[pa.DataType, Fit] | None:
    """Return the type of values of a JSON schema, None where only text will do."""
    kind, fit = _Reading(schema).read(schema, ())
    return None if fit is text_of else (kind, fit)


@dataclass(frozen=True)
class _Reading:
    """The reading of one JSON schema."""

    root: dict[str, Any]

    def read(self, node: Any, inside: tuple[str, ...]) -> tuple[pa.DataType, Fit]:
        """Return the type of a part; free-form and recursive parts are text.

        :param inside: the references that led here.
        """
        import pyarrow as pa

        if isinstance(node, dict) and "$ref" in node:
            ref = str(node["$ref"])
            # What holds itself has no end as a type.
            return self.read({} if ref in inside else self._resolve(ref), (*inside, ref))
        kinds = _kinds_of(node)
        readers = {"array": self._array, "object": self._object, "choice": self._choice}
        if len(kinds) == 1 and kinds[0] in readers:
            return readers[kinds[0]](node, inside)
        if kinds and set(kinds) <= {"integer", "number"}:
            return _scalar("integer" if kinds == ["integer"] else "number")
        return _scalar(kinds[0]) if len(kinds) == 1 else (pa.string(), text_of)

    def _resolve(self, ref: str) -> Any:
        node: Any = self.root
        for step in ref.removeprefix("#").split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            node = node.get(name) if isinstance(node, dict) else None
        return node if ref.startswith("#") else None

    def _choice(self, node: dict[str, Any], inside: tuple[str, ...]) -> tuple[pa.DataType, Fit]:
        import pyarrow as pa

        choices = next(node[name] for name in _CHOICES if isinstance(node.get(name), list))
        real = [choice for choice in choices if not (isinstance(choice, dict) and choice.get("type") == "null")]
        if len(real) == 1:
            return self.read(real[0], inside)
        read = [self.read(choice, inside) for choice in real]
        if read and all(fit in {_integer, _number} for _, fit in read):
            return pa.float64(), _number
        # Objects of one type may yet differ in what they need.
        if read and all(fit is read[0][1] for _, fit in read):
            return read[0]
        return pa.string(), text_of

    def _array(self, node: dict[str, Any], inside: tuple[str, ...]) -> tuple[pa.DataType, Fit]:
        import pyarrow as pa

        if not isinstance(node.get("items"), dict) or node.get("prefixItems"):
            return pa.string(), text_of
        kind, fit = self.read(node["items"], inside)

        def fit_list(value: Any) -> list[Any]:
            if not isinstance(value, list):
                raise MisfitError
            return [None if item is None else fit(item) for item in value]

        return list_of(kind), fit_list

    def _object(self, node: dict[str, Any], inside: tuple[str, ...]) -> tuple[pa.DataType, Fit]:
        import pyarrow as pa

        properties = node.get("properties")
        if not isinstance(properties, dict) or not properties or not is_clear(list(properties)):
            return pa.string(), text_of
        fields = {name: self.read(part, inside) for name, part in properties.items()}
        fits = {name: fit for name, (_, fit) in fields.items()}
        needed = set(node.get("required", ())) & fits.keys()

        def fit_object(value: Any) -> dict[str, Any]:
            if not isinstance(value, dict) or not needed <= value.keys() or (value and fits.keys().isdisjoint(value)):
                raise MisfitError
            return {name: None if item is None else fits[name](item) for name, item in value.items() if name in fits}

        return pa.struct([(name, kind) for name, (kind, _) in fields.items()]), fit_object


def _kinds_of(node: Any) -> list[str]:
    """Return the types that a part may have besides null; ``choice`` where it names several others."""
    if not isinstance(node, dict):
        return []
    if "enum" in node or "const" in node:
        kinds: Any = [_NAMES.get(type(value), "") for value in node.get("enum", [node.get("const")])]
    elif "type" in node:
        kinds = node["type"]
    elif "properties" in node:
        kinds = "object"
    else:
        kinds = "choice" if any(isinstance(node.get(name), list) for name in _CHOICES) else ""
    named = dict.fromkeys(kinds if isinstance(kinds, list) else [kinds])
    # All null: a string that never comes.
    return [str(kind) for kind in named if kind != "null"] or ["string"]


def _scalar(name: str) -> tuple[pa.DataType, Fit]:
    import pyarrow as pa

    known: dict[str, tuple[pa.DataType, Fit]] = {
        "string": (pa.string(), _string),
        "integer": (pa.int64(), _integer),
        "number": (pa.float64(), _number),
        "boolean": (pa.bool_(), _boolean),
    }
    return known.get(name, (pa.string(), text_of))


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise MisfitError
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise MisfitError
    return value


def _integer(value: Any) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # an integer to JSON schema
    if not isinstance(value, int) or isinstance(value, bool) or value not in _INT64:
        raise MisfitError
    return value


def _number(value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise MisfitError
    return float(value)


class Vectors:
    """Embeddings: of one length, as long as none of another turns up; several a row, once a row has several.

    A list of a fixed size has no place for a row without a vector: pyarrow before 26 writes one and can't read it.
    """

    def __init__(self) -> None:
        self._lengths: set[int] = set()
        self._many = self._gaps = False
        self._read: list[list[bytes] | None] = []

    def look(self, values: list[Any]) -> bool:
        """Note the lengths."""
        before = self.type
        self._read = [_vectors(value) for value in values]
        for value, vectors in zip(values, self._read, strict=True):
            if vectors is None:
                self._gaps = True
            else:
                self._lengths.update(len(vector) // _FLOAT_BYTES for vector in vectors)
                self._many = self._many or _is_many(value)
        return bool(self.type != before)

    @property
    def type(self) -> pa.DataType:
        """A list of float32, of a fixed size where all rows have one; or a list of those."""
        return list_of(self._vector()) if self._many else self._vector()

    def _vector(self) -> pa.DataType:
        import pyarrow as pa

        return list_of(pa.float32(), self._length if self._length is not None else -1)

    @property
    def _length(self) -> int | None:
        return next(iter(self._lengths)) if len(self._lengths) == 1 and (self._many or not self._gaps) else None

    def array(self, values: list[Any]) -> tuple[pa.Array, dict[int, str]]:
        """Convert."""
        import pyarrow as pa

        rows = self._read
        rest = {
            place: text_of(value) or ""
            for place, (value, row) in enumerate(zip(values, rows, strict=True))
            if row is None and value is not None
        }
        if not self._many:
            return self._lists([None if row is None else row[0] for row in rows]), rest
        vectors = self._lists([vector for row in rows for vector in row or ()])
        return pa.ListArray.from_arrays(offsets_of(rows), vectors, self.type), rest

    def _lists(self, vectors: list[bytes | None]) -> pa.Array:
        """Return an array of vectors, made of their bytes."""
        import pyarrow as pa

        fixed, kind = self._length, self._vector()
        buffer = b"".join(vector for vector in vectors if vector is not None)
        floats = pa.Array.from_buffers(pa.float32(), len(buffer) // _FLOAT_BYTES, [None, pa.py_buffer(buffer)])
        if fixed is not None:
            return pa.FixedSizeListArray.from_arrays(floats, type=kind)
        lengths = [None if vector is None else range(len(vector) // _FLOAT_BYTES) for vector in vectors]
        return pa.ListArray.from_arrays(offsets_of(lengths), floats, kind)


def _is_many(value: Any) -> bool:
    return isinstance(value, list) and isinstance(next(iter(value), None), (list, str))


def _vectors(value: Any) -> list[bytes] | None:
    """Return the vectors of an output as bytes of float32, None where it holds none."""
    try:
        return [_floats(vector) for vector in value] if _is_many(value) else [_floats(value)]
    except (TypeError, ValueError, OverflowError, binascii.Error):
        return None


def _floats(vector: Any) -> bytes:
    if isinstance(vector, str):
        content = base64.b64decode(vector, validate=True)
        if not content or len(content) % _FLOAT_BYTES:
            raise ValueError("not a vector of float32")
        return content
    if not isinstance(vector, list) or not vector:
        raise ValueError("not a vector")
    return array("f", vector).tobytes()
