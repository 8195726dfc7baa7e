"""The object store as the engine needs it: stream, exclusive create, atomic publish, list.

Any fsspec filesystem serves. What the engine relies on:

- *Publish is atomic.* A name either holds all that was written or isn't there. On object stores an exception inside
  ``with open("wb")`` would publish half a file, so writers use ``autocommit=False`` and commit by hand. Locally
  fsspec's uncommitted files live in the system's temporary folder, from where a move needn't be atomic, so local
  files are written in ``_job/tmp`` of the same folder and renamed.
- *Exclusive create* lets exactly one of several writers of a name succeed. S3 servers differ in how they say
  "exists already" (``FileExistsError``, or an ``OSError`` whose cause is ``PreconditionFailed``). Some stores can't do
  it: their filesystem doesn't know how to ask for it, looks first and writes then, or overwrites without a word; or the
  server refuses. So it is proved once a job, when that is planned. Where the user vouches that nobody else writes
  (``single_writer``), looking before writing takes its place.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from airflow_openai_batch.engine.behind import WriteBehind
from airflow_openai_batch.exceptions import ExclusiveCreateError, OpenAIBatchError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

BUFFER = 1 << 20
"""Bytes read and written at a time."""

BLOCK = 5 << 20
"""Bytes that go to or come from an object store at a time: the least that S3 takes as a part of an upload, since each
open file holds as many two or three times. s3fs's own default is 50 MB."""

STEADY = 8 << 20
"""Bytes of a local file after which they are brought to the disk, by the thread that writes."""

DRAFTS = "_job/tmp"
"""Where local files are written until they are whole."""


def _code(error: BaseException) -> str | None:
    """Return the S3 error code of a refusal."""
    response = getattr(error.__cause__ or error, "response", None)
    return response.get("Error", {}).get("Code") if isinstance(response, dict) else None


def says_exists(error: BaseException) -> bool:
    """Whether a refused exclusive create means that the name is taken."""
    return isinstance(error, FileExistsError) or _code(error) in {
        "PreconditionFailed",
        "ConditionalRequestConflict",
        "412",
    }


def says_unable(error: BaseException) -> bool:
    """Whether a refused exclusive create means that the store, or its filesystem, doesn't know such a thing."""
    return isinstance(error, (NotImplementedError, TypeError)) or _code(error) in {"NotImplemented", "501"}


class _Steady(io.FileIO):
    """Goes to the disk on the way, so that whoever publishes it waits for the last few bytes alone."""

    _behind = 0

    def write(self, piece: Any) -> int:
        written = super().write(piece)
        self._behind += written
        if self._behind >= STEADY:
            self._behind = 0
            # macOS has the other alone.
            getattr(os, "fdatasync", os.fsync)(self.fileno())
        return written


