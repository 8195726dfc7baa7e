"""Input tokens, told without a network: tiktoken where its encoding is at hand, else a rule by script."""

from __future__ import annotations

import hashlib
import sys
import threading

import orjson
import pytest
import tiktoken
import tiktoken.load
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken.registry import ENCODINGS

from airflow_openai_batch.engine import tokens
from airflow_openai_batch.engine.tokens import BodyTokens, TokenCounter, counter_for, output_ceiling

ENGLISH = "Hello, my name is GPT-4o. I'm a new type of language model, it's nice to meet you!"


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No encoding is at hand, and none can be fetched."""
    asked = []
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tiktoken.load, "read_file", lambda path: asked.append(path) or pytest.fail("a download"))
    monkeypatch.setattr(tokens, "_downloads", [])
    tokens._load.cache_clear()
    yield asked
    assert not asked
    tokens._load.cache_clear()


def bytewise(name):
    """An encoding that makes a token of each byte."""
    ranks = {bytes([number]): number for number in range(256)}
    return tiktoken.Encoding(name, pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 256})


@pytest.fixture
def words():
    """A counter that counts words, as simple sums can be made with it."""
    return TokenCounter("words", "gpt-4o", lambda text: len(text.split()))


def test_without_an_encoding_the_rule_counts():
    counter = counter_for("gpt-5-mini")
    assert counter.name == "bytes by script"
    assert 20 <= counter.count(ENGLISH) <= 30
    assert counter.count("") == 0


def test_without_tiktoken_the_rule_counts(monkeypatch):
    for name in ("tiktoken", "tiktoken.model", "tiktoken.registry"):
        monkeypatch.setitem(sys.modules, name, None)
    assert counter_for("gpt-5-mini", download=True).name == "bytes by script"


def test_a_file_that_tiktoken_cannot_read_leaves_the_rule(monkeypatch, tmp_path):
    put_into_cache(tmp_path, b"whole")
    monkeypatch.setitem(tokens._ENCODINGS, "o200k_base", hashlib.sha256(b"whole").hexdigest())

    def refuse(_name):
        raise ValueError("Error parsing line b'whole'")

    monkeypatch.setattr(tiktoken, "get_encoding", refuse)
    assert counter_for("gpt-5").name == "bytes by script"


def test_an_encoding_that_is_loaded_counts(monkeypatch):
    monkeypatch.setitem(ENCODINGS, "o200k_base", bytewise("o200k_base"))
    counter = counter_for("gpt-5-mini")
    assert (counter.name, counter.count("naïve")) == ("tiktoken o200k_base", 6)
    assert counter.count("<|endoftext|>") == 13
    assert counter.count("\ud800") > 0


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("gpt-5-mini-2025-08-07", "o200k_base"),
        ("openai/gpt-4.1", "o200k_base"),
        ("gpt-4-turbo", "cl100k_base"),
        ("text-embedding-3-small", "cl100k_base"),
        ("my-own-model", "o200k_base"),
    ],
)
def test_a_model_has_its_encoding_and_an_unknown_one_the_newest(model, encoding, monkeypatch):
    for name in ("o200k_base", "cl100k_base"):
        monkeypatch.setitem(ENCODINGS, name, bytewise(name))
    assert counter_for(model).name == f"tiktoken {encoding}"


def put_into_cache(folder, content, name="o200k_base"):
    url = f"https://openaipublic.blob.core.windows.net/encodings/{name}.tiktoken"
    (folder / hashlib.sha1(url.encode()).hexdigest()).write_bytes(content)


def test_the_cache_files_are_named_and_checked_as_tiktoken_does():
    """What this package knows of tiktoken's files, held against tiktoken itself."""
    import inspect

    from tiktoken_ext import openai_public

    source = inspect.getsource(openai_public)
    for name, digest in tokens._ENCODINGS.items():
        assert tokens._URL.format(name) in source
        assert digest in source


@pytest.mark.parametrize("variable", ["TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR", "TMPDIR"])
def test_an_encoding_that_is_whole_in_the_cache_counts(variable, monkeypatch, tmp_path):
    folder = tmp_path / "data-gym-cache"
    folder.mkdir()
    for name in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tokens.tempfile, "gettempdir", lambda: str(tmp_path))
    if variable != "TMPDIR":
        monkeypatch.setenv(variable, str(folder))
    put_into_cache(folder, b"whole")
    monkeypatch.setitem(tokens._ENCODINGS, "o200k_base", hashlib.sha256(b"whole").hexdigest())
    monkeypatch.setattr(tiktoken, "get_encoding", bytewise)
    assert counter_for("gpt-5").name == "tiktoken o200k_base"
    assert counter_for("gpt-oss-20b").name == "tiktoken o200k_harmony"
    assert counter_for("gpt-4").name == "bytes by script"


