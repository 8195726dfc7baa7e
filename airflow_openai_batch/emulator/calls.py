"""What happens to every API call before its route sees it: it is counted, its key is checked, its faults act.

The kind of a call is the name of its route: ``files.`` ``create``, ``list``, ``retrieve``, ``delete``, ``content``;
``uploads.`` ``create``, ``parts.create``, ``complete``, ``cancel``; ``batches.`` ``create``, ``list``, ``retrieve``,
``cancel``; ``models.`` ``list``, ``retrieve``; and of the synchronous endpoints their path, as in
``chat.completions.create``.
"""

from __future__ import annotations

import secrets
import time
from functools import partial
from typing import TYPE_CHECKING

from fastapi.routing import APIRoute
from starlette.datastructures import Headers, MutableHeaders

from airflow_openai_batch.emulator import azure
from airflow_openai_batch.emulator.errors import APIError
from airflow_openai_batch.emulator.faults import HungUpError
from airflow_openai_batch.emulator.projects import PROJECT

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from airflow_openai_batch.emulator.settings import Settings
    from airflow_openai_batch.emulator.state import State

NO_KEY = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY), or as the password field (with blank username) if you're accessing the "
    "API from your browser and are prompted for a username and password. You can obtain an API key from "
    "https://platform.openai.com/account/api-keys."
)
WRONG_KEY = "Incorrect API key provided: {}. You can find your API key at https://platform.openai.com/account/api-keys."
_SHOWN = 4
_JWT = "eyJ"
_AZURE_KEY = 32


def check_key(settings: Settings, headers: Headers) -> str:
    """Return the project of the call's key, or raise the service's 401."""
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    bearer = bearer.strip() if scheme.lower() == "bearer" else ""
    if settings.mode == "azure":
        return _check_azure(settings, headers.get("api-key", ""), bearer)
    if not bearer:
        raise APIError(401, NO_KEY)
    project = _project(settings, bearer) if settings.key else settings.project if bearer.startswith("sk-") else None
    if project is None:
        hidden = f"{bearer[:_SHOWN]}{'*' * 8}{bearer[-_SHOWN:]}" if len(bearer) > 2 * _SHOWN else "*" * len(bearer)
        raise APIError(401, WRONG_KEY.format(hidden), code="invalid_api_key")
    return project


def _check_azure(settings: Settings, key: str, bearer: str) -> str:
    """Accept a key in its own header, or an Entra token. A key as a bearer is no token."""
    if not key:
        known = bearer in settings.token if settings.token else bearer.startswith(_JWT)
        if not known:
            raise azure.refusal(401, azure.UNAUTHORIZED)
        return settings.project
    if settings.key:
        project = _project(settings, key)
    else:
        project = settings.project if len(key) >= _AZURE_KEY and not key.startswith("sk-") else None
    if project is None:
        raise azure.refusal(401, azure.WRONG_KEY)
    return project


def _project(settings: Settings, key: str) -> str | None:
    found = None
    for known, project in settings.projects.items():
        if secrets.compare_digest(key.encode(), known.encode()):
            found = project
    return found


async def drain(receive: Receive) -> None:
    """Read the rest of a request's body away: some clients don't listen before they have sent it all."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return


async def until_gone(receive: Receive) -> None:
    """Wait until the server has noticed that the connection is closed; it would log an unanswered call else."""
    while (await receive())["type"] != "http.disconnect":
        pass


class Call(APIRoute):
    """A route of the API proper."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the call, check its key, let its faults act, and handle it."""
        if scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)
            return
        state: State = scope["app"].state.emulator
        app: ASGIApp = super().handle
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        state.ledger.called(self.name)
        try:
            PROJECT.set(check_key(state.settings, Headers(scope=scope)))
            for fault in reversed(state.faults.for_call(self.name)):
                app = partial(fault.act, app, hang_up=partial(state.connections.hang_up, scope))
            await app(scope, receive, watched)
        except HungUpError:
            await until_gone(receive)
        except APIError:
            if not started:
                await drain(receive)
            raise
        finally:
            state.ledger.over(self.name)


class CommonHeaders:
    """Adds the headers that every answer of the service has.

    :param app: the application inside.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a call."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("x-request-id", f"req_{secrets.token_hex(16)}")
                headers["openai-processing-ms"] = str(round((time.perf_counter() - begun) * 1_000))
                headers["openai-version"] = "2020-10-01"
                headers["openai-organization"] = self._settings.organization
                headers["openai-project"] = self._settings.project
            await send(message)

        await self._app(scope, receive, with_headers)
