"""The public surface, and what importing it costs."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys

import pytest

import airflow_openai_batch

HEAVY = ("airflow", "openai", "pyarrow", "pandas", "s3fs", "boto3", "fsspec", "fastapi", "jinja2", "pydantic", "orjson")


def loaded_by(statement):
    """Top-level packages in ``sys.modules`` after a statement in a fresh interpreter."""
    code = f"import sys, json\n{statement}\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_loads_nothing():
    assert loaded_by("import airflow_openai_batch").isdisjoint(HEAVY)


def test_the_providers_description_loads_nothing():
    statement = (
        "from airflow_openai_batch.provider_info import get_provider_info\n"
        "assert get_provider_info()['package-name'] == 'airflow-openai-batch'"
    )
    assert loaded_by(statement).isdisjoint(HEAVY)


def test_importing_the_engine_loads_neither_airflow_nor_the_sdk():
    statement = (
        "import importlib, pkgutil, airflow_openai_batch.engine as engine\n"
        "names = [module.name for module in pkgutil.iter_modules(engine.__path__)]\n"
        "assert 'runner' in names\n"
        "for name in names: importlib.import_module(f'airflow_openai_batch.engine.{name}')"
    )
    loaded = loaded_by(statement)
    assert "jsonlines" in loaded
    assert loaded.isdisjoint({"airflow", "openai", "pyarrow", "pandas", "s3fs"})


def test_importing_the_operators_loads_no_sdk_and_no_storage():
    statement = "import airflow_openai_batch.operators.openai_batch"
    loaded = loaded_by(statement)
    assert "airflow" in loaded
    assert loaded.isdisjoint({"openai", "pyarrow", "pandas", "s3fs", "boto3", "botocore", "aiobotocore", "openlineage"})


def test_importing_what_lists_partitions_and_merges_manifests_loads_neither_airflow_nor_a_store():
    loaded = loaded_by("from airflow_openai_batch import list_partitions, merge_manifests")
    assert loaded.isdisjoint({"airflow", "openai", "pyarrow", "pandas", "s3fs", "fsspec"})


def test_importing_the_client_loads_no_airflow():
    loaded = loaded_by("import airflow_openai_batch.client")
    assert "openai" in loaded
    assert "airflow" not in loaded


def test_the_public_names_are_these():
    assert airflow_openai_batch.__all__ == sorted(airflow_openai_batch.__all__)
    assert set(airflow_openai_batch.__all__) == set(dir(airflow_openai_batch)) == {
        "OpenAIBatchCancelOperator",
        "OpenAIBatchDownloadOperator",
        "OpenAIBatchEstimateOperator",
        "OpenAIBatchHook",
        "OpenAIBatchOperator",
        "OpenAIBatchSensor",
        "OpenAIBatchSubmitOperator",
        "OpenAIBatchTrigger",
        "__version__",
        "list_partitions",
        "merge_manifests",
        "read_results",
    }  # fmt: skip


@pytest.mark.parametrize("name", airflow_openai_batch.__all__)
def test_a_public_name_can_be_had_and_is_documented(name):
    found = getattr(airflow_openai_batch, name)
    if callable(found):
        assert found.__name__ == name
        assert found.__module__.startswith("airflow_openai_batch.")
        assert inspect.getdoc(found)


def test_another_name_is_no_attribute():
    with pytest.raises(AttributeError, match="module 'airflow_openai_batch' has no attribute 'Nothing'"):
        _ = airflow_openai_batch.Nothing


PARAMETERS = {
    "source": None,
    "destination": inspect.Parameter.empty,
    "prompt": None,
    "system": None,
    "model": None,
    "endpoint": "/v1/chat/completions",
    "body": None,
    "response_format": None,
    "completion_window": "24h",
    "metadata": None,
    "result_format": "jsonl",
    "max_rounds": 2,
    "max_failed_ratio": 0.05,
    "max_enqueued_tokens": None,
    "timeout": None,
    "cancel_on_kill": True,
    "delete_files": True,
    "on_input_change": "fail",
}


def test_the_operators_parameters_and_defaults_are_those_of_the_design():
    from airflow_openai_batch.operators.base import JobOperator

    own = inspect.signature(airflow_openai_batch.OpenAIBatchOperator.__init__).parameters
    assert {name: own[name].default for name in PARAMETERS} == PARAMETERS
    assert all(own[name].kind is inspect.Parameter.KEYWORD_ONLY for name in PARAMETERS)
    base = inspect.signature(JobOperator.__init__).parameters
    assert base["conn_id"].default == "openai_default"
    assert {"poll_interval", "deferrable"} <= set(base)


def test_every_parameter_is_documented():
    for name in ("OpenAIBatchOperator", "OpenAIBatchHook"):
        cls = getattr(airflow_openai_batch, name)
        for parameter in inspect.signature(cls.__init__).parameters:
            if parameter not in {"self", "kwargs"}:
                assert f":param {parameter}:" in inspect.getdoc(cls), (name, parameter)


def test_types_are_shipped():
    from importlib.resources import files

    assert files("airflow_openai_batch").joinpath("py.typed").is_file()