def test_tiktoken_reads_the_file_that_was_found(monkeypatch, tmp_path):
    """The whole way through tiktoken, with a file of 256 bytes for an encoding."""
    from base64 import b64encode

    from tiktoken_ext import openai_public

    content = b"\n".join(b64encode(bytes([number])) + b" %d" % number for number in range(256))
    put_into_cache(tmp_path, content)
    digest = hashlib.sha256(content).hexdigest()
    monkeypatch.setitem(tokens._ENCODINGS, "o200k_base", digest)
    real = tiktoken.load.load_tiktoken_bpe
    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", lambda url, **_hash: real(url, digest))
    try:
        assert counter_for("gpt-5").count("four") == 4
    finally:
        ENCODINGS.pop("o200k_base", None)


def test_a_damaged_file_in_the_cache_is_no_encoding(tmp_path):
    put_into_cache(tmp_path, b"half of it")
    assert counter_for("gpt-5").name == "bytes by script"


def test_a_cache_that_is_switched_off_is_no_cache(monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    assert counter_for("gpt-5").name == "bytes by script"


def test_a_download_is_made_only_if_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(tiktoken, "get_encoding", bytewise)
    assert counter_for("gpt-5").name == "bytes by script"
    assert counter_for("gpt-5", download=True).name == "tiktoken o200k_base"


def test_a_download_that_fails_leaves_the_rule(monkeypatch):
    def fail(_name):
        raise OSError("no route")

    monkeypatch.setattr(tiktoken, "get_encoding", fail)
    assert counter_for("gpt-5", download=True).name == "bytes by script"


def test_a_download_that_hangs_leaves_the_rule_and_blocks_nobody_after(monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(tokens, "DOWNLOAD_WAIT", 0.05)
    monkeypatch.setattr(tiktoken, "get_encoding", lambda _name: release.wait(30))
    assert counter_for("gpt-5", download=True).name == "bytes by script"
    monkeypatch.setattr(tiktoken, "get_encoding", lambda _name: pytest.fail("it would wait for the registry's lock"))
    assert counter_for("gpt-4", download=True).name == "bytes by script"
    release.set()
    tokens._downloads[0].join(10)


def test_of_a_very_long_text_tiktoken_is_shown_slices(monkeypatch):
    seen = []

    class Encoding:
        name = "o200k_base"

        def encode_ordinary(self, text):
            seen.append(len(text))
            return text.split()

    monkeypatch.setitem(ENCODINGS, "o200k_base", Encoding())
    text = "word " * 300_000
    assert counter_for("gpt-5").count(text) == pytest.approx(300_000, rel=0.01)
    assert sum(seen) <= tokens.LONG


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("the quick brown fox jumps over the lazy dog " * 20, 180, 240),
        ('{"name": "John", "age": 30}', 10, 14),
        ("Привет, меня зовут Анна, приятно познакомиться", 12, 24),
        ("我是一种新型的语言模型", 8, 15),
        ("नमस्ते, मेरा नाम अन्ना है", 10, 20),
        ("안녕하세요 반갑습니다", 6, 12),
        ("مرحبا اسمي آنا", 5, 12),
        ("👍🏽🎉", 3, 12),
        ("ሰላም", 3, 9),
        ("a b c d e f", 6, 6),
        ("ZGF0YTppbWFnZS9wbmc7YmFzZTY0LGlWQk9SdzBLR2dvQUFBQU5TVWhFVWdBQQ", 35, 60),
    ],
)
def test_the_rule_goes_by_script(text, least, most):
    assert least <= counter_for("gpt-5").count(text) <= most


def test_older_encodings_take_more_tokens_for_other_scripts():
    text = "नमस्ते, मेरा नाम अन्ना है"
    assert counter_for("text-embedding-3-small").count(text) > 2 * counter_for("gpt-5").count(text)
    assert counter_for("gpt-4").count(ENGLISH) == counter_for("gpt-4o").count(ENGLISH)


@given(st.text())
def test_the_rule_counts_no_fewer_than_words_and_no_more_than_bytes(text):
    count = tokens._by_script(text, old=False) if text else 0
    assert len(text.split()) <= count <= max(len(text.encode("utf-8", "surrogatepass")), 1)


def test_lone_surrogates_count_too():
    assert counter_for("gpt-5").count("\ud800") > 0


def count(words, **body):
    return words.count_body(body)


def test_messages_count_with_their_frame(words):
    one = {"role": "user", "content": "one two three"}
    assert count(words, messages=[one]) == BodyTokens(3 + 4 + 3)
    assert count(words, messages=[{"role": "system", "content": "be brief"}, one]).tokens == 5 + 8 + 3
    assert count(words, messages=[{"role": "user", "name": "anna", "content": None}]).tokens == 1 + 4 + 3


def test_text_parts_count_as_text(words):
    parts = [{"type": "text", "text": "one two"}, {"type": "input_text", "text": "three"}]
    assert count(words, messages=[{"role": "user", "content": parts}]).tokens == 3 + 4 + 3


def test_tool_calls_count(words):
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "one two"}}
    assert count(words, messages=[{"role": "assistant", "tool_calls": [call]}]).tokens == 3 + 4 + 3


