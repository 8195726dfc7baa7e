"""The calls of a worker. What is safe to repeat is repeated by the SDK itself.

``batches.create`` is sent once (``max_retries=0``): no idempotency key exists, and a repeated create is a second paid
batch. Uploads and downloads are repeated here, since the SDK can't rewind a stream or resume one.
"""

from __future__ import annotations

import logging
import time
from http import HTTPStatus
from itertools import chain
from typing import TYPE_CHECKING, Any, BinaryIO, TypeGuard

import openai
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from airflow_openai_batch.client import direct, wire
from airflow_openai_batch.client.config import shown
from airflow_openai_batch.client.errors import UnreadableError, is_over, may_be_over, missing_file, refusal, translated
from airflow_openai_batch.client.pacing import MAX_RETRY_AFTER
from airflow_openai_batch.client.sdk import sync_sdk
from airflow_openai_batch.engine.progress import Progress
from airflow_openai_batch.exceptions import APIError, NotFoundError, RateLimitError, RejectedError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from airflow_openai_batch.client.config import ClientConfig
    from airflow_openai_batch.engine.models import BatchSnapshot, RemoteFile

log = logging.getLogger(__name__)

PAGE = 100
"""Things asked for at once; the most that the API gives (API reference)."""

_RANDOM = wait_random_exponential(multiplier=0.5, max=60)
_PENDING = frozenset({"pending", "running", "uploading", "processing", "importing", "notrunning"})
_SPOILT = frozenset({"error", "failed", "deleted"})
_FIRST_LOOK, _RAREST_LOOK = 0.1, 5.0


def _asked_or_random(state: RetryCallState) -> float:
    """Wait as long as OpenAI asked, if a worker slot can be held so long, or for a random time that grows."""
    error = state.outcome.exception() if state.outcome else None
    return max(min(getattr(error, "retry_after", 0.0), MAX_RETRY_AFTER), _RANDOM(state))


def _is_count(text: str | None) -> TypeGuard[str]:
    return text is not None and text.isdigit()


def _emptied(target: BinaryIO) -> int:
    target.seek(0)
    return target.truncate()


def _take(response: Any, target: BinaryIO, progress: Progress, *, keep: bool) -> None:
    """Write what comes; where the transfer breaks, ``keep`` says whether the rest can be had by itself."""
    try:
        # As they come: pieces of a size are held back, and lost when the transfer breaks.
        for piece in response.iter_bytes():
            target.write(piece)
            progress.add(len(piece))
    except Exception:
        if not keep:
            _emptied(target)
        raise


def _begins_at(have: int, content_range: str) -> bool:
    """Whether a part of a file goes on where it is to; a server that doesn't say is believed."""
    begin = content_range.partition(" ")[2].partition("-")[0]
    return not _is_count(begin) or int(begin) == have


def _anew_after_progress(target: BinaryIO) -> Callable[[RetryCallState], None]:
    """Have a transfer's tries and pauses counted from where it last got further than ever before.

    A server that gives the same beginning again and again brings nothing new, and is given up.
    """
    furthest = 0

    def after(state: RetryCallState) -> None:
        nonlocal furthest
        reached = target.seek(0, 2)
        if reached > furthest:
            furthest, state.attempt_number = reached, 1

    return after


