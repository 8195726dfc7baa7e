"""The other Airflow providers, side by side in the same run, on what they can do; in a venv of their own.

The venv is made in ``.bench/peers`` of the project and kept. ``ratio`` is a provider's value in parts of ours.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.dag_import import OURS, imported
from tests.benchmarks.end_to_end import whole_job
from tests.benchmarks.measure import Figure, rounded, scratch
from tests.benchmarks.rows import write
from tests.benchmarks.triggerer import wait

ROOT = Path(__file__).parents[2]
BENCH = ROOT / ".bench"
PACKAGES = (
    "apache-airflow==3.3.*",
    "apache-airflow-providers-openai==2.2.*",
    "apache-airflow-providers-common-ai==1.0.*",
)
TITLES = {"ours": "this provider", "common-ai": "common-ai 1.0", "openai": "openai 2.2"}
OPERATORS = {
    "ours": OURS,
    "common-ai": "airflow.providers.common.ai.operators.llm_batch",
    "openai": "airflow.providers.openai.operators.openai",
}


def peers_python() -> str:
    """Return the interpreter of the peers' venv; make it where it isn't there or holds other versions."""
    python, stamp = BENCH / "peers/bin/python", BENCH / "peers/.packages"
    wanted = "\n".join((platform.python_version(), *PACKAGES))
    if not python.exists() or not stamp.exists() or stamp.read_text() != wanted:
        uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or "uv"
        BENCH.mkdir(exist_ok=True)
        (BENCH / ".gitignore").write_text("*\n")
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(BENCH / "peers")], check=True)
        install = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python), *PACKAGES]
        subprocess.run(install, check=True)
        stamp.write_text(wanted)
    return str(python)


def tell(provider: str, name: str, value: float, unit: str, *, ours: float, note: str = "") -> None:
    """Tell a figure of one of the three."""
    Figure("peers", f"{TITLES[provider]}: {name}", rounded(value), unit, ratio=rounded(value / ours), note=note).tell()


def cannot(provider: str, name: str, why: str) -> None:
    """Tell that a provider doesn't do it."""
    Figure("peers", f"{TITLES[provider]}: {name}", None, "", note=why).tell()


def compare_jobs(rows: int, times: int, python: str) -> None:
    """Source to batches, and batches to results, turn by turn."""
    told: dict[str, list[dict[str, Any]]] = {"ours": [], "common-ai": []}
    with scratch() as folder:
        source = write("reviews", rows, folder / "reviews.jsonl")
        for number in range(times):
            told["ours"].append(whole_job("ours", source, folder / f"ours-{number}"))
            told["common-ai"].append(whole_job("common-ai", source, folder / f"common-ai-{number}", python=python))

    def median(provider: str, *phases: str) -> float:
        return statistics.median(sum(one["seconds"].get(phase, 0.0) for phase in phases) for one in told[provider])

    for name, phases in (("source to batches", ("plan", "submit")), ("batches to results", ("collect", "land"))):
        what = f"{name}, {rows:,} rows"
        ours = rows / median("ours", *phases)
        for provider in told:
            tell(provider, what, rows / median(provider, *phases), "rows/s", ours=ours)
        why = "takes the id of an uploaded file" if "plan" in phases else "has no landing"
        cannot("openai", what, why)
    peaks = {provider: statistics.median(one["growth"] for one in all_told) for provider, all_told in told.items()}
    for provider, peak in peaks.items():
        tell(provider, f"peak memory of that, {rows:,} rows", peak, "MB", ours=peaks["ours"])


def compare_waits(tasks: int, poll: float, cycles: int, python: str) -> None:
    """Tasks that wait."""
    told = {
        provider: wait(provider, tasks, poll=poll, cycles=cycles, **({} if provider == "ours" else {"python": python}))
        for provider in TITLES
    }
    for provider, one in told.items():
        lag = one["window"]
        note = f"p50 {lag['p50']:,.1f} ms, max {lag['max']:,.0f} ms"
        name = f"event-loop lag p99, {tasks:,} tasks"
        tell(provider, name, lag["p99"], "ms", ours=told["ours"]["window"]["p99"], note=note)
    for provider, one in told.items():
        name = f"calls in {poll:g} s, {tasks:,} tasks"
        tell(provider, name, one["calls"], "calls", ours=told["ours"]["calls"])


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument(
        "--poll", type=float, default=5.0, help="seconds; common-ai's operator itself allows 30 or more"
    )
    parser.add_argument("--cycles", type=int, default=6, help="poll intervals in the window")
    given = parser.parse_args()
    python = peers_python()
    compare_jobs(given.rows, given.times, python)
    compare_waits(given.tasks, given.poll, given.cycles, python)
    imports = {
        provider: imported(module, python=sys.executable if provider == "ours" else python)["module"]
        for provider, module in OPERATORS.items()
    }
    for provider, taken in imports.items():
        tell(provider, "import of the operators over airflow.sdk", taken, "ms", ours=imports["ours"])


if __name__ == "__main__":
    main()
