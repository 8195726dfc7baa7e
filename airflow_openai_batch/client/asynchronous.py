"""What the triggerer needs, without blocking its loop."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from airflow_openai_batch.client import wire
from airflow_openai_batch.client.errors import UnreadableError, is_over, may_be_over, translated
from airflow_openai_batch.client.sdk import async_sdk
from airflow_openai_batch.client.synchronous import PAGE
from airflow_openai_batch.exceptions import APIError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from airflow_openai_batch.client.config import ClientConfig
    from airflow_openai_batch.engine.models import BatchSnapshot


class AsyncOpenAIBatchClient:
    """Looks at batches, and cancels them.

    :param config: how to reach the API; the SDK's own retries are off, since a poll that failed has a next one.
    """

    def __init__(self, config: ClientConfig) -> None:
        self.config = config
        self.sdk = async_sdk(config)

    async def close(self) -> None:
        """Close the connections."""
        await self.sdk.close()

    async def retrieve_batch(self, batch_id: str) -> BatchSnapshot:
        """Return one batch."""
        with translated(self.config, f"Looking at batch {batch_id}"):
            answer = await self.sdk.batches.with_raw_response.retrieve(batch_id)
            return wire.batch_of(wire.decoded(answer.content), expires=self.config.expires)

    async def list_batches(self) -> AsyncIterator[BatchSnapshot]:
        """Yield all batches in the server's order (newest first, at OpenAI), pages of 100 as they are asked for.

        An entry that is no batch is left out: this list is for looking, and proves no batch absent.
        """
        with translated(self.config, "Listing batches"):
            turner = wire.PageTurner()
            while turner.more:
                answer = await self.sdk.batches.with_raw_response.list(limit=PAGE, **turner.after)
                for item in turner.take(wire.decoded(answer.content)):
                    with suppress(UnreadableError):
                        yield wire.batch_of(item, expires=self.config.expires)

    async def cancel_batch(self, batch_id: str) -> BatchSnapshot:
        """Ask for a batch's cancellation; one that has ended already is returned as it is."""
        try:
            with translated(self.config, f"Cancelling batch {batch_id}"):
                answer = await self.sdk.batches.with_raw_response.cancel(batch_id)
        except APIError as error:
            if not may_be_over(error):
                raise
            return await self._over(batch_id, error)
        try:
            return wire.batch_of(wire.decoded(answer.content), expires=self.config.expires)
        except UnreadableError:
            return await self.retrieve_batch(batch_id)

    async def _over(self, batch_id: str, error: APIError) -> BatchSnapshot:
        """Return a batch that there is nothing to cancel of; else raise the refusal."""
        try:
            batch = await self.retrieve_batch(batch_id)
        except APIError:
            raise error from None
        if not is_over(error, batch):
            raise error
        return batch
