"""The folder of the answer cache on the store: what is in it, and whether it is one that can be read.

A file stands in the folder of the hex digits that all its keys begin with. Depths sort before what they are merged
into, so that a listing of many pages can't miss a file and its successor both.
"""

from __future__ import annotations

import logging
import re
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import orjson

from airflow_openai_batch.engine.cache_files import (
    VERSION,
    DamagedError,
    Entry,
    FileReader,
    FileWriter,
    GoneError,
    fetch,
)
from airflow_openai_batch.exceptions import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from airflow_openai_batch.engine.store import Store

log = logging.getLogger(__name__)

HEAD = "cache.json"
FILES = f"v{VERSION}"
DEEPEST = 2
"""Most hex digits of a folder."""

TRANSFERS = 2
"""Files that come or go at once, where the store is remote: s3fs holds some tens of megabytes for each."""

SPLIT_ROWS = 262_144
SPLIT_BYTES = 256 << 20
"""Entries, or bytes of them, from which on a file is split by the next hex digit of the keys."""

_HEAD = {
    "format": "airflow-openai-batch cache",
    "version": VERSION,
    "key": "blake2b-128 of [endpoint, body] as JSON with sorted keys",
}
_NAME = re.compile(rf"{FILES}/(0-any|1-[0-9a-f]|2-[0-9a-f]{{2}})/[^/]+\.parquet")


class File(NamedTuple):
    """A file of the listing: its folder, and the first bytes that its keys may have."""

    name: str
    folder: str
    first: int
    last: int


def folder_of(key: bytes, depth: int) -> str:
    """Return the folder of a key, so many hex digits deep."""
    return f"{FILES}/{depth}-{key[:1].hex()[:depth] or 'any'}"


def depth_of(folder: str) -> int:
    """Return how deep a folder is."""
    return int(folder.rsplit("/", 1)[1][0])


def depth_for(rows: int, size: int) -> int:
    """Return how deep the files of so many entries belong."""
    scale = max(rows / SPLIT_ROWS, size / SPLIT_BYTES)
    return next((depth for depth in range(DEEPEST) if scale < 16**depth), DEEPEST)


def _file(name: str) -> File:
    folder = name.rsplit("/", 1)[0]
    digits = folder.rsplit("-", 1)[1].replace("any", "")
    return File(name, folder, int(digits.ljust(2, "0"), 16), int(digits.ljust(2, "f"), 16))


class Folder:
    """The cache's folder.

    :param store: the folder.
    :param ttl: seconds for which an answer counts; None for ever.
    :param clock: seconds of the epoch.
    """

    def __init__(self, store: Store, ttl: float | None, clock: Callable[[], float]) -> None:
        self.store = store
        self._ttl = ttl
        self._clock = clock
        self._warned: set[str] = set()

    def now(self) -> int:
        """Return the time as entries have it."""
        return int(self._clock())

    def oldest(self) -> float:
        """Return the time after which an answer must have been added."""
        return float("-inf") if self._ttl is None else self._clock() - self._ttl

    def there(self) -> bool | None:
        """Whether there is a cache; None where it is none that can be used, which is warned of."""
        head = self.store.read(HEAD)
        if head is None:
            return False
        try:
            told = orjson.loads(head)
        except orjson.JSONDecodeError:
            told = None
        if told == _HEAD:
            return True
        version = told.get("version") if isinstance(told, dict) else None
        if version in {None, VERSION}:
            why = f"its {HEAD} is damaged, or not one of a cache"
        else:
            why = f"it is of version {version}, and this is version {VERSION}"
        self._warn(HEAD, f"The cache at {self.store.url} is ignored: {why}. Name another folder, or remove this one.")
        return None

    def begin(self) -> None:
        """Make it a cache."""
        self.store.put(HEAD, orjson.dumps(_HEAD, option=orjson.OPT_INDENT_2))

    def _warn(self, name: str, message: str) -> None:
        if name not in self._warned:
            self._warned.add(name)
            log.warning("%s", message)

    def damaged(self, name: str, why: object) -> None:
        """Warn of a damaged file, once."""
        self._warn(
            name,
            f"{self.store.address(name)} of the cache is damaged ({why}); what can't be read of it is ignored, and "
            "bought again when it is asked for. Remove the file to end this warning.",
        )

    def files(self) -> list[File]:
        """List the files."""
        return [_file(name) for name in self.store.below(FILES) if _NAME.fullmatch(name)]

    def open(self, names: list[str]) -> list[FileReader]:
        """Open files; those that are damaged are left out.

        :raises GoneError: one isn't there any more.
        :raises StoreError: the store refused.
        """
        if self.store.is_local or len(names) <= 1:
            return _all_of(map(self._open, names))
        with ThreadPoolExecutor(TRANSFERS, thread_name_prefix="openai-batch-cache") as pool:
            return _all_of(map(Future.result, [pool.submit(self._open, name) for name in names]))

    def _open(self, name: str) -> FileReader | None:
        file = fetch(self.store, name)
        try:
            return FileReader(file, name)
        except DamagedError as error:
            self.damaged(name, error)
            return None

    def write(self, name: str, entries: Iterable[Entry]) -> int:
        """Publish a file; return how many entries it has."""
        with self.store.publish(name) as target:
            file = FileWriter(target)
            for key, created, answer in entries:
                file.add(key, created, answer)
            file.close()
        return file.rows


def _all_of(coming: Iterator[FileReader | None]) -> list[FileReader]:
    """Return all, or close all and raise the first error."""
    readers: list[FileReader] = []
    error: Exception | None = None
    while True:
        try:
            reader = next(coming)
        except StopIteration:
            break
        except (GoneError, StoreError) as failed:
            error = error or failed
        else:
            readers += [reader] if reader is not None else []
    if error is not None:
        for reader in readers:
            reader.close()
        raise error
    return readers
