"""Peak memory of a whole job in one process: how much it grows over the imported process, whatever the number of rows.

Each job runs in a process of its own; what isn't the job (the dataset, the answers) is made in yet others. Planning
alone is measured at ten times as many short rows as well.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

from airflow_openai_batch.engine.job import JobSpec
from airflow_openai_batch.engine.models import Done
from airflow_openai_batch.engine.runner import advance
from tests.benchmarks.instant_api import InstantAPI
from tests.benchmarks.measure import MB, memory, peak_memory, rounded, scratch, taken, tell_at_most
from tests.benchmarks.plan import job_at

BUDGET_MB = 150
SAME_MB = 50
"""What ten times the rows may add and still be called the same: 100,000 rows are two shards, 1,000,000 are twenty, of
which four are collected at once."""

KINDS = {"jsonl": "JSON Lines to JSON Lines", "parquet": "Parquet to Parquet", "short": "plan alone, short rows"}


def can_parquet() -> bool:
    """Whether this engine reads and writes Parquet."""
    return "result_format" in {field.name for field in dataclasses.fields(JobSpec)}


def run(kind: str, source: Path, folder: Path) -> dict[str, float]:
    """Run a job in this process; return what it took, in MB and seconds."""
    more = {}
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet

        # Imports are no part of the growth, and with its first array pyarrow imports pandas, where that is installed.
        pa.array([""])
        more["result_format"] = "parquet"
    imported = memory()
    api = InstantAPI(folder / "answers")
    job = job_at(folder / "job", source, "short" if kind == "short" else "reviews", api=api, **more)
    told = {"imported": imported / MB, "seconds": taken(job.open).wall, "plan": (peak_memory() - imported) / MB}
    if kind == "short":
        return told
    advance(job, stop="submitted")
    api.end_all(folder / "job/_job/shards")
    outcome = advance(job)
    if not isinstance(outcome, Done):
        raise TypeError(f"the job should be done: {outcome}")
    return {**told, "peak": (peak_memory() - imported) / MB}


def measure(kind: str, rows: int) -> dict[str, float]:
    """Make a dataset and run its job, each in a process of its own."""
    with scratch() as folder:
        source = folder / f"source.{'parquet' if kind == 'parquet' else 'jsonl'}"
        data = "short" if kind == "short" else "reviews"
        subprocess.run([sys.executable, "-m", "tests.benchmarks.rows", data, str(rows), str(source)], check=True)
        command = [sys.executable, "-m", "tests.benchmarks.memory", "--run", kind, str(source), str(folder)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return told


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs=2, default=[100_000, 1_000_000], metavar=("FEW", "MANY"))
    parser.add_argument("--plan-rows", type=int, default=10_000_000, help="short rows that are planned alone")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--run", nargs=3, metavar=("KIND", "SOURCE", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        kind, source, folder = given.run
        sys.stdout.write("\n" + json.dumps(run(kind, Path(source), Path(folder))) + "\n")
        return
    for kind in ("jsonl", "parquet"):
        if kind not in given.kinds or (kind == "parquet" and not can_parquet()):
            continue
        peaks = []
        for rows in given.rows:
            told = measure(kind, rows)
            peaks.append(told["peak"])
            note = f"over {told['imported']:.0f} MB imported; plan alone {told['plan']:.0f} MB"
            name = f"{KINDS[kind]}, {rows:,} rows: peak growth"
            tell_at_most("memory", name, told["peak"], "MB", most=BUDGET_MB, note=note)
        few, many = given.rows
        name = f"{KINDS[kind]}: growth from {few:,} to {many:,} rows"
        tell_at_most("memory", name, max(0.0, peaks[1] - peaks[0]), "MB", most=SAME_MB)
    if "short" not in given.kinds:
        return
    told = measure("short", given.plan_rows)
    note = f"{rounded(given.plan_rows / told['seconds']):,.0f} rows/s; over {told['imported']:.0f} MB imported"
    name = f"{KINDS['short']}, {given.plan_rows:,} rows: peak growth"
    tell_at_most("memory", name, told["plan"], "MB", most=BUDGET_MB, note=note)


if __name__ == "__main__":
    main()
