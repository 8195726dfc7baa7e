"""OpenLineage: what a job reads and writes, and its counts. Imported only by those who have the OpenLineage provider.

Datasets are named as OpenLineage's naming conventions say: ``s3://bucket`` and the key, ``file`` and the absolute path.
A glob, and several files, are the folders that they are in. Rows that come from a list, a query or an XCom are no
dataset.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.openlineage.facet import (
    InputDataset,
    OutputDataset,
    OutputStatisticsOutputDatasetFacet,
    RunFacet,
)
from airflow.providers.openlineage.extractors import OperatorLineage
from attrs import define

from airflow_openai_batch.operators.destination import expanded

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow_openai_batch.operators.base import JobOperator

RUN_FACET = "openai_batch"

MAX_INPUTS = 100
"""Folders named as inputs; lineage is no inventory."""

_SCHEMES = {"s3a": "s3", "gcs": "gs"}
_LITERAL = re.compile(r"\[(.)\]")
"""A glob of one character is that character; it is how partitions spell ``=``."""


@define
class OpenAIBatchRunFacet(RunFacet):  # type: ignore[misc,unused-ignore] # Any where the library isn't installed
    """What came of a job.

    :param job: its id.
    :param endpoint: of the requests.
    :param models: names, as they were asked.
    :param batches: how many batches it took.
    :param rounds: how many rounds.
    :param rows: counts by status, and ``total``.
    :param usage: tokens, as in the manifest.
    """

    job: str
    endpoint: str
    models: list[str]
    batches: int
    rounds: int
    rows: dict[str, int]
    usage: dict[str, int]


def lineage_of(operator: JobOperator) -> Any:
    """Return an ``OperatorLineage`` of all that is known by now; with counts once the job is landed."""
    manifest = operator.landed
    return OperatorLineage(
        inputs=[InputDataset(*dataset_name(url)) for url in _inputs(operator)],
        outputs=_outputs(operator, manifest),
        run_facets={RUN_FACET: _facet(manifest)} if manifest else {},
    )


def _inputs(operator: JobOperator) -> list[str]:
    source = getattr(operator, "source", None)
    if isinstance(source, str) or callable(getattr(source, "as_posix", None)):
        return [str(source)]
    job = operator.opened
    record = job.known() if job is not None else None
    return folders(span.path for span in record.plan.sources) if record is not None else []


def _outputs(operator: JobOperator, manifest: Mapping[str, Any] | None) -> list[Any]:
    lands = operator.stop == "landed" and not getattr(operator, "estimate_only", False)
    if not lands or not operator.results_location:
        return []
    if manifest is None:
        return [OutputDataset(*dataset_name(f"{operator.results_location.rstrip('/')}/results"))]
    counts = OutputStatisticsOutputDatasetFacet(rowCount=manifest["rows"]["total"], fileCount=len(manifest["files"]))
    return [OutputDataset(*dataset_name(manifest["results"]), outputFacets={"outputStatistics": counts})]


def _facet(manifest: Mapping[str, Any]) -> OpenAIBatchRunFacet:
    return OpenAIBatchRunFacet(
        job=manifest["job"],
        endpoint=manifest["endpoint"],
        models=list(manifest["models"]),
        batches=len(manifest["batches"]),
        rounds=manifest["rounds"],
        rows=dict(manifest["rows"]),
        usage=dict(manifest["usage"]),
    )


def folders(paths: Iterable[str]) -> list[str]:
    """Return a single file as it is, several as the folders that they are in, :data:`MAX_INPUTS` at most."""
    files = [path for path in dict.fromkeys(paths) if path]
    if len(files) <= 1:
        return files
    return list(dict.fromkeys(path.rpartition("/")[0] for path in files))[:MAX_INPUTS]


def dataset_name(url: str) -> tuple[str, str]:
    """Return namespace and name of a path or URL, without the connection and what a glob leaves open."""
    scheme, found, rest = url.rpartition("://")
    segments = [_LITERAL.sub(r"\1", segment) for segment in (rest if found else url).split("/")]
    fixed = next((n for n, segment in enumerate(segments) if set(segment) & set("*?[")), len(segments))
    path = "/".join(segments[:fixed])
    if not found or scheme in {"file", "local"}:
        return "file", os.path.abspath(expanded(path) or "/")  # noqa: PTH100 - it needn't be a path of this machine
    authority, _, key = path.partition("/")
    bucket = authority.rpartition("@")[2]
    return f"{_SCHEMES.get(scheme, scheme)}://{bucket}", key.strip("/") or "/"
