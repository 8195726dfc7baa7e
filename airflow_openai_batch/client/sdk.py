"""The SDK's clients for a configuration: OpenAI's or Azure's."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import openai

from airflow_openai_batch.client.transport import http_options

if TYPE_CHECKING:
    from airflow_openai_batch.client.config import ClientConfig


def sync_sdk(config: ClientConfig) -> openai.OpenAI:
    """Return the SDK's client."""
    options = _options(config, sync=True)
    if config.azure == "classic":
        return openai.AzureOpenAI(
            api_version=config.api_version,
            api_key=config.api_key or None,
            azure_ad_token_provider=config.token,
            **options,
        )
    return openai.OpenAI(api_key=config.token or config.api_key, **options)


def async_sdk(config: ClientConfig) -> openai.AsyncOpenAI:
    """Return the SDK's asynchronous client, which repeats nothing by itself."""
    options = {**_options(config, sync=False), "max_retries": 0}
    token = config.token

    async def fetched() -> str:
        return await asyncio.to_thread(token) if token else ""

    if config.azure == "classic":
        return openai.AsyncAzureOpenAI(
            api_version=config.api_version,
            api_key=config.api_key or None,
            azure_ad_token_provider=fetched if token else None,
            **options,
        )
    return openai.AsyncOpenAI(api_key=fetched if token else config.api_key, **options)


def _options(config: ClientConfig, *, sync: bool) -> dict[str, Any]:
    options: dict[str, Any] = {
        "base_url": config.base_url,
        "organization": config.organization,
        "project": config.project,
        "timeout": config.timeout,
        "max_retries": config.max_retries,
        **config.options,
    }
    http = http_options(config, sync=sync)
    if http and "http_client" not in options:
        options["http_client"] = openai.DefaultHttpxClient(**http) if sync else openai.DefaultAsyncHttpxClient(**http)
    return options
