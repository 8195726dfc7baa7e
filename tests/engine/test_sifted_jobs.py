"""What needn't be bought isn't, what is to be known first is asked first, and every row has its result all the same."""

from __future__ import annotations

import functools
import itertools
import json
from collections import Counter

import pytest

from airflow_openai_batch.engine.models import Done, Waiting
from airflow_openai_batch.engine.runner import advance
from airflow_openai_batch.exceptions import CanaryError, CostCapError, UnknownPriceError
from tests.engine.conftest import answered, landed, not_run, refused

RATES = {"input": "1", "output": "1", "cached_input": "1"}
PRICES = {
    "gpt-5-mini": [
        {"since": None, "batch": RATES, "standard": {"input": "2", "output": "2", "cached_input": "2"}},
    ]
}


@pytest.fixture
def fakes(fakes, monkeypatch):
    """The uploaded files are looked at afterwards."""
    monkeypatch.setattr(fakes, "job", functools.partial(fakes.job, delete_files=False))
    return fakes


def end_all(fakes, **how):
    for batch_id, batch in list(fakes.api.batches.items()):
        if not batch.ended:
            fakes.api.end(batch_id, **how)


def finish(fakes, make, **how):
    """Advance a job, ending all that runs in between."""
    for _ in range(12):
        outcome = advance(make())
        if isinstance(outcome, Done):
            return landed(outcome.manifest)
        end_all(fakes, **how)
    raise AssertionError(outcome)


def sent(fakes):
    """How often each prompt was bought in batches."""
    return Counter(
        request["body"]["messages"][-1]["content"]
        for batch_id in fakes.api.batches
        for request in fakes.api.requests(batch_id)
    )


def prompts(*texts):
    return [{"prompt": text, "n": n} for n, text in enumerate(texts)]


def test_equal_requests_are_sent_once_and_answered_everywhere(fakes):
    rows = prompts("a", "b", "a", "c", "a", "b")
    done = finish(fakes, lambda: fakes.job(rows, deduplicate=True))
    assert sent(fakes) == {"a": 1, "b": 1, "c": 1}
    assert done.outputs == ["a", "b", "a", "c", "a", "b"]
    assert [line["input"]["n"] for line in done.lines] == list(range(6))
    assert [line["usage"] is None for line in done.lines] == [False, False, True, False, True, True]
    assert done.manifest["repeats"] == 3
    assert done.manifest["usage"]["total_tokens"] == 15


def test_without_being_asked_to_no_request_is_left_out(fakes):
    assert finish(fakes, lambda: fakes.job(prompts("a", "a"))).outputs == ["a", "a"]
    assert sent(fakes) == {"a": 2}


def test_a_repeat_far_behind_shares_an_answer_of_a_later_round(fakes):
    rows = prompts("x", *map(str, range(9)), "x")
    tries = itertools.count()

    def answer(request):
        first = request["body"]["messages"][-1]["content"] == "x" and next(tries) == 0
        return refused(request) if first else answered(request)

    done = finish(fakes, lambda: fakes.job(rows, deduplicate=True, requests_per_batch=2), answer=answer)
    assert done.outputs == [row["prompt"] for row in rows]
    assert done.lines[0]["round"] == done.lines[-1]["round"] == 1


def test_a_repeat_has_the_status_of_the_row_it_repeats(fakes):
    def answer(request):
        return refused(request, 400) if request["body"]["messages"][-1]["content"] == "bad" else answered(request)

    done = finish(fakes, lambda: fakes.job(prompts("bad", "good", "bad"), deduplicate=True), answer=answer)
    assert done.statuses == ["failed", "succeeded", "failed"]


def test_models_differ_so_their_requests_do(fakes):
    done = finish(fakes, lambda: fakes.job(prompts("a", "a"), model=["m1", "m2"], deduplicate=True))
    assert [(line["row"], line["model"]) for line in done.lines] == [(0, "emulated")] * 2 + [(1, "emulated")] * 2
    assert sent(fakes) == {"a": 2}
    assert {name: told["rows"] for name, told in done.manifest["models"].items()} == {"m1": 2, "m2": 2}


