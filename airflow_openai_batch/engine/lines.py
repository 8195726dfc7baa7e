r"""JSON Lines: one object a line, ``b"\\n"`` alone ends it (U+2028 and its kin are legal in a JSON string)."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import jsonlines
import orjson

from airflow_openai_batch.engine.sources import LONGEST, Rows, as_record, place
from airflow_openai_batch.exceptions import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_openai_batch.engine.ready import ReadyLines, ReadyRows


BUFFER = 1 << 20
"""Bytes read at a time: few enough to be in the core's cache."""

_BLOCK = 1 << 15
"""Bytes of lines parsed together, likewise."""

_BLANK = object()


class TooLongError(OSError):
    """A line that can't be a row; what follows it isn't read."""


class _Bounded(io.RawIOBase):
    """A file that ends where a line is too long or where reading breaks, so that what stands before is had first.

    :ivar error: what reading broke with.
    """

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self._length = 0
        self.error: Exception | None = None

    def readable(self) -> bool:
        """Whether it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read some bytes; 0 at the end."""
        if self._length >= LONGEST or self.error is not None:
            return 0
        try:
            piece = self._file.read1(len(buffer))
        except Exception as error:  # noqa: BLE001 - raised by whoever has read what stands before
            self.error = error
            return 0
        end = piece.rfind(b"\n") + 1
        self._length = len(piece) - end if end else self._length + len(piece)
        buffer[: len(piece)] = piece
        return len(piece)


def read_lines(
    path: str, file: io.BufferedReader, more: dict[str, Any], ready: ReadyLines | None = None
) -> Iterator[Rows | ReadyRows | Problem]:
    """Parse lines, some at a time; blank ones are counted and left out.

    :param path: how messages name the file.
    :param more: columns that each row has besides its own.
    :param ready: takes lines that are requests as they stand.
    :raises OSError: the file ends where it shouldn't.
    """
    number, bounded = 1, _Bounded(file)
    stream = io.BufferedReader(bounded, BUFFER)
    while lines := stream.readlines(_BLOCK):
        if bounded.error is not None and not lines[-1].endswith(b"\n"):
            del lines[-1]
        taken = ready.take(path, number, lines) if ready is not None and not more else None
        records = _parsed(lines) if taken is None else []
        if taken is not None:
            yield taken
        elif set(map(type, records)) == {dict} and max(map(len, lines)) < LONGEST:
            yield _block(path, number, records, more)
        else:
            yield from _one_by_one(path, number, lines, more)
        number += len(lines)
    if isinstance(bounded.error, EOFError):
        # gzip's word for a file that was cut.
        raise OSError(f"line {number:,}: {bounded.error}") from bounded.error
    if bounded.error is not None:
        raise bounded.error


def _parsed(lines: list[bytes]) -> list[Any]:
    """Return what is on lines; nothing where one of them is no JSON by itself."""
    try:
        return list(map(orjson.loads, lines))
    except orjson.JSONDecodeError:
        return []


def _one_by_one(path: str, number: int, lines: list[bytes], more: dict[str, Any]) -> Iterator[Rows | Problem]:
    """Yield lines of which not all are records by themselves.

    :param number: that of the first of them.
    """
    records: list[dict[str, Any]] = []
    for at, line in enumerate(lines, number):
        found = _record(path, at, line) if len(line) < LONGEST else _BLANK
        if isinstance(found, dict):
            records.append(found)
            continue
        if records:
            yield _block(path, at - len(records), records, more)
            records = []
        if len(line) >= LONGEST:
            raise TooLongError(f"line {at:,} has more than {LONGEST:,} bytes, which is all a batch takes")
        if isinstance(found, Problem):
            yield found
    if records:
        yield _block(path, number + len(lines) - len(records), records, more)


def _record(path: str, number: int, line: bytes) -> dict[str, Any] | Problem | object:
    """Return the record on a line, ``_BLANK``, or why there is none."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        value = _read_anyway(path, number, line)
    return value if value is _BLANK or isinstance(value, Problem) else as_record(path, number, value)


def _block(path: str, line: int, records: list[dict[str, Any]], more: dict[str, Any]) -> Rows:
    if more:
        records = [
            {**record, **{name: item for name, item in more.items() if name not in record}} for record in records
        ]
    return Rows(path, line, records)


def _read_anyway(path: str, number: int, line: bytes) -> Any:
    """Return what is on a line that is no JSON by itself: nothing, behind a byte order mark, or why it is none."""
    if not line.strip():
        return _BLANK
    try:
        # Asked for each line, the reader would take a fifth of planning's time.
        value = jsonlines.Reader((line,), loads=orjson.loads).read(allow_none=True)
    except jsonlines.InvalidLineError as error:
        return Problem(place(path, number), "", _what_is_wrong(error))
    if number > 1:
        return Problem(place(path, number), "", "not JSON: a byte order mark in the midst of the file")
    return value


def _what_is_wrong(error: jsonlines.InvalidLineError) -> str:
    cause = error.__cause__
    if isinstance(cause, UnicodeDecodeError):
        return f"not UTF-8: {cause.reason} at byte {cause.start}"
    return f"not JSON: {cause or error}"[:200]
