"""A Batch API in memory that does what hypothesis draws, and says what it was bought.

Two clocks (the job's and the service's, some minutes apart), calls that fail before or after they took effect, batches
that end in every way with every kind of line, and processes that die between any two writes or calls. The world knows
what it answered, so it judges at the moment of every create: no row may be bought while another batch is running it,
nor after it got an answer for good.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
from collections import Counter
from dataclasses import dataclass, field, replace

from fsspec.implementations.memory import MemoryFile, MemoryFileSystem
from hypothesis import strategies as st

from airflow_openai_batch.engine.job import Job
from airflow_openai_batch.engine.models import BatchIssue, BatchSnapshot, Counts, RemoteFile
from airflow_openai_batch.engine.store import Store
from airflow_openai_batch.exceptions import (
    AuthenticationError,
    NotFoundError,
    QueueFullError,
    QuotaError,
    RateLimitError,
    RejectedError,
    StoreError,
    UnreachableError,
)

FOR_GOOD = {"succeeded", "client_error", "refused", "truncated", "filtered"}
"""Answers after which the same request must never be sent again."""

STATUS = {"client_error": "failed", "server_error": "failed", "rate_limited": "failed", "no_call": "failed"}
"""The status of results by the world's word, where they differ."""

HTTP = {"client_error": 400, "server_error": 500, "rate_limited": 429, "no_call": 0}


class Killed(BaseException):
    """The process is dead: no handler of errors sees this."""


class Dice:
    """What hypothesis draws; the first and smallest is always the mildest, so that failures shrink."""

    def __init__(self, data):
        self._draw = data.draw

    def one_in(self, number):
        return self._draw(st.integers(0, number - 1)) == number - 1

    def upto(self, number):
        return self._draw(st.integers(0, number))

    def pick(self, *options):
        return self._draw(st.sampled_from(options))

    def shuffle(self, items):
        seed = self.upto(30)
        if seed:
            random.Random(seed).shuffle(items)


class Bucket(MemoryFileSystem):
    """An object store in memory: what isn't committed isn't there, and readers don't share a position."""

    protocol = "bucket"
    cachable = False

    def __init__(self, **options):
        super().__init__(**options)
        self.store, self.pseudo_dirs = {}, [""]

    def _open(self, path, mode="rb", autocommit=True, **options):
        if mode == "rb" and path in self.store:
            return MemoryFile(self, path, self.store[path].getvalue())
        if mode == "wb" and not autocommit:
            return MemoryFile(self, path)
        return super()._open(path, mode=mode, autocommit=autocommit, **options)

    def cat_file(self, path, start=None, end=None, **_options):
        if self._strip_protocol(path) not in self.store:
            raise FileNotFoundError(path)
        return self.store[self._strip_protocol(path)].getvalue()[start:end]


@dataclass
class Run:
    """A batch as the service has it: its rows, and the first readable answer to each."""

    batch: BatchSnapshot
    requests: list[dict]
    listed_at: float
    answers: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, object] = field(default_factory=dict)
    usage: Counter = field(default_factory=Counter)
    noise: Counter = field(default_factory=Counter)

    @property
    def alive(self):
        return not self.batch.ended


