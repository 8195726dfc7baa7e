"""Records that are too many for memory: kept in one temporary file, by the first byte of their key.

A record is a key of 16 bytes and a payload. What is gathered is bounded (:data:`GATHERED`); past that it goes to the
file, a chunk for each first byte. Read back, the records of one first byte come in the order in which they were added.
"""

from __future__ import annotations

import os
import struct
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Self

KEY = 16
"""Bytes of a key."""

BUCKETS = 256

GATHERED = 16 << 20
"""Bytes of records that are held in memory, at most."""

_HEAD = struct.Struct(f"<{KEY}sI")


class Spill:
    """Records by the first byte of their key.

    :ivar counts: how many records each bucket has.
    :ivar size: bytes of all payloads.
    """

    def __init__(self) -> None:
        self.counts = [0] * BUCKETS
        self.size = 0
        self._gathered = [bytearray() for _ in range(BUCKETS)]
        self._held = 0
        self._chunks: list[list[tuple[int, int]]] = [[] for _ in range(BUCKETS)]
        self._end = 0
        self._file = tempfile.TemporaryFile(prefix="openai-batch-", buffering=0)  # noqa: SIM115 - closed by close

    def add(self, key: bytes, payload: bytes) -> None:
        """Take a record.

        :raises ValueError: the key isn't 16 bytes long.
        """
        if len(key) != KEY:
            raise ValueError(f"a key has {KEY} bytes, not {len(key)}")
        bucket = key[0]
        gathered = self._gathered[bucket]
        gathered += _HEAD.pack(key, len(payload))
        gathered += payload
        self.counts[bucket] += 1
        self.size += len(payload)
        self._held += _HEAD.size + len(payload)
        if self._held >= GATHERED:
            self.flush()

    def flush(self) -> None:
        """Put what is gathered into the file."""
        if not self._held:
            return
        for bucket, gathered in enumerate(self._gathered):
            if gathered:
                self._file.seek(self._end)
                left = memoryview(gathered)
                while left:
                    left = left[self._file.write(left) :]
                left.release()
                self._chunks[bucket].append((self._end, len(gathered)))
                self._end += len(gathered)
                self._gathered[bucket] = bytearray()
        self._held = 0

    def places(self, bucket: int) -> Iterator[tuple[bytes, int, int]]:
        """Yield each record's key, and where its payload stands: for :meth:`payload`."""
        self.flush()
        for start, length in self._chunks[bucket]:
            chunk, at = self.payload(start, length), 0
            while at < length:
                key, size = _HEAD.unpack_from(chunk, at)
                at += _HEAD.size
                yield key, start + at, size
                at += size

    def records(self, bucket: int) -> Iterator[tuple[bytes, bytes]]:
        """Yield each record's key and payload."""
        self.flush()
        for start, length in self._chunks[bucket]:
            chunk, at = self.payload(start, length), 0
            while at < length:
                key, size = _HEAD.unpack_from(chunk, at)
                at += _HEAD.size
                yield key, chunk[at : at + size]
                at += size

    def payload(self, start: int, length: int) -> bytes:
        """Read what stands in the file."""
        pieces = []
        while length:
            piece = os.pread(self._file.fileno(), length, start)
            if not piece:
                raise EOFError("the temporary file is cut short")
            pieces.append(piece)
            start, length = start + len(piece), length - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()
