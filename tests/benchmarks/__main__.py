"""Run all benchmarks, hold them against their budgets, and write docs/benchmarks.md.

Exit status 1 when a budget is missed or a benchmark breaks. Figures are comparable only within one run. The page is
written by whole runs of full size alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.publish import publish, spelled

ROOT = Path(__file__).parents[2]

WIDTH = 140
"""Characters of a line where there is no terminal."""

BENCHMARKS: dict[str, tuple[list[str], list[str]]] = {
    "plan": ([], ["--rows", "50000", "--times", "3"]),
    "land": ([], ["--rows", "50000", "--times", "2"]),
    "memory": ([], ["--rows", "50000", "200000", "--plan-rows", "500000"]),
    "triggerer": ([], ["--tasks", "100", "300", "--cycles", "3"]),
    "dag_import": ([], ["--times", "3"]),
    "end_to_end": ([], ["--rows", "20000"]),
    "embeddings": ([], ["--texts", "6000"]),
    "cache": (["--entries", "200000", "2000000"], ["--entries", "10000", "100000", "--keys", "5000"]),
    "peers": ([], ["--rows", "5000", "--times", "1", "--cycles", "2"]),
}
"""Benchmarks with their arguments for a whole run and for a quick one."""


def figures_of(name: str, arguments: list[str], console: Console) -> tuple[list[dict[str, Any]], bool]:
    """Run one benchmark in a process of its own; return its figures and whether it came to its end."""
    begun = time.monotonic()
    console.print(f"[bold]{name}[/] {' '.join(arguments)}")
    figures = []
    command = [sys.executable, "-m", f"tests.benchmarks.{name}", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        for line in process.stdout:
            if line.startswith('{"benchmark"'):
                figures.append(json.loads(line))
                console.print(f"  {_told(figures[-1])}", highlight=False)
    ended = "" if process.returncode == 0 else f", [bold red]ended with status {process.returncode}[/]"
    console.print(f"  {time.monotonic() - begun:.0f} s{ended}")
    return figures, process.returncode == 0


def _told(figure: dict[str, Any]) -> str:
    marks = {None: "", True: "  [green]kept[/]", False: "  [bold red]missed[/]"}
    budget = f"  (budget {figure['budget']})" if figure["budget"] else ""
    return f"{figure['name']}: {spelled(figure)}{budget}{marks[figure['ok']]}"


def table_of(figures: list[dict[str, Any]]) -> Table:
    """Return the figures that have a budget."""
    table = Table("figure", "value", "floor", "ratio", "budget", "", title="Budgets")
    for figure in figures:
        if figure["ok"] is not None:
            floor = "" if figure["floor"] is None else f"{figure['floor']:,g}"
            ratio = "" if figure["ratio"] is None else f"{figure['ratio']:.1%}"
            mark = "[green]kept[/]" if figure["ok"] else "[bold red]missed[/]"
            table.add_row(figure["name"], spelled(figure), floor, ratio, figure["budget"], mark)
    return table


def main() -> int:
    """Run them; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes; nothing is written")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, help="some of them; nothing is written")
    parser.add_argument("--no-write", action="store_true", help="leave docs/benchmarks.md and its plot as they are")
    parser.add_argument("--folder", type=Path, help="write there, whatever was run; default docs")
    given = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = WIDTH
    figures, whole = [], True
    for name in given.only or BENCHMARKS:
        made, ended = figures_of(name, BENCHMARKS[name][given.quick], console)
        figures += made
        whole = whole and ended
    console.print(table_of(figures))
    if whole and not given.no_write and (given.folder or not (given.quick or given.only)):
        folder = given.folder or ROOT / "docs"
        publish(figures, folder)
        console.print(f"Written: {folder}/benchmarks.md and benchmarks.svg")
    missed = sum(figure["ok"] is False for figure in figures)
    console.print(
        f"{missed} budget(s) missed" if missed else "No budget was missed", style="red" if missed else "green"
    )
    return 0 if whole and not missed else 1


if __name__ == "__main__":
    sys.exit(main())