def test_sifted_rows_are_packed_anew(fakes):
    rows = prompts(*("same" for _ in range(40)), "a", "b", "c")
    done = finish(fakes, lambda: fakes.job(rows, deduplicate=True, requests_per_batch=4))
    assert len(fakes.api.batches) == 1
    assert done.outputs == [row["prompt"] for row in rows]
    assert len(done.manifest["files"]) == 11


def test_another_try_with_other_wishes_goes_on_from_the_plan(fakes):
    rows = prompts("a", "a")
    advance(fakes.job(rows, deduplicate=True))
    done = finish(fakes, lambda: fakes.job(rows, deduplicate=False))
    assert sent(fakes) == {"a": 1}
    assert done.outputs == ["a", "a"]


def test_wishes_that_come_after_the_plan_have_no_effect_and_are_named(fakes, caplog):
    rows = prompts("a", "a")
    fakes.job(rows).open()
    assert "planned without" not in caplog.text
    done = finish(fakes, lambda: fakes.job(rows, deduplicate=True, canary=1))
    assert "The job was planned without canary, deduplicate, and goes on without" in caplog.text
    assert sent(fakes) == {"a": 2}
    assert done.manifest["repeats"] == 0


def test_the_canary_is_asked_first_and_its_answers_count(fakes):
    rows = prompts(*map(str, range(30)))
    outcome = advance(fakes.job(rows, canary=5))
    asked = {request["body"]["messages"][-1]["content"] for request in fakes.api.asked}
    assert isinstance(outcome, Waiting)
    assert len(asked) == 5
    assert not asked & set(sent(fakes))
    done = finish(fakes, lambda: fakes.job(rows, canary=5))
    assert done.outputs == [row["prompt"] for row in rows]
    assert sum(line["batch_id"] is None for line in done.lines) == 5
    assert len(fakes.api.asked) == 5


def test_a_canary_that_does_badly_stops_the_job_for_its_own_price(fakes):
    fakes.api.direct = lambda request: refused(request, 400)
    for _ in range(3):
        with pytest.raises(CanaryError, match=r"5 of the first 5 rows did badly \(100%.*: 5 failed.*Example: row \d+ "):
            advance(fakes.job(prompts(*map(str, range(30))), canary=5))
    assert len(fakes.api.asked) == 5
    assert not fakes.api.batches


def test_a_canary_goes_on_where_its_limit_is_raised(fakes):
    fakes.api.direct = lambda request: refused(request, 400)
    rows = prompts(*map(str, range(6)))
    with pytest.raises(CanaryError):
        advance(fakes.job(rows, canary=2))
    done = finish(fakes, lambda: fakes.job(rows, canary=2, canary_max_failed=1.0))
    assert Counter(done.statuses) == {"succeeded": 4, "failed": 2}
    assert len(fakes.api.asked) == 2


def test_a_canary_of_more_rows_than_there_are_is_the_job(fakes):
    done = finish(fakes, lambda: fakes.job(prompts("a", "b"), canary=50))
    assert done.outputs == ["a", "b"]
    assert not fakes.api.batches


def test_canary_rows_that_failed_in_passing_go_again_in_a_batch(fakes):
    fakes.api.direct = lambda request: refused(request, 503)
    rows = prompts(*map(str, range(10)))
    done = finish(fakes, lambda: fakes.job(rows, canary=2, canary_max_failed=1.0))
    assert done.outputs == [row["prompt"] for row in rows]
    assert sorted(line["round"] for line in done.lines) == [0] * 8 + [1] * 2


@pytest.mark.parametrize(
    ("route", "rows", "batches"), [("auto", 3, 0), ("auto", 4, 1), ("direct", 4, 0), ("batch", 3, 1)]
)
def test_a_small_job_may_go_directly(fakes, route, rows, batches):
    texts = list(map(str, range(rows)))
    done = finish(fakes, lambda: fakes.job(prompts(*texts), route=route, direct_below=4))
    assert done.outputs == texts
    assert len(fakes.api.batches) == batches
    assert len(fakes.api.asked) == (0 if batches else rows)


def test_rows_that_fail_directly_go_again_directly(fakes):
    failures = itertools.count()
    fakes.api.direct = lambda request: refused(request) if next(failures) == 0 else answered(request)
    done = finish(fakes, lambda: fakes.job(prompts("a", "b", "c"), route="direct"))
    assert done.outputs == ["a", "b", "c"]
    assert len(fakes.api.asked) == 4


