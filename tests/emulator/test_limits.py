"""Enqueued tokens, and batches an hour."""

from __future__ import annotations

import time

import pytest
from openai import RateLimitError

from airflow_openai_batch.emulator.settings import parse_token_limits

MESSAGE = (
    "Enqueued token limit reached for gpt-5-mini in organization org-emulated. Limit: 1,000 enqueued tokens. "
    "Please try again once some in_progress batches have been completed."
)


def rows(api, tokens, model="gpt-5-mini"):
    return [api.row("a", body=api.body("x" * tokens * 4, model=model))]


def test_a_batch_that_does_not_fit_the_queue_fails(start):
    api = start(token_limit=["gpt-5-mini=1000"], in_progress=20)
    first = api.until(api.create(rows(api, 600)), "in_progress")
    batch = api.run(rows(api, 401))
    assert batch.status == "failed"
    (error,) = batch.errors.data
    assert (error.code, error.message, error.line) == ("token_limit_exceeded", MESSAGE, None)
    assert api.until(api.create(rows(api, 400)), "in_progress")
    api.until(api.create(rows(api, 5_000, "gpt-4o")), "in_progress")
    api.client.batches.cancel(first.id)
    api.until(first, "cancelled")
    assert api.until(api.create(rows(api, 600)), "in_progress")


def test_a_batch_larger_than_the_limit_never_fits(start):
    api = start(token_limit=[1000])
    assert api.run(rows(api, 1_001)).errors.data[0].code == "token_limit_exceeded"


@pytest.mark.parametrize("how", [{"token_lag": 1.5}, {"fault": ["token_lag,seconds=1.5"]}])
def test_tokens_are_released_late_where_the_counter_lags(start, how):
    api = start(token_limit=[1000], **how)
    assert api.run(rows(api, 900)).status == "completed"
    assert api.run(rows(api, 900)).status == "failed"
    time.sleep(1.6)
    assert api.run(rows(api, 900)).status == "completed"


def test_batches_an_hour_are_limited(start):
    api = start(batches_per_hour=2)
    file = api.upload(api.rows(1)).id
    api.create(file)
    api.create(file)
    with pytest.raises(RateLimitError) as caught:
        api.create(file)
    assert caught.value.code == "rate_limit_exceeded"
    assert int(caught.value.response.headers["retry-after"]) > 3_000


def test_limits_are_read_for_all_models_and_for_one():
    assert parse_token_limits(["5000", "gpt-4o=10", 7]) == {"*": 7, "gpt-4o": 10}
