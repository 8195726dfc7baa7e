"""Tasks that wait, in one event loop: ``python -m tests.benchmarks.waiting PROVIDER IDS --poll 5 --cycles 6``.

Runs in our venv and in the peers'. Each task runs a trigger's ``run()`` for a batch of its own, as a triggerer does.
They begin one after another over one poll interval; two more intervals are left to settle, then the window begins,
and the event loop's lag is measured in it, one poll interval at a time. ``window`` on standard output marks its begin
and end, so that the process that started this one can count calls. The last line is a JSON object of what was seen.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.measure import Lag

if TYPE_CHECKING:
    from collections.abc import Callable

IDLE = 3.0
"""Seconds for which the loop is watched with nothing to do: the floor."""

SETTLING = 2
"""Poll intervals before the window begins."""


def _ours(poll: float) -> Callable[[str], Any]:
    from airflow_openai_batch.triggers.openai_batch import OpenAIBatchTrigger

    return lambda batch: OpenAIBatchTrigger(conn_id="openai_default", batch_ids=[batch], poll_interval=poll)


def _openai(poll: float) -> Callable[[str], Any]:
    from airflow.providers.openai.triggers.openai import OpenAIBatchTrigger

    return lambda batch: OpenAIBatchTrigger(
        conn_id="openai_default", batch_id=batch, poll_interval=poll, timeout=86_400
    )


def _common_ai(poll: float) -> Callable[[str], Any]:
    from airflow.providers.common.ai.triggers.llm_batch import LLMBatchTrigger

    return lambda batch: LLMBatchTrigger(
        llm_conn_id="pydanticai_default",
        adapter="openai",
        batch_id=batch,
        poll_interval=int(poll),
        end_time=time.time() + 86_400,
        cancel_on_kill=False,
        cancel_on_timeout=False,
    )


PROVIDERS = {"ours": _ours, "openai": _openai, "common-ai": _common_ai}


async def _first_event(trigger: Any, after: float) -> None:
    await asyncio.sleep(after)
    async for event in trigger.run():
        raise RuntimeError(f"a batch that never ends has ended: {event}")


def _mark() -> None:
    sys.stdout.write("window\n")
    sys.stdout.flush()


def _summed(seen: list[dict[str, float]]) -> dict[str, float]:
    """Return the medians of what was seen poll by poll, so that one hiccup of the machine isn't a budget missed."""
    medians = {name: statistics.median(one[name] for one in seen) for name in ("p50", "p99")}
    return {**medians, "max": max(one["max"] for one in seen)}


async def watch(make: Callable[[str], Any], ids: list[str], poll: float, cycles: int) -> dict[str, Any]:
    """Let triggers wait; return the loop's lag: idle, at the start, and in the window."""
    async with Lag() as lag:
        await asyncio.sleep(IDLE)
        told: dict[str, Any] = {"idle": lag.take()}
        triggers = [make(batch) for batch in ids]
        tasks = [
            asyncio.create_task(_first_event(trigger, poll * number / len(ids)))
            for number, trigger in enumerate(triggers)
        ]
        await asyncio.sleep((1 + SETTLING) * poll)
        told["start"] = lag.take()
        _mark()
        begun = time.perf_counter()
        seen = []
        for _ in range(cycles):
            await asyncio.sleep(poll)
            seen.append(lag.take())
        told["seconds"] = time.perf_counter() - begun
        told["window"] = _summed(seen)
        _mark()
        broken = [task for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in broken:
        task.result()
    return told


def main() -> None:
    """Measure one provider."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("provider", choices=PROVIDERS)
    parser.add_argument("ids", type=Path, help="a JSON list of batch ids")
    parser.add_argument("--poll", type=float, default=5.0)
    parser.add_argument("--cycles", type=int, default=6)
    given = parser.parse_args()
    make = PROVIDERS[given.provider](given.poll)
    told = asyncio.run(watch(make, json.loads(given.ids.read_text()), given.poll, given.cycles))
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