def test_before_a_deadline_what_runs_is_cancelled_and_asked(fakes, clock):
    rows = prompts(*map(str, range(6)))
    begun = clock.now

    def make():
        return fakes.job(rows, deadline=7_200.0, requests_per_batch=3)

    waiting = advance(make())
    assert waiting.until == pytest.approx(begun + 7_200 - 600 - 6 * 5 / 8)
    fakes.api.end("batch-0")
    clock.now = waiting.until
    advance(make())
    assert fakes.api.batches["batch-1"].status == "cancelling"
    assert not fakes.api.asked

    def answer(request):
        first = request["custom_id"] == "r3"
        return answered(request) if first else not_run(request, "batch_cancelled")

    fakes.api.end("batch-1", "cancelled", answer)
    done = landed(advance(make()).manifest)
    assert done.outputs == [row["prompt"] for row in rows]
    assert [request["body"]["messages"][-1]["content"] for request in fakes.api.asked] == ["4", "5"]


def test_a_deadline_asks_what_waited_for_room_as_well(fakes, clock):
    rows = prompts(*map(str, range(4)))

    def make():
        return fakes.job(rows, deadline=3_600.0, requests_per_batch=2, max_enqueued_tokens=60)

    waiting = advance(make())
    assert len(fakes.api.batches) == 1
    fakes.api.end()
    clock.now += 3_600
    done = landed(advance(make()).manifest)
    assert isinstance(waiting, Waiting)
    assert len(fakes.api.batches) == 1
    assert done.outputs == ["0", "1", "2", "3"]


def test_a_job_that_is_estimated_over_its_cap_sends_nothing(fakes):
    with pytest.raises(CostCapError, match="the whole job: estimated at"):
        advance(fakes.job(prompts("a", "b"), max_cost_usd=0.000001, prices=PRICES))
    assert not fakes.api.batches
    assert not fakes.api.files
    assert finish(fakes, lambda: fakes.job(prompts("a", "b"), max_cost_usd=10, prices=PRICES)).outputs == ["a", "b"]


@pytest.mark.parametrize("wish", [{"deduplicate": True}, {"cache": "cache"}])
def test_a_job_of_which_nothing_is_taken_out_is_estimated_and_capped_all_the_same(fakes, wish):
    wish = {name: str(fakes.folder / value) if name == "cache" else value for name, value in wish.items()}
    rows = prompts("a", "b")
    with pytest.raises(CostCapError, match="the whole job: estimated at"):
        advance(fakes.job(rows, max_cost_usd=0.000001, prices=PRICES, **wish))
    done = finish(fakes, lambda: fakes.job(rows, max_cost_usd=10, prices=PRICES, **wish))
    assert done.manifest["estimate"]["rows"] == 2
    assert done.outputs == ["a", "b"]


def test_a_cap_needs_a_price(fakes):
    with pytest.raises(UnknownPriceError, match="prices="):
        advance(fakes.job(prompts("a"), model="nobody-knows-it", max_cost_usd=1))
    assert not fakes.api.files


def test_a_job_without_a_cap_needs_none(fakes):
    done = finish(fakes, lambda: fakes.job(prompts("a"), model="nobody-knows-it"))
    assert done.manifest["cost"]["usd"] is None
    assert done.manifest["estimate"]["usd"] is None


def test_the_manifest_says_what_it_cost_and_would_have(fakes):
    done = finish(fakes, lambda: fakes.job(prompts("a", "b"), prices=PRICES))
    assert done.manifest["cost"]["usd"] == pytest.approx(10e-6)
    assert done.manifest["cost"]["usd_standard"] == pytest.approx(20e-6)
    assert done.manifest["cost"]["saving"] == pytest.approx(10e-6)


def test_direct_calls_are_billed_at_the_standard_price(fakes):
    done = finish(fakes, lambda: fakes.job(prompts("a", "b"), prices=PRICES, route="direct"))
    assert done.manifest["cost"]["usd"] == done.manifest["cost"]["usd_direct"] == pytest.approx(20e-6)


