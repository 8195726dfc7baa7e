"""A whole job on the emulator, by one provider: ``python -m tests.benchmarks.whole_job PROVIDER ROWS URL FOLDER``.

Runs in our venv and in the peers'. The last line is a JSON object with the seconds of each phase and the peak memory.
``wait`` is the emulator's own work, done while nothing of the provider runs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tests.benchmarks.measure import MB, memory, peak_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

PROMPT = "Is this review positive or negative? "
SYSTEM = "You label reviews of restaurants. Answer with one word: positive or negative."
MODEL = "gpt-5-mini"
ENDED = {"completed", "failed", "expired", "cancelled"}


class Phases:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Count what is done here towards a phase."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun


def _await_batches(sdk: Any, ids: list[str]) -> None:
    for batch in ids:
        while sdk.batches.retrieve(batch).status not in ENDED:
            time.sleep(0.1)


def run_ours(source: Path, url: str, folder: Path) -> dict[str, Any]:
    """Plan, submit, wait, collect and land by the engine and its client."""
    from airflow_openai_batch.client import ClientConfig, OpenAIBatchClient
    from airflow_openai_batch.engine import foreign  # noqa: F401 - imported by a task anyway
    from airflow_openai_batch.engine.job import Job, JobSpec
    from airflow_openai_batch.engine.requests import RequestSpec
    from airflow_openai_batch.engine.runner import advance
    from airflow_openai_batch.engine.sources import open_source
    from airflow_openai_batch.engine.store import Store

    imported = memory()
    client = OpenAIBatchClient(ClientConfig("benchmark", "sk-benchmark", url))
    request = RequestSpec(prompt=PROMPT + "{{ row.text }}", system=SYSTEM, model=MODEL)
    spec = JobSpec(request, owner={"task": "benchmark"})
    # Four uploads and downloads under way, as a task has by default.
    job = Job(Store.at(str(folder / "job")), client, spec, lambda: open_source(str(source)), at_once=4)
    phases = Phases()
    with phases.of("plan"):
        job.open()
    with phases.of("submit"):
        advance(job, stop="submitted")
    with phases.of("wait"):
        _await_batches(client.sdk, list(job.journal.state(job.known()).batch_ids()))
    with phases.of("collect"):
        advance(job, stop="ended")
    with phases.of("land"):
        outcome = advance(job)
    return {
        "seconds": phases.seconds,
        "succeeded": outcome.manifest["rows"]["succeeded"],
        "growth": (peak_memory() - imported) / MB,
    }


def run_common_ai(source: Path, url: str, folder: Path) -> dict[str, Any]:
    """Run ``LLMBatchOperator`` up to its deferral, wait, and resume it.

    What a DAG has to do for it counts as planning: reading the rows and making prompts of them, in the quickest way.
    """
    import openai
    from airflow.providers.common.ai.operators.llm_batch import LLMBatchOperator
    from airflow.sdk.exceptions import TaskDeferred

    imported = memory()
    sdk = openai.OpenAI(base_url=url, api_key="sk-benchmark")
    phases = Phases()
    with phases.of("plan"):
        with source.open("rb") as lines:
            requests = [PROMPT + json.loads(line)["text"] for line in lines]
        label = LLMBatchOperator(
            task_id="label",
            requests=requests,
            result_path=f"file://{folder}/results",
            llm_conn_id="pydanticai_default",
            model_id=f"openai:{MODEL}",
            system_prompt=SYSTEM,
            deferrable=True,
        )
    task = SimpleNamespace(
        dag_id="benchmark", task_id="label", run_id="run", map_index=-1, xcom_push=lambda **_pushed: None
    )
    context: Any = {"task_instance": task, "ti": task}
    with phases.of("submit"):
        try:
            LLMBatchOperator.execute.__wrapped__(label, context)
        except TaskDeferred as deferred:
            batch = deferred.trigger.batch_id
    with phases.of("wait"):
        _await_batches(sdk, [batch])
    with phases.of("land"):
        manifest = label.execute_complete(context, {"status": "success", "batch_id": batch})
    return {
        "seconds": phases.seconds,
        "succeeded": manifest["counts"]["succeeded"],
        "growth": (peak_memory() - imported) / MB,
    }


PROVIDERS = {"ours": run_ours, "common-ai": run_common_ai}


def main() -> None:
    """Run one job."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("provider", choices=PROVIDERS)
    parser.add_argument("source", type=Path, help="JSON Lines with a column text")
    parser.add_argument("url", help="the emulator's")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    told = PROVIDERS[given.provider](given.source, given.url, given.folder)
    sys.stdout.write("\n" + json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
