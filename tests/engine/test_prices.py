"""What a model costs: the author's word first, then genai-prices', and never a guess that wasn't asked for."""

from __future__ import annotations

import builtins
import socket
import subprocess
import sys
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

import orjson
import pytest

from airflow_openai_batch.engine.prices import PROCESSINGS, Price, Pricing, check_prices, price_of
from airflow_openai_batch.exceptions import ConfigurationError, UnknownPriceError

NOW = datetime(2026, 11, 23, tzinfo=timezone.utc)
MINE = {"input": 0.25, "output": 2.0, "cached_input": 0.025}


def rates(price):
    return price.input, price.cached_input, price.output


@pytest.fixture
def offline(monkeypatch):
    def no_network(*_args, **_kwargs):
        raise AssertionError("prices must not be fetched")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)


def test_a_flat_price_holds_however_a_request_is_processed():
    for processing in PROCESSINGS:
        price = price_of("my-model", NOW, processing, {"my-model": MINE})
        assert rates(price) == (Decimal("0.25"), Decimal("0.025"), Decimal("2.0"))
        assert (price.model, price.processing, price.source, price.since) == ("my-model", processing, "given", None)


def test_cached_input_costs_what_other_input_does_unless_it_is_given():
    assert rates(price_of("m", NOW, "batch", {"m": {"input": 1, "output": "3"}})) == (1, 1, 3)


def test_prices_may_be_given_by_processing():
    given = {"m": {"batch": {"input": 1, "output": 2}, "standard": {"input": 2, "output": 4}}}
    assert rates(price_of("m", NOW, "batch", given)) == (1, 1, 2)
    assert rates(price_of("m", NOW, "standard", given)) == (2, 2, 4)
    with pytest.raises(UnknownPriceError):
        price_of("m", NOW, "flex", given)


def test_the_newest_price_that_has_begun_counts():
    given = {
        "m": [
            {"since": "2026-06-01", "input": 3, "output": 3},
            {"input": 1, "output": 1},
            {"since": date(2026, 1, 1), "batch": {"input": 2, "output": 2}},
        ]
    }
    assert price_of("m", datetime(2025, 12, 31), "batch", given).input == 1  # noqa: DTZ001 - UTC where none is named
    assert price_of("m", datetime(2026, 1, 1, tzinfo=timezone.utc), "batch", given).input == 2
    assert price_of("m", datetime(2026, 1, 1, tzinfo=timezone.utc), "standard", given).input == 1
    june = price_of("m", NOW, "batch", given)
    assert (june.input, june.since) == (3, date(2026, 6, 1))
    east = timezone(timedelta(hours=5))
    assert price_of("m", datetime(2026, 6, 1, 1, tzinfo=east), "standard", given).input == 1


def test_prices_that_begin_later_are_no_prices_yet():
    with pytest.raises(UnknownPriceError, match="doesn't know its price"):
        price_of("my-model", NOW, "batch", {"my-model": [{"since": "2099-01-01", **MINE}]})


@pytest.mark.parametrize("name", ["openai/my-model", "my-model-2026-01-31", "gateway/openai/my-model-2026-01-31"])
def test_given_prices_hold_for_snapshots_and_behind_gateways(name):
    price = price_of(name, NOW, "batch", {"my-model": MINE})
    assert (price.model, price.source) == (name, "given for my-model")


def test_the_closest_name_wins():
    given = {"m": {"input": 1, "output": 1}, "m-2026-01-31": {"input": 2, "output": 2}}
    assert price_of("m-2026-01-31", NOW, "batch", given).input == 2
    assert price_of("m-2026-02-01", NOW, "batch", given).input == 1


def test_a_given_price_goes_before_what_is_known():
    assert price_of("gpt-4o-mini", NOW, "batch", {"gpt-4o-mini": {"input": 7, "output": 8}}).input == 7


def test_known_batch_prices_are_half_of_the_standard_ones(offline):
    batch, standard = (price_of("gpt-4o-mini", NOW, processing) for processing in ("batch", "standard"))
    assert standard.input > 0
    assert (2 * batch.input, 2 * batch.output) == (standard.input, standard.output)
    assert batch.source.startswith("genai-prices ")


def test_cached_input_is_no_cheaper_where_the_batch_rates_name_none_for_it():
    batch, standard = (price_of("gpt-4.1", NOW, processing) for processing in ("batch", "standard"))
    assert batch.cached_input == batch.input
    assert standard.cached_input < standard.input


def test_cached_input_is_cheaper_where_the_batch_rates_name_it():
    batch = price_of("gpt-5-mini", NOW, "batch")
    assert batch.cached_input < batch.input


def test_batch_rates_that_are_listed_as_the_standard_ones_are_known():
    batch, standard = (price_of("gpt-3.5-turbo-1106", NOW, processing) for processing in ("batch", "standard"))
    assert rates(batch) == rates(standard)


