"""How to reach a Batch API.

What is secret in it shows in no repr, and :meth:`ClientConfig.redacted` takes it out of texts that others wrote.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

OPENAI = "https://api.openai.com/v1"

_LEAST_SECRET = 6
"""Characters; what is shorter is no secret worth spoiling a message for."""


@dataclass(frozen=True)
class ClientConfig:
    """How to reach the API.

    :param name: what messages call it: the connection's id.
    :param api_key: "" where ``token`` proves who calls.
    :param base_url: None for OpenAI itself.
    :param timeout: seconds that one call may take.
    :param transfer_timeout: seconds that reading or writing may stall in an upload or download.
    :param create_timeout: seconds for creating a batch; the engine's rules build on it.
    :param answer_timeout: seconds that one synchronous answer of a model may take.
    :param max_retries: repeats of calls that are safe to repeat, and of transfers.
    :param options: more arguments of the SDK's client.
    :param azure: ``v1`` or ``classic`` (paths with an ``api-version``) for Azure OpenAI, None for all others. An Azure
        resource takes the key in a header of its own, and its batches don't expire.
    :param api_version: of ``classic``, e.g. ``2024-10-21``.
    :param token: gives an Entra token; asked before each call, so it should keep one while it is good. May block.
    :param proxy: URL of an HTTP or SOCKS proxy; None: what the environment says.
    :param verify: False: certificates aren't checked; a path: a file or folder of CAs to trust besides the usual ones.
    :param paths: how endpoints are named in requests: ``v1`` (``/v1/chat/completions``), ``plain``
        (``/chat/completions``); None: as the server's kind has it.
    :param submission: how requests get there where a job doesn't say: ``file``, or ``inline``, in the create call.
    :param secrets: more texts that nobody may see.
    """

    name: str
    api_key: str = field(repr=False)
    base_url: str | None = field(default=None, repr=False)
    organization: str | None = None
    project: str | None = None
    timeout: float = 60.0
    transfer_timeout: float = 600.0
    create_timeout: float = 30.0
    answer_timeout: float = 600.0
    max_retries: int = 5
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    azure: Literal["v1", "classic"] | None = None
    api_version: str | None = None
    token: Callable[[], str] | None = field(default=None, repr=False)
    proxy: str | None = field(default=None, repr=False)
    verify: bool | str = True
    paths: Literal["v1", "plain"] | None = None
    submission: Literal["file", "inline"] = "file"
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def where(self) -> str:
        """Who refuses or is silent, for messages."""
        return f"connection {self.name!r} ({shown(self.base_url or OPENAI)})"

    @property
    def to_check(self) -> str:
        """What may be wrong where nothing is found at the address."""
        return "its azure_endpoint and api_version" if self.azure else "its base URL"

    @property
    def expires(self) -> bool:
        """Whether a batch ends when its window is over. Azure goes on with it and bills what it finishes."""
        return self.azure is None

    def wire_path(self, endpoint: str) -> str:
        """Return how an endpoint (``/v1/...``) is named in this server's requests and batches."""
        style = self.paths or ("plain" if self.azure == "classic" else "v1")
        return endpoint.removeprefix("/v1") if style == "plain" else endpoint

    def redacted(self, text: str) -> str:
        """Return a text without this connection's secrets."""
        for secret in sorted(self._secrets(), key=len, reverse=True):
            text = text.replace(secret, "***")
        return text

    def _secrets(self) -> set[str]:
        known = {self.api_key, *self.secrets}
        for url in (self.proxy, self.base_url):
            password = _password(url)
            known |= {password, unquote(password)}
        for name in ("default_headers", "default_query"):
            given = self.options.get(name)
            if isinstance(given, dict):
                known |= {value for value in given.values() if isinstance(value, str)}
        return {secret for secret in known if len(secret) >= _LEAST_SECRET}


def _password(url: str | None) -> str:
    try:
        return urlsplit(url or "").password or ""
    except ValueError:
        return ""


def shown(url: str) -> str:
    """Return a URL without the user and password, and the query, that it may have."""
    head, mark, rest = url.rpartition("://")
    place, slash, path = rest.partition("/")
    place = place.rpartition("@")[2].partition("?")[0]
    return f"{head}{mark}{place}{slash}{path.partition('?')[0]}"
