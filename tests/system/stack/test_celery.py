"""Whatever dies of the production stack, no row is bought twice and none is lost.

First the example DAGs and a job mapped over eight partitions run at once, undisturbed. Then a worker, a triggerer,
Redis and PostgreSQL are killed while tasks run, wait and are queued. What ends is started again, as compose and
Kubernetes do. The emulator's ledger and the results on S3 are the judges.
"""

from __future__ import annotations

import json
import signal
import time
from types import SimpleNamespace

import boto3
import httpx
import psutil
import pytest

pytestmark = [pytest.mark.system, pytest.mark.stack]

BUCKET = "openai-batch"
# Each with a model of its own: they send the same reviews, and the ledger tells rows by their bodies.
EXAMPLES = {
    "openai_batch_quickstart": ("classify", "gpt-5-mini"),
    "openai_batch_three_steps": ("download", "gpt-5-nano"),
    "openai_batch_taskflow": ("judge", "gpt-4.1-mini"),
    "openai_batch_nightly_eval": ("answer", "gpt-4.1-nano"),
}
MAPPED = "openai_batch_partitions"
PARTITIONS = 8
ROWS_OF_A_PARTITION = 40
# A batch runs 20 rows a second, so the number of rows says how long it lasts.
ROWS = {"worker": 40, "triggerer": 800, "redis": 40, "queued": 40, "postgres": 1200, "api": 40}
TASK = "answer"
ENDED = {"success", "failed"}


def rows_of(scenario):
    """The rows of a scenario, unlike those of any other: the ledger tells them by their text."""
    return [{"id": number, "text": f"{scenario}: {number}"} for number in range(ROWS[scenario])]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


class Scene:
    """The stack, what lies on S3, and what is done to them."""

    def __init__(self, stack, servers, variables):
        self.stack = stack
        self.api = stack.api
        self.emulator = stack.emulator
        self.postgres, self.redis = servers.postgres, servers.redis
        keys = {"aws_access_key_id": variables["S3_ACCESS_KEY"], "aws_secret_access_key": variables["S3_SECRET_KEY"]}
        s3 = boto3.resource("s3", endpoint_url=servers.places.store, region_name="us-east-1", **keys)
        self.bucket = s3.Bucket(BUCKET)
        self.runs = {}
        self.begin = time.monotonic()

    def tell(self, what):
        print(f"\n{time.monotonic() - self.begin:6.1f} s  {what}", end="", flush=True)

    def wait(self, what, condition, seconds=90):
        """Wait for something, starting again what has ended; while the database is away, nothing can be asked."""
        end = time.monotonic() + seconds
        error = None
        while True:
            self.stack.revive()
            try:
                if found := condition():
                    self.tell(what)
                    return found
            except httpx.HTTPError as trouble:
                error = trouble
            if time.monotonic() > end:
                logs = "\n".join(f"--- {name}\n{self.stack.log(name, 30)}" for name in self.stack.members)
                pytest.fail(f"No {what} after {seconds} s ({error}). {self.states()}\n{logs}", pytrace=False)
            time.sleep(0.3)

    def states(self):
        try:
            tasks = {name: (self.task(name)["state"], self.task(name)["try_number"]) for name in self.runs}
            return {run.dag_id: dict(states) for run, states in self.api.task_states().items()} | tasks
        except httpx.HTTPError as error:
            return error

    def put(self, name, rows):
        self.bucket.put_object(Key=name, Body=lines(rows))

    def start(self, scenario):
        self.put(f"rows/{scenario}.jsonl", rows_of(scenario))
        self.runs[scenario] = self.api.trigger("kills", {"scenario": scenario})

    def task(self, scenario):
        return self.api.task(self.runs[scenario], TASK)

    def tries(self):
        return {scenario: self.task(scenario)["try_number"] for scenario in self.runs}

    def batches(self, scenario):
        found = self.emulator.ledger()["batches"]["data"]
        return [batch for batch in found if batch["metadata"].get("scenario") == scenario]

    def waits(self, scenario):
        """Whether the task is deferred, in a triggerer's hands, and some of the batch's rows are done."""
        billed = sum(batch["billed"] for batch in self.batches(scenario))
        return billed > 3 and self.task(scenario)["state"] == "deferred" and self.holder(scenario) is not None

    def taken_over(self, scenario):
        """Whether a second try of the task has done its first part."""
        task = self.task(scenario)
        return task["try_number"] > 1 and task["state"] in {"deferred", *ENDED}

    def holder(self, scenario):
        """The triggerer that has the task's trigger."""
        return (self.task(scenario)["triggerer_job"] or {}).get("unixname")

    def worker_of(self, scenario):
        """The worker that runs the task."""
        pid = self.task(scenario)["pid"]
        above = {process.pid for process in psutil.Process(pid).parents()} if pid else set()
        workers = (name for name in self.stack.members if name.startswith("worker"))
        return next((name for name in workers if self.stack.members[name].program.pid in above), None)

    def all_ended(self):
        return {*self.api.run_states().values()} <= ENDED

    def not_successful(self):
        return {run: state for run, state in self.api.run_states().items() if state != "success"}

    def logs(self, runs, *, whole=False):
        """The logs of these runs' tasks, or their ends."""
        folder = self.stack.airflow_home / "logs"
        found = (
            file for run in runs for file in sorted(folder.glob(f"dag_id={run.dag_id}/run_id={run.run_id}/**/*.log*"))
        )
        return "\n".join(f"--- {file}\n{file.read_text()[0 if whole else -4000 :]}" for file in found)

    def must_have_succeeded(self):
        failed = self.not_successful()
        assert not failed, f"{failed}\n{self.logs(failed)}"

    def manifest(self, folder):
        return json.loads(self.bucket.Object(f"{folder}/manifest.json").get()["Body"].read())

    def results(self, manifest):
        names = [file.removeprefix(f"s3://store@{BUCKET}/") for file in manifest["files"]]
        return [
            json.loads(line) for name in names for line in self.bucket.Object(name).get()["Body"].read().splitlines()
        ]


