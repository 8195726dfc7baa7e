"""Lines as gateways write them: what was answered, and paid for, is never taken for a failure."""

from __future__ import annotations

import json

import pytest

from airflow_openai_batch.engine import leniently
from airflow_openai_batch.engine.answers import parse_line, parse_lines, read_line
from airflow_openai_batch.engine.runner import advance
from airflow_openai_batch.reading import read_results

BODY = {"object": "chat.completion", "choices": [{"message": {"content": "fine"}, "finish_reason": "stop"}]}


def read(error=None, **response):
    return read_line({"custom_id": "r0", "response": response or None, "error": error}, None)


@pytest.mark.parametrize("status", [200, "200", 200.0, 0, None, 0.0, "0", ""])
@pytest.mark.parametrize("body", [BODY, json.dumps(BODY)])
@pytest.mark.parametrize("error", [None, {}, "", {"code": None, "message": None}, {"message": ""}, {"code": 0}])
def test_an_answer_is_one_whatever_form_it_comes_in(status, body, error):
    answer = read(error, status_code=status, body=body)
    assert (answer.status, answer.output, answer.may_repeat) == ("succeeded", "fine", False)


@pytest.mark.parametrize(
    ("error", "message"),
    [({"message": "no"}, "no"), ({"code": None, "message": "no"}, "no"), ("no", "no"), ([1], "[1]")],
)
def test_a_row_that_was_not_run_goes_again_whether_the_error_has_a_code_or_not(error, message):
    answer = read(error)
    assert (answer.status, answer.may_repeat) == ("failed", True)
    assert answer.error == {"code": None, "message": message}


@pytest.mark.parametrize(
    ("status", "repeats"), [(400, False), ("400", False), (429, True), ("503", True), (None, True), ("", True)]
)
@pytest.mark.parametrize("body", [{"error": {"message": "no"}}, '{"error": {"message": "no"}}', "no"])
def test_a_failure_goes_again_by_its_status(status, repeats, body):
    answer = read(status_code=status, body=body)
    assert (answer.status, answer.may_repeat) == ("failed", repeats)
    assert answer.error["message"] == "no"


ANSWERS = {
    "chat": BODY,
    "chat without its name": {"choices": BODY["choices"]},
    "completion": {"object": "text_completion", "choices": [{"text": "fine"}]},
    "response": {"object": "response", "status": "completed", "output": [], "error": None},
    "output": {"output": [{"type": "message"}]},
    "embedding": {"object": "list", "data": [{"embedding": [1.0]}], "usage": {"prompt_tokens": 2}},
}


