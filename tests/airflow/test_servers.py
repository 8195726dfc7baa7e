"""An operator that defers, on servers that aren't OpenAI, by connections as users write them."""

from __future__ import annotations

import json
import threading
import time
from datetime import datetime, timezone

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import DAG

from airflow_openai_batch.emulator.server import running
from airflow_openai_batch.operators.openai_batch import (
    OpenAIBatchCancelOperator,
    OpenAIBatchDownloadOperator,
    OpenAIBatchOperator,
    OpenAIBatchSubmitOperator,
)

AZURE_KEY = "0123456789abcdef0123456789abcdef"
OTHER_KEY = "f" * 32
QUICK = {"validating": 0.02, "in_progress": 0.3, "finalizing": 0.02, "file_processing": 0.05}
PROMPT = "Is this positive or negative? {{ row.text }}"
ROW = {"prompt": PROMPT, "model": "gpt-5-mini", "poll_interval": 0.2}
ROWS = [
    {"text": "great food"},
    {"text": "awful food [[emulate:status=500,once]]"},
    {"text": "great wine [[emulate:error=request_timeout,once]]"},
    {"text": "awful soup [[emulate:lost,once]]"},
]
ANSWERS = ["positive", "negative", "positive", "negative"]

CONNECTIONS = {
    "azure_v1": ("azure", {"password": AZURE_KEY, "extra": {"azure_endpoint": "{url}"}}),
    "azure_classic": (
        "azure",
        {"password": AZURE_KEY, "extra": {"azure_endpoint": "{url}", "api_version": "2024-10-21"}},
    ),
    "azure_token": ("azure", {"password": "", "extra": {"azure_endpoint": "{url}", "azure_ad_token": "eyJ.a.b"}}),
    "gateway": ("gateway", {"host": "{url}/v1"}),
}


def connect_to(connect, emulator, name, **changed):
    fields = json.loads(json.dumps(CONNECTIONS[name][1]).replace("{url}", emulator.url))
    connect(**{**fields, **changed})


@pytest.fixture
def serve():
    """Start an emulator in the mode of a connection."""
    started = []

    def serve(name, **options):
        context = running(mode=CONNECTIONS[name][0], **{**QUICK, **options})
        started.append(context)
        return context.__enter__()

    yield serve
    for context in started:
        context.__exit__(None, None, None)


@pytest.mark.parametrize("name", CONNECTIONS)
def test_a_dataset_becomes_results_and_nothing_is_bought_twice(run_dag, connect, serve, tmp_path, name):
    emulator = serve(name)
    connect_to(connect, emulator, name)
    with DAG(f"on_{name}", schedule=None) as dag:
        OpenAIBatchOperator(task_id="label", source=ROWS, destination=f"{tmp_path}/out", max_batch_requests=2, **ROW)
    run = run_dag(dag)
    assert run.state == "success", run.errors
    assert run.outputs("label") == ANSWERS
    assert emulator.ledger.rows_billed_twice == 0
    assert emulator.ledger.rows_billed == len(ROWS)
    assert {batch["endpoint"] for batch in emulator.ledger.batches} == {
        "/chat/completions" if name == "azure_classic" else "/v1/chat/completions"
    }
    assert run.links["label"]["batch"] in {"", None}


@pytest.mark.parametrize("endpoint", ["/chat/completions", "/v1/chat/completions"])
def test_an_endpoint_may_be_given_in_the_servers_own_form(run_dag, connect, serve, tmp_path, endpoint):
    emulator = serve("gateway")
    connect_to(connect, emulator, "gateway")
    request = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "hi"}]}
    ready = {"custom_id": "x", "method": "POST", "url": "/v1/chat/completions", "body": request}
    with DAG("own_form", schedule=None) as dag:
        for task_id, source in (("prompts", ["one"]), ("ready_made", [ready])):
            OpenAIBatchOperator(
                task_id=task_id,
                source=source,
                destination=f"{tmp_path}/{task_id}",
                endpoint=endpoint,
                model="gpt-5-mini",
                poll_interval=0.2,
            )
    run = run_dag(dag)
    assert run.outputs("prompts") + run.outputs("ready_made") == ["one", "hi"]
    assert {batch["endpoint"] for batch in emulator.ledger.batches} == {endpoint}


@pytest.mark.parametrize("by", ["operator", "connection"])
def test_requests_are_sent_inline_where_operator_or_connection_say_so(run_dag, connect, serve, tmp_path, by):
    emulator = serve("gateway")
    connect_to(connect, emulator, "gateway", **({"extra": {"submission": "inline"}} if by == "connection" else {}))
    said = {"submission": "inline"} if by == "operator" else {}
    with DAG(f"inline_by_{by}", schedule=None) as dag:
        OpenAIBatchOperator(
            task_id="label",
            source=ROWS,
            destination=f"{tmp_path}/out",
            completion_window="72h",
            max_batch_requests=2,
            **ROW,
            **said,
        )
    run = run_dag(dag)
    assert run.state == "success", run.errors
    assert run.outputs("label") == ANSWERS
    assert "files.create" not in emulator.ledger.calls
    assert (emulator.ledger.rows_billed, emulator.ledger.rows_billed_twice) == (len(ROWS), 0)
    settings = json.loads((tmp_path / "out" / "_job" / "job.json").read_bytes())["settings"]
    assert (settings["submission"], settings["bytes_per_batch"]) == ("inline", 8_388_608)


