"""One line a row, in input order, whatever came back and in which order."""

from __future__ import annotations

import json
import threading
from enum import Enum
from pathlib import Path
from typing import Optional

import pytest
from pydantic import BaseModel

from airflow_openai_batch.engine.endpoints import ENDPOINTS
from airflow_openai_batch.engine.models import STATUSES
from airflow_openai_batch.engine.runner import advance
from airflow_openai_batch.engine.store import Store
from airflow_openai_batch.engine.structured import normalize

RESULT = [
    "row", "custom_id", "input", "status", "output", "finish_reason", "model", "usage", "error", "batch_id", "round",
]  # fmt: skip


class Mood(Enum):
    GOOD = "good"
    BAD = "bad"


class Dish(BaseModel):
    name: str
    price: Optional[float]  # noqa: UP045 - as users write it


class Review(BaseModel):
    mood: Mood
    dishes: list[Dish]
    note: Optional[str] = None  # noqa: UP045


def request(custom_id, model="gpt-5-mini", text=None, **columns):
    body = {"model": model, "messages": [{"role": "user", "content": text or custom_id}]}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body, **columns}


def test_results_stand_in_input_order_with_the_users_ids_and_columns(desk):
    rows = [{"custom_id": f"id {n}", "prompt": f"p{n}", "nested": {"n": [n, None, "é\u2028"]}} for n in range(7)]
    done = desk.run(rows, requests_per_batch=3)
    assert [line["row"] for line in done.lines] == list(range(7))
    assert [line["custom_id"] for line in done.lines] == [row["custom_id"] for row in rows]
    assert [line["input"] for line in done.lines] == rows
    assert [list(line) for line in done.lines] == [RESULT] * 7
    assert [line["output"] for line in done.lines] == [row["prompt"] for row in rows]


def test_each_shard_makes_a_part(desk):
    done = desk.run([{"prompt": str(n)} for n in range(7)], requests_per_batch=3)
    with_rows = [
        [json.loads(line)["row"] for line in Path(name).read_bytes().splitlines()] for name in done.manifest["files"]
    ]
    assert with_rows == [[0, 1, 2], [3, 4, 5], [6]]


def test_ready_made_requests_of_several_models_come_back_in_their_order(desk, emulator):
    models = ["gpt-5-mini", "gpt-4.1", "gpt-5-mini", "gpt-4o", "gpt-4.1", "gpt-5-mini", "gpt-4.1"]
    rows = [request(f"mine-{n}", model, label=n) for n, model in enumerate(models)]
    done = desk.run(rows, requests_per_batch=2, model=None)
    assert [line["custom_id"] for line in done.lines] == [row["custom_id"] for row in rows]
    assert done.outputs == [row["custom_id"] for row in rows]
    assert [line["model"] for line in done.lines] == [f"{model}-emulated" for model in models]
    assert [line["input"] for line in done.lines] == [{"label": n} for n in range(7)]
    assert {name: used["rows"] for name, used in done.manifest["models"].items()} == {
        "gpt-5-mini": 3,
        "gpt-4.1": 3,
        "gpt-4o": 1,
    }


def test_later_rounds_of_several_models_are_landed_in_their_place(desk):
    rows = [
        request(f"{desk.folder.name}-{n}", model, text=f"[[emulate:status=500,once]] {desk.folder.name} {n}")
        for n, model in enumerate(["gpt-5-mini", "gpt-4.1"] * 3)
    ]
    done = desk.run(rows, requests_per_batch=2, model=None)
    assert [line["custom_id"] for line in done.lines] == [row["custom_id"] for row in rows]
    assert [(line["status"], line["round"]) for line in done.lines] == [("succeeded", 1)] * 6


@pytest.mark.parametrize(
    ("marker", "status", "code"),
    [
        ("status=400", "failed", None),
        ("status=503", "failed", None),
        ("error=request_timeout", "failed", "request_timeout"),
        ("refusal", "refused", "refusal"),
        ("length", "truncated", None),
        ("content_filter", "filtered", None),
        ("lost", "missing", "missing"),
        ("garbled", "missing", "missing"),
        ("twice", "succeeded", None),
    ],
)
def test_every_way_to_end_has_a_status(desk, marker, status, code):
    done = desk.run([{"prompt": f"[[emulate:{marker}]] text"}, {"prompt": "fine"}], max_rounds=1)
    line, fine = done.lines
    assert (line["status"], fine["status"]) == (status, "succeeded")
    assert line["batch_id"] == done.manifest["batches"][0]
    assert code is None or line["error"]["code"] == code
    assert (line["error"] is None) == (status in {"succeeded", "truncated", "filtered"})
    assert done.manifest["rows"] == dict.fromkeys(STATUSES, 0) | {
        "total": 2,
        **({"succeeded": 2} if status == "succeeded" else {"succeeded": 1, status: 1}),
    }


