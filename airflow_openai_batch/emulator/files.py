"""Files: metadata in memory, bytes on disk.

The bytes of a file never change once it has an id. A file that a batch is reading is pinned: deleting it makes it
vanish from the API at once, as at the service, while its bytes stay until the batch has ended.
"""

from __future__ import annotations

import codecs
import shutil
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, Generic, Protocol, TypeVar

import orjson

from airflow_openai_batch.emulator import ids
from airflow_openai_batch.emulator.errors import APIError
from airflow_openai_batch.emulator.projects import PROJECT, is_visible

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from airflow_openai_batch.emulator.clock import Clock
    from airflow_openai_batch.emulator.ledger import Ledger

# The service keeps batch inputs and outputs for 30 days unless told otherwise; files of other purposes stay.
BATCH_FILE_LIFE = 30 * 86_400
PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
NOT_JSONL = "Invalid file format for Batch API. Must be .jsonl"
NOT_UTF8 = "Invalid file for Batch API. Must be utf-8 encoded"
EMPTY = "File is empty."
TOO_LARGE = "File is too large."
_PIECE = 1024 * 1024


class _Listed(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=_Listed)


class Cursor(Generic[T]):
    """Pages over things in order of creation.

    A cursor may point at something that is gone by now: its place is remembered, so that a client that deletes while
    it pages misses nothing.
    """

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def add(self, item_id: str) -> None:
        """Give the newest thing its place."""
        self._places[item_id] = len(self._places)

    def page(self, items: Iterable[T], *, after: str | None, limit: int, ascending: bool = False) -> dict[str, Any]:
        """Return a page's frame, with the items themselves under ``data``.

        :param items: what can be listed, in order of creation.
        :param after: id of the last item of the page before.
        :param limit: most items on the page.
        :param ascending: oldest first instead of newest first.
        """
        ordered = list(items)
        if not ascending:
            ordered.reverse()
        if after is not None:
            place = self._places.get(after)
            if place is None:
                raise APIError(400, f"Invalid 'after': no such object: {after}", code="invalid_value", param="after")
            ordered = [item for item in ordered if (self._places[item.id] > place) == ascending and item.id != after]
        data = ordered[:limit]
        return {
            "object": "list",
            "data": data,
            "first_id": data[0].id if data else None,
            "last_id": data[-1].id if data else None,
            "has_more": len(ordered) > limit,
        }


@dataclass(slots=True)
class StoredFile:
    """A file that exists.

    :param hidden_until: moment of the monotonic clock before which batches can't find the file (a fault).
    :param pending_until: moment of the monotonic clock before which it isn't processed (an oddity).
    :param project: whose it is.
    :param pins: batches that read it now.
    """

    id: str
    path: Path
    filename: str
    purpose: str
    size: int
    created_at: int
    expires_at: int | None
    hidden_until: float = 0.0
    pending_until: float = 0.0
    project: str = field(default_factory=PROJECT.get)
    pins: int = field(default=0)
    deleted: bool = field(default=False)

    @property
    def status(self) -> str:
        """Whether a batch can be made of it yet."""
        return "pending" if self.pending_until > time.monotonic() else "processed"

    def to_json(self) -> dict[str, Any]:
        """Return the API's File object."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.size,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": self.status,
            "status_details": None,
        }


def no_such_file(file_id: str) -> APIError:
    """Return the 404 of a file that isn't there."""
    return APIError(404, f"No such File object: {file_id}", param="id")


def check_batch_file(path: Path, filename: str) -> None:
    """Make the checks of an upload with ``purpose=batch``; all others wait until a batch is made of the file.

    :raises APIError: 400 for a name that isn't ``*.jsonl``, an empty file, an only line that isn't JSON, or bytes
        that aren't UTF-8.
    """
    if not filename.lower().endswith(".jsonl"):
        raise APIError(400, NOT_JSONL)
    if not path.stat().st_size:
        raise APIError(400, EMPTY)
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                decoder.decode(piece)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise APIError(400, NOT_UTF8) from None
    with path.open("rb") as file:
        first, second = file.readline(), file.readline()
    if first.strip() and not second.strip():
        try:
            orjson.loads(first)
        except orjson.JSONDecodeError:
            raise APIError(400, NOT_JSONL) from None