@pytest.mark.parametrize("body", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_needs_no_status_to_be_one(body):
    assert read(body=body) == read(status_code=None, body=body) == read(status_code=200, body=body)
    assert read(body=body).status == "succeeded"


@pytest.mark.parametrize(
    "body",
    [
        {**BODY, "error": {"message": "no"}},
        {"choices": []},
        {"choices": [{}]},
        {"object": "response", "status": "failed", "output": []},
        {"object": "list", "data": [{"code": "bad", "message": "no"}]},
        {"data": [{"embedding": [1.0]}]},
        {"output": "no"},
        {"message": "no"},
        {},
        [],
        None,
    ],
)
@pytest.mark.parametrize("status", [None, 0, 200.5, 1e300, "9" * 5000, "9999"])
def test_what_has_neither_status_nor_an_answer_failed_in_passing(status, body):
    answer = read(status_code=status, body=body)
    assert (answer.status, answer.may_repeat) == ("failed", True)


@pytest.mark.parametrize(("status", "repeats"), [(400, False), (404.0, False), ("429", True), (500.0, True)])
def test_a_status_that_is_told_counts_whatever_the_body_looks_like(status, repeats):
    answer = read(status_code=status, body=BODY)
    assert (answer.status, answer.may_repeat, answer.error["status_code"]) == ("failed", repeats, int(status))


@pytest.mark.parametrize("body", [{"error": {"code": "bad", "message": "no"}}, {"code": "bad", "message": "no"}])
@pytest.mark.parametrize(("status", "repeats"), [(400, False), ("404", False), (429, True), (500, True)])
def test_an_error_beside_a_failure_changes_nothing(body, status, repeats):
    answer = read({"code": "other", "message": "beside"}, status_code=status, body=body)
    assert answer == read(status_code=status, body=body)
    assert (answer.may_repeat, answer.error["code"], answer.error["message"]) == (repeats, "bad", "no")


@pytest.mark.parametrize("body", [None, {}, "", {"error": None}])
def test_an_error_beside_a_failure_tells_what_its_body_does_not(body):
    answer = read({"code": "bad", "message": "no"}, status_code=400, body=body)
    assert (answer.status, answer.may_repeat) == ("failed", False)
    assert answer.error == {"code": "bad", "message": "no", "status_code": 400}
    assert read("no", status_code=400, body=body).error == {"code": None, "message": "no", "status_code": 400}


@pytest.mark.parametrize("body", [None, {"error": {"code": "content_filter", "message": "no"}}])
def test_what_the_filter_stopped_is_filtered_with_an_error_beside_it_too(body):
    answer = read({"code": "content_filter", "message": "no"}, status_code=400, body=body)
    assert (answer.status, answer.may_repeat, answer.error["code"]) == ("filtered", False, "content_filter")


@pytest.mark.parametrize("status", [0, None, 302, 400, 408, 500])
def test_a_row_that_never_ran_is_told_by_the_error_whatever_is_beside_it(status):
    answer = read({"code": "batch_expired", "message": "late"}, status_code=status, body=None)
    assert (answer.status, answer.may_repeat) == ("expired", True)


@pytest.mark.parametrize("code", [7, ["bad"], {"a": 1}, None])
def test_a_code_may_be_of_any_type(code):
    assert read({"code": code, "message": "no"}).error["code"] == code
    assert read({"code": code, "message": "no"}, status_code=400, body=None).status == "failed"


def test_lines_of_a_file_without_a_last_newline_are_all_read():
    content = b'{"custom_id":"a"}\r\n\n{"custom_id":"b"}'
    assert [value["custom_id"] for value in parse_lines(content.split(b"\n"))] == ["a", "b"]


ODD_TEXTS = {
    "half a surrogate pair": (rb"so \ud83d", "so \ufffd"),
    "a cut sequence of UTF-8": (b"so \xf0\x9f\x98", "so \ufffd"),
    "bytes of another encoding": (b"so \xe9.", "so \ufffd."),
}


def odd_line(text=b"fine", logprobs=b"null", wire=b"r0"):
    return (
        b'{"id": "b", "custom_id": "%b", "response": {"status_code": 200, "body": {"object": "chat.completion", '
        b'"choices": [{"message": {"content": "%b"}, "logprobs": %b, "finish_reason": "stop"}]}}, "error": null}\n'
    ) % (wire, text, logprobs)


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_a_text_that_no_text_should_be_is_an_answer_all_the_same(text):
    sent, read_as = ODD_TEXTS[text]
    answer = read_line(parse_line(odd_line(sent)), None)
    assert (answer.status, answer.output) == ("succeeded", read_as)


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_a_number_that_json_has_not_is_null(number):
    value = parse_line(odd_line(logprobs=b'{"content": [{"logprob": %b}]}' % number))
    assert value["response"]["body"]["choices"][0]["logprobs"] == {"content": [{"logprob": None}]}
    assert read_line(value, None).output == "fine"


def test_a_body_in_a_string_may_be_as_odd():
    body = json.dumps(BODY).replace("fine", r"fine \ud83d").replace('"stop"', '"stop", "logprobs": NaN')
    answer = read(status_code=200, body=body)
    assert (answer.status, answer.output) == ("succeeded", "fine \ufffd")


def test_a_line_behind_a_byte_order_mark_may_be_as_odd():
    assert read_line(parse_line(b"\xef\xbb\xbf" + odd_line(b"so \xff")), None).output == "so \ufffd"


@pytest.mark.parametrize("wire", [b"r\xff0", rb"r\ud83d"])
def test_an_id_that_is_damaged_names_no_row(wire):
    assert parse_line(odd_line(wire=wire)) is None


def test_a_line_to_the_letter_is_read_but_once(monkeypatch):
    monkeypatch.setattr(leniently, "loads", lambda _text: pytest.fail("read again"))
    assert parse_line(odd_line())["custom_id"] == "r0"


@pytest.mark.parametrize("options", [{}, {"cache": "cache"}, {"result_format": "parquet"}, {"result_format": "csv"}])
def test_odd_answers_are_bought_once_and_land_in_every_format(fakes, fake, monkeypatch, options):
    texts = [sent for sent, _ in ODD_TEXTS.values()]
    lines = [odd_line(text, wire=b"r%d" % row) for row, text in enumerate(texts)]
    lines.append(odd_line(logprobs=b"[NaN, -Infinity]", wire=b"r3"))
    real = fake.put
    monkeypatch.setattr(fake, "put", lambda name, body: real(name, b"".join(lines) if "output" in name else body))
    if "cache" in options:
        options = {"cache": str(fakes.folder / "cache")}
    rows = list("abcd")
    advance(fakes.job(rows, **options))
    fake.end()
    manifest = advance(fakes.job(rows, **options)).manifest
    outputs = ["so \ufffd", "so \ufffd", "so \ufffd.", "fine"]
    assert manifest["rows"]["succeeded"] == 4
    assert manifest["noise"] == {"duplicate": 0, "unknown": 0, "unreadable": 0}
    found = list(read_results(manifest))
    assert [row["output"] for row in found] == outputs
    if "cache" in options:
        again = advance(fakes.job(rows, out=fakes.folder / "second", **options)).manifest
        assert (again["cached"], [row["output"] for row in read_results(again)]) == (4, outputs)
    assert len(fake.batches) == 1
