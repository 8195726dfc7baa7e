"""Programs that this project starts, and the promise that none of them outlives it.

Every program starts in a session of its own, so that Ctrl-C in a terminal reaches it only through us, and carries
the variable ``MARK`` in its environment, which its descendants inherit wherever they go. So whatever a run left
behind, even one that was killed, can be found again, and nothing else is ever touched.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import threading
import time
from typing import IO, TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

MARK = "OPENAI_BATCH_STACK"
HOST = "127.0.0.1"
# Every child, so that it is reaped by whatever ends it.
_children: list[subprocess.Popen[bytes]] = []


class StackError(Exception):
    """Something that this project starts didn't start, broke, or was in the way.

    :param reason: what happened, for the user.
    :param log: where to read more.
    """

    def __init__(self, reason: str, log: Path | None = None) -> None:
        super().__init__(reason)
        self.log = log


class Program:
    """A program in a session of its own, with its output in a file.

    :param name: what to call it in messages.
    :param command: the program and its arguments.
    :param env: its whole environment.
    :param log: the file that takes its output; replaced.
    :param home: the folder that stands for the run that the program belongs to.
    :param user: the account that it runs as; only root can give another than its own.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        home: Path,
        user: str | None = None,
    ) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output, _heeded_signals():
            self._process = subprocess.Popen(
                command,
                env={**env, **mark(home)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=user,
            )
        _children.append(self._process)

    @property
    def pid(self) -> int:
        """The process, which is also the session and the process group."""
        return self._process.pid

    def check(self) -> None:
        """Raise if the program has ended."""
        if (status := self._process.poll()) is not None:
            raise StackError(f"The {self.name} ended with status {status}.\n{tail(self.log)}", self.log)

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.poll()

    def wait(self, seconds: float) -> int | None:
        """Wait for its end and return its exit status; None if it still runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self._process.poll()

    def interrupt(self, seconds: float, number: int = signal.SIGINT) -> bool:
        """Send a signal to end, and wait.

        :param seconds: how long to wait for the end.
        :param number: the signal.
        :return: whether the program has ended.
        """
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
        return self.wait(seconds) is not None


@contextlib.contextmanager
def _heeded_signals() -> Iterator[None]:
    """Let a child heed SIGINT and SIGQUIT even if this process, in a shell's background, ignores them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ignored = [number for number in (signal.SIGINT, signal.SIGQUIT) if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, lambda *_: None)
    try:
        yield
    finally:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)


def mark(home: Path) -> dict[str, str]:
    """Return the variables by which a run's processes are found again."""
    # SPT_NOENV: setproctitle, which Airflow uses, would otherwise write the titles over the environment.
    return {MARK: str(home.resolve()), "SPT_NOENV": "1"}


def marked(home: Path) -> list[psutil.Process]:
    """Find the living processes of a run, this process aside."""
    found = []
    wanted = mark(home)[MARK]
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(MARK) == wanted:
                found.append(process)
    return [process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def end_marked(home: Path, *, seconds: float = 5) -> int:
    """End what is left of a run: SIGTERM first, SIGKILL to those that are still there.

    :param home: the run's folder.
    :param seconds: how long SIGTERM may take.
    :return: how many processes there were.
    """
    count = 0
    for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, seconds)):
        left = marked(home)
        count = max(count, len(left))
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)
        psutil.wait_procs(left, timeout=patience)
    for child in _children:
        child.poll()
    return count


def lock(path: Path) -> IO[Any]:
    """Take a lock that ends with this process, however it ends.

    :param path: the lock's file.
    :return: the open file; closing it gives the lock back.
    :raises StackError: another process has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise StackError(f"Another run is under way here (process {owner}). Stop it, or wait for its end.") from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def free_ports(count: int) -> list[int]:
    """Find ports on the loopback interface that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


def check_port(port: int, what: str) -> None:
    """Raise if somebody already listens on a port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise StackError(f"Port {port}, wanted for {what}, is taken: {error.strerror}.") from None


def tail(log: Path, lines: int = 15) -> str:
    """Return the end of a log."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


def deadline(seconds: float, pause: float = 0.25) -> Iterator[float]:
    """Yield the seconds gone by, again and again with a pause between, until the time is over."""
    start = time.monotonic()
    while (gone := time.monotonic() - start) < seconds:
        yield gone
        time.sleep(pause)
