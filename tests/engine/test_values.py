"""Values on their way: from Arrow to Python, from Python to JSON, and what types rows have."""

from __future__ import annotations

import enum
import ipaddress
import json
import re
import subprocess
import sys
from collections import OrderedDict
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pytest
from pydantic import BaseModel

from airflow_openai_batch.engine.values import Inference, Partly, Unreadable, json_form, reader, type_of

UUID_1 = UUID(int=1)
NAN, INF = float("nan"), float("inf")
MOMENT = datetime(2026, 7, 1, 12, 30, 0, 500_000, tzinfo=timezone.utc)


class Point(NamedTuple):
    x: int
    y: int


def plain(*parts):
    """A moment without a zone."""
    return datetime(*parts)  # noqa: DTZ001 - the point


class Colour(enum.Enum):
    RED = "red"


class Review(BaseModel):
    stars: int = 3


def dumped(value):
    return json.loads(orjson.dumps(value, default=json_form, option=orjson.OPT_NON_STR_KEYS))


def named(value):
    """A test's name: the same in every process, without addresses and the order of a set."""
    return repr(sorted(value) if isinstance(value, set) else re.sub(r" at 0x\w+", "", repr(value)))


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (NAN, None),
        (INF, None),
        (-INF, None),
        (2**64 - 1, 2**64 - 1),
        (b"\x00\xff", "AP8="),
        (bytearray(b"a"), "YQ=="),
        (memoryview(b"a"), "YQ=="),
        (Decimal("1.50"), "1.50"),
        (Decimal("NaN"), "NaN"),
        (date(1, 1, 1), "0001-01-01"),
        (plain(2026, 1, 1), "2026-01-01T00:00:00"),
        (MOMENT, "2026-07-01T12:30:00.500000+00:00"),
        (MOMENT.astimezone(ZoneInfo("Europe/Berlin")), "2026-07-01T14:30:00.500000+02:00"),
        (time(1, 2, 3), "01:02:03"),
        (timedelta(days=1, seconds=1.5), "P1DT1.5S"),
        (timedelta(0), "PT0S"),
        (UUID_1, "00000000-0000-0000-0000-000000000001"),
        ({"b", "a"}, ["a", "b"]),
        ((1, (2,)), [1, [2]]),
        (Point(1, 2), [1, 2]),
        (OrderedDict(a=1), {"a": 1}),
        (Colour.RED, "red"),
        (Review(), {"stars": 3}),
        (Path("a/b"), "a/b"),
        (ipaddress.ip_address("127.0.0.1"), "127.0.0.1"),
        (pd.Timestamp("2026-01-01 00:00:00.123456789", tz="UTC"), "2026-01-01T00:00:00.123456789+00:00"),
        (pd.Timedelta(hours=1), "PT1H"),
        (pd.NaT, None),
        (pd.NA, None),
        (np.float64("nan"), None),
        (np.float32(1.5), 1.5),
        (np.int64(3), 3),
        (np.bool_(1), True),
        (np.str_("a"), "a"),
        (np.bytes_(b"a"), "YQ=="),
        (np.datetime64("2026-01-01"), "2026-01-01"),
        (np.datetime64("2026-01-01T00:00:00.000000001"), "2026-01-01T00:00:00.000000001"),
        (np.datetime64("NaT"), None),
        (np.timedelta64(90, "m"), "PT1H30M"),
        (np.timedelta64("NaT"), None),
        (np.array([[1, 2], [3, 4]])[:, 1], [2, 4]),
        (np.array(["a", None], dtype=object), ["a", None]),
    ],
    ids=named,
)
def test_every_value_has_one_form_in_json_alone_or_nested(value, form):
    assert dumped(value) == form
    assert dumped({"a": [value, {"b": value}]}) == {"a": [form, {"b": form}]}


@pytest.mark.parametrize("value", [object(), dumped, Exception("x"), ZoneInfo("UTC")], ids=named)
def test_what_has_no_form_says_so(value):
    with pytest.raises(TypeError, match=r"no JSON form for|not JSON serializable") as caught:
        orjson.dumps({"a": value}, default=json_form)
    assert type(value).__name__ in str(caught.value.__cause__ or caught.value)


DEEP = pa.list_(pa.struct({"m": pa.map_("string", pa.list_(pa.map_("string", "int64")))}))


def extension(kind, stored):
    return pa.ExtensionArray.from_storage(kind, pa.array(stored, kind.storage_type))


