"""Several steps at once, in order of their beginning."""

from __future__ import annotations

import threading

import pytest

from airflow_openai_batch.engine.crew import take_all


@pytest.mark.parametrize("at_once", [1, 4])
def test_every_step_is_taken(at_once):
    taken = []
    take_all(range(20), lambda step: taken.append(step) or True, at_once)
    assert sorted(taken) == list(range(20))


def test_as_many_as_asked_for_are_under_way_at_once_and_no_more():
    all_there = threading.Barrier(3, timeout=10)
    running, most = set(), []

    def take(step):
        running.add(step)
        most.append(len(running))
        if step < 3:
            all_there.wait()
        running.discard(step)
        return True

    take_all(range(9), take, 3)
    assert max(most) == 3


@pytest.mark.parametrize("at_once", [1, 2])
def test_after_a_step_that_says_no_none_is_begun(at_once):
    taken = []

    def take(step):
        taken.append(step)
        return step != 0

    take_all(range(50), take, at_once)
    assert len(taken) <= at_once


@pytest.mark.parametrize("at_once", [1, 2])
def test_an_error_is_raised_once_those_under_way_have_ended(at_once):
    begun, ended = threading.Event(), []

    def take(step):
        if step == 0:
            begun.wait(0.2 if at_once == 1 else 10)
            raise ValueError("the first")
        begun.set()
        ended.append(step)
        return True

    with pytest.raises(ValueError, match="the first"):
        take_all(range(50), take, at_once)
    assert len(ended) < 50


def test_a_kill_waits_for_no_step():
    """The main thread's ``KeyboardInterrupt`` comes in its wait for a step."""
    free = threading.Event()
    taken = []

    def take(step):
        taken.append(step)
        free.wait(10)
        return True

    def kill():
        raise KeyboardInterrupt

    class Steps(list):
        def __iter__(self):
            yield 0
            yield 1
            kill()

    with pytest.raises(KeyboardInterrupt):
        take_all(Steps([0, 1, 2]), take, 3)
    assert not free.is_set()
    free.set()
