"""PostgreSQL, Redis and SeaweedFS as plain processes on free ports, with data of their own that goes when they stop.

They are what the production stack needs besides Airflow. A server that was killed starts again on the same port with
the data it had, as it would in production.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import httpx

from tools.processes import HOST, Program, StackError, deadline, free_ports, tail

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

READY_WITHIN = 60.0


def find(program: str) -> str | None:
    """Find a server's program: on the path, or where Debian keeps those of PostgreSQL."""
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"), key=lambda path: path.parts[-3].zfill(4))
    return shutil.which(program) or (str(versions[-1]) if versions else None)


def missing(programs: Iterable[str]) -> list[str]:
    """Return the programs that aren't on this machine."""
    return [program for program in programs if find(program) is None]


def accepts(address: str) -> bool:
    """Whether somebody listens at ``host:port``."""
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
        return True
    return False


class Server:
    """A server on a port of its own.

    :param home: the run's folder; the log goes there.
    :param env: the environment to start it in.
    :param options: arguments that come before those that are made here, which win.
    :param port: where it listens; ``None`` takes a free port.
    """

    name: ClassVar[str]
    programs: ClassVar[tuple[str, ...]]
    """What must be on the machine."""

    def __init__(
        self, home: Path, *, env: Mapping[str, str], options: Sequence[str] = (), port: int | None = None
    ) -> None:
        if lacking := missing(self.programs):
            raise StackError(f"{self.name} can't be started: {', '.join(lacking)} isn't on this machine.")
        self.port = port or free_ports(1)[0]
        self.address = f"{HOST}:{self.port}"
        self.data = Path(tempfile.mkdtemp(prefix=f"openai-batch-{self.name.lower()}-"))
        self.env = env
        self.options = options
        self.user: str | None = None
        self._home = home
        self._starts = 0
        self._program: Program | None = None

    def command(self) -> list[str]:
        """Return program and arguments."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Whether it is ready."""
        return accepts(self.address)

    def start(self, seconds: float = READY_WITHIN) -> None:
        """Start it, with the data it had, and wait until it answers.

        :raises StackError: it ended, or the time is over.
        """
        self._starts += 1
        log = self._home / f"{self.name.lower()}-{self._starts}.log"
        program = Program(self.name, self.command(), env=self.env, log=log, home=self._home, user=self.user)
        self._program = program
        for _ in deadline(seconds, pause=0.1):
            program.check()
            if self.answers():
                return
        raise StackError(f"{self.name} didn't answer within {seconds:.0f} s.\n{tail(log)}", log)

    def end(self, seconds: float = 10, number: int = signal.SIGINT) -> bool:
        """End it and keep its data; return whether it has ended."""
        return self._program is None or self._program.interrupt(seconds, number)

    def stop(self) -> None:
        """End it, kindly or not, and remove its data."""
        self.end(2) or self.end(5, signal.SIGKILL)
        shutil.rmtree(self.data, ignore_errors=True)


class Postgres(Server):
    """PostgreSQL with a user ``airflow``; everybody on this machine is trusted."""

    name = "PostgreSQL"
    programs = ("initdb", "postgres", "pg_isready")

    def __init__(
        self, home: Path, *, env: Mapping[str, str], options: Sequence[str] = (), port: int | None = None
    ) -> None:
        super().__init__(home, env=env, options=options, port=port)
        if os.geteuid() == 0:
            # It refuses to run as root.
            accounts = {account.pw_name for account in pwd.getpwall()}
            self.user = "postgres" if "postgres" in accounts else "nobody"
            shutil.chown(self.data, self.user)
        initdb = Program(
            "initdb",
            [str(find("initdb")), "-D", str(self.data), "-U", "airflow", "-A", "trust", "-E", "UTF8", "--no-sync"],
            env={**env, "LC_ALL": "C.UTF-8"},
            log=home / "initdb.log",
            home=home,
            user=self.user,
        )
        if initdb.wait(READY_WITHIN) != 0:
            raise StackError(f"PostgreSQL's initdb failed.\n{tail(initdb.log)}", initdb.log)

    def command(self) -> list[str]:
        """Return program and arguments."""
        settings = {"listen_addresses": HOST, "unix_socket_directories": "", "fsync": "off"}
        ours = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [str(find("postgres")), *self.options, "-D", str(self.data), "-p", str(self.port), *ours]

    def answers(self) -> bool:
        """Whether it takes connections; while it recovers it listens and takes none."""
        command = [str(find("pg_isready")), "-q", "-h", HOST, "-p", str(self.port)]
        return subprocess.run(command, check=False).returncode == 0

    @property
    def url(self) -> str:
        """The address of its own database, without a driver."""
        return f"postgresql://airflow@{self.address}/postgres"


class Redis(Server):
    """Redis that writes down what it holds, so that it has it again after a restart."""

    name = "Redis"
    programs = ("redis-server",)

    def command(self) -> list[str]:
        """Return program and arguments."""
        settings = {"bind": HOST, "port": self.port, "dir": self.data, "appendonly": "yes"}
        ours = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        return [str(find("redis-server")), *self.options, *ours]

    @property
    def url(self) -> str:
        """Its first database's address."""
        return f"redis://{self.address}/0"


class SeaweedFS(Server):
    """SeaweedFS's S3 server, which keeps what it is given and checks who asks.

    :param identities: who may do what: ``(access key, secret key, actions)`` by name. The actions are those of
        SeaweedFS: ``Admin``, ``Read``, ``Write``, ``List``, each also for one bucket (``Read:bucket``). ``None``: the
        keys of ``AWS_ACCESS_KEY_ID`` in its environment may do all.
    """

    name = "SeaweedFS"
    programs = ("weed",)

    def __init__(
        self,
        home: Path,
        *,
        env: Mapping[str, str],
        options: Sequence[str] = (),
        port: int | None = None,
        identities: Mapping[str, tuple[str, str, Sequence[str]]] | None = None,
    ) -> None:
        super().__init__(home, env=env, options=options, port=port)
        self.endpoint = f"http://{self.address}"
        names = ["s3.port.grpc", "filer.port", "filer.port.grpc", "master.port", "master.port.grpc"]
        names += ["volume.port", "volume.port.grpc"]
        self._ports = dict(zip(names, free_ports(len(names)), strict=True))
        self._config: Path | None = None
        if identities is not None:
            known = [
                {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": list(actions)}
                for name, (key, secret, actions) in identities.items()
            ]
            self._config = self.data / "s3.json"
            self._config.write_text(json.dumps({"identities": known}))

    def command(self) -> list[str]:
        """Return program and arguments."""
        settings: dict[str, object] = {"dir": self.data, "ip": HOST, "ip.bind": HOST, "master.telemetry": "false"}
        settings |= {"master.volumeSizeLimitMB": 256, "volume.max": 100, "s3": "true", "s3.port": self.port}
        settings |= {"s3.port.iceberg": 0, "s3.port.lance": 0, "s3.autoCreateBucket": "false", **self._ports}
        if self._config is not None:
            settings["s3.config"] = self._config
        options = list(self.options) or ["server"]
        return [str(find("weed")), *options, *(f"-{name}={value}" for name, value in settings.items())]

    def answers(self) -> bool:
        """Whether it is ready."""
        try:
            return httpx.get(f"{self.endpoint}/healthz", trust_env=False).is_success
        except httpx.TransportError:
            return False