def test_a_server_that_takes_nothing_inline_fails_the_task_and_a_file_goes_on(run_dag, connect, emulator, tmp_path):
    def dag_with(**options):
        with DAG("inline_at_openai", schedule=None, default_args={"retries": 3}) as dag:
            OpenAIBatchOperator(task_id="label", source=ROWS[:1], destination=f"{tmp_path}/out", **ROW, **options)
        return dag

    connect(emulator, extra={"submission": "inline"})
    day = datetime(2026, 1, 3, tzinfo=timezone.utc)
    run = run_dag(dag_with(), logical_date=day)
    assert (run.states["label"], run.tries["label"]) == ("failed", 1)
    assert "doesn't take requests in the create call" in str(run.errors["label"])
    run = run_dag(dag_with(submission="file"), logical_date=day)
    assert run.state == "success", run.errors
    assert run.outputs("label") == ANSWERS[:1]


@pytest.mark.parametrize("name", ["azure_v1", "azure_classic", "gateway"])
def test_a_connection_that_gets_another_projects_key_while_the_task_waits(run_dag, connect, serve, tmp_path, name):
    keys = ("sk-ours", "sk-theirs") if name == "gateway" else (AZURE_KEY, OTHER_KEY)
    emulator = serve(name, key=[f"{keys[0]}=proj_a", f"{keys[1]}=proj_b"], in_progress=1.0)
    connect_to(connect, emulator, name, password=keys[0])
    with DAG(f"other_key_{name}", schedule=None, default_args={"retries": 3}) as dag:
        OpenAIBatchOperator(task_id="label", source=ROWS[:1], destination=f"{tmp_path}/out", **ROW)

    def switch():
        while not emulator.ledger.batches:
            time.sleep(0.02)
        time.sleep(0.3)
        connect_to(connect, emulator, name, password=keys[1])

    switching = threading.Thread(target=switch)
    switching.start()
    day = datetime(2026, 1, 2, tzinfo=timezone.utc)
    run = run_dag(dag, logical_date=day)
    switching.join()
    (made,) = [batch["id"] for batch in emulator.ledger.batches]
    assert (run.states["label"], run.tries["label"]) == ("failed", 1)
    error = run.errors["label"]
    assert isinstance(error, AirflowFailException)
    for part in (made, "connection 'openai_default'", "the key is of the same project", "aren't sent again"):
        assert part in str(error)
    assert keys[1] not in str(error)
    connect_to(connect, emulator, name, password=keys[0])
    run = run_dag(dag, logical_date=day)
    assert run.state == "success", run.errors
    assert run.outputs("label") == ANSWERS[:1]
    assert (len(emulator.ledger.batches), emulator.ledger.rows_billed_twice) == (1, 0)


def test_the_steps_of_a_job_with_another_projects_key_fail_and_cancel_nothing(run_dag, connect, serve, tmp_path):
    emulator = serve("gateway", key=["sk-ours=proj_a", "sk-theirs=proj_b"], in_progress=30)
    connect_to(connect, emulator, "gateway", password="sk-ours")
    with DAG("submit_only", schedule=None) as dag:
        OpenAIBatchSubmitOperator(
            task_id="submit", source=ROWS[:1], destination=f"{tmp_path}/out", prompt=PROMPT, model="gpt-5-mini"
        )
    reference = run_dag(dag).xcoms["submit"]
    connect_to(connect, emulator, "gateway", password="sk-theirs")
    with DAG("steps_only", schedule=None, default_args={"retries": 3}) as dag:
        OpenAIBatchCancelOperator(task_id="cancel", job=reference)
        OpenAIBatchDownloadOperator(task_id="download", job=reference, poll_interval=0.2)
    run = run_dag(dag)
    assert run.states == {"cancel": "failed", "download": "failed"}
    assert set(run.tries.values()) == {1}
    for error in run.errors.values():
        assert reference["batches"][0] in str(error)
    assert [batch["status"] for batch in emulator.ledger.batches] == ["in_progress"]
    connect_to(connect, emulator, "gateway", password="sk-ours")
    with DAG("cancel_only", schedule=None) as dag:
        OpenAIBatchCancelOperator(task_id="cancel", job=reference)
    assert run_dag(dag).xcoms["cancel"] == reference["batches"]


def test_each_task_uses_its_own_connection(run_dag, connect, tmp_path):
    with running(key=["sk-a=proj_a", "sk-b=proj_b"], **QUICK) as emulator:
        with DAG("two_projects", schedule=None) as dag:
            for name in "ab":
                connect(emulator, f"openai_{name}", password=f"sk-{name}")
                OpenAIBatchOperator(
                    task_id=name,
                    source=[{"text": f"great food of {name}"}],
                    destination=f"{tmp_path}/{name}",
                    conn_id=f"openai_{name}",
                    **ROW,
                )
        run = run_dag(dag)
        assert run.outputs("a") == run.outputs("b") == ["positive"]
        assert emulator.ledger.rows_billed_twice == 0


def test_a_connection_without_a_key_fails_at_once_and_uploads_nothing(run_dag, connect, emulator, tmp_path):
    connect(emulator, password="")
    calls = emulator.ledger.calls
    with DAG("no_key", schedule=None, default_args={"retries": 3}) as dag:
        OpenAIBatchOperator(task_id="label", source=ROWS[:1], destination=f"{tmp_path}/out", **ROW)
    run = run_dag(dag)
    assert (run.states["label"], run.tries["label"]) == ("failed", 1)
    assert "Connection 'openai_default' has no API key: it goes into the password field" in str(run.errors["label"])
    assert emulator.ledger.calls == calls
    assert not (tmp_path / "out").exists()
