"""What a refusal means: this package's errors for the SDK's, saying what was done, by which connection, what to check.

Servers word their refusals in many ways, so a code is looked for wherever one has been seen: OpenAI's ``error.code``,
Azure's ``errors.data`` at the creation of a batch, and the text itself, into which gateways put the whole answer of
the server behind them.
"""

from __future__ import annotations

import re
import time
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import openai

from airflow_openai_batch.client.pacing import asked_to_wait
from airflow_openai_batch.client.transport import httpx
from airflow_openai_batch.exceptions import (
    APIError,
    AuthenticationError,
    NotFoundError,
    QueueFullError,
    QuotaError,
    RateLimitError,
    RejectedError,
    UnreachableError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_openai_batch.client.config import ClientConfig
    from airflow_openai_batch.engine.models import BatchIssue, BatchSnapshot

LONGEST_PAUSE = 3_600.0
"""Seconds that an error says to wait at most: limits are by the hour at the longest, and a larger number is a slip."""

_QUOTA = re.compile(r"insufficient_quota|credit_balance_exhausted|\w*_(spend|usage)_limit_exceeded")
_TOLD = re.compile(rf"token_limit_exceeded|{_QUOTA.pattern}")
_VAGUE = frozenset({"rate_limit_exceeded", "too_many_requests", "toomanyrequests"})
"""Codes of a 429 that may be a full queue just as well; its text tells."""

_QUEUE_FULL = re.compile(r"enqueued token", re.IGNORECASE)
_NO_FILE = re.compile(r"no such file|cannot find file", re.IGNORECASE)
_SHOWN = 500


class UnreadableError(ValueError):
    """An answer of 200 that isn't what the call gives."""


@contextmanager
def translated(config: ClientConfig, doing: str) -> Iterator[None]:
    """Let a call raise this package's errors."""
    try:
        yield
    except UnreadableError as error:
        raise UnreachableError(
            f"{doing}: {config.where} answered with something else than the Batch API does: "
            f"{config.redacted(str(error))[:_SHOWN]}. Check {config.to_check}"
        ) from error
    except (openai.APIError, httpx.HTTPError, httpx.StreamError) as error:
        raise translate(error, config, doing) from error


@contextmanager
def missing_file(file_id: str | None) -> Iterator[None]:
    """Let a creation say in OpenAI's words that its file isn't there: some answer 404, where OpenAI does 400.

    :raises RejectedError: ``Cannot find file``, which right after an upload is a race that goes away.
    """
    try:
        yield
    except NotFoundError as error:
        text = str(error)
        if file_id is None or not (_NO_FILE.search(text) or file_id in re.split(r"[^\w-]+", text)):
            raise
        raise RejectedError(
            f"Cannot find file {file_id}. {text}", status=error.status, code=error.code, param=error.param
        ) from error


def translate(error: Exception, config: ClientConfig, doing: str) -> APIError:
    """Return this package's error for one of the SDK's."""
    if not isinstance(error, openai.APIStatusError):
        cause = config.redacted(_cause(error))
        return UnreachableError(f"{doing}: no answer from {config.where}: {cause}. Check {config.to_check} and network")
    said = complaint(error.body)
    text = said[1] or str(error.message)
    code = code_of(said[0], text)
    kind, message = _meaning(error.status_code, code or "")
    return kind(
        message.format(
            doing=doing,
            where=config.where,
            text=config.redacted(text)[:_SHOWN].rstrip(". "),
            status=error.status_code,
            check=config.to_check,
        ),
        status=error.status_code,
        code=code,
        param=said[2],
        retry_after=min(LONGEST_PAUSE, asked_to_wait(error.response.headers, time.time())),
    )


def refusal(issue: BatchIssue, config: ClientConfig, doing: str) -> APIError:
    """Return the error for a creation that was answered with an issue in place of a batch."""
    code = code_of(issue.code, issue.message or "")
    kind, message = _meaning(HTTPStatus.BAD_REQUEST, code or "")
    text = config.redacted(issue.message or code or "no reason was given")[:_SHOWN].rstrip(". ")
    return kind(
        message.format(doing=doing, where=config.where, text=text, status=200, check=config.to_check),
        code=code,
        param=issue.param,
    )


def may_be_over(error: APIError) -> bool:
    """Whether a refused cancellation may mean that there is nothing left to cancel: OpenAI says it by 409."""
    passing = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}
    client_error = HTTPStatus.BAD_REQUEST <= (error.status or 0) < HTTPStatus.INTERNAL_SERVER_ERROR
    return client_error and error.status not in passing


def is_over(error: APIError, batch: BatchSnapshot) -> bool:
    """Whether it does, now that the batch was looked at."""
    return error.status == HTTPStatus.CONFLICT or batch.ended or batch.status == "cancelling"


def complaint(body: Any) -> tuple[str | None, str | None, str | None]:
    """Return code, message and param of an error's body, in whichever of the known places they are."""
    if not isinstance(body, dict):
        return None, str(body) if body else None, None
    inner = body.get("error", body)
    errors = inner.get("errors") if isinstance(inner, dict) else None
    data = errors.get("data") if isinstance(errors, dict) else errors
    if isinstance(data, list) and data:
        inner = data[0]
    if not isinstance(inner, dict):
        return None, str(inner) if inner else None, None
    message = inner.get("message") or inner.get("detail")
    code, param = inner.get("code"), inner.get("param")
    return (
        None if code is None else str(code),
        None if message is None else str(message),
        param if isinstance(param, str) else None,
    )


def code_of(code: str | None, text: str) -> str | None:
    """Return the code; where it says no more than the HTTP status, the one that the text speaks of."""
    if code and not code.isdigit() and code.lower() not in _VAGUE:
        return code
    if found := _TOLD.search(text):
        return found[0]
    return "token_limit_exceeded" if _QUEUE_FULL.search(text) else code


def _meaning(status: int, code: str) -> tuple[type[APIError], str]:
    """Return the error for an HTTP status and OpenAI's code, with its text."""
    found: tuple[type[APIError], str] = (RejectedError, "{doing}: {where} refused: {text}")
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        found = AuthenticationError, "{doing}: {where} was refused: {text}. Check its API key and what the key may do"
    elif status == HTTPStatus.NOT_FOUND:
        found = (
            NotFoundError,
            "{doing}: not found at {where}: {text}. Check {check}, and that the key is of the same project",
        )
    elif status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        found = AuthenticationError, "{doing}: the proxy of {where} refused: {text}. Check user and password in 'proxy'"
    elif code == "token_limit_exceeded":
        found = QueueFullError, "{doing}: {text}"
    elif _QUOTA.fullmatch(code):
        found = QuotaError, "{doing}: {where} has no credit left: {text}. Check its plan and billing"
    elif status == HTTPStatus.TOO_MANY_REQUESTS:
        found = RateLimitError, "{doing}: {where} is rate limited: {text}"
    elif status in {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT} or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        found = UnreachableError, "{doing}: {where} answered {status}: {text}"
    return found


def _cause(error: BaseException) -> str:
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {cause}"[:300].rstrip(". ")