class FileStore:
    """All files. Lives on the event loop, but for :meth:`scratch` and :meth:`save`, which any thread may call.

    :param directory: where the bytes go, one file per id.
    """

    def __init__(self, directory: Path, clock: Clock, ledger: Ledger) -> None:
        self.directory = directory
        self._clock = clock
        self._ledger = ledger
        self._files: dict[str, StoredFile] = {}
        self._cursor = Cursor[StoredFile]()

    def scratch(self) -> Path:
        """Return a path for bytes that are no file yet."""
        return self.directory / ids.new_id("scratch-")

    def save(self, source: BinaryIO) -> Path:
        """Copy ``source`` to disk and return where it is."""
        path = self.scratch()
        with path.open("wb") as target:
            shutil.copyfileobj(source, target, _PIECE)
        return path

    def adopt(self, path: Path, *, filename: str, purpose: str, lifetime: int | None = None) -> StoredFile:
        """Make a file of the bytes at ``path``.

        :param lifetime: seconds until the file expires. Default: 30 days for batch inputs and outputs, else never.
        """
        created = self._clock.now()
        if lifetime is None and purpose in {"batch", "batch_output"}:
            lifetime = BATCH_FILE_LIFE
        file_id = ids.new_file_id()
        kept = path.rename(self.directory / file_id)
        expires = None if lifetime is None else created + lifetime
        file = StoredFile(file_id, kept, filename, purpose, kept.stat().st_size, created, expires)
        self._files[file_id] = file
        self._cursor.add(file_id)
        self._ledger.file_created(file_id, {"filename": filename, "purpose": purpose, "bytes": file.size})
        return file

    def keep_unlisted(self, content: str) -> StoredFile:
        """Make a file of what came in a call: no call sees it, and its bytes go with the last pin.

        :raises APIError: 400 for what an upload would be refused for.
        """
        path = self.scratch()
        path.write_text(content, encoding="utf-8", newline="")
        try:
            check_batch_file(path, "inline.jsonl")
        except APIError:
            path.unlink()
            raise
        size = path.stat().st_size
        return StoredFile(path.name, path, "inline.jsonl", "batch", size, self._clock.now(), None, deleted=True)

    def find(self, file_id: str) -> StoredFile | None:
        """Return the file, ``None`` when it doesn't exist (any more), has expired, or is another project's."""
        file = self._files.get(file_id)
        if file is not None and not is_visible(file):
            return None
        if file is not None and file.expires_at is not None and file.expires_at <= self._clock.now():
            self.delete(file_id)
            return None
        return file

    def get(self, file_id: str) -> StoredFile:
        """Return the file or raise the service's 404."""
        if (file := self.find(file_id)) is None:
            raise no_such_file(file_id)
        return file

    def for_batch(self, file_id: str) -> StoredFile | None:
        """Return the file as POST /batches sees it, which right after an upload may not be at all."""
        file = self.find(file_id)
        return None if file is None or file.hidden_until > time.monotonic() else file

    def page(self, *, after: str | None, limit: int, ascending: bool, purpose: str | None) -> dict[str, Any]:
        """Return a page of files."""
        live = [file for file_id in tuple(self._files) if (file := self.find(file_id)) is not None]
        chosen = [file for file in live if purpose is None or file.purpose == purpose]
        page = self._cursor.page(chosen, after=after, limit=limit, ascending=ascending)
        return {**page, "data": [file.to_json() for file in page["data"]]}

    def delete(self, file_id: str) -> None:
        """Remove the file, its bytes once no batch reads them."""
        file = self._files.pop(file_id, None)
        if file is None:
            raise no_such_file(file_id)
        file.deleted = True
        self._ledger.file_deleted(file_id)
        if not file.pins:
            file.path.unlink(missing_ok=True)

    def pin(self, file: StoredFile) -> None:
        """Keep the bytes of ``file`` until :meth:`unpin`."""
        file.pins += 1

    def unpin(self, file: StoredFile) -> None:
        """Let the bytes of ``file`` go if it was deleted meanwhile."""
        file.pins -= 1
        if file.deleted and not file.pins:
            file.path.unlink(missing_ok=True)
