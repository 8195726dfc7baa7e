"""The numbers of a shard's halves, and of theirs. Every process finds the same."""

from __future__ import annotations

FIRST_HALF = 200_000
"""Shards from this number on are halves: those of ``n`` are ``2n`` and ``2n + 1``, whole ones counted from 100,000."""


def halves_of(number: int) -> tuple[int, int]:
    """Return the numbers of a shard's halves; every process finds the same."""
    place = number if number >= FIRST_HALF else number + FIRST_HALF // 2
    return 2 * place, 2 * place + 1


def root_of(number: int) -> int:
    """Return the number of the planned shard that a half, or a half of a half, came from."""
    while number >= FIRST_HALF:
        number //= 2
    return number if number < FIRST_HALF // 2 else number - FIRST_HALF // 2
