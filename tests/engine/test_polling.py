"""Intervals and backoff are figures of age and failures alone."""

from __future__ import annotations

import pytest

from airflow_openai_batch.engine.polling import MAX_BACKOFF, backoff, interval


@pytest.mark.parametrize(("age", "pause"), [(0, 60), (600, 60), (1200, 120), (3600, 360), (86_400, 360)])
def test_old_batches_are_polled_more_rarely(age, pause):
    assert interval(60, age) == pause


@pytest.mark.parametrize(("failures", "low", "high"), [(1, 15, 30), (2, 30, 60), (3, 60, 120)])
def test_backoff_doubles_and_is_spread_over_its_upper_half(failures, low, high):
    assert (backoff(30, failures, 0.0), backoff(30, failures, 1.0)) == (low, high)


@pytest.mark.parametrize("failures", [6, 50, 10_000])
def test_backoff_has_an_end(failures):
    assert backoff(30, failures, 1.0) == MAX_BACKOFF
