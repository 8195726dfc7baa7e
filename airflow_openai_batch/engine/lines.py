r"""JSON Lines: one object a line, ``b"\\n"`` alone ends it (U+2028 and its kin are legal in a JSON string)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

import jsonlines
import orjson

from airflow_openai_batch.engine.sources import LONGEST, Row, as_row, place
from airflow_openai_batch.exceptions import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO


class TooLongError(OSError):
    """A line that can't be a row; what follows it isn't read."""


def read_lines(path: str, file: BinaryIO, more: dict[str, Any]) -> Iterator[Row | Problem]:
    """Parse lines one by one, blank ones left out, counting all of them.

    :param path: how messages name the file.
    :param more: columns that each row has besides its own.
    :raises OSError: the file ends where it shouldn't.
    """
    loads = orjson.loads
    # What Row(...) does, without a frame of Python for each of millions of rows.
    make = cast("Callable[[tuple[str, int, dict[str, Any]]], Row]", partial(tuple.__new__, Row))
    number = 0
    try:
        for number, line in enumerate(iter(partial(file.readline, LONGEST), b""), 1):
            if len(line) >= LONGEST:
                raise TooLongError(f"line {number:,} has more than {LONGEST:,} bytes, which is all a batch takes")
            try:
                value = loads(line)
            except orjson.JSONDecodeError:
                if not line.strip():
                    continue
                value = _read_anyway(path, number, line)
            if type(value) is dict:
                if more:
                    value = {**value, **{name: item for name, item in more.items() if name not in value}}
                yield make((path, number, value))
            else:
                yield value if isinstance(value, Problem) else as_row(path, number, value)
    except EOFError as error:
        # gzip's word for a file that was cut.
        raise OSError(f"line {number + 1:,}: {error}") from error


def _read_anyway(path: str, number: int, line: bytes) -> Any:
    """Return what is on a line that is no JSON by itself: behind a byte order mark, or a problem that says why not."""
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
