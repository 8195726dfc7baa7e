"""The answer cache: what a look-up takes, in memory and time, however many entries there are.

The cache is made in a process of its own, of several jobs; the look-up runs in another. One key in three of those
asked for isn't there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_openai_batch.engine.cache import Cache
from airflow_openai_batch.engine.store import Store
from tests.benchmarks.measure import MB, memory, peak_memory, rounded, scratch, taken, tell_at_most

if TYPE_CHECKING:
    from collections.abc import Iterator

BUDGET_MB = 150
SAME_MB = 50
"""What ten times the entries may add and still be called the same."""

JOBS = 12
"""Jobs that fill the cache."""

_TEXT = " ".join(blake2b(b"%d" % n, digest_size=4).hexdigest() for n in range(4_000))


def key(n: int) -> bytes:
    """Return the key of an entry."""
    return blake2b(b"%d" % n, digest_size=16).digest()


def entries(first: int, last: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield entries with answers of about 600 bytes."""
    for n in range(first, last):
        at = n * 7 % (len(_TEXT) - 500)
        # As much that can't be compressed as ids and text have.
        told = blake2b(b"%d" % n).hexdigest() + _TEXT[at : at + 400]
        yield key(n), b'{"n":%d,"choices":[{"message":{"content":"%s"}}]}' % (n, told.encode())


def warm() -> None:
    """Import what a look-up imports: that is no part of the growth."""
    import pyarrow as pa
    import pyarrow.parquet

    pa.array([""])


def fill(folder: Path, count: int) -> dict[str, float]:
    """Add so many entries in this process."""
    warm()
    imported = memory()
    cache = Cache(Store.at(str(folder)), ttl=None, clock=time.time)

    def work() -> None:
        for job in range(JOBS):
            cache.add(entries(count * job // JOBS, count * (job + 1) // JOBS), writer=f"job-{job}")

    return {"seconds": taken(work).wall, "peak": (peak_memory() - imported) / MB}


def look(folder: Path, count: int, keys: int) -> dict[str, float]:
    """Look keys up in this process."""
    warm()
    asked = [n * 3 * count // (2 * keys) for n in range(keys)]
    imported = memory()
    cache = Cache(Store.at(str(folder)), ttl=None, clock=time.time)
    found = 0

    def work() -> None:
        nonlocal found
        for row, answer in cache.look_up((key(n), n) for n in asked):
            found += answer.startswith(b'{"n":%d,' % row)

    seconds = taken(work).wall
    if found != (expected := sum(n < count for n in asked)):
        raise ValueError(f"{expected:,} answers should be found, not {found:,}")
    return {"seconds": seconds, "peak": (peak_memory() - imported) / MB, "found": found}


def measured(what: str, *arguments: object) -> dict[str, float]:
    """Run one part in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.cache", f"--{what}", *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, nargs=2, default=[1_000_000, 10_000_000], metavar=("FEW", "MANY"))
    parser.add_argument("--keys", type=int, default=200_000, help="keys that are looked up")
    parser.add_argument("--fill", nargs=2, metavar=("FOLDER", "ENTRIES"), help=argparse.SUPPRESS)
    parser.add_argument("--look", nargs=3, metavar=("FOLDER", "ENTRIES", "KEYS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.fill or given.look:
        folder, *numbers = given.fill or given.look
        told = (fill if given.fill else look)(Path(folder), *map(int, numbers))
        sys.stdout.write("\n" + json.dumps(told) + "\n")
        return
    peaks = []
    for count in given.entries:
        with scratch() as folder:
            filled = measured("fill", folder, count)
            files = [path.stat().st_size for path in folder.rglob("*.parquet")]
            looked = measured("look", folder, count, given.keys)
        note = f"{rounded(count / filled['seconds']):,.0f} entries/s; {len(files)} files, {sum(files) / MB:,.0f} MB"
        name = f"{count:,} entries added by {JOBS} jobs: peak growth"
        tell_at_most("cache", name, filled["peak"], "MB", most=BUDGET_MB, note=note)
        peaks.append(looked["peak"])
        note = f"{looked['seconds']:.1f} s, {looked['found']:,.0f} found"
        name = f"{given.keys:,} keys among {count:,} entries: peak growth"
        tell_at_most("cache", name, looked["peak"], "MB", most=BUDGET_MB, note=note)
    few, many = given.entries
    name = f"growth of a look-up from {few:,} to {many:,} entries"
    tell_at_most("cache", name, max(0.0, peaks[1] - peaks[0]), "MB", most=SAME_MB)


if __name__ == "__main__":
    main()
