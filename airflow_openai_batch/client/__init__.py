"""The Batch API by the openai SDK: the only importer of ``openai``.

``config`` says how to reach a server, ``sdk`` makes the SDK's clients of it, ``wire`` reads what servers answer,
``errors`` says what their refusals mean; ``synchronous`` and ``asynchronous`` make the calls.
"""

from __future__ import annotations

from airflow_openai_batch.client.asynchronous import AsyncOpenAIBatchClient
from airflow_openai_batch.client.config import ClientConfig
from airflow_openai_batch.client.errors import translate
from airflow_openai_batch.client.pacing import MAX_RETRY_AFTER
from airflow_openai_batch.client.synchronous import OpenAIBatchClient

__all__ = ["MAX_RETRY_AFTER", "AsyncOpenAIBatchClient", "ClientConfig", "OpenAIBatchClient", "translate"]
