"""What servers answer, however they write it."""

from __future__ import annotations

import json

import pytest

from airflow_openai_batch.client import wire
from airflow_openai_batch.client.config import ClientConfig, shown
from airflow_openai_batch.client.errors import UnreadableError, complaint
from airflow_openai_batch.engine.models import BatchIssue, Counts
from airflow_openai_batch.engine.queueing import limit_in
from airflow_openai_batch.exceptions import RejectedError

AZURE_FULL = (
    "The number of enqueued tokens has surpassed the configured limit of 30K for the deployment 'gpt-4.1-batch'. "
    "Please either increase the limit or try again once the current jobs have finished."
)
OPENAI_FULL = "Enqueued token limit reached for gpt-4o-mini in organization org-x. Limit: 2,000,000 enqueued tokens."

AZURE = {
    "cancelled_at": None,
    "completion_window": "24h",
    "created_at": "2024-07-19T17:13:57.2491382+00:00",
    "error_file_id": "",
    "expires_at": "2024-07-20T17:13:57.1918498+00:00",
    "id": "batch_fe3f047a-de39-4068-9008-346795bfc1db",
    "input_file_id": "file-21006e70789246658b86a1fc205899a4",
    "errors": None,
    "metadata": None,
    "endpoint": None,
    "output_file_id": None,
    "request_counts": {"total": None, "completed": None, "failed": None},
    "status": "Validating",
}


def test_a_batch_as_azures_guide_shows_it():
    seen = wire.batch_of(AZURE)
    assert (seen.id, seen.status, seen.ended) == (AZURE["id"], "validating", False)
    assert (seen.created_at, seen.expires_at) == (1721409237.249138, 1721495637.191849)
    assert (seen.counts, seen.metadata, seen.errors, seen.endpoint) == (Counts(), {}, (), "")
    assert (seen.output_file_id, seen.error_file_id) == (None, None)
    assert wire.batch_of(AZURE, expires=False).expires_at is None


@pytest.mark.parametrize(
    ("status", "ended_at"),
    [("completed", 1), ("failed", 2), ("expired", 3), ("cancelled", 4), ("Canceled", 4), ("in_progress", None)],
)
def test_the_time_of_its_end_is_that_of_its_status(status, ended_at):
    times = {"completed_at": 1, "failed_at": 2, "expired_at": 3, "cancelled_at": 4, "in_progress_at": 5}
    assert wire.batch_of({"id": "b", "status": status, **times}).ended_at == ended_at
    assert wire.batch_of({"id": "b", "status": status}).ended_at is None


@pytest.mark.parametrize("expires_at", [0, -1, 86_400, "86400", 1_767_323_045, "nan"])
def test_an_end_that_is_not_after_the_beginning_is_not_known(expires_at):
    batch = {"id": "b", "status": "in_progress", "created_at": 1_767_323_045, "expires_at": expires_at}
    assert wire.batch_of(batch).expires_at is None
    assert wire.batch_of({**batch, "expires_at": 1_767_409_445}).expires_at == 1_767_409_445


def test_an_end_at_nought_is_not_known_whenever_the_batch_began():
    assert wire.batch_of({"id": "b", "expires_at": 0}).expires_at is None


@pytest.mark.parametrize("wrap", ["job", "batch", "data"])
def test_a_wrapped_batch_is_unwrapped(wrap):
    assert wire.batch_of({wrap: AZURE, "warning": "slow"}) == wire.batch_of(AZURE)


@pytest.mark.parametrize(
    "value", [None, [], {}, "batch", 5, {"id": ""}, {"job": None}, {"error": {"message": "no"}}, [AZURE]]
)
def test_what_is_no_batch_is_not_taken_for_one(value):
    with pytest.raises(UnreadableError):
        wire.batch_of(value)


@pytest.mark.parametrize(
    ("written", "status", "ended"),
    [
        ("Completed", "completed", True),
        ("COMPLETED", "completed", True),
        ("In_Progress", "in_progress", False),
        ("IN-PROGRESS", "in_progress", False),
        ("in progress", "in_progress", False),
        ("canceled", "cancelled", True),
        ("Canceling", "cancelling", False),
        ("queued", "queued", False),
        (None, "", False),
    ],
)
def test_statuses_come_in_any_case_and_spelling(written, status, ended):
    seen = wire.batch_of({"id": "b", "status": written})
    assert (seen.status, seen.ended) == (status, ended)