def values(array):
    return reader(array.type)(array)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array(["a", None, ""], pa.large_string()), ["a", None, ""]),
        (pa.array(["a", None, "a"]).dictionary_encode(), ["a", None, "a"]),
        (pa.array([2**64 - 1, None], pa.uint64()), [2**64 - 1, None]),
        (pa.array([1.5, None], pa.float16()), [1.5, None]),
        (pa.array([b"\x00", None], pa.large_binary()), [b"\x00", None]),
        (pa.array([b"ab", None], pa.binary(2)), [b"ab", None]),
        (pa.array([Decimal("1.50"), None]), [Decimal("1.50"), None]),
        (pa.array([Decimal("1" * 50)], pa.decimal256(60, 0)), [Decimal("1" * 50)]),
        (pa.array([date(1, 1, 1), None]), [date(1, 1, 1), None]),
        (pa.array([date(2026, 1, 1)], pa.date64()), [date(2026, 1, 1)]),
        (pa.array([MOMENT, None], pa.timestamp("ms", "UTC")), [MOMENT, None]),
        (pa.array([MOMENT], pa.timestamp("us", "Europe/Berlin")), [MOMENT]),
        (pa.array([plain(2026, 1, 1), None], pa.timestamp("s")), [plain(2026, 1, 1), None]),
        (pa.array([plain(2026, 1, 1), None], pa.timestamp("ns")), [plain(2026, 1, 1), None]),
        (pa.array([MOMENT], pa.timestamp("ns", "+02:00")), [MOMENT]),
        (pa.array([time(1, 2, 3)], pa.time32("s")), [time(1, 2, 3)]),
        (pa.array([1_500, None], pa.time64("ns")), [time(0, 0, 0, 1), None]),
        (pa.array([timedelta(hours=1), None]), [timedelta(hours=1), None]),
        (pa.array([1_500, None], pa.duration("ns")), [timedelta(microseconds=1), None]),
        (pa.array([["a", None], None, []]), [["a", None], None, []]),
        (pa.array([[1, 2], None], pa.list_(pa.int8(), 2)), [[1, 2], None]),
        (pa.array([["a"]], pa.large_list(pa.string())), [["a"]]),
        (pa.array([{"a": 1, "b": {"c": "x"}}, None]), [{"a": 1, "b": {"c": "x"}}, None]),
        (pa.array([[1_000]], pa.list_(pa.timestamp("ns"))), [[plain(1970, 1, 1, 0, 0, 0, 1)]]),
        (pa.array([[("k", 1), ("l", None)], None, []], pa.map_("string", "int64")), [{"k": 1, "l": None}, None, {}]),
        (pa.array([[(1, "a")], []], pa.map_("int64", "string")), [[[1, "a"]], []]),
        (pa.array([[("k", 1), ("k", 2)]], pa.map_("string", "int64")), [[["k", 1], ["k", 2]]]),
        (
            pa.array([[{"m": [("k", [[("l", 1)]])]}, None]], DEEP),
            [[{"m": {"k": [{"l": 1}]}}, None]],
        ),
        (pa.nulls(2), [None, None]),
        (extension(pa.fixed_shape_tensor(pa.int8(), [2]), [[1, 2]]), [[1, 2]]),
        (extension(pa.uuid(), [UUID_1.bytes, None]), [UUID_1, None]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)  # fmt: skip
def test_arrow_values_come_out_as_pythons_also_of_a_slice(array, expected):
    assert values(array) == expected
    padded = pa.concat_arrays([array, array]).slice(len(array), len(array))
    assert values(padded) == expected


def test_nanoseconds_that_python_cannot_hold_stay_as_text():
    assert values(pa.array([1, 2_000, None, 10**9], pa.timestamp("ns"))) == [
        "1970-01-01T00:00:00.000000001",
        plain(1970, 1, 1, 0, 0, 0, 2),
        None,
        plain(1970, 1, 1, 0, 0, 1),
    ]
    assert values(pa.array([1, 2_000], pa.timestamp("ns", "UTC"))) == [
        "1970-01-01T00:00:00.000000001Z",
        datetime(1970, 1, 1, 0, 0, 0, 2, tzinfo=timezone.utc),
    ]
    assert values(pa.array([{"a": [1]}], pa.struct({"a": pa.list_(pa.timestamp("ns"))}))) == [
        {"a": ["1970-01-01 00:00:00.000000001"]}
    ]


@pytest.mark.parametrize(
    "array",
    [
        pa.array([0, 2**62], pa.timestamp("us")),
        pa.array([0, 2**62], pa.timestamp("s", "UTC")),
        pa.array([0, 2**30], pa.int32()).view(pa.date32()),
        pa.array([[0], [2**62]], pa.list_(pa.timestamp("us"))),
    ],
    ids=lambda array: str(array.type),
)
def test_a_date_that_python_cannot_hold_is_unreadable_and_spoils_no_other(array):
    found = values(array)
    assert isinstance(found, Partly)
    assert not isinstance(found[0], Unreadable)
    assert found[1].message.endswith("out of range: years go from 1 to 9999")


