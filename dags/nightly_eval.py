"""Nightly evaluation: see whether the model still answers as well as it did last night.

Shows a batch as one step of a scheduled pipeline: labelled reviews -> batch -> score -> history -> HTML report with
a plot of accuracy by night -> gate. The last task fails when accuracy fell by more than ``max_drop`` against the
best of the last ``compare_nights`` nights (by default: the previous one), after the report is written.

It is careful with money. Rows that were answered before, by the same model to the same prompt, come out of a cache, so
that a night pays for what is new: rows, a prompt, a model. After a week an answer is asked for anew, or a model that
changed behind its name would never be noticed. A few rows, the canary, are asked first; if they do badly, the rest
isn't bought. ``max_cost_usd`` is the most that a night may cost, and what the batch hasn't answered when ``deadline``
comes near is asked directly. The report says what each night cost and saved.

A night is written once: a retry, a cleared task or another run of the same date replaces its line in the history, what
it cost included. Everything is under ``{results}/nightly_eval``: ``history.jsonl``, ``reports/{night}.html``, ``cache``
and the batch's own folder of each run. Copy ``eval_report.py`` too; the report needs matplotlib. Without a start date,
unpausing the DAG waits for the next night instead of running, and paying for, the last one.

The source, the results' location, the connection and the model are params: trigger with others, or set the
environment variable ``OPENAI_BATCH_RESULTS`` (a folder, or a URL such as ``s3://bucket/prefix``) for every run.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import eval_report
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import ObjectStoragePath, Param, dag, task

from airflow_openai_batch.operators.openai_batch import OpenAIBatchOperator

REVIEWS = Path(__file__).parent / "data" / "reviews.jsonl"
AIRFLOW_HOME = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()
RESULTS = os.environ.get("OPENAI_BATCH_RESULTS") or str(AIRFLOW_HOME / "openai_batch_results")

ROOT = "{{ params.results }}/nightly_eval"
# A run that was triggered by hand has no logical date.
NIGHT = "{{ (dag_run.logical_date or dag_run.run_after) | ds }}"


@dag(
    dag_id="openai_batch_nightly_eval",
    schedule="0 2 * * *",
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["openai", "batch", "example"],
    params={
        "source": Param(
            str(REVIEWS), type="string", description="JSON Lines with `id`, `language`, `text` and `label`."
        ),
        "results": Param(
            RESULTS, type="string", description="Where results go: a folder, or a URL such as s3://bucket/prefix."
        ),
        "conn_id": Param("openai_default", type="string", description="The connection to OpenAI."),
        "model": Param("gpt-5-mini", type="string", description="The model that is evaluated."),
        "poll_interval": Param(
            60, type="number", exclusiveMinimum=0, description="Seconds between two looks at the batch."
        ),
        "max_cost_usd": Param(
            1.0, type="number", exclusiveMinimum=0, description="The most that a night may cost, in US dollars."
        ),
        "canary": Param(20, type="integer", minimum=0, maximum=1000, description="Rows that are asked first."),
        "deadline": Param(
            "06:00", type="string", description="When all is to be answered: seconds, or a time of day (UTC)."
        ),
        "max_drop": Param(
            0.05, type="number", minimum=0, maximum=1, description="The largest fall of accuracy that passes."
        ),
        "compare_nights": Param(1, type="integer", minimum=1, description="How many earlier nights to compare with."),
    },
    default_args={"retries": 1, "retry_delay": timedelta(seconds=10)},
)
def nightly_eval() -> None:
    """Evaluate the model on the labelled reviews."""
    answers = OpenAIBatchOperator(
        task_id="answer",
        source="{{ params.source }}",
        destination=ROOT + "/runs/{{ run_id | replace(':', '-') | replace('+', '-') }}",
        system="You judge restaurant reviews. Answer with one word: positive or negative.",
        prompt="{{ row.text }}",
        model="{{ params.model }}",
        conn_id="{{ params.conn_id }}",
        poll_interval="{{ params.poll_interval }}",
        deduplicate=True,
        cache=ROOT + "/cache",
        cache_ttl=timedelta(days=7),
        canary="{{ params.canary }}",
        max_cost_usd="{{ params.max_cost_usd }}",
        deadline="{{ params.deadline }}",
    )

    @task
    def score(manifest: dict[str, Any], root: str, night: str, model: str) -> float | None:
        """Score the night and write it into the history."""
        figures = eval_report.score(eval_report.read_results(ObjectStoragePath(file) for file in manifest["files"]))
        entry = {
            "night": night,
            "model": model,
            "results": manifest["results"],
            **figures,
            **eval_report.money(manifest),
        }
        eval_report.record(ObjectStoragePath(root) / "history.jsonl", entry)
        accuracy: float | None = figures["accuracy"]
        return accuracy

    @task
    def report(root: str, night: str) -> str:
        """Write the night's page and return where it is."""
        page = ObjectStoragePath(root) / "reports" / f"{night}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        history = eval_report.read_history(ObjectStoragePath(root) / "history.jsonl")
        page.write_bytes(eval_report.render(history, night).encode())
        return str(page)

    @task
    def gate(root: str, night: str, page: str, max_drop: str, nights: str) -> str:
        """Fail when accuracy fell too far; trying again wouldn't change it."""
        history = eval_report.read_history(ObjectStoragePath(root) / "history.jsonl")
        try:
            return eval_report.check_accuracy(history, night, max_drop=float(max_drop), nights=int(nights))
        except eval_report.AccuracyDropError as error:
            raise AirflowFailException(f"{error} The report: {page}") from error

    scored = score(answers.output, ROOT, NIGHT, "{{ params.model }}")
    page = report(ROOT, NIGHT)
    scored >> page >> gate(ROOT, NIGHT, page, "{{ params.max_drop }}", "{{ params.compare_nights }}")


nightly_eval()
