"""Any mixture of rows, shard sizes, faults, deaths and wake-ups ends with one result a row and nothing bought twice."""

from __future__ import annotations

import json
import os
import tempfile
import uuid
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from hypothesis import HealthCheck, Phase, event, given, note, settings
from hypothesis import strategies as st

from airflow_openai_batch.engine import journal as journal_module
from airflow_openai_batch.engine import opener as opener_module
from airflow_openai_batch.engine.job import Job, JobSpec
from airflow_openai_batch.engine.lifecycle import Rules
from airflow_openai_batch.engine.models import STATUSES, Done, Waiting
from airflow_openai_batch.engine.requests import RequestSpec
from airflow_openai_batch.engine.runner import advance
from airflow_openai_batch.engine.sources import open_source
from airflow_openai_batch.engine.store import Store
from airflow_openai_batch.exceptions import APIError, JobOwnedError, StoreError
from tests.engine.world import FOR_GOOD, STATUS, Bucket, Dice, Killed, Process, World

CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
MODELS = ("gpt-5-mini", "gpt-5-nano")
SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
NAMED = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": False}}

ENOUGH = 80
"""Advances within which a job ends once nothing goes wrong any more."""


def request_line(number, model, prompt):
    body = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    return {"custom_id": f"user {number}", "method": "POST", "url": CHAT, "body": body, "mark": number}


ROWS = st.one_of(
    st.lists(st.text(max_size=4), min_size=1, max_size=10).map(
        lambda texts: (CHAT, [{"prompt": text, "n": n, "custom_id": f"r{n + 1}"} for n, text in enumerate(texts)])
    ),
    st.lists(st.sampled_from(MODELS), min_size=1, max_size=10).map(
        lambda models: (CHAT, [request_line(n, model, "x" * n) for n, model in enumerate(models)])
    ),
    st.lists(st.integers(0, 3), min_size=1, max_size=10).map(
        lambda sizes: (EMBEDDINGS, [{"input": ["t"] * size if size else "one", "n": n} for n, size in enumerate(sizes)])
    ),
)


@st.composite
def jobs(draw):
    """Rows and the options of a job over them."""
    endpoint, rows = draw(ROWS)
    structured = endpoint == CHAT and "prompt" in rows[0] and draw(st.booleans())
    return rows, {
        "request": RequestSpec(model="gpt-5-mini", endpoint=endpoint, response_format=NAMED if structured else None),
        "requests_per_batch": draw(st.integers(3 if endpoint == EMBEDDINGS else 1, 10)),
        "max_rounds": draw(st.integers(1, 3)),
        "max_enqueued_tokens": draw(st.sampled_from([None, None, 50, 1])),
    }


