"""Structured output: from what a user gives as ``response_format`` to what the API takes, and the check of the answer.

The schema travels in the job's record, so that a resumed task checks answers as the first one would have.
"""

from __future__ import annotations

import re
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable


_NAME_HOLDERS = frozenset({"properties", "patternProperties", "$defs", "definitions"})


def normalize(response_format: Any) -> dict[str, Any] | None:
    """Return ``response_format`` in the shape that chat completions take.

    :param response_format: None; a pydantic model class; a JSON schema (``{"type": "object", ...}``); a named one
        (``{"name", "schema", "strict"}``); or OpenAI's own
        (``{"type": "json_schema" | "json_object" | "text", ...}``).
    :return: ``{"type": "json_schema", "json_schema": {"name", "schema", "strict"}}`` or OpenAI's own as it is.
    :raises ConfigurationError: it is none of these.
    """
    if response_format is None:
        return None
    schema_of = getattr(response_format, "model_json_schema", None)
    if isinstance(response_format, type) and callable(schema_of):
        return _named(response_format.__name__, strict_schema(schema_of()), strict=True)
    if not isinstance(response_format, dict):
        raise ConfigurationError(
            "response_format: a pydantic model class, a JSON schema or OpenAI's response_format is needed, "
            f"not {type(response_format).__name__}"
        )
    kind = response_format.get("type")
    if kind in {"json_object", "text", "grammar", "python"}:
        return dict(response_format)
    if kind == "json_schema":
        named = response_format.get("json_schema", response_format)
    elif isinstance(response_format.get("schema"), dict):
        named = response_format
    else:
        named = {"name": response_format.get("title", "answer"), "schema": response_format, "strict": False}
    if not isinstance(named.get("schema"), dict):
        raise ConfigurationError("response_format: it has no schema")
    return _named(str(named.get("name", "answer")), named["schema"], strict=bool(named.get("strict", False)))


def _named(name: str, schema: dict[str, Any], *, strict: bool) -> dict[str, Any]:
    _validator(schema)
    legal = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64] or "answer"
    return {"type": "json_schema", "json_schema": {"name": legal, "schema": schema, "strict": strict}}


def strict_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema as strict mode asks for it: every object closed, every property required.

    Source: the Structured Outputs guide, "Supported schemas".
    """
    root = deepcopy(schema)
    definitions = root.get("$defs", {})
    held = definitions.get(str(root.get("$ref")).removeprefix("#/$defs/"))
    # A model that holds itself is a mere reference to its definition; the root must be an object.
    closed: dict[str, Any] = _strict({**held, "$defs": definitions} if isinstance(held, dict) else root)
    return closed


def _strict(node: Any, *, holds_names: bool = False) -> Any:
    """Return a part of a schema, strict.

    :param holds_names: the dict's keys are the user's names, so that ``default`` is one of them.
    """
    if isinstance(node, list):
        return [_strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    if holds_names:
        return {name: _strict(value) for name, value in node.items()}
    closed = {key: _strict(value, holds_names=key in _NAME_HOLDERS) for key, value in node.items() if key != "default"}
    properties = closed.get("properties")
    if closed.get("type") == "object" and isinstance(properties, dict):
        closed["required"] = list(properties)
        closed["additionalProperties"] = False
    if "$ref" in closed:
        # Nothing may stand beside a $ref in strict mode.
        return {"$ref": closed["$ref"]}
    return closed


def for_endpoint(response_format: dict[str, Any], endpoint: str) -> dict[str, Any]:
    """Return the body fields that ask for it on an endpoint.

    :raises ConfigurationError: the endpoint has no structured output.
    """
    if endpoint.endswith("/responses"):
        if response_format["type"] == "json_schema":
            return {"text": {"format": {"type": "json_schema", **response_format["json_schema"]}}}
        return {"text": {"format": response_format}}
    if endpoint.endswith("/chat/completions"):
        return {"response_format": response_format}
    raise ConfigurationError(f"response_format: {endpoint} has no structured output")


def answer_check(response_format: dict[str, Any] | None) -> Callable[[Any], str | None] | None:
    """Return a function that says what is wrong with a parsed answer, or None where answers are plain text."""
    if response_format is None or response_format["type"] not in {"json_schema", "json_object"}:
        return None
    if response_format["type"] == "json_object":
        return lambda value: None if isinstance(value, dict) else "not a JSON object"
    validator = _validator(response_format["json_schema"]["schema"])

    def check(value: Any) -> str | None:
        for error in validator.iter_errors(value):
            return f"{error.json_path}: {error.message}"[:500]
        return None

    return check


def _validator(schema: dict[str, Any]) -> Any:
    from jsonschema import SchemaError, validators

    kind = validators.validator_for(schema, default=validators.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise ConfigurationError(f"response_format: not a JSON schema: {error.json_path}: {error.message}") from error
    return kind(schema)
