"""Whatever dies or is taken away on a real Airflow, no row is bought twice and none is lost.

One Airflow with two triggerers and one emulated OpenAI go through all scenarios side by side, a DAG run for each; the
emulator's ledger and the results on disk are the judges.
"""

import contextlib
import json
import sqlite3
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from tools.airflow_stack import AirflowStack, clean_environment
from tools.emulator import Emulator
from tools.processes import end_marked, marked, tail

pytestmark = pytest.mark.system

# A batch runs two rows a second, so the number of rows says how long it lasts.
SPEED = ("--validating", "1", "--rows-per-second", "2", "--finalizing", "1", "--cancelling", "1")
ROWS = {"landing": 16, "submit": 30, "failed": 50, "success": 50, "cleared": 50, "moved": 120, "triggerer": 120}
SETTINGS = {
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": 5,
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": 20,
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": 5,
    "TRIGGERER__JOB_HEARTBEAT_SEC": 2,
    "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": 10,
}
TASK = "answer"
DAG = """
from datetime import timedelta

from airflow.sdk import Param, dag

from airflow_openai_batch.operators.openai_batch import OpenAIBatchOperator


@dag(
    schedule=None,
    params={"folder": Param("", type="string"), "scenario": Param("", type="string")},
    default_args={"retries": 2, "retry_delay": timedelta(seconds=1)},
)
def kills():
    OpenAIBatchOperator(
        task_id="answer",
        source="{{ params.folder }}/{{ params.scenario }}.jsonl",
        destination="{{ params.folder }}/{{ params.scenario }}",
        prompt="{{ row.text }}",
        model="gpt-5-mini",
        metadata={"scenario": "{{ params.scenario }}"},
        poll_interval=1,
    )


kills()
"""


def rows_of(scenario):
    """The rows of a scenario, unlike those of any other: the ledger tells them by their text."""
    return [{"id": number, "text": f"{scenario}: {number}"} for number in range(ROWS[scenario])]


