"""Start and stop a real Airflow on this machine: scheduler, DAG processor, triggerer and API server on SQLite.

It is ``airflow standalone`` with settings for a small machine, on free ports, with a home of its own that is made
anew at each start: a fresh database costs less than a second, and nothing of a run that was killed can get in the
way.

Nothing of the caller's own Airflow or OpenAI settings gets in: those variables are taken out of its environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from tools.airflow_api import AirflowApi
from tools.processes import HOST, Program, StackError, check_port, deadline, free_ports, tail

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

CONN_ID = "openai_default"
READY_WITHIN = 120.0
DAGS_WITHIN = 60.0
STOP_WITHIN = 20.0


def clean_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment without Airflow's and OpenAI's variables, and with loopback past any proxy.

    :param environment: the environment to start from; this process's own by default.
    """
    env = {
        name: value
        for name, value in (os.environ if environment is None else environment).items()
        if not name.startswith(("AIRFLOW", "_AIRFLOW", "OPENAI_"))
    }
    for name in ("NO_PROXY", "no_proxy"):
        env[name] = ",".join(filter(None, (env.get(name), HOST, "localhost")))
    # `airflow standalone` starts its parts by name.
    env["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), env.get("PATH", os.defpath)))
    return env


class AirflowStack:
    """A running Airflow.

    :param home: the run's folder. Airflow's home is ``airflow`` in it, its log ``airflow.log``.
    :param dags: the DAGs folder.
    :param connection: the connection ``openai_default``: ``password`` and, for another server than OpenAI's, ``host``.
    :param results: the default place of the example DAGs' results.
    :param port: where the UI and the API listen; ``None`` takes a free port.
    :param settings: more settings, as ``SECTION__KEY``; they win over those that are made here.
    """

    def __init__(
        self,
        home: Path,
        *,
        dags: Path,
        connection: Mapping[str, str],
        results: Path,
        port: int | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        if port is not None:
            check_port(port, "Airflow")
        self.airflow_home = home / "airflow"
        self.log = home / "airflow.log"
        free = free_ports(3)
        self.port = port or free[0]
        self.address = f"http://{HOST}:{self.port}"
        self.api = AirflowApi(self.address)
        shutil.rmtree(self.airflow_home, ignore_errors=True)
        self.airflow_home.mkdir(parents=True)
        self._home = home
        self._env = {
            **clean_environment(),
            **self._settings(dags, settings or {}, log_ports=free[1:]),
            "OPENAI_BATCH_RESULTS": str(results),
            f"AIRFLOW_CONN_{CONN_ID.upper()}": json.dumps({"conn_type": "openai_batch", **connection}),
        }
        self._program = Program("Airflow", ["airflow", "standalone"], env=self._env, log=self.log, home=home)
        self._triggerers: list[Program] = []

    def _settings(self, dags: Path, more: Mapping[str, object], *, log_ports: list[int]) -> dict[str, str]:
        settings = {
            "API__BASE_URL": self.address,
            "API__HOST": HOST,
            "API__PORT": self.port,
            "API__SECRET_KEY": secrets.token_urlsafe(48),
            "API__WORKERS": 1,
            "API_AUTH__JWT_SECRET": secrets.token_urlsafe(48),
            "CORE__DAGS_FOLDER": dags,
            "CORE__EXECUTION_API_SERVER_URL": f"{self.address}/execution/",
            "CORE__EXECUTOR": "LocalExecutor",
            "CORE__LOAD_EXAMPLES": False,
            "CORE__PARALLELISM": 4,
            "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": True,
            # The DAGs don't change during a run: parsing them again and again would only take time from the tasks.
            "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": 600,
            "DAG_PROCESSOR__PARSING_PROCESSES": 2,
            "LOGGING__TRIGGER_LOG_SERVER_PORT": log_ports[0],
            "LOGGING__WORKER_LOG_SERVER_PORT": log_ports[1],
            "OPENAI_BATCH__MIN_WAIT": 10,
            "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": 0.5,
            "USAGE_DATA_COLLECTION__ENABLED": False,
            **more,
        }
        names = {"AIRFLOW_HOME": str(self.airflow_home)}
        return names | {f"AIRFLOW__{name}": str(value) for name, value in settings.items()}

    def wait_healthy(self, seconds: float = READY_WITHIN) -> None:
        """Wait until all four parts are healthy, then log in.

        :raises StackError: it ended, or the time is over.
        """
        ill: list[str] = []
        for _ in deadline(seconds):
            self._program.check()
            if not (ill := self.api.unhealthy()):
                self.api.log_in()
                return
        raise StackError(f"Airflow isn't healthy after {seconds:.0f} s ({', '.join(ill)}).\n{tail(self.log)}", self.log)

    def wait_dags(self, dag_ids: Collection[str], seconds: float = DAGS_WITHIN) -> None:
        """Wait until the DAGs are parsed.

        :raises StackError: a DAG file has an error, Airflow ended, or the time is over.
        """
        missing = set(dag_ids)
        for _ in deadline(seconds):
            self._program.check()
            if errors := self.api.import_errors():
                raise StackError(
                    "\n".join(f"{file} has an error:\n{trace}" for file, trace in errors.items()), self.log
                )
            if not (missing := set(dag_ids) - self.api.dag_ids()):
                return
        raise StackError(f"Airflow hasn't parsed these DAGs after {seconds:.0f} s: {', '.join(missing)}", self.log)

    def triggerer(self) -> psutil.Process:
        """Return the triggerer that came with Airflow."""
        parts = psutil.Process(self._program.pid).children()
        return next(part for part in parts if "triggerer" in " ".join(part.cmdline()))

    def add_triggerer(self) -> psutil.Process:
        """Start one more triggerer and return it; it takes some seconds to become alive."""
        program = Program(
            "triggerer",
            ["airflow", "triggerer"],
            env={**self._env, "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_ports(1)[0])},
            log=self._home / f"triggerer-{len(self._triggerers) + 1}.log",
            home=self._home,
        )
        self._triggerers.append(program)
        return psutil.Process(program.pid)

    def check(self) -> None:
        """Raise if Airflow has ended."""
        self._program.check()

    def stop(self, seconds: float = STOP_WITHIN) -> None:
        """Interrupt it, upon which it stops its parts; what doesn't heed that is ended with the run."""
        with contextlib.suppress(Exception):
            self.api.close()
        self._program.interrupt(seconds)
        for triggerer in self._triggerers:
            triggerer.interrupt(seconds)
