"""What a task tells the outside: metrics, figures on asset events, fields in its log that a search finds.

Rows and tokens are counted by the call that landed the job, so once: a retry or a clear of a job that is done finds the
manifest there and counts nothing. A metrics server that can't be reached fails no task.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from airflow.sdk import Context

    from airflow_openai_batch.engine.models import Waiting

PREFIX = "openai_batch"
"""All metrics' names begin so, after the prefix that ``[metrics]`` gives those of Airflow."""

TOKENS = {"input": "input_tokens", "cached": "cached_tokens", "output": "output_tokens", "total": "total_tokens"}
"""Counters of tokens, and where the manifest has them."""

EXTRA = ("job", "destination", "results", "format", "rows", "usage", "cost", "endpoint", "started_at", "finished_at")
"""What an asset event has of the manifest: figures and where to read on, no lists that grow with the job."""


class Report:
    """Metrics and log lines of one segment of a task, from its start or its wake to its end or its next wait.

    :param ti: the task instance.
    :param log: the operator's logger.
    """

    def __init__(self, ti: Any, log: Any) -> None:
        self._log = log
        self._tags = {"dag_id": str(ti.dag_id), "task_id": str(ti.task_id)}
        map_index = getattr(ti, "map_index", -1)
        mapped = isinstance(map_index, int) and map_index >= 0
        # Counters of mapped instances add up; a gauge has one value, so each has its own.
        self._gauge_tags = {**self._tags, "map_index": str(map_index)} if mapped else self._tags
        self._slept = 0.0

    def woken(self, event: Mapping[str, Any]) -> None:
        """Tell why a deferred task goes on, and how long it waited."""
        batches = event.get("batches") or {}
        since = float(event.get("since") or 0.0)
        waited = max(0.0, time.time() - since) if since else None
        if waited is not None:
            self._send("timing", "waited", timedelta(seconds=waited), self._tags)
        ends = ", ".join(f"{batch_id} {status}" for batch_id, status in list(batches.items())[:10])
        told = fields(event=event.get("status"), waited=waited and round(waited), batches=len(batches))
        self._log.info("Woken: %s (%s)", event.get("message") or ends or "the time has come", told)

    def waiting(self, waiting: Waiting, pause: float | None, destination: str) -> None:
        """Tell what is waited for: deferred where ``pause`` is None, else so many seconds in the worker slot."""
        self._in_flight(len(waiting.batches))
        told = fields(destination=destination or None, batches_in_flight=len(waiting.batches))
        if pause is None:
            self._log.info("Deferring: %s (%s)", waiting.reason, told)
        else:
            self._slept += pause
            self._log.info("%s; next look in %.0f s (%s)", waiting.reason, pause, told)

    def submitted(self, batches: Sequence[str], destination: str) -> None:
        """Tell what a submit step leaves to the next one, which has the gauge."""
        self._log.info("Submitted; the next step waits (%s)", fields(destination=destination, batches=len(batches)))

    def over(self) -> None:
        """Tell that nothing is waited for any more."""
        self._in_flight(0)
        if self._slept:
            self._send("timing", "waited", timedelta(seconds=self._slept), self._tags)
            self._slept = 0.0

    def done(self, manifest: Mapping[str, Any], *, landed: bool) -> None:
        """Tell what came of a job.

        :param landed: whether this very call landed it; only then are rows and tokens counted.
        """
        rows, usage = manifest["rows"], manifest["usage"]
        counts = {name: count for name, count in rows.items() if count or name in {"total", "succeeded"}}
        tokens = {f"tokens_{name}": usage[key] for name, key in TOKENS.items()}
        told = fields(job=manifest["job"], rows=counts.pop("total"), **counts, **tokens, rounds=manifest["rounds"])
        self._log.info("%s: %s (%s)", "Job done" if landed else "Job was done before", manifest["destination"], told)
        if not landed:
            return
        for status, count in rows.items():
            if count and status != "total":
                self._send("incr", f"rows.{status}", int(count), self._tags)
        for name, key in TOKENS.items():
            if usage[key]:
                self._send("incr", f"tokens.{name}", int(usage[key]), self._tags)

    def _in_flight(self, count: int) -> None:
        self._send("gauge", "batches_in_flight", count, self._gauge_tags)

    def _send(self, kind: str, name: str, value: Any, tags: dict[str, str]) -> None:
        try:
            # Where Airflow's own providers look for it: it moved with Airflow 3.2.
            from airflow.providers.common.compat.sdk import Stats

            getattr(Stats, kind)(f"{PREFIX}.{name}", value, tags=tags)
        except Exception as error:  # noqa: BLE001 - rows that were paid for don't depend on a metrics server
            self._log.warning("Metric %s.%s wasn't sent: %s: %s", PREFIX, name, type(error).__name__, error)


def fields(**values: Any) -> str:
    """Spell fields for a log search: ``job=1f0c rows=252``; texts with spaces are quoted, None is left out."""
    return " ".join(f"{name}={_spell(value)}" for name, value in values.items() if value is not None)


def _spell(value: Any) -> str:
    text = str(value)
    return orjson.dumps(text).decode() if not text or set(text) & set(' "=\n') else text


def figures(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an asset event tells of a job."""
    return {name: manifest[name] for name in EXTRA if name in manifest}


def fill_outlets(outlets: Iterable[Any], context: Context, manifest: Mapping[str, Any]) -> None:
    """Put a job's figures on the events of the assets that are the task's outlets.

    Airflow makes the events when the task has succeeded, so in its last segment.
    """
    from airflow.sdk import Asset

    for outlet in outlets:
        if isinstance(outlet, Asset):
            context["outlet_events"][outlet].extra.update(figures(manifest))
