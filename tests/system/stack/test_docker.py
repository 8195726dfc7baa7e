"""The files under docker/ say what they should, as far as that can be told without docker."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from tools.airflow_stack import clean_environment
from tools.celery_stack import AIRFLOW, COMPOSE, DOCKER, new_variables
from tools.compose import dotenv, interpolate, load
from tools.processes import StackError, free_ports

ROOT = DOCKER.parent
DOCKERFILE = DOCKER / "Dockerfile"
SECRETS = {
    "POSTGRES_PASSWORD",
    "AIRFLOW_FERNET_KEY",
    "AIRFLOW_SECRET_KEY",
    "AIRFLOW_JWT_SECRET",
    "AIRFLOW_ADMIN_PASSWORD",
    "S3_ACCESS_KEY",
    "S3_SECRET_KEY",
}


@pytest.fixture
def variables(tmp_path):
    return new_variables(tmp_path)


def connection(services, name, service="worker"):
    return json.loads(services[service].environment[f"AIRFLOW_CONN_{name}"])


def test_without_a_key_the_emulator_answers(variables):
    services = load(COMPOSE, variables)
    assert services.keys() == {"postgres", "redis", "s3", "emulator", "init", *AIRFLOW}
    assert connection(services, "OPENAI_DEFAULT") == {
        "conn_type": "openai_batch",
        "password": "sk-emulated",
        "host": "http://emulator:8000/v1",
    }


@pytest.mark.parametrize("base_url", ["", "https://gateway.example/v1"])
def test_with_a_key_the_emulator_is_off_and_openai_or_a_gateway_is_asked(variables, base_url):
    services = load(COMPOSE, variables | {"OPENAI_API_KEY": "sk-real", "OPENAI_BASE_URL": base_url})
    assert "emulator" not in services
    assert connection(services, "OPENAI_DEFAULT") == {
        "conn_type": "openai_batch",
        "password": "sk-real",
        "host": base_url,
    }


def test_another_s3_may_take_the_place_of_the_stacks_own(variables):
    services = load(COMPOSE, variables | {"S3_ENDPOINT": "", "COMPOSE_PROFILES": "emulator"})
    assert "s3" not in services
    assert "endpoint_url" not in connection(services, "STORE")["extra"]


def test_there_are_two_workers_and_two_triggerers_and_each_service_has_a_health_check(variables):
    services = load(COMPOSE, variables)
    assert {name for name, service in services.items() if service.replicas == 2} == {"worker", "triggerer"}
    assert {name for name, service in services.items() if not service.health} == {"init"}


def test_no_secret_is_in_the_files_and_each_start_asks_for_all(variables):
    example = dotenv(DOCKER / ".env.example")
    assert {name for name in SECRETS if example[name]} == set()
    assert {name for name in SECRETS if not variables[name]} == set()
    for name in SECRETS - {"S3_SECRET_KEY", "S3_ACCESS_KEY"}:
        with pytest.raises(StackError, match=f"{name} isn't set"):
            load(COMPOSE, variables | {name: ""})


def test_a_new_env_is_for_its_owner_alone_and_an_old_one_is_kept(tmp_path, variables):
    file = tmp_path / ".env"
    assert file.stat().st_mode & 0o077 == 0
    again = subprocess.run(["sh", DOCKER / "new-env", file], check=False, capture_output=True, text=True)
    assert (again.returncode, again.stderr) == (1, f"{file} is there already\n")
    assert dotenv(file) == variables


def test_every_setting_is_one_that_airflow_knows(variables):
    import airflow
    from airflow.configuration import conf

    known = {(section, name) for section, names in conf.configuration_description.items() for name in names["options"]}
    # Those of the Celery provider and of this one, of which the first may not be installed.
    ours = {"celery", "celery_broker_transport_options", "openai_batch"}
    for service in load(COMPOSE, variables).values():
        for name in service.environment:
            section, _, option = name.removeprefix("AIRFLOW__").lower().partition("__")
            if name.startswith("AIRFLOW__") and section not in ours:
                assert (section, option) in known, (name, airflow.__version__)


def test_the_dockerfile_runs_as_another_than_root_and_what_it_copies_is_there():
    steps = [line for line in DOCKERFILE.read_text().splitlines() if line and not line.startswith("#")]
    assert [line for line in steps if line.startswith("USER")][-1] == steps[-1] == "USER airflow"
    for line in steps:
        if line.startswith("COPY") and "--from" not in line:
            *sources, _ = (word for word in shlex.split(line)[1:] if not word.startswith("--"))
            assert [name for name in sources if not (ROOT / name).exists()] == []
            allowed = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
            assert [name for name in sources if f"!{name}" not in allowed] == []


def test_the_versions_of_airflow_and_python_are_those_of_the_project():
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", DOCKERFILE.read_text(), re.MULTILINE))
    assert f"apache-airflow=={arguments['AIRFLOW_VERSION']}" in (ROOT / "constraints.txt").read_text().splitlines()
    values = yaml.safe_load((DOCKER / "helm-values.yaml").read_text())
    assert str(values["airflowVersion"]) == arguments["AIRFLOW_VERSION"]


def test_the_helm_values_have_the_settings_of_the_compose_file():
    values = yaml.safe_load((DOCKER / "helm-values.yaml").read_text())
    settings = dotenv(DOCKER / "airflow.env")
    for section, options in values["config"].items():
        for name, value in options.items():
            assert settings[f"AIRFLOW__{section}__{name}".upper()] == str(value)


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("a $NAME ${NAME} $$NAME $${NAME}", "a value value $NAME ${NAME}"),
        ("${NAME:-x} ${EMPTY:-x} ${EMPTY-x} ${NONE-x} ${NONE:-}", "value x  x "),
        ("${NAME:+x} ${EMPTY:+x} ${EMPTY+x} ${NONE+x}", "x  x "),
        ('{"a": {"b": "${NONE:-${NAME}}"}}', '{"a": {"b": "value"}}'),
        ("${NAME:?needed} ${EMPTY?needed}", "value "),
    ],
)
def test_variables_are_replaced_as_compose_does(text, made):
    assert interpolate(text, {"NAME": "value", "EMPTY": ""}) == made


@pytest.mark.parametrize("text", ["${", "${NAME", "$ ", "${NAME!x}", "${1}"])
def test_what_compose_would_refuse_is_refused(text):
    with pytest.raises(StackError, match="Malformed"):
        interpolate(text, {"NAME": "value"})


def test_a_variable_that_must_be_set_is_named():
    with pytest.raises(StackError, match=r"NAME isn't set\. Set it"):
        interpolate("${NAME:?Set it}", {})


@pytest.mark.stack
def test_the_compose_file_fits_the_specification():
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.stack
@pytest.mark.parametrize("more", [{}, {"OPENAI_API_KEY": "sk-real"}])
def test_compose_itself_reads_the_file_likewise(tmp_path, variables, more):
    client = ["docker", "compose"] if shutil.which("docker") else ["false"]
    if subprocess.run([*client, "version"], check=False, capture_output=True).returncode:
        pytest.skip("`docker compose` isn't on this machine")
    file = tmp_path / "chosen"
    file.write_text("".join(f"{name}={value}\n" for name, value in (variables | more).items()))
    command = [*client, "--file", COMPOSE, "--env-file", file, "config", "--format", "json"]
    told = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["services"]
    ours = load(COMPOSE, variables | more)
    assert told.keys() == ours.keys()
    assert told["worker"]["environment"] == ours["worker"].environment


@pytest.mark.stack
def test_the_dockerfile_has_no_known_faults():
    if shutil.which("hadolint") is None:
        pytest.skip("hadolint isn't on this machine")
    # DL3066: the official image's own account; its number is no part of its contract.
    done = subprocess.run(["hadolint", "--ignore", "DL3066", DOCKERFILE], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.stack
def test_the_wheel_is_built_of_what_the_dockerfile_copies(tmp_path):
    context = tmp_path / "context"
    context.mkdir()
    first = DOCKERFILE.read_text().split("\nFROM ")[1]
    for line in first.splitlines():
        if line.startswith("COPY"):
            *sources, _ = shlex.split(line)[1:]
            for name in sources:
                if (ROOT / name).is_dir():
                    shutil.copytree(ROOT / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / name, context / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--wheel-dir"]
    subprocess.run([*command, tmp_path, context], check=True)
    (wheel,) = tmp_path.glob("airflow_openai_batch-*.whl")
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
    assert "airflow_openai_batch/engine/store.py" in names
    assert "airflow_openai_batch/py.typed" in names
    assert {Path(name).parts[0] for name in names if ".dist-info/" not in name} == {"airflow_openai_batch"}


@pytest.mark.stack
@pytest.mark.parametrize("gone", ["database", "broker", "store"])
def test_what_cannot_be_reached_is_told_in_one_line(tmp_path, gone):
    from tools.servers import Redis, missing

    if missing(Redis.programs):
        pytest.skip("redis-server isn't on this machine")
    nobody = f"127.0.0.1:{free_ports(1)[0]}"
    redis = Redis(tmp_path, env=clean_environment())
    try:
        redis.start()
        database = f"postgresql+psycopg2://airflow:secret@{nobody}/airflow"
        env = {
            **clean_environment(),
            "AIRFLOW_HOME": str(tmp_path),
            # SQLite stands for a database that is there.
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database if gone == "database" else f"sqlite:///{tmp_path}/a.db",
            "AIRFLOW__CELERY__BROKER_URL": f"redis://{nobody if gone == 'broker' else redis.address}/0",
            "AIRFLOW_CONN_STORE": json.dumps(
                {"conn_type": "aws", "login": "a", "password": "secret", "extra": {"endpoint_url": f"http://{nobody}"}}
            ),
            "OPENAI_BATCH_RESULTS": "s3://store@openai-batch/results",
            "AIRFLOW_ADMIN_PASSWORD": "x",
        }
        done = subprocess.run(
            [sys.executable, DOCKER / "prepare.py"], check=False, capture_output=True, text=True, env=env
        )
    finally:
        redis.stop()
    told = done.stderr.splitlines()[-1]
    assert done.returncode == 1
    assert told.startswith(f"The {gone} can't be reached at ")
    assert "Traceback" not in done.stdout + done.stderr
    assert "secret" not in done.stdout + done.stderr
