"""What the service checks of an input file while a batch is ``validating``.

One error a bad line, the first that applies, with the line's number counted from 1. Codes and messages are the
service's. Lines are read one at a time; what is kept is the set of custom ids.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from airflow_openai_batch.emulator import prompts, tokens
from airflow_openai_batch.emulator.endpoints import PAYLOADS, canonical
from airflow_openai_batch.emulator.oddities import MAX_ID
from airflow_openai_batch.emulator.other_answers import embedding_inputs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from airflow_openai_batch.emulator.settings import Settings

# The service reports many bad lines but not without end. Where it stops isn't documented; a hundred is this
# emulator's guess, and a client that reports every one of them is not what the limit is for.
MAX_ERRORS = 100
EMPTY_FILE = "The input file is empty. Please ensure that the file contains at least one request."
NOT_JSON = "This line is not parseable as valid JSON."
WRONG_URL = "The URL provided for this request does not match the batch endpoint."
STREAMING = "Streaming is not supported in the Batch API."
DUPLICATE = (
    "The custom_id for this request is a duplicate of another request. "
    "The custom_id parameter must be unique for each request in a batch."
)
_STREAMERS = {
    "/v1/chat/completions": "Chat Completions: ",
    "/v1/responses": "Responses: ",
    "/v1/completions": "Completions: ",
}


def batch_error(
    code: str, message: str, *, line: int | None = None, param: str | None = None
) -> dict[str, str | int | None]:
    """Return an item of a batch's ``errors.data``."""
    return {"code": code, "message": message, "param": param, "line": line}


@dataclass(slots=True)
class Report:
    """What validation found.

    :param rows: requests in the file.
    :param model: the model of all of them.
    :param tokens: input tokens of all of them, counted only where a limit wants it.
    :param errors: what makes the batch fail, in the order of the lines.
    """

    rows: int = 0
    model: str | None = None
    tokens: int = 0
    errors: list[dict[str, str | int | None]] = field(default_factory=list)


class _BadLineError(Exception):
    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


class _Check:
    def __init__(self, endpoint: str, settings: Settings) -> None:
        self._endpoint = endpoint
        self._known = canonical(endpoint)
        self._settings = settings
        self._counting = bool(settings.token_limits)
        self._ids: set[str] = set()
        self._inputs = 0
        self.report = Report()

    def line(self, number: int, raw: bytes) -> None:
        """Check one line."""
        self.report.rows += 1
        try:
            body = self._check_line(raw)
            self._check_body(body)
        except _BadLineError as error:
            if len(self.report.errors) < MAX_ERRORS:
                self.report.errors.append(batch_error(error.code, error.message, line=number, param=error.param))

    def _check_line(self, raw: bytes) -> dict[str, Any]:
        try:
            request = orjson.loads(raw)
        except orjson.JSONDecodeError:
            request = None
        if not isinstance(request, dict):
            raise _BadLineError("invalid_json_line", NOT_JSON)
        for name, kind in (("custom_id", str), ("method", str), ("url", str), ("body", dict)):
            value = request.get(name)
            if value is None or value == "":
                raise _BadLineError("missing_required_parameter", f"Missing required parameter: '{name}'.", name)
            if not isinstance(value, kind):
                expected = "a string" if kind is str else "an object"
                raise _BadLineError("invalid_type", f"Invalid type for '{name}': expected {expected}.", name)
        if request["custom_id"] in self._ids:
            raise _BadLineError("duplicate_custom_id", DUPLICATE, "custom_id")
        self._ids.add(request["custom_id"])
        if "short_ids" in self._settings.oddities and len(request["custom_id"]) > MAX_ID:
            message = f"Invalid 'custom_id': longer than {MAX_ID} characters."
            raise _BadLineError("string_above_max_length", message, "custom_id")
        if request["method"] != "POST":
            message = f"Invalid method: '{request['method']}'. Supported values are: 'POST'."
            raise _BadLineError("invalid_method", message, "method")
        if request["url"] != self._endpoint:
            raise _BadLineError("invalid_url", WRONG_URL, "url")
        body: dict[str, Any] = request["body"]
        return body

    def _check_body(self, body: Mapping[str, Any]) -> None:
        model = body.get("model")
        if not isinstance(model, str) or not model:
            raise _BadLineError("invalid_request", "Model parameter is required.", "body.model")
        if model not in self._settings.known_models:
            message = f"The provided model '{model}' is not supported by the Batch API."
            raise _BadLineError("model_not_found", message, "body.model")
        if self.report.model is None:
            self.report.model = model
        elif model != self.report.model:
            message = (
                f"The model '{model}' for this request does not match the rest of the batch. "
                "Each batch must contain requests for a single model."
            )
            raise _BadLineError("mismatched_model", message, "body.model")
        payload = PAYLOADS[self._known]
        if body.get(payload) is None:
            raise _BadLineError("invalid_request", f"{payload.capitalize()} parameter is required.", f"body.{payload}")
        if body.get("stream"):
            prefix = _STREAMERS.get(self._known, "")
            raise _BadLineError("streaming_unsupported", f"{prefix}{STREAMING}", "body.stream")
        if self._known == "/v1/embeddings":
            self._inputs += len(embedding_inputs(body["input"]))
        if self._counting:
            self.report.tokens += tokens.count(*prompts.texts(self._known, body))

    def whole(self) -> None:
        """Check what concerns the file and no line of it."""
        settings, report = self._settings, self.report
        if not report.rows:
            report.errors.append(batch_error("empty_file", EMPTY_FILE))
        if report.rows > settings.requests_limit:
            message = (
                f"The number of requests in the input file ({report.rows}) exceeds the maximum of "
                f"{settings.requests_limit:,} for a batch."
            )
            report.errors.insert(0, batch_error("too_many_tasks", message))
        if self._inputs > settings.max_embedding_inputs:
            message = (
                f"The number of embedding inputs in the input file ({self._inputs}) exceeds the maximum of "
                f"{settings.max_embedding_inputs:,} for a batch."
            )
            report.errors.insert(0, batch_error("too_many_tasks", message))


def validate(path: Path, endpoint: str, settings: Settings) -> Report:
    """Check the input file at ``path`` for a batch of ``endpoint``. Reads the disk."""
    check = _Check(endpoint, settings)
    if (size := path.stat().st_size) > settings.max_batch_bytes:
        message = (
            f"The input file has {size:,} bytes, more than the maximum of {settings.max_batch_bytes:,} for a batch. "
            "Please try again with a smaller file."
        )
        check.report.errors.append(batch_error("invalid_request", message))
        return check.report
    blank: list[int] = []
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            # Blank lines at the end are no requests; anywhere else they are lines that aren't JSON.
            if not raw.strip():
                blank.append(number)
                continue
            while blank:
                check.line(blank.pop(0), b"")
            check.line(number, raw)
    check.whole()
    return check.report
