"""Answers of the shapes that nearly all have, read by their types: what isn't asked for makes no objects.

msgspec reads a line so in half of the time that it takes to make a dictionary of all that is in it. Nothing is decided
here that :mod:`answers` wouldn't decide alike: whatever has another shape, down to a field of another type, goes there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from airflow_openai_batch.engine.answers import GOOD_HTTP, Answer, answered_by_text, parse_line, read_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_openai_batch.engine.answers import Check

    Quick = Callable[[bytes, "Check | None"], "Answer | None"]

_OTHER = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What reading by types ends with where a line has another shape, or none."""


class _Inputs(Struct, gc=False):
    cached_tokens: int | None = None


class _Outputs(Struct, gc=False):
    reasoning_tokens: int | None = None


def _usage(
    inputs: int | None, outputs: int | None, total: int | None, into: _Inputs | None, out_of: _Outputs | None
) -> dict[str, int]:
    inputs, outputs = inputs or 0, outputs or 0
    return {
        "input_tokens": inputs,
        "cached_tokens": (into.cached_tokens or 0) if into is not None else 0,
        "output_tokens": outputs,
        "reasoning_tokens": (out_of.reasoning_tokens or 0) if out_of is not None else 0,
        "total_tokens": total or inputs + outputs,
    }


class _ChatUsage(Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _Inputs | None = None
    completion_tokens_details: _Outputs | None = None
    input_tokens: UnsetType = UNSET
    output_tokens: UnsetType = UNSET


class _Message(Struct, gc=False):
    content: str | None = None
    refusal: None = None
    tool_calls: None = None


class _Choice(Struct, gc=False):
    message: _Message
    finish_reason: str | None = None


class _Chat(Struct, gc=False):
    object: Literal["chat.completion"]
    choices: list[_Choice]
    model: str | None = None
    usage: _ChatUsage | None = None


class _ChatResponse(Struct, gc=False):
    status_code: int
    body: _Chat


class _ChatLine(Struct, gc=False):
    custom_id: str
    response: _ChatResponse
    error: None = None


_decode_chat = msgspec.json.Decoder(_ChatLine).decode


def _chat(line: bytes, check: Check | None) -> Answer | None:
    try:
        read = _decode_chat(line)
    except _OTHER:
        return None
    response = read.response
    body, usage = response.body, response.body.usage
    if response.status_code not in GOOD_HTTP or len(body.choices) != 1:
        return None
    tokens = None if usage is None else _usage(
        usage.prompt_tokens, usage.completion_tokens, usage.total_tokens,
        usage.prompt_tokens_details, usage.completion_tokens_details,
    )  # fmt: skip
    choice = body.choices[0]
    return answered_by_text(
        read.custom_id, choice.message.content, choice.finish_reason, body.model, tokens, check=check
    )


class _ResponseUsage(Struct, gc=False):
    input_tokens: int
    output_tokens: int
    total_tokens: int | None = None
    input_tokens_details: _Inputs | None = None
    output_tokens_details: _Outputs | None = None
    prompt_tokens_details: UnsetType = UNSET
    completion_tokens_details: UnsetType = UNSET


class _Content(Struct, gc=False):
    type: str
    text: str | None = None


class _Item(Struct, gc=False):
    type: str
    content: list[_Content] | None = None


class _Response(Struct, gc=False):
    object: Literal["response"]
    status: Literal["completed"]
    output: list[_Item]
    model: str | None = None
    usage: _ResponseUsage | None = None


class _ResponseResponse(Struct, gc=False):
    status_code: int
    body: _Response


class _ResponseLine(Struct, gc=False):
    custom_id: str
    response: _ResponseResponse
    error: None = None


_decode_response = msgspec.json.Decoder(_ResponseLine).decode


def _response(line: bytes, check: Check | None) -> Answer | None:
    try:
        read = _decode_response(line)
    except _OTHER:
        return None
    response = read.response
    body, usage = response.body, response.body.usage
    if response.status_code not in GOOD_HTTP:
        return None
    texts: list[str] = []
    for item in body.output:
        if item.type != "message":
            continue
        if item.content is None:
            return None
        for content in item.content:
            if content.type != "output_text" or content.text is None:
                return None
            texts.append(content.text)
    if not texts:
        return None
    tokens = None if usage is None else _usage(
        usage.input_tokens, usage.output_tokens, usage.total_tokens,
        usage.input_tokens_details, usage.output_tokens_details,
    )  # fmt: skip
    return answered_by_text(read.custom_id, "".join(texts), body.status, body.model, tokens, check=check)


_QUICK: dict[Any, Quick] = {"chat.completion": _chat, "response": _response}


def line_reader(check: Check | None) -> Callable[[bytes], Answer | None]:
    """Return what reads the lines of a job's output and error files, one after another.

    It gives None for a line that can't be read, that has no ``custom_id``, or that is empty. A line is taken to have
    the shape of the one before it, until one hasn't.

    :param check: says what is wrong with a parsed structured answer; None where answers are plain text.
    """
    quick: Quick | None = None

    def read(line: bytes) -> Answer | None:
        nonlocal quick
        if quick is not None:
            answer = quick(line, check)
            if answer is not None:
                return answer
        value = parse_line(line)
        if value is None:
            return None
        quick = _QUICK.get(_kind(value))
        return read_line(value, check)

    return read


def _kind(value: dict[str, Any]) -> str | None:
    """Return what a line says that its answer is."""
    response = value.get("response")
    body = response.get("body") if isinstance(response, dict) else None
    kind = body.get("object") if isinstance(body, dict) else None
    return kind if isinstance(kind, str) else None
