"""Writing goes on while the next lines are made, in one thread, a few pieces behind."""

from __future__ import annotations

import io
import queue
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

PIECE = 2 << 20
"""Bytes worth handing over at once: each time the thread takes Python's lock from who makes the next lines."""

MOST_BEHIND = 2
"""Pieces that may wait to be written."""


class WriteBehind(io.RawIOBase):
    """Hands what is written to a thread that writes it.

    An error of the thread is raised by the next write, or by :meth:`finish`.

    :param take: writes a piece; called by the thread, one piece after the other.
    :ivar error: what went wrong in the thread.
    """

    def __init__(self, take: Callable[[bytes], object]) -> None:
        self._take = take
        self._pieces: queue.Queue[list[bytes] | None] = queue.Queue(MOST_BEHIND)
        self.error: BaseException | None = None
        self._given_up = False
        self._thread = threading.Thread(target=self._run, name="openai-batch-write", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (pieces := self._pieces.get()) is not None:
            if self.error is None and not self._given_up:
                try:
                    self._take(b"".join(pieces))
                except BaseException as error:  # noqa: BLE001 - raised by whoever writes next
                    self.error = error

    def writable(self) -> bool:
        """Whether it can be written to."""
        return True

    def write(self, piece: Any) -> int:
        """Take a piece; waits while too many are behind."""
        self.writelines([bytes(piece)])
        return len(piece)

    def writelines(self, lines: Iterable[Any]) -> None:
        """Take many as one piece, which the thread joins; a megabyte and more without Python's lock."""
        if self.error is not None:
            raise self.error
        self._pieces.put(list(lines))

    def finish(self) -> None:
        """Return when all is written."""
        self._pieces.put(None)
        self._thread.join()
        if self.error is not None:
            raise self.error

    def give_up(self) -> None:
        """Write nothing more; returns when the write under way has ended."""
        self._given_up = True
        if self._thread.is_alive():
            self._pieces.put(None)
            self._thread.join()


@contextmanager
def written_behind(take: Callable[[bytes], object]) -> Iterator[WriteBehind]:
    """Give what writes behind; all is written when the block ends, nothing more when it breaks."""
    behind = WriteBehind(take)
    try:
        yield behind
    except BaseException:
        behind.give_up()
        raise
    behind.finish()
