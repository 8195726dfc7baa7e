"""JSON that satisfies a schema, for requests that ask for structured output.

The instance is small, and as telling as the schema lets it be: the responder's answer stands in enums that have it, in
free strings, and in booleans named after it (``is_positive``). Understood: ``$ref`` and ``$defs``, ``anyOf``,
``oneOf``, ``allOf``, ``const``, ``enum``, type lists, ``properties``, ``items``, ``prefixItems``, bounds of numbers,
strings and arrays, common formats. A ``pattern`` is met only if the answer or one of a few stock strings meets it.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

FREE_OBJECT: Mapping[str, Any] = {"type": "object", "properties": {"answer": {"type": "string"}}}
_FORMATS = {
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "duration": "P1D",
    "email": "nobody@example.com",
    "hostname": "example.com",
    "ipv4": "127.0.0.1",
    "ipv6": "::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_STOCK = ("", "a", "A", "abc", "ABC", "0", "1", "00", "000", "0000", "00000", "a1", "A1", *_FORMATS.values())
# Letters by which a shortened label ("pos") is still known.
_ENOUGH = 3


class _RecursionFoundError(Exception):
    """A ``$ref`` leads back into itself: whoever can do without it does."""


def wanted_schema(url: str, body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the schema that the answer to ``body`` has to satisfy, ``None`` where plain text will do."""
    if url == "/v1/responses":
        text = body.get("text")
        wanted = text.get("format") if isinstance(text, dict) else None
        schema = wanted.get("schema") if isinstance(wanted, dict) else None
    else:
        wanted = body.get("response_format")
        inner = wanted.get("json_schema") if isinstance(wanted, dict) else None
        schema = inner.get("schema") if isinstance(inner, dict) else None
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind == "json_schema":
        return schema if isinstance(schema, dict) else FREE_OBJECT
    return FREE_OBJECT if kind == "json_object" else None


def enum_values(schema: Any) -> list[Any]:
    """Return the values of every enum and constant in ``schema``."""
    if isinstance(schema, list):
        return [value for item in schema for value in enum_values(item)]
    if not isinstance(schema, dict):
        return []
    own = schema.get("enum")
    found = list(own) if isinstance(own, list) else []
    if "const" in schema:
        found.append(schema["const"])
    return found + [value for item in schema.values() for value in enum_values(item)]


def instance(schema: Mapping[str, Any], answer: str) -> Any:
    """Return a value that satisfies ``schema``.

    :param schema: a JSON schema; its ``$ref`` point into itself.
    :param answer: what the responder would have said.
    """
    builder = _Builder(schema, answer)
    try:
        return builder.build(schema, "")
    except _RecursionFoundError:
        return None


