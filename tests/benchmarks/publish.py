"""Writes docs/benchmarks.md and its plot from the figures of a run."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.peers import TITLES
from tests.benchmarks.plot import draw

if TYPE_CHECKING:
    from collections.abc import Iterable

_HEAD = """\
# Benchmarks

Written by `make bench`; run it to have figures of your own machine. Machines differ and are noisy: a *floor* is the
least that the same process needed for the same rows, taken in turn with the measured work (floor, ours, floor, ours),
and ratios are medians of the turns. For rows it is a bare loop of `orjson.loads` and `orjson.dumps` over the same file,
for the event loop the lag of the same loop without tasks.

![Rates in parts of a bare loop, memory, lag and speed beside other providers](benchmarks.svg)
"""

_HOW = """\
## How it is measured

- *Plan*: a JSON Lines file on the local disk to checked shards and the job's record, through the engine as a task calls
  it. The rows are reviews of about 90 words; ready-made lines have a system prompt as well.
- *Collect*, *land*: the same rows with answers of about 25 words, in another order than the requests'. Collecting
  brings OpenAI's files to the store and counts what is in them; landing writes one result a row, in input order, with
  the row's columns. OpenAI's part is a copy of local files.
- *Memory*: the peak of resident memory of a process that runs the whole job, less what it had with all modules
  imported.
- *Triggerer*: tasks with a batch each wait in one event loop, at an emulator in another process that answers 50 ms
  late, polled every 5 s. Tasks begin one after another over 5 s. Lag is how late the loop comes to work that is due
  every 5 ms; work that falls due while the loop stands still counts too.
- *End to end*: engine, client and HTTP, on an emulator in another process.
- *Other providers*: in a venv of their own, with the same rows and the same emulator, turn by turn with ours. Source to
  batches ends when OpenAI has accepted the batch; batches to results begins when it has completed it. For common-ai
  that is `LLMBatchOperator.execute` and `execute_complete`, and before them the DAG's part: reading the file into a
  list of prompts. Its results are in the order in which OpenAI returned them and without the rows' columns. The openai
  provider takes the id of a file that was uploaded, and returns the id of a batch; there is nothing to measure but the
  wait. common-ai's operator polls every 30 s at the most often; its trigger was given the same 5 s as the others.
"""


def spelled(figure: dict[str, Any]) -> str:
    """Return a figure's value with its unit."""
    value = figure["value"]
    if value is None:
        return f"no: {figure['note']}"
    return f"{value:,.0f} {figure['unit']}" if value >= 100 else f"{value:.3g} {figure['unit']}"


def publish(figures: list[dict[str, Any]], folder: Path) -> None:
    """Write page and plot."""
    folder.mkdir(parents=True, exist_ok=True)
    budgets = [figure for figure in figures if figure["ok"] is not None]
    others = [figure for figure in figures if figure["ok"] is None and figure["benchmark"] != "peers"]
    pages = [
        _HEAD,
        _machine(),
        "## Budgets\n",
        _table(
            ("", "value", "floor", "ratio", "budget", "kept"),
            (
                (f["name"], spelled(f), _floor(f), _ratio(f), f["budget"], "yes" if f["ok"] else "**no**")
                for f in budgets
            ),
        ),
        "## Beside other providers\n",
        _table(("", *TITLES.values()), _side_by_side(figures)),
        "## More figures\n",
        _table(
            ("", "value", "ratio to the floor", ""), ((f["name"], spelled(f), _ratio(f), f["note"]) for f in others)
        ),
        _HOW,
    ]
    (folder / "benchmarks.md").write_text("\n".join(pages), encoding="utf-8")
    draw(figures, folder / "benchmarks.svg")


def _floor(figure: dict[str, Any]) -> str:
    return "" if figure["floor"] is None else spelled({**figure, "value": figure["floor"]})


def _ratio(figure: dict[str, Any]) -> str:
    ratio = figure["ratio"]
    if ratio is None:
        return ""
    return f"{ratio:.1%}" if ratio < 1 else f"{ratio:.1f} times"


def _side_by_side(figures: list[dict[str, Any]]) -> Iterable[tuple[str, ...]]:
    """Yield a row for each measure with what each provider did."""
    cells: dict[str, dict[str, str]] = {}
    for figure in figures:
        if figure["benchmark"] == "peers":
            provider, _, measure = figure["name"].partition(": ")
            times = "" if provider == TITLES["ours"] or not figure["ratio"] else f" ({figure['ratio']:.2g} times ours)"
            cells.setdefault(measure, {})[provider] = spelled(figure) + times
    for measure, by_provider in cells.items():
        yield measure, *(by_provider.get(provider, "-") for provider in TITLES.values())


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _machine() -> str:
    """Say where and when."""
    model = _first("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()
    memory = _first("/proc/meminfo", "MemTotal")
    gigabytes = f"{int(memory.split()[0]) / 1e6:.0f} GB of memory, " if memory else ""
    today = datetime.now(timezone.utc).date().isoformat()
    return (
        f"{today}, `make bench`; {model}, {os.cpu_count()} cores, {gigabytes}{platform.system()}, "
        f"Python {platform.python_version()}.\n"
    )


def _first(path: str, name: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