class Stack:
    """A real Airflow with two triggerers, the emulator, and what the scenarios do to them."""

    def __init__(self, home, airflow, emulator):
        self.home = home
        self.airflow = airflow
        self.api = airflow.api
        self.emulator = emulator
        self.data = home / "data"
        self.runs = {}
        # The triggerers' processes by the ids of their jobs.
        (first,) = self.api.triggerers()
        second = airflow.add_triggerer()
        self.triggerers = {first: airflow.triggerer()}
        self.triggerers[self.wait("a second triggerer", lambda: self.api.triggerers() - {first}).pop()] = second

    def wait(self, what, condition, seconds=60):
        end = time.monotonic() + seconds
        while not (found := condition()):
            self.airflow.check()
            states = {name: self.task(name)["state"] for name in self.runs}
            assert time.monotonic() < end, f"No {what} after {seconds} s: {states}\n{tail(self.airflow.log, 60)}"
            time.sleep(0.2)
        return found

    def start(self, scenario):
        self.data.mkdir(exist_ok=True)
        (self.data / f"{scenario}.jsonl").write_text("\n".join(json.dumps(row) for row in rows_of(scenario)))
        self.runs[scenario] = self.api.trigger("kills", {"folder": str(self.data), "scenario": scenario})

    def task(self, scenario):
        return self.api.task(self.runs[scenario], TASK)

    def calls(self, kind):
        return self.emulator.ledger()["calls"].get(kind, 0)

    def batches(self, scenario):
        found = self.emulator.ledger()["batches"]["data"]
        return [batch for batch in found if batch["metadata"]["scenario"] == scenario]

    def statuses(self, scenario):
        return [batch["status"] for batch in self.batches(scenario)]

    def waits(self, scenario):
        """Whether the task is deferred, in a triggerer's hands, and some of the batch's rows are done."""
        billed = sum(batch["billed"] for batch in self.batches(scenario))
        return billed > 3 and self.task(scenario)["state"] == "deferred" and self.holder(scenario) is not None

    def holder(self, scenario):
        """The job of the triggerer that has the task's trigger."""
        return (self.task(scenario)["triggerer_job"] or {}).get("id")

    def new_holder(self, scenario, old):
        return self.wait(f"other triggerer for {scenario}", lambda: {self.holder(scenario)} - {old, None}).pop()

    def kill_worker(self, scenario, *, whole):
        """Kill the process that runs the task, with ``whole`` also the one that watches over it."""
        process = psutil.Process(self.task(scenario)["pid"])
        condemned = [process.parent(), process] if whole else [process]
        assert set(condemned) <= set(marked(self.home))
        for each in condemned:
            each.kill()

    def freeze(self, process):
        """Stop a process in its tracks, but not while it keeps all others out of the database."""
        while True:
            process.suspend()
            with contextlib.closing(sqlite3.connect(self.airflow.airflow_home / "airflow.db", timeout=1)) as database:
                try:
                    database.execute("BEGIN EXCLUSIVE")
                except sqlite3.OperationalError:
                    process.resume()
                    time.sleep(0.1)
                else:
                    database.rollback()
                    return

    def log(self, scenario):
        folder = self.airflow.airflow_home / "logs" / "dag_id=kills" / f"run_id={self.runs[scenario].run_id}"
        return "\n".join(file.read_text() for file in sorted(folder.rglob("*.log")))

    def results(self, scenario):
        manifest = json.loads((self.data / scenario / "manifest.json").read_bytes())
        return [json.loads(line) for file in manifest["files"] for line in Path(file).read_bytes().splitlines()]


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    home = tmp_path_factory.mktemp("kills")
    dags = home / "dags"
    dags.mkdir()
    (dags / "kills.py").write_text(DAG)
    with contextlib.ExitStack() as stop:
        stop.callback(end_marked, home)
        emulator = Emulator(home, env=clean_environment(), options=SPEED)
        stop.callback(emulator.stop)
        connection = {"password": "sk-emulated", "host": emulator.base_url}
        airflow = AirflowStack(home, dags=dags, connection=connection, results=home, settings=SETTINGS)
        stop.callback(airflow.stop, 8)
        emulator.wait_ready()
        airflow.wait_healthy()
        airflow.wait_dags(["kills"])
        yield Stack(home, airflow, emulator)


@pytest.fixture(scope="module")
def ran(stack):
    """All scenarios, played to their ends, with what could only be seen on the way."""
    seen = SimpleNamespace()
    kill_workers(stack, seen)
    act_as_the_user(stack, seen)
    take_triggerers_away(stack, seen)
    stack.wait("end", lambda: {*stack.api.run_states().values()} <= {"success", "failed"}, 120)
    seen.ledger = stack.emulator.ledger()
    seen.tasks = {scenario: stack.task(scenario) for scenario in ROWS}
    failures = [stack.log(scenario)[-5000:] for scenario in ROWS if seen.tasks[scenario]["state"] != "success"]
    assert not failures, "\n".join(failures)
    return seen


def kill_workers(stack, seen):
    # The first batch to end, by far, is this one's: its download is the first.
    stack.emulator.add_fault("latency", call="files.content", seconds=10)
    stack.start("landing")
    stack.wait("batch", lambda: stack.batches("landing"))
    stack.emulator.add_fault("latency", call="batches.create", seconds=10, when="after")
    stack.start("submit")
    stack.wait("create", lambda: stack.batches("submit"))
    stack.kill_worker("submit", whole=False)
    seen.submit_known = list(stack.data.glob("submit/_job/batches/*.batch.json"))
    for scenario in ("failed", "success", "cleared", "moved", "triggerer"):
        stack.start(scenario)
    stack.wait("download", lambda: stack.calls("files.content"))
    stack.kill_worker("landing", whole=True)
    seen.landed = list(stack.data.glob("landing/_job/raw/*"))


