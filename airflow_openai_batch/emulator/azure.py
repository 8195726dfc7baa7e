"""What is Azure's own: the paths of its two styles, and who may call.

The v1 style is ``/openai/v1/files``, without an ``api-version`` or with an undated one; the other ``/openai/files``
with a dated one. Only synchronous calls of a model are made below ``/openai/deployments/NAME``; batches and files
never are.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from airflow_openai_batch.emulator.errors import APIError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

WRONG_KEY = (
    "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an "
    "active subscription and use a correct regional API endpoint for your resource."
)
UNAUTHORIZED = (
    "Unauthorized. Access token is missing, invalid, audience is incorrect (https://cognitiveservices.azure.com), or "
    "have expired."
)
_DATED = re.compile(r"\d{4}-\d{2}-\d{2}(-preview)?")
_UNDATED = frozenset({"", "v1", "preview", "latest"})
_OF_DEPLOYMENTS = re.compile(r"/openai/deployments/[^/]+(/(?:chat/completions|completions|embeddings|images/\w+))")
_OTHERS = re.compile(r"/openai(/(?:files|batches|uploads|models)(?:/.*)?)")
_V1 = "/openai/v1"


def refusal(status: int, message: str, code: str | None = None) -> APIError:
    """Return an error in the form of Azure's front door."""
    return APIError(status, message, envelope={"error": {"code": code or str(status), "message": message}})


def path_within(path: str, version: str) -> str:
    """Return OpenAI's path of a call.

    :param version: its ``api-version``, "" for none.
    :raises APIError: 404 or 400 where Azure has nothing.
    """
    if path.startswith(f"{_V1}/"):
        if version not in _UNDATED:
            raise refusal(400, "API version not supported", "BadRequest")
        return path.removeprefix("/openai")
    match = _OF_DEPLOYMENTS.fullmatch(path) or _OTHERS.fullmatch(path)
    if match is None or not _DATED.fullmatch(version):
        raise refusal(404, "Resource not found")
    return f"/v1{match[1]}"


class AzurePaths:
    """Leads calls of Azure's paths to the routes, which have OpenAI's.

    :param app: the application inside.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a call."""
        if scope["type"] != "http" or scope["path"].startswith("/emulator/"):
            await self._app(scope, receive, send)
            return
        version = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("api-version", [""])[0]
        try:
            path = path_within(scope["path"], version)
        except APIError as error:
            await error.response()(scope, receive, send)
            return
        scope = {**scope, "path": path, "raw_path": path.encode()}
        await self._app(scope, receive, send)
