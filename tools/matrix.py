"""The package, as a wheel, on every Airflow and Python that it claims: one venv each, below ``.matrix``.

``python -m tools.matrix`` builds the wheel once. On each pair it installs the wheel and its tests, asks Airflow for the
provider, runs tests of the engine and ``dag.test()``, and a job that defers through a real scheduler and triggerer. The
tests are a copy without the package beside them, so what is tested is what is installed.

An Airflow has the newest patch of its minor version and the newest of all that it allows, but for ``PINS``: Airflow's
own constraints files aren't in a package registry. Exit status: 0 when all passed, 1 when something didn't, 2 when
there is nothing to run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from tools.airflow_stack import clean_environment

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".matrix"
DISTRIBUTION = "airflow-openai-batch"
STEPS = ("install", "provider", "engine", "dag.test()", "deferring job")
STEP_WITHIN = 900
INTERRUPT_WITHIN = 60
SHOWN_LINES = 25
# The Pythons that each Airflow is made for, oldest and newest.
AIRFLOWS = {"3.0": ("3.10", "3.12"), "3.1": ("3.10", "3.13"), "3.2": ("3.10", "3.13"), "3.3": ("3.10", "3.13")}
# Newest patches when this was written: without a floor uv may go back to an older one rather than pin another package.
PATCHES = {"3.0": "3.0.6", "3.1": "3.1.8", "3.2": "3.2.2", "3.3": "3.3.2"}
# What an Airflow allows and doesn't work with; by trying.
PINS = {
    "3.0": (
        "fastapi[standard]<0.118",  # later ones refuse the bodies that Airflow's task client sends
        "pyjwt<2.11",  # later ones refuse tokens without an issuer
    ),
    "3.2": (
        "fastapi<0.138",  # later ones refuse a model of its execution API
        "svcs<26",  # later ones don't find the registry that it makes
    ),
}
# What the tests need and the package doesn't.
TESTING = (
    "apache-airflow-providers-sqlite",
    "duckdb",
    "httpx",
    "hypothesis",
    "moto[server]",
    "pandas",
    "polars",
    "psutil",
    "pytest",
    "pytest-asyncio",
    "rich",
)
# What depends on versions: of Python, of pyarrow, pandas and pydantic, of the SDK. The rest is run by `make test`.
ENGINE_TESTS = (
    "tests/test_client.py",
    "tests/test_merge.py",
    "tests/test_package.py",
    "tests/test_partitions.py",
    "tests/engine/test_columns.py",
    "tests/engine/test_delimited.py",
    "tests/engine/test_formats.py",
    "tests/engine/test_journal.py",
    "tests/engine/test_lifecycle.py",
    "tests/engine/test_lines.py",
    "tests/engine/test_outputs.py",
    "tests/engine/test_planner.py",
    "tests/engine/test_sources.py",
    "tests/engine/test_store.py",
    "tests/engine/test_structured.py",
    "tests/engine/test_tabular.py",
    "tests/engine/test_templates.py",
    "tests/engine/test_values.py",
)
# What depends on Airflow; of the slow ones, one for each kind of task. The rest is run by `make test`.
DAG_TESTS = (
    "tests/airflow/test_dag_parse.py",
    "tests/airflow/test_decorator.py::test_the_function_is_called_once_whatever_follows",
    "tests/airflow/test_decorator.py::test_the_function_returns_or_yields_rows_or_a_path",
    "tests/airflow/test_hook.py",
    "tests/airflow/test_links.py",
    "tests/airflow/test_mapped.py::test_each_partition_becomes_a_job_and_the_manifests_one",
    "tests/airflow/test_operator.py::test_a_dataset_becomes_results_whether_the_task_defers_or_not",
    "tests/airflow/test_operator.py::test_a_finished_job_that_is_cleared_buys_nothing",
    "tests/airflow/test_operator.py::test_rows_come_from_an_upstream_task_and_the_manifest_goes_to_the_next",
    "tests/airflow/test_operator.py::test_too_many_failed_rows_fail_the_task_at_once_with_all_results_landed",
    "tests/airflow/test_poller.py",
    "tests/airflow/test_provider_info.py",
    "tests/airflow/test_steps.py::test_the_steps_pass_a_small_reference_and_take_its_connection",
    "tests/airflow/test_trigger.py",
    "tests/dags/test_dags.py",
)
DEFERRING_TESTS = ("tests/system/test_standalone.py",)
# Other people's warnings on old versions are nobody's business here; the package's own stay errors.
PYTEST_INI = """\
[pytest]
addopts = --import-mode=importlib --strict-markers -ra -p no:cacheprovider
pythonpath = .
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
xfail_strict = true
markers =
    system: starts a real Airflow
    stack: the production stack