class Play:
    """A job in a world, process after process, until it is done."""

    def __init__(self, data, fs, rows, options):
        self.dice = Dice(data)
        self.rows, self.options = rows, options
        self.fs = fs
        self.inline = options["submission"] == "inline"
        # Without a file, metadata is all that a lost create is known by.
        self.world = World(self.dice, keeps_metadata=self.inline)
        self.world.structured = options["request"].response_format is not None
        self.process = None
        self.deaths = 0
        self.overtakes = 0
        self.stopped = False

    def make_job(self, store, api):
        options = dict(self.options)
        if self.world.mine() and not self.world.calm and self.dice.one_in(6):
            # What a user may change between two tries.
            options["requests_per_batch"] = self.dice.pick(3, 5, 10)
            options["metadata"] = {"new": "pair"}
        spec = JobSpec(owner={"task": "t"}, **options)
        return Job(
            store, api, spec, lambda: open_source(self.rows), clock=self.world.clock, rules=Rules(plan_patience=0.0)
        )

    def advance(self):
        """Run the job's process on, or a new one where the last died; None where it ended in an error."""
        if self.process is None or self.process.dead or (not self.world.calm and self.dice.one_in(4)):
            self.process = Process(self.world, self.fs, self.make_job)
        process, fresh = self.process, self.process.fresh
        process.fresh = False
        stop = "landed" if self.world.calm else self.dice.pick("landed", "landed", "landed", "ended", "submitted")
        try:
            if not self.world.calm and not fresh and self.dice.one_in(10):
                again = self.dice.one_in(2)
                self.stopped = self.stopped or not again
                process.job.cancel("killed", again=again)
            return advance(process.job, stop=stop, new_try=fresh)
        except Killed:
            self.deaths += 1
        except (APIError, StoreError, JobOwnedError):
            if self.world.calm:
                raise
        self.process = None
        return None

    def another(self, point):
        """Another attempt at the job, while the first is stopped where it stands."""
        # A process that stands still within the create call of requests that are sent inline is beyond help.
        if self.inline and point.startswith("create_batch"):
            return
        # Between an intent and its create is where it would hurt most.
        if self.world.calm or not self.dice.one_in(4 if point.startswith("create_batch") else 20):
            return
        first, self.process = self.process, None
        for _ in range(self.dice.pick(2, 1, 4, 8)):
            outcome = self.advance()
            self.pass_time(outcome)
            self.world.work()
            if isinstance(outcome, Done):
                break
        self.overtakes += 1
        self.process = first

    def pass_time(self, outcome):
        world = self.world
        until = outcome.until if isinstance(outcome, Waiting) else None
        if world.calm:
            world.now = max(world.now + 1, until or 0)
        else:
            step = self.dice.pick("no time", "its time", "a second", "a minute", "a day")
            seconds = {"no time": 0, "its time": max((until or 0) - world.now, 0), "a second": 1, "a minute": 61}
            world.now += seconds.get(step, 90_000)

    def run(self):
        """:return: the manifest."""
        stormy = self.dice.upto(20)
        for number in range(stormy + ENOUGH):
            if number == stormy:
                self.world.calm = True
                if self.process:
                    self.process.calm()
            outcome = self.advance()
            if isinstance(outcome, Done):
                return outcome.manifest
            self.pass_time(outcome)
            self.world.work()
        raise AssertionError(f"not done in {ENOUGH} advances without a fault: {outcome}")


def results_of(fs, manifest):
    store = Store(fs, "/job", "bucket://job") if isinstance(fs, Bucket) else Store.at(str(fs))
    names = [name.removeprefix(store.url + "/") for name in manifest["files"]]
    return [json.loads(line) for name in names for line in store.read(name).split(b"\n") if line]


def expected_ids(rows):
    return [row.get("custom_id") or f"r{n}" for n, row in enumerate(rows)]


def judge_rows(play, lines):
    """One result a row, in order, each saying what the service answered."""
    runs = {run.batch.id: run for run in play.world.mine()}
    assert [line["row"] for line in lines] == list(range(len(play.rows)))
    assert [line["custom_id"] for line in lines] == expected_ids(play.rows)
    for line, row in zip(lines, play.rows, strict=True):
        wire = f"r{line['row']}"
        left_out = {"custom_id", "method", "url", "body"} if "body" in row else set()
        assert line["input"] == {name: value for name, value in row.items() if name not in left_out}
        answers = {run.batch.id: run.answers[wire] for run in runs.values() if wire in run.answers}
        good = {batch: answer for batch, answer in answers.items() if answer in FOR_GOOD}
        assert len(good) <= 1
        told = line["status"]
        if good:
            ((batch, answer),) = good.items()
            # An answer out of shape is better than none: it stays where the row's next try was turned down.
            kept = answer == "client_error" and "invalid" in answers.values()
            assert told == ("invalid" if kept else STATUS.get(answer, answer)), line
            assert kept or line["batch_id"] == batch, line
        elif told in {"expired", "cancelled"}:
            ran_in = [run for run in runs.values() if wire in {request["custom_id"] for request in run.requests}]
            # Where lines were lost, a row without one may have been among those that never ran.
            silent = any(run.batch.status == told or run.alive for run in ran_in)
            assert told in answers.values() or silent or (told == "cancelled" and play.stopped), line
        elif told == "invalid":
            assert told in answers.values(), line
        else:
            assert told in {"failed", "missing"}, line
        judge_output(line, runs)


