"""A batch that was made elsewhere, landed here: its rows are the lines of its input file, under the user's own ids.

From then on it is a job like any other, of one shard that has been submitted already and of which no row goes again.
"""

from __future__ import annotations

import logging
import tempfile
import uuid
from typing import TYPE_CHECKING

import orjson

from airflow_openai_batch.engine.answers import parse_line
from airflow_openai_batch.engine.journal import VERSION, Journal
from airflow_openai_batch.engine.late import LOOK_AGAIN, may_come, names_too_little
from airflow_openai_batch.engine.models import Key, Part, Plan, Shard, Waiting
from airflow_openai_batch.engine.planner import JOINTS
from airflow_openai_batch.engine.records import BatchRecord, IntentRecord, JobRecord
from airflow_openai_batch.engine.shards import SHARDS
from airflow_openai_batch.exceptions import BatchEndedError, JobMismatchError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from airflow_openai_batch.engine.api import BatchAPI
    from airflow_openai_batch.engine.models import BatchSnapshot
    from airflow_openai_batch.engine.store import Store

log = logging.getLogger(__name__)

_PIECE = 1 << 20


def take_over(store: Store, api: BatchAPI, batch_id: str, clock: Callable[[], float]) -> JobRecord | Waiting:
    """Make a job of a batch that has ended.

    :return: the job's record, or what to wait for: the batch while it runs, or files of it that may still come.
    :raises JobMismatchError: the destination holds something else.
    :raises BatchEndedError: the batch left nothing that could be landed.
    """
    journal = Journal(store)
    record = journal.job()
    if record is None:
        snapshot = api.retrieve_batch(batch_id)
        if not snapshot.ended:
            return Waiting((batch_id,), "all", None, f"batch {batch_id} is {snapshot.status}")
        late = may_come(snapshot, snapshot.created_at, clock())
        try:
            record = None if late and names_too_little(snapshot) else _plan(store, journal, api, snapshot, clock)
        except NotFoundError:
            if not late:
                raise
        if record is None:
            until = clock() + LOOK_AGAIN
            return Waiting((), "all", until, f"batch {batch_id} has ended, but not all of its files are there yet")
    if record.foreign != batch_id:
        raise JobMismatchError(f"{store.url} holds job {record.job}, which isn't batch {batch_id}'s")
    key = Key(0, 0, 0)
    journal.write(key, IntentRecord(record.created_at, "", 0.0))
    journal.write(key, BatchRecord(record.created_at, batch_id, adopted=True))
    return record


def _plan(
    store: Store, journal: Journal, api: BatchAPI, snapshot: BatchSnapshot, clock: Callable[[], float]
) -> JobRecord:
    rows = 0
    model = ""
    size = 0
    name = f"{SHARDS}/00000.jsonl"
    with (
        tempfile.TemporaryFile(prefix="openai-batch-") as spool,
        store.publish(name) as shard_file,
        store.publish(f"{JOINTS}/00000.jsonl") as joint_file,
    ):
        for line in _input_lines(api, snapshot, spool):
            value = parse_line(line)
            if value is None:
                continue
            body = value.get("body")
            model = model or str(body.get("model", "") if isinstance(body, dict) else "")
            custom_id = orjson.dumps(value["custom_id"])
            shard_file.write(line)
            joint_file.write(b'{"shard":0,"row":%d,"custom_id":%b,"input":{}}\n' % (rows, custom_id))
            size += len(line)
            rows += 1
    if not rows:
        store.remove([name, f"{JOINTS}/00000.jsonl"])
        reasons = "; ".join(f"{issue.code}: {issue.message}" for issue in snapshot.errors[:5])
        raise BatchEndedError(
            f"Batch {snapshot.id} ended as {snapshot.status} and has no rows to land: its input file is gone and it "
            f"returned none. {reasons}"
        )
    shard = Shard(0, 0, rows, size, model, 0, rows - 1, None, size // 4, "")
    record = JobRecord(
        version=VERSION,
        job=uuid.uuid4().hex[:12],
        destination=store.url,
        created_at=clock(),
        owner={},
        parameters={"endpoint": snapshot.endpoint, "completion_window": "24h"},
        settings={"max_rounds": 1},
        listing=None,
        plan=Plan(rows, (shard,), (Part(0, 0, rows),), (), ""),
        foreign=snapshot.id,
    )
    if not journal.create_job(record):
        return journal.job() or record
    return record


def _input_lines(api: BatchAPI, snapshot: BatchSnapshot, spool: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of the batch's input, or where that is gone, a stand-in for each row that came back."""
    try:
        api.download(snapshot.input_file_id or "-", spool)
    except NotFoundError:
        log.warning("The input file of batch %s is gone; only rows that came back can be landed", snapshot.id)
    else:
        spool.seek(0)
        for line in spool:
            yield line if line.endswith(b"\n") else line + b"\n"
        return
    seen: set[str] = set()
    for file_id in (snapshot.output_file_id, snapshot.error_file_id):
        if not file_id:
            continue
        spool.seek(0)
        spool.truncate()
        api.download(file_id, spool)
        spool.seek(0)
        for line in spool:
            value = parse_line(line)
            if value is not None and value["custom_id"] not in seen:
                seen.add(value["custom_id"])
                yield orjson.dumps({"custom_id": value["custom_id"]}) + b"\n"
