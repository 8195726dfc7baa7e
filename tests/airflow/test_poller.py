"""The poller that all triggers on one loop and connection share."""

from __future__ import annotations

import asyncio

import pytest

from airflow_openai_batch.client import AsyncOpenAIBatchClient, ClientConfig
from airflow_openai_batch.exceptions import APIError, AuthenticationError, UnreachableError
from airflow_openai_batch.hooks.openai_batch import OpenAIBatchHook
from airflow_openai_batch.triggers.openai_batch import OpenAIBatchTrigger
from airflow_openai_batch.triggers.poller import shared_poller


class Connector:
    """Makes clients of an emulator and counts them."""

    def __init__(self, emulator, key="sk-test"):
        self.base_url = emulator.base_url
        self.key = key
        self.made = []

    async def __call__(self):
        client = AsyncOpenAIBatchClient(ClientConfig("c", self.key, self.base_url))
        self.made.append(client)
        return client


@pytest.fixture
def connector(emulator):
    return Connector(emulator)


def list_and_retrieve(emulator):
    return sum(emulator.ledger.calls.get(call, 0) for call in ("batches.list", "batches.retrieve"))


async def test_many_triggers_make_few_calls_with_one_client(connection, emulator, make_batch, monkeypatch):
    made = []
    connect = OpenAIBatchHook.aget_client

    async def aget_client(self):
        made.append(await connect(self))
        return made[-1]

    monkeypatch.setattr(OpenAIBatchHook, "aget_client", aget_client)
    batches = [make_batch() for _ in range(60)]
    before = list_and_retrieve(emulator)

    async def wait(batch):
        trigger = OpenAIBatchTrigger(conn_id="openai_default", batch_ids=[batch.id], poll_interval=0.2)
        return [event.payload["status"] async for event in trigger.run()]

    statuses = await asyncio.gather(*map(wait, batches))
    assert statuses == [["ended"]] * 60
    # Sixty triggers, each looking at least once; a cycle is one page of the list.
    assert list_and_retrieve(emulator) - before <= 15
    assert len(made) == 1
    assert made[0].sdk.is_closed()


async def test_looks_that_are_due_at_about_the_same_time_are_one_pass(emulator, connector, make_batch):
    ids = [make_batch().id for _ in range(3)]
    async with shared_poller("c", connector) as poller:
        before = list_and_retrieve(emulator)
        looks = await asyncio.gather(*(poller.look((batch_id,), 0.2 + i / 100) for i, batch_id in enumerate(ids)))
        assert list_and_retrieve(emulator) - before == 1
        assert [list(look.batches) for look in looks] == [[batch_id] for batch_id in ids]


async def test_batches_far_down_the_list_are_asked_for_one_by_one(emulator, connector, make_batch):
    old = [make_batch().id for _ in range(2)]
    for _ in range(101):
        make_batch()
    async with shared_poller("c", connector) as poller:
        for _ in range(3):
            before = list_and_retrieve(emulator)
            look = await poller.look(tuple(old), 0)
            assert set(look.batches) == set(old)
        assert list_and_retrieve(emulator) - before <= 2


async def test_connections_do_not_share(connector):
    async with shared_poller("one", connector) as one, shared_poller("two", connector) as two:
        assert one is not two
    async with shared_poller("one", connector) as again:
        assert again is not one


def test_loops_do_not_share(connection, make_batch, ended):
    batch = ended(make_batch())
    seen = []

    async def look():
        hook = OpenAIBatchHook("openai_default")
        async with shared_poller("openai_default", hook.aget_client) as poller:
            seen.append(poller)
            return (await poller.look((batch.id,), 0)).batches[batch.id].status

    assert [asyncio.run(look()) for _ in range(2)] == ["completed", "completed"]
    assert seen[0] is not seen[1]


async def test_the_last_one_out_stops_it(connector, make_batch):
    batch = make_batch()
    async with shared_poller("c", connector) as first:
        async with shared_poller("c", connector) as second:
            assert first is second
            await second.look((batch.id,), 0)
        assert not connector.made[0].sdk.is_closed()
        await first.look((batch.id,), 0)
    assert connector.made[0].sdk.is_closed()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert len(connector.made) == 1