class OpenAIBatchClient:
    """The engine's ``BatchAPI``, by the SDK.

    :param config: how to reach the API.
    """

    def __init__(self, config: ClientConfig) -> None:
        self.config = config
        self.sdk = sync_sdk(config)

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
        with translated(self.config, "Testing the connection"):
            answer = self.sdk.with_options(max_retries=0).batches.with_raw_response.list(limit=1)
            wire.page_of(wire.decoded(answer.content))
        return f"The Batch API answers at {shown(str(self.sdk.base_url))}"

    def upload(self, name: str, opener: Callable[[], BinaryIO]) -> RemoteFile:
        """Upload a file for a batch, streamed; ``opener`` is called anew for each try."""
        sdk = self.sdk.with_options(max_retries=0, timeout=self.config.transfer_timeout)
        for attempt in self._retrying():
            with attempt, opener() as content, translated(self.config, f"Uploading {name}"):
                given = (name, content, "application/jsonl")
                answer = sdk.files.with_raw_response.create(file=given, purpose="batch")
                file, status = wire.file_of(wire.decoded(answer.content))
        self._settle(file.id, status)
        return file

    def _settle(self, file_id: str, status: str) -> None:
        """Wait until the server has read a file: Azure refuses a batch of one that is still ``pending``."""
        doing = f"Waiting for file {file_id}"
        give_up, pause = time.monotonic() + self.config.transfer_timeout, _FIRST_LOOK
        while status in _PENDING:
            if time.monotonic() > give_up:
                raise UnreachableError(f"{doing}: {self.config.where} still has it as {status}")
            time.sleep(pause)
            pause = min(2 * pause, _RAREST_LOOK)
            with translated(self.config, doing):
                answer = self.sdk.files.with_raw_response.retrieve(file_id)
                _, status = wire.file_of(wire.decoded(answer.content))
        if status in _SPOILT:
            raise RejectedError(f"{doing}: {self.config.where} couldn't read it: its status is {status}")

    def find_file(self, file_id: str) -> RemoteFile | None:
        """Return a file, None where it isn't there."""
        try:
            with translated(self.config, f"Looking at file {file_id}"):
                answer = self.sdk.files.with_raw_response.retrieve(file_id)
                return wire.file_of(wire.decoded(answer.content))[0]
        except NotFoundError:
            return None

    def files_named(self, name: str, *, since: float) -> list[RemoteFile]:
        """Return the files of that name, newest first, looking back to ``since``; none where files can't be listed."""
        found: list[RemoteFile] = []
        try:
            for file, status in self._files("batch"):
                if file.created_at and file.created_at < since:
                    break
                if file.name == name:
                    self._settle(file.id, status)
                    found.append(file)
        except (NotFoundError, RejectedError) as error:
            log.info("Files that an earlier try uploaded can't be looked for: %s", error)
        return found

    def list_files(self, *, purpose: str = "batch") -> Iterator[RemoteFile]:
        """Yield files, newest first."""
        for file, _status in self._files(purpose):
            yield file

    def _files(self, purpose: str) -> Iterator[tuple[RemoteFile, str]]:
        def ask(after: dict[str, Any]) -> Any:
            return self.sdk.files.with_raw_response.list(purpose=purpose, order="desc", limit=PAGE, **after)

        with translated(self.config, "Listing files"):
            for page in self._pages(ask):
                yield from map(wire.file_of, page)

    def _pages(self, ask: Callable[[dict[str, Any]], Any]) -> Iterator[list[Any]]:
        """Yield pages as they are asked for."""
        turner = wire.PageTurner()
        while turner.more:
            yield turner.take(wire.decoded(ask(turner.after).content))

    def delete_file(self, file_id: str) -> None:
        """Delete a file; one that isn't there is no error."""
        try:
            with translated(self.config, f"Deleting file {file_id}"):
                self.sdk.files.with_raw_response.delete(file_id)
        except NotFoundError:
            log.debug("File %s isn't there", file_id)

    def create_batch(
        self,
        *,
        input_file_id: str | None = None,
        input_file_content: str | None = None,
        endpoint: str,
        completion_window: str,
        metadata: Mapping[str, str],
        output_expires_after: int | None = None,
    ) -> BatchSnapshot:
        """Create a batch with one single call, of an uploaded file or of lines that are sent with it.

        :raises UnreachableError: also for an answer that is neither a batch nor a refusal: one may have been made.
        """
        more: dict[str, Any] = {}
        if output_expires_after is not None:
            more["output_expires_after"] = {"anchor": "created_at", "seconds": output_expires_after}
        if input_file_content is not None:
            more["extra_body"] = {"input_file_content": input_file_content}
        sdk = self.sdk.with_options(max_retries=0, timeout=self.config.create_timeout)
        doing = "Creating a batch"
        with missing_file(input_file_id), translated(self.config, doing):
            answer = sdk.batches.with_raw_response.create(
                input_file_id=openai.NOT_GIVEN if input_file_id is None else input_file_id,  # type: ignore[arg-type]
                endpoint=endpoint,  # type: ignore[arg-type] # the list of endpoints grows
                completion_window=completion_window,  # type: ignore[arg-type] # gateways have others
                metadata=dict(metadata),
                **more,
            )
            value = wire.decoded(answer.content)
            try:
                return wire.batch_of(value, expires=self.config.expires)
            except UnreadableError:
                issues = wire.issues_of(value)
                if not issues:
                    raise
        raise refusal(issues[0], self.config, doing)

    def retrieve_batch(self, batch_id: str) -> BatchSnapshot:
        """Return one batch."""
        with translated(self.config, f"Looking at batch {batch_id}"):
            answer = self.sdk.batches.with_raw_response.retrieve(batch_id)
            return wire.batch_of(wire.decoded(answer.content), expires=self.config.expires)

    def list_batches(self) -> Iterator[BatchSnapshot]:
        """Yield all batches, newest first, a page of 100 at a time as they are asked for.

        Whoever looks for a lost create stops at the first batch that is too old: a server that lists in another order
        is read to its end before the first batch is given. Batches of an unknown time come first then.

        :raises UnreachableError: also at an entry that is no batch: what comes after it may be too old to be looked at,
            and it itself be the one that is looked for.
        """

        def ask(after: dict[str, Any]) -> Any:
            return self.sdk.batches.with_raw_response.list(limit=PAGE, **after)

        with translated(self.config, "Listing batches"):
            expires = self.config.expires
            pages = ([wire.batch_or_why(item, expires=expires) for item in page] for page in self._pages(ask))
            read = next(pages, [])
            # Times that are all the same tell no order, so it is read on until some differ.
            while (order := wire.newest_first(read)) is None and (page := next(pages, None)) is not None:
                read += page
            if not order:
                read += chain.from_iterable(pages)
                read.sort(key=wire.when, reverse=True)
            for entry in chain(read, chain.from_iterable(pages)):
                if isinstance(entry, UnreadableError):
                    raise entry
                yield entry

    def cancel_batch(self, batch_id: str) -> BatchSnapshot:
        """Cancel a batch; one that has ended already is returned as it is."""
        # The SDK would ask again for seconds on end after a 409, which is what an ended batch answers.
        sdk = self.sdk.with_options(max_retries=0)
        for attempt in self._retrying():
            with attempt:
                try:
                    with translated(self.config, f"Cancelling batch {batch_id}"):
                        answer = sdk.batches.with_raw_response.cancel(batch_id)
                except APIError as error:
                    if not may_be_over(error):
                        raise
                    return self._over(batch_id, error)
        try:
            return wire.batch_of(wire.decoded(answer.content), expires=self.config.expires)
        except UnreadableError:
            return self.retrieve_batch(batch_id)

    def _over(self, batch_id: str, error: APIError) -> BatchSnapshot:
        """Return a batch that there is nothing to cancel of; else raise the refusal."""
        try:
            batch = self.retrieve_batch(batch_id)
        except APIError:
            raise error from None
        if not is_over(error, batch):
            raise error
        return batch

    def download(self, file_id: str, target: BinaryIO) -> int:
        """Stream a file into ``target``; a transfer that broke goes on where it was, if the server takes ranges.

        It is given up when ``max_retries`` tries in a row brought nothing new, however often it broke before.
        """
        expected: int | None = None
        for attempt in self._retrying().copy(after=_anew_after_progress(target)):
            with attempt, translated(self.config, f"Downloading file {file_id}"):
                expected = self._pull(file_id, target)
        size = target.tell()
        if expected is not None and size != expected:
            raise UnreachableError(f"File {file_id} has {expected:,} bytes, {size:,} arrived")
        return size

    def ask(self, lines: Iterable[bytes], take: Callable[[bytes], None], *, concurrency: int) -> None:
        """Answer requests by synchronous calls; :mod:`~airflow_openai_batch.client.direct` says how."""
        direct.ask(self.config, lines, take, concurrency=concurrency)

    def _pull(self, file_id: str, target: BinaryIO) -> int | None:
        """Append what is still missing; return the file's whole size where the server says it.

        The length of an encoded (compressed) answer is not the file's, and its ranges aren't either: nothing is kept of
        one that broke.
        """
        have = target.seek(0, 2)
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        sdk = self.sdk.with_options(max_retries=0, timeout=self.config.transfer_timeout)
        try:
            streaming = sdk.files.with_streaming_response.content(file_id, extra_headers=headers)
            with streaming as response:
                encoded = response.headers.get("content-encoding", "").lower() not in {"", "identity"}
                if response.status_code != HTTPStatus.PARTIAL_CONTENT:
                    if have:
                        log.info("The server doesn't resume downloads; file %s starts again", file_id)
                    have = _emptied(target)
                elif encoded or not _begins_at(have, response.headers.get("content-range", "")):
                    _emptied(target)
                    raise UnreachableError(f"Downloading file {file_id}: another part of it came than was asked for")
                length = None if encoded else response.headers.get("content-length")
                progress = Progress(f"Downloading file {file_id}", "bytes", int(length) if _is_count(length) else None)
                _take(response, target, progress, keep=not encoded)
        except openai.APIStatusError as error:
            if have and error.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                # Nothing is missing: the transfer broke at its very end.
                size = error.response.headers.get("content-range", "").rpartition("/")[2]
                return int(size) if _is_count(size) else None
            raise
        total = have + int(length) if _is_count(length) else None
        if total is not None and target.tell() < total:
            raise UnreachableError(f"Downloading file {file_id}: {target.tell():,} of {total:,} bytes arrived")
        return total
