"""Row -> request: its body, and the columns that the result shows; ``chunks`` makes lines of them.

Everything that OpenAI would find wrong hours later and that can be told offline is found here, with the row's place.
The wire's ``custom_id`` is ours (``r`` and the row's number): any id of the user's is legal that way, on any gateway,
and joining needs no table.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson

from airflow_openai_batch.engine import structured
from airflow_openai_batch.engine.endpoints import ENDPOINTS, Endpoint, canonical
from airflow_openai_batch.engine.images import ImageError, Images
from airflow_openai_batch.engine.templates import TemplateError, compile_text, compile_value
from airflow_openai_batch.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

MAX_REQUESTS = 50_000
"""Requests a batch may hold (Batch API guide); for embeddings, inputs in all."""

MAX_BYTES = 209_715_200
"""Bytes a batch's input file may have: 200 MB (Batch API guide)."""

BYTES_PER_TOKEN = 4
"""The estimate of enqueued tokens; English text has about four bytes a token."""

_READY_MADE = frozenset({"custom_id", "method", "url", "body"})
"""The fields of a request line."""

_NONE: dict[str, Any] = {}

_WIRE = re.compile(r"r(0|[1-9][0-9]{0,17})")


@dataclass(frozen=True)
class RequestSpec:
    """What shapes a request; all of it is part of the job's fingerprint.

    :param prompt: row template of the user prompt, or None: the row's own ``messages``, ``input`` or ``prompt`` column.
    :param system: row template of the system prompt, or None.
    :param model: model for rows that name none; several: each row goes to every one of them; None: rows name theirs,
        in a column ``model`` if they aren't ready-made requests.
    :param endpoint: path of the endpoint.
    :param body: more body fields; strings inside are row templates.
    :param response_format: normalized structured output (:func:`structured.normalize`), or None.
    :param image_columns: columns with images (:class:`images.Images`), or None.
    :param image_root: the folder that their paths are below, or None.
    :param image_detail: OpenAI's ``detail`` of each image, or None.
    :param resolve: gives filesystem and path for ``image_root``; no part of the fingerprint.
    """

    prompt: str | None = None
    system: str | None = None
    model: str | tuple[str, ...] | list[str] | None = None
    endpoint: str = "/v1/chat/completions"
    body: dict[str, Any] = field(default_factory=dict)
    response_format: dict[str, Any] | None = None
    image_columns: tuple[str, ...] | list[str] | None = None
    image_root: str | None = None
    image_detail: str | None = None
    resolve: Callable[[str], tuple[Any, str]] | None = field(default=None, compare=False, repr=False)


Asked = tuple[str | None, dict[str, Any], dict[str, Any]]
"""What a row asks for: the user's own id or None, the request's body, and the columns that the result shows. A bare
tuple: there is one for each of millions of rows."""


class RowError(ValueError):
    """A row that can't become a request; ``field`` names the column or body field."""

    def __init__(self, field_name: str, message: str) -> None:
        super().__init__(message)
        self.field = field_name


def wire_id(row: int) -> str:
    """Return the ``custom_id`` that a row has on the wire."""
    return f"r{row}"


def row_of(wire: str) -> int | None:
    """Return the row of a wire ``custom_id``, or None where it isn't one of ours, spelt as :func:`wire_id` does."""
    match = _WIRE.fullmatch(wire)
    return int(match[1]) if match else None


def measure(line: bytes, endpoint: str) -> tuple[int, int]:
    """Return a shard line's row number and how much of the batch's count it takes up."""
    row = row_of(line[14 : line.index(b'"', 14)].decode())
    if row is None:
        raise ValueError(f"not a line of a shard: {line[:60]!r}")
    return row, count_inputs(orjson.loads(line)["body"], endpoint) if endpoint.endswith("/embeddings") else 1


def count_inputs(body: dict[str, Any], endpoint: str) -> int:
    """Return how many of a batch's 50,000 a request takes up: for embeddings its inputs, else 1."""
    if not endpoint.endswith("/embeddings"):
        return 1
    given = body.get("input")
    # A list of numbers is one input in tokens.
    return len(given) if isinstance(given, list) and given and isinstance(given[0], (str, list)) else 1


