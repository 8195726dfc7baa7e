"""Answers to requests by synchronous calls: ``BatchAPI.ask``.

The calls are made on an event loop in a thread of its own, so that the caller's thread is free to write answers away,
and a signal's exception is raised there and not in the midst of the loop.

*What is tried again*: 408, 409, 429 and 5xx, :data:`TRIES` times in all and for :data:`MAX_WAIT` seconds of waiting; a
connection that couldn't be made, likewise. A call that was sent and got no answer in time, or whose connection broke,
may have been served, and billed: it is sent once more and no further, so one ``ask`` pays for such a row
:data:`UNKNOWN_TRIES` times at the most. After the last try the row has the line of what came last. That of a broken
connection lets it go again, as any failure in passing, so a job may pay as often in each of its ``max_rounds`` rounds.

*What ends it all*, since no row would fare otherwise: 401, 403 and 407; 404 without a code (the address is wrong, not
the model's name); no credit; a ``Retry-After`` longer than a worker slot should wait; a server that gives
:data:`GIVE_UP` rows in a row no answer at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
import uuid
from collections import deque
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import openai
import orjson
from tenacity import AsyncRetrying, RetryCallState, retry_if_result, stop_after_attempt, wait_random_exponential

from airflow_openai_batch.client.errors import code_of, complaint, translate
from airflow_openai_batch.client.pacing import MAX_RETRY_AFTER, Gate, asked_to_wait
from airflow_openai_batch.client.sdk import async_sdk
from airflow_openai_batch.client.transport import httpx
from airflow_openai_batch.engine import leniently
from airflow_openai_batch.exceptions import QuotaError, RateLimitError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from airflow_openai_batch.client.config import ClientConfig

log = logging.getLogger(__name__)

TRIES = 6
"""Calls for one row at the most."""

UNKNOWN_TRIES = 2
"""Calls for one row of which it isn't known whether they were served."""

MAX_WAIT = 600.0
"""Seconds that a row waits between its tries, in all."""

GIVE_UP = 16
"""Rows, one after the other, that got no answer at all within their tries: nobody is there."""

LOOK_UP = 1.0
"""Seconds after which the caller's thread looks up from its wait."""

_CONNECT = 10.0
_DOING = "Asking for an answer"
_BYTES_PER_TOKEN = 4
_RANDOM = wait_random_exponential(multiplier=0.5, max=30)
_AGAIN = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS})
_FOR_ALL = frozenset(
    {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.PROXY_AUTHENTICATION_REQUIRED, HTTPStatus.NOT_FOUND}
)
_NOT_SENT = tuple(
    kind
    for name in ("ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol")
    if (kind := getattr(httpx, name, None)) is not None
)


@dataclass
class _Request:
    """A request, and what became of it so far."""

    custom_id: str
    path: str
    body: dict[str, Any]
    tokens: int
    unknown: int = 0


@dataclass(frozen=True)
class _Told:
    """What a call came to.

    :param line: the row's line if it stays with this; None where no call was made.
    :param again: whether another call could end otherwise.
    :param wait: seconds that the server asks to wait before.
    :param heard: whether a server answered at all.
    """

    line: bytes | None
    again: bool = False
    wait: float = 0.0
    heard: bool = True


def ask(config: ClientConfig, lines: Iterable[bytes], take: Callable[[bytes], None], *, concurrency: int) -> None:
    """Answer requests, as ``BatchAPI.ask`` says."""
    if concurrency < 1:
        raise ValueError(f"concurrency is at least 1, not {concurrency}")
    asker = _Asker(config, concurrency)
    source = iter(lines)
    try:
        while asker.fill(source):
            asker.settle(take)
    finally:
        asker.close()
        while asker.came:
            asker.settle(take)
    if asker.failure is not None:
        raise asker.failure


