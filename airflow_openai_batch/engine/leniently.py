"""JSON that isn't to the letter, as some servers write it, read all the same: the answer in it was paid for.

Met are ``NaN`` and ``Infinity`` (Python's own ``json`` writes them), halves of surrogate pairs, bytes that are no UTF-8
and a byte order mark. What comes out can be written as JSON again. It is slow, so it is for what orjson has refused.
"""

from __future__ import annotations

import json
import math
from typing import Any

import jsonlines
import orjson


def loads(text: str) -> Any:
    """Return the value of a text.

    Numbers that no JSON has are null, and half a surrogate pair is U+FFFD.

    :raises ValueError: it is no JSON even so.
    """
    try:
        return jsonlines.Reader((text,), loads=_loads).read(allow_none=True)
    except (jsonlines.InvalidLineError, RecursionError) as error:
        raise ValueError(str(error)) from error


def _loads(text: str | bytes) -> Any:
    value = json.loads(text, parse_constant=_nothing, parse_float=_finite)
    whole = json.dumps(value, ensure_ascii=False)
    # A lone surrogate is something that UTF-16 can hold, and then can't read.
    return orjson.loads(whole.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def _nothing(_name: str) -> None:
    return None


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None