filterwarnings =
    ignore
    error:::airflow_openai_batch
"""


class StepError(Exception):
    """A step failed.

    :param reason: what to tell.
    """


@dataclass
class Pair:
    """An Airflow on a Python.

    :param airflow: its minor version, as ``3.1``.
    :param python: that of Python, as ``3.10``.
    :param interpreter: where that Python is; ``None`` where it isn't.
    """

    airflow: str
    python: str
    interpreter: str | None
    results: dict[str, str] = field(default_factory=dict)
    version: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether every step passed."""
        return self.interpreter is not None and not any(text.startswith("FAILED") for text in self.results.values())

    @property
    def name(self) -> str:
        """What to call it."""
        return f"airflow-{self.airflow}-python-{self.python}"

    @property
    def bin(self) -> Path:
        """Where its programs are."""
        return HOME / self.name / "bin"


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.matrix", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", metavar="X.Y", help="these Airflows alone", choices=tuple(AIRFLOWS))
    parser.add_argument(
        "--python", nargs="+", metavar="3.N", help="these Pythons, instead of each Airflow's oldest and newest"
    )
    parser.add_argument(
        "--ends", action="store_true", help="the oldest Airflow on its oldest Python, the newest on its newest"
    )
    parser.add_argument("--steps", nargs="+", metavar="STEP", help=f"these of {', '.join(STEPS)}", choices=STEPS)
    parser.add_argument("--jobs", type=int, default=1, help="pairs at once (default: 1); each takes a core and 2 GB")
    return parser.parse_args(words)


def numbers(version: str) -> tuple[int, ...]:
    """Return a version's numbers, to compare it by."""
    return tuple(int(part) for part in version.split("."))


def interpreters() -> dict[str, str]:
    """Return the Pythons of this machine by minor version: those that uv knows, and pyenv's."""
    found: dict[str, str] = {}
    for python in sorted({python for _, newest in AIRFLOWS.values() for python in (newest, "3.10", "3.11", "3.12")}):
        asked = run_quietly(["uv", "python", "find", "--no-python-downloads", "--no-project", "--system", python])
        # A shim of pyenv is found and doesn't start unless its version is chosen.
        pyenv = sorted(Path("~/.pyenv/versions").expanduser().glob(f"{python}.*/bin/python"), key=lambda p: p.parts[-3])
        for candidate in (asked, *(str(path) for path in reversed(pyenv))):
            if candidate and run_quietly([candidate, "-c", "print(1)"]) == "1":
                found[python] = candidate
                break
    return found


def run_quietly(command: Sequence[str]) -> str:
    """Return what a program prints; nothing when it fails."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def pairs(options: argparse.Namespace, pythons: Mapping[str, str]) -> list[Pair]:
    """Return what to run, oldest first. A Python that isn't here is replaced by the next one that an Airflow knows."""
    chosen: list[Pair] = []
    for airflow, (oldest, newest) in AIRFLOWS.items():
        if options.only and airflow not in options.only:
            continue
        here = [p for p in sorted(pythons, key=numbers) if numbers(oldest) <= numbers(p) <= numbers(newest)]
        ends = list(dict.fromkeys([*here[:1], *here[-1:]]))
        wanted = [p for p in here if p in options.python] if options.python else ends
        chosen += [Pair(airflow, python, pythons[python]) for python in wanted]
    return [chosen[0], chosen[-1]] if options.ends and len(chosen) > 1 else chosen


