"""Files on a store: found by path, glob or folder, opened one after the other, read by their kind.

What begins with ``_`` or ``.`` (``_SUCCESS``, ``_temporary``) is left out unless it is asked for by name. Folders named
``key=value`` below the fixed part of the path become columns of text. All files of a source are of one kind, and have
the same columns where their kind has any: two copies of a dataset in one folder must not be paid for twice unnoticed.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import tempfile
import zlib
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import unquote

import orjson

from airflow_openai_batch.engine.delimited import read_delimited
from airflow_openai_batch.engine.lines import read_lines
from airflow_openai_batch.engine.sources import SUFFIXES, Rows, Source, kind_of, source_error
from airflow_openai_batch.exceptions import Problem, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_openai_batch.engine.ready import ReadyLines, ReadyRows

BUFFER = 1 << 20

_NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"


class FileSource(Source):
    """Files in the order of their names.

    :param fs: the fsspec filesystem.
    :param pattern: a path, a glob or a folder on it.
    :param url: how the user spelt it.
    :raises InputError: nothing is there, or it isn't of one kind that is read here.
    :raises StoreError: the store can't be asked; another try may find it willing.
    """

    def __init__(self, fs: Any, pattern: str, url: str) -> None:
        self._fs = fs
        self._url = url
        self._scheme = f"{url.split('://', 1)[0]}://" if "://" in url else ""
        self._base = ""
        self._files = self._find(pattern)
        self._kind = self._one_kind()
        self._agreement = Agreement()
        self._done = 0.0
        self._row = 0
        self._position: Callable[[], float] = lambda: 0.0

    @classmethod
    def at(cls, url: str, resolve: Callable[[str], tuple[Any, str]] | None = None) -> FileSource:
        """Open by URL.

        :param resolve: gives filesystem and path for a URL; default fsspec's own.
        """
        if not url.strip():
            raise source_error("source", "an empty path")
        if resolve is None:
            from fsspec.core import url_to_fs

            resolve = url_to_fs
        try:
            fs, path = resolve(url)
        except (OSError, ValueError, ImportError) as error:
            raise source_error(url, f"can't be opened: {type(error).__name__}: {error}") from error
        return cls(fs, path, url)

    def _find(self, pattern: str) -> list[dict[str, Any]]:
        try:
            found = self._matches(pattern)
        except FileNotFoundError:
            found = []
        except (PermissionError, ValueError) as error:
            raise source_error(self._url, f"can't be read: {type(error).__name__}: {error}") from error
        except OSError as error:
            raise StoreError(f"{self._url} can't be listed: {type(error).__name__}: {error}") from error
        files = {str(entry["name"]): entry for entry in found if entry["type"] == "file"}
        if not files:
            raise source_error(self._url, "no such file")
        return [files[name] for name in sorted(files)]

    def _matches(self, pattern: str) -> list[dict[str, Any]]:
        """Return the entries that a pattern means, and set the fixed part of their paths."""
        if any(mark in pattern for mark in "*?[") and not self._fs.exists(pattern):
            segments = pattern.split("/")
            fixed = next(number for number, segment in enumerate(segments) if any(mark in segment for mark in "*?["))
            self._base = "/".join(segments[:fixed])
            asked = {segment[:1] for segment in segments[fixed:]}
            found = [
                entry
                for entry in self._fs.glob(pattern, detail=True).values()
                if not _hidden(self._below(entry["name"]), asked)
            ]
            folders = [entry["name"] for entry in found if entry["type"] == "directory"]
            inside = [entry for folder in folders for entry in self._inside(folder, asked)]
            return inside + [entry for entry in found if entry["type"] == "file"]
        if self._fs.isdir(pattern):
            self._base = str(self._fs._strip_protocol(pattern))  # noqa: SLF001 - fsspec's own word for it
            return self._inside(pattern, set())
        self._base = pattern.rpartition("/")[0]
        return [self._fs.info(pattern)]

    def _inside(self, folder: str, asked: set[str]) -> list[dict[str, Any]]:
        """Return the files below a folder that can be read here."""
        entries = self._fs.find(folder, detail=True).values()
        return [e for e in entries if kind_of(e["name"]) and not _hidden(self._below(e["name"]), asked)]

    def _below(self, name: str) -> list[str]:
        """Return a file's path below the fixed part, in segments."""
        return str(name).removeprefix(self._base).strip("/").split("/")

    def _one_kind(self) -> str:
        first: tuple[str, str] | None = None
        for entry in self._files:
            name = self._scheme + entry["name"]
            kind = kind_of(name)
            if kind is None:
                raise source_error(name, f"not a kind of file that is read here ({', '.join(SUFFIXES)})")
            first = first or (kind, name)
            if kind != first[0]:
                message = f"{name} is {kind}, {first[1]} is {first[0]}; choose one kind, with a glob like *.parquet"
                raise source_error(self._url, message)
        return first[0] if first else ""

    def listing(self) -> str | None:
        """Return a hash over names, sizes and what the store says of the last change."""
        seen = [
            [e["name"], e["size"], str(e.get("ETag") or e.get("etag") or e.get("mtime") or e.get("LastModified"))]
            for e in self._files
        ]
        return hashlib.blake2b(orjson.dumps(seen), digest_size=16).hexdigest()

    @property
    def base(self) -> str:
        """The fixed part of the path, as the filesystem spells it."""
        return self._base

    def sizes(self) -> dict[str, int | None]:
        """Return each file's bytes, by its name as the filesystem spells it; None where the store tells none."""
        return {str(entry["name"]): entry["size"] for entry in self._files}

    def schema(self) -> Any | None:
        """Return the schema of Parquet files as far as they were read; None for others, which JSON's types suffice."""
        return self._agreement.schema() if self._kind == "Parquet" else None

    def fraction(self) -> float | None:
        """Return the share of the files' bytes that was read, None where the store tells no sizes."""
        total = sum(entry["size"] or 0 for entry in self._files)
        return min(1.0, (self._done + self._position()) / total) if total else None

    def blocks(self) -> Iterator[Rows | Problem]:
        """Yield the rows of each file in turn."""
        return cast("Iterator[Rows | Problem]", self.requests(None))

    def requests(self, ready: ReadyLines | None) -> Iterator[Rows | ReadyRows | Problem]:
        """Yield the rows of each file in turn; those of JSON Lines may be requests already."""
        errors: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error)
        if self._kind == "Parquet":
            import pyarrow as pa

            errors += (pa.ArrowException,)
        self._agreement, self._done = Agreement(), 0.0
        for entry in self._files:
            path = self._scheme + entry["name"]
            try:
                with ExitStack() as stack:
                    yield from self._read(stack, entry, path, ready)
            except errors as error:
                yield Problem(path, "", f"can't be read: {type(error).__name__}: {error}")
            finally:
                self._position = lambda: 0.0
                self._done += entry["size"] or 0

    def _read(
        self, stack: ExitStack, entry: dict[str, Any], path: str, ready: ReadyLines | None
    ) -> Iterator[Rows | ReadyRows | Problem]:
        more = partitions(self._below(entry["name"])[:-1])

        def check(columns: dict[str, Any]) -> str | None:
            return self._agreement.check(path, columns)

        if self._kind == "Parquet":
            return self._parquet(stack, entry, path, more)
        file = self._stream(stack, entry, path)
        if self._kind == "JSON Lines":
            return read_lines(path, file, more, ready)
        return read_delimited(path, file, "\t" if self._kind == "TSV" else ",", more, check)

    def _stream(self, stack: ExitStack, entry: dict[str, Any], path: str) -> io.BufferedReader:
        """Open a file for reading from the beginning to the end, unpacked."""
        stored = _Stored(stack.enter_context(self._fs.open(entry["name"], "rb")), path)
        self._position = stored.tell
        file: io.BufferedReader = io.BufferedReader(stored, BUFFER)
        if path.lower().endswith(".gz"):
            return io.BufferedReader(cast("io.RawIOBase", gzip.GzipFile(fileobj=file)), BUFFER)
        if path.lower().endswith(".zst"):
            import pyarrow as pa

            unpacked = pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")
            return io.BufferedReader(unpacked, BUFFER)
        return file

    def _parquet(
        self, stack: ExitStack, entry: dict[str, Any], path: str, more: dict[str, Any]
    ) -> Iterator[Rows | Problem]:
        from airflow_openai_batch.engine import tabular

        if path.lower().endswith(".parquet"):
            file = self._seekable(stack, entry, path)
        else:
            # Parquet is read from its end, so what is packed once more goes through a file on the worker's disk.
            file = cast("BinaryIO", stack.enter_context(tempfile.TemporaryFile()))  # noqa: SIM115 - the stack closes it
            shutil.copyfileobj(self._stream(stack, entry, path), file, BUFFER)
        parquet = tabular.open_parquet(file)
        schema, count = parquet.schema_arrow, parquet.metadata.num_rows
        wrong = tabular.wrong_names(schema.names)
        if wrong is None and count:
            columns = dict(zip(schema.names, schema.types, strict=True))
            wrong = self._agreement.check(path, {**dict.fromkeys(more, ...), **columns})
        if wrong:
            yield Problem(path, "", wrong)
            return
        self._position = lambda: (entry["size"] or 0) * self._row / max(1, count)
        self._row = 0
        for block in tabular.blocks_of(path, schema.names, tabular.parquet_pieces(parquet), more):
            self._row += 1 if isinstance(block, Problem) else len(block.records)
            yield block

    def _seekable(self, stack: ExitStack, entry: dict[str, Any], path: str) -> BinaryIO:
        try:
            # Columns are read in turn, here and there; a store's own reading ahead would fetch each place many times.
            opened = self._fs.open(entry["name"], "rb", cache_type="none")
        except TypeError:
            opened = self._fs.open(entry["name"], "rb")
        return io.BufferedReader(_Stored(stack.enter_context(opened), path))


