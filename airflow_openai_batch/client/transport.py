"""What the SDK's own HTTP client lacks: a proxy of the connection's, private CAs, and Azure's header for keys.

An Azure key goes into the header ``api-key``, at both styles and with every version of the SDK. httpx takes
``Authorization`` off a request that is redirected to another host, but knows nothing of ``api-key``; the hook here
does.
"""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    import httpx2 as httpx

    from airflow_openai_batch.client.config import ClientConfig

__all__ = ["http_options", "httpx", "trusting"]

log = logging.getLogger(__name__)

if not TYPE_CHECKING:
    # httpx2, before openai 3.0 httpx. Both may be installed; the SDK's own client tells which it is.
    httpx = importlib.import_module(openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0])


def http_options(config: ClientConfig, *, sync: bool) -> dict[str, Any]:
    """Return what the SDK's own HTTP client wouldn't have; nothing where that one will do."""
    options: dict[str, Any] = {}
    context: ssl.SSLContext | None = None
    if config.verify is False:
        log.warning("%s: certificates aren't checked (verify is false)", config.where)
        options["verify"] = False
    elif isinstance(config.verify, str):
        options["verify"] = context = trusting(config.verify)
    if config.proxy:
        over_tls = config.proxy.lower().startswith("https:")
        options["proxy"] = httpx.Proxy(config.proxy, ssl_context=context if over_tls else None)
    if config.azure and config.api_key:
        hook = _azure_key(config)
        options["event_hooks"] = {"request": [hook if sync else _asynchronous(hook)]}
    return options


def trusting(path: str) -> ssl.SSLContext:
    """Return a context that trusts the CAs of a PEM file, or of a folder with hashed names, besides the usual ones."""
    context = httpx.create_ssl_context()
    folder = Path(path).is_dir()
    context.load_verify_locations(cafile=None if folder else path, capath=path if folder else None)
    return context


def _azure_key(config: ClientConfig) -> Callable[[httpx.Request], None]:
    home = _origin(httpx.URL(config.base_url or ""))

    def hook(request: httpx.Request) -> None:
        if _origin(request.url) == home:
            request.headers["api-key"] = config.api_key
            request.headers.pop("authorization", None)
        else:
            request.headers.pop("api-key", None)

    return hook


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)


def _asynchronous(hook: Callable[[httpx.Request], None]) -> Callable[[httpx.Request], Any]:
    async def awaited(request: httpx.Request) -> None:
        hook(request)

    return awaited
