"""Errors in the service's envelope: ``{"error": {"message", "type", "param", "code"}}``.

Everything that goes wrong leaves through here: what routes raise, what pydantic finds in a body (the service knows
no 422), unknown routes, and faults of the emulator itself.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import status
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from airflow_openai_batch.emulator.oddities import shown_error

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from fastapi import FastAPI, Request

_TYPES = {
    401: "invalid_request_error",
    403: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    502: "server_error",
    503: "server_error",
    504: "server_error",
}
UNPARSABLE_BODY = (
    "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library "
    "correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON. If you have trouble "
    "figuring out how to fix this, please contact us through our help center at help.openai.com.)"
)
SERVER_ERROR = "The server had an error while processing your request. Sorry about that!"


class APIError(Exception):
    """An answer other than 200.

    :param status_code: HTTP status code.
    :param message: the text for people.
    :param code: the word for programs, e.g. ``invalid_value``; many of the service's errors have none.
    :param param: name of the parameter at fault.
    :param kind: the envelope's ``type``. Default: by status.
    :param headers: further response headers, e.g. ``retry-after``.
    :param envelope: the whole body, where it isn't the usual one.
    """

    def __init__(
        self,
        status_code: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        kind: str | None = None,
        headers: Mapping[str, str] | None = None,
        envelope: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.envelope = envelope
        self.status = status_code
        self.message = message
        self.code = code
        self.param = param
        self.kind = kind or _TYPES.get(status_code, "invalid_request_error")
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """Return the envelope."""
        return self.envelope or {
            "error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        }

    def response(self, oddities: Collection[str] = ()) -> Response:
        """Return the HTTP response."""
        body = shown_error(self.body(), self.status, oddities)
        return json_response(body, status_code=self.status, headers=self.headers)


def json_response(body: Any, *, status_code: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return ``body`` as a JSON response."""
    return Response(orjson.dumps(body), status_code, headers, "application/json")


def missing_parameter(name: str) -> APIError:
    """Return the error for a parameter that isn't there."""
    message = f"Missing required parameter: '{name}'."
    return APIError(400, message, code="missing_required_parameter", param=name)


def invalid_value(name: str, value: Any, supported: Sequence[str]) -> APIError:
    """Return the error for a value that isn't one of ``supported``."""
    quoted = [f"'{item}'" for item in supported]
    listed = quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + f", and {quoted[-1]}"
    message = f"Invalid value: '{value}'. Supported values are: {listed}."
    return APIError(400, message, code="invalid_value", param=name)


def invalid_type(name: str, expected: str, value: Any) -> APIError:
    """Return the error for a value of the wrong JSON type."""
    message = f"Invalid type for '{name}': expected {expected}, but got {_type_name(value)} instead."
    return APIError(400, message, code="invalid_type", param=name)


def _type_name(value: Any) -> str:
    names = {bool: "a boolean", int: "an integer", float: "a decimal", str: "a string", list: "an array"}
    return "null" if value is None else names.get(type(value), "an object")


_EXPECTED = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "bool_type": "a boolean",
    "dict_type": "an object",
    "mapping_type": "an object",
    "list_type": "an array of strings",
    "model_type": "an object",
    "model_attributes_type": "an object",
}


def _bound(name: str, error: Mapping[str, Any]) -> APIError:
    above = error["type"] == "less_than_equal"
    limit = error["ctx"]["le" if above else "ge"]
    side, sign = ("above maximum", "<=") if above else ("below minimum", ">=")
    message = (
        f"Invalid '{name}': integer {side} value. Expected a value {sign} {limit}, but got {error['input']} instead."
    )
    return APIError(400, message, code=f"integer_{'above_max' if above else 'below_min'}_value", param=name)


def _too_long(name: str, error: Mapping[str, Any]) -> APIError:
    limit, value = error["ctx"]["max_length"], error["input"]
    if error["type"] == "string_too_long":
        message = (
            f"Invalid '{name}': string too long. Expected a string with maximum length {limit}, "
            f"but got a string with length {len(value)} instead."
        )
        return APIError(400, message, code="string_above_max_length", param=name)
    if isinstance(value, dict):
        message = (
            f"Invalid '{name}': too many properties. Expected an object with at most {limit} properties, "
            f"but got an object with {len(value)} properties instead."
        )
        return APIError(400, message, code="object_above_max_properties", param=name)
    message = (
        f"Invalid '{name}': array too long. Expected an array with maximum length {limit}, "
        f"but got an array with length {len(value)} instead."
    )
    return APIError(400, message, code="array_above_max_length", param=name)


def _unsupported(name: str, error: Mapping[str, Any]) -> APIError:
    if not isinstance(error["input"], str):
        return invalid_type(name, "a string", error["input"])
    supported = [part.strip("'") for part in error["ctx"]["expected"].replace(" or ", ", ").split(", ")]
    return invalid_value(name, error["input"], supported)


_TRANSLATIONS: dict[str, Callable[[str, Mapping[str, Any]], APIError]] = {
    "missing": lambda name, _: missing_parameter(name),
    "extra_forbidden": lambda name, _: APIError(
        400, f"Unknown parameter: '{name}'.", code="unknown_parameter", param=name
    ),
    "literal_error": _unsupported,
    "too_long": _too_long,
    "string_too_long": _too_long,
    "greater_than_equal": _bound,
    "less_than_equal": _bound,
}


def from_validation(error: Mapping[str, Any]) -> APIError:
    """Translate one of pydantic's errors into the service's words.

    :param error: an item of ``ValidationError.errors()``; its ``loc`` begins with ``body`` or ``query``.
    """
    kind = error["type"]
    # pydantic marks a bad key of a mapping by a last part "[key]"; the service names the mapping's entry.
    name = ".".join(str(part) for part in error["loc"][1:] if part != "[key]")
    if kind == "json_invalid" or not name:
        return APIError(400, UNPARSABLE_BODY)
    if kind in _TRANSLATIONS:
        return _TRANSLATIONS[kind](name, error)
    return invalid_type(name, _EXPECTED.get(kind, "another value"), error.get("input"))


def _http(request: Request, error: HTTPException) -> APIError:
    method, path = request.method, request.url.path
    if error.status_code == status.HTTP_404_NOT_FOUND:
        return APIError(404, f"Invalid URL ({method} {path})")
    if error.status_code == status.HTTP_405_METHOD_NOT_ALLOWED:
        message = f"Not allowed to {method} on {path}. (HINT: Perhaps you meant to use a different HTTP method?)"
        return APIError(405, message, code="method_not_supported")
    return APIError(error.status_code, str(error.detail))


def install(app: FastAPI, oddities: Collection[str] = ()) -> None:
    """Make ``app`` answer every error in the envelope."""
    meanings: dict[type[Exception], Callable[[Request, Any], APIError]] = {
        APIError: lambda _, error: error,
        RequestValidationError: lambda _, error: from_validation(error.errors()[0]),
        HTTPException: _http,
        Exception: lambda _, __: APIError(500, SERVER_ERROR),
    }
    for kind, meaning in meanings.items():
        app.add_exception_handler(kind, partial(_answer, meaning=meaning, oddities=oddities))


def _answer(
    request: Request, error: Any, *, meaning: Callable[[Request, Any], APIError], oddities: Collection[str]
) -> Response:
    return meaning(request, error).response(oddities)