class _Builder:
    def __init__(self, root: Mapping[str, Any], answer: str) -> None:
        self._root = root
        self._answer = answer
        self._open: list[str] = []

        # By the first of these words that a schema has; one that has none is made by its type.
        self._makers: dict[str, Callable[[Mapping[str, Any], str], Any]] = {
            "$ref": lambda schema, name: self._follow(schema["$ref"], name),
            "allOf": self._all_of,
            "const": lambda schema, _: schema["const"],
            "enum": lambda schema, _: self._choose(schema["enum"]),
            "anyOf": lambda schema, name: self._first_of(schema["anyOf"], name),
            "oneOf": lambda schema, name: self._first_of(schema["oneOf"], name),
        }

    def build(self, schema: Any, name: str) -> Any:
        """Return a value for ``schema``, which is the property ``name`` of something."""
        if not isinstance(schema, dict):
            return self._answer
        for word, make in self._makers.items():
            if word in schema:
                return make(schema, name)
        return self._typed(schema, name)

    def _all_of(self, schema: Mapping[str, Any], name: str) -> Any:
        rest = {word: value for word, value in schema.items() if word != "allOf"}
        return self.build(_merged([*map(self._flat, schema["allOf"]), rest]), name)

    def _resolve(self, ref: str) -> Any:
        found: Any = self._root
        for part in ref.lstrip("#/").split("/"):
            if part:
                found = found[part.replace("~1", "/").replace("~0", "~")]
        return found

    def _follow(self, ref: str, name: str) -> Any:
        if ref in self._open:
            raise _RecursionFoundError
        self._open.append(ref)
        try:
            return self.build(self._resolve(ref), name)
        finally:
            self._open.pop()

    def _flat(self, schema: Any) -> Any:
        return self._resolve(schema["$ref"]) if isinstance(schema, dict) and "$ref" in schema else schema

    def _choose(self, values: Sequence[Any]) -> Any:
        said = self._answer.casefold().strip()
        words = [str(value).casefold() for value in values]
        for word, value in zip(words, values, strict=True):
            if word == said:
                return value
        for word, value in zip(words, values, strict=True):
            if len(word) >= _ENOUGH and len(said) >= _ENOUGH and (word.startswith(said) or said.startswith(word)):
                return value
        return values[0] if values else None

    def _first_of(self, branches: Sequence[Any], name: str) -> Any:
        for branch in sorted(branches, key=lambda item: isinstance(item, dict) and item.get("type") == "null"):
            try:
                return self.build(branch, name)
            except _RecursionFoundError:
                continue
        raise _RecursionFoundError

    def _typed(self, schema: Mapping[str, Any], name: str) -> Any:
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = next((item for item in kind if item != "null"), "null")
        if kind == "object" or (kind is None and "properties" in schema):
            return self._object(schema)
        if kind == "array" or (kind is None and "items" in schema):
            return self._array(schema, name)
        if kind in {"integer", "number"}:
            return _number(schema, whole=kind == "integer")
        if kind == "boolean":
            words = name.casefold()
            said = self._answer.casefold().strip()
            return bool(said) and said in words
        return None if kind == "null" else self._string(schema)

    def _object(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        required = schema.get("required", ())
        made = {}
        for name, inner in schema.get("properties", {}).items():
            try:
                made[name] = self.build(inner, name)
            except _RecursionFoundError:
                if name in required:
                    raise
        return made

    def _array(self, schema: Mapping[str, Any], name: str) -> list[Any]:
        fixed = [self.build(item, name) for item in schema.get("prefixItems", ())]
        least = max(schema.get("minItems", 0), 0 if fixed else 1)
        number = min(least, schema.get("maxItems", least)) - len(fixed)
        items = schema.get("items", {})
        if items is False or number <= 0:
            return fixed
        flat = self._flat(items)
        if schema.get("uniqueItems") and isinstance(flat, dict) and "enum" in flat:
            first = self._choose(flat["enum"])
            return fixed + [first, *(value for value in flat["enum"] if value != first)][:number]
        try:
            return fixed + [self.build(items, name) for _ in range(number)]
        except _RecursionFoundError:
            if schema.get("minItems", 0) > len(fixed):
                raise
            return fixed

    def _string(self, schema: Mapping[str, Any]) -> str:
        least, most = schema.get("minLength", 0), schema.get("maxLength", math.inf)
        pattern = schema.get("pattern")
        if pattern is not None:
            for candidate in (self._answer, *_STOCK):
                if re.search(pattern, candidate) and least <= len(candidate) <= most:
                    return candidate
        text = _FORMATS.get(schema.get("format", ""), self._answer)
        text = text.ljust(least, ".")
        return text if most == math.inf else text[: int(most)]


def _merged(parts: Sequence[Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for part in parts:
        for word, value in part.items() if isinstance(part, dict) else ():
            if word == "properties":
                merged[word] = {**merged.get(word, {}), **value}
            elif word == "required":
                merged[word] = [*merged.get(word, ()), *value]
            else:
                merged[word] = value
    return merged


def _number(schema: Mapping[str, Any], *, whole: bool) -> float:
    """Return a number within the bounds: zero if it may be, else one at the edge."""
    low, above = schema.get("minimum", -math.inf), schema.get("exclusiveMinimum", -math.inf)
    high, below = schema.get("maximum", math.inf), schema.get("exclusiveMaximum", math.inf)
    step = schema.get("multipleOf", 1 if whole else 0)
    least, most = max(low, above), min(high, below)
    if least < 0 < most or 0 in {low, high} - {above, below}:
        return 0
    if step:
        up = least > 0 or not math.isfinite(most)
        value = (math.ceil(least / step) if up else math.floor(most / step)) * step
        if value in {above, below}:
            value += step if up else -step
        return int(value) if whole else float(value)
    if math.isfinite(least) and math.isfinite(most):
        return float(least + most) / 2
    return float(least + 1 if math.isfinite(least) else most - 1)
