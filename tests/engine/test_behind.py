"""A file is written by a thread, a few pieces behind."""

from __future__ import annotations

import io
import threading

import pytest

from airflow_openai_batch.engine.behind import MOST_BEHIND, WriteBehind


def test_all_pieces_are_written_in_their_order():
    target = io.BytesIO()
    behind = WriteBehind(target.write)
    for number in range(100):
        behind.write(b"%d," % number)
    behind.finish()
    assert target.getvalue() == b"".join(b"%d," % number for number in range(100))


def test_lines_are_handed_over_together_and_joined():
    pieces = []
    behind = WriteBehind(pieces.append)
    lines = [b"a", b"b"]
    behind.writelines(lines)
    lines.clear()
    behind.writelines([])
    behind.finish()
    assert pieces == [b"ab", b""]


def test_the_writer_waits_when_too_many_pieces_are_behind():
    free = threading.Event()

    class Slow(io.BytesIO):
        def write(self, piece):
            free.wait(10)
            return super().write(piece)

    behind = WriteBehind(Slow().write)
    done = threading.Event()

    def write():
        for _ in range(MOST_BEHIND + 3):
            behind.write(b"x")
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    assert not done.wait(0.3)
    free.set()
    assert done.wait(10)
    thread.join()
    behind.finish()


class Broken(io.BytesIO):
    def write(self, _piece):
        raise OSError("disk full")


def test_an_error_is_raised_by_a_later_write():
    behind = WriteBehind(Broken().write)

    def write():
        for _ in range(1000):
            behind.write(b"x")

    with pytest.raises(OSError, match="disk full"):
        write()
    behind.give_up()


def test_an_error_of_the_last_piece_is_raised_at_the_end():
    behind = WriteBehind(Broken().write)
    behind.write(b"x")
    with pytest.raises(OSError, match="disk full"):
        behind.finish()
    behind.give_up()


def test_what_is_given_up_is_written_no_further_and_leaves_no_thread():
    target, free = io.BytesIO(), threading.Event()

    class Slow(io.BytesIO):
        def write(self, piece):
            free.wait(10)
            return target.write(piece)

    behind = WriteBehind(Slow().write)
    for _ in range(MOST_BEHIND):
        behind.write(b"x")
    threading.Timer(0.1, free.set).start()
    behind.give_up()
    assert len(target.getvalue()) <= 1
    assert not behind._thread.is_alive()
