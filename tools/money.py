"""What a job costs, measured: the example reviews sent in several ways to the emulator, with the prices of their model.

``python -m tools.money`` prints the table of ``docs/money.md``, in about ten seconds. Rows that were bought are
counted by the emulator's ledger; tokens are the emulator's, prices those of ``genai-prices``.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.table import Table

from airflow_openai_batch.client import ClientConfig, OpenAIBatchClient
from airflow_openai_batch.emulator.server import running
from airflow_openai_batch.engine.job import Job, JobSpec
from airflow_openai_batch.engine.models import Done
from airflow_openai_batch.engine.requests import RequestSpec
from airflow_openai_batch.engine.runner import advance
from airflow_openai_batch.engine.sources import open_source
from airflow_openai_batch.engine.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow_openai_batch.emulator.server import RunningEmulator

REVIEWS = Path(__file__).resolve().parent.parent / "dags" / "data" / "reviews.jsonl"
REQUEST = RequestSpec(
    prompt="{{ row.text }}",
    system="You judge restaurant reviews. Answer with one word: positive or negative.",
    model="gpt-5-mini",
    body={"max_completion_tokens": 50},
)
NEW = 5
"""Of 252 reviews: two in a hundred."""


class Way(NamedTuple):
    """One job to be measured."""

    name: str
    rows: Sequence[dict[str, Any]]
    how: dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """What one job came to; amounts in US dollars, None where nobody knows.

    :param bought: rows that the emulator billed.
    """

    name: str
    rows: int
    bought: int
    estimate: float | None
    cost: float | None
    standard: float | None


def measure(rows: Sequence[dict[str, Any]], folder: Path) -> Iterator[Measured]:
    """Run the jobs one after the other."""
    cache = str(folder / "cache")
    news = [{**row, "text": f"New: {row['text']}"} for row in rows[:NEW]]
    ways = [
        Way("in batches", rows, {}),
        Way("one by one (route='direct')", rows, {"route": "direct"}),
        Way("in batches after canary=20", rows, {"canary": 20}),
        Way("first night with a cache", rows, {"cache": cache}),
        Way(f"second night, {NEW} rows new", [*news, *rows[NEW:]], {"cache": cache}),
        Way("third night, nothing new", [*news, *rows[NEW:]], {"cache": cache}),
        Way("each row three times", [*rows] * 3, {}),
        Way("each row three times, deduplicate=True", [*rows] * 3, {"deduplicate": True}),
    ]
    with running(validating=0.1, in_progress=0.5, finalizing=0.1) as emulator:
        client = OpenAIBatchClient(ClientConfig("money", "sk-emulated", emulator.base_url))
        for number, way in enumerate(ways):
            yield run(way, str(folder / str(number)), emulator, client)
        client.close()


def run(way: Way, folder: str, emulator: RunningEmulator, client: OpenAIBatchClient) -> Measured:
    """Run one job to its end."""
    before = emulator.ledger.rows_billed
    job = Job(Store.at(folder), client, JobSpec(REQUEST, **way.how), lambda: open_source(way.rows))
    while not isinstance(outcome := advance(job), Done):
        time.sleep(0.1)
    manifest = outcome.manifest
    bought = emulator.ledger.rows_billed - before
    cost = manifest["cost"]
    return Measured(way.name, len(way.rows), bought, manifest["estimate"]["usd"], cost["usd"], cost["usd_standard"])


def main() -> None:
    """Measure and print."""
    rows = [json.loads(line) for line in REVIEWS.read_bytes().splitlines()]
    table = Table(title=f"{len(rows)} reviews, {REQUEST.model}, at the emulator; US dollars", title_justify="left")
    table.add_column("job")
    for head in ("rows", "bought", "estimate", "cost", "the same one by one"):
        table.add_column(head, justify="right")
    with tempfile.TemporaryDirectory(prefix="openai-batch-money-") as folder:
        for told in measure(rows, Path(folder)):
            amounts = (told.estimate, told.cost, told.standard)
            shown = ("unknown" if amount is None else f"{amount:.6f}" for amount in amounts)
            table.add_row(told.name, str(told.rows), str(told.bought), *shown)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
