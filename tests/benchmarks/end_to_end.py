"""A whole job through the engine, the client and HTTP, on an emulator in another process: wall time by phase."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from tests.benchmarks.emulated import airflow_environment, emulator
from tests.benchmarks.measure import Figure, rounded, scratch
from tests.benchmarks.rows import write

if TYPE_CHECKING:
    from pathlib import Path

NOTES = {
    "plan": "source to shards",
    "submit": "uploads and creates",
    "wait": "the emulator at work",
    "collect": "downloads to raw files, counted",
    "land": "raw files to results",
}


def whole_job(provider: str, source: Path, folder: Path, *, python: str = sys.executable) -> dict[str, Any]:
    """Run a job of a dataset by one provider in a process of its own, on an emulator of its own."""
    folder.mkdir()
    rows = sum(1 for _ in source.open("rb"))
    with emulator() as server:
        command = [python, "-m", "tests.benchmarks.whole_job", provider, str(source), server.base_url, str(folder)]
        environment = airflow_environment(folder / "airflow", server.base_url)
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if told["succeeded"] != rows:
        raise ValueError(f"{provider}: {told['succeeded']} of {rows} rows succeeded")
    return told


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    given = parser.parse_args()
    with scratch() as folder:
        source = write("reviews", given.rows, folder / "reviews.jsonl")
        told = whole_job("ours", source, folder / "ours")
    phases = told["seconds"]
    for phase, taken in phases.items():
        Figure("end_to_end", f"end to end, {given.rows:,} rows: {phase}", rounded(taken), "s", note=NOTES[phase]).tell()
    note = f"peak memory {told['growth']:.0f} MB over the imported process"
    total = sum(phases.values())
    Figure("end_to_end", f"end to end, {given.rows:,} rows: in all", rounded(total), "s", note=note).tell()


if __name__ == "__main__":
    main()
