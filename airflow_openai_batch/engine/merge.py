"""Manifests of many jobs -> one: the sum over the partitions of a dataset.

Pure, and small whatever the number of jobs: what grows with the data (files, batch ids) is counted, and found through
``destinations``, each of which has its own ``manifest.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.engine.journal import VERSION
from airflow_openai_batch.engine.models import STATUSES, Usage
from airflow_openai_batch.engine.results import MAX_ERRORS_SHOWN
from airflow_openai_batch.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

SUMMED = ("rows", "usage", "models", "noise", "cached", "repeats", "cost")
"""Fields that add up, number by number."""


def merge_manifests(manifests: Iterable[Mapping[str, Any] | None] | Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the sum of the manifests of many jobs, as a mapped task's result has them.

    Fields of the sum:

    - ``version``: of the manifest's format
    - ``jobs``: manifests in the sum. A job that comes twice counts once
    - ``skipped``: entries that were None: tasks that were skipped. A task that failed leaves no entry at all, so
      compare ``jobs`` with the number of partitions
    - ``destinations``: the jobs' folders, in the order given. ``manifest.json`` in each has its files and batches
    - ``rows``, ``usage``, ``models``, ``noise``, ``cached``, ``repeats``, and the sums of ``cost``: as in a manifest,
      added up. A figure that one of the jobs doesn't know (None) isn't known of the sum
    - ``endpoint``, ``format``: the one that all have, None where they differ; ``endpoints``, ``formats``: all of them
    - ``files``, ``batches``: how many. Unlike in a manifest they are no lists: a thousand jobs' would be too much for
      an XCom
    - ``rounds``: the most that a job needed
    - ``started_at``, ``finished_at``: first and last, None without a job
    - ``errors_sample``: ten at most, from as many jobs as have any, each with its job's ``destination``

    :param manifests: manifests, and None for those that aren't there; one alone, or None for none at all.
    :raises ConfigurationError: an entry is no manifest.
    """
    given = [manifests] if isinstance(manifests, Mapping) else list(manifests or ())
    jobs: dict[str, Mapping[str, Any]] = {}
    for place, manifest in enumerate(given):
        if manifest is not None:
            _check(manifest, place)
            jobs.setdefault(manifest["job"], manifest)
    merged = list(jobs.values())
    endpoints = sorted({manifest["endpoint"] for manifest in merged})
    formats = sorted({manifest["format"] for manifest in merged})
    return {
        "version": VERSION,
        "jobs": len(merged),
        "skipped": sum(manifest is None for manifest in given),
        "destinations": [manifest["destination"] for manifest in merged],
        "format": formats[0] if len(formats) == 1 else None,
        "formats": formats,
        "files": sum(len(manifest["files"]) for manifest in merged),
        **_summed(merged),
        "endpoint": endpoints[0] if len(endpoints) == 1 else None,
        "endpoints": endpoints,
        "batches": sum(len(manifest["batches"]) for manifest in merged),
        "rounds": max((manifest["rounds"] for manifest in merged), default=0),
        # All are UTC and of one form, so the order of the texts is that of the times.
        "started_at": min((manifest["started_at"] for manifest in merged), default=None),
        "finished_at": max((manifest["finished_at"] for manifest in merged), default=None),
        "errors_sample": _errors(merged),
    }


def _check(manifest: Any, place: int) -> None:
    needed = {"job", "destination", "rows", "files", "batches", "endpoint", "format"}
    if not isinstance(manifest, Mapping) or not needed <= manifest.keys():
        raise ConfigurationError(
            f"manifests: entry {place} is no manifest, as OpenAIBatchOperator and OpenAIBatchDownloadOperator return "
            f"it, but {str(manifest)[:200]!r}"
        )


def _summed(manifests: list[Mapping[str, Any]]) -> dict[str, Any]:
    rows = dict.fromkeys(("total", *STATUSES), 0)
    total: dict[str, Any] = {"rows": rows, "usage": asdict(Usage()), "models": {}, "noise": {}}
    for manifest in manifests:
        parts = {name: manifest[name] for name in SUMMED if name in manifest}
        if isinstance(parts.get("cost"), Mapping):
            # What each job paid for which model at which price is its own manifest's to tell.
            parts["cost"] = {name: amount for name, amount in parts["cost"].items() if name != "charges"}
        total = _add(total, parts)
    return total


def _add(one: Any, other: Any) -> Any:
    """Add up numbers, and mappings by their keys; of other values keep what both have in common."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        same = {name: _add(one[name], other[name]) for name in one if name in other}
        return {**one, **other, **same}
    if _is_number(one) and _is_number(other):
        return one + other
    return one if one == other else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _errors(manifests: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Take the first example of each job, then the second, so that one bad job doesn't hide the others'."""
    samples = [
        [{**error, "destination": manifest["destination"]} for error in manifest["errors_sample"]]
        for manifest in manifests
    ]
    turns = (error for turn in zip_longest(*samples) for error in turn if error is not None)
    return [error for error, _ in zip(turns, range(MAX_ERRORS_SHOWN), strict=False)]
