"""The production stack, started once for all its tests: left out of a plain run, since it takes minutes.

PostgreSQL and Redis are started where their programs are on the machine, so that they can be killed. Otherwise those
that run here are taken, with a database and a Redis number of their own; ``OPENAI_BATCH_STACK_POSTGRES`` (an address of
a user who may create databases) and ``OPENAI_BATCH_STACK_REDIS`` name others. Without any the tests are
skipped, or with ``REQUIRE_STACK=1`` fail.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tools.airflow_stack import clean_environment
from tools.celery_stack import COMPOSE, CeleryStack, Places, new_variables
from tools.compose import load
from tools.processes import HOST, StackError, end_marked
from tools.servers import Postgres, Redis, SeaweedFS, accepts, missing

DAGS = Path(__file__).resolve().parents[3] / "dags"
MINE = Path(__file__).parent / "dags"
SPEED = ("--validating", "1", "--rows-per-second", "20", "--finalizing", "1", "--cancelling", "1")
# Short times to notice a death, and no more processes than two cores bear.
SETTINGS = {
    "API__WORKERS": 1,
    "CELERY__WORKER_CONCURRENCY": 3,
    "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": 600,
    "DAG_PROCESSOR__PARSING_PROCESSES": 1,
    "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": 0.5,
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": 5,
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": 20,
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": 5,
    "SCHEDULER__TASK_QUEUED_TIMEOUT": 40,
    "SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": 10,
    "TRIGGERER__JOB_HEARTBEAT_SEC": 2,
    "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": 10,
}


def pytest_collection_modifyitems(config, items):
    if "stack" in config.option.markexpr:
        return
    skip = pytest.mark.skip(reason="takes minutes and more packages: run it with `make stack`")
    for item in items:
        if item.get_closest_marker("stack"):
            item.add_marker(skip)


def absent(reason):
    """Skip the stack for want of something; fail where CI says by ``REQUIRE_STACK=1`` that it must run."""
    if os.environ.get("REQUIRE_STACK") == "1":
        pytest.fail(f"REQUIRE_STACK=1: {reason}", pytrace=False)
    pytest.skip(reason)


@dataclass
class Servers:
    """PostgreSQL, Redis and S3. Those of our own can be killed; ``None`` stands for one that was only borrowed."""

    places: Places
    postgres: Postgres | None
    redis: Redis | None


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("celery")
    yield home
    end_marked(home)


def in_one_line(do):
    """Do it, and tell what isn't there in a line."""
    try:
        return do()
    except StackError as error:
        told = str(error) + (f"\nThe log: {error.log}" if error.log else "")
    return pytest.fail(told, pytrace=False)


def postgres_of(home, stop):
    """A PostgreSQL of our own and the place of its database, or a database on another's."""
    given = os.environ.get("OPENAI_BATCH_STACK_POSTGRES")
    if not given and not missing(Postgres.programs):
        postgres = Postgres(home, env=clean_environment())
        stop.callback(postgres.stop)
        postgres.start()
        return postgres, f"airflow@{postgres.address}/postgres"
    parts = urlsplit(given or f"postgresql://postgres@{HOST}:5432/postgres")
    if not accepts(f"{parts.hostname}:{parts.port}"):
        told = f"PostgreSQL isn't on this machine, and nobody listens at {parts.hostname}:{parts.port}"
        pytest.fail(told, pytrace=False) if given else absent(told)
    import psycopg2

    database = f"openai_batch_{uuid.uuid4().hex[:12]}"
    try:
        connection = psycopg2.connect(parts.geturl())
    except psycopg2.OperationalError as error:
        raise StackError(f"PostgreSQL lets nobody in: {str(error).splitlines()[0]}") from None
    connection.autocommit = True

    def drop():
        connection.cursor().execute(f'DROP DATABASE "{database}" WITH (FORCE)')
        connection.close()

    connection.cursor().execute(f'CREATE DATABASE "{database}"')
    stop.callback(drop)
    return None, f"{parts.netloc}/{database}"


def redis_of(home, stop, options):
    """A Redis of our own and the place of its first database, or an empty one of another's."""
    given = os.environ.get("OPENAI_BATCH_STACK_REDIS")
    if not given and not missing(Redis.programs):
        redis = Redis(home, env=clean_environment(), options=options)
        stop.callback(redis.stop)
        redis.start()
        return redis, f"{redis.address}/0"
    parts = urlsplit(given or f"redis://{HOST}:6379")
    if not accepts(f"{parts.hostname}:{parts.port}"):
        told = f"Redis isn't on this machine, and nobody listens at {parts.hostname}:{parts.port}"
        pytest.fail(told, pytrace=False) if given else absent(told)
    import redis as client

    for number in range(15, 0, -1):
        database = client.Redis(parts.hostname, parts.port, db=number, password=parts.password)
        if not database.dbsize():
            stop.callback(database.flushdb)
            return None, f"{parts.netloc}/{number}"
    return absent("Redis has no empty database")


def s3_of(home, stop, service):
    """SeaweedFS as the compose file has it."""
    keys = {name: service.environment[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    s3 = SeaweedFS(home, env={**clean_environment(), **keys}, options=service.command[1:])
    stop.callback(s3.stop)
    s3.start()
    return s3


@pytest.fixture(scope="session")
def variables(home):
    return new_variables(home)


@pytest.fixture(scope="session")
def servers(home, variables):
    lacking = [name for name in ("celery", "redis", "psycopg2") if importlib.util.find_spec(name) is None]
    lacking += missing(SeaweedFS.programs)
    if lacking:
        absent(f"{', '.join(lacking)} isn't installed: `make stack` does that")
    services = load(COMPOSE, variables)
    with contextlib.ExitStack() as stop:
        postgres, database = in_one_line(lambda: postgres_of(home, stop))
        redis, broker = in_one_line(lambda: redis_of(home, stop, services["redis"].command[1:]))
        s3 = in_one_line(lambda: s3_of(home, stop, services["s3"]))
        yield Servers(Places(database, broker, s3.endpoint), postgres, redis)


@pytest.fixture(scope="session")
def stack(home, servers, variables):
    dags = home / "dags"
    shutil.copytree(DAGS, dags)
    shutil.copytree(MINE, dags, dirs_exist_ok=True)
    stack = CeleryStack(home, variables=variables, places=servers.places, dags=dags, settings=SETTINGS, emulator=SPEED)
    try:
        for step in (stack.prepare, stack.start, stack.wait_ready):
            in_one_line(step)
        yield stack
    finally:
        stack.stop()
