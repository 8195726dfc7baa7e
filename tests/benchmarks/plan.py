"""Planning: a JSON Lines source to checked shards on the store, against a bare loop of orjson over the same file."""

from __future__ import annotations

import argparse
import shutil
from typing import TYPE_CHECKING

import orjson

from airflow_openai_batch.engine.job import Job, JobSpec
from airflow_openai_batch.engine.requests import RequestSpec
from airflow_openai_batch.engine.sources import open_source
from airflow_openai_batch.engine.store import Store
from tests.benchmarks.instant_api import InstantAPI
from tests.benchmarks.measure import Taken, alternate, scratch, taken, tell_rate
from tests.benchmarks.rows import MODEL, PROMPT, SYSTEM, write

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

AT_ONCE = 4
"""Uploads and downloads under way, as many as a task has by default."""

SPECS = {
    "ready_made": RequestSpec(),
    "reviews": RequestSpec(prompt=PROMPT, system=SYSTEM, model=MODEL),
    "short": RequestSpec(prompt=PROMPT, model=MODEL),
}
NAMES = {"ready_made": "ready-made lines", "reviews": "a row template", "short": "a row template over short rows"}
BUDGETS = {"ready_made": 0.40, "reviews": 0.18}
"""As parts of the floor's rate."""


def floor(*files: Path) -> Taken:
    """Return what the least takes that could be done with rows: parse each and write it to memory."""
    return taken(lambda: _loads_and_dumps(files))


def _loads_and_dumps(files: Iterable[Path]) -> None:
    loads, dumps = orjson.loads, orjson.dumps
    for path in files:
        with path.open("rb", buffering=1 << 20) as lines:
            for line in lines:
                dumps(loads(line))


def job_at(folder: Path, source: Path, kind: str, *, api: InstantAPI | None = None, **more: str) -> Job:
    """Return a job of a source; it does nothing yet."""
    spec = JobSpec(SPECS[kind], owner={"task": "benchmark"}, **more)
    api = api or InstantAPI(folder.with_suffix(".answers"))
    return Job(Store.at(str(folder)), api, spec, lambda: open_source(str(source)), at_once=AT_ONCE)


def plan(source: Path, kind: str, folder: Path) -> Taken:
    """Return what planning takes, through the journal to the job's record."""
    job = job_at(folder, source, kind)
    took = taken(job.open)
    shutil.rmtree(folder)
    return took


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--kinds", nargs="+", default=["ready_made", "reviews"], choices=SPECS)
    parser.add_argument("--times", type=int, help="repetitions; default by the number of rows")
    given = parser.parse_args()
    for rows in given.rows:
        for kind in given.kinds:
            with scratch() as folder:
                source = write(kind, rows, folder / f"{kind}.jsonl")
                times = given.times or max(1, min(7, 3_000_000 // rows))
                bare, ours = alternate(
                    lambda source=source: floor(source),
                    lambda source=source, kind=kind, folder=folder: plan(source, kind, folder / "job"),
                    times=times,
                )
                size = source.stat().st_size
            name = f"plan {rows:,} rows, {NAMES[kind]}"
            tell_rate("plan", name, rows, size=size, floor=bare, ours=ours, least=BUDGETS.get(kind))


if __name__ == "__main__":
    main()