@pytest.mark.parametrize("name", ["gpt-5-mini-2025-08-07", "openai/gpt-5-mini", "GPT-5-mini", "gpt-5-mini-2031-01-01"])
def test_snapshots_and_prefixes_have_their_models_price(name):
    price = price_of(name, NOW, "batch")
    assert rates(price) == rates(price_of("gpt-5-mini", NOW, "batch"))
    assert price.source.endswith(", as gpt-5-mini")


def test_a_price_of_the_past_is_the_one_of_then():
    before, after = (price_of("o3", datetime(2025, 6, day, tzinfo=timezone.utc), "standard") for day in (9, 10))
    assert before.input > after.input
    assert (before.since, after.since) == (None, date(2025, 6, 10))


def test_a_batch_price_that_was_not_known_yet_is_not_the_standard_one():
    long_ago = datetime(2026, 1, 1, tzinfo=timezone.utc)
    with pytest.raises(UnknownPriceError, match=r"no batch price before 2026-10-14.*assume_batch_discount=True"):
        price_of("gpt-4o-mini", long_ago, "batch")


def test_half_of_the_standard_price_is_taken_only_if_that_is_asked_for():
    with pytest.raises(UnknownPriceError, match=r"no batch price\. Give it, .*prices=\{'text-embedding-3-small'"):
        price_of("text-embedding-3-small", NOW, "batch")
    half = price_of("text-embedding-3-small", NOW, "batch", assume_batch_discount=True)
    assert 2 * half.input == price_of("text-embedding-3-small", NOW, "standard").input > 0
    assert (half.output, half.processing) == (0, "batch")
    assert half.source.startswith("half of the standard price assumed (genai-prices ")


def test_half_of_a_given_standard_price_can_be_taken():
    given = {"m": {"standard": {"input": 2, "output": 4}}}
    with pytest.raises(UnknownPriceError, match="assume_batch_discount"):
        price_of("m", NOW, "batch", given)
    assert rates(price_of("m", NOW, "batch", given, assume_batch_discount=True)) == (1, 1, 2)


def test_a_known_batch_price_is_not_replaced_by_half_of_the_standard_one():
    assert price_of("gpt-4o-mini", NOW, "batch", assume_batch_discount=True) == price_of("gpt-4o-mini", NOW, "batch")


@pytest.mark.parametrize("processing", PROCESSINGS)
def test_an_unknown_model_says_how_to_give_its_price(processing):
    with pytest.raises(UnknownPriceError, match=rf"my-model: .*prices=\{{'my-model': \{{'{processing}'"):
        price_of("my-model", NOW, processing, assume_batch_discount=True)


def test_a_model_that_is_not_billed_by_tokens_has_no_price():
    with pytest.raises(UnknownPriceError, match="no price of its tokens"):
        price_of("whisper-1", NOW, "standard")


def test_what_is_free_is_free_in_batches():
    assert rates(price_of("omni-moderation-latest", NOW, "batch")) == (0, 0, 0)


def test_an_image_models_tokens_cost_the_dearer_kind():
    assert price_of("gpt-image-1", NOW, "standard").input == Decimal(10)


def test_a_rate_for_long_requests_is_told_of():
    assert price_of("gpt-5.4", NOW, "batch").long_from == 272_000
    assert price_of("gpt-5-mini", NOW, "batch").long_from is None


def test_flex_has_prices_of_its_own():
    assert price_of("gpt-5", NOW, "flex").input < price_of("gpt-5", NOW, "standard").input


@pytest.mark.parametrize("processing", PROCESSINGS)
def test_every_model_of_the_table_has_a_price_or_an_error(processing, offline):
    from genai_prices.data import providers

    known = 0
    for model in {model.id for provider in providers for model in provider.models}:
        try:
            price = price_of(model, NOW, processing)
        except UnknownPriceError:
            continue
        known += 1
        assert all(rate.is_finite() and rate >= 0 for rate in rates(price)), model
    assert known > 30


def test_a_table_that_the_user_has_had_updated_is_named_as_such():
    from genai_prices import data_snapshot

    moment = datetime(2026, 11, 20)  # noqa: DTZ001 - as genai-prices stamps it
    bundled = data_snapshot.get_snapshot()
    data_snapshot.set_custom_snapshot(
        data_snapshot.DataSnapshot(bundled.providers, from_auto_update=True, timestamp=moment)
    )
    try:
        assert price_of("gpt-5-mini", NOW, "batch").source.endswith(" updated 2026-11-20")
    finally:
        data_snapshot.set_custom_snapshot(None)


