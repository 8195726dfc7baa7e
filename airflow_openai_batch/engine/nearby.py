"""Lines of a file on the local disk, read where they stand, with what stands near them.

A read for each line costs more than parsing it, most of all while other threads wait for Python's lock. OpenAI writes
answers about in the order in which they were asked, so a block that holds one holds many that are wanted soon. Where
that isn't so, and blocks are read for a line each, lines are read one by one for a while.
"""

from __future__ import annotations

import os
from typing import Protocol

_BLOCK = 1 << 20
_OVER = 1 << 14
"""Bytes that a block is read past its end, for lines that begin in it."""

_KEPT = 8
"""Blocks held: of a file and at a time, some 8 MB."""

_PRICE = 128
"""Lines that a block should serve to be worth its reading."""

_CREDIT = 8 * _PRICE


class Read(Protocol):
    """Reads a line."""

    def __call__(self, start: int, length: int) -> bytes:
        """Return the bytes of a line.

        :param start: bytes before it.
        :param length: its own.
        """
        ...


def reader_of(fd: int) -> Read:
    """Return what reads lines of an open file."""
    blocks: dict[int, bytes] = {}
    credit = _CREDIT
    pread = os.pread

    def read(start: int, length: int) -> bytes:
        nonlocal credit
        number, offset = divmod(start, _BLOCK)
        block = blocks.get(number)
        if block is None:
            if credit <= 0:
                credit += 1
                return pread(fd, length, start)
            credit -= _PRICE
            if len(blocks) >= _KEPT:
                del blocks[next(iter(blocks))]
            block = blocks[number] = pread(fd, _BLOCK + _OVER, number * _BLOCK)
        elif credit < _CREDIT:
            credit += 1
        end = offset + length
        return block[offset:end] if end <= len(block) else pread(fd, length, start)

    return read
