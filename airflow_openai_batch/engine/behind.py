"""Writing to a remote file goes on while the next lines are made, in one thread, a few pieces behind."""

from __future__ import annotations

import io
import queue
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, BinaryIO

MOST_BEHIND = 8
"""Pieces that may wait to be written; with those of a megabyte that the engine writes, as many megabytes."""


class WriteBehind(io.RawIOBase):
    """Hands what is written to a thread that writes it.

    An error of the thread is raised by the next write, or by :meth:`finish`.

    :param target: the file; nobody else may write to it meanwhile.
    """

    def __init__(self, target: BinaryIO) -> None:
        self._target = target
        self._pieces: queue.Queue[bytes | None] = queue.Queue(MOST_BEHIND)
        self._error: BaseException | None = None
        self._given_up = False
        self._thread = threading.Thread(target=self._run, name="openai-batch-write", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (piece := self._pieces.get()) is not None:
            if self._error is None and not self._given_up:
                try:
                    self._target.write(piece)
                except BaseException as error:  # noqa: BLE001 - raised by whoever writes next
                    self._error = error

    def writable(self) -> bool:
        """Whether it can be written to."""
        return True

    def write(self, piece: Any) -> int:
        """Take a piece; waits while too many are behind."""
        if self._error is not None:
            raise self._error
        self._pieces.put(bytes(piece))
        return len(piece)

    def finish(self) -> None:
        """Return when all is written."""
        self._pieces.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def give_up(self) -> None:
        """Write nothing more; returns when the write under way has ended."""
        self._given_up = True
        if self._thread.is_alive():
            self._pieces.put(None)
            self._thread.join()
