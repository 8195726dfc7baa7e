"""The user's columns come back with their types, and what has none comes back as text."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal

import pyarrow as pa
import pytest

from airflow_openai_batch.engine.columns import (
    MisfitError,
    declared_column,
    dump_schema,
    load_schema,
    seen_column,
    text_of,
)
from airflow_openai_batch.engine.shapes import MAX_FIELDS, Shape
from airflow_openai_batch.engine.values import json_form, reader

UTC = dt.timezone.utc
NOON = dt.datetime(2020, 7, 1, 12, tzinfo=UTC)
LONG_AGO = dt.datetime(1, 1, 1, 0, 0, 0, 1)  # noqa: DTZ001 - one without a zone


def seen(values):
    shape = Shape()
    for value in values:
        shape.see(value)
    return shape


def found(values):
    """The type that is found for JSON values, and the values in it."""
    array = seen_column(seen(values)).array(values)
    return str(array.type), array.to_pylist()


def as_json(array):
    """The values of an array as the joints have them."""
    return json.loads(json.dumps(reader(array.type)(array), default=json_form).replace("NaN", "null"))


def there_and_back(array):
    values = as_json(array)
    column = declared_column(array.type, seen(values))
    return None if column is None else column.array(values)


def test_a_schema_is_kept_as_text_without_what_pandas_noted_of_it():
    schema = pa.schema(
        [("a", pa.timestamp("us", "Europe/Berlin")), ("b", pa.list_(pa.int8()))], {"pandas": "x" * 1_000}
    )
    text = dump_schema(schema)
    assert load_schema(text) == schema
    assert len(text) < 1_000


@pytest.mark.parametrize("text", ["", "not base64!", "bm8gc2NoZW1h"])
def test_a_schema_that_cannot_be_read_is_none(text):
    assert load_schema(text) is None


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (pa.array([1, None, -128], pa.int8()), pa.int8()),
        (pa.array([-(2**63), 2**63 - 1, None], pa.int64()), pa.int64()),
        (pa.array([True, None, False]), pa.bool_()),
        (pa.array([0.1, None, 1e300]), pa.float64()),
        (pa.array([0.1, None, 3], pa.float32()), pa.float32()),
        (pa.array(["", None, "\u2028"]), pa.string()),
        (pa.array([b"\x00\xff", None, b""]), pa.binary()),
        (pa.array([dt.date(1, 1, 1), None, dt.date(9999, 12, 31)]), pa.date32()),
        (pa.array([LONG_AGO, None], pa.timestamp("us")), pa.timestamp("us")),
        (pa.array([NOON, None], pa.timestamp("us", "America/New_York")), pa.timestamp("us", "America/New_York")),
        (pa.array([Decimal("1.50"), None, Decimal("-0.01")], pa.decimal128(10, 2)), pa.decimal128(10, 2)),
        (pa.array([Decimal("1E-10")], pa.decimal128(38, 10)), pa.decimal128(38, 10)),
        (pa.array([dt.timedelta(days=1, microseconds=3), dt.timedelta(seconds=-1)]), pa.duration("us")),
        (pa.array([[1.5, 2.0], None], pa.list_(pa.field("element", pa.float32()), 2)), None),
        (pa.array([[dt.date(2020, 1, 1), None], None, []], pa.list_(pa.field("element", pa.date32()))), None),
        (pa.array([[("k", 1), ("l", None)], None, []], pa.map_(pa.string(), pa.int16())), None),
        (pa.array([[(dt.date(2020, 1, 1), Decimal("1.0"))]], pa.map_(pa.date32(), pa.decimal128(4, 1))), None),
        (
            pa.array(
                [{"when": NOON, "what": {"price": Decimal("1.5")}}, None, {"when": None, "what": None}],
                pa.struct([("when", pa.timestamp("us", "UTC")), ("what", pa.struct([("price", pa.decimal128(5, 2))]))]),
            ),
            None,
        ),
    ],
    ids=lambda value: str(getattr(value, "type", ""))[:30],
)
def test_a_type_that_all_readers_know_comes_back_as_it_was(given, wanted):
    back = there_and_back(given)
    assert back.type == (wanted or given.type)
    assert back.to_pylist() == given.to_pylist()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (pa.array([255], pa.uint8()), pa.int16()),
        (pa.array([65_535], pa.uint16()), pa.int32()),
        (pa.array([2**32 - 1], pa.uint32()), pa.int64()),
        (pa.array([1.5], pa.float16()), pa.float32()),
        (pa.array([dt.datetime(2020, 1, 1)], pa.timestamp("s")), pa.timestamp("us")),  # noqa: DTZ001 - without a zone
        (pa.array([1_577_836_800_123_456_000], pa.timestamp("ns")), pa.timestamp("us")),
        (pa.array([NOON], pa.timestamp("us", "+05:30")), pa.timestamp("us", "UTC")),
        (pa.array([dt.date(2020, 1, 1)], pa.date64()), pa.date32()),
        (pa.array(["a"], pa.large_string()), pa.string()),
        (pa.array(["a", None, "a"]).dictionary_encode(), pa.string()),
        (pa.array([b"ab"], pa.binary(2)), pa.binary()),
        (pa.array([[1]], pa.large_list(pa.int64())), pa.list_(pa.field("element", pa.int64()))),
        (pa.array([None], pa.null()), pa.string()),
    ],
    ids=lambda value: str(getattr(value, "type", value)),
)
def test_a_type_that_some_reader_lacks_becomes_the_next_wider_one(given, wanted):
    back = there_and_back(given) if given.type != pa.null() else seen_column(seen(as_json(given))).array([None])
    assert back.type == wanted
    values, ours = given.to_pylist(), back.to_pylist()
    assert [str(value)[:26] for value in ours] == [str(value)[:26] for value in values] or values == [NOON]


def test_integers_of_64_bits_without_a_sign_become_decimals():
    back = there_and_back(pa.array([0, None, 2**64 - 1], pa.uint64()))
    assert back.type == pa.decimal128(20, 0)
    assert back.to_pylist() == [Decimal(0), None, Decimal(2**64 - 1)]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (pa.array([dt.time(1, 2, 3, 4)], pa.time64("us")), "01:02:03.000004"),
        (pa.array([Decimal("1.5")], pa.decimal256(50, 2)), "1.50"),
    ],
)
def test_times_of_day_and_very_long_decimals_are_text(given, text):
    values = as_json(given)
    column = declared_column(given.type, seen(values)) or seen_column(seen(values))
    assert (column.type, column.array(values).to_pylist()) == (pa.string(), [text])


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.int64(), ["1"]),
        (pa.int64(), [1.5]),
        (pa.int64(), [2**64 - 1]),
        (pa.float64(), [2**60 + 1]),
        (pa.bool_(), [1]),
        (pa.string(), [1]),
        (pa.date32(), [20200101]),
        (pa.struct([("a", pa.int64())]), [{"a": 1, "b": 2}]),
        (pa.struct([("a", pa.int64())]), [[1]]),
        (pa.struct([("a", pa.int64()), ("A", pa.int64())]), [{"a": 1}]),
        (pa.list_(pa.int64()), ["abc"]),
        (pa.list_(pa.int64()), [["a"]]),
        (pa.dense_union([pa.field("a", pa.int64())]), [1]),
        (pa.month_day_nano_interval(), ["P1D"]),
        (pa.struct([]), [{}]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_values_that_look_otherwise_than_their_type_have_no_column_of_it(kind, values):
    assert declared_column(kind, seen(values)) is None


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.timestamp("us"), "2020-01-01T00:00:00.123456789"),
        (pa.timestamp("us"), "soon"),
        (pa.date32(), "2020-13-01"),
        (pa.decimal128(4, 2), "123.456"),
        (pa.int8(), 300),
        (pa.binary(), "not base64"),
        (pa.duration("us"), "a while"),
        (pa.list_(pa.float32(), 2), [1.0, 2.0, 3.0]),
        (pa.map_(pa.int32(), pa.int32()), {"one": 1}),
        (pa.map_(pa.int32(), pa.int32()), [1]),
    ],
    ids=str,
)
def test_a_value_that_its_type_does_not_hold_is_a_misfit(kind, value):
    column = declared_column(kind, seen([value]))
    with pytest.raises(MisfitError):
        column.array([None, value])


@pytest.mark.parametrize(
    ("values", "kind", "wanted"),
    [
        ([1, None, 2**63 - 1], "int64", None),
        ([1, 2.5], "double", [1.0, 2.5]),
        ([True, None], "bool", None),
        (["", None, "a"], "string", None),
        ([None, None], "string", None),
        ([], "string", None),
        ([[1, None], [], None], "list<element: int64>", None),
        ([[], None], "list<element: string>", None),
        (
            [{"a": 1}, {"b": "x"}, None],
            "struct<a: int64, b: string>",
            [{"a": 1, "b": None}, {"a": None, "b": "x"}, None],
        ),
        ([{"a": [{"b": 1}, None]}], "struct<a: list<element: struct<b: int64>>>", None),
    ],
    ids=str,
)
def test_types_are_found_in_rows_that_have_no_schema(values, kind, wanted):
    assert found(values) == (kind, values if wanted is None else wanted)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([1, "a", None, True, {"b": [1]}], ["1", "a", None, "true", '{"b":[1]}']),
        ([2**64 - 1, -1], ["18446744073709551615", "-1"]),
        ([2**60 + 1, 0.5], ["1152921504606846977", "0.5"]),
        ([True, 1], ["true", "1"]),
        ([{}, None], ["{}", None]),
        ([{"a": 1, "A": 2}], ['{"a":1,"A":2}']),
        ([[1], {"a": 1}], ["[1]", '{"a":1}']),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_text(values, wanted):
    assert found(values) == ("string", wanted)


def test_one_odd_item_makes_text_of_its_place_alone():
    assert found([{"a": [1, "x"], "b": 1}]) == (
        "struct<a: list<element: string>, b: int64>",
        [{"a": ["1", "x"], "b": 1}],
    )


def test_an_object_with_a_key_for_each_row_stays_json():
    values = [{f"user-{n}": n} for n in range(MAX_FIELDS + 1)]
    kind, texts = found(values)
    assert kind == "string"
    assert texts[-1] == f'{{"user-{MAX_FIELDS}":{MAX_FIELDS}}}'


def test_what_is_nested_without_end_stays_json():
    value = 1
    for _ in range(100):
        value = [value]
    shape = seen([value])
    assert seen_column(shape).array([value]).flatten().type != pa.int64()


@pytest.mark.parametrize(
    ("value", "text"), [(None, None), ("", ""), ("a", "a"), ({"a": "é"}, '{"a":"é"}'), (1.5, "1.5")]
)
def test_text_is_a_string_as_it_is_and_anything_else_as_json(value, text):
    assert text_of(value) == text
