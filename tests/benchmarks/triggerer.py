"""The triggerer: many tasks waiting in one process, each for a batch of its own, at an API that answers after 50 ms."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

from tests.benchmarks.emulated import airflow_environment, emulator
from tests.benchmarks.measure import scratch, tell_at_most

LATENCY = 0.05
LAG_BUDGET = 20.0
"""Milliseconds, the 99th percentile."""

POLLS = ("batches.list", "batches.retrieve")


def wait(provider: str, tasks: int, *, python: str = sys.executable, poll: float, cycles: int) -> dict[str, Any]:
    """Return the lag of a process in which tasks wait, and the calls that they make in a cycle of ``poll`` seconds."""
    with scratch() as folder, emulator("--fault", '{"fault": "stuck", "times": null}') as server:
        ids = folder / "ids.json"
        ids.write_text(json.dumps(server.make_batches(tasks)))
        server.add_fault(fault="latency", seconds=LATENCY, times=None)
        command = [python, "-m", "tests.benchmarks.waiting", provider, str(ids)]
        command += ["--poll", str(poll), "--cycles", str(cycles)]
        environment = airflow_environment(folder, server.base_url)
        calls = []
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            for line in process.stdout:
                if line == "window\n":
                    counted = server.calls()
                    calls.append(sum(counted.get(kind, 0) for kind in POLLS))
        if process.returncode or len(calls) != 2:
            raise RuntimeError(f"waiting with {provider} ended with status {process.returncode}")
        told: dict[str, Any] = json.loads(line)
        return {**told, "calls": (calls[1] - calls[0]) * poll / told["seconds"]}


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, nargs="+", default=[100, 1_000])
    parser.add_argument("--poll", type=float, default=5.0, help="seconds")
    parser.add_argument("--cycles", type=int, default=6, help="poll intervals in the window")
    given = parser.parse_args()
    for tasks in given.tasks:
        told = wait("ours", tasks, poll=given.poll, cycles=given.cycles)
        lag = told["window"]
        note = f"p50 {lag['p50']:.1f} ms, max {lag['max']:.0f} ms; while starting max {told['start']['max']:.0f} ms"
        name = f"{tasks:,} tasks: event-loop lag p99"
        tell_at_most("triggerer", name, lag["p99"], "ms", most=LAG_BUDGET, floor=told["idle"]["p99"], note=note)
        name = f"{tasks:,} tasks: calls in a cycle of {given.poll:g} s"
        tell_at_most("triggerer", name, told["calls"], "calls", most=1 + tasks / 100)


if __name__ == "__main__":
    main()
