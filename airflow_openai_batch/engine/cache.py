"""Answers that were paid for once, by their request: a folder on the store that jobs share and add to.

::

    cache.json                       version, and what a key is made of
    v1/0-any/<writer>.parquet        answers of one job, of all keys: jobs of ordinary size
    v1/1-a/<writer>.parquet          of the keys that begin with this hex digit: large jobs, and what was merged
    v1/2-ab/<writer>.parquet         with these two: very large ones, and what was merged once more
    v1/1-a/merged-<time>-<id>-<n>.parquet

A key is the BLAKE2b-128 of endpoint and body as JSON with sorted keys: their order doesn't matter, all else does. Only
answers of rows that ``succeeded`` belong here; who adds sees to it. What the files hold is in :mod:`cache_files`.

*Files never change.* A job writes its own under its own name, over what an earlier try of it wrote. When a folder has
more than eight, whoever added to it last merges (:mod:`cache_merge`): the small ones become one file, or, when they are
many entries, a file each in the folders one digit deeper; what was replaced is removed once that is published. Files
larger than all smaller ones together stay as they are, so an entry is written a few times in all. Merging drops expired
entries and older answers of a key. So the number of files grows with the logarithm of the jobs, and with the entries
(a file for some ten thousand); a year of nightly jobs leaves a few dozen. Adding costs one listing more than its files.

*Nobody waits for anybody.* Writers share no file. Two that merge the same files at once leave the entries twice, which
a later merge mends. A reader that finds a file gone lists again: what was in it was published elsewhere before. A job
that adds again while its earlier file is merged away may lose what it adds; that is bought again.

*The newest answer of a key counts*, if it is younger than ``ttl``. Those who share a cache share the ``ttl``: merging
drops what is expired for the one who merges.

*A cache never makes a job fail, nor gives a wrong answer.* What isn't as it was written (the folder of another version,
a damaged file, an answer that isn't a JSON object) is told in a warning and left aside. Only a store that refuses
raises: a ``StoreError``.

*Memory is bounded* by 65,536 keys (:mod:`cache_lookup`) and a row group, not by the keys asked for or the entries that
are there: keys are spilled by their first byte, and the cache is read stretch by stretch, keys first, then the row
groups that have hits. Files of a remote store are copied to the local disk, those of one stretch at a time.
"""

from __future__ import annotations

import hashlib
import logging
import re
from typing import TYPE_CHECKING, Any

import orjson

from airflow_openai_batch.engine.cache_folder import TRANSFERS, Folder, depth_for, folder_of
from airflow_openai_batch.engine.cache_lookup import Lookup
from airflow_openai_batch.engine.cache_merge import tidy
from airflow_openai_batch.engine.crew import take_all
from airflow_openai_batch.engine.endpoints import canonical
from airflow_openai_batch.engine.spill import BUCKETS, KEY, Spill
from airflow_openai_batch.exceptions import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from airflow_openai_batch.engine.cache_files import Entry
    from airflow_openai_batch.engine.store import Store

log = logging.getLogger(__name__)

_WRITER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


def request_key(endpoint: str, body: dict[str, Any]) -> bytes:
    """Return the key of a request: equal for requests that ask the same.

    :param endpoint: OpenAI's path, ``/v1/...``; a known one may lack its ``/v1``.
    :param body: the request's body as it is sent, without anything that changes from run to run.
    """
    told = orjson.dumps([canonical(endpoint), body], option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(told, digest_size=KEY).digest()


class Cache:
    """The cache in one folder.

    :param store: the folder.
    :param ttl: seconds for which an answer counts; None for ever.
    :param clock: seconds of the epoch.
    """

    def __init__(self, store: Store, *, ttl: float | None, clock: Callable[[], float]) -> None:
        self._folder = Folder(store, ttl, clock)

    def look_up(self, keys: Iterable[tuple[bytes, int]]) -> Iterator[tuple[int, bytes]]:
        """Yield the row and the answer, a JSON object, of each key that is there; in any order.

        :param keys: keys with their rows, in any order; a key may have several rows. Read to the end before the first
            answer is given, and not at all where there is no cache.
        :raises StoreError: the store refused.
        """
        if not self._folder.there():
            return
        with Spill() as wanted:
            for key, row in keys:
                wanted.add(key, Lookup.ROW.pack(row))
            lookup = Lookup(self._folder, wanted)
            try:
                yield from lookup.run()
            finally:
                lookup.close()

    def add(self, entries: Iterable[tuple[bytes, bytes]], *, writer: str) -> int:
        """Add answers; return how many keys got one. Of several answers of a key the last counts.

        :param entries: keys and answers, each a JSON object in UTF-8.
        :param writer: names the files: the job's id. The same writer writes over what it wrote before.
        :raises StoreError: the store refused; what was written until then stays, and does no harm.
        """
        cache = self._folder
        there = cache.there()
        if there is None:
            return 0
        with Spill() as spill:
            for key, answer in entries:
                spill.add(key, answer)
            rows = sum(spill.counts)
            if not rows:
                return 0
            spill.flush()
            if not there:
                cache.begin()
            depth = depth_for(rows, spill.size)
            folders: dict[str, list[int]] = {}
            for bucket in range(BUCKETS):
                if spill.counts[bucket]:
                    folders.setdefault(folder_of(bytes([bucket]), depth), []).append(bucket)
            file = writer if _WRITER.fullmatch(writer) else hashlib.blake2b(writer.encode(), digest_size=16).hexdigest()
            now, added = cache.now(), []

            def write(folder: str) -> bool:
                added.append(cache.write(f"{folder}/{file}.parquet", _sorted(spill, folders[folder], now)))
                return True

            take_all(list(folders), write, 1 if cache.store.is_local else TRANSFERS)
        try:
            tidy(cache, list(folders))
        except StoreError as error:
            log.warning("The answers are in the cache, but its files couldn't be merged: %s", error)
        return sum(added)


def _sorted(spill: Spill, buckets: list[int], created: int) -> Iterator[Entry]:
    """Yield entries in the order of their keys; those of one bucket are indexed at a time."""
    for bucket in buckets:
        places = {key: (start, size) for key, start, size in spill.places(bucket)}
        for key in sorted(places):
            yield key, created, spill.payload(*places[key])
