"""What a job will cost, and what it did cost."""

from __future__ import annotations

from datetime import datetime, timezone
from decimal import Decimal

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_openai_batch.engine.bill import Bill, actual, describe_bill
from airflow_openai_batch.engine.cost import ASSUMED_OUTPUT, Estimate, describe, dollars, estimate
from airflow_openai_batch.engine.models import Usage
from airflow_openai_batch.engine.prices import Pricing
from airflow_openai_batch.engine.sampling import Measure, Sampler
from airflow_openai_batch.engine.tokens import TokenCounter
from airflow_openai_batch.exceptions import UnknownPriceError

NOW = datetime(2026, 11, 23, tzinfo=timezone.utc)
PRICES = {
    "small": {"batch": {"input": 1, "output": 4}, "standard": {"input": 2, "output": 8}},
    "large": {
        "batch": {"input": 5, "output": 20, "cached_input": 1},
        "standard": {"input": 10, "output": 40, "cached_input": 2},
    },
}
PRICING = Pricing(NOW, PRICES)


def measure(model="small", **changes):
    """1,000 rows of 100 bytes and 20 tokens each, of which 100 were counted and each allows 50 tokens of output."""
    fields = {
        "rows": 1_000,
        "bytes": 100_000,
        "longest": 100,
        "sampled": 100,
        "sampled_bytes": 10_000,
        "input_tokens": 2_000,
        "limited": 100,
        "ceilings": 5_000,
        "unseen": 0,
        "counter": "bytes by script",
    }
    return Measure(model, **{**fields, **changes})


def one(*args, **kwargs):
    (model,) = estimate([measure(*args, **kwargs)], PRICING).models
    return model


def through_json(value):
    return orjson.loads(orjson.dumps(value.to_json()))


def test_tokens_of_all_rows_are_those_of_the_sample_by_bytes():
    model = one()
    assert (model.rows, model.sampled, model.input_tokens) == (1_000, 100, 20_000)
    assert one(bytes=200_000).input_tokens == 40_000
    assert one(rows=100, bytes=10_000).input_tokens == 2_000


def test_output_is_what_requests_allow_themselves():
    model = one()
    assert (model.output_tokens, model.output_from, model.most_output_tokens) == (50_000, "ceiling", 50_000)
    assert model.usd == model.usd_most == Decimal("0.22")
    assert model.usd_standard == Decimal("0.44")


def test_output_is_assumed_where_requests_set_no_limit():
    model = one(limited=0, ceilings=0)
    assert (model.output_tokens, model.output_from) == (1_000 * ASSUMED_OUTPUT, "assumed")
    assert (model.most_output_tokens, model.usd_most) == (None, None)


def test_output_is_assumed_of_the_rows_alone_that_set_no_limit():
    model = one(limited=50, ceilings=2_500)
    assert (model.output_tokens, model.output_from) == (500 * 50 + 500 * ASSUMED_OUTPUT, "assumed")


def test_the_assumption_can_be_replaced():
    (model,) = estimate([measure(limited=0, ceilings=0)], PRICING, assumed_output=7).models
    assert (model.output_tokens, model.output_from) == (7_000, "assumed")


def test_measured_output_replaces_limits_and_assumptions():
    before = estimate([measure("small"), measure("large", limited=0, ceilings=0)], PRICING)
    after = before.measured({"small": 4.5, "large": 2_000})
    small, large = after.models
    assert (small.output_tokens, small.output_from, small.usd_most) == (4_500, "measured", before.models[0].usd_most)
    assert (large.output_tokens, large.output_from) == (2_000_000, "measured")
    assert after.usd == Decimal("0.02") + Decimal("0.018") + Decimal("0.1") + Decimal(40)
    assert before.measured({}) == before


def test_measured_output_is_never_more_than_rows_are_allowed():
    assert one().measured(80).output_tokens == 50_000


@pytest.mark.parametrize("endpoint", ["/v1/embeddings", "/v1/moderations", "/embeddings"])
def test_embeddings_and_moderations_have_no_output(endpoint):
    (model,) = estimate([measure(limited=0, ceilings=0)], PRICING, endpoint=endpoint).models
    assert (model.output_tokens, model.output_from, model.usd, model.usd_most) == (
        0,
        "none",
        Decimal("0.02"),
        Decimal("0.02"),
    )
    assert model.measured(10) == model


@pytest.mark.parametrize("endpoint", ["/v1/images/generations", "/v1/images/edits", "/v1/videos"])
def test_what_images_and_videos_cost_is_not_made_up(endpoint):
    whole = estimate([measure()], PRICING, endpoint=endpoint)
    assert whole.usd is None
    with pytest.raises(UnknownPriceError, match="makes is no text"):
        whole.require()