@pytest.mark.parametrize(
    ("value", "at"),
    [
        (None, None),
        ("", None),
        (True, None),
        ("soon", None),
        ({}, None),
        (5, 5.0),
        (5.5, 5.5),
        ("5", 5.0),
        ("2026-01-02T03:04:05Z", 1767323045.0),
        ("2026-01-02T03:04:05", 1767323045.0),
        ("2026-01-02T03:04:05.1+00:00", 1767323045.1),
        ("2026-01-02T04:04:05.1234567+01:00", 1767323045.123456),
        ("2026-01-02 03:04:05.12+0000", 1767323045.12),
    ],
)
def test_times_are_seconds(value, at):
    assert wire.seconds(value) == (None if at is None else pytest.approx(at, abs=1e-5))


@pytest.mark.parametrize("counts", [None, {}, [], {"total": None}, {"total": "3"}])
def test_counts_that_are_not_there_are_nought(counts):
    assert wire.batch_of({"id": "b", "status": "failed", "request_counts": counts}).counts == Counts()


@pytest.mark.parametrize(
    ("fields", "issues"),
    [
        ({}, ()),
        ({"errors": None}, ()),
        ({"errors": {"object": "list", "data": None}}, ()),
        ({"errors": {"data": [{"code": "c", "message": "m", "param": "p", "line": 3}]}}, (("c", "m", "p", 3),)),
        ({"errors": {"data": [{"message": "m"}]}}, ((None, "m", None, None),)),
        ({"errors": [{"code": "c", "message": "m"}]}, (("c", "m", None, None),)),
        ({"errors": ["broken"]}, ((None, "broken", None, None),)),
        ({"error": "broken"}, ((None, "broken", None, None),)),
        ({"error": {"message": "broken"}}, ((None, "broken", None, None),)),
        ({"errors": {"data": [{"message": AZURE_FULL}]}}, (("token_limit_exceeded", AZURE_FULL, None, None),)),
        ({"errors": {"data": [{"code": "400", "message": OPENAI_FULL}]}}, (("token_limit_exceeded", OPENAI_FULL),)),
    ],
)
def test_a_batchs_errors_are_read_wherever_they_are(fields, issues):
    assert wire.batch_of({"id": "b", "status": "failed", **fields}).errors == tuple(BatchIssue(*i) for i in issues)


@pytest.mark.parametrize(
    ("written", "line"),
    [
        (3, 3), ("3", 3), (" 3 ", 3), (3.0, 3), (3.5, None), ("3.5", None), ("three", None), ("²", None), ("", None),
        (True, None), (float("inf"), None), ([3], None), (None, None),
    ],
)  # fmt: skip
def test_the_line_of_an_error_is_read_however_it_is_written(written, line):
    errors = {"data": [{"code": "c", "message": "m", "line": written}]}
    assert [issue.line for issue in wire.issues_of({"errors": errors})] == [line]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (None, (None, None, None)),
        ("<html>", (None, "<html>", None)),
        ({"message": "m", "code": "c", "param": "p"}, ("c", "m", "p")),
        ({"error": {"message": "m", "code": 401}}, ("401", "m", None)),
        ({"error": "m"}, (None, "m", None)),
        ({"statusCode": 404, "message": "Resource not found"}, (None, "Resource not found", None)),
        ({"detail": "Not Found"}, (None, "Not Found", None)),
        ({"errors": {"data": [{"code": "c", "message": "m", "param": None, "line": None}]}}, ("c", "m", None)),
        ({"errors": [{"code": "c", "message": "m"}]}, ("c", "m", None)),
        ({"errors": {"data": []}}, (None, None, None)),
    ],
)
def test_a_refusal_is_read_wherever_it_is(body, told):
    assert complaint(body) == told


@pytest.mark.parametrize(
    ("message", "limit"),
    [
        (OPENAI_FULL, 2_000_000),
        (AZURE_FULL, 30_000),
        (AZURE_FULL.replace("30K", "1.5M"), 1_500_000),
        (AZURE_FULL.replace("30K", "5B"), 5_000_000_000),
        (AZURE_FULL.replace("30K", "50,000"), 50_000),
        ("Enqueued token limit reached", None),
    ],
)
def test_the_limit_of_a_queue_is_read_from_either_message(message, limit):
    assert limit_in(message) == limit


# Pages.


def turn(*pages):
    """Turn pages; what was asked for after which id."""
    turner, asked, got = wire.PageTurner(), [], []
    for page in pages:
        if not turner.more:
            break
        asked.append(turner.after.get("after"))
        got += [item["id"] for item in turner.take(page)]
    return got, asked, turner.more


def items(*ids):
    return [{"id": key} for key in ids]


def test_pages_are_turned_as_long_as_there_are_more():
    pages = [{"data": items("a", "b"), "has_more": True}, {"data": items("c"), "has_more": False}, {"data": items("d")}]
    assert turn(*pages) == (["a", "b", "c"], [None, "b"], False)


