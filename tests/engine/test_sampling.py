"""What requests weigh: every row by its bytes, a fair and bounded sample by its tokens."""

from __future__ import annotations

import orjson
import pytest

from airflow_openai_batch.engine.sampling import Sampler, Tally
from airflow_openai_batch.engine.tokens import TokenCounter


def counter(model):
    """Tokens are characters, so that sums can be told."""
    return TokenCounter("characters", model, len)


def line(number, text, **body):
    body = {"model": "m", "input": text, **body}
    return orjson.dumps({"custom_id": f"r{number}", "method": "POST", "url": "/v1/embeddings", "body": body}) + b"\n"


def feed(sampler, lines, model="m"):
    for one in lines:
        sampler.add(model, len(one), one)


def test_a_few_rows_are_all_counted():
    sampler = Sampler(counter=counter)
    lines = [line(n, "x" * n, max_tokens=10) for n in range(1, 101)]
    feed(sampler, lines)
    (measure,) = sampler.measures()
    assert (measure.model, measure.rows, measure.sampled) == ("m", 100, 100)
    assert measure.bytes == measure.sampled_bytes == sum(map(len, lines))
    assert measure.longest == max(map(len, lines))
    assert measure.input_tokens == 5050
    assert (measure.limited, measure.ceilings, measure.counter) == (100, 1000, "characters")


def test_models_are_weighed_apart():
    sampler = Sampler(counter=counter)
    feed(sampler, [line(0, "xx")], "b")
    feed(sampler, [line(0, "x")], "a")
    assert [(measure.model, measure.input_tokens) for measure in sampler.measures()] == [("a", 1), ("b", 2)]


def test_of_many_rows_a_bounded_number_is_kept_and_few_are_parsed():
    looked_at = []

    def watch(model):
        return TokenCounter("watch", model, lambda text: looked_at.append(text) or 1)

    tally = Tally("m", 100, watch)
    body = {"input": "x"}
    for _ in range(100_000):
        tally.add(50, body)
    measure = tally.measure()
    assert (measure.rows, measure.sampled, measure.bytes) == (100_000, 100, 5_000_000)
    assert 100 < len(looked_at) < 1_500


def test_every_row_is_as_likely_to_be_in_the_sample():
    """Rows grow along the way, so a sample of the first ones alone would be far off."""
    tokens = []
    for model in map(str, range(40)):
        tally = Tally(model, 50, counter)
        for number in range(5_000):
            tally.add(1, {"input": "x" * (number // 50)})
        tokens.append(tally.measure().input_tokens / 50)
    assert sum(tokens) / len(tokens) == pytest.approx(49.5, rel=0.05)


def test_equal_rows_give_equal_figures():
    measures = []
    for _ in range(2):
        sampler = Sampler(keep=20, counter=counter)
        feed(sampler, [line(n, "x" * (n % 37)) for n in range(2_000)])
        measures.append(sampler.measures())
    assert measures[0] == measures[1]


def test_rows_without_a_body_are_weighed_and_others_counted_in_their_place():
    sampler = Sampler(counter=counter)
    sampler.add("m", 10)
    sampler.add("m", 10, {"input": "xxx"})
    (measure,) = sampler.measures()
    assert (measure.rows, measure.bytes, measure.sampled, measure.input_tokens) == (2, 20, 1, 3)


def test_a_body_may_come_alone_or_in_its_line():
    for request in (line(0, "xxx"), b'{"input":"xxx"}', {"input": "xxx"}, orjson.loads(line(0, "xxx"))):
        sampler = Sampler(counter=counter)
        sampler.add("m", 10, request)
        assert sampler.measures()[0].input_tokens == 3


def test_rows_may_be_taken_in_heaps():
    """As a caller does that sums rows up anyway; it comes to the same."""
    lines = [line(n, "x" * (n % 37), max_tokens=5) for n in range(3_000)]
    singly, heaps = Tally("m", 20, counter), Tally("m", 20, counter)
    for one in lines:
        singly.add(len(one), one)
    begin = 0
    while begin < len(lines):
        heap = lines[begin : begin + 1 + begin % 97]
        heaps.take(len(heap), sum(map(len, heap)), heap.__getitem__)
        begin += len(heap)
    assert heaps.measure() == singly.measure()


def test_rows_without_a_limit_and_with_unseen_parts_are_told_of():
    sampler = Sampler(counter=counter)
    feed(sampler, [line(0, "x"), line(1, "x", max_tokens=5), line(2, "x", conversation="c")])
    (measure,) = sampler.measures()
    assert (measure.limited, measure.ceilings, measure.unseen) == (1, 5, 1)


def test_nothing_weighs_nothing():
    sampler = Sampler()
    sampler.tally("m")
    assert sampler.measures() == ()
