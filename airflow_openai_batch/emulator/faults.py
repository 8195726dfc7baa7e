"""Faults: what is to go wrong, how often, and with which call or batch.

A fault is a JSON object, or on the command line also ``name,key=value,...``. All take ``times`` (how often; ``null``
for always; default 1) and ``skip`` (how many chances to let pass first). Each is used up by the next calls of its
``call``, a kind such as ``batches.create`` as the ledger counts them, with ``*`` as wildcard:

==================  ================================================================================================
``status``          answered with ``status`` (500), ``message``, ``code``, ``retry_after`` (seconds; none by default),
                    not handled
``latency``         ``seconds`` late, ``when``: handled late (``before``, default), or handled at once and answered
                    late (``after``)
``used_up``         handled; the headers of its answer say that ``left`` (0) of the rate limit of ``what``
                    (``requests``; also ``tokens``) is left, and all of it again in ``seconds`` (1)
``drop``            connection closed, ``when``: ``before`` the call is handled, ``during`` the answer (half of it is
                    sent), or ``after`` it was handled without a word (default)
``cut_upload``      connection closed once ``after_bytes`` of the request have come; not handled
``cut_download``    connection closed once ``after_bytes`` of the answer's body were sent
==================  ================================================================================================

or by the next batches that are created:

==================  ================================================================================================
``expire``          expires after ``after_rows`` rows
``fail``            fails validation with ``code``, ``message``, ``line``, ``param``
``stuck``           never leaves ``status`` (``in_progress``; also ``validating``, ``finalizing``, ``cancelling``),
                    past its window too; in ``in_progress`` it stops after ``after_rows`` rows (default: all). Unless
                    it is stuck in ``cancelling``, cancelling it helps
``lost``            every ``every``-th row (2) is in neither file, though counted as completed
``twice``           every ``every``-th row's line is there twice
``garbled``         every ``every``-th row's line is cut off
``failing``         every ``every``-th row fails with ``status`` (500; 0 for a connection that broke)
``stray``           every ``every``-th row's line is followed by one with a ``custom_id`` that nobody sent
``empty_files``     ends with both files, of 0 bytes where there are no lines, as at Azure
``blank_ids``       shows ``""`` where it has no output or error file, as on some servers
``hidden``          doesn't show in lists for ``seconds``
``token_lag``       holds its enqueued tokens for ``seconds`` after its end
==================  ================================================================================================

or by the next files that are uploaded:

==================  ================================================================================================
``missing_file``    POST /batches can't find the file for ``seconds``
==================  ================================================================================================

or at once, until cleared:

==================  ================================================================================================
``clock_skew``      the server's timestamps are off by ``seconds``
==================  ================================================================================================
"""

from __future__ import annotations

import asyncio
import contextlib
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.datastructures import MutableHeaders

from airflow_openai_batch.emulator.errors import SERVER_ERROR, APIError
from airflow_openai_batch.emulator.rate_limits import spelt

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HungUpError(Exception):
    """The connection of the call was closed on purpose: there is nobody left to answer."""


class AnyFault(BaseModel):
    """What all faults have.

    :param times: how often it is still to act, ``None`` for always.
    :param skip: how many chances it still lets pass.
    """

    model_config = ConfigDict(extra="forbid")
    times: int | None = Field(default=1, ge=1)
    skip: int = Field(default=0, ge=0)


class CallFault(AnyFault):
    """Something that happens to an API call."""

    call: str = "*"

    async def act(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, hang_up: Callable[[], None]) -> None:
        """Handle the call through ``app``, as if nothing happened; each kind of fault does otherwise.

        :param hang_up: closes the connection, after what was sent so far.
        """
        await app(scope, receive, send)


class Status(CallFault):
    """The call is answered with an error and not handled."""

    fault: Literal["status"] = "status"
    status: int = 500
    message: str | None = None
    code: str | None = None
    retry_after: float | None = None

    async def act(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, hang_up: Callable[[], None]) -> None:
        """Raise the error."""
        code = self.code or ("rate_limit_exceeded" if self.status == HTTPStatus.TOO_MANY_REQUESTS else None)
        headers = {} if self.retry_after is None else {"retry-after": f"{self.retry_after:g}"}
        raise APIError(self.status, self.message or SERVER_ERROR, code=code, headers=headers)


class Latency(CallFault):
    """The call is handled or answered late."""

    fault: Literal["latency"] = "latency"
    seconds: float = 1.0
    when: Literal["before", "after"] = "before"

    async def act(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, hang_up: Callable[[], None]) -> None:
        """Handle the call, and wait before it or before its answer."""

        async def late(message: Message) -> None:
            if message["type"] == "http.response.start":
                await asyncio.sleep(self.seconds)
            await send(message)

        if self.when == "before":
            await asyncio.sleep(self.seconds)
        await app(scope, receive, send if self.when == "before" else late)


class UsedUp(CallFault):
    """The answer says that a rate limit is used up."""

    fault: Literal["used_up"] = "used_up"
    what: Literal["requests", "tokens"] = "requests"
    left: int = Field(default=0, ge=0)
    seconds: float = 1.0

    async def act(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, hang_up: Callable[[], None]) -> None:
        """Handle the call, and put the headers in the place of the true ones."""

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers[f"x-ratelimit-remaining-{self.what}"] = str(self.left)
                headers[f"x-ratelimit-reset-{self.what}"] = spelt(self.seconds)
            await send(message)

        await app(scope, receive, told)


