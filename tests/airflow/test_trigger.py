"""The trigger on a real event loop, against the emulator."""

from __future__ import annotations

import asyncio
import json
import time
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from airflow_openai_batch.engine.models import BatchSnapshot
from airflow_openai_batch.hooks.openai_batch import OpenAIBatchHook
from airflow_openai_batch.triggers import openai_batch as module
from airflow_openai_batch.triggers import poller
from airflow_openai_batch.triggers.openai_batch import OpenAIBatchTrigger
from tests.airflow_versions import import_string


def trigger(*batches, **options):
    ids = [batch if isinstance(batch, str) else batch.id for batch in batches]
    return OpenAIBatchTrigger(**{"conn_id": "openai_default", "batch_ids": ids, "poll_interval": 0.1, **options})


async def fire(waiting):
    """Return the payload of the one event; nothing is left behind on the loop."""
    event = await asyncio.wait_for(fire_beside(waiting), 10)
    assert nothing_is_left()
    return event


async def fire_beside(waiting):
    """Return the payload of the one event, while others may wait on the same loop."""
    (event,) = [event.payload async for event in waiting.run()]
    return event


def nothing_is_left():
    """Whether this test is alone on its loop again."""
    return asyncio.all_tasks() == {asyncio.current_task()} and not poller._pollers.get(asyncio.get_running_loop())


@pytest.fixture
def told(caplog):
    """What the triggers log: through structlog, or in Airflow 3.0 through the standard library."""
    caplog.set_level("INFO")
    with capture_logs() as entries:
        yield lambda: [*(entry["event"] for entry in entries), *caplog.messages]


def test_what_is_stored_of_it_makes_the_same_trigger_and_holds_no_key():
    original = trigger(
        *[f"batch_{i:032}" for i in range(50)], wake="any", until=12.5, not_before=3.0, cancel_on_kill=True, since=2.0
    )
    path, arguments = original.serialize()
    stored = json.dumps(arguments)
    assert import_string(path)(**json.loads(stored)).serialize() == (path, arguments)
    assert len(stored) < 4_000
    assert "sk-" not in stored


async def test_it_fires_once_when_all_have_ended(connection, make_batch):
    first, second = make_batch(), make_batch()
    event = await fire(trigger(first, second))
    assert event == {"status": "ended", "batches": {first.id: "completed", second.id: "completed"}}


async def test_its_event_says_since_when_the_task_waited(connection, make_batch):
    event = await fire(trigger(make_batch(), since=1234.5))
    assert event["since"] == 1234.5


async def test_it_can_fire_when_any_has_ended(connect, slow_emulator, make_batch, ended):
    connect(slow_emulator)
    with _sdk(slow_emulator) as sdk:
        running, over = make_batch(sdk=sdk), make_batch(sdk=sdk)
        sdk.batches.cancel(over.id)
        event = await fire(trigger(running, over, wake="any"))
    assert event["status"] == "ended"
    assert event["batches"][over.id] == "cancelled"
    assert event["batches"][running.id] in {"validating", "in_progress"}


async def test_it_fires_in_time_whatever_the_batches_do(connect, slow_emulator, make_batch):
    connect(slow_emulator)
    with _sdk(slow_emulator) as sdk:
        batch = make_batch(sdk=sdk)
    begun = time.time()
    event = await fire(trigger(batch, poll_interval=600, until=begun + 0.5))
    assert event["status"] == "time"
    assert 0.5 <= time.time() - begun < 3


async def test_without_batches_it_waits_for_its_time_and_asks_nobody(connection, emulator):
    calls = emulator.ledger.calls
    begun = time.time()
    assert await fire(trigger(until=begun + 0.3)) == {"status": "time", "batches": {}}
    assert time.time() - begun >= 0.3
    assert emulator.ledger.calls == calls


async def test_it_never_fires_too_early(connection, make_batch, ended):
    batch = ended(make_batch())
    begun = time.time()
    await fire(trigger(batch, not_before=begun + 0.5))
    assert time.time() - begun >= 0.5


async def test_progress_is_told_when_it_changes_and_not_at_every_look(connection, emulator, make_batch, told):
    batch = make_batch(("a", "x"), ("b", "y"))
    before = emulator.ledger.calls.get("batches.retrieve", 0)
    await fire(trigger(batch, poll_interval=0.01))
    progress = [line for line in told() if "rows done" in line]
    assert progress[-1] == "2 of 2 rows done; batches: 1 completed"
    assert len(set(progress)) == len(progress) < emulator.ledger.calls["batches.retrieve"] - before


@pytest.mark.parametrize(
    "fault",
    [
        "status,status=500,call=batches.*,times=6",
        "status,status=429,call=batches.*,times=6,retry_after=0",
        "status,status=404,call=batches.*,times=4",
        "drop,when=before,call=batches.*,times=6",
        "drop,when=during,call=batches.*,times=6",
    ],
)
async def test_polls_that_fail_are_tried_again_and_never_end_the_wait(connection, emulator, make_batch, told, fault):
    batch = make_batch()
    emulator.add_fault(fault)
    event = await fire(trigger(batch, poll_interval=0.01))
    assert event == {"status": "ended", "batches": {batch.id: "completed"}}
    failures = [line for line in told() if line.startswith("Poll failed")]
    assert [int(line.split("(")[1].split()[0]) for line in failures] == list(range(1, len(failures) + 1))
    assert len(failures) >= 4
    assert all("openai_default" in line for line in failures)