class _Stored(io.RawIOBase):
    """A file on the store. What breaks while it is read may hold the next time; what it holds is another matter."""

    def __init__(self, file: Any, path: str) -> None:
        self._file = file
        self._path = path

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        try:
            piece = self._file.read(len(buffer))
        except (FileNotFoundError, PermissionError, IsADirectoryError):
            raise
        except OSError as error:
            raise StoreError(f"{self._path} can't be read any further: {type(error).__name__}: {error}") from error
        buffer[: len(piece)] = piece
        return len(piece)


def _hidden(segments: list[str], asked: set[str]) -> bool:
    """Whether a path has a segment that is left out; ``asked``: first letters of segments that the user spelt out."""
    return any(
        segment[:1] in {".", "_"} - asked and not (segment.startswith("_") and "=" in segment) for segment in segments
    )


def partitions(folders: list[str]) -> dict[str, str | None]:
    """Return the columns that folders named ``key=value`` stand for, as Hive and Spark write them."""
    pairs = (folder.partition("=") for folder in folders if "=" in folder[1:])
    return {unquote(key): None if value == _NO_PARTITION else unquote(value) for key, _, value in pairs}


class Agreement:
    """Sees to it that all files of a source have the same columns, in whatever order.

    How a type is stored is no difference, and a column without any value fits every type.
    """

    def __init__(self) -> None:
        self._first = ""
        self._columns: dict[str, Any] = {}

    def check(self, path: str, columns: dict[str, Any]) -> str | None:
        """Say how a file's columns differ from those of the first.

        :param columns: their Arrow types by name; ``...`` for text that isn't in the file, None where all is text.
        """
        if not self._first:
            self._first, self._columns = path, dict(columns)
            return None
        told = [f"{name!r} is missing" for name in self._columns if name not in columns]
        told += [f"{name!r} is new" for name in columns if name not in self._columns]
        for name in columns.keys() & self._columns.keys():
            told += self._differs(name, columns[name])
        return f"its columns differ from those of {self._first}: {'; '.join(sorted(told))}" if told else None

    def _differs(self, name: str, kind: Any) -> list[str]:
        first = self._columns[name]
        if first is kind:
            return []
        import pyarrow as pa

        from airflow_openai_batch.engine.values import comparable

        first, kind = (pa.string() if each is ... else each for each in (first, kind))
        if first == pa.null():
            self._columns[name] = kind
            return []
        if kind == pa.null() or comparable(first) == comparable(kind):
            return []
        return [f"{name!r} is {kind}, there {first}"]

    def schema(self) -> Any | None:
        """Return the columns as an Arrow schema, None before any was seen."""
        import pyarrow as pa

        columns = [(name, pa.string() if kind is ... else kind) for name, kind in self._columns.items()]
        return pa.schema(columns) if columns else None
