"""Which responder answers, and how to bring one's own."""

from __future__ import annotations

import sys
import types

import pytest

from airflow_openai_batch.emulator.prompts import Prompt
from airflow_openai_batch.emulator.responders import auto, echo, judge, load

LABELS = {"properties": {"label": {"enum": ["positive", "negative", "neutral"]}}}


def prompt(text, instructions="", schema=None):
    return Prompt("/v1/chat/completions", "gpt-5", instructions, text, schema)


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        (prompt("The soup was excellent."), "The soup was excellent."),
        (prompt("The soup was excellent.", "Answer positive or negative."), "positive"),
        (prompt("The soup was excellent.", "What is the sentiment?"), "positive"),
        (prompt("Is this review positive or negative? The soup was awful."), "negative"),
        (prompt("スープは最高でした。", "ポジティブかネガティブかで答えてください。"), "positive"),
        (prompt("국물이 최악이었어요.", "긍정인지 부정인지 답하세요."), "negative"),
        (prompt("The soup was excellent.", schema=LABELS), "positive"),
    ],
)
def test_auto_judges_where_sentiment_is_asked_for_and_else_echoes(given, answer):
    assert auto(given) == answer


def test_built_in_responders_have_names():
    assert load("echo") is echo
    assert load("sentiment") is judge
    assert load("auto") is auto


@pytest.fixture
def module(monkeypatch):
    module = types.ModuleType("my_responders")
    module.shout = lambda prompt: prompt.text.upper()

    class Polite:
        def __call__(self, prompt):
            return f"{prompt.text}, please"

    module.Polite = Polite
    module.number = 5
    monkeypatch.setitem(sys.modules, "my_responders", module)


@pytest.mark.usefixtures("module")
def test_a_responder_of_ones_own_is_a_function_or_a_class():
    assert load("my_responders:shout")(prompt("hi")) == "HI"
    assert load("my_responders:Polite")(prompt("hi")) == "hi, please"


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize("name", ["nonsense", "my_responders:missing", "no_such_module:x", "my_responders:number"])
def test_a_responder_that_cannot_be_had_is_an_error(name):
    with pytest.raises(ValueError, match="responder"):
        load(name)


def test_a_responder_sees_the_last_user_message_and_the_instructions(start):
    seen = []

    def look(prompt):
        seen.append(prompt)
        return "ok"

    api = start(responder=look)
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": [{"type": "text", "text": "last"}]},
    ]
    answer = api.client.chat.completions.create(model="gpt-5", messages=messages)
    assert answer.choices[0].message.content == "ok"
    api.client.responses.create(model="gpt-5", instructions="be long", input=messages[1:])
    api.client.completions.create(model="gpt-5", prompt="go")
    assert [(item.instructions, item.text) for item in seen] == [("be brief", "last"), ("be long", "last"), ("", "go")]