def build_wheel() -> Path:
    """Build the wheel that is tested."""
    folder = HOME / "dist"
    shutil.rmtree(folder, ignore_errors=True)
    build = ["uv", "build", "--quiet", "--wheel", "--no-build-isolation", "--python", sys.executable]
    subprocess.run([*build, "--out-dir", str(folder), str(ROOT)], check=True)
    return next(folder.glob("*.whl"))


def copy_tests() -> Path:
    """Copy the tests and what they read, without the package."""
    tree = HOME / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    for name in ("tests", "tools", "dags"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "README.md", tree)
    (tree / "pytest.ini").write_text(PYTEST_INI)
    return tree


def environment(pair: Pair) -> dict[str, str]:
    """Return the environment of a pair's programs."""
    env = clean_environment()
    env["PATH"] = os.pathsep.join((str(pair.bin), env["PATH"]))
    # Without bytecode Airflow takes half a minute longer to start.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    return env


def call(pair: Pair, step: str, command: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> str:
    """Run a program of a pair and return what it prints; it is also appended to the step's log.

    :raises StepError: it failed, or took too long.
    """
    log = HOME / "logs" / pair.name / f"{step.partition('(')[0].replace(' ', '-')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(
        command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as program:
        try:
            out, _ = program.communicate(timeout=STEP_WITHIN)
        except BaseException as error:
            # What a test has started ends with the test, and only if that may end by itself.
            program.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.communicate(timeout=INTERRUPT_WITHIN)
            program.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                raise StepError(f"no end after {STEP_WITHIN} s: {' '.join(command[:4])}") from None
            raise
    with log.open("a") as file:
        file.write(f"$ {' '.join(command)}\n{out}\n")
    if program.returncode != 0:
        last = "\n".join(out.strip().splitlines()[-SHOWN_LINES:])
        raise StepError(f"{last}\nThe log: {log}")
    return out


def install(pair: Pair, wheel: Path) -> str:
    """Make the venv and install the wheel with the Airflow; what is there already stays."""
    env = clean_environment()
    python = str(pair.bin / "python")
    if not Path(python).exists():
        call(pair, "install", ["uv", "venv", "--quiet", "-p", str(pair.interpreter), pair.name], cwd=HOME, env=env)
    wanted = f"apache-airflow=={pair.airflow}.*,>={PATCHES[pair.airflow]}"
    command = ["uv", "pip", "install", "--quiet", "--compile-bytecode", "--python", python]
    command += ["--reinstall-package", DISTRIBUTION, f"{wheel}[emulator,examples]", wanted]
    call(pair, "install", [*command, *PINS.get(pair.airflow, ()), *TESTING], cwd=HOME, env=env)
    call(pair, "install", ["uv", "pip", "check", "--python", python], cwd=HOME, env=env)
    code = "import importlib.metadata as m; print(m.version('apache-airflow-core'))"
    pair.version = call(pair, "install", [python, "-c", code], cwd=HOME, env=env).strip()
    return pair.version


def provider(pair: Pair) -> str:
    """Ask Airflow's own commands for the provider, its version and its hook."""
    env = {**environment(pair), "AIRFLOW_HOME": str(HOME / "homes" / pair.name)}
    airflow = str(pair.bin / "airflow")

    def ask(*words: str) -> str:
        return call(pair, "provider", [airflow, "providers", *words, "--output", "json"], cwd=HOME, env=env)

    version = next(HOME.glob("dist/*.whl")).name.split("-")[1]
    listed = {row["package_name"]: row["version"] for row in table(ask("list"))}
    if listed.get(DISTRIBUTION) != version:
        raise StepError(f"airflow providers list has {DISTRIBUTION} {listed.get(DISTRIBUTION)}, not {version}")
    if DISTRIBUTION not in ask("get", DISTRIBUTION):
        raise StepError(f"airflow providers get {DISTRIBUTION} doesn't show it")
    hooks = [row for row in table(ask("hooks")) if row["connection_type"] == "openai_batch"]
    if not hooks or hooks[0]["hook_name"] != "OpenAI Batch":
        raise StepError(f"airflow providers hooks shows for openai_batch: {hooks}")
    return "list, get, hooks"


def table(text: str) -> list[dict[str, str]]:
    """Read a table that Airflow printed as JSON, perhaps after lines of its log."""
    line = next(line for line in reversed(text.splitlines()) if line.startswith("[{"))
    rows: list[dict[str, str]] = json.loads(line)
    return rows


def tests(pair: Pair, step: str, which: Iterable[str], tree: Path) -> str:
    """Run some tests and return the count."""
    command = [str(pair.bin / "python"), "-m", "pytest", "-q", *which]
    out = call(pair, step, command, cwd=tree, env=environment(pair))
    return out.strip().splitlines()[-1].partition(" in ")[0].strip("= ")


def run(pair: Pair, steps: Sequence[str], wheel: Path, tree: Path, console: Console) -> None:
    """Run the steps of a pair; after an install that failed there are no others."""
    begun = time.monotonic()
    actions = {
        "install": lambda: install(pair, wheel),
        "provider": lambda: provider(pair),
        "engine": lambda: tests(pair, "engine", ENGINE_TESTS, tree),
        "dag.test()": lambda: tests(pair, "dag.test()", DAG_TESTS, tree),
        "deferring job": lambda: tests(pair, "deferring job", DEFERRING_TESTS, tree),
    }
    shutil.rmtree(HOME / "logs" / pair.name, ignore_errors=True)
    for step in steps:
        start = time.monotonic()
        try:
            told = actions[step]()
        except StepError as error:
            console.print(f"{pair.name}: {step}: {error}", markup=False, soft_wrap=True, style="red")
            told = "FAILED"
        pair.results[step] = f"{told} ({time.monotonic() - start:.0f} s)"
        console.print(f"{pair.name}: {step}: {pair.results[step]}", markup=False, soft_wrap=True, highlight=False)
        if step == "install" and told == "FAILED":
            break
    pair.seconds = time.monotonic() - begun


def shown(done: Iterable[Pair], steps: Sequence[str]) -> Table:
    """Return what became of the pairs."""
    rows = Table(title="Airflow and Python")
    for column in ("Airflow", "Python", *steps[1:], "s"):
        rows.add_column(column, justify="right" if column == "s" else "left")
    for pair in done:
        cells = [pair.results.get(step, "not run") for step in steps[1:]]
        rows.add_row(pair.version or pair.airflow, pair.python, *cells, f"{pair.seconds:.0f}")
    return rows


def absent(pythons: Mapping[str, str], options: argparse.Namespace) -> Iterator[str]:
    """Say which Pythons would have been run if they were here."""
    ends = {python for ends in AIRFLOWS.values() for python in ends}
    for python in sorted(set(options.python or ends) - pythons.keys(), key=numbers):
        yield f"Python {python} isn't on this machine: not run."


def main(words: Sequence[str] | None = None) -> int:
    """Run the matrix and return the exit status."""
    options = arguments(words)
    console = Console(width=None if sys.stdout.isatty() else 140)
    pythons = interpreters()
    chosen = pairs(options, pythons)
    for line in absent(pythons, options):
        console.print(line, highlight=False)
    if not chosen:
        console.print("Nothing to run.")
        return 2
    steps = ["install", *(step for step in STEPS[1:] if not options.steps or step in options.steps)]
    HOME.mkdir(exist_ok=True)
    wheel, tree = build_wheel(), copy_tests()
    with ThreadPoolExecutor(options.jobs) as at_once:
        list(at_once.map(lambda pair: run(pair, steps, wheel, tree, console), chosen))
    console.print(shown(chosen, steps))
    return 0 if all(pair.passed for pair in chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