def test_a_table_without_variants_knows_no_batch_price(monkeypatch):
    """As releases of genai-prices before 0.1 are."""
    import genai_prices

    real = genai_prices.calc_price

    def older(*args, **kwargs):
        found = real(*args, **kwargs)

        class Info:
            id, prices = found.model.id, found.model.prices

        found.model = Info()
        return found

    monkeypatch.setattr(genai_prices, "calc_price", older)
    assert price_of("gpt-4o-mini", NOW, "standard").input > 0
    with pytest.raises(UnknownPriceError, match="knows its standard price, and no batch price\\."):
        price_of("gpt-4o-mini", NOW, "batch")


@pytest.mark.parametrize(
    "value",
    [
        {},
        None,
        {"m": MINE},
        {"m": {"input": Decimal("0.1"), "output": "1e-3", "cached_input": None}},
        {"m": [{"since": date(2026, 1, 1), **MINE}, {"since": datetime(2026, 2, 1, tzinfo=timezone.utc), **MINE}]},
        {"m": {"batch": MINE}, "n": {"since": "2026-01-01", "standard": MINE}},
    ],
)
def test_checked_prices_are_plain_json_and_may_be_checked_again(value):
    checked = check_prices(value)
    assert orjson.loads(orjson.dumps(checked)) == checked
    again = check_prices(checked)
    assert again == checked


def test_checked_prices_are_the_same_prices():
    given = {"m": [{"since": "2026-01-01", "batch": MINE, "standard": {"input": 9, "output": 9}}, MINE]}
    for processing in PROCESSINGS:
        assert price_of("m", NOW, processing, check_prices(given)) == price_of("m", NOW, processing, given)


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ([], "a mapping of models to prices"),
        ("gpt-5", "a mapping of models to prices"),
        ({1: MINE}, "a model's name"),
        ({"": MINE}, "a model's name"),
        ({"m": 0.25}, r"prices\['m'\]: \{'input'"),
        ({"m": []}, "it is empty"),
        ({"m": {}}, "'input' is missing"),
        ({"m": {"input": 1}}, "'output' is missing"),
        ({"m": {**MINE, "ouput": 1}}, "unknown 'ouput'"),
        ({"m": {**MINE, "batch": MINE}}, "'input' can't stand beside batch"),
        ({"m": {"batch": MINE, "priority": MINE}}, "'priority' can't stand beside"),
        ({"m": {"batch": 1}}, r"prices\['m'\]\['batch'\]: \{'input'"),
        ({"m": {"input": -1, "output": 1}}, r"\['input'\]: it must be 0 or more"),
        ({"m": {"input": float("nan"), "output": 1}}, "it must be 0 or more"),
        ({"m": {"input": float("inf"), "output": 1}}, "it must be 0 or more"),
        ({"m": {"input": True, "output": 1}}, "a number of USD"),
        ({"m": {"input": "cheap", "output": 1}}, "a number of USD"),
        ({"m": {"input": [1], "output": 1}}, "a number of USD"),
        ({"m": {"input": None, "output": 1}}, "a number of USD"),
        ({"m": {"since": "last year", **MINE}}, "a day such as"),
        ({"m": {"since": 2026, **MINE}}, "a day such as"),
        ({"m": [MINE, MINE]}, "two prices begin on the same day"),
    ],
)
def test_prices_that_cannot_be_right_are_told_at_dag_parse(value, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        check_prices(value)


def test_checking_prices_imports_no_table():
    code = (
        "import sys; from airflow_openai_batch.engine.prices import check_prices; "
        "check_prices({'m': {'input': 1, 'output': 1}}); sys.exit('genai_prices' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_given_price_needs_no_table(monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        assert not name.startswith("genai_prices")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert price_of("m", NOW, "batch", {"m": MINE}).input == Decimal("0.25")


def test_tokens_are_paid_for_by_their_kind():
    price = price_of("m", NOW, "batch", {"m": {"input": 1, "cached_input": "0.1", "output": 10}})
    assert price.cost(1_000_000, 0) == 1
    assert price.cost(1_000_000, 100_000) == 2
    assert price.cost(1_000_000, 0, cached_tokens=500_000) == Decimal("0.55")
    assert price.cost(10, 0, cached_tokens=99) == price.cost(10, 0, cached_tokens=10)


@pytest.mark.parametrize("model", ["gpt-5-mini", "gpt-5.4", "o3", "m"])
def test_a_price_survives_json(model):
    price = price_of(model, NOW, "batch", {"m": {"since": "2026-01-01", **MINE}})
    assert Price.from_json(orjson.loads(orjson.dumps(price.to_json()))) == price


def test_pricing_says_why_there_is_no_price():
    pricing = Pricing(NOW, {"m": MINE})
    assert pricing.of("m", "batch") == (pricing.must("m", "batch"), None)
    price, problem = pricing.of("n", "batch")
    assert price is None
    assert problem.startswith("n: genai-prices")
    assert Pricing(NOW, assume_batch_discount=True).must("text-embedding-3-large", "batch").input > 0
