"""What a request says, whichever endpoint it is for: the part of it that a responder reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

INSTRUCTING_ROLES = frozenset({"system", "developer"})


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request as a responder sees it.

    :param endpoint: e.g. ``/v1/chat/completions``.
    :param model: the model that was asked for.
    :param instructions: system and developer messages, or ``instructions``, joined by newlines.
    :param text: the last user message, or the prompt.
    :param schema: the JSON schema that the answer has to satisfy, if one was given.
    :param body: the whole request.
    """

    endpoint: str
    model: str
    instructions: str
    text: str
    schema: Mapping[str, Any] | None = None
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)


def content_text(content: Any) -> str:
    """Return the text of a message's ``content``: a string, or an array of parts of which some are text."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(
            part if isinstance(part, str) else part["text"]
            for part in content
            if isinstance(part, str) or (isinstance(part, dict) and isinstance(part.get("text"), str))
        )
    return ""


def messages(body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield ``(role, text)`` of each message of a chat completion or a response."""
    if isinstance(instructions := body.get("instructions"), str):
        yield "developer", instructions
    sent = body.get("messages", body.get("input"))
    if isinstance(sent, str):
        yield "user", sent
    elif isinstance(sent, list):
        for message in sent:
            if isinstance(message, dict):
                yield str(message.get("role", "user")), content_text(message.get("content"))


def texts(url: str, body: Mapping[str, Any]) -> list[str]:
    """Return every text of the request, of which the input tokens are counted."""
    if url in {"/v1/chat/completions", "/v1/responses"}:
        return [text for _, text in messages(body)]
    value = body.get("input", body.get("prompt"))
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for item in value if (text := content_text(item if isinstance(item, str) else [item]))]
    return []


def read(url: str, body: Mapping[str, Any], schema: Mapping[str, Any] | None) -> Prompt:
    """Return the request as a responder sees it."""
    model = str(body.get("model", ""))
    if url in {"/v1/chat/completions", "/v1/responses"}:
        said = list(messages(body))
        instructions = "\n".join(text for role, text in said if role in INSTRUCTING_ROLES)
        asked = [text for role, text in said if role == "user"]
        return Prompt(url, model, instructions, asked[-1] if asked else "", schema, body)
    return Prompt(url, model, "", "\n".join(texts(url, body)), schema, body)
