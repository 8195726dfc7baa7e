"""Answers of the endpoints that write text: chat completions, responses and completions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from airflow_openai_batch.emulator import prompts, structured, tokens
from airflow_openai_batch.emulator.errors import APIError, invalid_type, missing_parameter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_openai_batch.emulator.markers import Marker

FINGERPRINT = "fp_emulated"
REFUSAL = "I'm sorry, but I can't help with that."
_INVALID_JSON = '{"answer": "this is not the JSON that was asked for'


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer."""

    input: int = 0
    output: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model says.

    :param finish: ``stop``, ``length``, ``content_filter`` or ``refusal``.
    """

    text: str
    finish: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class Context:
    """What an answer is made with.

    :param url: the endpoint.
    :param key: 32 hex digits that the answer's ids are made of.
    :param now: Unix time of the answer.
    """

    url: str
    key: str
    now: int
    responder: Callable[[prompts.Prompt], str]
    marker: Marker | None = None


def snapshot(model: str) -> str:
    """Return the model's name as answers give it: never a real snapshot's."""
    return f"{model}-emulated"


def _limit(body: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value = body.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool):
            raise invalid_type(name, "an integer", value)
        if value < 1:
            message = f"Invalid '{name}': integer below minimum value. Expected a value >= 1, but got {value} instead."
            raise APIError(400, message, code="integer_below_min_value", param=name)
        return value
    return None


def reply(context: Context, body: Mapping[str, Any], prompt: prompts.Prompt, limit: int | None) -> Reply:
    """Let the responder speak, and make of it what the request and its marker ask for.

    :param limit: most tokens of the answer.
    """
    spent = tokens.count(*prompts.texts(context.url, body))
    action = context.marker.action if context.marker else ""
    if action == "refusal":
        return Reply(REFUSAL, "refusal", Usage(spent, tokens.count(REFUSAL)))
    if action == "content_filter":
        return Reply("", "content_filter", Usage(spent, 0))
    text = context.responder(prompt)
    if prompt.schema is not None:
        text = _structure(prompt.schema, text)
    if action == "invalid_json":
        text = _INVALID_JSON
    finish = "stop"
    if action == "length":
        text, finish = text[: len(text) // 2], "length"
    if limit is not None and tokens.count(text) > limit:
        text, finish = tokens.cut(text, limit), "length"
    return Reply(text, finish, Usage(spent, tokens.count(text)))


def _structure(schema: Mapping[str, Any], text: str) -> str:
    try:
        return orjson.dumps(structured.instance(schema, text)).decode()
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError, re.error) as error:
        message = f"Invalid schema for the response format: {type(error).__name__}: {error}"
        raise APIError(400, message, code="invalid_json_schema", param="response_format") from error


def _completion_usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def chat_completion(context: Context, body: Mapping[str, Any]) -> tuple[dict[str, Any], Usage]:
    """Answer /v1/chat/completions."""
    sent = body.get("messages")
    if not isinstance(sent, list):
        raise missing_parameter("messages") if sent is None else invalid_type("messages", "an array of objects", sent)
    if not sent:
        message = "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array."
        raise APIError(400, message, code="empty_array", param="messages")
    prompt = prompts.read(context.url, body, structured.wanted_schema(context.url, body))
    said = reply(context, body, prompt, _limit(body, "max_completion_tokens", "max_tokens"))
    number = _limit(body, "n") or 1
    refused = said.finish == "refusal"
    choices: list[dict[str, Any]] = [
        {
            "index": index,
            "message": {
                "role": "assistant",
                "content": None if refused else said.text,
                "refusal": said.text if refused else None,
                "annotations": [],
            },
            "logprobs": None,
            "finish_reason": "stop" if refused else said.finish,
        }
        for index in range(number)
    ]
    usage = Usage(said.usage.input, said.usage.output * number)
    answer = {
        "id": f"chatcmpl-{context.key}",
        "object": "chat.completion",
        "created": context.now,
        "model": snapshot(prompt.model),
        "choices": choices,
        "usage": _completion_usage(usage),
        "service_tier": "default",
        "system_fingerprint": FINGERPRINT,
    }
    return answer, usage


def completion(context: Context, body: Mapping[str, Any]) -> tuple[dict[str, Any], Usage]:
    """Answer /v1/completions: one choice for each prompt."""
    sent = body.get("prompt")
    if sent is None:
        raise missing_parameter("prompt")
    several = isinstance(sent, list) and all(isinstance(item, str) for item in sent)
    limit = _limit(body, "max_tokens")
    said = []
    for text in sent if several else [prompts.content_text(sent)]:
        one = {**body, "prompt": text}
        said.append(reply(context, one, prompts.read(context.url, one, None), limit))
    usage = Usage(sum(item.usage.input for item in said), sum(item.usage.output for item in said))
    finishes = {"refusal": "stop"}
    answer = {
        "id": f"cmpl-{context.key}",
        "object": "text_completion",
        "created": context.now,
        "model": snapshot(str(body["model"])),
        "choices": [
            {"index": i, "text": item.text, "logprobs": None, "finish_reason": finishes.get(item.finish, item.finish)}
            for i, item in enumerate(said)
        ],
        "usage": _completion_usage(usage),
        "system_fingerprint": FINGERPRINT,
    }
    return answer, usage


def _incomplete(finish: str) -> dict[str, str] | None:
    reasons = {"length": "max_output_tokens", "content_filter": "content_filter"}
    return {"reason": reasons[finish]} if finish in reasons else None


def response(context: Context, body: Mapping[str, Any]) -> tuple[dict[str, Any], Usage]:
    """Answer /v1/responses."""
    sent = body.get("input")
    if sent is None:
        raise missing_parameter("input")
    if not isinstance(sent, (str, list)):
        raise invalid_type("input", "a string or an array of objects", sent)
    prompt = prompts.read(context.url, body, structured.wanted_schema(context.url, body))
    limit = _limit(body, "max_output_tokens")
    said = reply(context, body, prompt, limit)
    incomplete = _incomplete(said.finish)
    status = "incomplete" if incomplete else "completed"
    if said.finish == "refusal":
        content: dict[str, Any] = {"type": "refusal", "refusal": said.text}
    else:
        content = {"type": "output_text", "text": said.text, "annotations": [], "logprobs": []}
    text, reasoning = body.get("text"), body.get("reasoning")
    answer = {
        "id": f"resp_{context.key}",
        "object": "response",
        "created_at": context.now,
        "status": status,
        "background": False,
        "completed_at": None if incomplete else context.now,
        "error": None,
        "incomplete_details": incomplete,
        "instructions": body.get("instructions"),
        "max_output_tokens": limit,
        "max_tool_calls": None,
        "metadata": body.get("metadata") or {},
        "model": snapshot(prompt.model),
        "output": [
            {
                "id": f"msg_{context.key}",
                "type": "message",
                "role": "assistant",
                "status": status,
                "content": [content],
            }
        ],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None, **(reasoning if isinstance(reasoning, dict) else {})},
        "service_tier": "default",
        "temperature": body.get("temperature", 1.0),
        "text": {"format": {"type": "text"}, "verbosity": "medium", **(text if isinstance(text, dict) else {})},
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools", []),
        "top_logprobs": 0,
        "top_p": body.get("top_p", 1.0),
        "truncation": "disabled",
        "usage": {
            "input_tokens": said.usage.input,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": said.usage.output,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": said.usage.input + said.usage.output,
        },
        "user": None,
    }
    return answer, said.usage
