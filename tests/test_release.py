"""What is released: the wheel and the sdist, built as `make dist` builds them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import airflow
import jsonschema
import pytest

from airflow_openai_batch import __version__
from airflow_openai_batch.provider_info import get_provider_info

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "airflow_openai_batch"
INFO = f"airflow_openai_batch-{__version__}.dist-info"

pytestmark = pytest.mark.skipif(not PACKAGE.is_dir(), reason="the package's source isn't here")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with both."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built):
    with zipfile.ZipFile(built / f"airflow_openai_batch-{__version__}-py3-none-any.whl") as wheel:
        yield wheel


@pytest.fixture(scope="module")
def sdist(built):
    """The names in the sdist, without its folder."""
    with tarfile.open(built / f"airflow_openai_batch-{__version__}.tar.gz") as sdist:
        return {name.partition("/")[2] for name in sdist.getnames()}


@pytest.fixture(scope="module")
def metadata(wheel):
    return Parser().parsestr(wheel.read(f"{INFO}/METADATA").decode())


def source_files():
    """The files of the package, as they are named in an archive."""
    files = (path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in files}


def test_the_wheel_has_the_package_with_its_types_and_its_licence_and_nothing_else(wheel):
    packaged = {name for name in wheel.namelist() if not name.startswith(f"{INFO}/")}
    assert packaged == source_files()
    assert "airflow_openai_batch/py.typed" in packaged
    own = {name.partition("/")[2] for name in wheel.namelist()} - {name.partition("/")[2] for name in packaged}
    assert own == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}


def test_the_sdist_has_what_is_needed_to_build_and_to_test_it(sdist):
    assert source_files() <= sdist
    assert {"pyproject.toml", "constraints.txt", "Makefile", "README.md", "CHANGELOG.md", "LICENSE"} <= sdist
    assert {"tests/conftest.py", "tools/matrix.py", "dags/quickstart.py", "docker/compose.yaml"} <= sdist
    assert not {name for name in sdist if "__pycache__" in name or name.startswith((".venv", ".demo", ".matrix"))}


def test_the_version_is_the_same_wherever_it_stands(metadata):
    assert metadata["Version"] == __version__
    newest = re.search(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest[1] == __version__
    options = get_provider_info()["config"]["openai_batch"]["options"].values()
    assert {option["version_added"] for option in options} <= {__version__, "0.1.0"}
    assert "version =" not in (ROOT / "pyproject.toml").read_text().partition("[build-system]")[2].partition("[tool")[0]


def test_airflow_finds_the_provider_by_the_wheels_entry_point(wheel, metadata):
    points = wheel.read(f"{INFO}/entry_points.txt").decode().split()
    assert points[:2] == ["[apache_airflow_provider]", "provider_info"]
    assert points[-1] == "airflow_openai_batch.provider_info:get_provider_info"
    assert get_provider_info()["package-name"] == metadata["Name"] == "airflow-openai-batch"


@pytest.mark.parametrize("schema", ["provider_info.schema.json", "provider.yaml.schema.json"])
def test_the_description_fits_airflows_schema(schema):
    known = json.loads(Path(airflow.__file__).with_name(schema).read_text())
    if schema == "provider.yaml.schema.json":
        # What only providers in Airflow's own repository have: their state, release manager and list of versions.
        known = {**known, "required": ["name", "package-name", "description"]}
    jsonschema.validate(get_provider_info(), known)


def test_the_metadata_says_what_it_is_for(metadata):
    assert set(metadata["Requires-Python"].split(",")) == {">=3.10", "<3.14"}
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "Framework :: Apache Airflow :: Provider" in metadata.get_all("Classifier")
    assert {"azure", "emulator", "examples", "tokens"} <= set(metadata.get_all("Provides-Extra"))
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_the_readme_names_the_airflows_and_pythons_that_the_metadata_allows(metadata):
    readme = (ROOT / "README.md").read_text()
    (least,) = re.findall(r"apache-airflow>=([\d.]+)", " ".join(metadata.get_all("Requires-Dist")))
    assert f"Into an existing Airflow ({least} or later)" in readme


def test_twine_finds_nothing_to_say(built):
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *map(str, built.iterdir())],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 2
