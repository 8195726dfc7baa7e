"""Each fault does what its name says, as often as it was told."""

from __future__ import annotations

import json
import time

import httpx
import pytest
from openai import APIConnectionError, APIStatusError, BadRequestError, OpenAI

from airflow_openai_batch.emulator.faults import parse

DISCONNECTED = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)


def test_status_answers_the_next_calls_of_a_kind(api):
    api.emulator.add_fault(fault="status", call="batches.list", status=503, times=2)
    assert api.http.get("/v1/files").status_code == 200
    assert [api.http.get("/v1/batches").status_code for _ in range(3)] == [503, 503, 200]


def test_status_says_when_to_come_back(api):
    api.emulator.add_fault("status,call=batches.list,status=429,retry_after=0.5")
    response = api.http.get("/v1/batches")
    assert (response.status_code, response.headers["retry-after"]) == (429, "0.5")
    assert response.json()["error"]["code"] == "rate_limit_exceeded"
    api.emulator.add_fault("status,call=batches.list,status=429,code=insufficient_quota,message=No money.")
    response = api.http.get("/v1/batches")
    assert "retry-after" not in response.headers
    assert response.json()["error"] == {
        "message": "No money.",
        "type": "rate_limit_error",
        "param": None,
        "code": "insufficient_quota",
    }


def test_the_sdk_retries_over_it(api):
    api.emulator.add_fault("status,call=models.list,status=429,retry_after=0.01,times=2")
    with OpenAI(base_url=api.emulator.base_url, api_key="sk-x", max_retries=2) as client:
        assert client.models.list().data


def test_a_refused_upload_is_not_stored(api):
    api.emulator.add_fault("status,call=files.create")
    with pytest.raises(APIStatusError):
        api.upload("{}\n" * 500_000, "refused.jsonl")
    assert "refused.jsonl" not in {file["filename"] for file in api.ledger.files}


def test_latency_delays_a_call(api):
    api.emulator.add_fault("latency,call=models.list,seconds=0.3")
    begun = time.monotonic()
    assert api.http.get("/v1/models").status_code == 200
    assert time.monotonic() - begun >= 0.3


def test_latency_after_a_call_delays_only_its_answer(api):
    file = api.upload(api.rows(1)).id
    created = len(api.ledger.batches)
    api.emulator.add_fault("latency,call=batches.create,seconds=60,when=after")
    body = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    with pytest.raises(httpx.ReadTimeout):
        api.http.post("/v1/batches", json=body, timeout=0.5)
    assert len(api.ledger.batches) == created + 1


def test_drop_before_leaves_nothing_done(api):
    created = len(api.ledger.batches)
    file = api.upload(api.rows(1)).id
    api.emulator.add_fault("drop,call=batches.create,when=before")
    with pytest.raises(APIConnectionError):
        api.create(file)
    assert len(api.ledger.batches) == created
    assert api.create(file).status == "validating"


def test_drop_after_leaves_a_batch_that_nobody_was_told_of(api):
    created = len(api.ledger.batches)
    file = api.upload(api.rows(1)).id
    api.emulator.add_fault("drop,call=batches.create")
    with pytest.raises(APIConnectionError):
        api.create(file, metadata={"lost": "yes"})
    assert len(api.ledger.batches) == created + 1
    assert api.client.batches.list().data[0].metadata == {"lost": "yes"}


@pytest.mark.parametrize("call", ["batches.list", "models.list"])
def test_drop_during_breaks_the_answer_off(api, call):
    api.emulator.add_fault(f"drop,call={call},when=during")
    with pytest.raises(httpx.RemoteProtocolError, match=r"incomplete|without sending complete"):
        api.http.get("/v1/" + call.partition(".")[0])


def test_cut_upload_closes_the_connection_while_the_file_comes_in(api):
    api.emulator.add_fault("cut_upload,call=files.create,after_bytes=100000")
    with pytest.raises(DISCONNECTED):
        api.http.post("/v1/files", files={"file": ("cut.jsonl", b"{}\n" * 3_000_000)}, data={"purpose": "batch"})
    assert "cut.jsonl" not in {file["filename"] for file in api.ledger.files}
    assert api.upload("{}\n").status == "processed"