class RequestBuilder:
    """Makes requests of rows.

    :param url: how requests name the endpoint, where the server has another path for it.
    :ivar takes_bodies: whether the bodies of ready-made requests are sent as they stand.
    :raises ConfigurationError: the specification can't be right for any row.
    """

    def __init__(self, spec: RequestSpec, url: str | None = None) -> None:
        self._spec = spec
        self._endpoint = ENDPOINTS.get(spec.endpoint)
        if self._endpoint is None:
            log.warning("Endpoint %s isn't known to take batches; requests are passed unchecked", spec.endpoint)
        shape = self._endpoint or Endpoint("input", "instructions", (), {"input": "input", "prompt": "input"})
        self.shape = shape
        self._model = spec.model if isinstance(spec.model, str) else None
        self.models = tuple(spec.model) if spec.model and self._model is None else ()
        self.url = url or spec.endpoint
        self.endpoint = spec.endpoint
        self._templated = spec.prompt is not None
        self._is_chat = shape.prompt is None
        if spec.system is not None and not self._is_chat and shape.system is None:
            raise ConfigurationError(f"system: {spec.endpoint} has no system prompt")
        self._prompt = None if spec.prompt is None else compile_text(spec.prompt, "prompt")
        self._system = None if spec.system is None else compile_text(spec.system, "system")
        body = dict(spec.body)
        if self.models and "model" in body:
            raise ConfigurationError("body: it names a model, and model= several: drop one of both")
        if body.get("stream"):
            raise ConfigurationError("body: stream isn't supported in batches")
        if spec.response_format is not None:
            body = {**body, **_merged_text(body, structured.for_endpoint(spec.response_format, spec.endpoint))}
        self._body: Callable[[dict[str, Any]], dict[str, Any]] = compile_value(body, "body")
        self._images: Images | None = None
        if spec.image_columns:
            self._images = Images(
                tuple(spec.image_columns), spec.image_root, spec.image_detail, spec.endpoint, spec.resolve
            )

        self.takes_bodies = not self.models and self._images is None

    def request(self, data: dict[str, Any]) -> Asked:
        """Make the request of one row.

        :return: with several models the body names none.
        :raises RowError: the row can't be sent.
        """
        body, custom_id, columns = data.get("body"), data.get("custom_id"), _NONE
        if (
            type(body) is dict
            and type(custom_id) is str
            and custom_id
            and data.get("method") == "POST"
            and data.get("url") == self.endpoint
        ):
            if len(data) > len(_READY_MADE) or "model" not in body:
                body, columns = self._ready_made(data, body)
        elif ("body" in data or "method" in data) and is_ready_made(data, templated=self._templated):
            self._check_ready_made(data)
            body, columns = self._ready_made(data, data["body"])
        else:
            body, columns = self._from_row(data), data
            if custom_id is not None and type(custom_id) is not str:
                custom_id = _scalar_id(custom_id)
        if self._images is not None:
            columns = self._images.shown(columns)
        messages = body.get("messages")
        if self._is_chat and type(messages) is list and messages and "stream" not in body:
            for message in messages:
                if type(message) is not dict or type(message.get("role")) is not str:
                    self._check(body)
                    break
        else:
            self._check(body)
        model = body.get("model")
        if type(model) is not str or not model or self.models:
            self._check_model(body)
        return custom_id, body, columns

    def _ready_made(self, data: dict[str, Any], body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        if "model" not in body and not self.models:
            model = self._model or data.get("model")
            body = {"model": model, **body} if model else body
        if len(data) == len(_READY_MADE):
            return body, {}
        return body, {key: value for key, value in data.items() if key not in _READY_MADE}

    def _check_ready_made(self, data: dict[str, Any]) -> None:
        for name, kind in (("custom_id", str), ("method", str), ("url", str), ("body", dict)):
            if name not in data:
                raise RowError(name, "a ready-made request needs it")
            if not isinstance(data[name], kind):
                wanted = "an object" if kind is dict else "a string"
                raise RowError(name, f"must be {wanted}, not {_kind(data[name])}")
        if not data["custom_id"]:
            raise RowError("custom_id", "must not be empty")
        if data["method"] != "POST":
            raise RowError("method", f"must be POST, not {data['method']!r}")
        if canonical(data["url"]) != self._spec.endpoint:
            raise RowError("url", f"{data['url']!r} differs from the job's endpoint {self._spec.endpoint!r}")

    def _from_row(self, data: dict[str, Any]) -> dict[str, Any]:
        field_name = "system"
        try:
            system = self._system(data) if self._system else None
            field_name = "body"
            body = dict(self._body(data))
            field_name = "prompt"
            prompt = self._prompt(data) if self._prompt else None
        except TemplateError as error:
            raise RowError(field_name, str(error)) from error
        if prompt is not None:
            self._place(body, prompt)
        elif not any(name in body for name in self.shape.needs):
            self._take_column(data, body)
        if self._images is not None:
            try:
                self._images.join(body, data)
            except ImageError as error:
                raise RowError(error.column, str(error)) from error
        if system is not None:
            if self._is_chat:
                messages = body.get("messages")
                rest = messages if isinstance(messages, list) else []
                body["messages"] = [{"role": "system", "content": system}, *rest]
            else:
                body[str(self.shape.system)] = system
        model = self._model or data.get("model")
        if model and not self.models:
            body.setdefault("model", model)
        return body

    def _place(self, body: dict[str, Any], prompt: Any) -> None:
        if self.shape.prompt is None:
            body["messages"] = [{"role": "user", "content": prompt}]
        else:
            body[self.shape.prompt] = prompt

    def _take_column(self, data: dict[str, Any], body: dict[str, Any]) -> None:
        for column, target in self.shape.columns.items():
            if column not in data:
                continue
            if not isinstance(data[column], (str, list)):
                raise RowError(column, f"must be a string or a list, not {_kind(data[column])}")
            if target:
                body[target] = data[column]
            else:
                self._place(body, data[column])
            return
        wanted = " or ".join(repr(column) for column in self.shape.columns)
        there = ", ".join(map(str, data))[:300] or "none"
        raise RowError("prompt", f"no prompt= template and no column {wanted}; columns are: {there}")

    def _check_model(self, body: dict[str, Any]) -> None:
        """Find what is wrong with a model that isn't the one of the row."""
        if not self.models:
            raise RowError("model", "no model: give model=, or a model in each row")
        if "model" in body:
            raise RowError("model", "the row names its own model, and model= names several: drop one of both")

    def _check(self, body: dict[str, Any]) -> None:
        """Find what is wrong, if anything is."""
        if body.get("stream"):
            raise RowError("body.stream", "streaming isn't supported in batches")
        needs = self.shape.needs
        if needs and not any(body.get(name) is not None for name in needs):
            raise RowError(f"body.{needs[0]}", f"{self._spec.endpoint} needs it")
        if self._is_chat:
            messages = body["messages"]
            if not isinstance(messages, list) or not messages:
                raise RowError("body.messages", "must be a list of at least one message")
            for index, message in enumerate(messages):
                if not isinstance(message, dict) or not isinstance(message.get("role"), str):
                    raise RowError(f"body.messages[{index}]", "must be an object with a role")


def is_ready_made(data: dict[str, Any], *, templated: bool) -> bool:
    """Whether a row is a request line already.

    With a prompt template the row must be a whole one, since a dataset may well have a column ``body`` or ``url``.
    """
    if templated:
        return isinstance(data.get("body"), dict) and "url" in data and "method" in data
    return ("url" in data and ("body" in data or "method" in data)) or ("method" in data and "body" in data)


def _merged_text(body: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """Keep other settings of ``text`` (its verbosity) beside the format."""
    own = body.get("text")
    if "text" in fields and isinstance(own, dict):
        return {"text": {**own, **fields["text"]}}
    return fields


def _scalar_id(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal, UUID)):
        raise RowError("custom_id", f"must be a string or a number, not {_kind(value)}")
    return str(value)


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