class Store:
    """One folder on an fsspec filesystem.

    :param fs: the filesystem.
    :param root: the folder, as the filesystem spells it (no protocol).
    :param url: how the user spelt it; used in messages, results and the manifest.
    :ivar single_writer: nobody else writes here at the same time, so looking before writing will do.
    """

    single_writer = False

    def __init__(self, fs: Any, root: str, url: str) -> None:
        self.fs = fs
        self.root = root.rstrip("/")
        self.url = url.rstrip("/")
        protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
        self.is_local = protocol in {"file", "local"}

    @classmethod
    def at(cls, url: str, **storage_options: Any) -> Store:
        """Open the folder at an fsspec URL or a local path."""
        from fsspec.core import url_to_fs

        fs, root = url_to_fs(url, **storage_options)
        return cls(fs, root, url)

    def path(self, name: str) -> str:
        """Return the filesystem's path of a name below the folder."""
        return f"{self.root}/{name}"

    def address(self, name: str) -> str:
        """Return the user's spelling of a name below the folder."""
        return f"{self.url}/{name}"

    @contextlib.contextmanager
    def _explained(self, doing: str, name: str) -> Iterator[None]:
        try:
            yield
        except OpenAIBatchError:
            raise
        except Exception as error:
            # Not all filesystems raise OSErrors.
            if says_exists(error):
                raise
            raise StoreError(
                f"Could not {doing} {self.address(name)}: {type(error).__name__}: {error}. "
                "Check that the bucket or folder exists and that the connection may read and write there."
            ) from error

    def read(self, name: str) -> bytes | None:
        """Return a small file's content, or None where there is none."""
        with self._explained("read", name):
            try:
                return cast("bytes", self.fs.cat_file(self.path(name)))
            except FileNotFoundError:
                return None

    def exists(self, name: str) -> bool:
        """Whether a file of that name is published."""
        with self._explained("look for", name):
            self.fs.invalidate_cache(self.path(name).rsplit("/", 1)[0])
            return bool(self.fs.exists(self.path(name)))

    def size(self, name: str) -> int:
        """Return a file's bytes."""
        with self._explained("look at", name):
            return int(self.fs.size(self.path(name)))

    def names(self, folder: str) -> list[str]:
        """Return the sorted names of the files directly in a folder; none where the folder isn't there."""
        with self._explained("list", folder):
            try:
                entries = self.fs.ls(self.path(folder), detail=True, refresh=True)
            except FileNotFoundError:
                return []
            found = (entry["name"].rsplit("/", 1)[1] for entry in entries if entry["type"] == "file")
            # On object stores a folder may have a file that stands for itself.
            return sorted(name for name in found if name)

    def below(self, folder: str) -> list[str]:
        """Return the sorted names, from the store's root on, of all files below a folder; one listing, however deep."""
        with self._explained("list", folder):
            self.fs.invalidate_cache()
            try:
                found = self.fs.find(self.path(folder))
            except FileNotFoundError:
                return []
            # Some servers list a folder's own mark among its files.
            return sorted(
                str(path)[len(self.root) + 1 :]
                for path in found
                if str(path).rstrip("/") != self.root and not str(path).endswith("/")
            )

    def create(self, name: str, content: bytes) -> bool:
        """Create a file exclusively; False where it exists already. It appears whole or not at all.

        :raises ExclusiveCreateError: the store says that it can't.
        """
        if self.single_writer:
            if self.exists(name):
                return False
            self.put(name, content)
            return True
        with self._explained("create", name):
            try:
                if self.is_local:
                    self._create_local(Path(self.path(name)), content)
                else:
                    self.fs.pipe_file(self.path(name), content, mode="create")
            except Exception as error:
                if says_exists(error):
                    return False
                if says_unable(error):
                    raise self._not_exclusive(f"it refused: {error}") from error
                raise
            return True

    def prove_exclusive(self, name: str, content: bytes) -> None:
        """Prove that a file that is there isn't created once more, and that this is the store's own doing.

        :param name: a file that was created just now.
        :param content: what is in it.
        :raises ExclusiveCreateError: it was created again, or would be by another at the same moment.
        """
        if self.single_writer or self.is_local:
            return
        from fsspec import AbstractFileSystem

        # One that is asynchronous has no such default.
        if not self.fs.async_impl and type(self.fs).pipe_file is AbstractFileSystem.pipe_file:
            raise self._not_exclusive(f"{type(self.fs).__name__} looks first and writes then")
        if self.create(name, content):
            raise self._not_exclusive("it created a file that was there already")

    def _not_exclusive(self, why: str) -> ExclusiveCreateError:
        return ExclusiveCreateError(
            f"The store of {self.url} has no exclusive create ({why}), so two tries of a task at once could buy the "
            "same rows. Nothing was uploaded. Use another store, or, if you make sure that only one task at a time "
            "works on this destination, set single_writer=True."
        )

    def put(self, name: str, content: bytes) -> None:
        """Publish a small file, replacing an older one: one call on object stores."""
        if self.is_local:
            with self.publish(name) as file:
                file.write(content)
            return
        with self._explained("write", name):
            self.fs.pipe_file(self.path(name), content)

    def _draft(self, target: Path) -> Path:
        """Return a new name on the target's own filesystem, and make both folders."""
        target.parent.mkdir(parents=True, exist_ok=True)
        drafts = Path(self.path(DRAFTS))
        drafts.mkdir(parents=True, exist_ok=True)
        return drafts / uuid.uuid4().hex

    def _create_local(self, target: Path, content: bytes) -> None:
        draft = self._draft(target)
        try:
            with draft.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(draft, target)
            except FileExistsError:
                raise
            except OSError:
                # No hard links here (some network mounts): exclusive, though a crash can leave it cut short.
                with target.open("xb") as file:
                    file.write(content)
        finally:
            draft.unlink(missing_ok=True)

    @contextlib.contextmanager
    def publish(self, name: str) -> Iterator[BinaryIO]:
        """Write a file that appears, whole, when the block ends without an exception. Replaces an older one.

        Write large pieces: on object stores each write costs some Python.
        """
        if self.is_local:
            with self._explained("write", name):
                target = Path(self.path(name))
                draft = self._draft(target)
                file = io.BufferedWriter(_Steady(draft, "wb"), BUFFER)
            try:
                with file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                with self._explained("write", name):
                    draft.replace(target)
            finally:
                draft.unlink(missing_ok=True)
            return
        with self._explained("write", name):
            remote = self.fs.open(self.path(name), "wb", autocommit=False, block_size=BLOCK)
        behind = WriteBehind(remote.write)
        try:
            yield cast("BinaryIO", behind)
            with self._explained("write", name):
                behind.finish()
                remote.close()
                remote.commit()
        except BaseException as error:
            behind.give_up()
            # Nothing but the upload's own parts is lost; a discard that fails leaves them to the bucket's rules.
            with contextlib.suppress(Exception):
                remote.discard()
            with contextlib.suppress(Exception):
                # Its finalizer would begin another upload.
                remote.closed = True
            if error is behind.error:
                with self._explained("write", name):
                    raise
            raise

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Read a file from its beginning, buffered."""
        with self.reader(name) as file:
            yield file

    def reader(self, name: str) -> BinaryIO:
        """Return a buffered reader that the caller closes."""
        with self._explained("read", name):
            if self.is_local:
                return Path(self.path(name)).open("rb", buffering=BUFFER)
            return cast("BinaryIO", io.BufferedReader(self.fs.open(self.path(name), "rb", block_size=BLOCK), BUFFER))

    @contextlib.contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """Give a local path with the file's content: itself, or a temporary copy of a remote one."""
        if self.is_local:
            yield Path(self.path(name))
            return
        with tempfile.TemporaryDirectory(prefix="openai-batch-") as folder:
            copy = Path(folder, name.rsplit("/", 1)[1])
            with self.open(name) as source, copy.open("wb") as target:
                shutil.copyfileobj(source, target, BUFFER)
            yield copy

    def remove(self, names: list[str]) -> None:
        """Remove files; those that aren't there are no error."""
        for name in names:
            with self._explained("remove", name), contextlib.suppress(FileNotFoundError):
                self.fs.rm_file(self.path(name))

    def move_aside(self, stamp: str, *, last: str) -> str:
        """Rename the whole folder to ``<folder>.<stamp>`` and return its new address.

        :param last: the file that goes last where files go one by one, so that a move that was cut is begun again.
        """
        aside = f"{self.root}.{stamp}"
        with self._explained("move", ""):
            if self.is_local:
                Path(self.root).rename(aside)
            else:
                self.fs.invalidate_cache()
                for path in sorted(self.fs.find(self.root), key=lambda path: str(path).endswith(f"/{last}")):
                    self.fs.mv(path, aside + str(path)[len(self.root) :])
        return f"{self.url}.{stamp}"

    def sweep(self) -> None:
        """Remove what writers that were killed left behind. Only for a job that is over: others may be writing."""
        if self.is_local:
            shutil.rmtree(self.path(DRAFTS), ignore_errors=True)

    def prune(self, folder: str) -> None:
        """Remove a folder and its parents up to the store's own, where they are empty. Object stores have none."""
        if not self.is_local:
            return
        here = Path(self.path(folder)) if folder else Path(self.root)
        top = Path(self.root)
        while here == top or top in here.parents:
            try:
                here.rmdir()
            except OSError:
                return
            here = here.parent
