"""Collecting and landing: raw files to results in input order, joined with the rows' columns, against a bare loop of
orjson over the same raw files. The engine's public way (``advance``), with an API that copies local files.
"""

from __future__ import annotations

import argparse
import os
import shutil
from typing import TYPE_CHECKING

from airflow_openai_batch.engine.models import Done, Ended
from airflow_openai_batch.engine.runner import advance
from tests.benchmarks.instant_api import InstantAPI
from tests.benchmarks.measure import Taken, scratch, taken, tell_rate
from tests.benchmarks.plan import floor, job_at
from tests.benchmarks.rows import write

if TYPE_CHECKING:
    from pathlib import Path

BUDGET = 0.30
"""Of the floor's rate, for landing."""


class Landed:
    """A job whose batches have all completed, to be collected and landed again and again.

    :param folder: for all files of it.
    """

    def __init__(self, folder: Path, rows: int) -> None:
        self._destination, self._kept = folder / "job", folder / "kept"
        self._source = write("reviews", rows, folder / "reviews.jsonl")
        self._api = InstantAPI(folder / "answers")
        job = job_at(self._destination, self._source, "reviews", api=self._api)
        advance(job, stop="submitted")
        self._api.end_all(self._destination / "_job/shards")
        _copy(self._destination, self._kept)
        self.raws = sorted(self._api.answers.iterdir())
        self._rows = rows

    def again(self) -> tuple[Taken, Taken]:
        """Return what collecting and landing take, from the submitted job on."""
        shutil.rmtree(self._destination)
        _copy(self._kept, self._destination)
        job = job_at(self._destination, self._source, "reviews", api=self._api)
        collecting = taken(lambda: self._must(advance(job, stop="ended"), Ended))
        landing = taken(lambda: self._must(advance(job), Done))
        return collecting, landing

    def _must(self, outcome: object, kind: type) -> None:
        if not isinstance(outcome, kind):
            raise TypeError(f"{kind.__name__} was expected, not {outcome}")
        if isinstance(outcome, Done) and outcome.manifest["rows"]["succeeded"] != self._rows:
            raise ValueError(f"not all rows succeeded: {outcome.manifest['rows']}")


def _copy(source: Path, target: Path) -> None:
    # Hard links: the store replaces files and never writes into one.
    shutil.copytree(source, target, copy_function=os.link)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--times", type=int, help="repetitions; default by the number of rows")
    given = parser.parse_args()
    for rows in given.rows:
        with scratch() as folder:
            job = Landed(folder, rows)
            size = sum(path.stat().st_size for path in job.raws)
            bare, collecting, landing = [], [], []
            for _ in range(given.times or max(1, min(5, 2_000_000 // rows))):
                bare.append(floor(*job.raws))
                collected, landed = job.again()
                collecting.append(collected)
                landing.append(landed)
        both = [one + other for one, other in zip(collecting, landing, strict=True)]
        for name, ours, budget in (
            ("collect", collecting, None),
            ("land", landing, BUDGET),
            ("collect and land", both, None),
        ):
            tell_rate("land", f"{name} {rows:,} rows", rows, size=size, floor=bare, ours=ours, least=budget)


if __name__ == "__main__":
    main()
