"""What servers answer, read leniently. Pure, and the only place that knows their shapes.

OpenAI's own is the rule. Met elsewhere: statuses in other case and spelling, times in ISO 8601 with seven decimals,
counts that are null, ids that are ``""``, a batch wrapped in ``{"job": ...}``, lists without a frame, an oldest-first
order, and on Azure a creation that is answered with ``{"errors": {"data": [...]}}``.
"""

from __future__ import annotations

import math
from datetime import datetime, timezone
from itertools import pairwise
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from airflow_openai_batch.client.errors import UnreadableError, code_of
from airflow_openai_batch.engine.models import TERMINAL, BatchIssue, BatchSnapshot, Counts, RemoteFile
from airflow_openai_batch.exceptions import RejectedError

_WRAPPERS = ("job", "batch", "data")
_LISTS = ("data", "batches", "value")
_SPELLINGS = {"canceled": "cancelled", "canceling": "cancelling"}
_SHOWN = 200
_MOMENT = TypeAdapter(datetime)


def decoded(content: bytes) -> Any:
    """Return an answer's JSON.

    :raises UnreadableError: it is none.
    """
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        raise UnreadableError(content[:_SHOWN].decode("utf-8", "replace") or "nothing") from None


def seconds(value: Any) -> float | None:
    """Return a time as seconds of the epoch; None where there is none that can be read."""
    if isinstance(value, bool) or value is None or value == "":
        return None
    if isinstance(value, (int, float)):
        return float(value)
    try:
        return float(value)
    except (TypeError, ValueError):
        pass
    try:
        moment = _MOMENT.validate_python(value)
    except ValidationError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def _is_after(time: float | None, other: float) -> bool:
    """Whether a time is one, and later; some servers write 0, or a number of seconds."""
    return time is not None and time > max(0.0, other)


def batch_of(value: Any, *, expires: bool = True) -> BatchSnapshot:
    """Return the engine's view of a batch; ``""`` and null both mean "not known yet".

    An ``expires_at`` that isn't later than ``created_at`` (0, or the window in seconds) is no time, so it is not known.

    :param expires: whether the server ends batches when their window is over; if not, ``expires_at`` says nothing.
    :raises UnreadableError: it is no batch.
    """
    batch = _unwrapped(value)
    status = str(batch.get("status") or "").strip().lower().replace(" ", "_").replace("-", "_")
    counts = batch.get("request_counts")
    counts = counts if isinstance(counts, dict) else {}
    metadata = batch.get("metadata")
    status = _SPELLINGS.get(status, status)
    created_at, expires_at = seconds(batch.get("created_at")) or 0.0, seconds(batch.get("expires_at"))
    ended_at = seconds(batch.get(f"{status}_at")) if status in TERMINAL else None
    return BatchSnapshot(
        id=str(batch["id"]),
        status=status,
        endpoint=_text(batch.get("endpoint")) or "",
        input_file_id=_text(batch.get("input_file_id")),
        output_file_id=_text(batch.get("output_file_id")),
        error_file_id=_text(batch.get("error_file_id")),
        created_at=created_at,
        expires_at=expires_at if expires and _is_after(expires_at, created_at) else None,
        ended_at=ended_at if _is_after(ended_at, created_at - 1) else None,
        counts=Counts(*(_number(counts.get(name)) for name in ("total", "completed", "failed"))),
        errors=issues_of(batch),
        metadata={str(name): str(text) for name, text in metadata.items()} if isinstance(metadata, dict) else {},
    )


def batch_or_why(value: Any, *, expires: bool = True) -> BatchSnapshot | UnreadableError:
    """Return a list's entry as a batch, or why it is none: who searches must hear of it, but only on getting there."""
    try:
        return batch_of(value, expires=expires)
    except UnreadableError as error:
        return error