@pytest.fixture(scope="module")
def scene(stack, servers, variables):
    return Scene(stack, servers, variables)


@pytest.fixture(scope="module")
def undisturbed(scene):
    """The examples and the mapped job, run at once to their ends."""
    for number in range(PARTITIONS):
        rows = [{"text": f"great food {number} {row}"} for row in range(ROWS_OF_A_PARTITION)]
        scene.put(f"reviews/part={number}/reviews.jsonl", rows)
    wanted = {*EXAMPLES, MAPPED, "kills"}
    scene.wait("all DAGs are parsed", lambda: wanted <= scene.api.dag_ids())
    runs = {
        dag_id: scene.api.trigger(dag_id, {"poll_interval": 2, "model": model})
        for dag_id, (_, model) in EXAMPLES.items()
    }
    runs[MAPPED] = scene.api.trigger(MAPPED, {"poll_interval": 2, "source": f"s3://store@{BUCKET}/reviews"})
    scene.wait("the examples and the mapped job have ended", scene.all_ended, 180)
    scene.must_have_succeeded()
    return SimpleNamespace(
        runs=runs,
        manifests={dag_id: scene.api.xcom(runs[dag_id], task) for dag_id, (task, _) in EXAMPLES.items()},
        total=scene.api.xcom(runs[MAPPED], "total"),
        instances=[task for run in runs.values() for task in scene.api.task_instances(run)],
        ledger=scene.emulator.ledger(),
        revived=list(scene.stack.revived),
    )


@pytest.fixture(scope="module")
def killed(scene, undisturbed):
    """All scenarios, played to their ends, with what could only be seen on the way."""
    seen = SimpleNamespace()
    kill_a_worker(scene, seen)
    kill_a_triggerer(scene, seen)
    if scene.redis is not None:
        restart_redis(scene)
    if scene.postgres is not None:
        restart_postgres(scene)
    scene.wait("all runs have ended", scene.all_ended, 150)
    scene.must_have_succeeded()
    seen.ledger = scene.emulator.ledger()
    seen.tries = scene.tries()
    scene.tell(f"tries: {seen.tries}; started again: {scene.stack.revived}\n")
    return seen


def start_and_stop_in_create(scene, scenario):
    """Start a task and come back when its batch is created and the task hasn't been told yet."""
    scene.emulator.add_fault("latency", call="batches.create", seconds=10, when="after")
    scene.start(scenario)
    scene.wait(f"{scenario}: the batch is created, the answer under way", lambda: scene.batches(scenario))


def kill_a_worker(scene, seen):
    start_and_stop_in_create(scene, "worker")
    seen.worker = scene.worker_of("worker")
    scene.stack.kill(seen.worker)
    entries = scene.bucket.objects.filter(Prefix="kills/worker/_job/batches/")
    seen.known = [entry.key for entry in entries if ".batch." in entry.key]
    scene.tell(f"{seen.worker} is killed")


def kill_a_triggerer(scene, seen):
    for scenario in ("triggerer", "postgres"):
        scene.start(scenario)
    scene.wait("two tasks wait", lambda: scene.waits("triggerer") and scene.batches("postgres"))
    old = scene.holder("triggerer")
    scene.stack.kill(old)
    scene.tell(f"{old} is killed")

    def followed():
        # On a slow machine the batch has ended by then, and the task goes on at once: only a triggerer could wake it.
        if scene.task("triggerer")["state"] in ENDED:
            return {name for name in scene.stack.members if name.startswith("triggerer")} - {old}
        return {scene.holder("triggerer")} - {old, None}

    seen.triggerer = old, scene.wait("another triggerer has the task", followed).pop()


