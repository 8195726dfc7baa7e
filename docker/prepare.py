"""What the stack needs before it starts: the database's tables, a login, a bucket.

Says in one line what can't be reached. Run again it changes nothing.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

PATIENCE = 10
"""Seconds that one of the others may take to answer."""


def without_password(url: str) -> str:
    """Return an address as it may be shown."""
    return re.sub(r"://([^:/@]*):[^@]*@", r"://\1:***@", url)


def reach_database() -> None:
    """Connect to Airflow's database."""
    from airflow.configuration import conf
    from sqlalchemy import create_engine

    url = conf.get_mandatory_value("database", "sql_alchemy_conn")
    patience = {"connect_timeout": PATIENCE} if url.startswith("postgresql") else {}
    try:
        create_engine(url, connect_args=patience).connect().close()
    except Exception as error:
        raise SystemExit(f"The database can't be reached at {without_password(url)}: {first_line(error)}") from None


def reach_broker() -> None:
    """Connect to Celery's broker."""
    from airflow.configuration import conf
    from kombu.connection import Connection

    url = conf.get_mandatory_value("celery", "broker_url")
    try:
        with Connection(url, connect_timeout=PATIENCE) as broker:
            broker.ensure_connection(max_retries=1, interval_start=0.1)
    except Exception as error:
        raise SystemExit(f"The broker can't be reached at {without_password(url)}: {first_line(error)}") from None


def reach_store(url: str) -> None:
    """Make the bucket of the results, if it isn't there."""
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook
    from botocore.config import Config

    parts = urlsplit(url)
    if parts.scheme != "s3":
        return
    conn_id, _, bucket = parts.netloc.rpartition("@")
    hook = S3Hook(conn_id or None, config=Config(connect_timeout=PATIENCE, retries={"total_max_attempts": 2}))
    try:
        if not hook.check_for_bucket(bucket):
            hook.create_bucket(bucket)
    except Exception as error:
        raise SystemExit(f"The store can't be reached at {url}: {first_line(error)}") from None


def first_line(error: Exception) -> str:
    """Return the first line of an error's text."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def write_password(password: str) -> None:
    """Write the file from which Airflow's simple logins are read."""
    from airflow.configuration import conf

    file = Path(conf.get_mandatory_value("core", "simple_auth_manager_passwords_file"))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"admin": password}) + "\n")
    file.chmod(0o600)


def main() -> None:
    """Prepare all of it."""
    reach_database()
    reach_broker()
    reach_store(os.environ["OPENAI_BATCH_RESULTS"])
    write_password(os.environ["AIRFLOW_ADMIN_PASSWORD"])
    if subprocess.run(["airflow", "db", "migrate"], check=False).returncode:
        raise SystemExit("Airflow's database could not be migrated; see above.")


if __name__ == "__main__":
    main()
