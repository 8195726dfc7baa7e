"""Input, connections and destinations that can't serve: one try, a reason with its place, nothing uploaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import DAG

from airflow_openai_batch.emulator.server import running
from airflow_openai_batch.operators.openai_batch import OpenAIBatchOperator

PROMPT = "Is this positive or negative? {{ row.text }}"
ROWS = [{"text": "great food"}]
STRICT = {"retries": 3}


def request(custom_id="a", url="/v1/chat/completions", **body):
    body = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "hi"}], **body}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


LINES = {
    "empty": b"\n\n",
    "not_json": b'{"text": "fine"}\n{"text": oops}\n',
    "not_objects": b'["a"]\n"b"\n',
    "not_utf8": b'{"text": "\xff"}\n',
}

CASES = {
    "missing_file": ({"source": "{tmp}/no/such.jsonl"}, ["such.jsonl: no such file"]),
    "nothing_matches": ({"source": "{tmp}/*.nothing"}, ["*.nothing: no such file"]),
    "other_kind_of_file": ({"source": "{tmp}/readme.txt"}, ["readme.txt: not a kind of file"]),
    "empty_path": ({"source": ""}, ["an empty path"]),
    "empty_file": ({"source": "{tmp}/empty.jsonl"}, ["no rows"]),
    "empty_list": ({"source": []}, ["no rows"]),
    "not_json": ({"source": "{tmp}/not_json.jsonl"}, ["not_json.jsonl, line 2: not JSON"]),
    "not_objects": ({"source": "{tmp}/not_objects.jsonl"}, ["2 problems", "line 1: a row must be an object, not list"]),
    "not_utf8": ({"source": "{tmp}/not_utf8.jsonl"}, ["line 1", "UTF-8"]),
    "rows_of_wrong_types": ({"source": [*ROWS, 5, None]}, ["2 problems", "row 1: a row must be", "not int", "row 2"]),
    "unknown_column": ({"prompt": "{{ row.body }}"}, ["row 0: prompt: no column 'body'; there are: text"]),
    "no_model": ({"model": None}, ["row 0: model: no model"]),
    "no_prompt": ({"prompt": None}, ["row 0: prompt: no prompt= template", "columns are: text"]),
    "same_custom_id": (
        {"source": [{**ROWS[0], "custom_id": "x"}, {**ROWS[0], "custom_id": "x"}]},
        ["row 1: custom_id", "'x'", "row 0"],
    ),
    "stream": ({"source": [request(stream=True)], "prompt": None}, ["row 0: body.stream: streaming isn't supported"]),
    "other_endpoint": (
        {"source": [request(url="/v1/responses")], "prompt": None},
        ["row 0: url: '/v1/responses' differs from the job's endpoint '/v1/chat/completions'"],
    ),
    "half_a_request": (
        {"source": [{"method": "POST", "body": {}}], "prompt": None},
        ["row 0: custom_id: a ready-made request needs it"],
    ),
    "too_large": ({"source": [{"text": "x" * 500}], "max_batch_bytes": 400}, ["row 0", "400"]),
    "system_elsewhere": (
        {"endpoint": "{{ '/v1/embeddings' }}", "system": "Be brief."},
        ["system: /v1/embeddings has no system"],
    ),
    "empty_destination": ({"destination": "{{ '' }}"}, ["destination: it is empty"]),
    "bad_metadata": ({"metadata": {"note": "{{ 'x' * 513 }}"}}, ["metadata: 'note': keys have at most 64"]),
    "metadata_that_is_text": ({"metadata": "{{ 'team' }}"}, ["metadata: a mapping is needed, not str"]),
    "no_folder_of_images": ({"image_columns": "text", "image_root": "{{ '' }}"}, ["image_root: a string is needed"]),
    "bad_poll_interval": ({"poll_interval": "{{ 'soon' }}"}, ["poll_interval: a positive number"]),
}


@pytest.fixture(scope="module")
def emulator():
    with running(validating=0.02, in_progress=0.05, finalizing=0.02) as emulator:
        yield emulator


@pytest.fixture
def connection(connect, emulator):
    return connect(emulator)


@pytest.fixture(scope="module")
def bad_input(run_dag, emulator, tmp_path_factory):
    """Run every case in one DAG and return its run, with the folder."""
    folder = tmp_path_factory.mktemp("bad")
    for name, content in LINES.items():
        Path(folder, f"{name}.jsonl").write_bytes(content)
    Path(folder, "readme.txt").write_text("no rows")
    with DAG("bad_input", schedule=None, default_args=STRICT) as dag:
        for name, (parameters, _) in CASES.items():
            given = {"source": ROWS, "prompt": PROMPT, "model": "gpt-5-mini", "destination": f"{folder}/out/{name}"}
            given |= parameters
            if isinstance(given["source"], str):
                given["source"] = given["source"].replace("{tmp}", str(folder))
            OpenAIBatchOperator(task_id=name, **given)
    with pytest.MonkeyPatch.context() as patch:
        connection = {"conn_type": "openai_batch", "password": "sk-test", "host": emulator.base_url}
        patch.setenv("AIRFLOW_CONN_OPENAI_DEFAULT", json.dumps(connection))
        run = run_dag(dag)
    return run, folder


@pytest.mark.parametrize("case", CASES)
def test_bad_input_fails_the_task_in_one_try_and_says_where(bad_input, case):
    run, _ = bad_input
    assert (run.states[case], run.tries[case]) == ("failed", 1)
    assert isinstance(run.errors[case], AirflowFailException)
    said = str(run.errors[case])
    assert not [part for part in CASES[case][1] if part not in said], said


def test_nothing_was_uploaded_for_bad_input_and_nothing_kept(bad_input, emulator):
    _, folder = bad_input
    assert emulator.ledger.calls.get("files.create", 0) == 0
    assert emulator.ledger.calls.get("batches.create", 0) == 0
    assert [path for path in Path(folder, "out").rglob("*") if path.is_file()] == []


def test_twenty_problems_are_shown_and_the_rest_counted(run_dag, connection, tmp_path):
    with DAG("many_problems", schedule=None, default_args=STRICT) as dag:
        OpenAIBatchOperator(
            task_id="many", source=[{"x": 1}] * 1_234, prompt=PROMPT, model="gpt-5-mini", destination=f"{tmp_path}/out"
        )
    said = str(run_dag(dag).errors["many"])
    assert said.startswith("1,234 problems in the input; nothing was uploaded:")
    assert said.count("no column 'text'") == 20
    assert said.endswith("... and 1,214 more")


def test_a_destination_that_holds_another_job_is_left_as_it_is(run_dag, connection, emulator, tmp_path):
    given = {"model": "gpt-5-mini", "destination": f"{tmp_path}/out", "poll_interval": 0.1}
    Path(tmp_path, "leftover").mkdir()
    Path(tmp_path, "leftover/manifest.json").write_text("{}")
    with DAG("other_job", schedule=None, default_args=STRICT) as dag:
        first = OpenAIBatchOperator(task_id="first", source=["great food"], **given)
        other_rows = OpenAIBatchOperator(task_id="other_rows", source=["awful food"], **given)
        other_model = OpenAIBatchOperator(task_id="other_model", source=["great food"], **{**given, "model": "gpt-5"})
        leftover = {**given, "destination": f"{tmp_path}/leftover"}
        OpenAIBatchOperator(task_id="leftover", source=["great food"], **leftover)
        first >> [other_rows, other_model]
    uploads = emulator.ledger.calls.get("files.create", 0)
    run = run_dag(dag)
    assert run.states == {"first": "success", "other_rows": "failed", "other_model": "failed", "leftover": "failed"}
    assert {run.tries[name] for name in run.errors} == {1}
    assert f"{tmp_path}/out holds another job" in str(run.errors["other_rows"])
    assert "the source's rows changed" in str(run.errors["other_rows"])
    assert 'model was "gpt-5-mini", is "gpt-5"' in str(run.errors["other_model"])
    assert "manifest.json is there, but no job beside it" in str(run.errors["leftover"])
    assert emulator.ledger.calls["files.create"] - uploads == 1
    assert run.outputs("first") == ["great food"]


def test_what_openai_refuses_names_the_connection_and_what_to_check(run_dag, connect, emulator, tmp_path):
    connect(emulator, "wrong_key", password="not-a-key")
    connect(conn_id="no_key", password="", host=emulator.base_url)
    connect(conn_id="wrong_path", host=f"{emulator.url}/v9")
    connect(emulator, "right")
    given = {"source": ["great food"], "model": "gpt-5-mini", "poll_interval": 0.1}
    with DAG("refused", schedule=None, default_args=STRICT) as dag:
        for name in ("wrong_key", "no_key", "wrong_path"):
            OpenAIBatchOperator(task_id=name, conn_id=name, destination=f"{tmp_path}/{name}", **given)
        unknown = {**given, "model": "gpt-unknown"}
        OpenAIBatchOperator(task_id="unknown_model", conn_id="right", destination=f"{tmp_path}/model", **unknown)
    run = run_dag(dag)
    assert set(run.states.values()) == {"failed"}
    assert set(run.tries.values()) == {1}
    said = {name: str(error) for name, error in run.errors.items()}
    assert "connection 'wrong_key'" in said["wrong_key"]
    assert "Check its API key" in said["wrong_key"]
    assert "Connection 'no_key' has no API key" in said["no_key"]
    assert "connection 'wrong_path'" in said["wrong_path"]
    assert "Check its base URL" in said["wrong_path"]
    assert "gpt-unknown" in said["unknown_model"]
    assert not [text for text in said.values() if "not-a-key" in text]


def test_a_server_that_does_not_answer_is_named_and_may_be_there_at_the_next_try(run_dag, connect, tmp_path):
    connect(host="http://127.0.0.1:1/v1", extra={"max_retries": 0})
    with DAG("nobody", schedule=None, default_args={"retries": 1, "retry_delay": 0.01}) as dag:
        OpenAIBatchOperator(task_id="whole", source=["a"], model="gpt-5-mini", destination=f"{tmp_path}/out")
    run = run_dag(dag)
    assert (run.states["whole"], run.tries["whole"]) == ("failed", 2)
    said = str(run.errors["whole"])
    assert "no answer from connection 'openai_default' (http://127.0.0.1:1/v1)" in said
    assert "Check its base URL and network" in said
