"""Entra tokens for Azure OpenAI, by azure-identity (the extra ``azure``), which keeps a token while it is good."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_openai_batch.exceptions import AuthenticationError, ConfigurationError, NoTokenError

if TYPE_CHECKING:
    from collections.abc import Callable

SCOPE = "https://cognitiveservices.azure.com/.default"
"""What a token is asked for (Azure's batch guide)."""

_REFUSED = frozenset({400, 401, 403})


def entra_token(
    connection: str, *, tenant_id: str | None, client_id: str | None, client_secret: str | None, scope: str
) -> Callable[[], str]:
    """Return what gives tokens: of a service principal where there is a secret, else by ``DefaultAzureCredential``.

    :param connection: its id, for messages.
    :param client_id: of the service principal, or without a secret of a user-assigned managed identity.
    :raises ConfigurationError: azure-identity isn't installed, or doesn't take these values.
    """
    try:
        from azure.identity import ClientSecretCredential, DefaultAzureCredential, get_bearer_token_provider
    except ImportError as error:
        raise ConfigurationError(
            f"Connection {connection!r}: azure_auth is entra, which needs azure-identity: "
            "pip install 'airflow-openai-batch[azure]'"
        ) from error
    try:
        if client_secret:
            credential = ClientSecretCredential(tenant_id, client_id, client_secret)
        else:
            named = {"managed_identity_client_id": client_id, "workload_identity_client_id": client_id}
            credential = DefaultAzureCredential(**(named if client_id else {}))
        provider: Callable[[], str] = get_bearer_token_provider(credential, scope)
    except ValueError as error:
        raise ConfigurationError(f"Connection {connection!r}: {error}. Check azure_tenant_id") from error

    def token() -> str:
        try:
            return provider()
        except Exception as error:
            raise _no_token(connection, error) from error

    return token


def _no_token(connection: str, error: Exception) -> AuthenticationError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    kind = AuthenticationError if status in _REFUSED else NoTokenError
    text = " ".join(str(error).split())[:500].rstrip(". ")
    return kind(
        f"Connection {connection!r}: no Entra token: {type(error).__name__}: {text}. Check azure_tenant_id, "
        "azure_client_id and the secret (password), or the identity of this machine"
    )
