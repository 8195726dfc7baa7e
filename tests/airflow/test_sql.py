"""Rows of an SQL query: streamed from the server, with their types, through whatever hook the connection has."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pyarrow as pa
import pytest
from airflow.sdk import DAG, task
from jinja2 import TemplateNotFound

from airflow_openai_batch.exceptions import ConfigurationError, Problem
from airflow_openai_batch.operators import sql as module
from airflow_openai_batch.operators.openai_batch import (
    OpenAIBatchEstimateOperator,
    OpenAIBatchOperator,
    OpenAIBatchSubmitOperator,
)
from airflow_openai_batch.operators.sql import SqlSource, stream_cursor

POSTGRES = {"conn_type": "postgres", "host": "127.0.0.1", "port": 5432, "login": "postgres", "schema": "postgres"}


@pytest.fixture
def lite(tmp_path, monkeypatch):
    """The Airflow connection ``lite`` to a SQLite database with three reviews."""
    path = tmp_path / "reviews.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE reviews (id INTEGER, text TEXT, zip TEXT, score REAL, raw BLOB)")
    rows = [(1, "great food", "01234", 1.5, b"\x00"), (2, "awful food", None, None, None), (3, "", "x", 2.0, b"")]
    connection.executemany("INSERT INTO reviews VALUES (?, ?, ?, ?, ?)", rows)
    connection.commit()
    connection.close()
    monkeypatch.setenv("AIRFLOW_CONN_LITE", json.dumps({"conn_type": "sqlite", "host": str(path)}))
    return "lite"


@pytest.fixture
def postgres(monkeypatch):
    """The Airflow connection ``postgres``; skips where no server runs."""
    import psycopg

    try:
        psycopg.connect("host=127.0.0.1 port=5432 user=postgres dbname=postgres", connect_timeout=2).close()
    except psycopg.OperationalError as error:
        pytest.skip(f"no PostgreSQL at 127.0.0.1:5432 that lets user postgres in: {error}")
    monkeypatch.setenv("AIRFLOW_CONN_POSTGRES", json.dumps(POSTGRES))
    return "postgres"


def data(source):
    return [row.data for row in source.rows()]


def test_each_row_of_the_result_is_a_row(lite):
    source = SqlSource("SELECT * FROM reviews ORDER BY id", lite)
    assert [row.where for row in SqlSource("SELECT * FROM reviews", lite).rows()] == ["row 0", "row 1", "row 2"]
    assert data(source) == [
        {"id": 1, "text": "great food", "zip": "01234", "score": 1.5, "raw": b"\x00"},
        {"id": 2, "text": "awful food", "zip": None, "score": None, "raw": None},
        {"id": 3, "text": "", "zip": "x", "score": 2.0, "raw": b""},
    ]
    assert source.schema() == pa.schema(
        [("id", pa.int64()), ("text", pa.string()), ("zip", pa.string()), ("score", pa.float64()), ("raw", pa.binary())]
    )
    assert (source.listing(), source.fraction()) == (None, None)


@pytest.mark.parametrize("ending", ["", ";", " ; \n", "\n-- the end\n"])
def test_a_semicolon_at_the_end_is_no_matter(lite, ending):
    assert data(SqlSource(f"SELECT count(*) AS n FROM reviews{ending}", lite)) == [{"n": 3}]


def test_percent_signs_and_colons_are_the_querys_own(lite, postgres):
    query = "SELECT '100%s :name %' AS a WHERE 'a%' LIKE 'a%'"
    assert data(SqlSource(query, lite)) == data(SqlSource(query, postgres)) == [{"a": "100%s :name %"}]


def test_columns_of_one_name_are_refused(lite):
    (problem,) = SqlSource("SELECT id, id, text FROM reviews", lite).rows()
    assert str(problem) == "sql: column names stand more than once: 'id'"


def test_a_statement_without_a_result_is_refused(lite):
    (problem,) = SqlSource("UPDATE reviews SET id = 0", lite).rows()
    assert str(problem) == "sql: the statement returns no rows"
    assert [row["id"] for row in data(SqlSource("SELECT id FROM reviews ORDER BY id", lite))] == [1, 2, 3]


def test_a_query_without_rows_has_none(lite, postgres):
    assert data(SqlSource("SELECT * FROM reviews WHERE 1 = 0", lite)) == []
    assert data(SqlSource("SELECT 1 AS a WHERE 1 = 0", postgres)) == []


def test_a_query_is_run_once(lite):
    source = SqlSource("SELECT * FROM reviews", lite)
    assert len(data(source)) == 3
    assert data(source) == []


def test_an_error_of_the_database_is_its_own(lite, postgres):
    with pytest.raises(sqlite3.OperationalError, match="no such table: no_such_table"):
        data(SqlSource("SELECT * FROM no_such_table", lite))
    with pytest.raises(Exception, match='relation "no_such_table" does not exist'):
        data(SqlSource("SELECT * FROM no_such_table", postgres))


def test_a_connection_that_is_for_no_database_is_refused(connection):
    with pytest.raises(ConfigurationError, match="sql_conn_id: connection 'openai_default' is for no SQL database"):
        data(SqlSource("SELECT 1", connection))


def test_values_of_postgres_keep_their_types(postgres):
    source = SqlSource(
        """
        SELECT 1::int2 AS small, 2::int8 AS large, 'a\u2028b' AS text, 1.50::numeric AS price, 1.5::float8 AS f,
            true AS ok, date '2026-01-01' AS day, time '01:02:03' AS at, timestamp '2026-01-01 00:00:00.5' AS naive,
            timestamptz '2026-07-01 00:00:00+02' AS aware, interval '1 day 1 second' AS took, '\\x00ff'::bytea AS raw,
            '00000000-0000-0000-0000-000000000001'::uuid AS id, '{"a": [1, null]}'::jsonb AS doc,
            array['a', null] AS tags, null AS nothing
        """,
        postgres,
    )
    (row,) = data(source)
    assert row == {
        "small": 1, "large": 2, "text": "a\u2028b", "price": Decimal("1.50"), "f": 1.5, "ok": True,
        "day": date(2026, 1, 1), "at": time(1, 2, 3), "naive": datetime(2026, 1, 1, 0, 0, 0, 500_000),  # noqa: DTZ001
        "aware": datetime(2026, 6, 30, 22, tzinfo=timezone.utc), "took": timedelta(days=1, seconds=1),
        "raw": b"\x00\xff", "id": UUID(int=1), "doc": {"a": [1, None]}, "tags": ["a", None], "nothing": None,
    }  # fmt: skip
    schema = {field.name: field.type for field in source.schema()}
    assert schema["aware"] == pa.timestamp("us", "UTC")
    assert schema["price"] == pa.decimal128(3, 2)
    assert (schema["day"], schema["raw"], schema["id"]) == (pa.date32(), pa.binary(), pa.string())


def test_types_are_those_of_all_rows_of_the_result(postgres):
    source = SqlSource(
        "SELECT CASE WHEN n > 900 THEN n::numeric / 8 END AS a FROM generate_series(1, 1000) n", postgres
    )
    assert len(data(source)) == 1_000
    assert pa.types.is_decimal(source.schema().field("a").type)


def test_rows_stay_with_the_server_until_they_are_asked_for(postgres):
    import psycopg

    source = SqlSource("SELECT n, repeat('x', 1000) AS text FROM generate_series(1, 100000000) n", postgres)
    rows = source.rows()
    for number in range(1, 1_000):
        assert next(rows).data["n"] == number
    with psycopg.connect("host=127.0.0.1 user=postgres dbname=postgres") as other:
        asked = other.execute(
            "SELECT query FROM pg_stat_activity WHERE query LIKE '%openai_batch%FETCH%' OR query LIKE 'FETCH%'"
        )
        assert any("FETCH FORWARD (256)" in query or "FETCH FORWARD 256" in query for (query,) in asked), asked
    rows.close()


def test_the_connection_is_closed_when_nobody_wants_more(lite, monkeypatch):
    closed = []

    class Connection:
        def __init__(self, real):
            self.real = real

        def cursor(self):
            return self.real.cursor()

        def close(self):
            closed.append(True)
            self.real.close()

    real = SqlSource._connect
    monkeypatch.setattr(SqlSource, "_connect", lambda source: Connection(real(source)))
    rows = SqlSource("SELECT * FROM reviews", lite).rows()
    next(rows)
    assert closed == []
    rows.close()
    assert closed == [True]


def test_a_large_result_takes_little_memory(postgres):
    code = """
