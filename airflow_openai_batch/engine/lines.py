r"""JSON Lines: one object a line, ``b"\\n"`` alone ends it (U+2028 and its kin are legal in a JSON string)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import jsonlines
import orjson

from airflow_openai_batch.engine.sources import BLOCK, LONGEST, Rows, as_record, place
from airflow_openai_batch.exceptions import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO


_BLANK = object()


class TooLongError(OSError):
    """A line that can't be a row; what follows it isn't read."""


def read_lines(  # noqa: C901 - one loop, for each of millions of rows
    path: str, file: BinaryIO, more: dict[str, Any]
) -> Iterator[Rows | Problem]:
    """Parse lines, some at a time; blank ones are counted and left out.

    :param path: how messages name the file.
    :param more: columns that each row has besides its own.
    :raises OSError: the file ends where it shouldn't.
    """
    loads = orjson.loads
    first, left = 1, BLOCK
    records: list[dict[str, Any]] = []
    try:
        for line in iter(partial(file.readline, LONGEST), b""):
            try:
                value = loads(line)
            except orjson.JSONDecodeError:
                value = _read_anyway(path, first + len(records), line)
            if type(value) is dict:
                records.append(value)
                left -= len(line)
                if left > 0:
                    continue
            # The last of a block, or no record.
            number = first + len(records)
            if records:
                yield _block(path, first, records, more)
            first, left, records = number, BLOCK, []
            _check_length(first, line)
            if type(value) is not dict:
                if value is not _BLANK:
                    found = value if isinstance(value, Problem) else as_record(path, first, value)
                    yield found if isinstance(found, Problem) else _block(path, first, [found], more)
                first += 1
    except Exception as error:
        if records:
            yield _block(path, first, records, more)
        if isinstance(error, EOFError):
            # gzip's word for a file that was cut.
            raise OSError(f"line {first + len(records):,}: {error}") from error
        raise
    if records:
        yield _block(path, first, records, more)


def _check_length(number: int, line: bytes) -> None:
    if len(line) >= LONGEST:
        raise TooLongError(f"line {number:,} has more than {LONGEST:,} bytes, which is all a batch takes")


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