def test_without_a_word_of_more_pages_are_turned_until_one_has_nothing_new():
    assert turn({"data": items("a")}, {"data": items("b")}, {"data": []}) == (["a", "b"], [None, "a", "b"], False)
    assert turn({"data": items("a", "b")}, {"data": items("a", "b")})[0] == ["a", "b"]


def test_a_list_without_a_frame_is_all_there_is():
    assert turn(items("a", "b"), items("c")) == (["a", "b"], [None], False)
    assert turn({"value": items("a"), "has_more": False})[0] == ["a"]
    assert turn({"data": None})[0] == []


def test_a_list_that_says_there_is_more_and_gives_the_same_is_no_proof_of_anything():
    page = {"data": items("a"), "has_more": True}
    with pytest.raises(RejectedError, match="the same page again"):
        turn(page, page)


def test_an_empty_page_in_the_middle_is_not_the_end_of_the_list():
    empty = {"data": [], "last_id": "b", "has_more": True}
    last = {"data": items("c"), "has_more": False}
    assert turn({"data": items("a"), "has_more": True}, empty, last) == (["a", "c"], [None, "a", "b"], False)
    assert turn(empty, {**empty, "last_id": "c"}, last) == (["c"], [None, "b", "c"], False)


@pytest.mark.parametrize("last_id", [None, "", "a"])
def test_an_empty_page_that_leads_to_none_though_there_are_more_is_no_proof_of_anything(last_id):
    with pytest.raises(RejectedError, match="not after what"):
        turn({"data": items("a"), "has_more": True}, {"data": [], "last_id": last_id, "has_more": True})


def test_wrapped_items_have_the_ids_of_what_is_in_them():
    first, second = ({"data": [{"job": {"id": key}}], "has_more": key == "a"} for key in "ab")
    turner = wire.PageTurner()
    assert (turner.take(first), turner.after) == (first["data"], {"after": "a"})
    assert turner.take(second) == second["data"]


def test_an_item_without_an_id_is_shown_and_never_leads_on():
    turner = wire.PageTurner()
    assert turner.take({"data": [None, *items("a"), None], "has_more": True}) == [None, {"id": "a"}, None]
    assert turner.after == {"after": "a"}
    assert turner.take({"data": [None]}) == [None]
    assert not turner.more


@pytest.mark.parametrize("value", [None, "x", {"items": []}, 5])
def test_what_is_no_list_is_not_taken_for_one(value):
    with pytest.raises(UnreadableError):
        wire.page_of(value)


def test_an_answer_that_is_no_json_shows_its_beginning():
    with pytest.raises(UnreadableError, match="<html>Sign in"):
        wire.decoded(b"<html>Sign in</html>")
    with pytest.raises(UnreadableError, match="nothing"):
        wire.decoded(b"")


@pytest.mark.parametrize(
    ("times", "ordered"),
    [
        ((), None),
        ((3,), None),
        ((3, 3), None),
        ((3, None), None),
        ((3, 3, 1), True),
        ((3, None, 2), True),
        ((1, 2), False),
        ((3, 3, 4), False),
        ((3, 1, 2), False),
    ],
)
def test_the_order_of_a_list_is_seen_from_its_times(times, ordered):
    batches = [wire.batch_of({"id": "b", "created_at": at}) for at in times]
    assert wire.newest_first(batches) is ordered


# What messages may show.


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com/v1"),
        ("https://user:pass@gateway.example:8443/v1/", "https://gateway.example:8443/v1/"),
        ("https://gateway.example/v1?key=secret", "https://gateway.example/v1"),
        ("https://gateway.example?key=secret", "https://gateway.example"),
        ("gateway.example?key=secret", "gateway.example"),
    ],
)
def test_a_shown_url_has_neither_user_nor_query(url, safe):
    assert shown(url) == safe


def test_secrets_are_taken_out_of_what_others_wrote():
    config = ClientConfig(
        "c",
        "sk-secret-key",
        proxy="http://me:p%40ssword@proxy:1",
        options={"default_headers": {"x": "header-secret", "n": 5}},
        secrets=("client-secret", "a"),
    )
    told = "sk-secret-key p%40ssword p@ssword header-secret client-secret and what is left"
    assert config.redacted(told) == "*** *** *** *** *** and what is left"
    assert not [text for text in told.split()[:5] if text in repr(config)]


def test_bodies_of_every_kind_survive_the_reading():
    value = json.loads(json.dumps({"id": 7, "status": "completed", "metadata": {"a": 1}, "input_file_id": 5}))
    seen = wire.batch_of(value)
    assert (seen.id, seen.metadata, seen.input_file_id) == ("7", {"a": "1"}, "5")
