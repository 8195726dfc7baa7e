"""Merging of the cache's files, so that their number stays small. See :mod:`cache` for when, and why it is safe."""

from __future__ import annotations

import heapq
import itertools
import uuid
from typing import TYPE_CHECKING

from airflow_openai_batch.engine.cache_files import DamagedError, Entry, FileReader, GoneError, means_gone
from airflow_openai_batch.engine.cache_folder import DEEPEST, depth_for, depth_of, folder_of
from airflow_openai_batch.exceptions import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_openai_batch.engine.cache_folder import Folder

FILES_MOST = 8
"""Files of a folder past which they are merged."""

_MERGED_MOST = 32
"""Files that are merged at once: each takes the memory of a row group."""

_PROBE = "probe"


def tidy(cache: Folder, folders: list[str]) -> None:
    """Merge what is in some folders, and in those that this fills, where it is too many files.

    :raises StoreError: the store refused. Nothing is lost then.
    """
    while folders:
        by_folder: dict[str, list[str]] = {}
        for file in cache.files():
            by_folder.setdefault(file.folder, []).append(file.name)
        full = [folder for folder in folders if len(by_folder.get(folder, ())) > FILES_MOST]
        if full:
            _prove_removal(cache)
        folders = []
        for folder in full:
            try:
                made = _merge(cache, folder, by_folder[folder])
            except GoneError:
                # Another merges them.
                continue
            folders += [name for name in made if name != folder]


def _prove_removal(cache: Folder) -> None:
    """Prove that files can be removed: else each merge would only add one."""
    cache.store.put(_PROBE, b"")
    cache.store.remove([_PROBE])


def _small(cache: Folder, names: list[str]) -> list[str]:
    """Leave out files that are larger than all smaller ones together: each entry is merged a few times in all.

    :raises GoneError: one isn't there any more.
    """
    try:
        sizes = {name: cache.store.size(name) for name in names}
    except StoreError as error:
        if means_gone(error.__cause__):
            raise GoneError(error) from error
        raise
    names = sorted(names, key=lambda name: (sizes[name], name))
    while len(names) > 1 and sizes[names[-1]] > sum(sizes[name] for name in names[:-1]):
        names.pop()
    return names[:_MERGED_MOST]


def _merge(cache: Folder, folder: str, names: list[str]) -> list[str]:
    """Merge the small files of a folder; return the folders that got something.

    :raises GoneError: another merges them.
    """
    readers = cache.open(_small(cache, names))
    try:
        if len(readers) <= 1:
            return []
        depth = depth_of(folder)
        if depth_for(sum(reader.rows for reader in readers), sum(reader.size for reader in readers)):
            depth = min(depth + 1, DEEPEST)
        merging = _Merging(cache, readers)
        made, stamp = [], f"merged-{cache.now():012d}-{uuid.uuid4().hex[:12]}"
        parts = itertools.groupby(merging.entries(), key=lambda entry: folder_of(entry[0], depth))
        for number, (target, entries) in enumerate(parts):
            cache.write(f"{target}/{stamp}-{number:03d}.parquet", entries)
            made.append(target)
    finally:
        for reader in readers:
            reader.close()
    cache.store.remove([reader.name for reader in readers if reader.name not in merging.cut])
    return made


class _Merging:
    """Entries of several files: in the order of their keys, the newest of each, without those that are expired.

    :ivar cut: files of which a part can't be read. They stay where they are.
    """

    def __init__(self, cache: Folder, readers: list[FileReader]) -> None:
        self._cache = cache
        self._readers = readers
        self.cut: set[str] = set()

    def entries(self) -> Iterator[Entry]:
        oldest, before = self._cache.oldest(), b""
        files = [self._of(reader) for reader in self._readers]
        for entry in heapq.merge(*files, key=lambda entry: (entry[0], -entry[1])):
            if entry[0] != before and entry[1] > oldest:
                yield entry
            before = entry[0]

    def _of(self, reader: FileReader) -> Iterator[Entry]:
        try:
            yield from reader.entries()
        except DamagedError as error:
            self.cut.add(reader.name)
            self._cache.damaged(reader.name, error)
