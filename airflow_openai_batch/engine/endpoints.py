"""The endpoints that take batches, and how each takes a prompt."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Endpoint:
    """How one endpoint takes a prompt.

    :param prompt: the body field of a rendered prompt; None where only ``messages`` will do.
    :param system: the body field of the system prompt; None where there is none.
    :param needs: body fields of which one must be there.
    :param columns: columns that are taken as the prompt where no template is given, with the body field for each.
    """

    prompt: str | None
    system: str | None
    needs: tuple[str, ...]
    columns: dict[str, str]


ENDPOINTS: dict[str, Endpoint] = {
    "/v1/chat/completions": Endpoint(None, None, ("messages",), {"messages": "messages", "prompt": ""}),
    "/v1/responses": Endpoint(
        "input", "instructions", ("input", "prompt", "conversation"), {"input": "input", "prompt": "input"}
    ),
    "/v1/embeddings": Endpoint("input", None, ("input",), {"input": "input", "prompt": "input"}),
    "/v1/completions": Endpoint("prompt", None, ("prompt",), {"prompt": "prompt"}),
    "/v1/moderations": Endpoint("input", None, ("input",), {"input": "input", "prompt": "input"}),
    "/v1/images/generations": Endpoint("prompt", None, ("prompt",), {"prompt": "prompt"}),
    "/v1/images/edits": Endpoint("prompt", None, ("prompt",), {"prompt": "prompt"}),
    "/v1/videos": Endpoint("prompt", None, ("prompt",), {"prompt": "prompt"}),
}
"""Endpoints known to take batches. The list grows at OpenAI, so another one passes with a warning."""


def canonical(endpoint: str) -> str:
    """Return OpenAI's name of an endpoint; elsewhere some lack the ``/v1``."""
    return f"/v1{endpoint}" if f"/v1{endpoint}" in ENDPOINTS else endpoint
