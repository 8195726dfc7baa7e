"""Lines are read with what stands near them, whatever the order in which they are asked for."""

from __future__ import annotations

import os
import random

import pytest

from airflow_openai_batch.engine import nearby


@pytest.fixture
def file(tmp_path):
    lines = [
        b"%d:%b\n" % (number, b"x" * (number * 7919 % (40_000 if number % 200 == 7 else 3_000)))
        for number in range(20_000)
    ]
    path = tmp_path / "lines"
    path.write_bytes(b"".join(lines))
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    with path.open("rb") as opened:
        yield opened.fileno(), list(zip(starts, lines, strict=False))


@pytest.fixture
def reads(monkeypatch):
    seen = []
    pread = os.pread

    def counted(fd, length, offset):
        seen.append(length)
        return pread(fd, length, offset)

    monkeypatch.setattr(nearby.os, "pread", counted)
    return seen


def test_lines_in_order_cost_a_read_for_a_block_and_one_for_each_that_ends_beyond(file, reads):
    fd, lines = file
    read = nearby.reader_of(fd)
    assert all(read(start, len(line)) == line for start, line in lines)
    size = sum(len(line) for _, line in lines)
    assert reads.count(nearby._BLOCK + nearby._OVER) == -(-size // nearby._BLOCK)
    assert len(reads) < 2 * -(-size // nearby._BLOCK)


def test_lines_in_no_order_are_right_and_cost_little_more_than_themselves(file, reads):
    fd, lines = file
    read = nearby.reader_of(fd)
    random.Random(1).shuffle(lines)
    assert all(read(start, len(line)) == line for start, line in lines)
    blocks = sum(length > nearby._BLOCK for length in reads)
    assert blocks < 5 * len(lines) / nearby._PRICE


def test_few_blocks_are_held_and_the_lines_of_others_are_found_again(file):
    fd, lines = file
    read = nearby.reader_of(fd)
    assert [read(start, len(line)) for start, line in lines] == [line for _, line in lines]
    assert [read(start, len(line)) for start, line in lines] == [line for _, line in lines]
    held = read.__closure__[[*read.__code__.co_freevars].index("blocks")].cell_contents
    assert len(held) <= nearby._KEPT
