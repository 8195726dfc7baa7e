"""Airflow connection -> client configuration: OpenAI, Azure OpenAI in both styles, gateways.

A connection is Azure's where it says so (``azure_endpoint``, ``api_version``, ``azure_auth``, ``azure_ad_token``) or
its host is a resource's. A path ``/openai/v1`` alone says nothing: others have it too.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from airflow_openai_batch.exceptions import AuthenticationError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk import Connection

    from airflow_openai_batch.client import ClientConfig

_AZURE_HOST = re.compile(r"\.(openai|cognitiveservices|services\.ai)\.azure\.(com|us|cn)$")
_AZURE_PATH = re.compile(r"(/openai(/v1|/deployments/[^/]+)?)?/*$")
_UNDATED = frozenset({"v1", "preview", "latest"})
"""What Azure's v1 style was told, or is, in place of a dated ``api-version``."""

_TRUE, _FALSE = frozenset({"true", "1", "yes", "on"}), frozenset({"false", "0", "no", "off"})


def client_config(connection: Connection) -> ClientConfig:
    """Read a connection.

    :raises AuthenticationError: it has no API key.
    :raises ConfigurationError: an extra has a value of the wrong kind, or contradicts another.
    """
    return _Reader(connection).config()


class _Reader:
    """Takes a connection apart; arguments in ``openai_client_kwargs`` go before extras of the same name."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._name = connection.conn_id
        self._extra: dict[str, Any] = connection.extra_dejson
        given = self._extra.get("openai_client_kwargs") or {}
        if not isinstance(given, dict):
            raise self._wrong("openai_client_kwargs", "must be an object")
        self._options = dict(given)

    def config(self) -> ClientConfig:
        """Return the configuration."""
        from airflow_openai_batch.client import ClientConfig

        api_key = str(self._options.pop("api_key", None) or self._connection.password or "")
        fields: dict[str, Any] = {
            "organization": self._text("organization"),
            "project": self._text("project"),
            "timeout": self._number("timeout", self._options.pop("timeout", None) or self._extra.get("timeout"), 60.0),
            "max_retries": int(
                self._number("max_retries", self._options.pop("max_retries", self._extra.get("max_retries")), 5)
            ),
            "proxy": self._text("proxy"),
            "verify": self._verify(),
            "paths": self._choice("batch_paths", ("v1", "plain")),
            "submission": self._choice("submission", ("file", "inline")) or "file",
            "options": self._options,
        }
        base_url = self._text("base_url") or _host(self._connection)
        azure = self._azure(base_url, api_key)
        self._check_url(azure.get("base_url", base_url))
        if not azure and not api_key:
            raise AuthenticationError(f"Connection {self._name!r} has no API key: it goes into the password field")
        return ClientConfig(**{"name": self._name, "api_key": api_key, "base_url": base_url, **fields, **azure})

    def _check_url(self, url: str | None) -> None:
        if url and "@" in url.partition("://")[2].partition("/")[0]:
            # The HTTP client would send these in place of the key, and log the URL with them.
            raise ConfigurationError(
                f"Connection {self._name!r}: its base URL has a user or a password in it. A key goes into the password "
                "field, other headers into openai_client_kwargs"
            )

    def _azure(self, base_url: str | None, password: str) -> dict[str, Any]:
        """Return what an Azure connection has in other ways; nothing for another."""
        endpoint, version = self._text("azure_endpoint"), self._text("api_version")
        self._options.pop("azure_deployment", None)
        auth, static = self._choice("azure_auth", ("key", "entra")), self._text("azure_ad_token")
        if not (endpoint or version or auth or static or _AZURE_HOST.search(urlsplit(base_url or "").hostname or "")):
            return {}
        resource = _with_scheme(endpoint or base_url)
        if resource is None:
            raise self._wrong("azure_endpoint", "is needed: https://RESOURCE.openai.azure.com")
        style: Literal["v1", "classic"] = "classic" if version and version not in _UNDATED else "v1"
        path = _AZURE_PATH.search(resource)
        if style == "classic" and path is not None and path[0].rstrip("/") == "/openai/v1":
            raise self._wrong("api_version", f"is {version}, but paths below /openai/v1 have none: drop one of both")
        if style == "v1" and version in {"preview", "latest"}:
            self._options["default_query"] = {"api-version": version, **self._options.get("default_query", {})}
        root = _AZURE_PATH.sub("", resource, count=1)
        return {
            "azure": style,
            "api_version": version if style == "classic" else None,
            "base_url": f"{root}/openai" if style == "classic" else f"{root}/openai/v1/",
            **self._proof(auth, static, password),
        }

    def _proof(self, auth: str | None, static: str | None, password: str) -> dict[str, Any]:
        """Return key or token: who calls an Azure resource."""
        if static:
            token: Callable[[], str] = lambda: static  # noqa: E731 - a token that is given once and for all
            return {"api_key": "", "token": token, "secrets": (static, password)}
        if auth != "entra":
            if not password:
                raise AuthenticationError(
                    f"Connection {self._name!r} has no API key: it goes into the password field. "
                    "For Entra set azure_auth to entra"
                )
            return {}
        from airflow_openai_batch.hooks.entra import SCOPE, entra_token

        tenant, client = self._text("azure_tenant_id"), self._text("azure_client_id")
        if password and not (tenant and client):
            raise self._wrong(
                "azure_auth",
                "is entra: the password is then a client secret, which needs azure_tenant_id and azure_client_id; "
                "without a password the identity of the machine is used",
            )
        scope = self._text("azure_scope") or SCOPE
        given = entra_token(self._name, tenant_id=tenant, client_id=client, client_secret=password, scope=scope)
        return {"api_key": "", "token": given, "secrets": (password,)}

    def _verify(self) -> bool | str:
        bundle, verify = self._text("ca_bundle"), self._flag("verify")
        if bundle is None:
            return verify
        if not verify:
            raise self._wrong("ca_bundle", "is given, and verify is false: drop one of both")
        if not Path(bundle).exists():
            raise self._wrong("ca_bundle", f"names {bundle}, which isn't there on this machine")
        return bundle

    def _text(self, name: str) -> str | None:
        value = self._options.pop(name, None) or self._extra.get(name)
        return None if value is None else str(value).strip() or None

    def _choice(self, name: str, allowed: tuple[str, ...]) -> Any:
        value = self._text(name)
        if value is not None and value not in allowed:
            raise self._wrong(name, f"must be {' or '.join(allowed)}, not {value!r}")
        return value

    def _flag(self, name: str) -> bool:
        value = self._extra.get(name)
        word = str(value).lower()
        if value is None or value == "" or word in _TRUE:
            return True
        if word in _FALSE:
            return False
        raise self._wrong(name, f"must be true or false, not {value!r}; a file of CAs goes into ca_bundle")

    def _number(self, name: str, value: Any, default: float) -> float:
        if value is None or value == "":
            return default
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = -1.0
        if number < 0:
            raise self._wrong(name, f"must be a number from 0, not {value!r}")
        return number

    def _wrong(self, name: str, problem: str) -> ConfigurationError:
        return ConfigurationError(f"Connection {self._name!r}: extra {name!r} {problem}")


def _host(connection: Connection) -> str | None:
    host = (connection.host or "").strip()
    if not host:
        # What the SDK would take by itself; taken here, messages name the server that is really called.
        return os.environ.get("OPENAI_BASE_URL") or None
    if "://" in host:
        return host
    port = f":{connection.port}" if connection.port else ""
    return f"{connection.schema or 'https'}://{host}{port}"


def _with_scheme(url: str | None) -> str | None:
    return f"https://{url}" if url and "://" not in url else url
