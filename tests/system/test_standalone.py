"""A real scheduler, DAG processor, triggerer and API server; the emulated OpenAI; the example DAG as it is."""

import contextlib
import json
import time
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace

import httpx
import psutil
import pytest

from tests.airflow_versions import VERSION
from tools.airflow_stack import AirflowStack, clean_environment
from tools.emulator import Emulator
from tools.processes import end_marked, marked

pytestmark = pytest.mark.system

DAGS = Path(__file__).resolve().parents[2] / "dags"
REVIEWS = [json.loads(line) for line in (DAGS / "data" / "reviews.jsonl").read_bytes().splitlines()]
SPEED = ("--validating", "1", "--in-progress", "10", "--finalizing", "1")
WITHIN = 120


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("stack")


@pytest.fixture(scope="module")
def stack(home):
    with contextlib.ExitStack() as stop:
        stop.callback(end_marked, home)
        emulator = Emulator(home, env=clean_environment(), options=SPEED)
        stop.callback(emulator.stop)
        connection = {"password": "sk-emulated", "host": emulator.base_url}
        airflow = AirflowStack(home, dags=DAGS, connection=connection, results=home / "results")
        stop.callback(airflow.stop)
        emulator.wait_ready()
        airflow.wait_healthy()
        airflow.wait_dags(["openai_batch_quickstart"])
        airflow.api.add_connection("openai_stored", conn_type="openai_batch", **connection)
        yield SimpleNamespace(airflow=airflow, emulator=emulator, api=airflow.api, home=home)


@pytest.fixture(scope="module")
def ran(stack):
    """The quickstart with a connection of the database, run to its end, with what could be seen on the way."""
    run = stack.api.trigger("openai_batch_quickstart", {"poll_interval": 2, "conn_id": "openai_stored"})
    sights = []
    end = time.monotonic() + WITHIN
    while stack.api.run_states()[run] not in ("success", "failed"):
        assert time.monotonic() < end, (stack.api.task_states()[run], stack.airflow.log.read_text()[-5000:])
        state = stack.api.task_states()[run].get("classify", "none")
        batches = stack.emulator.ledger()["batches"]["data"]
        manifests = list(stack.home.glob("results/**/manifest.json"))
        sights.append((state, [batch["status"] for batch in batches], len(manifests)))
        time.sleep(0.3)
    logs = "\n".join(log.read_text() for log in stack.airflow.airflow_home.glob("logs/dag_id=*/**/*.log"))
    assert stack.api.run_states()[run] == "success", logs
    return SimpleNamespace(
        run=run,
        sights=sights,
        manifest=stack.api.xcom(run, "classify"),
        times=stack.api.task_times(now=datetime.now(timezone.utc)).get(run, {}).get("classify"),
    )


def test_the_task_is_deferred_while_the_batch_runs(ran):
    assert ("deferred", ["in_progress"], 0) in ran.sights


@pytest.mark.skipif(VERSION < (3, 2), reason="its event log has no states of tasks")
def test_the_task_waits_deferred_and_runs_only_before_and_after(ran):
    assert ran.times.deferred >= 10
    assert ran.times.running < ran.times.deferred


def test_results_landed_one_for_each_row_in_order_with_their_columns(ran):
    results = [json.loads(line) for file in ran.manifest["files"] for line in Path(file).read_bytes().splitlines()]

    assert [result["row"] for result in results] == list(range(len(REVIEWS)))
    assert [result["input"] for result in results] == REVIEWS
    assert {result["status"] for result in results} == {"succeeded"}
    assert {result["output"] for result in results} <= {"positive", "negative"}


def test_the_manifest_is_on_the_store_and_is_what_the_task_returned(ran):
    manifest = json.loads((Path(ran.manifest["destination"]) / "manifest.json").read_bytes())

    assert manifest == ran.manifest
    assert manifest["rows"]["total"] == manifest["rows"]["succeeded"] == len(REVIEWS)


def test_one_batch_was_created_and_each_row_paid_once(ran, stack):
    ledger = stack.emulator.ledger()

    assert [batch["id"] for batch in ledger["batches"]["data"]] == ran.manifest["batches"]
    assert ledger["batches"]["created"] == 1
    assert ledger["rows"]["billed"] == len(REVIEWS)
    assert ledger["rows"]["billed_twice"]["count"] == 0


def test_a_cleared_task_finds_its_results_and_pays_nothing(ran, stack):
    cleared = stack.api.clear(ran.run)
    end = time.monotonic() + WITHIN
    while stack.api.run_states()[ran.run] not in ("success", "failed"):
        assert time.monotonic() < end
        time.sleep(0.3)

    assert cleared == ["classify"]
    assert stack.api.run_states()[ran.run] == "success"
    assert stack.api.xcom(ran.run, "classify") == ran.manifest
    assert stack.emulator.ledger()["batches"]["created"] == 1


def test_stopping_leaves_no_process_and_no_listener(stack):
    stack.airflow.stop()
    stack.emulator.stop()

    # Parts of the scheduler end a moment after what started them.
    assert psutil.wait_procs(marked(stack.home), timeout=10)[1] == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(stack.airflow.address, trust_env=False)
