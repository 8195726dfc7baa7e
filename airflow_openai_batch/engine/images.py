"""Images: columns that hold an URL, a path or bytes become content parts beside the prompt.

Rows hold data from the internet. A path of theirs is read only below the folder that the user named, so that no row
can have a file of the worker sent along.
"""

from __future__ import annotations

import base64
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from airflow_openai_batch.exceptions import ConfigurationError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Resolve = Callable[[str], tuple[Any, str]]

LARGEST = 157_286_400
"""Bytes of an image whose base64 fills a whole batch file (209,715,200 bytes)."""

_SENT_AS_IT_IS = re.compile(r"(https?://|data:)", re.IGNORECASE)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)

_MAGIC = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp"),
)
"""The kinds of images that models take (images and vision guide), and how each begins."""

ENDPOINTS = {"/v1/chat/completions": "messages", "/v1/responses": "input"}
"""Endpoints that take images, and the body field that has the messages."""


class ImageError(ValueError):
    """An image that can't be sent; ``column`` holds it."""

    def __init__(self, column: str, message: str) -> None:
        super().__init__(message)
        self.column = column


def column_names(columns: Any) -> list[str] | None:
    """Return the names of one column or several; where it is neither, names that are no names."""
    if columns is None or isinstance(columns, str):
        return None if columns is None else [columns]
    names = list(columns) if isinstance(columns, (list, tuple)) else []
    return [name if isinstance(name, str) else "" for name in names]


def check_images(columns: Any, root: Any, detail: Any, endpoint: str) -> None:
    """Check what can be told without a row.

    :raises ConfigurationError: it can't be right for any row.
    """
    names = column_names(columns)
    if names is not None and not (names and all(names) and len(set(names)) == len(names)):
        raise ConfigurationError(f"image_columns: a column's name or a list of names is needed, not {columns!r}")
    for name, value in (("image_root", root), ("image_detail", detail)):
        if value is not None and (not isinstance(value, str) or not value):
            raise ConfigurationError(f"{name}: a string is needed, not {value!r}")
        if value is not None and names is None:
            raise ConfigurationError(f"{name}: without image_columns there are no images")
    if names is not None and endpoint not in ENDPOINTS and "{{" not in endpoint:
        raise ConfigurationError(f"image_columns: {endpoint} takes no images; {' and '.join(ENDPOINTS)} do")


class Images:
    """Joins a row's images to its request.

    :param columns: whose values are images: an URL (``http``, ``https`` or ``data``), a path below ``root``, bytes, a
        mapping with ``bytes`` and ``path`` (as Hugging Face datasets have), or a list of such; null and an empty string
        are no image.
    :param root: the folder that paths are below, None where there may be none.
    :param detail: OpenAI's ``detail`` of each image, None to leave it to OpenAI.
    :param resolve: gives filesystem and path for an URL; default fsspec's own.
    """

    def __init__(
        self,
        columns: tuple[str, ...],
        root: str | None,
        detail: str | None,
        endpoint: str,
        resolve: Resolve | None = None,
    ) -> None:
        check_images(columns, root, detail, endpoint)
        self._columns = columns
        self._root = root
        self._detail = detail
        self._field = ENDPOINTS[endpoint]
        self._resolve = resolve
        self._folder: tuple[Any, str] | None = None

    def join(self, body: dict[str, Any], row: dict[str, Any]) -> None:
        """Add a row's images to the last message of the user, behind its text.

        :param body: the request's; changed in place, what the row owns is not.
        :raises ImageError: one can't be sent.
        """
        parts = [self._part(url) for column in self._columns for url in self._urls(column, row)]
        if not parts:
            return
        given = body.get(self._field)
        messages = [{"role": "user", "content": given}] if isinstance(given, str) else list(given or [])
        last = next((n for n in reversed(range(len(messages))) if _is_users(messages[n])), None)
        if last is None:
            messages.append({"role": "user", "content": parts})
        else:
            messages[last] = {**messages[last], "content": self._text(messages[last].get("content")) + parts}
        body[self._field] = messages

    def _text(self, content: Any) -> list[Any]:
        if isinstance(content, list):
            return content
        return [{"type": "text" if self._field == "messages" else "input_text", "text": content}] if content else []

    def _part(self, url: str) -> dict[str, Any]:
        detail = {} if self._detail is None else {"detail": self._detail}
        if self._field == "messages":
            return {"type": "image_url", "image_url": {"url": url, **detail}}
        return {"type": "input_image", "image_url": url, **detail}

    def _urls(self, column: str, row: dict[str, Any]) -> Iterator[str]:
        if column not in row:
            raise ImageError(column, f"no such column; there are: {', '.join(map(str, row))[:300] or 'none'}")
        value = row[column]
        for item in value if isinstance(value, (list, tuple)) else [value]:
            url = self._url(column, item)
            if url:
                yield url

    def _url(self, column: str, value: Any) -> str | None:
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if value is None or value == "":
            return None
        if isinstance(value, (bytes, bytearray, memoryview)):
            return _data_url(column, bytes(value))
        if not isinstance(value, str):
            raise ImageError(column, f"an image is an URL, a path or bytes, not {type(value).__name__}")
        return value if _SENT_AS_IT_IS.match(value) else _data_url(column, self._read(column, value))

    def _read(self, column: str, path: str) -> bytes:
        if _SCHEME.match(path):
            raise ImageError(column, f"{path[:200]!r}: only http, https and data URLs, and paths below image_root")
        if self._root is None:
            raise ImageError(column, f"{path[:200]!r} is a path, and image_root= doesn't say below which folder it is")
        parts = PurePosixPath(unquote(path).replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or "\0" in path:
            raise ImageError(column, f"{path[:200]!r} isn't below image_root")
        if self._folder is None:
            self._folder = self._open_root(self._root)
        fs, root = self._folder
        try:
            with fs.open(f"{root.rstrip('/')}/{path}", "rb") as file:
                content: bytes = file.read(LARGEST + 1)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
            raise ImageError(column, f"{path[:200]!r} can't be read: {type(error).__name__}") from error
        except OSError as error:
            raise StoreError(f"{self._root}: {path[:200]!r} can't be read: {type(error).__name__}: {error}") from error
        return content

    def _open_root(self, root: str) -> tuple[Any, str]:
        resolve = self._resolve
        if resolve is None:
            from fsspec.core import url_to_fs

            resolve = url_to_fs
        try:
            return resolve(root)
        except (OSError, ValueError, ImportError) as error:
            raise ConfigurationError(f"image_root: {root} can't be opened: {type(error).__name__}: {error}") from error

    def shown(self, columns: dict[str, Any]) -> dict[str, Any]:
        """Return a row's columns as results have them: an image's bytes, or its ``data:`` URL, are null."""
        return {**columns, **{name: _without_bytes(columns[name]) for name in self._columns if name in columns}}


def _is_users(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") == "user"


def _without_bytes(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return None
    if isinstance(value, str):
        return None if value[:5].lower() == "data:" else value
    if isinstance(value, (list, tuple)):
        return [_without_bytes(item) for item in value]
    return {name: _without_bytes(item) for name, item in value.items()} if isinstance(value, dict) else value


def _data_url(column: str, content: bytes) -> str:
    kind = next((kind for magic, kind in _MAGIC if magic.match(content)), None)
    if kind is None:
        raise ImageError(column, "neither PNG, JPEG, GIF nor WebP, by the way it begins")
    if len(content) > LARGEST:
        raise ImageError(column, f"an image of more than {LARGEST:,} bytes fits no batch")
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