def test_what_was_never_counted_has_no_cost():
    whole = estimate([measure(sampled=0, sampled_bytes=0, input_tokens=0, limited=0, ceilings=0)], PRICING)
    assert whole.usd is None
    assert "no request of it was counted" in whole.models[0].problem


def test_a_shard_costs_its_share():
    model = one()
    assert model.usd_of(1_000, 100_000) == model.usd
    assert model.usd_of(500, 25_000) == Decimal("0.105")
    assert model.usd_of(0, 0) == 0
    assert model.measured(10).usd_of(500, 50_000) == Decimal("0.03")
    assert one("my-model").usd_of(500, 25_000) is None
    assert one(rows=0, bytes=0).usd_of(0, 0) == 0


def test_models_are_added_up():
    whole = estimate([measure("small"), measure("large")], PRICING)
    assert (whole.rows, whole.usd, whole.usd_standard) == (2_000, Decimal("1.32"), Decimal("2.64"))
    assert whole.saving == Decimal("1.32")
    assert whole.require() == whole.usd


def test_a_sum_with_an_unknown_part_is_unknown():
    whole = estimate([measure("small"), measure("my-model")], PRICING)
    assert whole.models[0].usd == Decimal("0.22")
    assert (whole.usd, whole.usd_standard, whole.saving) == (None, None, None)
    with pytest.raises(UnknownPriceError, match=r"my-model: .*prices=\{'my-model'"):
        whole.require()


def test_an_unknown_standard_price_hides_the_saving_alone():
    whole = estimate([measure("m")], Pricing(NOW, {"m": {"batch": {"input": 1, "output": 4}}}))
    assert (whole.usd, whole.saving) == (Decimal("0.22"), None)
    assert "saved" not in describe(whole)[0]


def test_half_of_the_standard_price_is_taken_if_that_is_allowed():
    prices = {"m": {"standard": {"input": 2, "output": 8}}}
    assert estimate([measure("m")], Pricing(NOW, prices)).usd is None
    assert estimate([measure("m")], Pricing(NOW, prices, assume_batch_discount=True)).usd == Decimal("0.22")


def test_a_known_model_needs_no_price_given():
    whole = estimate([measure("gpt-4o-mini")], Pricing(NOW))
    assert whole.saving == whole.usd > 0
    assert whole.models[0].batch.source.startswith("genai-prices")


@pytest.mark.parametrize(
    "measures",
    [
        [],
        [measure()],
        [measure("small", limited=0, ceilings=0), measure("large", unseen=3)],
        [measure("my-model"), measure("gpt-5.4", longest=10_000_000)],
    ],
)
def test_an_estimate_survives_json(measures):
    whole = estimate(measures, PRICING)
    again = Estimate.from_json(through_json(whole))
    assert again == whole
    assert (again.usd, again.usd_standard, again.usd_most) == (whole.usd, whole.usd_standard, whole.usd_most)
    assert describe(again) == describe(whole)


@given(
    tokens=st.integers(0, 10**12),
    ceilings=st.integers(0, 10**9),
    rate=st.decimals(min_value=0, max_value=1000, places=4),
)
def test_any_amount_survives_json(tokens, ceilings, rate):
    pricing = Pricing(NOW, {"m": {"input": rate, "output": rate}})
    whole = estimate([measure("m", input_tokens=tokens, ceilings=ceilings)], pricing)
    assert Estimate.from_json(through_json(whole)) == whole
    assert through_json(whole)["usd"] == pytest.approx(float(whole.usd))


def test_money_in_json_is_numbers():
    value = through_json(estimate([measure()], PRICING))
    assert (value["usd"], value["usd_standard"], value["rows"]) == (0.22, 0.44, 1_000)
    assert value["models"][0]["batch"]["input"] == 1.0
    assert value["at"] == "2026-11-23T00:00:00+00:00"


def test_a_log_compares_models_the_cheapest_first():
    lines = describe(estimate([measure("large"), measure("small")], PRICING))
    used = "1,000 requests, 20,000 tokens in (bytes by script, 100 counted), 50,000 out (their limit)"
    assert lines == [
        "Estimate for 2,000 requests: $1.32 in batches, $2.64 one by one, $1.32 saved",
        f"  small: $0.2200 in batches, $0.4400 one by one, $0.2200 saved; {used}",
        "    USD per 1M tokens: 1 in, 4 out (given)",
        f"  large: $1.10 in batches, $2.20 one by one, $1.10 saved (5.0 times the cheapest); {used}",
        "    USD per 1M tokens: 5 in, 20 out (given)",
    ]


def test_a_log_compares_no_assumption_with_a_limit():
    whole = estimate([measure("large", limited=0, ceilings=0), measure("small")], PRICING)
    assert "times the cheapest" not in "".join(describe(whole))


