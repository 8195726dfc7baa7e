"""The ledger: what was asked, what was billed."""

from __future__ import annotations

import psutil

from airflow_openai_batch.emulator.ledger import Ledger, body_hash


def test_rows_that_ran_are_billed(start):
    api = start()
    rows = [*api.rows(4), api.row("bad", body=api.body("[[emulate:status=500]]"))]
    batch = api.run(rows, metadata={"job": "j"})
    assert api.ledger.rows_billed == 4
    assert api.ledger.bodies_billed == 4
    assert api.ledger.rows_billed_twice == 0
    assert api.ledger.billed_twice == []
    (entry,) = api.ledger.batches
    assert entry == {
        "id": batch.id,
        "endpoint": "/v1/chat/completions",
        "metadata": {"job": "j"},
        "status": "completed",
        "rows": 5,
        "billed": 4,
        "created_at": batch.created_at,
        "model": "gpt-5-mini",
    }


def test_a_body_that_ran_in_two_batches_is_billed_twice(start):
    api = start()
    first, second = api.run(api.rows(3)), api.run(api.rows(2))
    assert api.ledger.rows_billed == 5
    assert api.ledger.rows_billed_twice == 2
    twice = api.ledger.billed_twice
    assert [entry["times"] for entry in twice] == [2, 2]
    rows = {(row["batch"], row["custom_id"]) for entry in twice for row in entry["rows"]}
    assert rows == {(batch.id, name) for batch in (first, second) for name in ("r1", "r2")}


def test_synchronous_calls_are_billed_like_rows(start):
    api = start()
    api.run(api.rows(1))
    api.post("/v1/chat/completions", api.body("text 1"))
    api.post("/v1/chat/completions", api.body("[[emulate:status=500]]"))
    assert api.ledger.rows_billed_twice == 1
    assert api.ledger.rows["synchronous"] == 1
    assert {row["batch"] for row in api.ledger.billed_twice[0]["rows"]} == {"synchronous", api.ledger.batches[0]["id"]}


def test_rows_that_the_emulator_lost_or_garbled_are_not_billed(start):
    api = start()
    rows = [api.row(kind, body=api.body(f"[[emulate:{kind}]]")) for kind in ("lost", "garbled", "twice")]
    api.run([*rows, api.row("never", body=api.body("[[emulate:error=batch_expired]]"))])
    assert api.ledger.rows_billed == 1
    snapshot = api.ledger.snapshot()["rows"]
    assert (snapshot["lost"], snapshot["garbled"], snapshot["not_run"], snapshot["failed"]) == (1, 1, 1, 0)


def test_rows_that_never_ran_are_not_billed(start):
    api = start(fault=["expire,after_rows=2"])
    api.run(api.rows(5))
    assert api.ledger.rows_billed == 2
    assert api.ledger.rows["not_run"] == 3


def test_calls_are_counted_by_kind(start):
    api = start(in_progress=5)
    file = api.upload(api.rows(1))
    batch = api.create(file.id)
    list(api.client.batches.list())
    api.client.batches.retrieve(batch.id)
    api.client.batches.cancel(batch.id)
    api.client.files.list()
    api.client.files.retrieve(file.id)
    api.client.files.content(file.id)
    api.client.files.delete(file.id)
    api.client.models.list()
    api.post("/v1/chat/completions", {})
    api.http.get("/v1/nonsense")
    assert api.ledger.calls == dict.fromkeys(
        (
            "files.create",
            "batches.create",
            "batches.list",
            "batches.retrieve",
            "batches.cancel",
            "files.list",
            "files.retrieve",
            "files.content",
            "files.delete",
            "models.list",
            "chat.completions.create",
        ),
        1,
    )


def test_calls_that_failed_are_counted_too(start):
    api = start(fault=["status,call=batches.list"])
    api.http.get("/v1/batches")
    api.http.get("/v1/batches", headers={"Authorization": ""})
    assert api.ledger.calls == {"batches.list": 2}
    assert api.ledger.faults == {"status": 1}


def test_live_files_are_listed(start):
    api = start()
    batch = api.run(api.rows(1))
    assert {file["purpose"] for file in api.ledger.files} == {"batch", "batch_output"}
    api.client.files.delete(batch.input_file_id)
    (file,) = api.ledger.files
    assert file["id"] == batch.output_file_id


def test_it_is_served_without_a_key_and_can_begin_anew(start):
    api = start()
    api.run(api.rows(2))
    bare = {"Authorization": ""}
    ledger = api.http.get("/emulator/ledger", headers=bare).json()
    assert ledger["emulated"] is True
    assert ledger["rows"]["billed"] == 2
    assert ledger["rows"]["billed_twice"] == {"count": 0, "data": []}
    assert ledger["batches"]["created"] == 1
    assert ledger["files"]["live"] == 2
    assert ledger == api.ledger.snapshot()
    api.http.delete("/emulator/ledger", headers=bare)
    assert api.ledger.rows_billed == 0
    assert api.ledger.calls == {}
    assert len(api.ledger.batches) == 1
    assert api.run(api.rows(2)).status == "completed"
    assert api.ledger.rows_billed_twice == 0


def test_a_body_is_the_same_whatever_the_order_of_its_keys():
    assert body_hash("/v1/x", {"a": 1, "b": [2]}) == body_hash("/v1/x", {"b": [2], "a": 1})
    assert body_hash("/v1/x", {"a": 1}) != body_hash("/v1/y", {"a": 1})


def test_a_million_rows_need_little_memory():
    ledger = Ledger()
    ledger.batch_created("batch_1", {})
    before = psutil.Process().memory_info().rss
    for start in range(0, 1_000_000, 1_000):
        ledger.bill("batch_1", [(number.to_bytes(8, "big"), f"r{number}") for number in range(start, start + 1_000)])
    assert psutil.Process().memory_info().rss - before < 80e6
    assert ledger.rows_billed == 1_000_000