@pytest.mark.parametrize(
    ("given_input", "expected"),
    [
        ("one two", 2),
        (["one two", "three"], 3),
        ([1, 2, 3], 3),
        ([[1, 2], [3]], 3),
        ([], 0),
        (None, 0),
        ([{"role": "user", "content": "one two"}], 2 + 4 + 3),
        ([{"role": "user", "content": [{"type": "input_text", "text": "one"}]}], 1 + 4 + 3),
        ([{"type": "function_call_output", "call_id": "c", "output": "one two"}], 3 + 3),
    ],
)
def test_inputs_count_in_every_form(words, given_input, expected):
    assert count(words, input=given_input).tokens == expected


def test_prompts_and_instructions_count(words):
    assert count(words, prompt="one two", suffix="three").tokens == 3
    assert count(words, prompt=["one", "two"]).tokens == 2
    assert count(words, input="one", instructions="be brief").tokens == 3 + 4


def test_a_stored_prompt_is_unseen_but_for_its_variables(words):
    assert count(words, prompt={"id": "pmpt_1", "variables": {"city": "New York"}}) == BodyTokens(2, 0, 1)


def test_what_a_request_refers_to_is_unseen(words):
    assert count(words, input="one", previous_response_id="resp_1").unseen == 1
    assert count(words, input="one", conversation="conv_1").unseen == 1


@pytest.mark.parametrize("field", ["tools", "functions", "response_format"])
def test_tools_and_schemas_count_as_their_json(words, field):
    value = [{"description": "one two three"}]
    assert count(words, **{field: value}).tokens == 3
    assert count(words, text={"format": value, "verbosity": "low"}).tokens == 3


DATA = "data:image/png;base64," + "A" * 100_000


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": DATA}},
        {"type": "image_url", "image_url": {"url": DATA, "detail": "high"}},
        {"type": "input_image", "image_url": DATA},
        {"type": "input_image", "file_id": "file-1", "detail": "auto"},
        {"type": "computer_screenshot", "image_url": DATA},
    ],
)
def test_an_image_counts_as_an_image_and_never_as_text(words, part):
    messages = [{"role": "user", "content": [part]}]
    assert count(words, messages=messages) == BodyTokens(1_445 + 4 + 3, 1)
    assert count(words, input=messages) == BodyTokens(1_445 + 4 + 3, 1)


@pytest.mark.parametrize(
    ("model", "low", "high"),
    [
        ("gpt-4o", 85, 1_445),
        ("gpt-4o-2024-08-06", 85, 1_445),
        ("openai/gpt-5", 85, 1_445),
        ("gpt-4o-mini", 2_833, 48_169),
        ("gpt-5-mini", 2_489, 2_489),
        ("gpt-4.1-nano", 3_779, 3_779),
        ("gpt-99", 3_779, 3_779),
    ],
)
def test_an_image_costs_what_its_detail_and_model_make_of_it(model, low, high):
    counter = counter_for(model)
    for detail, expected in (("low", low), ("high", high), ("auto", high)):
        part = {"type": "input_image", "image_url": "https://example.com/a.png", "detail": detail}
        assert counter.count_body({"input": [part]}).tokens == expected + 3


def test_files_and_audio_are_unseen(words):
    parts = [
        {"type": "input_audio", "input_audio": {"data": "A" * 1000, "format": "wav"}},
        {"type": "file", "file": {"file_data": DATA}},
        {"type": "input_file", "file_id": "file-1"},
    ]
    assert count(words, messages=[{"role": "user", "content": parts}]) == BodyTokens(7, 0, 3)


def test_a_body_nested_as_deep_as_requests_can_be_counts(words):
    nested = value = {}
    for _ in range(250):
        value["x"] = value = {}
    value["x"] = "one"
    assert count(words, messages=[orjson.loads(orjson.dumps(nested))]).tokens == 1 + 3


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
names = st.sampled_from(
    ["messages", "input", "prompt", "instructions", "tools", "text", "content", "type", "role", "n"]
)


@settings(deadline=None)
@given(st.dictionaries(names, json_values))
def test_any_body_counts(body):
    counter = TokenCounter("words", "gpt-4o", lambda text: len(text.split()))
    counted = counter.count_body(orjson.loads(orjson.dumps(body)))
    assert counted.tokens >= 0
    assert output_ceiling(body) is None


@pytest.mark.parametrize(
    ("body", "ceiling"),
    [
        ({}, None),
        ({"max_tokens": 10}, 10),
        ({"max_completion_tokens": 20, "max_tokens": 10}, 20),
        ({"max_output_tokens": 30}, 30),
        ({"max_tokens": 10, "n": 3}, 30),
        ({"max_tokens": 10, "n": 2, "best_of": 5}, 50),
        ({"max_tokens": 10, "n": None}, 10),
        ({"max_tokens": None, "max_completion_tokens": None}, None),
        ({"max_tokens": 0}, None),
        ({"max_tokens": True}, None),
        ({"max_tokens": "10"}, None),
        ({"n": 3}, None),
    ],
)
def test_the_ceiling_of_the_output_is_what_the_request_allows(body, ceiling):
    assert output_ceiling(body) == ceiling
