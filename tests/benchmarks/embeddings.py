"""Embeddings of many texts on the emulator, from Parquet to Parquet: peak memory of the process that runs the job.

Of the 50,000 that a batch holds the API counts inputs, not requests; so many texts as rows hold lists of three.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from tests.benchmarks.emulated import emulator
from tests.benchmarks.measure import MB, memory, peak_memory, scratch, tell_at_most

if TYPE_CHECKING:
    from pathlib import Path

BUDGET_MB = 150
INPUTS = 3
"""Texts of a row."""


def write(texts: int, path: Path) -> None:
    """Write rows of lists of texts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"id": number, "input": [f"text {number} {place} of many" for place in range(INPUTS)]}
        for number in range(texts // INPUTS)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)


def run(source: str, url: str, folder: str, dimensions: int) -> dict[str, float]:
    """Run the job in this process; return megabytes and seconds."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from airflow_openai_batch.client import ClientConfig, OpenAIBatchClient
    from airflow_openai_batch.engine.job import Job, JobSpec
    from airflow_openai_batch.engine.models import Done
    from airflow_openai_batch.engine.requests import RequestSpec
    from airflow_openai_batch.engine.runner import advance
    from airflow_openai_batch.engine.sources import open_source
    from airflow_openai_batch.engine.store import Store

    # As in memory: imports are no part of the growth.
    pa.array([""])
    imported, begun = memory(), time.perf_counter()
    request = RequestSpec(model="text-embedding-3-small", endpoint="/v1/embeddings", body={"dimensions": dimensions})
    spec = JobSpec(request, owner={"task": "benchmark"}, result_format="parquet")
    client = OpenAIBatchClient(ClientConfig("benchmark", "sk-benchmark", url))
    job = Job(Store.at(folder), client, spec, lambda: open_source(source), at_once=4)
    while not isinstance(outcome := advance(job), Done):
        time.sleep(0.5)
    shards = len(job.known().plan.shards)
    rows = outcome.manifest["rows"]
    vectors = pq.ParquetFile(outcome.manifest["files"][0]).schema_arrow.field("output").type
    if rows["succeeded"] != rows["total"] or vectors.value_type.list_size != dimensions:
        raise ValueError(f"{rows}, {vectors}")
    return {
        "growth": (peak_memory() - imported) / MB,
        "imported": imported / MB,
        "shards": shards,
        "seconds": time.perf_counter() - begun,
    }


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=200_000)
    parser.add_argument("--dimensions", type=int, default=256)
    parser.add_argument("--run", nargs=3, metavar=("SOURCE", "URL", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        sys.stdout.write("\n" + json.dumps(run(*given.run, given.dimensions)) + "\n")
        return
    with scratch() as folder, emulator() as server:
        source = folder / "texts.parquet"
        write(given.texts, source)
        command = [sys.executable, "-m", "tests.benchmarks.embeddings", "--dimensions", str(given.dimensions), "--run"]
        done = subprocess.run(
            [*command, str(source), server.base_url, str(folder / "job")], check=True, stdout=subprocess.PIPE, text=True
        )
    told = json.loads(done.stdout.splitlines()[-1])
    note = f"{told['shards']:.0f} batches, {told['seconds']:.0f} s; over {told['imported']:.0f} MB imported"
    name = f"embeddings of {given.texts:,} texts, {given.dimensions} dimensions: peak growth"
    tell_at_most("embeddings", name, told["growth"], "MB", most=BUDGET_MB, note=note)


if __name__ == "__main__":
    main()
