"""Responders: what says the words of an answer.

A responder is anything that can be called with a :class:`~airflow_openai_batch.emulator.prompts.Prompt` and returns
the answer's text::

    def shout(prompt: Prompt) -> str:
        return prompt.text.upper()

``--responder my_module:shout`` uses it; a class is instantiated first. It is called from several threads, once per
row, and must give the same text for the same prompt. Token limits, structured output and markers are none of its
business: the emulator cuts, fills the schema in and refuses by itself. An exception in it is the row's status 500.
"""

from __future__ import annotations

import importlib
import inspect
import re
from typing import TYPE_CHECKING, Protocol

from airflow_openai_batch.emulator import sentiment
from airflow_openai_batch.emulator.structured import enum_values

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_openai_batch.emulator.prompts import Prompt

_ABOUT_SENTIMENT = re.compile(
    r"sentiment|positive|negative|긍정|부정|감성|감정|ポジティブ|ネガティブ|肯定|否定|感情", re.IGNORECASE
)


class Responder(Protocol):
    """What a responder has to be."""

    def __call__(self, prompt: Prompt, /) -> str:
        """Return the answer's text."""


def echo(prompt: Prompt) -> str:
    """Answer with the prompt's own text."""
    return prompt.text


def judge(prompt: Prompt) -> str:
    """Answer ``positive`` or ``negative``, whatever words the request asks for."""
    return sentiment.classify(prompt.text)


def auto(prompt: Prompt) -> str:
    """Judge the sentiment where the request is about sentiment, else echo."""
    if _ABOUT_SENTIMENT.search(prompt.instructions) or _ABOUT_SENTIMENT.search(prompt.text):
        return judge(prompt)
    if prompt.schema is not None and _LABELS.issubset(map(str, enum_values(prompt.schema))):
        return judge(prompt)
    return echo(prompt)


_LABELS = {"positive", "negative"}
BUILT_IN: dict[str, Callable[[Prompt], str]] = {"auto": auto, "echo": echo, "sentiment": judge}


def load(name: str | Callable[[Prompt], str]) -> Callable[[Prompt], str]:
    """Return the responder called ``name``.

    :param name: ``auto``, ``echo``, ``sentiment``, ``module:attribute``, or a responder itself.
    :raises ValueError: if there is none of that name.
    """
    if not isinstance(name, str):
        return name
    if name in BUILT_IN:
        return BUILT_IN[name]
    module, _, attribute = name.partition(":")
    if not attribute:
        raise ValueError(f"Unknown responder {name!r}: expected one of {', '.join(BUILT_IN)}, or module:attribute.")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"The responder {name!r} can't be loaded: {error}") from error
    if inspect.isclass(found):
        found = found()
    if not callable(found):
        raise ValueError(f"The responder {name!r} can't be called with a prompt.")  # noqa: TRY004 - as for any bad name
    responder: Callable[[Prompt], str] = found
    return responder