def test_an_answer_that_does_not_fit_is_asked_for_again_once_and_kept(desk):
    prompt = f"[[emulate:invalid_json]] {desk.folder.name}"
    done = desk.run([{"prompt": prompt}], response_format=normalize(Review), max_rounds=5)
    (line,) = done.lines
    assert (line["status"], line["round"], done.manifest["rounds"]) == ("invalid", 1, 2)
    assert line["output"].startswith("{")
    assert line["error"]["code"] == "invalid_json"


@pytest.mark.parametrize("endpoint", ["/v1/chat/completions", "/v1/responses"])
def test_a_pydantic_model_comes_back_as_parsed_json(desk, endpoint):
    done = desk.run([{"prompt": "soup"}], response_format=normalize(Review), endpoint=endpoint)
    assert done.statuses == ["succeeded"]
    assert Review.model_validate(done.outputs[0])


@pytest.mark.parametrize("wanted", [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}])
def test_a_json_schema_comes_back_as_parsed_json(desk, wanted):
    done = desk.run([{"prompt": "soup"}], response_format=normalize(wanted))
    assert isinstance(done.outputs[0]["a"], int)


def test_answers_are_checked_against_the_schema_that_the_job_began_with(fakes, fake):
    options = {"response_format": normalize(Review), "max_rounds": 1}
    fits = {"mood": "good", "dishes": [{"name": "soup", "price": None}], "note": None}
    texts = {"r0": json.dumps(fits), "r1": json.dumps({**fits, "mood": "so-so"}), "r2": "no json"}
    advance(fakes.job(["a", "b", "c"], **options))
    fake.end(answer=lambda request: fake.answered(request, texts[request["custom_id"]]))
    done = fakes.finish(fakes.job(["a", "b", "c"], **options))
    assert done.statuses == ["succeeded", "invalid", "invalid"]
    assert done.outputs == [fits, {**fits, "mood": "so-so"}, "no json"]
    assert [line["error"] and line["error"]["code"] for line in done.lines] == [
        None,
        "schema_mismatch",
        "invalid_json",
    ]
    assert done.lines[1]["error"]["message"].startswith("$.mood")


MODELS = {
    "/v1/embeddings": "text-embedding-3-small",
    "/v1/completions": "gpt-3.5-turbo-instruct",
    "/v1/moderations": "omni-moderation-latest",
    "/v1/images/generations": "gpt-image-1",
    "/v1/images/edits": "gpt-image-1",
    "/v1/videos": "sora-2",
}


@pytest.mark.parametrize("endpoint", sorted(ENDPOINTS))
def test_every_endpoint_runs_from_rows_to_results(desk, endpoint):
    options = {"model": MODELS.get(endpoint, "gpt-5-mini"), "endpoint": endpoint, "prompt": "draw {{ row.what }}"}
    if endpoint == "/v1/images/edits":
        options["body"] = {"images": [{"image_url": "data:image/png;base64,AAAA"}]}
    done = desk.run([{"what": "a cat"}, {"what": "a dog"}], **options)
    assert done.statuses == ["succeeded"] * 2
    cat, dog = done.outputs
    if endpoint in {"/v1/chat/completions", "/v1/responses", "/v1/completions"}:
        assert (cat, dog) == ("draw a cat", "draw a dog")
    elif endpoint == "/v1/embeddings":
        assert len(cat) == len(dog) == 1536
        assert cat != dog
    elif endpoint == "/v1/moderations":
        assert cat["results"][0]["flagged"] is False
    elif endpoint == "/v1/videos":
        assert (cat["object"], cat["prompt"]) == ("video", "draw a cat")
    else:
        assert cat["data"][0]["b64_json"]
    assert done.manifest["endpoint"] == endpoint


def test_several_inputs_of_an_embedding_come_back_as_several_vectors(desk):
    done = desk.run(
        [{"input": ["a", "b", "c"]}, {"input": "a"}], endpoint="/v1/embeddings", model="text-embedding-3-small"
    )
    assert [len(output) for output in done.outputs] == [3, 1536]
    assert done.outputs[0][0] == done.outputs[1]