@pytest.mark.parametrize("after", [0, 70_000, 1_000_000])
def test_cut_download_sends_so_many_bytes_and_the_rest_can_be_had_by_range(api, after):
    content = b'{"n": 12345678}\n' * 100_000
    file = api.client.files.create(file=("x.jsonl", content), purpose="batch")
    api.emulator.add_fault(fault="cut_download", call="files.content", after_bytes=after)
    path = f"/v1/files/{file.id}/content"
    got = bytearray()

    def read(response):
        for piece in response.iter_raw():
            got.extend(piece)

    with api.http.stream("GET", path) as response:
        assert response.headers["content-length"] == str(len(content))
        with pytest.raises(httpx.RemoteProtocolError):
            read(response)
    assert bytes(got) == content[:after]
    rest = api.http.get(path, headers={"Range": f"bytes={after}-"})
    assert rest.status_code == 206
    assert bytes(got) + rest.content == content


def test_skip_lets_some_calls_pass_and_null_never_ends(api):
    api.emulator.add_fault(fault="status", call="*.list", skip=1, times=None)
    assert [api.http.get("/v1/batches").status_code for _ in range(4)] == [200, 500, 500, 500]


def test_several_faults_act_on_one_call(api):
    api.emulator.add_fault("latency,call=models.list,seconds=0.2", "status,call=models.list")
    begun = time.monotonic()
    assert api.http.get("/v1/models").status_code == 500
    assert time.monotonic() - begun >= 0.2


def test_expire_ends_a_batch_after_some_rows(api):
    api.emulator.add_fault("expire,after_rows=3")
    batch = api.run(api.rows(10))
    assert batch.status == "expired"
    assert len(api.lines(batch.output_file_id)) == 3
    assert {line["error"]["code"] for line in api.lines(batch.error_file_id)} == {"batch_expired"}
    assert len(api.lines(batch.error_file_id)) == 7
    assert api.run(api.rows(2)).status == "completed"


def test_expire_before_the_first_row_leaves_an_error_file_alone(api):
    api.emulator.add_fault("expire")
    batch = api.run(api.rows(3))
    assert batch.output_file_id is None
    assert len(api.lines(batch.error_file_id)) == 3


def test_fail_makes_validation_fail_as_it_says(api):
    api.emulator.add_fault(
        fault="fail", code="token_limit_exceeded", message="Enqueued token limit reached.", line=None
    )
    batch = api.run(api.rows(1))
    assert batch.status == "failed"
    assert batch.errors.data[0].model_dump() == {
        "code": "token_limit_exceeded",
        "message": "Enqueued token limit reached.",
        "line": None,
        "param": None,
    }


@pytest.mark.parametrize("status", ["validating", "in_progress", "finalizing"])
def test_a_stuck_batch_passes_its_window_and_can_be_cancelled(start, status):
    api = start(window=0.3, fault=[f"stuck,status={status}"])
    batch = api.until(api.create(api.rows(3)), status)
    time.sleep(0.5)
    assert api.client.batches.retrieve(batch.id).status == status
    api.client.batches.cancel(batch.id)
    batch = api.until(batch, "cancelled")
    if status != "validating":
        assert len(api.lines(batch.output_file_id)) == 3
        assert batch.error_file_id is None


def test_a_stuck_batch_may_stop_half_way(api):
    api.emulator.add_fault("stuck,after_rows=2")
    batch = api.until(api.create(api.rows(5)), "in_progress")
    time.sleep(0.3)
    batch = api.client.batches.retrieve(batch.id)
    assert (batch.status, batch.request_counts.completed) == ("in_progress", 2)
    api.client.batches.cancel(batch.id)
    batch = api.until(batch, "cancelled")
    assert len(api.lines(batch.output_file_id)) == 2
    assert len(api.lines(batch.error_file_id)) == 3


def test_a_batch_can_be_stuck_while_it_is_cancelled(start):
    api = start(fault=["stuck,status=cancelling"], in_progress=5)
    batch = api.client.batches.cancel(api.create(api.rows(3)).id)
    time.sleep(0.3)
    assert api.client.batches.retrieve(batch.id).status == "cancelling"


def test_lost_twice_and_garbled_act_on_every_kth_row(api):
    api.emulator.add_fault("lost,every=3")
    batch = api.run(api.rows(7))
    assert set(api.by_id(batch.output_file_id)) == {"r1", "r2", "r4", "r5", "r7"}
    assert batch.request_counts.completed == 7
    api.emulator.add_fault("twice,every=3")
    names = [line["custom_id"] for line in api.lines(api.run(api.rows(4)).output_file_id)]
    assert sorted(names) == ["r1", "r2", "r3", "r3", "r4"]
    api.emulator.add_fault("garbled,every=2")
    text = api.client.files.content(api.run(api.rows(4)).output_file_id).text
    broken = 0
    for line in text.splitlines():
        try:
            json.loads(line)
        except json.JSONDecodeError:
            broken += 1
    assert broken == 2


