"""Connection -> client, and the Batch API for DAG authors who want a call by hand.

A connection of type ``openai_batch`` or ``openai`` serves: password is the key, host the base URL. The extras are those
of ``provider_info`` and ``openai_client_kwargs`` (for the SDK, as they are); ``docs/connections.md`` tells them.
"""

from __future__ import annotations

import asyncio
import io
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from airflow.providers.common.compat.connection import get_async_connection
from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_openai_batch.exceptions import ConfigurationError, OpenAIBatchError
from airflow_openai_batch.hooks.connection import client_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from airflow.sdk import Connection

    from airflow_openai_batch.client import AsyncOpenAIBatchClient, ClientConfig, OpenAIBatchClient
    from airflow_openai_batch.engine.models import BatchSnapshot, RemoteFile

DEFAULT_CONN_ID = "openai_default"

_Client = TypeVar("_Client")


def _built(kind: Callable[[ClientConfig], _Client], config: ClientConfig) -> _Client:
    """Build a client.

    :raises ConfigurationError: the base URL, the proxy or ``openai_client_kwargs`` isn't what the SDK takes.
    """
    try:
        return kind(config)
    except Exception as error:  # noqa: BLE001 - whatever it is, it isn't chained: it may have a secret
        said = config.redacted(f"{type(error).__name__}: {error}")
        others = "".join(
            f", {name}" for name, used in (("proxy", config.proxy), ("ca_bundle", config.verify is not True)) if used
        )
        raise ConfigurationError(
            f"Connection {config.name!r}: {said}. Check {config.to_check}{others} and openai_client_kwargs"
        ) from None


def _built_async(connection: Connection) -> AsyncOpenAIBatchClient:
    from airflow_openai_batch.client import AsyncOpenAIBatchClient

    return _built(AsyncOpenAIBatchClient, client_config(connection))


@contextmanager
def _found(conn_id: str) -> Iterator[None]:
    try:
        yield
    except AirflowNotFoundException as error:
        raise ConfigurationError(
            f"Connection {conn_id!r} isn't defined. Make one of type openai_batch with the API key as its password"
        ) from error


