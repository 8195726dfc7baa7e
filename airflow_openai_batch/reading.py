"""``read_results``: what a finished job came to, for whoever goes on with it: a task, a notebook, a script."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, overload

from airflow_openai_batch.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    import pyarrow as pa

    from airflow_openai_batch.engine.store import Store

Where = str | os.PathLike[str] | Mapping[str, Any]


@overload
def read_results(
    where: Where, *, as_: Literal["rows"] = "rows", conn_id: str | None = None, **storage_options: Any
) -> Iterator[dict[str, Any]]: ...
@overload
def read_results(
    where: Where, *, as_: Literal["arrow"], conn_id: str | None = None, **storage_options: Any
) -> pa.Table: ...
@overload
def read_results(
    where: Where, *, as_: Literal["pandas"], conn_id: str | None = None, **storage_options: Any
) -> pd.DataFrame: ...


def read_results(
    where: Where,
    *,
    as_: Literal["rows", "arrow", "pandas"] = "rows",
    conn_id: str | None = None,
    **storage_options: Any,
) -> Any:
    """Read the results of a finished job, whatever format they are in, in input order.

    ::

        for row in read_results("s3://lake@bucket/labels/2026-11-23"):
            print(row["custom_id"], row["output"])

        read_results(manifest, as_="pandas")

    :param where: the job's folder: a local path, an fsspec URL, or inside Airflow ``s3://conn_id@bucket/prefix``, or a
        path below ``[openai_batch] results_root``; it may have been moved or copied since. Or the manifest, as a task
        returns it, or the sum of many (:func:`merge_manifests`): the results of one job after the other.
    :param as_: ``rows`` (default): an iterator of dicts that reads as it goes, with the fields of a result line.
        Parquet gives Python's types (``datetime``, ``Decimal``), JSON Lines what JSON has, CSV text. ``arrow``: a
        ``pyarrow.Table`` with the columns that Parquet has. ``pandas``: that as a frame; needs pandas. Both are in
        memory as a whole.
    :param conn_id: Airflow connection of the store. Default: the one in the URL, else that of the URL's kind, when this
        runs in Airflow; outside of it none.
    :param storage_options: for the fsspec filesystem (``key``, ``endpoint_url``, ``anon``, ...), which is used then
        rather than Airflow's connections.
    :raises JobUnfinishedError: the job isn't landed yet.
    :raises JournalError: there is no job.
    :raises ConfigurationError: ``as_`` or ``where`` is none of these.
    :raises ImportError: pandas, or Airflow for a URL with a connection, isn't installed.
    """
    from airflow_openai_batch.engine.reading import Reading, one_table

    if as_ not in {"rows", "arrow", "pandas"}:
        raise ConfigurationError(f"as_: one of rows, arrow, pandas is needed, not {as_!r}")
    manifest = where if isinstance(where, Mapping) and "destinations" not in where else None
    readings = [Reading(_store(folder, conn_id, storage_options), manifest) for folder in _folders(where)]
    if as_ == "rows":
        return chain.from_iterable(reading.rows() for reading in readings)
    if as_ == "pandas":
        _need_pandas()
    table = one_table(reading.table() for reading in readings)
    return table.to_pandas() if as_ == "pandas" else table


def _folders(where: Any) -> list[str]:
    """Return the folders of the jobs that are meant."""
    given = where
    if isinstance(where, Mapping):
        given = where["destinations"] if "destinations" in where else where.get("destination")
    folders = given if isinstance(given, list) and isinstance(where, Mapping) else [given]
    if not folders or not all(isinstance(folder, (str, os.PathLike)) and str(folder) for folder in folders):
        raise ConfigurationError(f"where: a job's folder or its manifest is needed, not {str(where)[:200]!r}")
    if not isinstance(where, Mapping) and "airflow" in sys.modules:
        from airflow_openai_batch.operators.destination import below_root

        return [below_root(os.fspath(where))]
    return [os.fspath(folder) for folder in folders]


def _need_pandas() -> None:
    try:
        import pandas as pd  # noqa: F401 - asked for before anything is read
    except ImportError as error:
        raise ImportError('as_="pandas" needs pandas, which isn\'t installed; as_="arrow" does without') from error


def _store(url: str, conn_id: str | None, storage_options: dict[str, Any]) -> Store:
    """Open a job's folder: through Airflow's object storage where a connection is meant, else through fsspec."""
    from airflow_openai_batch.engine.store import Store

    authority = url.split("://", 1)[1].split("/", 1)[0] if "://" in url else ""
    if conn_id and storage_options:
        raise ConfigurationError("conn_id, storage_options: give one of both")
    if not conn_id and "@" not in authority and ("airflow" not in sys.modules or not authority or storage_options):
        return Store.at(url, **storage_options)
    try:
        from airflow.sdk import ObjectStoragePath
    except ImportError as error:
        raise ImportError(f"{url}: a connection is a thing of Airflow, which isn't installed") from error
    path = ObjectStoragePath(url, conn_id=conn_id) if conn_id else ObjectStoragePath(url)
    return Store(path.fs, str(path.path), url)