def test_stray_lines_belong_to_no_row(api):
    api.emulator.add_fault("stray,every=2")
    batch = api.run(api.rows(4))
    names = sorted(line["custom_id"] for line in api.lines(batch.output_file_id))
    assert names == ["r1", "r2", "r3", "r4", "stray-2", "stray-4"]
    assert batch.request_counts.completed == 4


def test_a_batch_may_end_with_files_of_no_bytes(api):
    api.emulator.add_fault("empty_files")
    batch = api.run(api.rows(1))
    assert len(api.lines(batch.output_file_id)) == 1
    assert api.client.files.retrieve(batch.error_file_id).bytes == 0
    assert api.client.files.content(batch.error_file_id).content == b""


def test_a_batch_may_show_blank_ids(api):
    api.emulator.add_fault("blank_ids")
    batch = api.create(api.rows(1))
    assert (batch.output_file_id, batch.error_file_id) == ("", "")
    batch = api.finish(batch)
    assert batch.output_file_id.startswith("file-")
    assert batch.error_file_id == ""


def test_failing_rows_fail(api):
    api.emulator.add_fault("failing,every=2,status=429")
    batch = api.run(api.rows(4))
    assert (batch.request_counts.completed, batch.request_counts.failed) == (2, 2)
    assert {line["response"]["status_code"] for line in api.lines(batch.error_file_id)} == {429}


def test_a_hidden_batch_shows_in_lists_later(api):
    file = api.upload(api.rows(1)).id
    api.emulator.add_fault("hidden,seconds=1")
    batch = api.create(file)
    assert batch.id not in {item.id for item in api.client.batches.list(limit=1)}
    assert api.client.batches.retrieve(batch.id).id == batch.id
    time.sleep(1.1)
    assert api.client.batches.list(limit=1).data[0].id == batch.id


def test_a_missing_file_is_found_later(api):
    api.emulator.add_fault("missing_file,seconds=1")
    file = api.upload(api.rows(1)).id
    with pytest.raises(BadRequestError, match="Cannot find file"):
        api.create(file)
    time.sleep(1.1)
    assert api.create(file).status == "validating"


def test_batch_faults_are_not_used_up_by_creates_that_are_refused(api):
    api.emulator.add_fault("expire")
    with pytest.raises(BadRequestError):
        api.create("file-unknown")
    assert api.run(api.rows(1)).status == "expired"


def test_clock_skew_shifts_timestamps_until_it_is_cleared(api):
    api.emulator.add_fault("clock_skew,seconds=-1000")
    batch = api.create(api.rows(1))
    assert -1_010 < batch.created_at - time.time() < -990
    api.emulator.clear_faults()
    assert abs(api.create(api.rows(1)).created_at - time.time()) < 10


def test_faults_are_added_listed_and_cleared_over_http(api):
    bare = {"Authorization": ""}
    added = api.post("/emulator/faults", [{"fault": "drop"}, {"fault": "expire", "after_rows": 5}], headers=bare)
    assert added.json() == [
        {"times": 1, "skip": 0, "call": "*", "fault": "drop", "when": "after"},
        {"times": 1, "skip": 0, "fault": "expire", "after_rows": 5},
    ]
    assert len(api.post("/emulator/faults", {"fault": "twice"}, headers=bare).json()) == 3
    assert len(api.http.get("/emulator/faults", headers=bare).json()) == 3
    assert api.http.delete("/emulator/faults", headers=bare).json() == []
    assert api.http.get("/emulator/faults", headers=bare).json() == []


@pytest.mark.parametrize(
    "bad",
    [
        {"fault": "nonsense"},
        {"fault": "status", "call": 5},
        {"fault": "latency", "minutes": 5},
        {},
        5,
        [{"fault": "drop"}, {"fault": "nonsense"}],
    ],
)
def test_a_bad_fault_is_refused_and_none_is_added(api, bad):
    response = api.post("/emulator/faults", bad)
    assert response.status_code == 400
    assert response.json()["error"]["message"]
    assert api.http.get("/emulator/faults").json() == []
    assert api.http.post("/emulator/faults", content=b"{").status_code == 400


def test_faults_have_a_short_form():
    assert parse("latency, call=files.*, seconds=0.5") == parse(
        '{"fault": "latency", "call": "files.*", "seconds": 0.5}'
    )
    for bad in ("nonsense", "latency,seconds", "latency,seconds=x", "{"):
        with pytest.raises(ValueError, match=r".+"):
            parse(bad)


@pytest.mark.parametrize("name", ["lost", "twice", "garbled", "failing"])
def test_every_must_be_at_least_one(name):
    with pytest.raises(ValueError, match="every"):
        parse(f"{name},every=0")
