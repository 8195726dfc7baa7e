"""What a DAG file pays for importing the operators, over ``airflow.sdk``: milliseconds, and the packages that come too.

Each import is made in a fresh interpreter.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from typing import Any

from tests.benchmarks.emulated import airflow_environment
from tests.benchmarks.measure import Figure, scratch, tell_at_most

OURS = "airflow_openai_batch.operators.openai_batch"
BUDGET_MS = 50.0
BANNED = frozenset({"openai", "pyarrow", "pandas", "s3fs", "gcsfs", "adlfs", "boto3", "botocore", "aiobotocore"})
"""The SDK, the columnar packages, and what fsspec reaches its stores by."""

CODE = """
import importlib, json, sys, time
begun = time.perf_counter()
importlib.import_module("airflow.sdk")
sdk, cpu = time.perf_counter(), time.process_time()
importlib.import_module(sys.argv[1])
module, cpu = time.perf_counter(), time.process_time() - cpu
packages = sorted({name.partition(".")[0] for name in sys.modules})
told = {"sdk": 1000 * (sdk - begun), "module": 1000 * (module - sdk), "cpu": 1000 * cpu, "packages": packages}
print(json.dumps(told))
"""


def imported(module: str, *, python: str = sys.executable, times: int = 5) -> dict[str, Any]:
    """Return the medians of milliseconds for ``airflow.sdk`` and for the module after it, and what was loaded."""
    with scratch() as folder:
        environment = airflow_environment(folder)
        told = []
        # The first one writes Airflow's settings and warms the disk; it isn't counted.
        for _ in range(times + 1):
            done = subprocess.run(
                [python, "-c", CODE, module], check=True, stdout=subprocess.PIPE, text=True, env=environment
            )
            told.append(json.loads(done.stdout.splitlines()[-1]))
    medians = {name: statistics.median(one[name] for one in told[1:]) for name in ("sdk", "module", "cpu")}
    return {**medians, "packages": told[-1]["packages"]}


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=7)
    given = parser.parse_args()
    told = imported(OURS, times=given.times)
    name = "import of the operators over airflow.sdk"
    note = f"{told['cpu']:.1f} ms of CPU"
    tell_at_most("dag_import", name, told["module"], "ms", most=BUDGET_MS, floor=told["sdk"], note=note)
    heavy = sorted(BANNED.intersection(told["packages"]))
    name = "heavy packages that come with it"
    Figure(
        "dag_import", name, len(heavy), "packages", budget="none", ok=not heavy, note=", ".join(heavy) or "none"
    ).tell()


if __name__ == "__main__":
    main()