class _Asker:
    """The thread that calls, and what the caller's thread does with it.

    :ivar came: what came of rows and wasn't taken yet: a line (None: it wasn't asked), and the error that ends it all.
    :ivar failure: the first error; nothing is read after it.
    """

    def __init__(self, config: ClientConfig, concurrency: int) -> None:
        self._config = config
        self._arrived = threading.Semaphore(0)
        self._loop = asyncio.new_event_loop()
        self._gate = Gate(concurrency, config.where, self._loop.time)
        self._sdk: openai.AsyncOpenAI | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._unheard = 0
        # Twice as many rows as calls, so that no call waits for the caller's writing.
        self._room = 2 * concurrency
        self._under_way = 0
        self._closed = False
        self.came: deque[tuple[bytes | None, Exception | None]] = deque()
        self.failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="openai-batch-direct", daemon=True)
        self._thread.start()

    # What the caller's thread does.

    def fill(self, source: Iterator[bytes]) -> bool:
        """Hand over as many requests as there is room for; whether any are under way."""
        while self.failure is None and self._under_way < self._room:
            try:
                line = next(source, None)
                if line is None:
                    break
                row = _request(line)
            except Exception as error:  # noqa: BLE001 - raised when what was read before is answered
                self.failure = error
            else:
                self._under_way += 1
                self._loop.call_soon_threadsafe(self._begin, row)
        return self._under_way > 0

    def settle(self, take: Callable[[bytes], None]) -> None:
        """Take what comes next.

        It is forgotten after it was taken: a signal in between makes a double of it, which is none the worse.
        """
        if not self._closed:
            # A signal that comes just before the wait is seen when it ends.
            while not self._arrived.acquire(timeout=LOOK_UP):
                pass
        line, error = self.came[0]
        if line is not None:
            try:
                take(line)
            except Exception as problem:  # noqa: BLE001 - raised when what is in the air has landed
                error = error or problem
        self.came.popleft()
        self._under_way -= 1
        if error is not None:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.failure = self.failure or error
        if not self._closed:
            self._loop.call_soon_threadsafe(self._gate.close)

    def close(self) -> None:
        """End the thread; calls in the air are given up."""
        self._loop.call_soon_threadsafe(self._end)
        self._thread.join()
        self._closed = True

    # What the loop's thread does.

    def _run(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def _begin(self, row: _Request) -> None:
        task = self._loop.create_task(self._answer(row))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _end(self) -> None:
        self._tasks.add(ending := self._loop.create_task(self._finish(list(self._tasks))))
        ending.add_done_callback(lambda _: self._loop.stop())

    async def _finish(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._sdk is not None:
            # What a server does to a connection that is being closed is nobody's business.
            with contextlib.suppress(Exception):
                await self._sdk.close()
        await self._loop.shutdown_asyncgens()
        await self._loop.shutdown_default_executor()

    async def _answer(self, row: _Request) -> None:
        line, error = None, None
        try:
            told = await self._until_told(row)
            line, error = told.line, self._nobody(told)
        except Exception as problem:  # noqa: BLE001 - raised in the caller's thread
            error = problem
        if error is not None:
            self._gate.close()
        self.came.append((line, error))
        self._arrived.release()

    def _nobody(self, told: _Told) -> Exception | None:
        """Return the error for a server that answers nobody."""
        if told.line is None:
            return None
        self._unheard = 0 if told.heard else self._unheard + 1
        if self._unheard < GIVE_UP:
            return None
        return UnreachableError(
            f"{_DOING}: {self._unheard} requests, one after the other, got none from {self._config.where}. "
            f"Check {self._config.to_check} and network"
        )

    async def _until_told(self, row: _Request) -> _Told:
        retrying = AsyncRetrying(
            stop=_enough,
            wait=_wait,
            retry=retry_if_result(lambda told: told.again),
            sleep=self._gate.sleep,
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
        )
        told: _Told = await retrying(self._once, row)
        return told

    async def _once(self, row: _Request) -> _Told:
        """Make one call."""
        if not await self._gate.enter(row.tokens):
            return _Told(None)
        try:
            return await self._call(row)
        finally:
            self._gate.leave(row.tokens)

    async def _call(self, row: _Request) -> _Told:
        begun = self._loop.time()
        if self._sdk is None:
            self._sdk = async_sdk(self._config)
        timeout = httpx.Timeout(self._config.answer_timeout, connect=_CONNECT)
        try:
            response: Any = await self._sdk.post(
                row.path, body=row.body, cast_to=httpx.Response, options={"timeout": timeout}
            )
        except openai.APIStatusError as error:
            return self._refused(row, error, begun)
        except (openai.APIConnectionError, httpx.HTTPError, httpx.StreamError) as error:
            return self._unanswered(row, error)
        self._gate.heard(response.status_code, response.headers, begun=begun, wait=0.0)
        return _Told(_line(row, response))

    def _refused(self, row: _Request, error: openai.APIStatusError, begun: float) -> _Told:
        status, response = error.status_code, error.response
        meant = translate(error, self._config, _DOING)
        wait = asked_to_wait(response.headers, time.time())
        if isinstance(meant, QuotaError):
            raise meant
        if status in _FOR_ALL and not (status == HTTPStatus.NOT_FOUND and _code(error)):
            raise meant
        again = status in _AGAIN or status >= HTTPStatus.INTERNAL_SERVER_ERROR
        if again and wait > MAX_RETRY_AFTER:
            kind = RateLimitError if status == HTTPStatus.TOO_MANY_REQUESTS else UnreachableError
            raise kind(f"{meant}. It wants no call for {wait:,.0f} s", status=status, code=meant.code, retry_after=wait)
        self._gate.heard(status, response.headers, begun=begun, wait=wait if again else 0.0)
        return _Told(_line(row, response), again, wait)

    def _unanswered(self, row: _Request, error: Exception) -> _Told:
        sent = not isinstance(error.__cause__ or error, _NOT_SENT)
        row.unknown += sent
        message = str(translate(error, self._config, _DOING))
        line = {
            "id": f"direct_{uuid.uuid4().hex}",
            "custom_id": row.custom_id,
            "response": None,
            "error": {"code": "connection_error", "message": message},
        }
        told = orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
        return _Told(told, again=row.unknown < UNKNOWN_TRIES, heard=False)


def _request(line: bytes) -> _Request:
    request = orjson.loads(line)
    path = str(request["url"]).removeprefix("/v1")
    return _Request(request["custom_id"], path, request["body"], len(line) // _BYTES_PER_TOKEN)


def _code(error: openai.APIStatusError) -> str | None:
    said = complaint(error.body)
    code = code_of(said[0], said[1] or "")
    return None if code is None or code.isdigit() else code


def _line(row: _Request, response: Any) -> bytes:
    """Return the row's line of an output or error file."""
    answer = {
        "status_code": response.status_code,
        "request_id": response.headers.get("x-request-id") or "",
        "body": _body(response.content),
    }
    line = {"id": f"direct_{uuid.uuid4().hex}", "custom_id": row.custom_id, "response": answer, "error": None}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def _body(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        text = content.decode("utf-8", "replace")
    try:
        return leniently.loads(text)
    except ValueError:
        return text


_OFTEN = stop_after_attempt(TRIES)


def _enough(state: RetryCallState) -> bool:
    return _OFTEN(state) or state.idle_for + state.upcoming_sleep > MAX_WAIT


def _wait(state: RetryCallState) -> float:
    """Wait as long as the server asked, or for a random time that grows."""
    told = state.outcome.result() if state.outcome else None
    return max(told.wait if told else 0.0, _RANDOM(state))
