"""Long steps tell how far they are; quick ones say nothing."""

from __future__ import annotations

import logging

import pytest

from airflow_openai_batch.engine.progress import Progress


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(autouse=True)
def _logged(caplog):
    caplog.set_level(logging.INFO)


def test_a_quick_step_says_nothing(clock, caplog):
    progress = Progress("Landing", "rows", 1000, clock)
    clock.now += 4.9
    progress.add(999)
    assert caplog.messages == []


def test_rate_share_and_time_left_are_told_every_few_seconds(clock, caplog):
    progress = Progress("Landing", "rows", 100_000, clock)
    for _ in range(4):
        clock.now += 2.5
        progress.add(2_500)
    assert caplog.messages == [
        "Landing: 5,000 rows, 1,000 a second, 5% done, about 95 s left",
        "Landing: 10,000 rows, 1,000 a second, 10% done, about 90 s left",
    ]


@pytest.mark.parametrize(
    ("share", "left"), [(0.5, "about 10 s left"), (0.01, "about 16 min left"), (0.001, "about 2.8 h left")]
)
def test_where_the_total_is_not_known_a_share_may_be(clock, caplog, share, left):
    progress = Progress("Planning", "rows", None, clock)
    clock.now += 10
    progress.add(50, lambda: share)
    assert caplog.messages[0].endswith(left)


def test_without_either_the_rate_is_told(clock, caplog):
    progress = Progress("Planning", "rows", None, clock)
    clock.now += 10
    progress.add(50)
    clock.now += 90
    progress.add(1)
    assert caplog.messages == ["Planning: 50 rows, 5 a second", "Planning: 51 rows"]
