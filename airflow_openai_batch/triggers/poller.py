"""One poller for each event loop and connection, shared by all triggers that wait on it.

A thousand waiting tasks would be a thousand clients and a thousand calls a minute. Here their looks are gathered: what
is due at about the same time is answered by one pass over the list of batches, or by single calls where those are
fewer. A failure reaches every waiting trigger as data, never as an exception in somebody else's task.

Keyed by the running loop as well, since ``dag.test()`` runs every trigger in a loop of its own. The poller's task is
started in an empty context, or its log lines would land in the first subscriber's task log.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from airflow_openai_batch.exceptions import (
    APIError,
    AuthenticationError,
    ConfigurationError,
    NotFoundError,
    RejectedError,
    UnreachableError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from airflow_openai_batch.client import AsyncOpenAIBatchClient
    from airflow_openai_batch.engine.models import BatchSnapshot

PAGE = 100
"""Batches a page of the list holds."""

AT_ONCE = 8
"""Single calls under way at once."""

SLACK = 0.6
"""The share of a wait by which a look may come early to go with others. With 0.25, the looks of 1,000 tasks that began
at any time stayed in groups that never met: four times the calls (``tests/benchmarks/triggerer.py``)."""


@dataclass
class Look:
    """What one pass showed.

    :param batches: snapshots by id.
    :param errors: for the ids without one, why.
    """

    batches: dict[str, BatchSnapshot] = field(default_factory=dict)
    errors: dict[str, APIError] = field(default_factory=dict)


@dataclass(eq=False)
class _Request:
    ids: tuple[str, ...]
    due: float
    early: float
    answer: asyncio.Future[Look]


class Poller:
    """Answers looks at batches.

    :param connect: makes the client; called again after the key was refused, since it may have been changed.
    """

    def __init__(self, connect: Callable[[], Awaitable[AsyncOpenAIBatchClient]]) -> None:
        self._connect = connect
        self._client: AsyncOpenAIBatchClient | None = None
        self._requests: set[_Request] = set()
        self._news = asyncio.Event()
        self._depth = 1
        self._task: asyncio.Task[None] | None = None
        self._stopped = False
        self.subscribers = 0

    async def look(self, ids: tuple[str, ...], wait: float) -> Look:
        """Return snapshots of the batches, taken in about ``wait`` seconds."""
        loop = asyncio.get_running_loop()
        due = loop.time() + wait
        request = _Request(ids, due, due - wait * SLACK, loop.create_future())
        self._requests.add(request)
        self._news.set()
        try:
            return await request.answer
        finally:
            self._requests.discard(request)

    def start(self) -> None:
        """Begin to answer."""
        self._task = contextvars.Context().run(asyncio.create_task, self._run())

    async def stop(self) -> None:
        """Cancel the task and close the client."""
        # Before Python 3.12 wait_for swallows a cancellation that meets the end of what it waits for.
        self._stopped = True
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._disconnect()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._stopped:
            self._news.clear()
            pause = min((request.due for request in self._requests), default=loop.time() + 3600) - loop.time()
            if pause > 0:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._news.wait(), pause)
                continue
            now = loop.time()
            ready = [request for request in self._requests if request.early <= now]
            self._requests.difference_update(ready)
            ids = {batch_id for request in ready for batch_id in request.ids}
            look = await self._pass(ids)
            for request in ready:
                if not request.answer.done():
                    request.answer.set_result(_share(look, request.ids))

    async def _pass(self, ids: set[str]) -> Look:
        look = Look()
        try:
            client = await self._connected()
            if self._depth < len(ids):
                try:
                    await self._read_list(client, ids, look)
                except (NotFoundError, RejectedError):
                    # A gateway without a list, or with none that goes on: asked one by one from now on.
                    self._depth = sys.maxsize
                except UnreachableError:
                    await self._try_one(client, min(ids - look.batches.keys()), look)
            rest = ids - look.batches.keys()
            room = asyncio.Semaphore(AT_ONCE)
            await asyncio.gather(*(self._retrieve(client, batch_id, look, room) for batch_id in rest))
        except APIError as error:
            look.errors.update(dict.fromkeys(ids - look.batches.keys(), error))
        except ConfigurationError as error:
            # The connection was deleted or spoilt while tasks wait: as good as a key that is refused.
            told: APIError = AuthenticationError(str(error))
            look.errors.update(dict.fromkeys(ids - look.batches.keys(), told))
        except Exception as error:  # noqa: BLE001 - whatever it is, the waiting triggers must hear of it and go on
            told = APIError(f"Looking at batches: {type(error).__name__}: {error}")
            look.errors.update(dict.fromkeys(ids - look.batches.keys(), told))
        if any(isinstance(error, AuthenticationError) for error in look.errors.values()):
            await self._disconnect()
        return look

    async def _read_list(self, client: AsyncOpenAIBatchClient, ids: set[str], look: Look) -> None:
        """Read pages, newest first, until all are found or single calls for the rest are fewer than it has cost."""
        seen = 0
        async for batch in client.list_batches():
            seen += 1
            if batch.id in ids:
                look.batches[batch.id] = batch
            missing = len(ids) - len(look.batches)
            if not missing or (seen % PAGE == 0 and seen // PAGE >= self._patience(missing)):
                break
        pages = -(-seen // PAGE)
        # Where the list didn't help, the next passes ask one by one; now and then it is tried again by growth of ids.
        self._depth = pages if len(look.batches) > pages else len(ids) + 1

    @staticmethod
    async def _try_one(client: AsyncOpenAIBatchClient, batch_id: str, look: Look) -> None:
        """Look at one batch by itself after its list failed.

        :raises UnreachableError: that fails as well, so it isn't the list but an outage: the others aren't asked for.
        """
        with contextlib.suppress(NotFoundError, RejectedError):
            look.batches[batch_id] = await client.retrieve_batch(batch_id)

    @staticmethod
    def _patience(missing: int) -> int:
        return max(1, missing // 2)

    async def _retrieve(
        self, client: AsyncOpenAIBatchClient, batch_id: str, look: Look, room: asyncio.Semaphore
    ) -> None:
        async with room:
            try:
                look.batches[batch_id] = await client.retrieve_batch(batch_id)
            except APIError as error:
                look.errors[batch_id] = error

    async def _connected(self) -> AsyncOpenAIBatchClient:
        if self._client is None:
            self._client = await self._connect()
        return self._client

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):
                await client.close()


def _share(look: Look, ids: tuple[str, ...]) -> Look:
    return Look(
        {batch_id: look.batches[batch_id] for batch_id in ids if batch_id in look.batches},
        {batch_id: look.errors[batch_id] for batch_id in ids if batch_id in look.errors},
    )


_pollers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Poller]] = WeakKeyDictionary()


@contextlib.asynccontextmanager
async def shared_poller(
    conn_id: str, connect: Callable[[], Awaitable[AsyncOpenAIBatchClient]]
) -> AsyncIterator[Poller]:
    """Give this loop's poller for a connection; the first one in starts it, the last one out stops it."""
    pollers = _pollers.setdefault(asyncio.get_running_loop(), {})
    poller = pollers.get(conn_id)
    if poller is None:
        poller = pollers[conn_id] = Poller(connect)
        poller.start()
    poller.subscribers += 1
    try:
        yield poller
    finally:
        poller.subscribers -= 1
        if not poller.subscribers:
            del pollers[conn_id]
            await poller.stop()
