"""JSON that isn't to the letter is read all the same, and can be written again."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_openai_batch.engine.leniently import loads


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [NaN, Infinity, -Infinity, 1e999, -0.5]}', {"a": [None, None, None, None, -0.5]}),
        (r'"a\ud83d"', "a\ufffd"),
        (r'"\ude00\ud83d b"', "\ufffd\ufffd b"),
        (r'{"\ud83d": "\ud83d\ude00"}', {"\ufffd": "\U0001f600"}),
        ('\ufeff{"a": 1}\n', {"a": 1}),
        ('{"a": 123456789012345678901234567890, "b": NaN}', {"a": 1.2345678901234568e29, "b": None}),
        ("NaN", None),
    ],
)
def test_what_no_json_has_is_replaced_wherever_it_stands(text, value):
    assert loads(text) == value


@pytest.mark.parametrize("text", ["", "{", '{"a": 1', "not json", "[" * 100_000, '"\t"', '{"a": nan}', "9" * 10_000])
def test_what_is_no_json_even_so_is_a_value_error(text):
    with pytest.raises(ValueError):  # noqa: PT011 - each reader's own words
        loads(text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)  # fmt: skip


@given(VALUES)
def test_what_is_json_to_the_letter_is_read_as_ever(value):
    content = orjson.dumps(value)
    assert loads(content.decode()) == orjson.loads(content)
