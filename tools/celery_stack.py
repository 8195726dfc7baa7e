"""The production stack of ``docker/compose.yaml`` as plain processes on this machine, from the same files.

Commands, settings and health checks of the services that run this project's image are those of the compose file. What
a container would have of its own is given here: addresses, ports, folders and the name of the host. A process that
ends is started again, as compose does with a container (:meth:`CeleryStack.revive`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from tools.airflow_api import AirflowApi
from tools.airflow_stack import clean_environment
from tools.compose import dotenv, load
from tools.emulator import Emulator
from tools.processes import HOST, Program, StackError, deadline, free_ports, tail

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tools.compose import Service

DOCKER = Path(__file__).resolve().parent.parent / "docker"
COMPOSE = DOCKER / "compose.yaml"
AIRFLOW = ("api-server", "scheduler", "dag-processor", "triggerer", "worker")
"""The services that stay up."""

# What listens on a port in each container; here they share a host.
PORTS = {
    "api-server": {"AIRFLOW__API__PORT": "8080"},
    "scheduler": {
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": "8974",
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": "8793",
    },
    "triggerer": {"AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": "8794"},
    "worker": {"AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": "8793"},
}
READY_WITHIN = 150.0
PREPARED_WITHIN = 120.0


def new_variables(home: Path, **chosen: str) -> dict[str, str]:
    """Return what a new ``.env`` holds, made as the how-to says.

    :param home: the file goes there.
    :param chosen: what the user has written into it.
    """
    file = home / ".env"
    subprocess.run(["sh", str(DOCKER / "new-env"), str(file)], check=True, capture_output=True)
    return {**dotenv(file), **chosen}


@dataclass(frozen=True)
class Places:
    """Where the services are that aren't this project's.

    :param database: ``user:password@host:port/name``.
    :param broker: ``host:port/number``.
    :param store: the S3 server's address.
    """

    database: str
    broker: str
    store: str


@dataclass
class Member:
    """One of a service's processes."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    health: Sequence[str] | str
    program: Program | None = None
    starts: int = 0


