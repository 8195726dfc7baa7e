"""The end of the demo: what the runs left behind, or why one of them failed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from tools.progress import task_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from tools.airflow_api import Run
    from tools.progress import TaskLine

FIRST_RESULTS = 5
ERROR_LINES = 8


@dataclass(frozen=True)
class Outcome:
    """What a run left behind.

    :param run: the run.
    :param manifest: the manifest of its batch job.
    :param notes: more to tell, a line each.
    """

    run: Run
    manifest: Mapping[str, Any]
    notes: Sequence[str] = ()


def print_summary(console: Console, outcomes: Sequence[Outcome], lines: Sequence[TaskLine]) -> None:
    """Print where everything is, the rows by status, the first results, and the time each task took."""
    for outcome in outcomes:
        manifest = outcome.manifest
        console.print()
        console.print(outcome.run.dag_id, style="bold")
        _line(console, "results", manifest["results"])
        _line(console, "manifest", f"{str(manifest['destination']).rstrip('/')}/manifest.json")
        for note in outcome.notes:
            name, _, text = note.partition(": ")
            _line(console, name, text)
    console.print()
    console.print(_rows_table(outcomes))
    _print_first_results(console, outcomes[0])
    console.print(task_table(lines))
    console.print(slot_sentence(lines), soft_wrap=True)


def _line(console: Console, name: str, text: str) -> None:
    console.print(f"  {name:<9} {text}", soft_wrap=True, markup=False)


def _rows_table(outcomes: Sequence[Outcome]) -> Table:
    names = dict.fromkeys(name for outcome in outcomes for name in outcome.manifest["rows"])
    statuses = [name for name in names if any(outcome.manifest["rows"].get(name) for outcome in outcomes)]
    table = Table(title="Rows by status", title_justify="left")
    table.add_column("DAG")
    for status in statuses:
        table.add_column(status, justify="right")
    for outcome in outcomes:
        rows = outcome.manifest["rows"]
        table.add_row(outcome.run.dag_id, *(str(rows.get(status, 0)) for status in statuses))
    return table


def _print_first_results(console: Console, outcome: Outcome) -> None:
    console.print(f"\nThe first results of {outcome.run.dag_id}:")
    with Path(outcome.manifest["files"][0].removeprefix("file://")).open("rb") as results:
        for _, line in zip(range(FIRST_RESULTS), results, strict=False):
            result = json.loads(line)
            shown = {key: result[key] for key in ("row", "status", "output")}
            shown["input"] = {key: result["input"][key] for key in ("text", "label")}
            _line(console, "", json.dumps(shown, ensure_ascii=False))
    console.print()


def slot_sentence(lines: Sequence[TaskLine]) -> str:
    """Say what deferral saved, in figures."""
    waited = [line for line in lines if line.deferred]
    if not waited:
        return "No task was deferred: each held its worker slot all the time."
    deferred = sum(line.deferred for line in waited)
    running = sum(line.running for line in waited)
    tasks, they, their = ("1 task", "it", "its") if len(waited) == 1 else (f"{len(waited)} tasks", "they", "their")
    return (
        f"{tasks} waited for OpenAI, deferred, for {deferred:.1f} s in all. A deferred task holds no worker slot: "
        f"{they} held one for {running:.1f} s of {their} {running + deferred:.1f} s."
    )


def failure(run: Run, states: Mapping[str, str], airflow_home: Path) -> str:
    """Tell why a run failed: the errors in the logs of the tasks that failed, and where those logs are.

    :param run: the run.
    :param states: the states of its tasks.
    :param airflow_home: where the logs are.
    """
    told = [f"{run.dag_id} failed."]
    for task, state in states.items():
        if state != "failed":
            continue
        folder = airflow_home / "logs" / f"dag_id={run.dag_id}" / f"run_id={run.run_id}" / f"task_id={task}"
        attempts = sorted(folder.glob("attempt=*.log"), key=lambda log: log.stat().st_mtime)
        told.append(f"  {task}: {attempts[-1] if attempts else folder}")
        if attempts:
            told += [f"    {line}" for line in _errors(attempts[-1])]
    return "\n".join(told)


def _errors(log: Path) -> list[str]:
    found: list[str] = []
    for line in log.read_text(errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if event.get("level") in ("error", "critical"):
            found.append(str(event.get("event")))
            # The first is the one that was raised, the others are its causes.
            found += [
                f"{error.get('exc_type')}: {error.get('exc_value')}" for error in event.get("error_detail", ())[:1]
            ]
    return found[-ERROR_LINES:]
