"""The little of Airflow's REST API that the demo and the system tests need."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

COMPONENTS = ("metadatabase", "scheduler", "triggerer", "dag_processor")
# A task's event log entries between which it runs, is deferred, or waits for a worker.
EVENTS = ("running", "deferred", "success", "failed", "up_for_retry", "skipped", "up_for_reschedule")
PAGE = 100


class Run(NamedTuple):
    """A run of a DAG."""

    dag_id: str
    run_id: str


@dataclass(frozen=True)
class TaskTimes:
    """How long a task ran on a worker and how long it was deferred, in seconds, over all its tries."""

    running: float = 0.0
    deferred: float = 0.0


class AirflowApi:
    """A client of one Airflow with its simple logins.

    :param address: its address without a path.
    :param password: that of user ``admin``; ``None`` where everybody is an administrator.
    """

    def __init__(self, address: str, password: str | None = None) -> None:
        self._password = password
        # No proxy: the stack is on this machine.
        self._http = httpx.Client(base_url=address, timeout=30, trust_env=False)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def unhealthy(self) -> list[str]:
        """Return the components that aren't healthy; the API server alone while it doesn't answer."""
        try:
            health = self._http.get("/api/v2/monitor/health", timeout=5).json()
            return [name for name in COMPONENTS if (health.get(name) or {}).get("status") != "healthy"]
        except (httpx.TransportError, ValueError):
            return ["api_server"]

    def log_in(self) -> None:
        """Get a token for the calls that follow."""
        if self._password is None:
            answer = self._http.get("/auth/token")
        else:
            answer = self._http.post("/auth/token", json={"username": "admin", "password": self._password})
        self._http.headers["Authorization"] = f"Bearer {answer.raise_for_status().json()['access_token']}"

    def dag_ids(self) -> set[str]:
        """Return the ids of the DAGs that have been parsed."""
        return {dag["dag_id"] for dag in self._pages("/api/v2/dags", "dags")}

    def import_errors(self) -> dict[str, str]:
        """Return the DAG files that can't be parsed, with their stack traces."""
        errors = self._pages("/api/v2/importErrors", "import_errors")
        return {error["filename"]: error["stack_trace"] for error in errors}

    def tasks(self, dag_id: str) -> list[str]:
        """Return the tasks of a DAG, each after those that it waits for."""
        found = self._get(f"/api/v2/dags/{dag_id}/tasks")["tasks"]
        tasks = {task["task_id"]: set(task["downstream_task_ids"]) for task in found}
        order: list[str] = []
        while len(order) < len(tasks):
            left = [task for task in tasks if task not in order]
            order += [task for task in left if not any(task in tasks[other] for other in left)]
        return order

    def trigger(self, dag_id: str, conf: Mapping[str, Any]) -> Run:
        """Unpause a DAG and start a run.

        :param dag_id: the DAG.
        :param conf: values for its params.
        """
        self._http.patch(f"/api/v2/dags/{dag_id}", json={"is_paused": False}).raise_for_status()
        run = self._http.post(f"/api/v2/dags/{dag_id}/dagRuns", json={"logical_date": None, "conf": dict(conf)})
        return Run(dag_id, run.raise_for_status().json()["dag_run_id"])

    def add_connection(self, conn_id: str, **fields: Any) -> None:
        """Put a connection into Airflow's database: ``conn_type``, ``password``, ``host`` and so on."""
        body = {"connection_id": conn_id, **fields}
        self._http.post("/api/v2/connections", json=body).raise_for_status()

    def clear(self, run: Run) -> list[str]:
        """Clear the tasks of a run, so that they run again.

        :return: the tasks.
        """
        body = {"dry_run": False, "only_failed": False, "dag_run_id": run.run_id}
        cleared = self._http.post(f"/api/v2/dags/{run.dag_id}/clearTaskInstances", json=body).raise_for_status()
        return [task["task_id"] for task in cleared.json()["task_instances"]]

    def set_state(self, run: Run, task_id: str, state: str) -> None:
        """Mark a task as ``success`` or ``failed``."""
        path = f"/api/v2/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/{task_id}"
        self._http.patch(path, json={"new_state": state}).raise_for_status()

    def task(self, run: Run, task_id: str) -> Any:
        """Return all that Airflow tells of a task: ``state``, ``try_number``, ``pid``, ``triggerer_job`` and more."""
        return self._get(f"/api/v2/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/{task_id}")

    def task_instances(self, run: Run) -> list[Any]:
        """Return the same of all tasks of a run, of mapped ones each instance."""
        return list(self._pages(f"/api/v2/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances", "task_instances"))

    def triggerers(self) -> set[int]:
        """Return the job ids of the triggerers that are alive."""
        return {job["id"] for job in self._pages("/api/v2/jobs", "jobs", job_type="TriggererJob", is_alive=True)}

    def run_states(self) -> dict[Run, str]:
        """Return the state of every run."""
        runs = self._pages("/api/v2/dags/~/dagRuns", "dag_runs")
        return {Run(run["dag_id"], run["dag_run_id"]): run["state"] for run in runs}

    def task_states(self) -> dict[Run, dict[str, str]]:
        """Return the state of every task of every run; a task not yet scheduled has state ``none``."""
        states: defaultdict[Run, dict[str, str]] = defaultdict(dict)
        for task in self._pages("/api/v2/dags/~/dagRuns/~/taskInstances", "task_instances"):
            states[Run(task["dag_id"], task["dag_run_id"])][task["task_id"]] = task["state"] or "none"
        return states

    def task_times(self, *, now: datetime) -> dict[Run, dict[str, TaskTimes]]:
        """Return how long every task has been running and deferred, as Airflow's event log has it.

        :param now: counts for what still goes on.
        """
        return task_times(
            self._pages("/api/v2/eventLogs", "event_logs", order_by="when", included_events=EVENTS), now=now
        )

    def xcom(self, run: Run, task_id: str) -> Any:
        """Return what a task returned."""
        path = f"/api/v2/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        return self._get(path, stringify=False)["value"]

    def _get(self, path: str, **params: Any) -> Any:
        return self._http.get(path, params=params).raise_for_status().json()

    def _pages(self, path: str, key: str, **params: Any) -> Iterator[Any]:
        offset = 0
        while True:
            page = self._get(path, limit=PAGE, offset=offset, **params)
            yield from page[key]
            offset += len(page[key])
            if not page[key] or offset >= page["total_entries"]:
                return


def task_times(events: Iterable[Mapping[str, Any]], *, now: datetime) -> dict[Run, dict[str, TaskTimes]]:
    """Add up what tasks did between their events.

    :param events: entries of Airflow's event log, oldest first.
    :param now: the end of what has no end yet.
    :return: the times by run and task.
    """
    by_task: defaultdict[tuple[Run, str], list[tuple[str, datetime]]] = defaultdict(list)
    for event in events:
        if event["task_id"] and event["run_id"] and event["event"] in EVENTS:
            at = datetime.fromisoformat(event["when"].replace("Z", "+00:00"))
            by_task[Run(event["dag_id"], event["run_id"]), event["task_id"]].append((event["event"], at))
    times: defaultdict[Run, dict[str, TaskTimes]] = defaultdict(dict)
    for (run, task), steps in by_task.items():
        spent: defaultdict[str, timedelta] = defaultdict(timedelta)
        ends = [at for _, at in steps[1:]] + [now]
        for (doing, start), end in zip(steps, ends, strict=True):
            spent[doing] += end - start
        times[run][task] = TaskTimes(spent["running"].total_seconds(), spent["deferred"].total_seconds())
    return times
