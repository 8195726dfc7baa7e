"""Rows of an SQL query, through the hook of whatever database the connection is for, a few hundred at a time."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.engine.sources import Rows, Source, in_blocks
from airflow_openai_batch.engine.tabular import wrong_names
from airflow_openai_batch.engine.values import Inference
from airflow_openai_batch.exceptions import ConfigurationError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

AT_ONCE = 256
"""Rows fetched together: a row may hold long texts."""


class SqlSource(Source):
    """The rows of one query, read once: another reading could find others.

    :param sql: one statement that returns rows.
    :param conn_id: an Airflow connection whose hook is a ``DbApiHook`` (common.sql).
    """

    def __init__(self, sql: str, conn_id: str) -> None:
        self._sql = sql.strip().removesuffix(";")
        self._conn_id = conn_id
        self._inference = Inference(needed=True, at_once=AT_ONCE)
        self._begun = False

    def listing(self) -> str | None:
        """Return None: what a query gives is known once it was run."""
        return None

    def schema(self) -> Any | None:
        """Return the types of the values that were read, None where those of a column have no common one."""
        return self._inference.schema()

    def fraction(self) -> float | None:
        """Return None: how many rows there will be isn't known."""
        return None

    def blocks(self) -> Iterator[Rows | Problem]:
        """Run the query and yield its rows.

        :raises ConfigurationError: the connection is for no SQL database.
        """
        if self._begun:
            return
        self._begun = True
        with closing(self._connect()) as connection, closing(stream_cursor(connection)) as cursor:
            cursor.execute(self._sql)
            # Before the first rows some drivers don't know the columns.
            rows = cursor.fetchmany(AT_ONCE)
            names = [str(column[0]) for column in cursor.description or ()]
            wrong = wrong_names(names) if names else "the statement returns no rows"
            if wrong:
                yield Problem("sql", "", wrong)
                return
            for block in in_blocks("", _records(cursor, names, rows)):
                if isinstance(block, Rows):
                    self._inference.see(block.records)
                yield block

    def _connect(self) -> Any:
        from airflow.providers.common.compat.sdk import BaseHook
        from airflow.providers.common.sql.hooks.sql import DbApiHook

        hook = BaseHook.get_hook(self._conn_id)
        if not isinstance(hook, DbApiHook):
            raise ConfigurationError(f"sql_conn_id: connection {self._conn_id!r} is for no SQL database")
        return hook.get_conn()


def _records(cursor: Any, names: list[str], rows: Sequence[Any]) -> Iterator[dict[str, Any]]:
    while rows:
        for values in rows:
            yield dict(zip(names, values.values() if isinstance(values, Mapping) else values, strict=True))
        rows = cursor.fetchmany(AT_ONCE)


def stream_cursor(connection: Any) -> Any:
    """Return a cursor that leaves the rows with the server until they are asked for.

    The drivers of PostgreSQL and MySQL fetch all of a result unless they are told not to; others don't.
    """
    driver = type(connection).__module__.partition(".")[0]
    if driver in {"psycopg", "psycopg2"}:
        return connection.cursor("openai_batch")
    if driver in {"MySQLdb", "pymysql"}:
        return connection.cursor(import_module(f"{driver}.cursors").SSCursor)
    return connection.cursor()