def act_as_the_user(stack, seen):
    for state in ("failed", "success"):
        stack.wait(f"waiting task to mark as {state}", lambda state=state: stack.waits(state))
        stack.api.set_state(stack.runs[state], TASK, state)
    stack.wait("waiting task to clear", lambda: stack.waits("cleared"))
    stack.api.clear(stack.runs["cleared"])
    stack.wait("cancellations", lambda: stack.statuses("failed") == stack.statuses("success") == ["cancelled"])
    (seen.bought_before,) = (batch["billed"] for batch in stack.batches("failed"))
    stack.api.clear(stack.runs["failed"])


def take_triggerers_away(stack, seen):
    stack.wait("waiting task to move", lambda: stack.waits("moved"))
    old = stack.holder("moved")
    stack.freeze(stack.triggerers[old])
    try:
        seen.moved = old, stack.new_holder("moved", old)
    finally:
        stack.triggerers[old].resume()
    stack.wait("triggerer that learns of its loss", lambda: "none is cancelled" in stack.log("moved"))
    stack.wait("waiting task to kill the triggerer of", lambda: stack.waits("triggerer"))
    killed = stack.holder("triggerer")
    stack.triggerers[killed].kill()
    seen.killed = killed, stack.new_holder("triggerer", killed)
    seen.statuses = stack.statuses("moved") + stack.statuses("triggerer")


def test_no_row_is_billed_twice(ran):
    unfinished = ROWS["success"] - next(
        batch["billed"] for batch in ran.ledger["batches"]["data"] if batch["metadata"]["scenario"] == "success"
    )

    assert ran.ledger["rows"]["billed_twice"]["count"] == 0
    assert ran.ledger["rows"]["billed"] == sum(ROWS.values()) - unfinished


@pytest.mark.parametrize("scenario", sorted(ROWS.keys() - {"success"}))
def test_each_row_is_there_once_and_in_order(ran, stack, scenario):
    results = stack.results(scenario)

    assert [result["row"] for result in results] == list(range(ROWS[scenario]))
    assert [result["input"] for result in results] == rows_of(scenario)
    assert {result["status"] for result in results} == {"succeeded"}


@pytest.mark.parametrize("scenario", sorted(ROWS.keys() - {"success", "failed"}))
def test_one_batch_is_enough(ran, stack, scenario):
    assert stack.statuses(scenario) == ["completed"]


def test_only_the_batches_of_tasks_that_a_user_ended_are_cancelled(ran):
    assert ran.ledger["calls"]["batches.cancel"] == 2


def test_a_worker_killed_in_submit_is_followed_by_one_that_adopts_its_batch(ran, stack):
    assert ran.submit_known == []
    assert ran.tasks["submit"]["try_number"] == 2
    assert "Adopted batch" in stack.log("submit")


def test_a_worker_killed_in_landing_is_followed_by_one_that_lands(ran):
    assert ran.landed == []
    assert ran.tasks["landing"]["try_number"] == 2


def test_a_task_cleared_while_it_waits_goes_on_with_its_batch(ran):
    assert ran.tasks["cleared"]["try_number"] == 2


def test_a_task_marked_failed_and_cleared_keeps_what_was_finished_and_buys_the_rest(ran, stack):
    first, second = stack.batches("failed")
    kept = [result for result in stack.results("failed") if result["batch_id"] == first["id"]]

    assert 0 < ran.bought_before < ROWS["failed"]
    assert len(kept) == ran.bought_before == first["billed"]
    assert (first["status"], second["status"]) == ("cancelled", "completed")
    assert second["rows"] == second["billed"] == ROWS["failed"] - ran.bought_before


def test_a_task_marked_success_has_its_batch_cancelled(ran, stack):
    assert stack.statuses("success") == ["cancelled"]
    assert ran.tasks["success"]["try_number"] == 1
    assert not (stack.data / "success" / "manifest.json").exists()


def test_a_trigger_that_moves_to_another_triggerer_watches_on(ran):
    old, new = ran.moved
    assert old != new
    assert ran.tasks["moved"]["try_number"] == 1
    assert ran.statuses[0] == "in_progress"


def test_a_triggerer_that_is_killed_is_followed_by_another(ran):
    old, new = ran.killed
    assert old != new
    assert ran.tasks["triggerer"]["try_number"] == 1
    assert ran.statuses[1] == "in_progress"