class Drop(CallFault):
    """The connection is closed before, during or after the call."""

    fault: Literal["drop"] = "drop"
    when: Literal["before", "during", "after"] = "after"

    async def act(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, hang_up: Callable[[], None]) -> None:
        """Handle the call if it is to be handled, and hang up."""
        if self.when != "before":

            async def half(message: Message) -> None:
                if message["type"] == "http.response.start":
                    await send(message)
                elif body := message.get("body"):
                    await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
                    raise HungUpError

            async def nothing(_message: Message) -> None:
                pass

            with contextlib.suppress(HungUpError):
                await app(scope, receive, half if self.when == "during" else nothing)
        hang_up()
        raise HungUpError


class CutUpload(CallFault):
    """The connection is closed while the request is coming in."""

    fault: Literal["cut_upload"] = "cut_upload"
    after_bytes: int = Field(default=0, ge=0)

    async def act(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, hang_up: Callable[[], None]) -> None:
        """Let ``after_bytes`` of the request's body through, then hang up."""
        seen = 0

        async def cut() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.after_bytes:
                hang_up()
                raise HungUpError
            return message

        await app(scope, cut, send)


class CutDownload(CallFault):
    """The connection is closed while the answer is going out."""

    fault: Literal["cut_download"] = "cut_download"
    after_bytes: int = Field(default=0, ge=0)

    async def act(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, hang_up: Callable[[], None]) -> None:
        """Let ``after_bytes`` of the answer's body through, then hang up."""
        left = self.after_bytes

        async def cut(message: Message) -> None:
            nonlocal left
            body = message.get("body", b"")
            if len(body) > left:
                await send({"type": "http.response.body", "body": body[:left], "more_body": True})
                hang_up()
                raise HungUpError
            left -= len(body)
            await send(message)

        await app(scope, receive, cut)


class BatchFault(AnyFault):
    """Something that happens to a batch."""


class Expire(BatchFault):
    """The batch expires after some rows."""

    fault: Literal["expire"] = "expire"
    after_rows: int = Field(default=0, ge=0)


class Fail(BatchFault):
    """The batch fails validation."""

    fault: Literal["fail"] = "fail"
    code: str = "invalid_request"
    message: str = "The batch failed (emulated)."
    line: int | None = None
    param: str | None = None


class Stuck(BatchFault):
    """The batch stays in a status for ever."""

    fault: Literal["stuck"] = "stuck"
    status: Literal["validating", "in_progress", "finalizing", "cancelling"] = "in_progress"
    after_rows: int | None = Field(default=None, ge=0)


class RowFault(BatchFault):
    """Something that happens to every so-manieth row of a batch."""

    fault: str
    every: int = Field(default=2, ge=1)

    def hits(self, row: int) -> bool:
        """Say whether the ``row``-th row, counted from 1, is one of them."""
        return row % self.every == 0


class LineFault(RowFault):
    """Something that happens to the row's line in the file it goes to."""


class Lost(LineFault):
    """Rows are in neither file."""

    fault: Literal["lost"] = "lost"


class Twice(LineFault):
    """Rows are there twice."""

    fault: Literal["twice"] = "twice"


class Garbled(LineFault):
    """Rows' lines aren't JSON."""

    fault: Literal["garbled"] = "garbled"


class Stray(LineFault):
    """Lines that belong to no row."""

    fault: Literal["stray"] = "stray"


class Failing(RowFault):
    """Rows fail."""

    fault: Literal["failing"] = "failing"
    status: int = 500


class EmptyFiles(BatchFault):
    """The batch ends with files that have no lines."""

    fault: Literal["empty_files"] = "empty_files"


class BlankIds(BatchFault):
    """The batch shows empty ids instead of null."""

    fault: Literal["blank_ids"] = "blank_ids"


class Hidden(BatchFault):
    """The batch doesn't show in lists for a while."""

    fault: Literal["hidden"] = "hidden"
    seconds: float = 5.0


class TokenLag(BatchFault):
    """The batch's tokens count as enqueued for a while after its end."""

    fault: Literal["token_lag"] = "token_lag"
    seconds: float = 5.0


class MissingFile(AnyFault):
    """The file can't be found right after its upload."""

    fault: Literal["missing_file"] = "missing_file"
    seconds: float = 2.0


class ClockSkew(AnyFault):
    """The server's clock is off."""

    fault: Literal["clock_skew"] = "clock_skew"
    times: int | None = None
    seconds: float = 60.0


Fault = Annotated[
    Status
    | Latency
    | UsedUp
    | Drop
    | CutUpload
    | CutDownload
    | Expire
    | Fail
    | Stuck
    | Lost
    | Twice
    | Garbled
    | Stray
    | Failing
    | EmptyFiles
    | BlankIds
    | Hidden
    | TokenLag
    | MissingFile
    | ClockSkew,
    Field(discriminator="fault"),
]
_ADAPTER: TypeAdapter[AnyFault] = TypeAdapter(Fault)


def parse(given: str | Mapping[str, Any]) -> AnyFault:
    """Read one fault.

    :param given: an object, its JSON, or ``name,key=value,...``.
    :raises ValueError: saying what is wrong with it.
    """
    fields: Any = given
    if isinstance(given, str):
        if given.lstrip().startswith("{"):
            fields = orjson.loads(given)
        else:
            name, *pairs = given.split(",")
            fields = {"fault": name.strip(), **dict(pair.strip().split("=", 1) for pair in pairs)}
    try:
        return _ADAPTER.validate_python(fields)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"Not a fault: {given!r}: {place}: {first['msg']}") from error
