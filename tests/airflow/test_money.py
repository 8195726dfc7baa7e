"""What a job costs, through the operators, judged by the emulator's ledger: estimate, caps, cache, canary, routes."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime, time, timedelta, timezone
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import DAG
from airflow.sdk.io import store

from airflow_openai_batch.emulator.server import running
from airflow_openai_batch.exceptions import CanaryError, ConfigurationError, CostCapError, UnknownPriceError
from airflow_openai_batch.operators.openai_batch import (
    OpenAIBatchDownloadOperator,
    OpenAIBatchEstimateOperator,
    OpenAIBatchOperator,
    OpenAIBatchSubmitOperator,
)
from airflow_openai_batch.sensors.openai_batch import OpenAIBatchSensor
from tests.airflow.conftest import read_results
from tests.airflow_versions import DagBag

QUICK = {"prompt": "Repeat: {{ row.text }}", "model": "gpt-5-mini", "poll_interval": 0.2}
NIGHT = dict.fromkeys(("logical_date", "run_after"), datetime(2026, 1, 2, tzinfo=timezone.utc))
BATCH = {"input": 1, "output": 1}
PRICES = {"gpt-5-mini": {"batch": BATCH, "standard": {"input": 2, "output": 2}}}


def texts(number, of="row"):
    return [{"text": f"{of} {n}"} for n in range(number)]


@pytest.fixture
def one(run_dag, connection, tmp_path, request):
    """Run one task, in a DAG of its own; ``again=True`` clears it, with other parameters."""
    name = request.node.name.partition("[")[0][-60:]
    runs = []

    def one(source=None, operator=OpenAIBatchOperator, *, again=False, **given):
        if not again:
            runs.append(f"{name}_{len(runs)}")
        given = {"destination": f"{tmp_path}/{runs[-1]}", **QUICK, **given}
        with DAG(runs[-1], schedule=None, default_args={"retries": 3}) as dag:
            operator(task_id="label", source=source, **given)
        return run_dag(dag, **NIGHT)

    return one


@pytest.fixture
def sent(emulator):
    """Say what was sent since: batches, and rows asked directly; and that no row was billed twice."""
    before = len(emulator.ledger.batches)

    def sent():
        assert emulator.ledger.rows_billed_twice == 0
        return {
            "batches": [batch["rows"] for batch in emulator.ledger.batches[before:]],
            "direct": emulator.ledger.synchronous["calls"],
            "billed": emulator.ledger.rows_billed,
        }

    return sent


def test_repeats_are_not_billed(one, sent):
    rows = [{"text": text, "n": n} for n, text in enumerate(["a", "b", "a", "c", "a", "b"])]
    run = one(rows, deduplicate=True)
    assert sent() == {"batches": [3], "direct": 0, "billed": 3}
    assert run.outputs("label") == [f"Repeat: {row['text']}" for row in rows]
    assert [line["input"]["n"] for line in run.results("label")] == list(range(6))
    manifest = run.xcoms["label"]
    assert (manifest["repeats"], manifest["cached"], manifest["rows"]["succeeded"]) == (3, 0, 6)


def test_a_second_night_with_two_rows_new_in_a_hundred_pays_for_two_in_a_hundred(one, emulator, tmp_path):
    nights = [texts(200), texts(196) + texts(4, "new")]
    billed, bills = [], []
    for rows in nights:
        run = one(rows, cache=f"{tmp_path}/cache", prices=PRICES)
        assert run.outputs("label") == [f"Repeat: {row['text']}" for row in rows]
        billed.append(emulator.ledger.rows_billed)
        bills.append(run.xcoms["label"])
    assert billed == [200, 204]
    assert emulator.ledger.rows_billed_twice == 0
    assert [manifest["cached"] for manifest in bills] == [0, 196]
    assert [line["cached"] for line in run.results("label")] == [True] * 196 + [False] * 4
    assert [line["usage"] is None for line in run.results("label")] == [True] * 196 + [False] * 4
    assert [line["batch_id"] is None for line in run.results("label")] == [True] * 196 + [False] * 4
    assert bills[1]["cost"]["usd"] / bills[0]["cost"]["usd"] == pytest.approx(0.02)
    assert bills[1]["estimate"]["rows"] == 4


def test_a_night_without_new_rows_sends_nothing(one, emulator, tmp_path):
    first = one(texts(5), cache=f"{tmp_path}/cache")
    calls = emulator.ledger.calls
    second = one(texts(5), cache=f"{tmp_path}/cache", canary=3, max_cost_usd=1, route="auto")
    assert second.outputs("label") == first.outputs("label")
    assert emulator.ledger.calls == calls
    assert second.xcoms["label"]["cost"]["usd"] == 0
    assert second.xcoms["label"]["batches"] == []


def test_an_answer_older_than_its_time_to_live_is_bought_again(one, emulator, tmp_path):
    for ttl in (None, timedelta(days=1), 0.001):
        run = one(texts(3), cache=f"{tmp_path}/cache", cache_ttl=ttl)
    assert run.xcoms["label"]["cached"] == 0
    assert emulator.ledger.rows_billed == 6


@pytest.mark.parametrize("url", ["s3://lake@lake-bucket/cache", "answers/of/all/jobs"])
def test_the_cache_may_be_on_s3_by_a_connection_or_below_the_results_root(one, emulator, s3, monkeypatch, url):
    monkeypatch.setattr(store, "_STORE_CACHE", {})
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", s3.connection())
    monkeypatch.setenv("AIRFLOW__OPENAI_BATCH__RESULTS_ROOT", "s3://lake@lake-bucket/root")
    given = {"cache": url, "result_format": "jsonl"}
    for number, rows in enumerate([texts(30), texts(29) + texts(1, "new")]):
        run = one(rows, destination=f"s3://lake@lake-bucket/night-{number}", **given)
        assert run.state == "success"
    assert emulator.ledger.rows_billed == 31
    assert run.xcoms["label"]["cached"] == 29
    keys = [item.key for item in s3.bucket.objects.all()]
    assert any(key.startswith("cache/v1/" if url.startswith("s3") else "root/answers/of/all/jobs/v1/") for key in keys)


def test_a_cache_that_is_damaged_costs_money_and_no_answers(one, emulator, tmp_path):
    cache = tmp_path / "cache"
    one(texts(3), cache=str(cache))
    for file in cache.rglob("*.parquet"):
        file.write_bytes(b"PAR1 nothing of it")
    run = one(texts(3), cache=str(cache))
    assert run.outputs("label") == [f"Repeat: row {n}" for n in range(3)]
    assert emulator.ledger.rows_billed == 6


def test_only_good_answers_go_into_the_cache(one, emulator, tmp_path):
    rows = [{"text": "good"}, {"text": "cut [[emulate:length]]"}, {"text": "bad [[emulate:status=400]]"}]
    for _ in range(2):
        run = one(rows, cache=f"{tmp_path}/cache", max_failed_ratio=1)
        assert [line["status"] for line in run.results("label")] == ["succeeded", "truncated", "failed"]
    assert run.xcoms["label"]["cached"] == 1


def test_repeats_cached_rows_and_cost_stand_in_the_manifest_on_the_store_too(one, tmp_path):
    one(texts(3), cache=f"{tmp_path}/cache", prices=PRICES)
    run = one([*texts(4), *texts(4)], cache=f"{tmp_path}/cache", deduplicate=True, prices=PRICES)
    manifest = json.loads(Path(run.xcoms["label"]["destination"], "manifest.json").read_bytes())
    assert manifest == run.xcoms["label"]
    # Rows that the cache answers aren't repeats, though their requests are equal.
    assert (manifest["cached"], manifest["repeats"], manifest["rows"]["total"]) == (6, 1, 8)
    cost, usage = manifest["cost"], manifest["usage"]
    assert cost["usd"] == pytest.approx(usage["total_tokens"] / 1e6)
    assert (cost["usd_standard"], cost["saving"]) == (pytest.approx(2 * cost["usd"]), pytest.approx(cost["usd"]))
    assert manifest["estimate"]["rows"] == 1


@pytest.mark.parametrize("operator", [OpenAIBatchOperator, OpenAIBatchEstimateOperator])
def test_an_estimate_sends_nothing_and_compares_models(one, emulator, operator):
    only = {} if operator is OpenAIBatchEstimateOperator else {"estimate_only": True}
    run = one(texts(7), operator, model=["gpt-5-mini", "gpt-5-nano"], body={"max_completion_tokens": 100}, **only)
    told = run.xcoms["label"]
    assert emulator.ledger.calls == {}
    by_model = {model["model"]: model for model in told["models"]}
    assert {name: model["rows"] for name, model in by_model.items()} == {"gpt-5-mini": 7, "gpt-5-nano": 7}
    assert by_model["gpt-5-mini"]["usd"] > by_model["gpt-5-nano"]["usd"] > 0
    assert told["usd"] == pytest.approx(sum(model["usd"] for model in told["models"]))
    assert told["usd_standard"] == pytest.approx(2 * told["usd"], abs=2e-6)
    assert all(model["output_tokens"] == 700 for model in told["models"])


def test_a_job_goes_on_from_its_estimate(one, emulator, tmp_path):
    given = {"source": texts(3), "destination": f"{tmp_path}/job"}
    estimate = one(operator=OpenAIBatchEstimateOperator, **given).xcoms["label"]
    run = one(**given)
    assert run.xcoms["label"]["estimate"] == estimate
    assert emulator.ledger.rows_billed == 3


def test_a_cap_below_the_estimate_fails_the_task_at_once_and_uploads_nothing(one, emulator):
    run = one(texts(5), max_cost_usd=0.001)
    assert (run.states["label"], run.tries["label"]) == ("failed", 1)
    error = run.errors["label"]
    assert isinstance(error, AirflowFailException)
    assert isinstance(error.__cause__, CostCapError)
    assert "the whole job: estimated at $0.005" in str(error)
    assert "cap of $0.001000" in str(error)
    assert "$0.0000 was spent" in str(error)
    assert emulator.ledger.calls == {}
    run = one(texts(5), max_cost_usd=0.01, again=True)
    assert run.state == "success"
    assert emulator.ledger.rows_billed == 5


def test_a_job_that_goes_directly_is_held_against_its_cap_at_the_direct_price(one, emulator):
    for caps in ({"max_cost_usd": 0.0075}, {"max_direct_cost_usd": 0.0075}):
        run = one(texts(5), route="direct", **caps)
        assert isinstance(run.errors["label"].__cause__, CostCapError)
        assert "the whole job: estimated at $0.010" in str(run.errors["label"])
    assert emulator.ledger.calls == {}


@pytest.mark.parametrize(
    "given",
    [
        {"model": "nobody-knows-it", "max_cost_usd": 1},
        # It would be needed when the deadline has come and the batch is paid.
        {"prices": {"my-model": {"batch": BATCH}}, "model": "my-model", "max_cost_usd": 1, "deadline": 3600},
        {"prices": {"my-model": {"batch": BATCH}}, "model": "my-model", "max_direct_cost_usd": 1, "deadline": "06:00"},
        {"prices": {"my-model": {"batch": BATCH}}, "model": "my-model", "max_cost_usd": 1, "canary": 2},
    ],
)
def test_a_cap_needs_each_price_that_may_be_paid_before_anything_is_sent(one, emulator, given):
    run = one(texts(2), **given)
    assert isinstance(run.errors["label"].__cause__, UnknownPriceError)
    assert "prices={" in str(run.errors["label"])
    assert (run.tries["label"], emulator.ledger.calls) == (1, {})


@pytest.mark.parametrize(
    ("marker", "billed", "told"),
    [
        # A refused request costs nothing, one that is cut off costs as much as any.
        ("[[emulate:status=400]]", 0, "50 failed"),
        ("[[emulate:length]]", 50, "50 truncated"),
    ],
)
def test_a_canary_stops_a_broken_prompt_for_the_price_of_its_rows(one, sent, marker, billed, told):
    run = one(texts(400), prompt="{{ row.text }} " + marker, canary=50, max_cost_usd=5)
    assert (run.states["label"], run.tries["label"]) == ("failed", 1)
    assert isinstance(run.errors["label"].__cause__, CanaryError)
    error = str(run.errors["label"])
    assert "50 of the first 50 rows did badly (100%, more than canary_max_failed=0.2)" in error
    assert told in error
    assert error.count("Example: row ") == 3
    assert sent() == {"batches": [], "direct": billed, "billed": billed}


def test_the_rows_of_a_canary_that_does_well_are_not_bought_again(one, sent):
    run = one(texts(60), canary=10)
    assert sent() == {"batches": [50], "direct": 10, "billed": 60}
    assert run.outputs("label") == [f"Repeat: row {n}" for n in range(60)]
    cost = run.xcoms["label"]["cost"]
    assert {charge["processing"] for charge in cost["charges"]} == {"batch", "standard"}
    assert cost["usd"] == pytest.approx(cost["usd_batch"] + cost["usd_direct"])


def test_a_canary_whose_answers_are_dear_stops_the_job(one, sent):
    # What is assumed of an answer is less than what these come to.
    rows = [{"text": f"row {n} " + "word " * 2_000} for n in range(20)]
    run = one(rows, prompt="{{ row.text }}", canary=5, max_cost_usd=0.08, prices={"gpt-5-mini": BATCH})
    assert "by what its canary came to: estimated at" in str(run.errors["label"])
    assert sent() == {"batches": [], "direct": 5, "billed": 5}


def test_a_small_job_goes_directly_and_lands_the_same(one, sent, emulator, tmp_path):
    made = {}
    for route in ("batch", "auto", "direct"):
        run = one(texts(5), route=route, destination=f"{tmp_path}/{route}")
        made[route] = [{**line, "batch_id": None} for line in run.results("label")]
        if route == "batch":
            emulator.ledger.reset()
        else:
            assert not {"files.create", "batches.create"} & emulator.ledger.calls.keys()
            assert run.xcoms["label"]["batches"] == []
    assert made["batch"] == made["auto"] == made["direct"]
    assert emulator.ledger.synchronous["calls"] == 10


def test_auto_sends_a_larger_job_in_batches(one, sent):
    one(texts(5), route="auto", direct_below=5)
    assert sent() == {"batches": [5], "direct": 0, "billed": 5}


def test_auto_counts_what_is_left_to_buy(one, sent, emulator, tmp_path):
    one(texts(8), cache=f"{tmp_path}/cache")
    emulator.ledger.reset()
    run = one(texts(10), cache=f"{tmp_path}/cache", route="auto", direct_below=5)
    assert (run.state, emulator.ledger.synchronous["calls"]) == ("success", 2)


def test_a_deadline_keeps_what_the_batch_has_and_asks_the_rest(run_dag, connect, tmp_path):
    with running(validating=0.05, rows_per_second=4, finalizing=0.05, cancelling=0.3) as emulator:
        connect(emulator)
        with DAG("before_a_deadline", schedule=None) as dag:
            OpenAIBatchOperator(
                task_id="label", source=texts(60), destination=f"{tmp_path}/out", deadline=12, max_cost_usd=1, **QUICK
            )
        begun = datetime.now(timezone.utc)
        run = run_dag(dag)
        took = (datetime.now(timezone.utc) - begun).total_seconds()
        ledger = emulator.ledger
        ((batch,), calls) = ledger.batches, ledger.synchronous["calls"]
        assert ledger.rows_billed_twice == 0
    assert run.outputs("label") == [f"Repeat: row {n}" for n in range(60)]
    assert (batch["status"], batch["billed"] + calls) == ("cancelled", 60)
    assert 5 < batch["billed"] < 55
    by_way = Counter(line["batch_id"] is None for line in run.results("label"))
    assert by_way == {True: calls, False: batch["billed"]}
    assert took < 16
    finished = datetime.fromisoformat(run.xcoms["label"]["finished_at"])
    assert (finished - datetime.fromisoformat(run.xcoms["label"]["started_at"])).total_seconds() <= 12


def test_three_steps_know_canary_caps_and_cache(run_dag, connection, emulator, tmp_path):
    for night in range(2):
        with DAG(f"money_in_steps_{night}", schedule=None) as dag:
            submit = OpenAIBatchSubmitOperator(
                task_id="submit",
                source=texts(30) + texts(night, "new"),
                destination=f"{tmp_path}/{night}",
                canary=5,
                max_cost_usd=0.5,
                cache=f"{tmp_path}/cache",
                **QUICK,
            )
            wait = OpenAIBatchSensor(task_id="wait", job=submit.output, poll_interval=0.2)
            OpenAIBatchDownloadOperator(task_id="download", job=wait.output, poll_interval=0.2)
        run = run_dag(dag)
        assert run.state == "success"
        assert len(run.results("download")) == 30 + night
    assert emulator.ledger.rows_billed == 31
    assert emulator.ledger.synchronous["calls"] == 6
    assert run.xcoms["download"]["cached"] == 30


def test_a_cap_stops_the_first_of_three_steps(run_dag, connection, emulator, tmp_path):
    with DAG("cap_in_steps", schedule=None, default_args={"retries": 2}) as dag:
        submit = OpenAIBatchSubmitOperator(
            task_id="submit", source=texts(3), destination=f"{tmp_path}/out", max_cost_usd=0.0001, **QUICK
        )
        OpenAIBatchSensor(task_id="wait", job=submit.output)
    run = run_dag(dag)
    assert (run.states["submit"], run.tries["submit"]) == ("failed", 1)
    assert run.states["wait"] == "upstream_failed"
    assert emulator.ledger.calls == {}


def test_a_cap_that_stops_the_sensor_is_raised_by_an_operator_that_takes_the_job_over(
    run_dag, connection, emulator, tmp_path
):
    # Answers of 2,000 tokens where 1,000 are assumed, and a row that goes again.
    rows = [{"text": f"row {n} " + "word " * 1_600 + ("[[emulate:status=500,once]]" * (n == 3))} for n in range(10)]
    given = {**QUICK, "prompt": "{{ row.text }}", "prices": {"gpt-5-mini": BATCH}, "source": rows}
    given["destination"] = f"{tmp_path}/out"
    with DAG("cap_in_sensor", schedule=None, default_args={"retries": 2}) as dag:
        submit = OpenAIBatchSubmitOperator(task_id="submit", max_cost_usd=0.035, **given)
        OpenAIBatchSensor(task_id="wait", job=submit.output, poll_interval=0.2)
    run = run_dag(dag)
    assert (run.states["wait"], run.tries["wait"]) == ("failed", 1)
    assert "shard 00000.r1.a0: estimated at" in str(run.errors["wait"])
    assert emulator.ledger.rows_billed == 9
    with DAG("cap_raised", schedule=None) as dag:
        OpenAIBatchOperator(task_id="label", max_cost_usd=1, **given)
    run = run_dag(dag)
    assert run.outputs("label") == [row["text"] for row in rows]
    assert (emulator.ledger.rows_billed, emulator.ledger.rows_billed_twice) == (10, 0)


def test_direct_calls_that_broke_off_go_on_where_they_were(one, sent, emulator):
    emulator.add_fault("status,call=chat.completions.create,status=401,skip=20,times=1000")
    run = one(texts(60), route="direct", max_cost_usd=1)
    assert (run.states["label"], run.tries["label"]) == ("failed", 1)
    assert emulator.ledger.rows_billed < 60
    emulator.clear_faults()
    run = one(texts(60), route="direct", max_cost_usd=1, again=True)
    assert run.outputs("label") == [f"Repeat: row {n}" for n in range(60)]
    assert sent()["billed"] == 60


def test_a_cap_that_is_reached_in_the_middle_keeps_what_was_paid_until_it_is_raised(one, sent, emulator):
    # Answers of 2,000 tokens where 1,000 are assumed: the money is used up before the rows are.
    rows = [{"text": f"row {n} " + "word " * 1_600} for n in range(60)]
    given = {"prompt": "{{ row.text }}", "route": "direct", "prices": {"gpt-5-mini": BATCH}}
    run = one(rows, max_cost_usd=0.2, **given)
    assert (run.states["label"], run.tries["label"]) == ("failed", 1)
    assert "requests of shard 00000.r0.a0: estimated at" in str(run.errors["label"])
    bought, calls = sent()["billed"], emulator.ledger.synchronous
    assert 0 < bought < 60
    assert (calls["input_tokens"] + calls["output_tokens"]) / 1e6 <= 0.2
    run = one(rows, max_cost_usd=0.2, again=True, **given)
    assert (run.state, sent()["billed"]) == ("failed", bought)
    run = one(rows, max_cost_usd=1, again=True, **given)
    assert run.outputs("label") == [row["text"] for row in rows]
    assert sent()["billed"] == 60


def test_a_cleared_job_that_is_done_costs_nothing_more(one, emulator, tmp_path):
    given = {"cache": f"{tmp_path}/cache", "canary": 2, "max_cost_usd": 1, "deduplicate": True}
    first = one(texts(6), **given)
    calls = emulator.ledger.calls
    second = one(texts(6), again=True, **given)
    assert second.xcoms == first.xcoms
    assert emulator.ledger.calls == calls


def test_caps_canary_cache_and_deadline_may_be_params_of_the_dag(run_dag, connection, emulator, tmp_path):
    params = {"cap": 0.5, "canary": 2, "deadline": "23:59", "cache": f"{tmp_path}/cache", "none": None}
    with DAG("money_by_params", schedule=None, params=params) as dag:
        for name, cap in (("label", "cap"), ("uncapped", "none")):
            OpenAIBatchOperator(
                task_id=name,
                source=texts(4, name),
                destination=f"{tmp_path}/{name}",
                max_cost_usd=f"{{{{ params.{cap} }}}}",
                max_direct_cost_usd="{{ params.none }}",
                canary="{{ params.canary }}",
                deadline="{{ params.deadline }}",
                cache="{{ params.cache }}",
                **QUICK,
            )
    run = run_dag(dag)
    assert run.state == "success"
    settings = json.loads(Path(tmp_path, "label/_job/job.json").read_bytes())["settings"]
    wanted = {"max_cost_usd": 0.5, "max_direct_cost_usd": None, "canary": 2, "deadline": "23:59"}
    assert {name: settings[name] for name in wanted} == wanted
    settings = json.loads(Path(tmp_path, "uncapped/_job/job.json").read_bytes())["settings"]
    assert settings["max_cost_usd"] is None
    assert emulator.ledger.synchronous["calls"] == 4
    assert read_results(run.xcoms["label"])[0]["cached"] is False


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("max_cost_usd", -1, "max_cost_usd: a cap is an amount of USD above 0, not -1"),
        ("max_cost_usd", "a dollar", "max_cost_usd: a cap is an amount of USD above 0"),
        ("canary", 5_000, "canary: a number of rows from 0 to 1,000"),
        ("canary", "few", "canary: a number of rows"),
        ("deadline", "tomorrow", "deadline: seconds, a timedelta or a time of day"),
    ],
)
def test_what_a_template_gave_is_checked_before_anything_is_sent(
    run_dag, connection, emulator, tmp_path, name, given, told
):
    with DAG(f"bad_{name}", schedule=None, params={"given": given}, default_args={"retries": 2}) as dag:
        OpenAIBatchOperator(
            task_id="label", source=["a"], destination=f"{tmp_path}/out", **{**QUICK, name: "{{ params.given }}"}
        )
    run = run_dag(dag)
    assert run.tries["label"] == 1
    assert told in str(run.errors["label"])
    assert emulator.ledger.calls == {}
    assert not Path(tmp_path, "out").exists()


def test_the_nightly_eval_pays_for_what_is_new_and_reports_it(run_dag, connection, emulator, tmp_path, monkeypatch):
    dags = Path(__file__).parents[2] / "dags"
    monkeypatch.syspath_prepend(str(dags))
    reviews = [json.loads(line) for line in (dags / "data/reviews.jsonl").read_bytes().splitlines()]
    dag = DagBag(dag_folder=str(dags / "nightly_eval.py"), load_op_links=False).dags["openai_batch_nightly_eval"]
    source = tmp_path / "reviews.jsonl"
    conf = {"source": str(source), "results": str(tmp_path / "results"), "poll_interval": 0.2, "canary": 5}
    conf["max_drop"] = 1
    for day, rows in ((1, reviews[:100]), (2, reviews[:98] + reviews[100:102])):
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        run = run_dag(dag, run_conf=conf, logical_date=datetime(2026, 1, day, tzinfo=timezone.utc))
        assert run.state == "success"
    assert (emulator.ledger.rows_billed, emulator.ledger.rows_billed_twice) == (102, 0)
    page = Path(run.xcoms["report"].removeprefix("file://")).read_text()
    assert "<td>2026-01-01</td><td>100</td><td>100</td><td>$0.00" in page
    assert "<td>2026-01-02</td><td>100</td><td>2</td><td>$0.00" in page
    assert "<td>all nights</td><td>200</td><td>102</td>" in page


@pytest.mark.parametrize("operator", [OpenAIBatchOperator, OpenAIBatchSubmitOperator, OpenAIBatchEstimateOperator])
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"max_cost_usd": -1}, "max_cost_usd: a cap is an amount of USD above 0, not -1"),
        ({"max_cost_usd": 0}, "max_cost_usd: a cap"),
        ({"max_cost_usd": float("nan")}, "max_cost_usd: a cap is an amount of USD above 0, not nan"),
        ({"max_cost_usd": float("inf")}, "max_cost_usd: a cap"),
        ({"max_cost_usd": True}, "max_cost_usd: a cap"),
        ({"max_direct_cost_usd": "5 dollars"}, "max_direct_cost_usd: a cap"),
        ({"canary": -1}, "canary: a number of rows from 0 to 1,000 is needed, not -1"),
        ({"canary": 1_001}, "canary: a number of rows from 0 to 1,000 is needed, not 1001"),
        ({"canary": 0.5}, "canary: a number of rows"),
        ({"canary": True}, "canary: a number of rows"),
        ({"canary_max_failed": 20}, "canary_max_failed: a number from 0 to 1 is needed, not 20"),
        ({"route": "x"}, "route: one of batch, direct, auto is needed, not 'x'"),
        ({"direct_below": 0}, "direct_below: a whole number from 1"),
        ({"direct_concurrency": 0}, "direct_concurrency: a whole number from 1"),
        ({"deadline": -5}, "deadline: seconds, a timedelta or a time of day"),
        ({"deadline": timedelta(0)}, "deadline: seconds"),
        ({"deadline": float("nan")}, "deadline: seconds"),
        ({"deadline": "25:00"}, "deadline: seconds"),
        ({"cache_ttl": -1}, "cache_ttl: a positive number of seconds or a timedelta"),
        ({"prices": ["gpt-5-mini"]}, "prices: a mapping of models to prices is needed, not list"),
        ({"prices": {"m": 0.5}}, r"prices\['m'\]: {'input': ..., 'output': ...} is needed"),
        ({"prices": {"m": {"input": 1}}}, r"prices\['m'\]: 'output' is missing"),
        ({"prices": {"m": {"input": -1, "output": 1}}}, r"prices\['m'\]\['input'\]: it must be 0 or more"),
        ({"prices": {"m": {"input": 1, "output": 1, "since": "soon"}}}, r"prices\['m'\]\['since'\]: a day such as"),
    ],
)
def test_nonsense_about_money_is_refused_when_the_dag_is_parsed(operator, given, told):
    with pytest.raises(ConfigurationError, match=told):
        operator(task_id="bad", source=["a"], destination="/out", **given)
    with pytest.raises(ConfigurationError, match=told):
        operator.partial(task_id="bad", **given)


def test_money_parameters_that_make_sense_are_taken_in_every_form():
    for deadline in (3600, 60.5, timedelta(hours=6), "06:00", time(6, 0), "{{ params.deadline }}"):
        OpenAIBatchOperator(
            task_id="good",
            source=["a"],
            destination="/out",
            deadline=deadline,
            max_cost_usd="{{ params.cap }}",
            canary="{{ params.canary }}",
            cache_ttl=timedelta(days=30),
            prices={"m": [{"since": "2026-01-01", **BATCH}, {"since": "2026-06-01", "batch": BATCH}]},
        )