async def test_a_failure_reaches_everybody_as_data(emulator, connector, make_batch):
    ids = [make_batch().id for _ in range(2)]
    emulator.add_fault("status,call=batches.*,times=100")
    async with shared_poller("c", connector) as poller:
        looks = await asyncio.gather(*(poller.look((batch_id,), 0.05) for batch_id in ids))
    assert [set(look.errors) for look in looks] == [{batch_id} for batch_id in ids]
    assert all(isinstance(error, UnreachableError) for look in looks for error in look.errors.values())


async def test_whatever_goes_wrong_is_an_error_of_ours_and_the_poller_lives_on(connector, make_batch):
    batch = make_batch()
    broken = [True]

    async def connect():
        if broken:
            raise OSError(broken.pop())
        return await connector()

    async with shared_poller("c", connect) as poller:
        look = await poller.look((batch.id,), 0)
        assert isinstance(look.errors[batch.id], APIError)
        assert "OSError" in str(look.errors[batch.id])
        assert list((await poller.look((batch.id,), 0)).batches) == [batch.id]


async def test_a_refused_key_makes_it_read_the_connection_again(emulator, make_batch):
    batch = make_batch()
    connector = Connector(emulator, key="wrong")
    async with shared_poller("c", connector) as poller:
        look = await poller.look((batch.id,), 0)
        assert isinstance(look.errors[batch.id], AuthenticationError)
        connector.key = "sk-right"
        assert list((await poller.look((batch.id,), 0)).batches) == [batch.id]
    assert [client.sdk.is_closed() for client in connector.made] == [True, True]


async def test_one_unknown_batch_spoils_nothing_for_the_others(connector, make_batch):
    batch = make_batch()
    async with shared_poller("c", connector) as poller:
        known, unknown = await asyncio.gather(poller.look((batch.id,), 0.05), poller.look(("batch_unknown",), 0.05))
    assert (list(known.batches), known.errors) == ([batch.id], {})
    assert (unknown.batches, list(unknown.errors)) == ({}, ["batch_unknown"])


@pytest.mark.parametrize("status", [404, 405])
async def test_a_server_without_a_list_is_asked_one_by_one_and_not_for_its_list_again(
    emulator, connector, make_batch, status
):
    ids = tuple(make_batch().id for _ in range(3))
    emulator.add_fault(f"status,call=batches.list,status={status},times=9")
    before = emulator.ledger.calls.get("batches.list", 0)
    async with shared_poller("c", connector) as poller:
        for _ in range(2):
            look = await poller.look(ids, 0)
            assert (set(look.batches), look.errors) == (set(ids), {})
    assert emulator.ledger.calls["batches.list"] - before == 1


async def test_a_list_that_fails_is_no_outage_while_batches_can_be_retrieved(emulator, connector, make_batch):
    ids = tuple(make_batch().id for _ in range(3))
    emulator.add_fault("status,call=batches.list,status=501,times=1")
    before = emulator.ledger.calls.get("batches.list", 0)
    async with shared_poller("c", connector) as poller:
        for _ in range(2):
            look = await poller.look(ids, 0)
            assert (set(look.batches), look.errors) == (set(ids), {})
    assert emulator.ledger.calls["batches.list"] - before == 2


async def test_a_list_and_a_batch_that_fail_are_an_outage_and_the_others_are_not_asked_for(
    emulator, connector, make_batch
):
    ids = tuple(make_batch().id for _ in range(20))
    emulator.add_fault("status,call=batches.*,status=500,times=100")
    before = list_and_retrieve(emulator)
    async with shared_poller("c", connector) as poller:
        look = await poller.look(ids, 0)
    emulator.clear_faults()
    assert (look.batches, set(look.errors)) == ({}, set(ids))
    assert list_and_retrieve(emulator) - before == 2