import pyarrow
from airflow_openai_batch.operators.sql import SqlSource
def memory(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) / 1024
list(SqlSource("SELECT n, repeat('x', 2000) AS text FROM generate_series(1, 1000) n", "postgres").rows())
before = memory("VmRSS")
query = "SELECT n, repeat('x', 2000) AS text FROM generate_series(1, 100000) n"
assert sum(1 for _ in SqlSource(query, "postgres").rows()) == 100000
print(memory("VmHWM") - before)
"""
    if not Path("/proc/self/status").exists():
        pytest.skip("reads memory as Linux tells it")
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert float(done.stdout.splitlines()[-1]) < 60, "MB, for a result of 200 MB"


def driver(name):
    """A connection of a driver, which notes how a cursor was asked for."""
    asked = []
    kind = type("Connection", (), {"__module__": name, "cursor": lambda _, *args: asked.append(args)})
    return kind(), asked


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("psycopg", ("openai_batch",)),
        ("psycopg2.extensions", ("openai_batch",)),
        ("MySQLdb.connections", ("streaming",)),
        ("pymysql.connections", ("streaming",)),
        ("sqlite3", ()),
        ("snowflake.connector.connection", ()),
    ],
)
def test_drivers_that_fetch_all_at_once_are_told_not_to(monkeypatch, name, given):
    cursors = type("cursors", (), {"SSCursor": "streaming"})
    monkeypatch.setattr(module, "import_module", lambda wanted: cursors if wanted.endswith(".cursors") else None)
    connection, asked = driver(name)
    stream_cursor(connection)
    assert asked == [given]


class Late:
    """A cursor that knows its columns only once rows were fetched, and gives mappings, as some drivers do."""

    description = None

    def __init__(self, rows):
        self.rows = rows

    def execute(self, _sql):
        pass

    def fetchmany(self, count):
        self.description = [("a", None), ("b", None)]
        taken, self.rows = self.rows[:count], self.rows[count:]
        return taken

    def close(self):
        pass


@pytest.mark.parametrize("kind", [tuple, dict])
def test_columns_that_are_known_late_and_rows_that_are_mappings(monkeypatch, kind):
    rows = [{"a": n, "b": str(n)} for n in range(600)]
    given = rows if kind is dict else [tuple(row.values()) for row in rows]
    assert isinstance(given[0], Mapping) is (kind is dict)
    connection = type("Connection", (), {"cursor": lambda _: Late(given), "close": lambda _: None})()
    monkeypatch.setattr(SqlSource, "_connect", lambda _: connection)
    found = list(SqlSource("SELECT", "any").rows())
    assert [row.data for row in found] == rows
    assert [row.line for row in found] == list(range(1, 601))


def test_a_job_from_a_query_in_a_file_beside_the_dag(run_dag, connection, lite, tmp_path):
    (tmp_path / "reviews.sql").write_text("SELECT * FROM reviews WHERE id <= {{ params.last }} ORDER BY id")
    with DAG("from_sql", schedule=None, params={"last": 2}, template_searchpath=str(tmp_path)) as dag:
        OpenAIBatchOperator(
            task_id="label",
            sql="reviews.sql",
            sql_conn_id="{{ 'li' }}te",
            prompt="Positive or negative? {{ row.text }}",
            destination=f"{tmp_path}/out",
            model="gpt-5-mini",
            poll_interval=0.2,
        )
    run = run_dag(dag)
    assert run.outputs("label") == ["positive", "negative"]
    assert [line["input"] for line in run.results("label")] == [
        {"id": 1, "text": "great food", "zip": "01234", "score": 1.5, "raw": "AA=="},
        {"id": 2, "text": "awful food", "zip": None, "score": None, "raw": None},
    ]


JOB = {"prompt": "Positive or negative? {{ row.text }}", "model": "gpt-5-mini", "poll_interval": 0.2}


@pytest.fixture
def reviews(tmp_path, lite):
    """A DAG's arguments and a mapped or plain task's, for a query in a file."""
    (tmp_path / "reviews.sql").write_text("SELECT id, text FROM reviews WHERE id = {{ params.id }}")
    (tmp_path / "one.sql").write_text("SELECT id, text FROM reviews WHERE id = 1")
    dag = {"params": {"id": 2}, "template_searchpath": str(tmp_path)}
    return dag, {"sql_conn_id": lite, **JOB}


def test_the_file_of_a_mapped_task_is_read_and_rendered_too(run_dag, connection, tmp_path, reviews):
    of_dag, given = reviews
    with DAG("from_mapped_sql", schedule=None, **of_dag) as dag:
        OpenAIBatchOperator.partial(task_id="common", sql="reviews.sql", **given).expand(
            destination=[f"{tmp_path}/1", f"{tmp_path}/2"]
        )
        OpenAIBatchOperator.partial(
            task_id="each", destination=f"{tmp_path}/of-{{{{ ti.map_index }}}}", **given
        ).expand(sql=["reviews.sql", "one.sql"])
    run = run_dag(dag)
    assert [run.outputs(f"common[{n}]") for n in (0, 1)] == [["negative"], ["negative"]]
    assert [run.outputs(f"each[{n}]") for n in (0, 1)] == [["negative"], ["positive"]]


def test_a_file_name_that_came_by_xcom_is_data(run_dag, connection, tmp_path, reviews):
    of_dag, given = reviews
    with DAG("sql_by_xcom", schedule=None, **of_dag) as dag:

        @task
        def names():
            return ["one.sql"]

        partial = OpenAIBatchOperator.partial(task_id="label", destination=f"{tmp_path}/out", **given)
        partial.expand(sql=names())
    run = run_dag(dag)
    assert 'near "one"' in str(run.errors["label[0]"])


@pytest.mark.parametrize("operator", [OpenAIBatchOperator, OpenAIBatchSubmitOperator, OpenAIBatchEstimateOperator])
def test_the_rendered_field_is_the_text_of_the_file(tmp_path, reviews, operator):
    of_dag, given = reviews
    with DAG("sql_shown", schedule=None, **of_dag) as dag:
        made = operator(task_id="label", sql="reviews.sql", destination=f"{tmp_path}/out", **given)
    dag.resolve_template_files()
    assert made.sql == "SELECT id, text FROM reviews WHERE id = {{ params.id }}"
    made.render_template_fields({"params": {"id": 3}})
    assert made.sql == "SELECT id, text FROM reviews WHERE id = 3"


def test_a_file_that_is_not_there_fails_the_task_and_not_the_dag(tmp_path, reviews):
    of_dag, given = reviews
    with DAG("sql_missing", schedule=None, **of_dag) as dag:
        made = OpenAIBatchOperator(task_id="label", sql="nowhere.sql", destination=f"{tmp_path}/out", **given)
    dag.resolve_template_files()
    with pytest.raises(TemplateNotFound, match=r"nowhere\.sql"):
        made.render_template_fields({"params": {}})


def test_no_other_value_is_a_file_whatever_it_ends_with(run_dag, connection, tmp_path):
    given = {"model": "gpt-5-mini", "poll_interval": 0.2}
    with DAG("named_sql", schedule=None) as dag:
        OpenAIBatchOperator(
            task_id="prompts", source=["Explain the file report.sql"], destination=f"{tmp_path}/1", **given
        )
        OpenAIBatchOperator(
            task_id="rows",
            source=[{"prompt": "great", "file": "report.sql"}],
            metadata={"query": "report.sql"},
            destination=f"{tmp_path}/2",
            **given,
        )
    run = run_dag(dag)
    assert run.state == "success", run.errors
    assert run.results("rows")[0]["input"] == {"prompt": "great", "file": "report.sql"}
    assert run.results("prompts")[0]["input"] == {"prompt": "Explain the file report.sql"}


def test_rows_of_a_query_that_cannot_be_sent_fail_the_task_at_once(run_dag, connection, lite, tmp_path):
    with DAG("from_bad_sql", schedule=None, default_args={"retries": 3}) as dag:
        OpenAIBatchOperator(
            task_id="label",
            sql="SELECT * FROM reviews",
            sql_conn_id=lite,
            prompt="{{ row.nothing }}",
            destination=f"{tmp_path}/out",
            model="gpt-5-mini",
        )
    run = run_dag(dag)
    assert (run.states["label"], run.tries["label"]) == ("failed", 1)
    assert "3 problems in the input" in str(run.errors["label"])
    assert "row 0: prompt: no column 'nothing'; there are: id, text, zip, score, raw" in str(run.errors["label"])


def test_a_duplicate_id_in_a_result_is_found_without_asking_twice(run_dag, connection, lite, tmp_path):
    with DAG("duplicate_ids", schedule=None) as dag:
        OpenAIBatchOperator(
            task_id="label",
            sql="SELECT 7 AS custom_id, text FROM reviews",
            sql_conn_id=lite,
            prompt="{{ row.text }}",
            destination=f"{tmp_path}/out",
            model="gpt-5-mini",
        )
    run = run_dag(dag)
    assert "row 1: custom_id: '7' stands already at row 0" in str(run.errors["label"])
    assert isinstance(run.errors["label"], Exception)
    assert not isinstance(run.errors["label"], Problem)