class CeleryStack:
    """A running stack.

    :param home: the run's folder: Airflow's home is ``airflow`` in it, and each process has a log there.
    :param variables: what ``.env`` holds.
    :param places: where the database, the broker and the store are.
    :param dags: the DAGs folder.
    :param settings: settings that win over the files', as ``SECTION__KEY``.
    :param emulator: more options of the emulator.
    """

    def __init__(
        self,
        home: Path,
        *,
        variables: Mapping[str, str],
        places: Places,
        dags: Path,
        settings: Mapping[str, object] | None = None,
        emulator: Sequence[str] = (),
    ) -> None:
        self.home = home
        self.airflow_home = home / "airflow"
        for folder in (self.airflow_home / "logs", self.airflow_home / "state"):
            folder.mkdir(parents=True, exist_ok=True)
        port, emulator_port = free_ports(2)
        self.address = f"http://{HOST}:{port}"
        self._variables = {**variables, "AIRFLOW_PORT": str(port)}
        self._services = load(COMPOSE, self._variables)
        password = variables["POSTGRES_PASSWORD"]
        self._here = {
            f"airflow:{password}@postgres:5432/airflow": places.database,
            "redis:6379/0": places.broker,
            "http://s3:8333": places.store,
            "http://api-server:8080": self.address,
            "http://emulator:8000": f"http://{HOST}:{emulator_port}",
            "/opt/airflow/dags": str(dags),
            "/opt/airflow/prepare.py": str(DOCKER / "prepare.py"),
            "/opt/airflow": str(self.airflow_home),
        }
        self._settings = {f"AIRFLOW__{name}": str(value) for name, value in (settings or {}).items()}
        self.api = AirflowApi(self.address, variables["AIRFLOW_ADMIN_PASSWORD"])
        self.members = {
            member.name: member
            for name in AIRFLOW
            for member in self._members(self._services[name], {"8080": str(port)} if name == "api-server" else {})
        }
        self.revived: list[str] = []
        service = self._services["emulator"]
        command = [word.replace("0.0.0.0", HOST).replace("8000", str(emulator_port)) for word in service.command]  # noqa: S104 - compared
        self.emulator = Emulator(home, env=self._env(service), options=emulator, port=emulator_port, command=command)

    def _local(self, text: str) -> str:
        for there, here in self._here.items():
            text = text.replace(there, here)
        return text

    def _env(self, service: Service) -> dict[str, str]:
        env = {name: self._local(value) for name, value in service.environment.items()}
        return {**clean_environment(), **env, **self._settings, "AIRFLOW_HOME": str(self.airflow_home)}

    def _members(self, service: Service, ports: Mapping[str, str]) -> Iterable[Member]:
        for number in range(1, service.replicas + 1):
            name = f"{service.name}-{number}" if service.replicas > 1 else service.name
            asked = PORTS.get(service.name, {})
            taken = {**dict(zip(asked.values(), map(str, free_ports(len(asked))), strict=True)), **ports}
            listens = {variable: taken[port] for variable, port in asked.items()}
            health: Sequence[str] | str = service.health
            for there, here in taken.items():
                at = (f"localhost:{there}", f"{HOST}:{here}")
                health = health.replace(*at) if isinstance(health, str) else [word.replace(*at) for word in health]
            env = {**self._env(service), **listens, "HOSTNAME": f"{name}-{os.getpid()}", "LOGNAME": name}
            yield Member(name, [self._local(word) for word in service.command], env, health)

    def prepare(self) -> None:
        """Run what has to end before the others start.

        :raises StackError: it failed; the message is its last line.
        """
        service = self._services["init"]
        command = [self._local(word) for word in service.command]
        program = Program("init", command, env=self._env(service), log=self.home / "init.log", home=self.home)
        status = program.wait(PREPARED_WITHIN)
        if status is None:
            raise StackError(f"The stack wasn't prepared within {PREPARED_WITHIN:.0f} s.", program.log)
        if status:
            raise StackError(tail(program.log, 1), program.log)

    def start(self) -> None:
        """Start all of Airflow."""
        for member in self.members.values():
            self._start(member)

    def _start(self, member: Member) -> None:
        member.starts += 1
        log = self.home / f"{member.name}.{member.starts}.log"
        member.program = Program(member.name, member.command, env=member.env, log=log, home=self.home)

    def wait_ready(self, seconds: float = READY_WITHIN) -> None:
        """Wait until all of it is healthy and all replicas are there, then log in.

        :raises StackError: a part of it ended, or the time is over.
        """
        self.emulator.wait_ready()
        missing: list[str] = []
        for _ in deadline(seconds):
            for member in self.members.values():
                if member.program is not None:
                    member.program.check()
            missing = self.api.unhealthy() or self._absent()
            if not missing:
                return
        logs = "\n".join(f"{name}: {self.log(name, 5)}" for name in self.members)
        raise StackError(f"Not ready after {seconds:.0f} s: {', '.join(missing)}.\n{logs}")

    def _absent(self) -> list[str]:
        self.api.log_in()
        wanted = self._services["triggerer"].replicas
        workers = [name for name in self.members if name.startswith("worker") and " ready" not in self.log(name, 200)]
        return workers + (["triggerer"] if len(self.api.triggerers()) < wanted else [])

    def log(self, name: str, lines: int = 50) -> str:
        """Return the end of a member's log."""
        member = self.members[name]
        return tail(self.home / f"{name}.{member.starts}.log", lines)

    def process(self, name: str) -> psutil.Process:
        """Return a member's process."""
        program = self.members[name].program
        if program is None:
            raise StackError(f"{name} wasn't started.")
        return psutil.Process(program.pid)

    def kill(self, name: str) -> None:
        """Kill a member and all that it has started, as the end of a machine would."""
        process = self.process(name)
        condemned = [process, *process.children(recursive=True)]
        for each in condemned:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(condemned, timeout=5)

    def revive(self) -> None:
        """Start what has ended once more, and note it."""
        for member in self.members.values():
            if member.program is not None and member.program.status is not None:
                self.revived.append(member.name)
                self._start(member)

    def unwell(self) -> dict[str, str]:
        """Run the health check of each member, and return what the failing ones said."""
        said = {}
        checks = {}
        for name, member in self.members.items():
            command = ["sh", "-c", member.health] if isinstance(member.health, str) else list(member.health)
            log = self.home / f"health-{name}.log"
            checks[name] = Program(f"health check of {name}", command, env=member.env, log=log, home=self.home)
        for name, check in checks.items():
            if check.wait(60) != 0:
                said[name] = tail(check.log)
        return said

    def stop(self, seconds: float = 5) -> None:
        """End all of it; what doesn't heed that is ended with the run."""
        with contextlib.suppress(Exception):
            self.api.close()
        programs = [member.program for member in self.members.values() if member.program is not None]
        for program in programs:
            program.interrupt(0, signal.SIGTERM)
        for _ in deadline(seconds):
            if all(program.status is not None for program in programs):
                break
        self.emulator.stop()