class World:
    """The service, its clock and its ledger.

    :param create_timeout: seconds within which a create arrives; ``grace``: seconds until its batch is listed.
    :param keeps_metadata: whether it surely does.
    """

    def __init__(self, dice, *, create_timeout=30.0, grace=30.0, keeps_metadata=False):
        self.dice = dice
        self.calm = False
        self.weather = dice.pick(40, 12, 5)
        self.now = 1_000_000.0
        self.skew = dice.pick(0.0, 300.0, -300.0)
        self.create_timeout, self.grace = create_timeout, grace
        self.keeps_metadata = not dice.one_in(6) or keeps_metadata
        self.queue_limit = dice.pick(None, None, None, 4)
        self.structured = False
        self.files, self.runs = {}, {}
        self.undeletable = set()
        self.touched = []
        self.intrude = None
        self.processes = 0
        self.trace = []
        self.theirs = self._others()

    def fate(self, *mishaps):
        """``well``, or in bad weather one of the mishaps."""
        return "well" if self.calm or not self.dice.one_in(self.weather) else self.dice.pick(*mishaps)

    # Time and other people.

    def clock(self):
        return self.now

    def server_time(self):
        return float(int(self.now + self.skew))

    def _others(self):
        """Another job's file and batch, running, with metadata like ours."""
        request = {"custom_id": "r0", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m"}}
        file_id = self.put("other-00000.r0.a0.jsonl", json.dumps(request).encode() + b"\n")
        metadata = {"job": "other", "shard": "00000", "round": "0", "attempt": "0"} if self.keeps_metadata else {}
        run = self._begin(file_id, request["url"], metadata, [request])
        return {file_id, run.batch.id}

    def mine(self):
        return [run for run in self.runs.values() if run.batch.id not in self.theirs]

    def put(self, name, content):
        file_id = f"file-{len(self.files):03d}"
        self.files[file_id] = (RemoteFile(file_id, name, len(content), self.server_time()), content)
        return file_id

    def _begin(self, file_id, endpoint, metadata, requests):
        lag = 0.0 if self.calm else float(self.dice.upto(int(self.grace) - 1))
        batch = BatchSnapshot(
            f"batch-{len(self.runs):03d}",
            "validating",
            endpoint,
            file_id,
            created_at=self.server_time(),
            metadata=dict(metadata) if self.keeps_metadata else {},
        )
        run = self.runs[batch.id] = Run(batch, requests, self.now + lag)
        return run

    # The calls, all of which work; a process's own ``ProcessAPI`` makes them fail.

    def upload(self, name, opener):
        with opener() as content:
            file_id = self.put(name, content.read())
        return self.files[file_id][0]

    def files_named(self, name, *, since):
        found = [file for file, content in self.files.values() if content is not None and file.name == name]
        assert all(file.created_at >= since for file in found)
        return found[::-1]

    def find_file(self, file_id):
        self.touched.append(file_id)
        file, content = self.files.get(file_id, (None, None))
        return file if content is not None else None

    def delete_file(self, file_id):
        self.touched.append(file_id)
        if file_id in self.files:
            self.files[file_id] = (self.files[file_id][0], None)

    def create_batch(self, *, input_file_id=None, input_file_content=None, endpoint, metadata, **_more):
        if input_file_content is not None:
            requests = [json.loads(line) for line in input_file_content.split("\n") if line]
            self._judge(requests)
            return self._begin(None, endpoint, metadata, requests).batch
        self.touched.append(input_file_id)
        file, content = self.files.get(input_file_id, (None, None))
        if content is None:
            raise RejectedError(f"Cannot find file '{input_file_id}'", status=400)
        assert file.bytes == len(content)
        requests = [json.loads(line) for line in content.splitlines()]
        self._judge(requests)
        return self._begin(input_file_id, endpoint, metadata, requests).batch

    def _judge(self, requests):
        """Nothing is bought twice."""
        for request in requests:
            wire = request["custom_id"]
            for run in self.mine():
                if wire in {other["custom_id"] for other in run.requests}:
                    assert not run.alive, f"{wire} is bought again while {run.batch.id} runs it"
                    assert run.answers.get(wire) not in FOR_GOOD, f"{wire} has its answer from {run.batch.id}"
            bad = [run.batch.id for run in self.mine() if run.answers.get(wire) == "invalid"]
            assert len(bad) < 2, f"{wire} was answered out of shape by {bad} and is bought again"

    def retrieve_batch(self, batch_id):
        self.touched.append(batch_id)
        return self.runs[batch_id].batch

    def list_batches(self):
        return [run.batch for run in reversed(self.runs.values()) if run.listed_at <= self.now]

    def cancel_batch(self, batch_id):
        self.touched.append(batch_id)
        run = self.runs[batch_id]
        if run.alive:
            run.batch = replace(run.batch, status="cancelling")
        return run.batch

    def download(self, file_id, target):
        self.touched.append(file_id)
        content = self.files[file_id][1]
        if content is None:
            raise NotFoundError(f"no {file_id}", status=404)
        return target.write(content)

    # Batches run.

    def work(self):
        """Let batches go on; in calm weather all end well."""
        for run in self.mine():
            if not run.alive:
                continue
            if self.calm:
                self._end(run, "cancelled" if run.batch.status == "cancelling" else "completed")
            elif not self.dice.one_in(3):
                ends = ("cancelled", "completed") if run.batch.status == "cancelling" else _ENDS
                self._end(run, self.dice.pick(*ends))

    def _end(self, run, how):
        dice = self.dice
        requests = list(run.requests)
        status, issues, lines = how, (), True
        ran = len(requests)
        if how in {"expired", "cancelled"}:
            ran = ran if self.calm else dice.upto(ran)
        elif how == "queue_full":
            limit = "" if self.queue_limit is None else f" Limit: {self.queue_limit} enqueued tokens."
            message = f"Enqueued token limit reached.{limit}"
            status, issues, lines = "failed", (BatchIssue("token_limit_exceeded", message),), False
        elif how == "no_file":
            issue = BatchIssue("invalid_request", f"Cannot find file {run.batch.input_file_id}, or organization x")
            status, issues, lines = "failed", (issue,), False
        elif how == "failed":
            bad = [number for number in range(1, ran + 1) if dice.one_in(3)]
            issues = tuple(BatchIssue("invalid_row", "bad", None, number) for number in bad)
            if not bad or dice.one_in(3):
                issues += (BatchIssue("invalid", "bad file"),)
            lines = False
        done, failed = [], []
        if lines:
            self._answer(run, requests[:ran], requests[ran:], how, done, failed)
        self.trace.append(f"{self.now - 1_000_000:6.0f} {run.batch.id} ends: {how}")
        output_id, error_id = (None if how in _NOTHING else self._written(run, part) for part in (done, failed))
        run.batch = replace(
            run.batch,
            status=status,
            ended_at=self.dice.pick(self.server_time(), None),
            output_file_id=output_id,
            error_file_id=error_id,
            counts=Counts(len(requests), len(done), len(failed)),
            errors=issues,
        )

    def _answer(self, run, ran, left, how, done, failed):
        for request in ran:
            kind = "succeeded" if self.calm else self.dice.pick(*_KINDS)
            kind = _as_endpoint_has(kind, request["url"], structured=self.structured)
            line = _line(request, kind, f"{request['custom_id']} by {run.batch.id}", structured=self.structured)
            place = failed if kind in HTTP else done
            place.append((request["custom_id"], kind, line))
        for request in left:
            error = {"code": f"batch_{how}", "message": "never ran"}
            failed.append((request["custom_id"], how, {"custom_id": request["custom_id"], "error": error}))
        if not self.calm:
            for part in (done, failed):
                self.dice.shuffle(part)

    def _written(self, run, lines):
        """Write a file of answers, spoilt as drawn, and note in the ledger what can be read of it."""
        out = io.BytesIO()
        if not lines:
            return self.put("empty.jsonl", b"") if not self.calm and self.dice.one_in(3) else None
        if not self.calm and self.dice.one_in(12):
            return None
        for wire, kind, line in lines:
            whole = json.dumps(line).encode()
            fate = "whole" if self.calm else self.dice.pick(*_FATES)
            if fate == "lost":
                continue
            if fate == "garbled":
                out.write(whole[: len(whole) // 2] + b"\n")
                run.noise["unreadable"] += 1
                continue
            if fate == "stray":
                text, noise = self.dice.pick(*_STRAYS)
                out.write(text + b"\n")
                run.noise[noise] += bool(noise)
            out.write(whole + b"\n")
            if wire in run.answers:
                run.noise["duplicate"] += 1
            else:
                run.answers[wire] = kind
                response = line.get("response") or {}
                body = response.get("body") if response.get("status_code") == 200 else {}
                run.outputs[wire] = body
                model = next(r["body"]["model"] for r in run.requests if r["custom_id"] == wire)
                run.usage[model] += (body or {}).get("usage", {}).get("total_tokens", 0)
            if fate == "twice":
                out.write(whole + b"\n")
                run.noise["duplicate"] += 1
        content = out.getvalue()
        if not self.calm and self.dice.one_in(4):
            content = content.removesuffix(b"\n")
        return self.put("answers.jsonl", content)


_ENDS = ("completed", "completed", "completed", "expired", "cancelled", "failed", "queue_full", "no_file")
_NOTHING = {"queue_full", "no_file"}
_KINDS = (*["succeeded"] * 6, "client_error", "server_error", "rate_limited", "no_call", "invalid", "refused")
_KINDS += ("truncated", "filtered")
_FATES = (*["whole"] * 8, "lost", "garbled", "twice", "stray")
_STRAYS = (
    (b'{"custom_id":"r9999","error":{"code":"batch_expired"}}', "unknown"),
    (b'{"custom_id":"theirs","response":{"status_code":200,"body":{"usage":{"total_tokens":7}}}}', "unknown"),
    (b'{"custom_id":"r00","response":{"status_code":200,"body":{"usage":{"total_tokens":7}}}}', "unknown"),
    (b'{"custom_id":"r' + b"9" * 5_000 + b'"}', "unknown"),
    (b'{"custom_id":"","response":null}', "unknown"),
    (b'{"custom_id":7}', "unreadable"),
    (b"[]", "unreadable"),
    (b"\xff\xfe", "unreadable"),
    (b"", ""),
    (b"  \r", ""),
)


def _as_endpoint_has(kind, url, *, structured):
    """Embeddings are neither refused nor cut; an answer can be out of shape anywhere."""
    if url.endswith("/embeddings") and kind in {"refused", "truncated", "filtered"}:
        return "succeeded"
    return kind


def _line(request, kind, text, *, structured):
    response = {"status_code": HTTP.get(kind, 200), "body": None}
    if kind in HTTP:
        response["body"] = {"error": {"code": kind, "message": "no"}}
    elif request["url"].endswith("/embeddings"):
        given = request["body"]["input"]
        inputs = given if isinstance(given, list) else [given]
        data = [{"index": n, "embedding": [float(len(str(item)))]} for n, item in enumerate(inputs)]
        response["body"] = {"object": "list", "data": None if kind == "invalid" else data}
    else:
        message = {"role": "assistant", "content": json.dumps({"text": text}) if structured else text}
        if kind == "refused":
            message["refusal"] = "no"
        if kind == "invalid" and structured:
            message["content"] = "{"
        reason = {"truncated": "length", "filtered": "content_filter"}.get(kind, "stop")
        choices = [] if kind == "invalid" and not structured else [{"message": message, "finish_reason": reason}]
        response["body"] = {"object": "chat.completion", "choices": choices}
    if response["status_code"] == 200:
        tokens = 10 + len(text)
        response["body"] |= {"model": "served", "usage": {"prompt_tokens": 10, "total_tokens": tokens}}
    return {"custom_id": request["custom_id"], "response": response, "error": None}


class Process:
    """One process that runs the job, with its own point of death: that many writes and calls from now."""

    def __init__(self, world, fs, make_job):
        self.world = world
        self.fuse = None if world.calm or world.dice.one_in(2) else world.dice.upto(50)
        self.dead = False
        world.processes += 1
        self.number = world.processes
        self.fresh = True
        store = ProcessStore(fs, "/job", "bucket://job") if isinstance(fs, Bucket) else ProcessStore.at(str(fs))
        store.process = self
        self.job = make_job(store, ProcessAPI(self))
        assert isinstance(self.job, Job)

    def point(self, name):
        """Live on, or not."""
        self.world.trace.append(f"{self.world.now - 1_000_000:6.0f} process {self.number}: {name}")
        if self.fuse == 0:
            self.dead = True
        if self.dead:
            raise Killed
        if self.fuse is not None:
            self.fuse -= 1
        intrude, self.world.intrude = self.world.intrude, None
        if intrude:
            # This process is stopped here while another attempt goes on; whatever comes next, it does not know of it.
            try:
                intrude(name)
            finally:
                self.world.intrude = intrude

    def calm(self):
        self.fuse = None


class ProcessStore(Store):
    """The store as one process writes to it."""

    process = None

    def create(self, name, content):
        self.process.point(f"create {name}")
        world = self.process.world
        fate = "well" if world.calm or not world.dice.one_in(3) else world.fate("fails", "fails late", "repeated")
        if fate == "fails":
            raise StoreError(f"can't write {name}")
        created = super().create(name, content)
        if fate == "fails late":
            raise StoreError(f"no answer to writing {name}")
        self.process.point(f"created {name}: {created}")
        # A client below us that repeats a write whose answer was lost is told that the name is taken.
        return False if fate == "repeated" else created

    @contextlib.contextmanager
    def publish(self, name):
        self.process.point(f"write {name}")
        with super().publish(name) as file:
            yield file
            self.process.point(f"publish {name}")
        self.process.point(f"published {name}")


class ProcessAPI:
    """The service as one process reaches it: calls fail before or after they took effect."""

    def __init__(self, process):
        self._process = process
        self._world = process.world

    def __getattr__(self, name):
        method = getattr(self._world, name)

        def call(*args, **kwargs):
            self._process.point(f"{name} {args[:1]}")
            fate = self._world.fate("fails", "limited", "lost")
            if fate == "fails":
                if name == "delete_file":
                    self._world.undeletable.add(args[0])
                raise UnreachableError(f"{name}: 500", status=500)
            if fate == "limited":
                if name == "delete_file":
                    self._world.undeletable.add(args[0])
                raise RateLimitError(f"{name}: 429", status=429)
            value = method(*args, **kwargs)
            if fate == "lost":
                raise UnreachableError(f"{name}: no answer")
            self._process.point(f"after {name}")
            return value

        return call

    def create_batch(self, **arguments):
        """A create arrives within its time or not at all, and its answer likewise."""
        world = self._world
        self._process.point(f"create_batch {arguments['metadata']} {arguments.get('input_file_id')}")
        start = world.now
        fate = "well" if world.calm or not world.dice.one_in(max(2, world.weather // 4)) else world.dice.pick(*_CREATES)
        if fate != "well":
            world.now = start + world.dice.upto(int(world.create_timeout))
        if fate in _REFUSALS:
            limit = "" if world.queue_limit is None else f" Limit: {world.queue_limit} enqueued tokens."
            raise _REFUSALS[fate](f"{fate}.{limit}")
        if fate == "never arrived":
            raise UnreachableError("no answer to the create")
        batch = world.create_batch(**arguments)
        if fate == "answer lost":
            world.now = start + world.create_timeout
            raise UnreachableError("no answer to the create")
        self._process.point(f"after create_batch: {batch.id}")
        return batch

    def list_batches(self):
        world = self._world
        self._process.point("list_batches")
        fate = world.fate("breaks", "breaks later")
        for number, batch in enumerate(world.list_batches()):
            if fate != "well" and number == (fate == "breaks later"):
                raise UnreachableError("listing broke")
            yield batch

    def download(self, file_id, target):
        world = self._world
        self._process.point(f"download {file_id}")
        if world.fate("breaks") != "well":
            target.write(b'{"custom_id":"r0","resp')
            raise UnreachableError("download broke")
        size = world.download(file_id, target)
        self._process.point(f"after download {file_id}")
        return size


_CREATES = ("answer lost", "answer lost", "never arrived", "Cannot find file 'x'", "too many requests")
_CREATES += ("Enqueued token limit reached", "no credit", "bad key", "too many batches")
_REFUSALS = {
    "Cannot find file 'x'": RejectedError,
    "too many requests": RateLimitError,
    "Enqueued token limit reached": QueueFullError,
    "no credit": QuotaError,
    "bad key": AuthenticationError,
    "too many batches": RejectedError,
}