def _unwrapped(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        for found in (value, *(value.get(name) for name in _WRAPPERS)):
            if isinstance(found, dict) and found.get("id"):
                return found
    raise UnreadableError(orjson.dumps(value, default=str)[:_SHOWN].decode())


def issues_of(value: Any) -> tuple[BatchIssue, ...]:
    """Return what is wrong with a batch, from ``errors.data``, a bare list, or a single text."""
    if not isinstance(value, dict):
        return ()
    errors = value.get("errors") or value.get("error")
    data = errors.get("data", [errors] if "message" in errors else []) if isinstance(errors, dict) else errors
    entries = data if isinstance(data, list) else [data] if data else []
    return tuple(_issue(entry) for entry in entries)


def _issue(entry: Any) -> BatchIssue:
    if not isinstance(entry, dict):
        return BatchIssue(code_of(None, str(entry)), str(entry))
    message = _text(entry.get("message"))
    return BatchIssue(
        code_of(_text(entry.get("code")), message or ""),
        message,
        _text(entry.get("param")),
        _line_of(entry.get("line")),
    )


def _line_of(value: Any) -> int | None:
    """Return the number of a line, however it is written."""
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    whole = (isinstance(value, int) and not isinstance(value, bool)) or (
        isinstance(value, float) and value.is_integer()
    )
    return int(value) if whole else None


def file_of(value: Any) -> tuple[RemoteFile, str]:
    """Return a file, and its status: "" where the server has none.

    :raises UnreadableError: it is no file.
    """
    file = _unwrapped(value)
    remote = RemoteFile(
        str(file["id"]),
        _text(file.get("filename")) or "",
        _number(file.get("bytes")),
        seconds(file.get("created_at")) or 0.0,
    )
    return remote, str(file.get("status") or "").lower()


def page_of(value: Any) -> tuple[list[Any], bool | None]:
    """Return a page's items, and whether there are more: None where the server doesn't say.

    :raises UnreadableError: it is no list.
    """
    if isinstance(value, list):
        return value, False
    if isinstance(value, dict):
        for name in _LISTS:
            if name in value:
                more = value.get("has_more")
                return list(value[name] or ()), more if isinstance(more, bool) else None
    raise UnreadableError(orjson.dumps(value, default=str)[:_SHOWN].decode())


class PageTurner:
    """Goes through a list's pages, whatever the server says of their end.

    ``has_more`` may be missing, and ``after`` be ignored: then the first page comes again and again. A page may be
    empty in the middle, where a server filters what it has paged: then ``last_id`` leads on. A list whose server says
    that there is more but gives no more of it is no list to conclude from.
    """

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._asked: set[str] = set()
        self.after: dict[str, Any] = {}
        self.more = True

    def take(self, value: Any) -> list[Any]:
        """Return the items of a page that weren't on one before; what has no id is given each time.

        :raises UnreadableError: it is no page.
        :raises RejectedError: there are said to be more, but it is the same page again, or leads to none.
        """
        items, more = page_of(value)
        ids = [_id_of(item) for item in items]
        new = {key for key in ids if key} - self._seen
        taken = [item for item, key in zip(items, ids, strict=True) if not key or key in new]
        last = _text(value.get("last_id")) if isinstance(value, dict) else None
        after = (ids[-1] if ids else "") or last or next((key for key in reversed(ids) if key), "")
        if more and not new:
            if any(ids):
                raise RejectedError(
                    "The server's list doesn't go on: it gives the same page again in place of the next"
                )
            if not after or after in self._asked:
                raise RejectedError("The server's list doesn't go on: there are said to be more, but not after what")
        self._seen |= new
        self._asked.add(after)
        self.more = more is not False and bool(new or more)
        self.after = {"after": after} if after else {}
        return taken


def _id_of(item: Any) -> str:
    try:
        return str(_unwrapped(item)["id"])
    except UnreadableError:
        return ""


def when(entry: BatchSnapshot | UnreadableError) -> float:
    """Return when a batch was created; what isn't known is later than all, since it may be."""
    return (isinstance(entry, BatchSnapshot) and entry.created_at) or math.inf


def newest_first(entries: list[BatchSnapshot | UnreadableError]) -> bool | None:
    """Whether batches are ordered as OpenAI's are; None where their times don't tell: unknown, or all the same."""
    times = [at for entry in entries if (at := when(entry)) < math.inf]
    if any(earlier < later for earlier, later in pairwise(times)):
        return False
    return True if len(set(times)) > 1 else None


def _text(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)


def _number(value: Any) -> int:
    return int(value) if isinstance(value, (int, float)) else 0
