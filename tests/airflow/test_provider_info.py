"""What Airflow learns of the provider."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import airflow
import jsonschema
import pytest
from airflow.providers_manager import ProvidersManager

import airflow_openai_batch
from airflow_openai_batch import __version__
from airflow_openai_batch.provider_info import get_provider_info
from tests.airflow_versions import VERSION, ProvidersManagerTaskRuntime, import_string


@pytest.fixture(scope="module")
def manager():
    return ProvidersManager()


def test_it_has_the_shape_that_airflow_asks_for():
    schema = json.loads(Path(airflow.__file__).with_name("provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


def test_it_is_found_by_its_entry_point():
    (found,) = [
        point
        for point in entry_points(group="apache_airflow_provider")
        if point.value == "airflow_openai_batch.provider_info:get_provider_info"
    ]
    assert found.load()()["package-name"] == found.dist.name == "airflow-openai-batch"


def test_airflow_lists_the_provider_its_hook_decorator_and_links(manager):
    assert manager.providers["airflow-openai-batch"].version == __version__
    assert set(get_provider_info()["extra-links"]) <= set(manager.extra_links_class_names)
    runtime = ProvidersManagerTaskRuntime()
    hook = runtime.hooks["openai_batch"]
    assert (hook.hook_name, hook.connection_id_attribute_name) == ("OpenAI Batch", "conn_id")
    assert "openai_batch" in runtime.taskflow_decorators


def test_every_class_that_it_names_is_there():
    info = get_provider_info()
    names = [info["connection-types"][0]["hook-class-name"], *info["extra-links"]]
    names += [decorator["class-name"] for decorator in info["task-decorators"]]
    assert all(map(import_string, names))


@pytest.mark.skipif(VERSION < (3, 2), reason="the form has no fields of a provider's description before Airflow 3.2")
def test_the_connection_form_has_the_fields_that_the_hook_reads(manager):
    fields = {name.rpartition("__")[2] for name in manager.connection_form_widgets if "openai_batch" in name}
    azure = {"azure_endpoint", "api_version", "azure_auth", "azure_tenant_id", "azure_client_id"}
    network = {"proxy", "ca_bundle", "verify"}
    assert (
        fields == {"organization", "project", "timeout", "max_retries", "batch_paths", "submission"} | azure | network
    )
    behaviour = manager.field_behaviours["openai_batch"]
    assert behaviour["relabeling"]["password"] == "API key"


def test_it_takes_no_connection_type_of_the_official_provider():
    assert [kind["connection-type"] for kind in get_provider_info()["connection-types"]] == ["openai_batch"]


def test_every_option_is_described_in_full():
    for name, option in get_provider_info()["config"]["openai_batch"]["options"].items():
        assert set(option) == {"description", "type", "default", "example", "version_added"}, name
        assert option["description"].endswith("."), name
        assert option["type"] in {"string", "integer", "float", "boolean"}, name
        assert option["default"] is None or isinstance(option["default"], str), name


def test_every_option_that_is_read_is_listed_and_no_other():
    package = Path(airflow_openai_batch.__file__).parent
    asked = re.compile(r'setting\("(\w+)"|conf\.get\w*\(\s*"openai_batch",\s*"(\w+)"')
    read = {name for path in package.rglob("*.py") for pair in asked.findall(path.read_text()) for name in pair if name}
    assert set(get_provider_info()["config"]["openai_batch"]["options"]) == read


def test_defaults_of_options_are_those_of_the_code_and_of_the_readme(monkeypatch):
    from airflow.configuration import conf

    readme = (Path(__file__).parents[2] / "README.md").read_text()
    for name, option in get_provider_info()["config"]["openai_batch"]["options"].items():
        monkeypatch.delenv(f"AIRFLOW__OPENAI_BATCH__{name.upper()}", raising=False)
        # Before 3.2 a provider's defaults aren't Airflow's; the code has them too.
        assert conf.get("openai_batch", name, fallback=None) == option["default"] or VERSION < (3, 2)
        assert f"| `{name}` | {option['default'] or 'none'} |" in readme


def test_reading_it_imports_nothing():
    code = "import sys; import airflow_openai_batch.provider_info as p; p.get_provider_info(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"airflow", "openai", "fsspec", "pyarrow"} & {name.split(".")[0] for name in done.stdout.split()}