def test_a_later_round_is_no_way_past_the_cap(fakes):
    rows = prompts("a", "b", "c", "d")

    def dear(request):
        line = refused(request, 500) if request["body"]["messages"][-1]["content"] == "a" else answered(request)
        if line["response"]["status_code"] == 200:
            line["response"]["body"]["usage"] = {
                "prompt_tokens": 10_000,
                "completion_tokens": 0,
                "total_tokens": 10_000,
            }
        return line

    def make(cap):
        return fakes.job(rows, max_cost_usd=cap, prices=PRICES, max_rounds=3)

    advance(make(0.02))
    end_all(fakes, answer=dear)
    with pytest.raises(
        CostCapError, match=r"shard 00000.r1.a0: estimated at .* cap of \$0.020000.*\$0.030000 was spent"
    ):
        advance(make(0.02))
    assert len(fakes.api.batches) == 1
    done = finish(fakes, lambda: make(1))
    assert done.statuses == ["succeeded"] * 4


def test_direct_calls_stop_at_their_own_cap_and_go_on_when_it_is_raised(fakes):
    def dear(request):
        line = answered(request)
        line["response"]["body"]["usage"] = {"prompt_tokens": 10_000, "completion_tokens": 0, "total_tokens": 10_000}
        return line

    fakes.api.direct = dear
    rows = prompts(*map(str, range(100)))

    def make(cap):
        return fakes.job(rows, max_direct_cost_usd=cap, prices=PRICES, route="direct", direct_at_once=1)

    with pytest.raises(CostCapError, match=r"requests of shard 00000\.r0\.a0"):
        advance(make(0.5))
    asked = len(fakes.api.asked)
    # Two cents a call; a claim of four was reserved at less than it came to.
    assert 20 <= asked <= 30
    with pytest.raises(CostCapError):
        advance(make(0.5))
    assert len(fakes.api.asked) == asked
    done = finish(fakes, lambda: make(10))
    assert len(fakes.api.asked) == 100
    assert done.outputs == [row["prompt"] for row in rows]


def test_what_a_job_costs_is_stored_before_anything_is_sent(fakes):
    record = fakes.job(prompts("a", "b"), prices=PRICES).open()
    told = json.loads((fakes.out / "_job/job.json").read_bytes())["estimate"]
    assert record.estimate == told
    assert told["rows"] == 2
    assert told["usd"] > 0
    assert told["usd_standard"] == pytest.approx(2 * told["usd"])
    assert not fakes.api.files


def test_a_sifted_job_lands_in_every_format(fakes):
    pq = pytest.importorskip("pyarrow.parquet")
    rows = prompts("a", "b", "a")
    done_in = {}
    for format_ in ("parquet", "csv", "jsonl.gz"):
        job = fakes.job(rows, out=fakes.folder / f"out-{format_}", deduplicate=True, result_format=format_)
        advance(job)
        end_all(fakes)
        done_in[format_] = advance(job).manifest
    table = pq.read_table(done_in["parquet"]["files"][0])
    assert table["output"].to_pylist() == ["a", "b", "a"]
    assert table["cached"].to_pylist() == [False] * 3


def cached_job(fakes, rows, night, **options):
    return fakes.job(rows, out=fakes.folder / f"out-{night}", cache=str(fakes.folder / "cache"), **options)


def test_a_second_night_buys_what_is_new(fakes):
    first = prompts(*map(str, range(100)))
    finish(fakes, lambda: cached_job(fakes, first, 1))
    second = prompts(*map(str, range(2, 102)))
    done = finish(fakes, lambda: cached_job(fakes, second, 2))
    assert sum(sent(fakes).values()) == 102
    assert done.outputs == [row["prompt"] for row in second]
    assert [line["cached"] for line in done.lines] == [True] * 98 + [False] * 2
    assert [line["usage"] is None for line in done.lines] == [True] * 98 + [False] * 2
    assert (done.lines[0]["batch_id"], done.lines[0]["model"]) == (None, "emulated")
    assert done.manifest["cached"] == 98
    assert done.manifest["usage"]["total_tokens"] == 2 * 5
    assert done.manifest["estimate"]["rows"] == 2


