"""What all benchmarks share: figures, alternated runs, memory, event-loop lag. The standard library alone: the peers'
venv runs it too.

A figure is one JSON line on standard output. Machines differ and are shared, so what is compared is a ratio to a floor
that the same process took in turn with it (floor, ours, floor, ours), and the ratio is the median of the turns'.
"""

from __future__ import annotations

import asyncio
import json
import resource
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Self

MB = 1e6
TICK = 0.005
"""Seconds between two looks at the event loop's clock."""


@dataclass(frozen=True)
class Figure:
    """One measured value.

    :param floor: the same measure of the least that could be done, taken in the same process; None where there is none.
    :param ratio: the value in parts of the floor.
    :param budget: what is promised of it, None where nothing is.
    :param ok: whether the budget is kept.
    """

    benchmark: str
    name: str
    value: float | None
    unit: str
    floor: float | None = None
    ratio: float | None = None
    budget: str | None = None
    ok: bool | None = None
    note: str = ""

    def tell(self) -> None:
        """Print it for whoever runs the benchmark."""
        sys.stdout.write(json.dumps(asdict(self)) + "\n")
        sys.stdout.flush()


def rounded(value: float) -> float:
    """Return a value with as many digits as a noisy machine deserves."""
    return float(f"{value:.4g}")


def tell_rate(
    benchmark: str,
    name: str,
    rows: int,
    *,
    size: int,
    floor: list[Taken],
    ours: list[Taken],
    least: float | None = None,
) -> None:
    """Tell rows a second, in parts of the floor's: the median of the ratios, turn by turn.

    The ratio of CPU seconds stands beside it: where it is much better, the machine had other things to do.

    :param size: bytes of the rows.
    :param floor: what the floor took in each turn; ``ours``: what we took.
    :param least: the budget, as a part of the floor's rate.
    """
    ratio = statistics.median(bare.wall / own.wall for bare, own in zip(floor, ours, strict=True))
    cpu = statistics.median(bare.cpu / own.cpu for bare, own in zip(floor, ours, strict=True))
    own, bare = (statistics.median(one.wall for one in turns) for turns in (ours, floor))
    note = f"{size / own / MB:,.0f} MB/s at {size / rows:,.0f} bytes a row, floor {size / bare / MB:,.0f} MB/s"
    Figure(
        benchmark,
        name,
        rounded(rows / own),
        "rows/s",
        rounded(rows / bare),
        rounded(ratio),
        None if least is None else f">= {least:.0%} of the floor",
        None if least is None else ratio >= least,
        f"{note}; by CPU seconds {cpu:.1%}",
    ).tell()


def tell_at_most(
    benchmark: str,
    name: str,
    value: float,
    unit: str,
    *,
    most: float | None,
    floor: float | None = None,
    note: str = "",
) -> None:
    """Tell a value that should be small.

    :param most: the budget.
    """
    Figure(
        benchmark,
        name,
        rounded(value),
        unit,
        None if floor is None else rounded(floor),
        rounded(value / floor) if floor else None,
        None if most is None else f"<= {most:g} {unit}",
        None if most is None else value <= most,
        note,
    ).tell()


@dataclass(frozen=True)
class Taken:
    """Seconds that something took: on the clock, and of this process's threads on a core."""

    wall: float
    cpu: float

    def __add__(self, other: Taken) -> Taken:
        return Taken(self.wall + other.wall, self.cpu + other.cpu)


def taken(work: Callable[[], object]) -> Taken:
    """Do something; return how long it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Taken(time.perf_counter() - wall, time.process_time() - cpu)


def alternate(*works: Callable[[], Taken], times: int) -> list[list[Taken]]:
    """Run each in turn, so many times over; return what each says it took, turn by turn."""
    told: list[list[Taken]] = [[] for _ in works]
    for _ in range(times):
        for work, own in zip(works, told, strict=True):
            own.append(work())
    return told


@contextmanager
def scratch() -> Iterator[Path]:
    """Give a folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="openai-batch-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def memory() -> int:
    """Return the resident bytes of this process."""
    status = _status("VmRSS")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 if status is None else status


def peak_memory() -> int:
    """Return the most resident bytes that this process has had."""
    # Not getrusage where it can be helped: its maximum lives on from the process that started this one.
    status = _status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 if status is None else status


def _status(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), None)


class Lag:
    """How late an event loop comes to work that is due every 5 ms.

    Work that fell due while the loop stood still counts, each with its own wait: a loop that stands still for a second
    is not one late tick among hundreds in time.
    """

    def __init__(self) -> None:
        self.late: list[float] = []
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_error: object) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _tick(self) -> None:
        due = time.perf_counter()
        while True:
            due += TICK
            pause = due - time.perf_counter()
            if pause > 0:
                await asyncio.sleep(pause)
            self.late.append(time.perf_counter() - due)

    def take(self) -> dict[str, float]:
        """Return the percentiles of what was seen since the last call, in ms."""
        late, self.late = sorted(self.late) or [0.0], []
        last = len(late) - 1
        return {
            "p50": 1000 * late[round(0.5 * last)],
            "p99": 1000 * late[round(0.99 * last)],
            "max": 1000 * late[-1],
        }
