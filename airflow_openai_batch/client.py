"""The only importer of ``openai``: its client, sync and async, with errors translated and transfers made to last.

Calls that are safe to repeat are repeated by the SDK itself. ``batches.create`` is sent once (``max_retries=0``): no
idempotency key exists, and a repeated create is a second paid batch. Uploads and downloads are repeated here, since the
SDK can't rewind a stream or resume one.
"""

from __future__ import annotations

import logging
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, BinaryIO, TypeGuard

import openai
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from airflow_openai_batch.engine.models import BatchIssue, BatchSnapshot, Counts, RemoteFile
from airflow_openai_batch.engine.progress import Progress
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

try:
    import httpx2 as httpx
except ImportError:  # openai before 3.0
    import httpx  # type: ignore[no-redef] # one of the two is there, under one name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from openai.types import Batch, FileObject

log = logging.getLogger(__name__)

MAX_RETRY_AFTER = 120.0
"""Seconds; longer than that is waited by nobody in a worker slot. The SDK draws the same line."""

_PIECE = 1 << 20
_RANDOM = wait_random_exponential(multiplier=0.5, max=60)
_TRANSPORT = (httpx.HTTPError, httpx.StreamError, openai.APIConnectionError)
_QUOTA = re.compile(r"insufficient_quota|credit_balance_exhausted|\w*_(spend|usage)_limit_exceeded")


@dataclass(frozen=True)
class ClientConfig:
    """How to reach the API. ``api_key`` never shows in a repr.

    :param name: what messages call it: the connection's id.
    :param base_url: None for OpenAI itself.
    :param timeout: seconds that one call may take.
    :param transfer_timeout: seconds that reading or writing may stall in an upload or download.
    :param create_timeout: seconds for creating a batch; the engine's rules build on it.
    :param max_retries: repeats of calls that are safe to repeat, and of transfers.
    :param options: more arguments of ``openai.OpenAI``.
    """

    name: str
    api_key: str = field(repr=False)
    base_url: str | None = None
    organization: str | None = None
    project: str | None = None
    timeout: float = 60.0
    transfer_timeout: float = 600.0
    create_timeout: float = 30.0
    max_retries: int = 5
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the SDK's clients."""
        return {
            "api_key": self.api_key,
            "base_url": self.base_url,
            "organization": self.organization,
            "project": self.project,
            "timeout": self.timeout,
            "max_retries": self.max_retries,
            **self.options,
        }


@contextmanager
def _translated(config: ClientConfig, doing: str) -> Iterator[None]:
    try:
        yield
    except (openai.APIError, httpx.HTTPError, httpx.StreamError) as error:
        raise translate(error, config, doing) from error


def translate(error: Exception, config: ClientConfig, doing: str) -> APIError:
    """Return this package's error for one of the SDK's, saying what was done, by which connection, what to check."""
    where = f"connection {config.name!r} ({config.base_url or 'https://api.openai.com/v1'})"
    if not isinstance(error, openai.APIStatusError):
        return UnreachableError(f"{doing}: no answer from {where}: {_cause(error)}. Check its base URL and network")
    code, text = error.code or "", _text(error)
    kind, message = _meaning(error.status_code, code)
    return kind(
        message.format(doing=doing, where=where, text=text, status=error.status_code),
        status=error.status_code,
        code=error.code,
        param=error.param,
        retry_after=_retry_after(error),
    )


def _retry_after(error: openai.APIStatusError) -> float:
    """Return the seconds of a ``Retry-After`` header; a date, and nonsense, count as none."""
    try:
        return min(MAX_RETRY_AFTER, max(0.0, float(error.response.headers.get("retry-after", "0"))))
    except ValueError:
        return 0.0


def _asked_or_random(state: RetryCallState) -> float:
    """Wait as long as OpenAI asked, or for a random time that grows."""
    error = state.outcome.exception() if state.outcome else None
    return max(getattr(error, "retry_after", 0.0), _RANDOM(state))


def _meaning(status: int, code: str) -> tuple[type[APIError], str]:
    """Return the error for an HTTP status and OpenAI's code, with its text."""
    found: tuple[type[APIError], str] = (RejectedError, "{doing}: {where} refused: {text}")
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        found = AuthenticationError, "{doing}: {where} was refused: {text}. Check its API key and what the key may do"
    elif status == HTTPStatus.NOT_FOUND:
        found = (
            NotFoundError,
            "{doing}: not found at {where}: {text}. Check its base URL, and that the key is of the same project",
        )
    elif code == "token_limit_exceeded":
        found = QueueFullError, "{doing}: {text}"
    elif _QUOTA.fullmatch(code):
        found = QuotaError, "{doing}: {where} has no credit left: {text}. Check its plan and billing"
    elif status == HTTPStatus.TOO_MANY_REQUESTS:
        found = RateLimitError, "{doing}: {where} is rate limited: {text}"
    elif status in {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT} or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        found = UnreachableError, "{doing}: {where} answered {status}: {text}"
    return found


