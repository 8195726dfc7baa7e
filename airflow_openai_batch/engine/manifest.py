"""The end of a job: what OpenAI needn't keep any more is deleted, and the manifest sums it all up."""

from __future__ import annotations

import logging
from dataclasses import asdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.engine.journal import VERSION, JobState
from airflow_openai_batch.engine.models import Usage
from airflow_openai_batch.engine.results import RESULTS, Tally
from airflow_openai_batch.exceptions import APIError

if TYPE_CHECKING:
    from airflow_openai_batch.engine.api import BatchAPI
    from airflow_openai_batch.engine.bill import Bill
    from airflow_openai_batch.engine.records import JobRecord

log = logging.getLogger(__name__)


def tidy(api: BatchAPI, state: JobState) -> None:
    """Delete the job's own files at OpenAI. All that was in them is on the store by now.

    Done before the manifest is written, so that a job that dies here does it again; a file that is gone is no error.
    """
    files = {attempt.intent.file_id for attempt in state.all_attempts() if attempt.intent and attempt.intent.file_id}
    files |= {file_id for attempt in state.all_attempts() if attempt.end for file_id in attempt.end.files}
    for file_id in sorted(files):
        try:
            api.delete_file(file_id)
        except APIError as error:
            log.warning("Couldn't delete file %s at OpenAI: %s", file_id, error)


def build_manifest(record: JobRecord, state: JobState, tally: Tally, bill: Bill, now: float) -> dict[str, Any]:
    """Return the manifest: what came of the rows, and what all rounds cost."""
    usage: dict[str, Usage] = {}
    noise: dict[str, int] = {}
    for attempt in state.all_attempts():
        if attempt.end is None:
            continue
        for model, used in attempt.end.usage.items():
            usage[model] = usage.get(model, Usage()) + used
        for kind, count in attempt.end.noise.items():
            noise[kind] = noise.get(kind, 0) + count
    models = sorted({*tally.models, *usage})
    return {
        "version": VERSION,
        "job": record.job,
        "destination": record.destination,
        "results": f"{record.destination}/{RESULTS}",
        "format": tally.format,
        "files": tally.files,
        "rows": {"total": record.plan.rows, **tally.rows},
        "usage": asdict(sum(usage.values(), Usage())),
        "models": {
            model: {
                "rows": sum(tally.models.get(model, {}).values()),
                "statuses": tally.models.get(model, {}),
                **asdict(usage.get(model, Usage())),
            }
            for model in models
        },
        "endpoint": record.parameters["endpoint"],
        "batches": list(state.batch_ids()),
        "rounds": len(state.rounds),
        "noise": noise,
        "cached": record.sifting.cached if record.sifting else 0,
        "repeats": record.sifting.repeats if record.sifting else 0,
        "estimate": record.estimate,
        "cost": bill.to_json(),
        "started_at": _iso(record.created_at),
        "finished_at": _iso(now),
        "errors_sample": tally.errors,
    }


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, timezone.utc).isoformat(timespec="seconds")