def test_text_that_isnt_utf_8_is_unreadable_and_spoils_no_other():
    array = pa.array([b"a", b"\xff"]).view(pa.string())
    found = values(array)
    assert found[0] == "a"
    assert found[1].message == "not UTF-8: invalid start byte at byte 0"


def inferred(*rows, **options):
    inference = Inference(**options)
    for row in rows:
        inference.see([row])
    return inference.schema()


def test_rows_that_json_has_all_types_of_have_no_schema():
    assert inferred({"a": 1, "b": "x", "c": [None, {"d": 1.5}]}) is None
    assert inferred() is None
    assert inferred({"a": 1}, {"a": "x"}, {"a": date(2026, 1, 1)}) is None


def test_rows_with_other_values_have_the_schema_of_all_columns():
    rows = ({"a": 1, "when": None, "raw": b"x"}, {"a": 2.5, "when": MOMENT, "id": UUID_1, "st": {"d": Decimal("1.5")}})
    assert inferred(*rows) == pa.schema(
        [
            ("a", pa.float64()),
            ("when", pa.timestamp("us", "UTC")),
            ("raw", pa.binary()),
            ("id", pa.string()),
            ("st", pa.struct({"d": pa.decimal128(2, 1)})),
        ]
    )


def test_types_are_learnt_from_all_rows_once_they_are_needed():
    rows = [{"d": date(2026, 1, 1), "n": None, "p": Decimal("1.5")}] * 2_000
    last = {"d": None, "n": 5, "p": Decimal("123.456"), "new": "x"}
    assert inferred(*rows, last) == pa.schema(
        [("d", pa.date32()), ("n", pa.int64()), ("p", pa.decimal128(6, 3)), ("new", pa.string())]
    )


def test_a_thousand_plain_rows_are_enough_to_expect_no_others():
    plain = [{"a": 1}] * 1_024
    assert inferred(*plain, {"a": date(2026, 1, 1)}) is None
    assert inferred(*plain, {"b": date(2026, 1, 1)}, needed=True) == pa.schema([("a", pa.int64()), ("b", pa.date32())])


def test_types_that_were_seen_before_they_were_needed_count():
    plain = [{"a": 1, "b": "x", "c": None, "d": None}] * 40 + [{"a": 1.5, "b": None, "c": None, "e": True}] * 40
    assert inferred(*plain, {"c": b"x"}) == pa.schema(
        [("a", pa.float64()), ("b", pa.string()), ("c", pa.binary()), ("d", pa.null()), ("e", pa.bool_())]
    )
    for other in ([1], {"x": 1}, "text"):
        assert inferred(*plain, *[{"a": other}] * 40, {"c": b"x"}) is None


def test_rows_that_json_has_all_types_of_are_read_without_pyarrow():
    code = (
        "import sys\nfrom airflow_openai_batch.engine.sources import open_source\n"
        "source = open_source([{'a': n, 'b': [n], 'c': None} for n in range(2_000)])\n"
        "assert len(list(source.rows())) == 2_000 and source.schema() is None\n"
        "assert 'pyarrow' not in sys.modules and 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_moments_of_many_offsets_are_one_type():
    winter, summer = (datetime(2026, month, 1, tzinfo=timezone(timedelta(hours=month // 3))) for month in (1, 7))
    assert inferred({"a": winter}, {"a": summer}) == pa.schema([("a", pa.timestamp("us", "UTC"))])
    rows = [{"a": winter}] * 40 + [{"a": summer}] * 40
    assert inferred(*rows) == pa.schema([("a", pa.timestamp("us", "UTC"))])


@pytest.mark.parametrize(
    "mixed",
    [
        [date(2026, 1, 1), MOMENT],
        [date(2026, 1, 1), 1],
        [b"a", "a"],
        [memoryview(b"a"), 1],
        [2**70, "a"],
        [object(), date(2026, 1, 1)],
    ],
    ids=named,
)
def test_values_without_a_common_type_have_no_schema(mixed):
    assert inferred(*({"a": value} for value in mixed)) is None
    apart = [{"a": mixed[0]}] * 40 + [{"a": mixed[1]}] * 40
    assert inferred(*apart) is None
    with pytest.raises(ValueError, match=r"\w"):
        type_of(mixed)
