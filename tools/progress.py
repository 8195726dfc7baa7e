"""What the demo shows while it runs: a live table on a terminal, one line for each milestone anywhere else."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType
    from typing_extensions import Self

PLAIN_WIDTH = 120
COLOURS = {"running": "green", "deferred": "magenta", "success": "bold green", "failed": "bold red", "queued": "yellow"}


@dataclass(frozen=True)
class TaskLine:
    """A task as the table shows it; times are in seconds."""

    dag_id: str
    task_id: str
    state: str
    running: float
    deferred: float


class Progress:
    """Shows where the demo is. Use it as a context manager; ``console`` prints beside it.

    :param console: where to print; standard output by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        if not self.console.is_terminal:
            self.console.width = PLAIN_WIDTH
        self._start = time.monotonic()
        self._spinner = Spinner("dots")
        self._status = ""
        self._lines: Sequence[TaskLine] = ()
        self._live = (
            Live(get_renderable=self._render, console=self.console, refresh_per_second=4, transient=True)
            if self.console.is_terminal
            else None
        )

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def finish(self) -> None:
        """Take the live table away; milestones are still printed."""
        if self._live:
            self._live.stop()

    def milestone(self, text: str) -> None:
        """Say that something has been reached."""
        self.console.print(f"[{time.monotonic() - self._start:5.1f} s] {text}", markup=False, soft_wrap=True)

    def status(self, text: str) -> None:
        """Say what goes on now."""
        self._status = text
        if not self._live:
            self.milestone(text)

    def tasks(self, lines: Sequence[TaskLine]) -> None:
        """Show the tasks as they stand."""
        if not self._live:
            known = {(line.dag_id, line.task_id): line.state for line in self._lines}
            for line in lines:
                if known.get((line.dag_id, line.task_id), "none") != line.state:
                    self.milestone(f"{line.dag_id} {line.task_id}: {line.state}")
        self._lines = list(lines)

    def _render(self) -> RenderableType:
        self._spinner.update(text=f"{self._status}   {time.monotonic() - self._start:.0f} s")
        return Group(self._spinner, task_table(self._lines)) if self._lines else self._spinner


def task_table(lines: Sequence[TaskLine]) -> Table:
    """Draw the tasks with their times."""
    table = Table()
    for name in ("DAG", "task", "state"):
        table.add_column(name)
    for name in ("running, s", "deferred, s"):
        table.add_column(name, justify="right")
    last = ""
    for line in lines:
        table.add_row(
            line.dag_id if line.dag_id != last else "",
            line.task_id,
            Text(line.state, style=COLOURS.get(line.state, "")),
            f"{line.running:.1f}",
            f"{line.deferred:.1f}" if line.deferred else "",
        )
        last = line.dag_id
    return table
