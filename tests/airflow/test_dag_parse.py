"""What happens when a DAG is parsed: bad parameters are named, and good tasks can be stored and copied."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import re
from datetime import timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import DAG, task
from pydantic import BaseModel

from airflow_openai_batch.exceptions import ConfigurationError
from airflow_openai_batch.operators.base import default_deferrable
from airflow_openai_batch.operators.openai_batch import (
    OpenAIBatchCancelOperator,
    OpenAIBatchDownloadOperator,
    OpenAIBatchOperator,
    OpenAIBatchSubmitOperator,
)
from airflow_openai_batch.operators.parameters import check_job
from airflow_openai_batch.sensors.openai_batch import OpenAIBatchSensor
from tests.airflow_versions import DagSerialization


class Verdict(BaseModel):
    label: str


@pytest.mark.parametrize("operator", [OpenAIBatchOperator, OpenAIBatchSubmitOperator])
@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"max_failed_ratio": 1.5}, "max_failed_ratio: a number from 0 to 1 is needed, not 1.5"),
        ({"max_failed_ratio": "5%"}, "max_failed_ratio: a number"),
        ({"max_failed_ratio": True}, "max_failed_ratio: a number"),
        ({"max_rounds": 0}, "max_rounds: a whole number from 1 is needed, not 0"),
        ({"max_rounds": 1.5}, "max_rounds: a whole number"),
        ({"max_rounds": None}, "max_rounds: a whole number from 1 is needed, not None"),
        ({"max_batch_requests": None}, "max_batch_requests: a whole number from 1 is needed, not None"),
        ({"system": "Be brief.", "endpoint": "/v1/embeddings"}, "system: /v1/embeddings has no system prompt"),
        ({"system": "Be brief.", "endpoint": "/embeddings"}, "system: /v1/embeddings has no system prompt"),
        ({"response_format": Verdict, "endpoint": "/v1/embeddings"}, "response_format: /v1/embeddings has no struct"),
        ({"destination": ""}, "destination: a folder is needed, not ''"),
        ({"destination": None}, "destination: a folder is needed, not None"),
        ({"destination": 5}, "destination: a folder is needed, not 5"),
        ({"source": 5}, "source: a list or iterable of rows is needed, not int"),
        ({"source": {"text": "a"}}, "source: a list or iterable of rows is needed, not dict"),
        ({"poll_interval": "abc"}, "poll_interval: a positive number of seconds or a timedelta is needed, not 'abc'"),
        ({"deferrable": "no"}, "deferrable: True or False is needed, not 'no'"),
        ({"cancel_on_kill": None}, "cancel_on_kill: True or False is needed, not None"),
        ({"single_writer": "no"}, "single_writer: True or False is needed, not 'no'"),
        ({"estimate_only": "{{ params.dry }}"}, "estimate_only: True or False is needed"),
        ({"max_enqueued_tokens": -1}, "max_enqueued_tokens: a whole number"),
        ({"max_batch_requests": 0}, "max_batch_requests: a whole number"),
        ({"max_batch_bytes": "200MB"}, "max_batch_bytes: a whole number"),
        ({"submission": "upload"}, "submission: one of file, inline is needed, not 'upload'"),
        ({"result_format": "xml"}, "result_format: one of"),
        ({"on_input_change": "ignore"}, "on_input_change: one of fail, restart is needed, not 'ignore'"),
        ({"model": 5}, "model: the name of a model, or a list of names, is needed, not 5"),
        ({"model": []}, "model: a list of different models is needed"),
        ({"model": ["gpt-5-mini", "gpt-5-mini"]}, "model: a list of different models is needed"),
        ({"model": ["gpt-5-mini", "gpt-5"], "body": {"model": "gpt-5"}}, "body: it names a model, and model= several"),
        ({"timeout": 0}, "timeout: a positive number of seconds"),
        ({"timeout": timedelta(0)}, "timeout: a positive number of seconds"),
        ({"timeout": timedelta(seconds=-1)}, "timeout: a positive number of seconds"),
        ({"timeout": "a day"}, "timeout: a positive number of seconds"),
        ({"poll_interval": 0}, "poll_interval: a positive number of seconds"),
        ({"poll_interval": float("nan")}, "poll_interval: a positive number of seconds"),
        ({"output_expires_after": 60}, "output_expires_after: 3,600 to 2,592,000 seconds, not 60"),
        ({"output_expires_after": "1h"}, "output_expires_after: a whole number"),
        ({"metadata": {"job": "mine"}}, "metadata: job is used by the job itself"),
        ({"metadata": dict.fromkeys("abcdefghijklm", "x")}, "metadata: at most 12 pairs, not 13"),
        ({"metadata": {"a": "x" * 513}}, "metadata: 'a': keys have at most 64 characters, values 512"),
        ({"metadata": ["a"]}, "metadata: a mapping is needed, not list"),
        ({"prompt": "{{ row.text"}, "prompt: not a template"),
        ({"prompt": "{{ text }}"}, r"prompt: unknown name 'text'. A row template sees only `row`"),
        ({"prompt": 5}, "prompt: a string is needed, not int"),
        ({"system": "{{ ds }}"}, "system: unknown name 'ds'"),
        ({"body": {"user": "{{ run_id }}"}}, "body.user: unknown name 'run_id'"),
        ({"body": "temperature=0"}, "body: a mapping of request fields is needed, not str"),
        ({"body": {"stream": True}}, "body: stream isn't supported in batches"),
        ({"response_format": "json"}, "response_format: a pydantic model class, a JSON schema"),
        ({"response_format": Verdict(label="x")}, "response_format: a pydantic model class"),
        ({"response_format": {"type": "object", "properties": 3}}, "response_format: not a JSON schema"),
    ],
)
def test_bad_parameters_are_named(operator, parameters, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        operator(task_id="bad", **{"source": [], "destination": "/out", **parameters})
    assert isinstance(caught.value, ValueError)
    # A mapped task is made on the worker: what its instances have in common is checked at parse all the same, and what
    # they are mapped over fails them at once there.
    with pytest.raises(ConfigurationError, match=message) as caught:
        operator.partial(task_id="bad", **parameters)
    assert isinstance(caught.value, AirflowFailException)


@pytest.mark.parametrize("operator", [OpenAIBatchSensor, OpenAIBatchDownloadOperator])
def test_bad_parameters_of_mapped_steps_are_named(operator):
    with pytest.raises(ConfigurationError, match="poll_interval: a positive number"):
        operator.partial(task_id="bad", poll_interval=-1)
    with pytest.raises(ConfigurationError, match="deferrable: True or False"):
        operator(task_id="bad", job={}, deferrable="no")


def test_a_mapped_task_may_have_any_of_its_parameters_by_mapping():
    with DAG("mapped_over_all", schedule=None) as dag:
        OpenAIBatchOperator.partial(task_id="by_model", source=["a"], max_rounds=1, timeout=60).expand_kwargs(
            [{"model": "gpt-5-mini", "destination": "/1"}, {"prompt": "{{ row.prompt }}", "destination": "/2"}]
        )
        job = OpenAIBatchSubmitOperator.partial(task_id="submit", destination="/{{ ti.map_index }}").expand(
            source=[["a"]]
        )
        OpenAIBatchDownloadOperator.partial(task_id="download").expand(job=job.output)
        OpenAIBatchDownloadOperator.partial(task_id="land", destination="/{{ ti.map_index }}").expand(batch_id=["b"])
        OpenAIBatchCancelOperator.partial(task_id="cancel").expand(job=job.output)
    assert all(task.is_mapped for task in dag.tasks)


def test_what_may_still_come_is_not_missed_and_what_is_rendered_later_is_checked_then():
    with DAG("late", schedule=None):

        @task
        def given():
            return []

        OpenAIBatchOperator.partial(task_id="by_endpoint", source=given(), system="Be brief.").expand_kwargs(
            [{"endpoint": "/v1/responses", "destination": "/1"}]
        )
        OpenAIBatchOperator(
            task_id="rendered",
            source=given(),
            destination="{{ params.folder }}",
            endpoint="{{ params.endpoint }}",
            system="Be brief.",
            response_format=Verdict,
            poll_interval="{{ params.seconds }}",
            max_enqueued_tokens=None,
        )
        OpenAIBatchDownloadOperator.partial(task_id="land", destination="").expand(job=[{}])


@pytest.mark.parametrize(
    "name", ["list", "tuple", "generator", "frame", "lazy", "table", "dataset", "path", "function"]
)
def test_whatever_may_have_rows_is_a_source(name, tmp_path):
    table = pa.table({"text": ["a"]})
    source = {
        "list": ["a"],
        "tuple": ("a",),
        "generator": (text for text in ["a"]),
        "frame": pl.DataFrame({"text": ["a"]}),
        "lazy": pl.LazyFrame({"text": ["a"]}),
        "table": table,
        "dataset": ds.dataset(table),
        "path": tmp_path,
        "function": list,
    }[name]
    check_job({"source": source, "destination": tmp_path})


def test_an_unknown_parameter_of_a_mapped_task_is_named():
    with pytest.raises(TypeError, match="unexpected keyword argument 'promt'"):
        OpenAIBatchOperator.partial(task_id="bad", promt="{{ row.text }}")


@pytest.mark.parametrize("operator", [OpenAIBatchSensor, OpenAIBatchDownloadOperator, OpenAIBatchCancelOperator])
def test_a_step_needs_either_a_job_or_a_batch(operator):
    for given in ({}, {"job": {}, "batch_id": "batch_1"}):
        with pytest.raises(ConfigurationError, match=r"give either job .* or batch_id"):
            operator(task_id="bad", **given)


def test_a_bare_batch_needs_a_destination_to_be_landed():
    with pytest.raises(ConfigurationError, match="destination: with batch_id"):
        OpenAIBatchDownloadOperator(task_id="bad", batch_id="batch_1")
    with pytest.raises(ConfigurationError, match="max_failed_ratio"):
        OpenAIBatchDownloadOperator(task_id="bad", batch_id="batch_1", destination="/out", max_failed_ratio=2)


def test_a_destination_is_required():
    with pytest.raises(TypeError, match="destination"):
        OpenAIBatchOperator(task_id="bad", source=[])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "give the rows: source=, or sql= and sql_conn_id="),
        ({"source": [], "sql": "select 1", "sql_conn_id": "db"}, "source, sql: both are given"),
        ({"sql": "select 1"}, "sql_conn_id: with sql, say which connection it is for"),
        ({"source": [], "sql_conn_id": "db"}, "sql: with sql_conn_id, say what to ask the database"),
        ({"sql": " ", "sql_conn_id": "db"}, "sql: a string is needed, not ' '"),
        ({"sql": ["select 1"], "sql_conn_id": "db"}, "sql: a string is needed"),
    ],
)
def test_rows_come_from_a_source_or_a_query(given, message):
    with pytest.raises(ConfigurationError, match=message):
        OpenAIBatchOperator(task_id="bad", destination="/out", **given)


@pytest.mark.parametrize("given", [{"source": []}, {"sql": "select 1", "sql_conn_id": "db"}])
def test_the_function_of_the_decorator_alone_gives_the_rows(given):
    with pytest.raises(ConfigurationError, match=f"the function gives the rows; leave out {', '.join(given)}"):

        @task.openai_batch(destination="/out", **given)
        def label():
            return []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"image_columns": []}, "image_columns: a column's name or a list of names is needed"),
        ({"image_columns": ["a", "a"]}, "image_columns: a column's name"),
        ({"image_columns": [1]}, "image_columns: a column's name"),
        ({"image_columns": 5}, "image_columns: a column's name"),
        ({"image_root": "/images"}, "image_root: without image_columns there are no images"),
        ({"image_detail": "low"}, "image_detail: without image_columns"),
        ({"image_columns": "a", "image_detail": 1}, "image_detail: a string is needed"),
        ({"image_columns": "a", "endpoint": "/v1/embeddings"}, "image_columns: /v1/embeddings takes no images"),
        ({"image_columns": "a", "endpoint": "/v1/new"}, "image_columns: /v1/new takes no images"),
    ],
)
def test_bad_image_parameters_are_named(given, message):
    with pytest.raises(ConfigurationError, match=message):
        OpenAIBatchOperator(task_id="bad", source=[], destination="/out", **given)


@pytest.mark.parametrize("operator", [OpenAIBatchOperator, OpenAIBatchSubmitOperator])
def test_metadata_and_the_folder_of_images_may_be_xcoms_and_templates(operator):
    with DAG("by_template", schedule=None):

        @task
        def given():
            return {}

        whole = operator(
            task_id="xcom", source=[], destination="/out", metadata=given(), image_columns="a", image_root=given()
        )
        operator.partial(task_id="mapped", source=[], metadata=given(), image_columns="a", image_root=given()).expand(
            destination=["/out"]
        )
        text = operator(task_id="text", source=[], destination="/out", metadata="{{ params.pairs }}")
        long = operator(task_id="long", source=[], destination="/out", metadata={"a": "{{ 1 }}" + " " * 512})
    assert whole.upstream_task_ids
    assert text.metadata == "{{ params.pairs }}"
    assert long.metadata["a"].startswith("{{")


@pytest.mark.parametrize("root", [Path("/images"), 5, ""])
def test_a_folder_of_images_is_text(root):
    with pytest.raises(ConfigurationError, match="image_root: a string is needed"):
        OpenAIBatchOperator(task_id="bad", source=[], destination="/out", image_columns="a", image_root=root)


def test_an_endpoint_that_is_a_template_is_checked_once_it_is_rendered():
    made = OpenAIBatchOperator(
        task_id="good", source=[], destination="/out", image_columns="a", endpoint="{{ params.endpoint }}"
    )
    assert made.image_columns == "a"


def test_the_decorator_names_them_too_mapped_or_not(tmp_path):
    with pytest.raises(ConfigurationError, match="max_rounds"):

        @task.openai_batch(destination=str(tmp_path), max_rounds=0)
        def label():
            return []


def test_the_decorator_names_what_was_changed_later(tmp_path):
    @task.openai_batch(destination=str(tmp_path))
    def label():
        return []

    with DAG("bad_decorated", schedule=None), pytest.raises(ConfigurationError, match="max_rounds"):
        label.override(max_rounds=0)()


def all_kinds():
    """Return a DAG with every kind of task."""
    with DAG("every_kind", schedule=None, params={"day": "x"}) as dag:

        @task
        def rows():
            return []

        @task.openai_batch(destination="/decorated", response_format=Verdict)
        def decorated(given, **context):
            return given

        given = rows()
        OpenAIBatchOperator(
            task_id="whole",
            source=given,
            destination="s3://lake@bucket/{{ params.day }}",
            response_format=Verdict,
            timeout=timedelta(days=2),
            body={"temperature": 0, "user": "{{ row.id }}"},
            metadata={"day": "{{ ds }}"},
        )
        submit = OpenAIBatchSubmitOperator(task_id="submit", source="/rows/*.jsonl", destination="/steps")
        OpenAIBatchSensor(task_id="wait", job=submit.output)
        OpenAIBatchDownloadOperator(task_id="download", job=submit.output)
        OpenAIBatchCancelOperator(task_id="cancel", batch_id="{{ params.day }}")
        OpenAIBatchOperator.partial(
            task_id="mapped", destination="/m/{{ ti.map_index }}", response_format=Verdict, timeout=timedelta(days=2)
        ).expand(source=[["a"], ["b"]])
        decorated(given)
        decorated.override(task_id="mapped_too").expand(given=[["a"]])
    return dag


def test_dags_with_every_kind_of_task_are_stored_and_read_back():
    stored = json.loads(DagSerialization.to_json(all_kinds()))
    DagSerialization.validate_schema(stored)
    again = DagSerialization.from_dict(stored)
    assert set(again.task_dict) == set(all_kinds().task_dict)
    whole = again.get_task("whole")
    assert set(whole.template_fields) >= {"source", "destination", "model", "metadata"}
    assert [link.name for link in whole.operator_extra_links] == ["OpenAI batch", "Results"]
    assert again.get_task("decorated").task_type == "OpenAIBatchDecoratedOperator"


def test_a_dag_with_no_change_is_stored_the_same():
    assert DagSerialization.serialize_dag(all_kinds()) == DagSerialization.serialize_dag(all_kinds())


def test_tasks_can_be_copied():
    for name, operator in all_kinds().task_dict.items():
        assert copy.deepcopy(operator).task_id == name


def test_an_operator_on_its_own_is_pickled_whole():
    operator = OpenAIBatchOperator(
        task_id="whole", source=["a"], destination="/out", response_format=Verdict, model="gpt-5-mini", timeout=60
    )
    again = pickle.loads(pickle.dumps(operator))
    assert (again.source, again.model, again.timeout, again.response_format) == (["a"], "gpt-5-mini", 60.0, Verdict)


def test_waiting_is_deferred_unless_the_configuration_or_the_task_says_no(monkeypatch):
    def made(**given):
        return OpenAIBatchOperator(task_id="whole", source=[], destination="/out", **given).deferrable

    assert default_deferrable() is True
    assert made() is True
    assert made(deferrable=False) is False
    monkeypatch.setenv("AIRFLOW__OPENAI_BATCH__DEFERRABLE", "False")
    assert made() is False
    assert made(deferrable=True) is True


def test_every_parameter_of_the_operator_is_documented():
    named = set(re.findall(r":param (\w+):", OpenAIBatchOperator.__doc__))
    parameters = set(inspect.signature(OpenAIBatchOperator.__init__).parameters) - {"self", "kwargs"}
    assert named == parameters | {"conn_id", "poll_interval", "deferrable"}