def _text(error: openai.APIStatusError) -> str:
    body = error.body
    if isinstance(body, dict):
        inner = body.get("error", body)
        if isinstance(inner, dict) and isinstance(inner.get("message"), str):
            return str(inner["message"])[:500].rstrip(". ")
    return str(error.message)[:500].rstrip(". ")


def _cause(error: BaseException) -> str:
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {cause}"[:300].rstrip(". ")


def _is_count(text: str | None) -> TypeGuard[str]:
    return text is not None and text.isdigit()


def seconds(value: Any) -> float | None:
    """Return a time as seconds of the epoch; gateways also send ISO 8601."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return datetime.fromisoformat(value.replace("Z", "+00:00")).timestamp()
    return float(value) if isinstance(value, (int, float)) else None


def snapshot_of(batch: Batch) -> BatchSnapshot:
    """Return the engine's view of the SDK's batch; ``""`` and null both mean "not known yet"."""
    counts = batch.request_counts
    issues = (batch.errors.data or []) if batch.errors else []
    return BatchSnapshot(
        id=batch.id,
        status=str(batch.status).lower(),
        endpoint=batch.endpoint or "",
        input_file_id=batch.input_file_id or None,
        output_file_id=batch.output_file_id or None,
        error_file_id=batch.error_file_id or None,
        created_at=seconds(batch.created_at) or 0.0,
        expires_at=seconds(batch.expires_at),
        counts=Counts(counts.total or 0, counts.completed or 0, counts.failed or 0) if counts else Counts(),
        errors=tuple(BatchIssue(issue.code, issue.message, issue.param, issue.line) for issue in issues),
        metadata=dict(batch.metadata or {}),
    )


def _file_of(file: FileObject) -> RemoteFile:
    return RemoteFile(file.id, file.filename or "", file.bytes or 0, seconds(file.created_at) or 0.0)


class OpenAIBatchClient:
    """The engine's ``BatchAPI``, by the SDK.

    :param config: how to reach the API.
    """

    def __init__(self, config: ClientConfig) -> None:
        self.config = config
        self.sdk = openai.OpenAI(**config.arguments())

    def close(self) -> None:
        """Close the connections."""
        self.sdk.close()

    def _retrying(self) -> Retrying:
        return Retrying(
            stop=stop_after_attempt(self.config.max_retries + 1),
            wait=_asked_or_random,
            retry=retry_if_exception_type((UnreachableError, RateLimitError)),
            before_sleep=lambda state: log.warning("%s", state.outcome.exception() if state.outcome else ""),
            reraise=True,
        )

    def check(self) -> str:
        """Make the cheapest call that proves key and base URL.

        :return: a sentence for the connection form.
        """
        with _translated(self.config, "Testing the connection"):
            self.sdk.with_options(max_retries=0).batches.list(limit=1)
        return f"The Batch API answers at {self.sdk.base_url}"

    def upload(self, name: str, opener: Callable[[], BinaryIO]) -> RemoteFile:
        """Upload a file for a batch, streamed; ``opener`` is called anew for each try."""
        sdk = self.sdk.with_options(max_retries=0, timeout=self.config.transfer_timeout)
        for attempt in self._retrying():
            with attempt, opener() as content, _translated(self.config, f"Uploading {name}"):
                return _file_of(sdk.files.create(file=(name, content, "application/jsonl"), purpose="batch"))
        raise AssertionError("unreachable")  # tenacity returns or raises

    def files_named(self, name: str, *, since: float) -> list[RemoteFile]:
        """Return the files of that name, newest first, looking back to ``since``."""
        found: list[RemoteFile] = []
        for file in self.list_files():
            if file.created_at and file.created_at < since:
                break
            if file.name == name:
                found.append(file)
        return found

    def list_files(self, *, purpose: str = "batch") -> Iterator[RemoteFile]:
        """Yield files, newest first."""
        with _translated(self.config, "Listing files"):
            for item in self.sdk.files.list(purpose=purpose, order="desc", limit=100):
                yield _file_of(item)

    def delete_file(self, file_id: str) -> None:
        """Delete a file; one that isn't there is no error."""
        try:
            with _translated(self.config, f"Deleting file {file_id}"):
                self.sdk.files.delete(file_id)
        except NotFoundError:
            log.debug("File %s isn't there", file_id)

    def create_batch(
        self,
        *,
        input_file_id: str,
        endpoint: str,
        completion_window: str,
        metadata: Mapping[str, str],
        output_expires_after: int | None = None,
    ) -> BatchSnapshot:
        """Create a batch with one single call."""
        more: dict[str, Any] = {}
        if output_expires_after is not None:
            more["output_expires_after"] = {"anchor": "created_at", "seconds": output_expires_after}
        sdk = self.sdk.with_options(max_retries=0, timeout=self.config.create_timeout)
        with _translated(self.config, "Creating a batch"):
            batch = sdk.batches.create(
                input_file_id=input_file_id,
                endpoint=endpoint,  # type: ignore[arg-type] # the list of endpoints grows
                completion_window=completion_window,  # type: ignore[arg-type] # gateways have others
                metadata=dict(metadata),
                **more,
            )
        return snapshot_of(batch)

    def retrieve_batch(self, batch_id: str) -> BatchSnapshot:
        """Return one batch."""
        with _translated(self.config, f"Looking at batch {batch_id}"):
            return snapshot_of(self.sdk.batches.retrieve(batch_id))

    def list_batches(self) -> Iterator[BatchSnapshot]:
        """Yield all batches, newest first, a page of 100 at a time as they are asked for."""
        with _translated(self.config, "Listing batches"):
            for batch in self.sdk.batches.list(limit=100):
                yield snapshot_of(batch)

    def cancel_batch(self, batch_id: str) -> BatchSnapshot:
        """Cancel a batch; one that has ended already is returned as it is."""
        # The SDK would ask again for seconds on end after a 409, which is what an ended batch answers.
        sdk = self.sdk.with_options(max_retries=0)
        for attempt in self._retrying():
            with attempt:
                try:
                    with _translated(self.config, f"Cancelling batch {batch_id}"):
                        return snapshot_of(sdk.batches.cancel(batch_id))
                except UnreachableError as error:
                    if error.status != HTTPStatus.CONFLICT:
                        raise
                    return self.retrieve_batch(batch_id)
        raise AssertionError("unreachable")  # tenacity returns or raises

    def download(self, file_id: str, target: BinaryIO) -> int:
        """Stream a file into ``target``; a transfer that broke goes on where it was, if the server takes ranges."""
        expected: int | None = None
        for attempt in self._retrying():
            with attempt, _translated(self.config, f"Downloading file {file_id}"):
                expected = self._pull(file_id, target)
        size = target.tell()
        if expected is not None and size != expected:
            raise UnreachableError(f"File {file_id} has {expected:,} bytes, {size:,} arrived")
        return size

    def _pull(self, file_id: str, target: BinaryIO) -> int | None:
        """Append what is still missing; return the file's whole size where the server says it."""
        have = target.seek(0, 2)
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        sdk = self.sdk.with_options(max_retries=0, timeout=self.config.transfer_timeout)
        try:
            streaming = sdk.files.with_streaming_response.content(file_id, extra_headers=headers)
            with streaming as response:
                if have and response.status_code != HTTPStatus.PARTIAL_CONTENT:
                    log.info("The server doesn't resume downloads; file %s starts again", file_id)
                    target.seek(0)
                    target.truncate()
                    have = 0
                length = response.headers.get("content-length")
                progress = Progress(f"Downloading file {file_id}", "bytes", int(length) if _is_count(length) else None)
                for piece in response.iter_bytes(_PIECE):
                    target.write(piece)
                    progress.add(len(piece))
        except openai.APIStatusError as error:
            if have and error.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                # Nothing is missing: the transfer broke at its very end.
                return None
            raise
        total = have + int(length) if _is_count(length) else None
        if total is not None and target.tell() < total:
            raise UnreachableError(f"Downloading file {file_id}: {target.tell():,} of {total:,} bytes arrived")
        return total


class AsyncOpenAIBatchClient:
    """What the triggerer needs, without blocking its loop.

    :param config: how to reach the API; the SDK's own retries are off, since a poll that failed has a next one.
    """

    def __init__(self, config: ClientConfig) -> None:
        self.config = config
        self.sdk = openai.AsyncOpenAI(**{**config.arguments(), "max_retries": 0})

    async def close(self) -> None:
        """Close the connections."""
        await self.sdk.close()

    async def retrieve_batch(self, batch_id: str) -> BatchSnapshot:
        """Return one batch."""
        with _translated(self.config, f"Looking at batch {batch_id}"):
            return snapshot_of(await self.sdk.batches.retrieve(batch_id))

    async def list_batches(self) -> AsyncIterator[BatchSnapshot]:
        """Yield all batches, newest first, a page of 100 at a time as they are asked for."""
        with _translated(self.config, "Listing batches"):
            async for batch in self.sdk.batches.list(limit=100):
                yield snapshot_of(batch)

    async def cancel_batch(self, batch_id: str) -> BatchSnapshot:
        """Ask for a batch's cancellation."""
        with _translated(self.config, f"Cancelling batch {batch_id}"):
            return snapshot_of(await self.sdk.batches.cancel(batch_id))
