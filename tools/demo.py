"""The demo: the example DAGs, run by a real Airflow against an emulated OpenAI (or, with ``--real``, the real one).

``python -m tools.demo`` starts both, triggers the DAGs, shows how they go, says what they left behind, and stops
what it started, however it ends. Exit status: 0 when every DAG succeeded, 1 when something went wrong, 2 for wrong
use, 130 on Ctrl-C, 143 on SIGTERM.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from tools.airflow_stack import AirflowStack, clean_environment
from tools.emulator import Emulator
from tools.processes import StackError, end_marked, lock
from tools.progress import Progress, TaskLine
from tools.summary import Outcome, failure, print_summary

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import FrameType

    from tools.airflow_api import AirflowApi, Run, TaskTimes

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".demo"
# Each example, with the task whose return value is the manifest.
EXAMPLES = {
    "openai_batch_quickstart": "classify",
    "openai_batch_three_steps": "download",
    "openai_batch_taskflow": "judge",
    "openai_batch_nightly_eval": "answer",
}
# About ten seconds of batch: long enough to see the deferral, short enough to wait for.
EMULATOR_SPEED = ("--validating", "1", "--in-progress", "8", "--finalizing", "1")
EMULATED_POLL, REAL_POLL = 2, 15
EMULATED_WITHIN, REAL_WITHIN = 300.0, 25 * 3600.0
LOOK_EVERY = 0.75
# Seconds in which Airflow may end by itself. Left alone, it would wait far longer for tasks that are interrupted.
PATIENCE = 8.0
ENDED = ("success", "failed")


class Stopped(BaseException):
    """The user, or the system, wants the demo to end.

    :param signal_number: by this signal.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Turn the first signal to stop into ``Stopped``. Setting the yielded event ignores signals from then on."""
    stopping = threading.Event()

    def handle(number: int, _frame: FrameType | None) -> None:
        if not stopping.is_set():
            stopping.set()
            raise Stopped(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.demo", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--keep", action="store_true", help="leave Airflow's UI running until Ctrl-C")
    parser.add_argument("--real", action="store_true", help="run against OpenAI, with the key in OPENAI_API_KEY")
    parser.add_argument("--model", default="gpt-5-mini", help="the model (default: %(default)s)")
    parser.add_argument("--port", type=int, help="where Airflow listens (default: a free port)")
    parser.add_argument("--emulator-port", type=int, help="where the emulator listens (default: a free port)")
    read = parser.parse_args(words)
    if read.real and not os.environ.get("OPENAI_API_KEY"):
        parser.error("--real needs a key of OpenAI in the environment variable OPENAI_API_KEY. Nothing was started.")
    return read


class Demo:
    """One run of the demo.

    :param options: the command line.
    :param progress: where to show how it goes.
    """

    def __init__(self, options: argparse.Namespace, progress: Progress) -> None:
        self.options = options
        self.progress = progress
        self.airflow: AirflowStack | None = None
        self.emulator: Emulator | None = None

    def run(self) -> int:
        """Start, run the examples, report; with ``--keep``, wait for Ctrl-C."""
        stack = self._start()
        runs = [stack.api.trigger(dag_id, self._conf()) for dag_id in EXAMPLES]
        self.progress.status(f"{len(runs)} DAGs are on their way; Airflow's UI is at {stack.address}")
        lines = self._follow(stack, runs)
        states = stack.api.run_states()
        failed = [run for run in runs if states[run] != "success"]
        self.progress.finish()
        if failed:
            tasks = stack.api.task_states()
            for run in failed:
                self.progress.console.print(
                    failure(run, tasks[run], stack.airflow_home), markup=False, soft_wrap=True, style="red"
                )
            self._print_logs()
        else:
            print_summary(self.progress.console, [self._outcome(stack.api, run) for run in runs], lines)
        if self.options.keep:
            self._keep(stack)
        return 1 if failed else 0

    def _start(self) -> AirflowStack:
        if killed := end_marked(HOME, seconds=1):
            self.progress.milestone(f"Ended {killed} processes that an earlier run had left behind")
        self.progress.status("Starting Airflow" + ("" if self.options.real else " and the emulated OpenAI"))
        connection = {"password": "sk-emulated"}
        results = HOME / "results"
        if self.options.real:
            connection = {"password": os.environ["OPENAI_API_KEY"]}
            if base_url := os.environ.get("OPENAI_BASE_URL"):
                connection["host"] = base_url
            results = HOME / "results-real"
        else:
            self.emulator = Emulator(
                HOME, env=clean_environment(), options=EMULATOR_SPEED, port=self.options.emulator_port
            )
            connection["host"] = self.emulator.base_url
        stack = self.airflow = AirflowStack(
            HOME, dags=ROOT / "dags", connection=connection, results=results, port=self.options.port
        )
        if self.emulator:
            self.emulator.wait_ready()
        stack.wait_healthy()
        self.progress.status(f"Airflow is healthy at {stack.address}; waiting for the DAGs")
        stack.wait_dags(EXAMPLES)
        return stack

    def _conf(self) -> dict[str, Any]:
        poll = REAL_POLL if self.options.real else EMULATED_POLL
        return {"poll_interval": poll, "model": self.options.model}

    def _follow(self, stack: AirflowStack, runs: Sequence[Run]) -> list[TaskLine]:
        within = REAL_WITHIN if self.options.real else EMULATED_WITHIN
        tasks = {run: stack.api.tasks(run.dag_id) for run in runs}
        end = time.monotonic() + within
        while time.monotonic() < end:
            stack.check()
            run_states = stack.api.run_states()
            states = stack.api.task_states()
            times = stack.api.task_times(now=datetime.now(timezone.utc))
            lines = [line for run in runs for line in task_lines(run, tasks[run], states[run], times.get(run, {}))]
            self.progress.tasks(lines)
            if all(run_states[run] in ENDED for run in runs):
                return lines
            time.sleep(LOOK_EVERY)
        late = [run.dag_id for run in runs if run_states[run] not in ENDED]
        raise StackError(f"After {within:.0f} s these DAGs haven't ended: {', '.join(late)}", stack.log)

    def _outcome(self, api: AirflowApi, run: Run) -> Outcome:
        notes = []
        if run.dag_id == "openai_batch_nightly_eval":
            notes = [f"report: {api.xcom(run, 'report')}", f"gate: {api.xcom(run, 'gate')}"]
        if run.dag_id == "openai_batch_taskflow":
            notes = [f"labels: {api.xcom(run, 'count')}"]
        return Outcome(run, api.xcom(run, EXAMPLES[run.dag_id]), notes)

    def _keep(self, stack: AirflowStack) -> None:
        print(f"\nAirflow's UI: {stack.address} (no login is asked for). Ctrl-C stops it.", flush=True)
        if self.emulator:
            print(f"The emulated OpenAI: {self.emulator.base_url}", flush=True)
        with contextlib.suppress(Stopped):
            while True:
                stack.check()
                time.sleep(1)

    def _print_logs(self) -> None:
        if self.airflow:
            print(f"Airflow's log: {self.airflow.log}\nThe tasks' logs: {self.airflow.airflow_home / 'logs'}")

    def stop(self) -> None:
        """Stop what was started: first kindly, then for certain."""
        if self.airflow:
            self.airflow.stop(PATIENCE)
        if self.emulator:
            self.emulator.stop()
        end_marked(HOME, seconds=2)


def task_lines(
    run: Run, tasks: Sequence[str], states: Mapping[str, str], times: Mapping[str, TaskTimes]
) -> Iterator[TaskLine]:
    """Bring a run's tasks into the form in which they are shown."""
    for task in tasks:
        spent = times.get(task)
        yield TaskLine(
            run.dag_id,
            task,
            states.get(task, "none"),
            running=spent.running if spent else 0.0,
            deferred=spent.deferred if spent else 0.0,
        )


def main(words: Sequence[str] | None = None) -> int:
    """Run the demo and return the exit status."""
    options = arguments(words)
    start = time.monotonic()
    progress = Progress()
    demo = Demo(options, progress)
    with stop_signals() as stopping:
        try:
            with lock(HOME / "lock"):
                try:
                    with progress:
                        status = demo.run()
                finally:
                    stopping.set()
                    progress.milestone("Stopping what was started")
                    demo.stop()
        except Stopped as stopped:
            status = 128 + stopped.signal_number
            progress.milestone("Stopped.")
        except StackError as error:
            print(f"\n{error}" + (f"\nThe log: {error.log}" if error.log else ""), file=sys.stderr)
            status = 1
        except httpx.HTTPError as error:
            print(f"\nAirflow's API: {error}\nThe log: {demo.airflow.log if demo.airflow else HOME}", file=sys.stderr)
            status = 1
        else:
            progress.milestone(f"{'Failed' if status else 'Done'} after {time.monotonic() - start:.0f} s")
    return status


if __name__ == "__main__":
    sys.exit(main())
