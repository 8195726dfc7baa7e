"""The error tree: what a retry of the task could change, and what a message shows."""

from __future__ import annotations

import inspect

import pytest

from airflow_openai_batch import exceptions
from airflow_openai_batch.exceptions import (
    APIError,
    ConfigurationError,
    InputError,
    OpenAIBatchError,
    Problem,
    QueueFullError,
    RejectedError,
)

ERRORS = {
    name: value
    for name, value in vars(exceptions).items()
    if inspect.isclass(value) and issubclass(value, OpenAIBatchError)
}


def depth_first(cls=OpenAIBatchError, depth=0):
    yield depth, cls.__name__
    for child in cls.__subclasses__():
        if child.__module__ == exceptions.__name__:
            yield from depth_first(child, depth + 1)


def test_the_tree_in_the_docstring_is_the_real_one():
    drawn = []
    for line in exceptions.__doc__.splitlines():
        words = line.strip("│├└─ ").split()
        if words and words[0].endswith("Error"):
            drawn.append((line.index(words[0]) // 4 - 1, words[0]))
    assert drawn == list(depth_first())


def test_only_what_may_end_otherwise_is_retryable():
    assert {name for name, cls in ERRORS.items() if cls.retryable} == {
        "JobHaltedError",
        "JobOwnedError",
        "JobUnfinishedError",
        "StoreError",
        "NoTokenError",
        "QueueFullError",
        "RateLimitError",
        "UnreachableError",
    }


def test_bad_parameters_are_value_errors_too():
    assert issubclass(ConfigurationError, ValueError)


def test_an_api_error_says_what_the_server_said():
    error = QueueFullError("full", status=400, code="token_limit_exceeded", param="model")
    assert isinstance(error, (RejectedError, APIError))
    assert (str(error), error.status, error.code, error.param) == ("full", 400, "token_limit_exceeded", "model")


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem("a.jsonl, line 3", "prompt", "is bad"), "a.jsonl, line 3: prompt: is bad"),
        (Problem("a.jsonl", "", "is bad"), "a.jsonl: is bad"),
    ],
)
def test_a_problem_names_its_place_and_its_field(problem, text):
    assert str(problem) == text


def test_one_problem_is_shown_in_the_singular():
    assert str(InputError([Problem("a", "b", "c")])) == "1 problem in the input; nothing was uploaded:\n  a: b: c"


def test_twenty_problems_are_shown():
    error = InputError([Problem(str(n), "", "bad") for n in range(25)])
    assert (len(error.problems), error.count) == (20, 25)
    assert str(error).endswith("  19: bad\n  ... and 5 more")
