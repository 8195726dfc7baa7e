"""Manifests of many jobs become one."""

from __future__ import annotations

import json

import pytest

from airflow_openai_batch import merge_manifests
from airflow_openai_batch.engine.models import STATUSES
from airflow_openai_batch.exceptions import ConfigurationError


def usage(tokens=10):
    counts = {"input_tokens": tokens, "cached_tokens": 0, "output_tokens": 1, "reasoning_tokens": 0}
    return {**counts, "total_tokens": tokens + 1}


def manifest(job="a", *, succeeded=2, failed=0, model="gpt-5-mini", **changed):
    rows = {"total": succeeded + failed, **dict.fromkeys(STATUSES, 0), "succeeded": succeeded, "failed": failed}
    return {
        "version": 1,
        "job": job,
        "destination": f"s3://bucket/{job}",
        "results": f"s3://bucket/{job}/results",
        "format": "jsonl",
        "files": [f"s3://bucket/{job}/results/part-00000.jsonl"],
        "rows": rows,
        "usage": usage(),
        "models": {model: {"rows": rows["total"], "statuses": {"succeeded": succeeded}, **usage()}},
        "endpoint": "/v1/chat/completions",
        "batches": [f"batch_{job}"],
        "rounds": 1,
        "noise": {},
        "started_at": "2026-01-01T00:00:00+00:00",
        "finished_at": "2026-01-01T01:00:00+00:00",
        "errors_sample": [{"row": row, "status": "failed", "error": None, "batch_id": "b"} for row in range(failed)],
        **changed,
    }


def test_rows_usage_and_models_add_up():
    merged = merge_manifests([manifest("a"), manifest("b", failed=1), manifest("c", model="gpt-5")])
    assert merged["jobs"] == 3
    assert (merged["rows"]["total"], merged["rows"]["succeeded"], merged["rows"]["failed"]) == (7, 6, 1)
    assert set(merged["rows"]) == {"total", *STATUSES}
    assert (merged["usage"]["input_tokens"], merged["usage"]["total_tokens"]) == (30, 33)
    assert {name: (model["rows"], model["statuses"]) for name, model in merged["models"].items()} == {
        "gpt-5-mini": (5, {"succeeded": 4}),
        "gpt-5": (2, {"succeeded": 2}),
    }


def test_files_and_batches_are_counted_and_found_by_their_destinations():
    merged = merge_manifests([manifest("b", batches=["1", "2"]), manifest("a", files=["x"] * 3)])
    assert (merged["files"], merged["batches"]) == (4, 3)
    assert merged["destinations"] == ["s3://bucket/b", "s3://bucket/a"]


def test_the_times_span_all_jobs_and_the_rounds_are_the_most():
    late = {"started_at": "2026-01-01T00:30:00+00:00", "finished_at": "2026-01-02T00:00:00+00:00", "rounds": 3}
    merged = merge_manifests([manifest("a", **late), manifest("b")])
    assert (merged["started_at"], merged["finished_at"]) == ("2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00")
    assert merged["rounds"] == 3


def test_noise_adds_up_by_its_kind():
    merged = merge_manifests(
        [manifest("a", noise={"duplicate": 1}), manifest("b", noise={"duplicate": 2, "unknown": 1})]
    )
    assert merged["noise"] == {"duplicate": 3, "unknown": 1}


def test_a_cost_adds_up_where_jobs_have_one_and_is_unknown_where_one_is():
    assert "cost" not in merge_manifests([manifest()])
    known = [manifest("a", cost={"usd": 0.5, "currency": "USD"}), manifest("b", cost={"usd": 0.25, "currency": "USD"})]
    assert merge_manifests(known)["cost"] == {"usd": 0.75, "currency": "USD"}
    merged = merge_manifests(
        [*known, manifest("c", cost={"usd": None, "currency": "USD"}), manifest("d", cost={"usd": 1})]
    )
    assert merged["cost"] == {"usd": None, "currency": "USD"}


def test_endpoints_and_formats_that_differ_are_all_named():
    merged = merge_manifests([manifest("a", endpoint="/v1/embeddings"), manifest("b", format="parquet")])
    assert (merged["endpoint"], merged["endpoints"]) == (None, ["/v1/chat/completions", "/v1/embeddings"])
    assert (merged["format"], merged["formats"]) == (None, ["jsonl", "parquet"])
    merged = merge_manifests([manifest("a"), manifest("b")])
    assert (merged["endpoint"], merged["format"]) == ("/v1/chat/completions", "jsonl")


def test_skipped_tasks_are_counted_and_add_nothing():
    assert merge_manifests([None, manifest("a"), None])["skipped"] == 2
    assert merge_manifests([None, manifest("a")])["rows"] == manifest("a")["rows"]


def test_a_job_that_comes_twice_counts_once():
    merged = merge_manifests([manifest("a"), manifest("a")])
    assert (merged["jobs"], merged["rows"]["total"], merged["usage"]["input_tokens"]) == (1, 2, 10)


def test_ten_errors_are_kept_of_as_many_jobs_as_have_some_each_with_its_destination():
    errors = merge_manifests([manifest("a", failed=10), manifest("b"), manifest("c", failed=2)])["errors_sample"]
    assert len(errors) == 10
    assert [error["destination"][-1] for error in errors[:5]] == ["a", "c", "a", "c", "a"]
    assert errors[0] == {"row": 0, "status": "failed", "error": None, "batch_id": "b", "destination": "s3://bucket/a"}


@pytest.mark.parametrize("nothing", [None, [], [None], ()])
def test_of_nothing_the_sum_is_nothing(nothing):
    merged = merge_manifests(nothing)
    assert (merged["jobs"], merged["rows"]["total"], merged["usage"]["total_tokens"], merged["models"]) == (0, 0, 0, {})
    assert (merged["endpoint"], merged["started_at"], merged["destinations"]) == (None, None, [])


def test_one_manifest_alone_is_a_sum_of_one():
    assert merge_manifests(manifest("a")) == merge_manifests([manifest("a")])


def test_a_sum_of_a_thousand_jobs_stays_small_and_its_parts_are_left_as_they_are():
    jobs = [manifest(f"dt=2026-{number:05}", failed=10, batches=["batch_" + "x" * 32] * 20) for number in range(1024)]
    before = json.dumps(jobs)
    assert len(json.dumps(merge_manifests(jobs))) < 48 * 1024
    assert json.dumps(jobs) == before


@pytest.mark.parametrize("entry", [{"job": "a", "destination": "/x", "conn_id": "c", "batches": []}, "a", 5, {}])
def test_what_is_no_manifest_is_named(entry):
    with pytest.raises(ConfigurationError, match="manifests: entry 1 is no manifest"):
        merge_manifests([manifest(), entry])