async def test_a_failed_poll_waits_longer_each_time(connection, emulator, make_batch):
    batch = make_batch()
    emulator.add_fault("status,call=batches.*,times=5")
    begun = time.time()
    await fire(trigger(batch, poll_interval=0.04))
    # At least half of 0.04, 0.08, 0.16, 0.32 and 0.64.
    assert time.time() - begun >= 0.6


async def test_five_refusals_in_a_row_wake_the_task_to_say_so(connect, emulator, make_batch):
    connect(emulator, password="wrong")
    event = await fire(trigger(make_batch(), poll_interval=0.01))
    assert event["status"] == "error"
    assert "'openai_default'" in event["message"]
    assert "Check its API key" in event["message"]
    assert "wrong" not in event["message"]


async def test_a_batch_that_nobody_knows_is_a_refusal_too(connection, make_batch, ended):
    known = ended(make_batch())
    event = await fire(trigger(known, "batch_unknown", poll_interval=0.01))
    assert (event["status"], event["batches"]) == ("error", {known.id: "completed"})
    assert "batch_unknown" in event["message"]


async def test_a_key_that_is_put_right_in_time_is_taken(connect, emulator, make_batch, told):
    connect(emulator, password="wrong")
    waiting = asyncio.create_task(fire_beside(trigger(make_batch(), poll_interval=0.1)))
    # The fifth look that is refused would be the last.
    for _ in range(500):
        await asyncio.sleep(0.01)
        if any("Poll failed (2 in a row)" in line for line in told()):
            break
    else:
        pytest.fail(f"no second look was refused: {told()}")
    connect(emulator)
    assert (await asyncio.wait_for(waiting, 10))["status"] == "ended"


@pytest.mark.parametrize("pause", [0, 0.001, 0.05, 0.3])
async def test_it_goes_quietly_when_it_is_cancelled(connect, slow_emulator, make_batch, pause):
    connect(slow_emulator)
    with _sdk(slow_emulator) as sdk:
        batches = [make_batch(sdk=sdk) for _ in range(3)]
    tasks = [asyncio.create_task(fire_beside(trigger(*batches))) for _ in range(3)]
    await asyncio.sleep(pause)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=10)
    assert all(task.cancelled() for task in tasks)
    assert nothing_is_left()


async def test_it_goes_quietly_at_whatever_step_of_the_loop_it_is_cancelled(connection, monkeypatch):
    class Endless:
        async def retrieve_batch(self, batch_id):
            return BatchSnapshot(batch_id, "in_progress")

        async def close(self):
            pass

    async def aget_client(_hook):
        return Endless()

    monkeypatch.setattr(OpenAIBatchHook, "aget_client", aget_client)
    for steps in range(40):
        task = asyncio.create_task(fire_beside(trigger("batch_1", poll_interval=0.0001)))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=2)
        assert task.cancelled(), steps
        assert nothing_is_left()


@pytest.mark.parametrize("over", [True, False])
async def test_its_batches_are_cancelled_only_when_the_task_is_over(
    connect, slow_emulator, make_batch, monkeypatch, over
):
    connect(slow_emulator)
    with _sdk(slow_emulator) as sdk:
        batch = make_batch(sdk=sdk)
        monkeypatch.setattr(module, "is_over", lambda _ti: over)
        waiting = trigger("batch_unknown", batch, cancel_on_kill=True)
        waiting.task_instance = SimpleNamespace(dag_id="d", task_id="t", run_id="r", map_index=-1)
        await waiting.on_kill()
        assert sdk.batches.retrieve(batch.id).status.startswith("cancel") is over
        if not over:
            sdk.batches.cancel(batch.id)


async def test_the_batches_are_cancelled_though_airflow_cuts_the_call_off(
    connect, slow_emulator, make_batch, monkeypatch
):
    connect(slow_emulator)
    with _sdk(slow_emulator) as sdk:
        batch = make_batch(sdk=sdk)
        monkeypatch.setattr(module, "is_over", lambda _ti: time.sleep(0.3) or True)
        waiting = trigger(batch, cancel_on_kill=True)
        waiting.task_instance = SimpleNamespace(dag_id="d", task_id="t", run_id="r", map_index=-1)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(waiting.on_kill(), 0.1)
        await asyncio.gather(*module._cancelling)
        assert sdk.batches.retrieve(batch.id).status.startswith("cancel")
        assert not module._cancelling


async def test_the_batches_are_left_alone_unless_it_was_asked_for(connect, slow_emulator, make_batch, monkeypatch):
    connect(slow_emulator)
    monkeypatch.setattr(module, "is_over", lambda _ti: True)
    cancels = slow_emulator.ledger.calls.get("batches.cancel", 0)
    await trigger("batch_any", cancel_on_kill=False).on_kill()
    assert slow_emulator.ledger.calls.get("batches.cancel", 0) == cancels


def _sdk(emulator):
    from openai import OpenAI

    return OpenAI(base_url=emulator.base_url, api_key="sk-test")
