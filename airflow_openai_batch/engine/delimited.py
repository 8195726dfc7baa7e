"""CSV and TSV: a header, then records. Every field is text, so that a zip code keeps its zeros; an empty one is empty.

Python's own reader is used: it takes records of any length, and goes on after a bad one. (pyarrow's makes Python values
at nearly twice its rate, but gives up a file at a record larger than its block, and takes a stray quote as it comes.)
"""

from __future__ import annotations

import codecs
import csv
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.engine.sources import LONGEST, Rows, in_blocks, place
from airflow_openai_batch.exceptions import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

LONGEST_FIELD = 1 << 25
"""Characters that a field may have. A quote that is left open would else read the rest of the file as one field."""


_STRAY_RETURN = "a carriage return that ends no line stands outside quotes"
"""What Python's reader asks another question about."""


class HeaderError(ValueError):
    """A header that names no columns."""


class _Text:
    """Lines of a file as text; ``trouble`` is what was wrong with the encoding since it was last looked at."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.trouble = ""

    def __iter__(self) -> Iterator[str]:
        first = True
        for line in iter(partial(self._file.readline, LONGEST), b""):
            if len(line) >= LONGEST:
                raise OSError(f"a line has more than {LONGEST:,} bytes, which is all a batch takes")
            if first:
                first = False
                if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                    raise HeaderError("it is UTF-16; save it as UTF-8")
                line = line.removeprefix(codecs.BOM_UTF8)  # noqa: PLW2901 - the mark is no part of the text
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                self.trouble = f"not UTF-8: {error.reason} at byte {error.start} of its line"
                text = line.decode(errors="replace")
            yield text


def read_delimited(
    path: str,
    file: BinaryIO,
    delimiter: str,
    more: dict[str, Any],
    check: Callable[[dict[str, Any]], str | None],
) -> Iterator[Rows | Problem]:
    """Read records, some at a time.

    :param path: how messages name the file.
    :param more: columns that each row has besides its own.
    :param check: given the columns, says what is wrong with them, if anything; not asked where there are no records.
    :raises OSError: the file ends where it shouldn't.
    """
    # It only lets longer fields through, for the whole process.
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_FIELD))
    text = _Text(file)
    reader = csv.reader(iter(text), delimiter=delimiter, strict=True)
    try:
        header = _header(reader, text)
    except (csv.Error, HeaderError) as error:
        yield Problem(path, "", f"no header: {error}")
        return
    if not header:
        return
    more = {name: value for name, value in more.items() if name not in header}
    names, rest = [*header, *more], [*more.values()]
    blocks = in_blocks(path, _records(path, reader, text, names, rest))
    first = next(blocks, None)
    if first is None:
        return
    differs = check(dict.fromkeys(names))
    if differs:
        yield Problem(path, "", differs)
        return
    yield first
    yield from blocks


def _records(
    path: str, reader: Any, text: _Text, names: list[str], rest: list[Any]
) -> Iterator[dict[str, Any] | Problem]:
    number, width = 0, len(names) - len(rest)
    while True:
        try:
            for record in reader:
                if not record:
                    continue
                number += 1
                if text.trouble or len(record) != width:
                    wrong = text.trouble or f"{len(record)} fields where the header has {width}"
                    text.trouble = ""
                    yield Problem(place(path, number), "", f"{wrong} (line {reader.line_num:,})")
                else:
                    yield dict(zip(names, record + rest if rest else record, strict=True))
        except csv.Error as error:
            number += 1
            text.trouble = ""
            if "field limit" in str(error):
                told = f"a field has more than {LONGEST_FIELD:,} characters; is a quote left open? The rest isn't read"
                yield Problem(place(path, number), "", told)
                return
            wrong = _STRAY_RETURN if "new-line character" in str(error) else str(error)
            yield Problem(place(path, number), "", f"not CSV: {wrong} (line {reader.line_num:,})")
        except EOFError as error:
            raise OSError(f"row {number + 1:,}: {error}") from error
        else:
            return


def _header(reader: Any, text: _Text) -> list[str]:
    header: list[str] = next((record for record in reader if record), [])
    if text.trouble:
        raise HeaderError(text.trouble)
    for number, name in enumerate(header, 1):
        if not name.strip():
            raise HeaderError(f"column {number} has no name (an index that pandas wrote? index=False leaves it out)")
        if header.index(name) < number - 1:
            raise HeaderError(f"{name!r} stands in it twice")
    return header
