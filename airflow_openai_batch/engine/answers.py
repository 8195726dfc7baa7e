"""What one line of an output or error file means: a status, an output, a reason, tokens, an error.

Pure, and the only place that knows the shapes of answers. Gateways differ, so shapes are read leniently: a body given
as a JSON string, an error without a code, a status of 0 are all met in the wild.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import orjson

from airflow_openai_batch.engine import leniently
from airflow_openai_batch.engine.models import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

GOOD_HTTP = range(200, 300)
_ANY_HTTP = range(100, 1000)
_MOST_TOKENS = 1 << 53

RETRYABLE_HTTP = frozenset({0, 408, 409, 429})
"""Failures in passing, besides 5xx; 0 is what some servers say when nothing was called."""


class Answer(NamedTuple):
    """What came back for a row.

    :param may_repeat: whether the same request could end otherwise; False once it was answered for good.
    :param output: text, parsed JSON, an embedding, or the body where there is no shorter form.
    :param usage: the fields of :class:`~models.Usage`.
    """

    wire: str
    status: Status
    may_repeat: bool = False
    output: Any = None
    finish_reason: str | None = None
    model: str | None = None
    usage: dict[str, int] | None = None
    error: dict[str, Any] | None = None


RANK = {"succeeded": 3, "truncated": 2, "refused": 2, "filtered": 2, "invalid": 2, "failed": 1}
"""Which answer a row gets where there are several: the better. The other statuses have 0."""

_made = cast("Callable[[tuple[Any, ...]], Answer]", partial(tuple.__new__, Answer))
"""What ``Answer(...)`` does, without a frame of Python for each of millions of rows."""

Check = Callable[[Any], "str | None"]

_DAMAGED = "\ufffd"
"""What stands for what was no text."""


def parse_lines(lines: Iterable[bytes]) -> Iterator[dict[str, Any] | None]:
    """Yield what :func:`parse_line` makes of each line; skip empty lines."""
    for line in lines:
        value = parse_line(line)
        if value is not None or line.strip():
            yield value


def parse_line(line: bytes) -> dict[str, Any] | None:
    """Return a line's object with its ``custom_id``, or None where it has none, isn't JSON or is empty."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        value = _read_anyway(line)
    return value if type(value) is dict and type(value.get("custom_id")) is str else None


def _read_anyway(line: bytes) -> Any:
    """Return what is on a line that is no JSON to the letter, or None.

    An id that is damaged names no row.
    """
    try:
        value = leniently.loads(line.decode("utf-8", "replace"))
    except ValueError:
        return None
    return None if isinstance(value, dict) and _DAMAGED in str(value.get("custom_id")) else value


def read_line(value: dict[str, Any], check: Check | None) -> Answer:
    """Say what a parsed line means.

    :param check: says what is wrong with a parsed structured answer; None where answers are plain text.
    """
    wire = value["custom_id"]
    error, response = value.get("error"), value.get("response")
    if not isinstance(response, dict):
        if error:
            return _not_run(wire, error)
        return _failed(wire, None, {"code": "no_response", "message": "the line has neither response nor error"})
    body, status = response.get("body"), response.get("status_code")
    if isinstance(body, str):
        body = _body(body)
    if not isinstance(status, int):
        status = _status(status)
    if not status and _is_answer(body):
        status = int(HTTPStatus.OK)
    if status not in GOOD_HTTP:
        if error and (status < HTTPStatus.BAD_REQUEST or _never_ran(error)):
            return _not_run(wire, error)
        told = _error_of(body)
        if error:
            beside = _error_of(error)
            told = {name: said or beside[name] for name, said in told.items()}
        return _failed(wire, status, told)
    # An answer, which was paid for, whatever it has beside it.
    if not isinstance(body, dict):
        problem = {"code": "invalid_body", "message": "the answer's body isn't an object", "status_code": status}
        return Answer(wire, "invalid", may_repeat=True, output=body, error=problem)
    return _answered(wire, body, check)


def _status(status: Any) -> int:
    if isinstance(status, float):
        return int(status) if status in _ANY_HTTP else 0
    return int(status) if isinstance(status, str) and status.isdecimal() and len(status) <= len("200") else 0