def restart_redis(scene):
    start_and_stop_in_create(scene, "redis")
    scene.redis.end(number=signal.SIGKILL)
    scene.tell("Redis is killed")
    scene.start("queued")
    time.sleep(5)
    scene.redis.start()
    scene.tell("Redis is back")
    scene.wait("what should have been queued has run", lambda: scene.batches("queued"))


def restart_postgres(scene):
    # One disaster for each task: Airflow may lose sight of a try that begins in the second in which its database dies.
    scene.wait("the killed worker's task is in other hands", lambda: scene.taken_over("worker"), 150)
    start_and_stop_in_create(scene, "api")
    scene.wait("another task waits", lambda: scene.waits("postgres") or scene.task("postgres")["state"] in ENDED)
    # Without a word to its clients, as in a crash.
    scene.postgres.end(number=signal.SIGQUIT)
    scene.tell("PostgreSQL is killed")
    time.sleep(4)
    scene.postgres.start()
    scene.tell("PostgreSQL is back")


def test_each_example_succeeds_in_one_try(undisturbed):
    assert {task["try_number"] for task in undisturbed.instances} == {1}
    assert undisturbed.revived == []
    for manifest in undisturbed.manifests.values():
        assert manifest["rows"]["total"] == manifest["rows"]["succeeded"] == 252


def test_results_of_the_examples_are_on_s3_in_order(scene, undisturbed):
    for manifest in undisturbed.manifests.values():
        assert manifest["destination"].startswith(f"s3://store@{BUCKET}/results/")
        assert [result["row"] for result in scene.results(manifest)] == list(range(252))


def test_eight_partitions_at_once_are_eight_jobs(scene, undisturbed):
    mapped = [task for task in undisturbed.instances if task["task_id"] == "classify" and task["map_index"] >= 0]
    assert len(mapped) == undisturbed.total["jobs"] == PARTITIONS
    assert undisturbed.total["rows"]["succeeded"] == PARTITIONS * ROWS_OF_A_PARTITION
    for number, destination in enumerate(undisturbed.total["destinations"]):
        results = scene.results(scene.manifest(destination.removeprefix(f"s3://store@{BUCKET}/")))
        assert [result["input"]["text"] for result in results] == [
            f"great food {number} {row}" for row in range(ROWS_OF_A_PARTITION)
        ]


def test_undisturbed_each_row_is_paid_once(undisturbed):
    rows = undisturbed.ledger["rows"]
    assert (rows["billed"], rows["billed_twice"]["count"]) == (4 * 252 + PARTITIONS * ROWS_OF_A_PARTITION, 0)
    assert undisturbed.ledger["batches"]["created"] == 4 + PARTITIONS


def test_no_row_is_paid_twice_whatever_dies(scene, killed, undisturbed):
    rows = killed.ledger["rows"]
    played = sum(ROWS[scenario] for scenario in scene.runs)
    assert rows["billed_twice"]["count"] == 0
    assert rows["billed"] - undisturbed.ledger["rows"]["billed"] == played


@pytest.mark.parametrize("scenario", ROWS)
def test_each_row_is_there_once_and_in_order_whatever_dies(scene, killed, scenario):
    if scenario not in scene.runs:
        pytest.skip("Redis and PostgreSQL are restarted only where the test has its own: their programs aren't here")
    results = scene.results(scene.manifest(f"kills/{scenario}"))
    assert [result["row"] for result in results] == list(range(ROWS[scenario]))
    assert [result["input"] for result in results] == rows_of(scenario)
    assert {result["status"] for result in results} == {"succeeded"}
    assert len(scene.batches(scenario)) == 1


def test_the_batch_of_a_worker_that_was_killed_is_adopted_by_another_try(scene, killed):
    assert killed.known == []
    assert killed.tries["worker"] > 1
    assert "Adopted batch" in scene.logs([scene.runs["worker"]], whole=True)


def test_a_triggerer_that_was_killed_is_followed_by_the_other(killed):
    old, new = killed.triggerer
    assert {old, new} == {"triggerer-1", "triggerer-2"}
    assert killed.tries["triggerer"] == 1


def test_after_all_that_every_service_is_healthy_by_the_check_of_its_compose_file(scene, killed):
    scene.wait("all is healthy", lambda: not scene.api.unhealthy())
    assert scene.stack.unwell() == {}