def test_a_log_says_what_is_assumed_and_what_is_left_out():
    text = "\n".join(describe(estimate([measure(limited=0, ceilings=0, unseen=25)], PRICING)))
    assert "1,000,000 out (assumed)" in text
    assert "max_completion_tokens" in text
    assert "25 % of rows have audio, files or references" in text


def test_a_log_says_of_rows_that_a_dearer_rate_may_apply_to():
    text = "\n".join(describe(estimate([measure("gpt-5.4", longest=2_000_000)], PRICING)))
    assert "over 272,000 input tokens, for which a dearer rate applies" in text


def test_a_log_says_what_it_would_cost_at_most():
    whole = estimate([measure()], PRICING).measured({"small": 10})
    assert "$0.0600 in batches (at most $0.2200)" in describe(whole)[0]
    assert "10,000 out (as measured)" in describe(whole)[1]


def test_a_log_says_whose_price_is_unknown_last():
    lines = describe(estimate([measure("my-model"), measure("small")], PRICING))
    assert lines[0] == "Estimate for 2,000 requests: cost in batches unknown"
    assert lines[-2].startswith("  my-model: cost in batches unknown; 1,000 requests")
    assert "prices={'my-model'" in lines[-1]


def test_a_log_of_nothing_is_one_line():
    assert describe(estimate([], PRICING)) == [
        "Estimate for 0 requests: $0.00 in batches, $0.00 one by one, $0.00 saved"
    ]


@pytest.mark.parametrize(
    ("amount", "text"),
    [("0", "$0.00"), ("1234.5", "$1,234.50"), ("0.000012", "$0.000012"), ("-2", "-$2.00"), ("-0.5", "-$0.5000")],
)
def test_small_amounts_are_shown_in_full(amount, text):
    assert dollars(Decimal(amount)) == text


def test_rows_make_an_estimate():
    """The whole way from requests to money, with a token a character."""
    sampler = Sampler(keep=10, counter=lambda model: TokenCounter("characters", model, len))
    for number in range(1_000):
        request = {"custom_id": f"r{number}", "body": {"model": "small", "input": "x" * 50, "max_output_tokens": 10}}
        line = orjson.dumps(request)
        sampler.add("small", len(line), line)
    (model,) = estimate(sampler.measures(), PRICING, endpoint="/v1/responses").models
    assert model.input_tokens == pytest.approx(50_000, rel=0.02)
    assert (model.output_tokens, model.output_from, model.counter) == (10_000, "ceiling", "characters")


USAGE = {
    ("large", "batch"): Usage(1_000_000, 500_000, 100_000, 40_000, 1_100_000),
    ("large", "standard"): Usage(10_000, 0, 1_000, 0, 11_000),
}


def test_a_bill_counts_batches_and_direct_calls_apart():
    bill = actual(USAGE, PRICING)
    assert bill.usd_batch == Decimal("2.5") + Decimal("0.5") + 2
    assert bill.usd_direct == Decimal("0.1") + Decimal("0.04")
    assert bill.usd == Decimal("5.14")
    assert bill.usd_standard == Decimal("10.14")
    assert bill.saving == 5


def test_reasoning_is_part_of_the_output_and_costs_no_more():
    with_, without = (actual({("small", "batch"): Usage(0, 0, 100, n, 100)}, PRICING) for n in (90, 0))
    assert with_.usd == without.usd == Decimal("0.0004")


def test_a_bill_with_an_unknown_price_is_unknown_and_raises_nothing():
    bill = actual({**USAGE, ("my-model", "batch"): Usage(1, 0, 1, 0, 2)}, PRICING)
    assert (bill.usd, bill.usd_batch, bill.saving) == (None, None, None)
    assert bill.usd_direct == Decimal("0.14")
    assert describe_bill(bill)[0] == "What it cost isn't known"
    assert "my-model, batch: my-model: genai-prices" in describe_bill(bill)[-1]


def test_a_snapshots_usage_is_paid_at_its_models_price():
    bill = actual({("small-2026-01-31", "batch"): Usage(1_000_000, 0, 0, 0, 1_000_000)}, PRICING)
    assert bill.usd == 1


@pytest.mark.parametrize("usage", [{}, USAGE, {("my-model", "flex"): Usage(1)}])
def test_a_bill_survives_json(usage):
    bill = actual(usage, PRICING)
    assert Bill.from_json(through_json(bill)) == bill


def test_a_bill_is_told_in_a_few_lines():
    assert describe_bill(actual(USAGE, PRICING)) == [
        "It cost $5.14; one by one $10.14, $5.00 saved",
        "  large, batch: $5.00 (1,000,000 tokens in, 500,000 of them cached, 100,000 out)",
        "  large, standard: $0.1400 (10,000 tokens in, 0 of them cached, 1,000 out)",
    ]


def test_nothing_costs_nothing():
    assert (actual({}, PRICING).usd, actual({}, PRICING).saving) == (0, 0)
