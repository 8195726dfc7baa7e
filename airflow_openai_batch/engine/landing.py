"""The end of a job: its results in the format that is wanted, its files at OpenAI deleted, its manifest."""

from __future__ import annotations

import logging
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import orjson

from airflow_openai_batch.engine.bill import describe_bill
from airflow_openai_batch.engine.formats import open_format
from airflow_openai_batch.engine.journal import MANIFEST
from airflow_openai_batch.engine.manifest import build_manifest, tidy
from airflow_openai_batch.engine.results import RESULTS, Landing, Tally
from airflow_openai_batch.engine.sift import KEYS
from airflow_openai_batch.engine.sifted import Harvest
from airflow_openai_batch.exceptions import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_openai_batch.engine.answers import Check
    from airflow_openai_batch.engine.job import Job
    from airflow_openai_batch.engine.journal import JobState
    from airflow_openai_batch.engine.money import Account
    from airflow_openai_batch.engine.records import JobRecord

log = logging.getLogger(__name__)


class Lander:
    """Lands one job."""

    def __init__(self, job: Job, record: JobRecord, account: Account, check: Check | None) -> None:
        self._job = job
        self._record = record
        self._account = account
        self._check = check

    def land_parts(self, state: JobState, harvest: Harvest | None = None) -> Tally:
        """Land all parts in the format that is wanted."""
        record, spec = self._record, self._job.spec
        format_ = open_format(
            str(spec.result_format or record.settings.get("result_format") or "jsonl"),
            columns=record.plan.columns,
            response_format=record.parameters.get("response_format"),
            endpoint=str(record.parameters["endpoint"]),
            cached=record.sifting is not None,
        )
        landing = Landing(self._job.store, state, self._check, foreign=record.foreign is not None, harvest=harvest)
        return landing.land(record.plan.parts, format_)

    def in_format(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Land a finished job again where its results are wanted in another format; it costs nothing.

        The old files stay: the manifests of other tasks name them.
        """
        job = self._job
        if job.spec.result_format in {None, manifest["format"]}:
            return manifest
        log.info("Landing %s again: as %s, not %s", job.store.url, job.spec.result_format, manifest["format"])
        tally = self.land_parts(job.journal.state(self._record))
        manifest = {**manifest, "format": tally.format, "files": tally.files}
        job.store.put(MANIFEST, orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
        return manifest

    def land(self, state: JobState) -> dict[str, Any]:
        """Land all parts, delete what is left at OpenAI, and write the manifest."""
        job, plan = self._job, self._record.plan
        log.info("Landing %s rows at %s", f"{plan.rows:,}", job.store.address(RESULTS))
        bill = self._account.bill(state)
        with self._harvest() as harvest:
            manifest = build_manifest(self._record, state, self.land_parts(state, harvest), bill, job.clock())
        if job.spec.delete_files and self._record.foreign is None:
            tidy(job.api, state)
        job.store.put(MANIFEST, orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
        job.store.sweep()
        rows = ", ".join(f"{count:,} {status}" for status, count in manifest["rows"].items() if count)
        log.info("Landed %s: %s", job.store.url, rows)
        for line in describe_bill(bill):
            log.info("%s", line)
        return manifest

    @contextmanager
    def _harvest(self) -> Iterator[Harvest | None]:
        """Give what takes answers for the cache, and bring them there when all is landed.

        A cache that can't be written costs the next job money, not this one its results.
        """
        cache = self._job.cache() if self._record.sifting is not None else None
        if cache is None or not self._job.store.exists(KEYS):
            yield None
            return
        with closing(Harvest(self._job.store)) as harvest:
            yield harvest
            try:
                log.info("Added %s answers to the cache", f"{harvest.bring(cache, self._record.job):,}")
            except StoreError as error:
                log.warning("The cache at %s couldn't be added to: %s", self._job.spec.cache, error)
