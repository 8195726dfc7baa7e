"""One way to answer a request, whether it came as a row of a batch or as a call of its own."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.emulator import ids, other_answers, text_answers
from airflow_openai_batch.emulator.errors import SERVER_ERROR, APIError, missing_parameter
from airflow_openai_batch.emulator.ledger import body_hash
from airflow_openai_batch.emulator.markers import LINE_ACTIONS, SIGN, Marker, Markers
from airflow_openai_batch.emulator.text_answers import Context, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_openai_batch.emulator.clock import Clock
    from airflow_openai_batch.emulator.prompts import Prompt
    from airflow_openai_batch.emulator.settings import Settings

log = logging.getLogger(__name__)

_MAKERS: dict[str, Callable[[Context, Mapping[str, Any]], tuple[dict[str, Any], Usage]]] = {
    "/v1/responses": text_answers.response,
    "/v1/chat/completions": text_answers.chat_completion,
    "/v1/embeddings": other_answers.embeddings,
    "/v1/completions": text_answers.completion,
    "/v1/moderations": other_answers.moderation,
    "/v1/images/generations": other_answers.image_generation,
    "/v1/images/edits": other_answers.image_edit,
    "/v1/videos": other_answers.video,
}
URLS = tuple(_MAKERS)
# The parameter without which a batch's line is refused when the batch is validated.
PAYLOADS = {
    "/v1/responses": "input",
    "/v1/chat/completions": "messages",
    "/v1/embeddings": "input",
    "/v1/completions": "prompt",
    "/v1/moderations": "input",
    "/v1/images/generations": "prompt",
    "/v1/images/edits": "prompt",
    "/v1/videos": "prompt",
}
PLAIN_URLS = tuple(url.removeprefix("/v1") for url in URLS)
AZURE_URLS = ("/v1/chat/completions", "/v1/responses", "/v1/embeddings", "/v1/completions")
_MODEL_IS_OPTIONAL = frozenset({"/v1/moderations", "/v1/images/generations", "/v1/images/edits", "/v1/videos"})
_STATUS_ERRORS = {
    400: ("Invalid request (emulated).", "invalid_request_error", None),
    408: ("Request timed out.", "timeout", None),
    409: ("Conflict (emulated).", "invalid_request_error", None),
    429: ("Rate limit reached (emulated). Please try again later.", "requests", "rate_limit_exceeded"),
    503: ("The engine is currently overloaded, please try again later.", "server_error", None),
}


def canonical(path: str) -> str:
    """Return OpenAI's path of an endpoint, which some servers have without ``/v1``."""
    return f"/v1{path}" if path in PLAIN_URLS else path


def batch_urls(settings: Settings) -> tuple[str, ...]:
    """Return the endpoints that batches may have."""
    urls = AZURE_URLS if settings.mode == "azure" else URLS
    plain = tuple(url.removeprefix("/v1") for url in urls) if "plain_paths" in settings.oddities else ()
    return urls + plain


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one request.

    :param status: HTTP status, 0 for a connection that broke.
    :param body: the answer, or the error's envelope.
    :param digest: hash of the request's body.
    :param marker: what the request asked the emulator to do.
    """

    status: int
    body: dict[str, Any]
    usage: Usage
    digest: bytes
    marker: Marker | None

    @property
    def line_action(self) -> str:
        """What shall happen to the row's line: ``lost``, ``twice``, ``garbled`` or nothing."""
        return self.marker.action if self.marker is not None and self.marker.action in LINE_ACTIONS else ""


def failure(status: int) -> APIError:
    """Return the error of a request that fails with ``status`` because somebody wished it to."""
    message, kind, code = _STATUS_ERRORS.get(status, (SERVER_ERROR, "server_error", None))
    return APIError(status, message, code=code, kind=kind)


class Endpoints:
    """Answers requests. Safe to use from any thread.

    :param models: models that exist.
    :param responder: what says the words.
    """

    def __init__(self, models: frozenset[str], responder: Callable[[Prompt], str], clock: Clock) -> None:
        self._models = models
        self._responder = responder
        self._clock = clock
        self._markers = Markers()

    def answer(self, url: str, raw: bytes, body: Any) -> Answer:
        """Answer one request.

        :param raw: the JSON that the body was read from, where its marker is looked for.
        """
        digest = body_hash(url, body)
        marker = self._markers.find(raw, digest) if SIGN in raw else None
        try:
            made, usage = self._make(url, body, marker)
        except APIError as error:
            return Answer(error.status, error.body(), Usage(), digest, marker)
        except Exception:
            # The responder is the user's own code; whatever it raises is an answer of 500, as a server gives.
            log.exception("The responder failed")
            return Answer(500, APIError(500, SERVER_ERROR).body(), Usage(), digest, marker)
        return Answer(200, made, usage, digest, marker)

    def _make(self, url: str, body: Any, marker: Marker | None) -> tuple[dict[str, Any], Usage]:
        if marker is not None and (status := marker.status) is not None:
            raise failure(status)
        if marker is not None and marker.action == "error":
            raise APIError(500, SERVER_ERROR, code=marker.value or None)
        if not isinstance(body, dict):
            raise APIError(400, "The request's body is not a JSON object.")
        self._check_model(url, body)
        context = Context(url, ids.new_id(""), self._clock.now(), self._responder, marker)
        return _MAKERS[url](context, body)

    def _check_model(self, url: str, body: Mapping[str, Any]) -> None:
        model = body.get("model")
        if model is None and url in _MODEL_IS_OPTIONAL:
            return
        if model is None or model == "":
            raise missing_parameter("model") if model is None else APIError(400, "you must provide a model parameter")
        if model not in self._models:
            message = f"The model `{model}` does not exist or you do not have access to it."
            raise APIError(404, message, code="model_not_found")