def test_a_job_that_the_cache_answers_whole_sends_nothing(fakes):
    rows = prompts("a", "b")
    finish(fakes, lambda: cached_job(fakes, rows, 1))
    done = landed(advance(cached_job(fakes, rows, 2)).manifest)
    assert done.outputs == ["a", "b"]
    assert done.manifest["batches"] == []
    assert done.manifest["cost"]["usd"] == 0
    assert len(fakes.api.batches) == 1


def test_what_changes_an_answer_changes_the_key(fakes):
    finish(fakes, lambda: cached_job(fakes, prompts("a"), 1))
    finish(fakes, lambda: cached_job(fakes, prompts("a"), 2, body={"temperature": 0.5}))
    finish(fakes, lambda: cached_job(fakes, prompts("a"), 3, model="other"))
    finish(fakes, lambda: cached_job(fakes, prompts("a"), 4, system="Be brief."))
    assert sent(fakes) == {"a": 4}


def test_only_good_answers_are_cached(fakes):
    def answer(request):
        return refused(request, 400) if request["custom_id"] == "r0" else answered(request)

    rows = prompts("bad", "good")
    finish(fakes, lambda: cached_job(fakes, rows, 1), answer=answer)
    done = finish(fakes, lambda: cached_job(fakes, rows, 2))
    assert sent(fakes) == {"bad": 2, "good": 1}
    assert [line["cached"] for line in done.lines] == [False, True]


def test_an_answer_that_is_too_old_is_bought_again(fakes, clock):
    finish(fakes, lambda: cached_job(fakes, prompts("a"), 1, cache_ttl=3_600.0))
    clock.now += 3_599
    assert finish(fakes, lambda: cached_job(fakes, prompts("a"), 2, cache_ttl=3_600.0)).manifest["cached"] == 1
    clock.now += 2
    assert finish(fakes, lambda: cached_job(fakes, prompts("a"), 3, cache_ttl=3_600.0)).manifest["cached"] == 0


def test_a_damaged_cache_costs_money_and_no_answer(fakes, caplog):
    rows = prompts("a", "b")
    finish(fakes, lambda: cached_job(fakes, rows, 1))
    for path in (fakes.folder / "cache").rglob("*.parquet"):
        path.write_bytes(path.read_bytes()[:-40])
    done = finish(fakes, lambda: cached_job(fakes, rows, 2))
    assert done.outputs == ["a", "b"]
    assert done.manifest["cached"] == 0
    assert any("damaged" in record.message or "cache" in record.message for record in caplog.records)


def test_an_answer_that_no_longer_fits_the_schema_is_told_apart(fakes):
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object", "required": ["k"]}}}
    finish(
        fakes,
        lambda: cached_job(fakes, prompts("a"), 1, response_format=schema),
        answer=lambda r: answered(r, '{"k": 1}'),
    )
    done = finish(fakes, lambda: cached_job(fakes, prompts("a"), 2, response_format=schema))
    assert done.outputs == [{"k": 1}]
    assert done.manifest["cached"] == 1


def test_cache_canary_and_repeats_go_together(fakes):
    finish(fakes, lambda: cached_job(fakes, prompts("a", "b"), 1))
    rows = prompts("a", "c", "c", "b", "d", "a", "d", "e")
    done = finish(fakes, lambda: cached_job(fakes, rows, 2, deduplicate=True, canary=1))
    assert done.outputs == [row["prompt"] for row in rows]
    bought = sent(fakes) + Counter(r["body"]["messages"][-1]["content"] for r in fakes.api.asked)
    assert bought == dict.fromkeys("abcde", 1)
    assert (done.manifest["cached"], done.manifest["repeats"]) == (3, 2)
    again = landed(advance(cached_job(fakes, rows, 3)).manifest)
    assert again.manifest["cached"] == 8


def test_a_landing_that_dies_before_the_manifest_caches_its_answers_once(fakes, monkeypatch):
    from airflow_openai_batch.engine import landing

    rows = prompts("a", "b")
    advance(cached_job(fakes, rows, 1))
    end_all(fakes)
    with monkeypatch.context() as patch:
        patch.setattr(landing, "tidy", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            advance(cached_job(fakes, rows, 1, delete_files=True))
    files = sorted((fakes.folder / "cache").rglob("*.parquet"))
    advance(cached_job(fakes, rows, 1))
    assert sorted((fakes.folder / "cache").rglob("*.parquet")) == files
    assert len(files) == 1
