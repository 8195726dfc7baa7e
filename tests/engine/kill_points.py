"""Kills a job at every one of its points, and runs it again: a program of its own, so that it may fork safely.

A point stands before and after each call to the API and each write to the store. The job has three shards and a second
round. After each kill the same job is run to its end by a new process; what it returned and what the emulator billed
are printed as one JSON line a point. ``test_kill_points.py`` judges them.

A ``sifted`` job has repeats, a canary and a cache besides; the cache is each point's own. The requests of an ``inline``
one are sent in the create calls.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import sys
import time
import urllib.request

ROWS = 12
CANARY = 3
KILLED = 9
OWN = {
    "sifted": ("sift", "direct", "ask", "cache.json", ".parquet"),
    "inline": ("intent", "create_batch", ".batch.json"),
}
"""By kind, what names of points have that others' haven't."""


class Points:
    """Counts points and ends the process at one of them."""

    def __init__(self, kill_at: int | None) -> None:
        self.kill_at = kill_at
        self.names: list[str] = []

    def reach(self, name: str) -> None:
        if len(self.names) == self.kill_at:
            os._exit(KILLED)
        self.names.append(name)


def job_of(url: str, api_url: str, points: Points, tag: str, *, kind: str):
    from airflow_openai_batch.client import ClientConfig, OpenAIBatchClient
    from airflow_openai_batch.engine.job import Job, JobSpec
    from airflow_openai_batch.engine.lifecycle import Rules
    from airflow_openai_batch.engine.requests import RequestSpec
    from airflow_openai_batch.engine.sources import open_source
    from airflow_openai_batch.engine.store import Store

    class CountedStore(Store):
        def create(self, name, content):
            points.reach(f"before create {name}")
            created = super().create(name, content)
            points.reach(f"after create {name}")
            return created

        @contextlib.contextmanager
        def publish(self, name):
            with super().publish(name) as file:
                yield file
                points.reach(f"before publish {name}")
            points.reach(f"after publish {name}")

        def put(self, name, content):
            points.reach(f"before put {name}")
            super().put(name, content)
            points.reach(f"after put {name}")

    class CountedAPI:
        def __init__(self, client) -> None:
            self.uncounted = client

        def __getattr__(self, name):
            method = getattr(self.uncounted, name)

            def counted(*args, **kwargs):
                points.reach(f"before {name}")
                value = method(*args, **kwargs)
                points.reach(f"after {name}")
                return value

            return counted

    options = {"endpoint_url": os.environ["S3_ENDPOINT"]} if url.startswith("s3://") else {}
    rows = [{"text": f"{tag} {n} great" + ("[[emulate:status=500,once]]" if n % 5 == 0 else "")} for n in range(ROWS)]
    more = {}
    if kind == "inline":
        more = {"submission": "inline"}
    if kind == "sifted":
        rows += rows[:3]
        more = {"deduplicate": True, "canary": CANARY, "canary_max_failed": 1.0, "cache": f"{url}-cache"}
    spec = JobSpec(
        RequestSpec(prompt="Is this positive or negative? {{ row.text }}", model="gpt-5-mini"),
        requests_per_batch=4,
        owner={"task": tag},
        **more,
    )
    client = OpenAIBatchClient(ClientConfig("test", "sk-test", api_url, create_timeout=0.5, max_retries=1))
    rules = Rules(create_timeout=0.5, create_grace=0.2)
    store = CountedStore.at(url, **options)
    return Job(
        store,
        CountedAPI(client),
        spec,
        lambda: open_source(rows),
        rules=rules,
        open_store=lambda folder: CountedStore.at(folder, **options),
    )


def run_to_the_end(url: str, api_url: str, kill_at: int | None, tag: str, *, kind: str) -> Points:
    from airflow_openai_batch.engine.models import Done
    from airflow_openai_batch.engine.runner import advance

    points = Points(kill_at)
    job = job_of(url, api_url, points, tag, kind=kind)
    while not isinstance(outcome := advance(job), Done):
        # Waited for past the points, so that every run has the same ones.
        while not all(job.api.uncounted.retrieve_batch(batch_id).ended for batch_id in outcome.batches):
            time.sleep(0.02)
        time.sleep(0.02)
    return points


def results(url: str) -> list[dict]:
    """Read what was landed, and make room: a server of tests lists slowly where much lies."""
    from airflow_openai_batch.engine.store import Store

    options = {"endpoint_url": os.environ["S3_ENDPOINT"]} if url.startswith("s3://") else {}
    store = Store.at(url, **options)
    lines = [line for name in store.names("results") for line in store.read(f"results/{name}").splitlines()]
    store.fs.rm(store.root, recursive=True)
    return [json.loads(line) for line in lines]


def in_child(function) -> tuple[int, str]:
    """Run a function in a forked process; its exit status and what it returned."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        status = 1
        try:
            with os.fdopen(writer, "w") as pipe:
                pipe.write(function())
            status = 0
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        told = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), told


def billed(api_url: str) -> dict:
    with urllib.request.urlopen(api_url.removesuffix("/v1") + "/emulator/ledger") as answer:
        return json.load(answer)


def judge_points(folder: str, api: str, points: list[tuple[int, str]], *, kind: str) -> None:
    """Kill and run again at each of these points, and print what became of it."""
    twice = 0
    for number, name in points:
        url, tag = f"{folder}/{number}", f"point{number}"
        first, _ = in_child(lambda: str(run_to_the_end(url, api, number, tag, kind=kind)))  # noqa: B023 - called at once
        second, _ = in_child(lambda: str(run_to_the_end(url, api, None, tag, kind=kind)))  # noqa: B023 - called at once
        _, landed = in_child(lambda: json.dumps([(r["row"], r["status"]) for r in results(url)]))  # noqa: B023 - called at once
        ledger = billed(api)
        row = {
            "point": number,
            "name": name,
            "killed": first == KILLED,
            "finished": second == 0,
            "results": json.loads(landed),
            "billed_twice": ledger["rows"]["billed_twice"]["count"] - twice,
            "files_left": ledger["files"]["live"],
        }
        twice = ledger["rows"]["billed_twice"]["count"]
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


def main() -> None:
    """Share the points out among as many processes as there are APIs: they mostly wait."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("apis", nargs="+")
    parser.add_argument("--every", type=int, default=1, help="of so many points one")
    parser.add_argument("--kind", choices=["plain", "sifted", "inline"], default="plain")
    options = parser.parse_args()
    # Imported before the forks, which then cost nothing; none of these starts a thread.
    for module in ("client", "engine.runner", "engine.sources", "engine.store"):
        importlib.import_module(f"airflow_openai_batch.{module}")
    if options.folder.startswith("s3://"):
        importlib.import_module("s3fs")
    _, told = in_child(
        lambda: json.dumps(
            run_to_the_end(f"{options.folder}/whole", options.apis[0], None, "whole", kind=options.kind).names
        )
    )
    points = list(enumerate(json.loads(told)))[:: options.every]
    if own := OWN.get(options.kind):
        # What such a job has in common with others is killed at each point of theirs.
        points = [(number, name) for number, name in points if not number % 5 or any(mark in name for mark in own)]
    lanes = []
    for number, api in enumerate(options.apis):
        pid = os.fork()
        if pid == 0:
            judge_points(options.folder, api, points[number :: len(options.apis)], kind=options.kind)
            os._exit(0)
        lanes.append(pid)
    sys.exit(sum(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0 for pid in lanes))


if __name__ == "__main__":
    main()