def judge_output(line, runs):
    if line["status"] != "succeeded":
        return
    run = runs[line["batch_id"]]
    text = f"r{line['row']} by {run.batch.id}"
    body = run.outputs[f"r{line['row']}"]
    if "data" in body:
        vectors = [item["embedding"] for item in body["data"]]
        assert line["output"] == (vectors[0] if len(vectors) == 1 else vectors)
    else:
        assert line["output"] in ({"text": text}, text)


def judge_manifest(play, manifest, lines):
    """The figures add up, are those of the results, and of what was billed."""
    statuses = Counter(line["status"] for line in lines)
    assert manifest["rows"] == {"total": len(lines), **{status: statuses[status] for status in STATUSES}}
    runs = play.world.mine()
    assert sorted(manifest["batches"]) == sorted(run.batch.id for run in runs)
    assert manifest["usage"]["total_tokens"] == sum(run.usage.total() for run in runs)
    models = Counter(row.get("body", {}).get("model", "gpt-5-mini") for row in play.rows)
    assert {name: told["rows"] for name, told in manifest["models"].items()} == models
    billed = sum((run.usage for run in runs), Counter())
    assert {name: told["total_tokens"] for name, told in manifest["models"].items() if told["total_tokens"]} == +billed
    noise = sum((run.noise for run in runs), Counter())
    assert {kind: count for kind, count in manifest["noise"].items() if count} == +noise


def judge_world(play):
    """What isn't the job's is as it was; of the job's own files nothing is left but what couldn't be deleted."""
    world = play.world
    assert not world.theirs & set(world.touched)
    assert all(world.runs[name].alive for name in world.theirs if name in world.runs)
    left = {file_id for file_id, (_file, content) in world.files.items() if content is not None}
    known = {run.batch.input_file_id for run in world.mine()}
    known |= {id_ for run in world.mine() for id_ in (run.batch.output_file_id, run.batch.error_file_id)}
    assert not (left - world.theirs - world.undeletable) & known


SETTINGS = settings(
    deadline=None,
    report_multiple_bugs=False,
    max_examples=int(os.environ.get("PROPERTY_EXAMPLES", "100")),
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)


def play_and_judge(data, job, *, on_bucket, attempts, submission="file"):
    rows, options = job
    options = {**options, "submission": submission}
    ids = iter(range(1, 10**6))
    known_ids = SimpleNamespace(uuid4=lambda: uuid.UUID(int=next(ids) << 96))
    digests = mock.patch.object(journal_module, "DIGEST_EVERY", 1)
    with mock.patch.object(opener_module, "uuid", known_ids), digests, tempfile.TemporaryDirectory() as folder:
        fs = Bucket() if on_bucket else Path(folder, "out")
        play = Play(data, fs, rows, options)
        if attempts > 1:
            play.world.intrude = play.another
        try:
            manifest = play.run()
            lines = results_of(fs, manifest)
            judge_rows(play, lines)
            judge_manifest(play, manifest, lines)
            judge_world(play)
        except BaseException:
            note("\n".join(play.world.trace))
            raise
        event(f"rounds: {manifest['rounds']}")
        event(f"batches: {min(len(manifest['batches']), 6)}")
        event(f"deaths: {min(play.deaths, 4)}")
        event(f"overtakes: {min(play.overtakes, 4)}")


@SETTINGS
@given(st.data(), jobs(), st.booleans())
def test_whatever_happens_every_row_has_one_result_and_none_is_bought_twice(data, job, on_bucket):
    play_and_judge(data, job, on_bucket=on_bucket, attempts=1)


@SETTINGS
@given(st.data(), jobs(), st.booleans())
def test_requests_that_are_sent_inline_have_one_result_each_and_none_is_bought_twice(data, job, on_bucket):
    play_and_judge(data, job, on_bucket=on_bucket, attempts=1, submission="inline")


@SETTINGS
@given(st.data(), jobs(), st.booleans())
def test_attempts_that_send_inline_and_overtake_one_another_buy_nothing_twice(data, job, on_bucket):
    play_and_judge(data, job, on_bucket=on_bucket, attempts=2, submission="inline")


@SETTINGS
@given(st.data(), jobs(), st.booleans())
def test_attempts_that_overtake_one_another_anywhere_buy_nothing_twice(data, job, on_bucket):
    play_and_judge(data, job, on_bucket=on_bucket, attempts=2)