def _is_answer(body: Any) -> bool:
    """Whether a body that comes without a status is an answer: it has the shape of one, and no error."""
    if not isinstance(body, dict) or body.get("error"):
        return False
    lists = [name for name in ("choices", "output", "data") if isinstance(body.get(name), list)]
    # A list of anything may be one of errors.
    if not lists or (lists == ["data"] and not body.get("usage")):
        return False
    try:
        return _shape_of(body)(body)[0] != "failed"
    except _BROKEN:
        return False


_NEVER_RAN: dict[Any, Status] = {"batch_expired": "expired", "batch_cancelled": "cancelled"}


def _never_ran(error: Any) -> bool:
    code = error.get("code") if isinstance(error, dict) else None
    return isinstance(code, str) and code in _NEVER_RAN


def _not_run(wire: str, error: Any) -> Answer:
    error = error if isinstance(error, dict) else {"message": str(error)}
    code = error.get("code")
    status = _NEVER_RAN[code] if _never_ran(error) else "failed"
    return Answer(wire, status, may_repeat=True, error={"code": code, "message": error.get("message")})


def _failed(wire: str, status: int | None, error: dict[str, Any]) -> Answer:
    code = error.get("code")
    told = {"code": code, "message": error.get("message"), "status_code": status}
    if code == "content_filter":
        return Answer(wire, "filtered", error=told)
    passing = status is None or status in RETRYABLE_HTTP or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return Answer(wire, "failed", may_repeat=passing, error=told)


def _body(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        try:
            return leniently.loads(text)
        except ValueError:
            return text


def _error_of(body: Any) -> dict[str, Any]:
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict):
        return {"code": error.get("code") or error.get("type"), "message": error.get("message")}
    return {"code": None, "message": None if error is None else str(error)[:1000]}


def _answered(wire: str, body: dict[str, Any], check: Check | None) -> Answer:
    try:
        status, output, reason = _shape_of(body)(body)
    except _BROKEN as problem:
        status, output, reason = "invalid", body, None
        error: dict[str, Any] | None = {"code": "invalid_body", "message": f"unexpected shape: {problem!r}"}
    else:
        error = None
        if status == "failed":
            error = _error_of(body)
        elif status == "refused":
            error = {"code": "refusal", "message": output}
            output = None
        # What is no text (tool calls, several choices) has no schema to fit, and asking again would be paid again.
        elif check is not None and status == "succeeded" and (output is None or isinstance(output, str)):
            status, output, error = _structured(output, check)
    model = body.get("model")
    model = model if isinstance(model, str) else None
    return _made((wire, status, status in _PASSING, output, reason, model, usage_of(body.get("usage")), error))


def _structured(output: Any, check: Check) -> tuple[Status, Any, dict[str, Any] | None]:
    if output is None:
        return "invalid", None, {"code": "invalid_json", "message": "the answer has no text"}
    try:
        value = orjson.loads(output)
    except orjson.JSONDecodeError as problem:
        return "invalid", output, {"code": "invalid_json", "message": f"not JSON: {problem}"}
    wrong = check(value)
    if wrong is not None:
        return "invalid", value, {"code": "schema_mismatch", "message": wrong}
    return "succeeded", value, None


def answered_by_text(
    wire: str,
    text: str | None,
    reason: str | None,
    model: str | None,
    usage: dict[str, int] | None,
    *,
    check: Check | None,
) -> Answer:
    """Say what an answer of nothing but text means.

    :param reason: as the endpoint spells why it ended.
    """
    status, output, error = FINISH.get(reason, "succeeded"), text, None
    if check is not None and status == "succeeded":
        status, output, error = _structured(text, check)
    return _made((wire, status, status in _PASSING, output, reason, model, usage, error))


_Reading = tuple[Status, Any, "str | None"]
_PASSING = frozenset({"invalid", "failed"})
_BROKEN = (KeyError, IndexError, TypeError, AttributeError, ValueError)
"""What reading a shape ends with where a body hasn't it."""
FINISH: dict[str | None, Status] = {
    "length": "truncated",
    "content_filter": "filtered",
    "max_output_tokens": "truncated",
}