class OpenAIBatchHook(BaseHook):
    """The OpenAI Batch API through an Airflow connection.

    Methods come in two kinds, ``upload_file`` and ``aupload_file``; the second for code on an event loop. All raise the
    errors of :mod:`airflow_openai_batch.exceptions`.

    :param conn_id: connection of type ``openai_batch`` or ``openai``; default ``openai_default``.
    """

    conn_name_attr = "conn_id"
    default_conn_name = DEFAULT_CONN_ID
    conn_type = "openai_batch"
    hook_name = "OpenAI Batch"

    def __init__(self, conn_id: str = DEFAULT_CONN_ID, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id

    @cached_property
    def client(self) -> OpenAIBatchClient:
        """The engine's client; the SDK's own is its ``sdk``."""
        from airflow_openai_batch.client import OpenAIBatchClient

        with _found(self.conn_id):
            connection = self.get_connection(self.conn_id)
        return _built(OpenAIBatchClient, client_config(connection))

    def get_conn(self) -> OpenAIBatchClient:
        """Return the client."""
        return self.client

    def close(self) -> None:
        """Close the client, if there is one; the next call makes another."""
        client = self.__dict__.pop("client", None)
        if client is not None:
            client.close()

    async def aget_client(self) -> AsyncOpenAIBatchClient:
        """Return a new asynchronous client, which the caller closes."""
        # Not before Airflow 3.3.2 can BaseHook.aget_connection be called while other triggers talk to the supervisor.
        with _found(self.conn_id):
            connection = await get_async_connection(self.conn_id)
        # Importing the SDK and reading certificates take a second that the triggerer's loop doesn't have.
        return await asyncio.to_thread(_built_async, connection)

    def test_connection(self) -> tuple[bool, str]:
        """Prove key and base URL by the cheapest call; the "Test" button of the connection form."""
        try:
            return True, self.client.check()
        except OpenAIBatchError as error:
            return False, str(error)
        finally:
            self.close()

    def upload_file(self, content: str | Path | bytes, *, name: str | None = None) -> RemoteFile:
        """Upload a file of requests, streamed.

        :param content: a local path, or the bytes themselves.
        :param name: its name at OpenAI, ending in ``.jsonl``; default the path's own.
        :return: the file, with ``id``, ``name``, ``bytes`` and ``created_at``.
        """
        if isinstance(content, bytes):
            data = content
            return self.client.upload(name or "batch.jsonl", lambda: io.BytesIO(data))
        path = Path(content)
        return self.client.upload(name or path.name, _opener(path))

    def create_batch(
        self,
        input_file_id: str | None = None,
        *,
        input_file_content: str | None = None,
        endpoint: str,
        completion_window: str = "24h",
        metadata: Mapping[str, str] | None = None,
        output_expires_after: int | None = None,
    ) -> BatchSnapshot:
        """Create a batch with one call that is never repeated: a repeated one would be paid twice.

        :param input_file_content: in place of a file its lines, for gateways that take them in this call.
        :param endpoint: path of the endpoint, as in every line of the file.
        :param metadata: at most 16 pairs; keys up to 64 characters, values up to 512.
        :param output_expires_after: seconds (3,600 to 2,592,000) after which OpenAI drops the output files.
        :raises UnreachableError: no answer came; look through :meth:`list_batches` before you create it again.
        """
        if (input_file_id is None) == (input_file_content is None):
            raise ConfigurationError("give either input_file_id or input_file_content")
        return self.client.create_batch(
            input_file_id=input_file_id,
            input_file_content=input_file_content,
            endpoint=endpoint,
            completion_window=completion_window,
            metadata=metadata or {},
            output_expires_after=output_expires_after,
        )

    def retrieve_batch(self, batch_id: str) -> BatchSnapshot:
        """Return a batch: ``status``, ``counts``, file ids, ``errors``, ``metadata``."""
        return self.client.retrieve_batch(batch_id)

    def list_batches(self) -> Iterator[BatchSnapshot]:
        """Yield batches, newest first; further pages of 100 are fetched as you go on."""
        return self.client.list_batches()

    def cancel_batch(self, batch_id: str) -> BatchSnapshot:
        """Cancel a batch (up to ten minutes ``cancelling``); one that has ended is returned as it is."""
        return self.client.cancel_batch(batch_id)

    def download_file(self, file_id: str, path: str | Path) -> int:
        """Download a file, resuming where the transfer broke; it appears at ``path`` whole or not at all.

        :return: its bytes.
        """
        target = Path(path)
        draft = target.with_name(f".{target.name}.part")
        try:
            with draft.open("wb") as file:
                size = self.client.download(file_id, file)
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
        return size

    def delete_file(self, file_id: str) -> None:
        """Delete a file at OpenAI; one that isn't there is no error."""
        self.client.delete_file(file_id)

    async def aupload_file(self, content: str | Path | bytes, *, name: str | None = None) -> RemoteFile:
        """Like :meth:`upload_file`."""
        return await asyncio.to_thread(self.upload_file, content, name=name)

    async def acreate_batch(
        self,
        input_file_id: str | None = None,
        *,
        input_file_content: str | None = None,
        endpoint: str,
        completion_window: str = "24h",
        metadata: Mapping[str, str] | None = None,
        output_expires_after: int | None = None,
    ) -> BatchSnapshot:
        """Like :meth:`create_batch`."""
        return await asyncio.to_thread(
            self.create_batch,
            input_file_id,
            input_file_content=input_file_content,
            endpoint=endpoint,
            completion_window=completion_window,
            metadata=metadata,
            output_expires_after=output_expires_after,
        )

    async def aretrieve_batch(self, batch_id: str) -> BatchSnapshot:
        """Like :meth:`retrieve_batch`."""
        return await asyncio.to_thread(self.retrieve_batch, batch_id)

    async def alist_batches(self, limit: int | None = None) -> list[BatchSnapshot]:
        """Return the newest batches, all of them where no limit is given."""
        from itertools import islice

        return await asyncio.to_thread(lambda: list(islice(self.list_batches(), limit)))

    async def acancel_batch(self, batch_id: str) -> BatchSnapshot:
        """Like :meth:`cancel_batch`."""
        return await asyncio.to_thread(self.cancel_batch, batch_id)

    async def adownload_file(self, file_id: str, path: str | Path) -> int:
        """Like :meth:`download_file`."""
        return await asyncio.to_thread(self.download_file, file_id, path)

    async def adelete_file(self, file_id: str) -> None:
        """Like :meth:`delete_file`."""
        await asyncio.to_thread(self.delete_file, file_id)


def _opener(path: Path) -> Callable[[], BinaryIO]:
    return lambda: path.open("rb")
