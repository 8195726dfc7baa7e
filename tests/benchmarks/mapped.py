"""What a mapped task costs and saves: the same rows in one task, and shared out among several, on a real Airflow
(LocalExecutor, SQLite) against an emulator in a process of its own.

``--rows 1`` with many partitions shows the cost of a task as such: each has a row of its own. With many rows the time
goes into planning and landing, and shows from what size on more processes pay. All processes share this machine's cores
with the emulator, which answers while the tasks are deferred. Where others use them too, the CPU seconds of all of
Airflow's processes tell more than the clock.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from datetime import datetime, timezone
from statistics import median
from typing import TYPE_CHECKING, Any

import psutil

from tests.benchmarks.measure import scratch, tell_at_most
from tests.benchmarks.rows import PROMPT, SYSTEM, write
from tools.airflow_api import EVENTS, Run, TaskTimes, task_times
from tools.airflow_stack import AirflowStack, clean_environment
from tools.emulator import Emulator
from tools.processes import end_marked

if TYPE_CHECKING:
    from pathlib import Path

DAG = f"""
from airflow.sdk import dag, task
from airflow_openai_batch import OpenAIBatchOperator, list_partitions, merge_manifests


@dag(schedule=None, params={{"source": "", "destination": ""}})
def mapped():
    @task
    def parts(source, destination):
        return list_partitions(source, destination)

    @task
    def total(manifests):
        return merge_manifests(manifests)

    label = OpenAIBatchOperator.partial(
        task_id="label", model="gpt-5-mini", prompt={PROMPT!r}, system={SYSTEM!r}, poll_interval=1
    )
    total(label.expand_kwargs(parts("{{{{ params.source }}}}", "{{{{ params.destination }}}}")).output)


mapped()
"""
WITHIN = 1800.0


def make(folder: Path, rows: int, partitions: int) -> Path:
    """Write a dataset of so many files; with one row, each has one."""
    folder.mkdir()
    each = max(1, rows // partitions)
    for number in range(partitions):
        write("reviews", each, folder / f"part-{number:05}.jsonl")
    return folder


def cpu(stack: AirflowStack) -> float:
    """Return the CPU seconds that Airflow's processes have used so far, those that have ended included."""
    top = psutil.Process(stack._program.pid)
    return sum(sum(process.cpu_times()[:4]) for process in [top, *top.children(recursive=True)])


def run(stack: AirflowStack, source: Path, destination: Path) -> tuple[float, list[TaskTimes], dict[str, Any]]:
    """Run the DAG; return its seconds, the times of each mapped task, and the merged manifest."""
    api = stack.api
    begun = api.trigger("mapped", {"source": str(source), "destination": str(destination)})
    give_up = time.monotonic() + WITHIN
    while (state := api.run_states()[begun]) not in {"success", "failed"}:
        if time.monotonic() > give_up:
            raise TimeoutError(f"{begun} is {state}")
        time.sleep(0.5)
    if state == "failed":
        raise RuntimeError(f"{begun} failed; see the logs in {stack.airflow_home}")
    seen = api._get(f"/api/v2/dags/mapped/dagRuns/{begun.run_id}")
    start, end = (datetime.fromisoformat(seen[name].replace("Z", "+00:00")) for name in ("start_date", "end_date"))
    return (end - start).total_seconds(), _times(stack, begun), api.xcom(begun, "total")


def _times(stack: AirflowStack, begun: Run) -> list[TaskTimes]:
    events = stack.api._pages("/api/v2/eventLogs", "event_logs", order_by="when", included_events=EVENTS)
    own = [
        {**event, "task_id": str(event["map_index"])}
        for event in events
        if (event["run_id"], event["task_id"]) == (begun.run_id, "label")
    ]
    return list(task_times(own, now=datetime.now(timezone.utc))[begun].values())


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1, help="rows of the dataset; 1: one for each partition (1)")
    parser.add_argument("--partitions", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--parallelism", type=int, default=2, help="tasks that Airflow runs at once (2)")
    given = parser.parse_args()
    with scratch() as home, contextlib.ExitStack() as stop:
        stop.callback(end_marked, home)
        emulator = Emulator(home, env=clean_environment(), options=["--in-progress", "1", "--responder", "echo"])
        stop.callback(emulator.stop)
        dags = home / "dags"
        dags.mkdir()
        (dags / "mapped.py").write_text(DAG)
        stack = AirflowStack(
            home,
            dags=dags,
            connection={"password": "sk-emulated", "host": emulator.base_url},
            results=home / "results",
            settings={"CORE__PARALLELISM": given.parallelism},
        )
        stop.callback(stack.stop)
        emulator.wait_ready()
        stack.wait_healthy()
        stack.wait_dags(["mapped"])
        # The first run pays for what is cached afterwards.
        run(stack, make(home / "warm", 1, 1), home / "warm-labels")
        for partitions in given.partitions:
            source = make(home / f"rows-{partitions}", given.rows, partitions)
            before = cpu(stack)
            seconds, times, merged = run(stack, source, home / f"labels-{partitions}")
            used = cpu(stack) - before
            rows = merged["rows"]["succeeded"]
            held = [spent.running for spent in times]
            what = f"{rows:,} rows in {partitions} mapped task(s), {given.parallelism} at once"
            tell_at_most("mapped", f"CPU of Airflow for {what}", used, "s", most=None)
            tell_at_most("mapped", f"run of {what}", seconds, "s", most=None)
            tell_at_most("mapped", f"worker slots held by {what}", sum(held), "s", most=None)
            tell_at_most("mapped", f"a slot held by one task of {what}", median(held), "s", most=None)


if __name__ == "__main__":
    main()