def _chat(body: dict[str, Any]) -> _Reading:
    choices = body["choices"]
    if len(choices) > 1:
        return "succeeded", body, choices[0].get("finish_reason")
    message, reason = choices[0]["message"], choices[0].get("finish_reason")
    if message.get("refusal"):
        return "refused", message["refusal"], reason
    content = message.get("content")
    output = message if content is None and message.get("tool_calls") else content
    return FINISH.get(reason, "succeeded"), output, reason


def _completion(body: dict[str, Any]) -> _Reading:
    choices = body["choices"]
    if len(choices) > 1:
        return "succeeded", body, choices[0].get("finish_reason")
    reason = choices[0].get("finish_reason")
    return FINISH.get(reason, "succeeded"), choices[0]["text"], reason


def _response(body: dict[str, Any]) -> _Reading:
    state = body.get("status")
    if state == "failed":
        return "failed", None, state
    contents = [content for item in body["output"] if item.get("type") == "message" for content in item["content"]]
    refusals = [content["refusal"] for content in contents if content.get("type") == "refusal"]
    if refusals:
        return "refused", "".join(refusals), state
    texts = [content["text"] for content in contents if content.get("type") == "output_text"]
    output: Any = "".join(texts) if texts else None
    if state == "incomplete":
        reason = (body.get("incomplete_details") or {}).get("reason")
        return FINISH.get(reason, "truncated"), output, reason
    if output is None and body["output"]:
        output = body["output"]
    return "succeeded", output, state


def _list(body: dict[str, Any]) -> _Reading:
    data = body["data"]
    if "embedding" not in data[0]:
        return "succeeded", body, None
    vectors = [item["embedding"] for item in sorted(data, key=lambda item: int(item.get("index", 0)))]
    return "succeeded", vectors[0] if len(vectors) == 1 else vectors, None


def _whole(body: dict[str, Any]) -> _Reading:
    if "choices" in body:
        return _chat(body) if "message" in body["choices"][0] else _completion(body)
    return "succeeded", body, None


_SHAPES: dict[str, Callable[[dict[str, Any]], _Reading]] = {
    "chat.completion": _chat,
    "text_completion": _completion,
    "response": _response,
    "list": _list,
}


def _shape_of(body: dict[str, Any]) -> Callable[[dict[str, Any]], _Reading]:
    kind = body.get("object")
    return _SHAPES.get(kind, _whole) if type(kind) is str else _whole


def usage_of(usage: Any) -> dict[str, int] | None:
    """Return the fields of :class:`~models.Usage`, whichever names the endpoint has for them."""
    if not isinstance(usage, dict):
        return None
    get = usage.get
    inputs, outputs, total = get("prompt_tokens"), get("completion_tokens"), get("total_tokens")
    into, out_of = get("prompt_tokens_details"), get("completion_tokens_details")
    if "input_tokens" in usage or "output_tokens" in usage:
        inputs, outputs = _first(get("input_tokens"), inputs), _first(get("output_tokens"), outputs)
        into, out_of = get("input_tokens_details") or into, get("output_tokens_details") or out_of
    cached = into.get("cached_tokens") if type(into) is dict else 0
    reasoning = out_of.get("reasoning_tokens") if type(out_of) is dict else 0
    inputs = inputs if type(inputs) is int else _whole_number(inputs)
    outputs = outputs if type(outputs) is int else _whole_number(outputs)
    total = total if type(total) is int else _whole_number(total)
    return {
        "input_tokens": inputs,
        "cached_tokens": cached if type(cached) is int else _whole_number(cached),
        "output_tokens": outputs,
        "reasoning_tokens": reasoning if type(reasoning) is int else _whole_number(reasoning),
        "total_tokens": total or inputs + outputs,
    }


def _whole_number(value: Any) -> int:
    """Return a number that was written with a point, 0 for what is none."""
    return int(value) if type(value) is float and value.is_integer() and abs(value) < _MOST_TOKENS else 0


def _first(value: Any, other: Any) -> Any:
    return value if isinstance(value, int | float) else other