def test_of_two_rounds_the_better_answer_counts(fakes, fake):
    options = {"response_format": {"type": "json_object"}}
    advance(fakes.job(["a"], **options))
    fake.end(answer=lambda request: fake.answered(request, "no json"))
    advance(fakes.job(["a"], **options))
    fake.end(answer=lambda request: fake.refused(request, 400))
    done = fakes.finish(fakes.job(["a"], **options))
    assert (done.statuses, done.outputs, done.lines[0]["round"]) == (["invalid"], ["no json"], 0)


def test_thousands_of_scattered_rows_that_go_again_are_landed_in_their_place(fakes, fake):
    rows = [f"row {n}" for n in range(2_500)]

    def odd_ones_expire(request):
        return fake.not_run(request) if int(request["custom_id"][1:]) % 2 else fake.answered(request)

    advance(fakes.job(rows))
    fake.end(status="expired", answer=odd_ones_expire)
    advance(fakes.job(rows))
    assert len(fake.requests("batch-1")) == 1_250
    fake.end(answer=lambda request: None if request["custom_id"] == "r9" else fake.answered(request))
    advance(fakes.job(rows))
    assert [request["custom_id"] for request in fake.requests("batch-2")] == ["r9"]
    fake.end()
    done = fakes.finish(fakes.job(rows))
    assert done.outputs == rows
    assert [line["round"] for line in done.lines[:11]] == [0, 1, 0, 1, 0, 1, 0, 1, 0, 2, 0]


def test_a_failed_validation_is_told_to_the_rows_that_it_names(desk, emulator):
    emulator.add_fault(fault="fail", code="invalid_request", message="Messages parameter is required.", line=2)
    done = desk.run([{"prompt": f"row {n} {desk.folder.name}"} for n in range(3)])
    assert done.statuses == ["succeeded", "failed", "succeeded"]
    assert done.lines[1]["error"] == {"code": "invalid_request", "message": "Messages parameter is required."}
    assert [line["round"] for line in done.lines] == [1, 0, 1]


def test_an_unknown_model_is_told_to_every_row(desk, emulator):
    done = desk.run([{"prompt": "a"}, {"prompt": "b"}], model="gpt-none")
    assert done.statuses == ["failed"] * 2
    assert {line["error"]["code"] for line in done.lines} == {"model_not_found"}
    assert "'gpt-none' is not supported" in done.manifest["errors_sample"][0]["error"]["message"]
    assert done.manifest["rounds"] == 1


def test_ten_errors_are_shown_in_the_manifest(desk):
    done = desk.run([{"prompt": f"[[emulate:status=400]] {n}"} for n in range(15)])
    assert [error["row"] for error in done.manifest["errors_sample"]] == list(range(10))
    assert done.manifest["rows"]["failed"] == 15


def test_lines_of_a_batch_may_come_in_any_order(fakes, fake, monkeypatch):
    real = fake.put

    def shuffled(name, content):
        lines = content.splitlines(keepends=True)
        return real(name, b"".join(reversed(lines)) if name == "output.jsonl" else content)

    monkeypatch.setattr(fake, "put", shuffled)
    advance(fakes.job(list("abcdef")))
    fake.end()
    assert fakes.finish(fakes.job(list("abcdef"))).outputs == list("abcdef")


class Watched(Store):
    """A store whose files are somewhere else; notes what is read of it, and by which thread."""

    def __init__(self, *args):
        super().__init__(*args)
        self.is_local = False
        self.read_by = []

    def open(self, name):
        self.read_by.append((name, threading.current_thread().name))
        return super().open(name)


def test_raw_files_of_the_next_part_are_fetched_while_one_is_landed(fakes, fake):
    rows = [f"row {n}" for n in range(8)]
    advance(fakes.job(rows, requests_per_batch=2))
    for batch in list(fake.batches):
        fake.end(batch)
    advance(fakes.job(rows, requests_per_batch=2), stop="ended")
    (fakes.out / "results").mkdir()
    store = Watched.at(str(fakes.out))
    done = fakes.finish(fakes.job(rows, requests_per_batch=2, store=store))
    assert done.outputs == rows
    names = [name for name, _ in store.read_by]
    raws, joints = ([name for name in names if name.startswith(f"_job/{kind}/")] for kind in ("raw", "rows"))
    assert len(raws) == len(joints) == 4
    fetched = [name for name, thread in store.read_by if thread.startswith("openai-batch-fetch")]
    assert fetched == sorted(raws)[1:]
    # One part ahead, no more.
    assert all(names.index(raws[part + 2]) > names.index(joints[part]) for part in range(2))
    assert not [
        thread
        for thread in threading.enumerate()
        if thread.name.startswith(("openai-batch-fetch", "openai-batch-write"))
    ]
