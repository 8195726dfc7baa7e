"""One look into the cache: stretch by stretch of the keys' first bytes; keys first, then the answers wanted."""

from __future__ import annotations

import struct
from array import array
from itertools import groupby
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import orjson

from airflow_openai_batch.engine.cache_files import DamagedError, FileReader, GoneError
from airflow_openai_batch.engine.spill import BUCKETS

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from airflow_openai_batch.engine.cache_folder import File, Folder
    from airflow_openai_batch.engine.spill import Spill

KEYS_AT_ONCE = 65_536
"""Keys that are looked up together; a first byte that more keys have is one stretch nevertheless."""

FILES_AT_ONCE = 32
"""Files that are open together, unless those of one first byte are more."""

_ROWS_HELD = 1_024
"""Rows of one key that are held in memory; a key that has more has them read again from the spill."""

_TRIES = 5
"""How often a stretch is begun again because files were merged away from under it."""


class _Hit(NamedTuple):
    """Where the newest answer of a key stands: sorts by age first."""

    created: int
    file: str
    group: int
    row: int


class Lookup:
    """Looks up keys.

    :param wanted: the keys, each with a row (:attr:`ROW`).
    """

    ROW: ClassVar[struct.Struct] = struct.Struct("<q")

    def __init__(self, cache: Folder, wanted: Spill) -> None:
        self._cache = cache
        self._wanted = wanted
        self._oldest = cache.oldest()
        self._files: list[File] = []
        self._readers: dict[str, tuple[File, FileReader]] = {}
        self._left: set[str] = set()

    def run(self) -> Iterator[tuple[int, bytes]]:
        """Yield rows and answers.

        :raises StoreError: the store refused.
        """
        self._files = self._cache.files()
        counts, first = self._wanted.counts, 0
        while first < BUCKETS:
            if not counts[first]:
                first += 1
                continue
            last, readers = self._ready(first)
            yield from self._stretch(first, last, readers)
            self._drop(last + 1)
            first = last + 1

    def close(self) -> None:
        """Close all files."""
        self._drop(BUCKETS)

    def _drop(self, first: int) -> None:
        """Close the files that have no key from a first byte on."""
        for name, (file, reader) in list(self._readers.items()):
            if file.last < first:
                reader.close()
                del self._readers[name]

    def _ready(self, first: int) -> tuple[int, list[FileReader]]:
        """Open the files of the stretch that begins there; return its end and the files."""
        for _ in range(_TRIES):
            last = self._last(first)
            try:
                return last, self._opened(first, last)
            except GoneError:
                self._files = self._cache.files()
        # Whatever the store lists, it doesn't give.
        last = self._last(first)
        for file in self._overlapping(first, last):
            try:
                self._open([file])
            except GoneError:
                self._left.add(file.name)
                self._cache.damaged(file.name, "it is listed and can't be found")
        return last, self._opened(first, last)

    def _opened(self, first: int, last: int) -> list[FileReader]:
        self._open(self._overlapping(first, last))
        return [reader for file, reader in self._readers.values() if file.first <= last and file.last >= first]

    def _open(self, files: list[File]) -> None:
        new = {file.name: file for file in files if file.name not in self._readers and file.name not in self._left}
        for reader in self._cache.open(list(new)):
            self._readers[reader.name] = new.pop(reader.name), reader
        self._left.update(new)

    def _overlapping(self, first: int, last: int) -> list[File]:
        return [file for file in self._files if file.first <= last and file.last >= first]

    def _last(self, first: int) -> int:
        """Return where a stretch ends: at as many first bytes as keep keys and files few."""
        counts = self._wanted.counts
        last, keys = first, counts[first]
        most = max(FILES_AT_ONCE, len(self._overlapping(first, first)))
        while last + 1 < BUCKETS:
            keys += counts[last + 1]
            if keys > KEYS_AT_ONCE or len(self._overlapping(first, last + 1)) > most:
                break
            last += 1
        return last

    def _stretch(self, first: int, last: int, readers: list[FileReader]) -> Iterator[tuple[int, bytes]]:
        rows, many = self._rows(first, last)
        hits = self._hits(first, last, readers, rows)
        by_name = {reader.name: reader for reader in readers}
        found = sorted((hit.file, hit.group, hit.row, key) for key, hit in hits.items())
        for (name, group), places in groupby(found, key=lambda place: place[:2]):
            wanted = [(row, key) for _, _, row, key in places]
            for key, answer in self._answers(by_name[name], group, wanted):
                held = (row for number, row in self._rows_of(key[0]) if number == key) if key in many else rows[key]
                for row in held:
                    yield row, answer

    def _rows_of(self, bucket: int) -> Iterator[tuple[bytes, int]]:
        for key, row in self._wanted.records(bucket):
            yield key, self.ROW.unpack(row)[0]

    def _rows(self, first: int, last: int) -> tuple[dict[bytes, array[int]], set[bytes]]:
        """Return the rows of each key, and the keys that have too many."""
        rows: dict[bytes, array[int]] = {}
        many: set[bytes] = set()
        for bucket in range(first, last + 1):
            for key, row in self._rows_of(bucket):
                held = rows.get(key)
                if held is None:
                    rows[key] = array("q", (row,))
                elif len(held) < _ROWS_HELD:
                    held.append(row)
                else:
                    many.add(key)
        return rows, many

    def _hits(self, first: int, last: int, readers: list[FileReader], wanted: Container[bytes]) -> dict[bytes, _Hit]:
        """Return where the newest answer of each key stands."""
        hits: dict[bytes, _Hit] = {}
        oldest = self._oldest
        for reader in readers:
            for group in reader.overlapping(first, last):
                try:
                    keys, times = reader.keys(group)
                except DamagedError as error:
                    self._cache.damaged(reader.name, error)
                    continue
                for row, key in enumerate(keys):
                    if key in wanted and times[row] > oldest:
                        hit = _Hit(times[row], reader.name, group, row)
                        if key not in hits or hits[key] < hit:
                            hits[key] = hit
        return hits

    def _answers(
        self, reader: FileReader, group: int, wanted: list[tuple[int, bytes]]
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield keys and answers of a row group."""
        try:
            answers = reader.answers(group, [row for row, _ in wanted])
        except DamagedError as error:
            self._cache.damaged(reader.name, error)
            return
        for (_, key), answer in zip(wanted, answers, strict=True):
            if _is_object(answer):
                yield key, answer
            else:
                self._cache.damaged(reader.name, "an answer is no JSON object")


def _is_object(answer: bytes) -> bool:
    try:
        return isinstance(orjson.loads(answer), dict)
    except orjson.JSONDecodeError:
        return False
