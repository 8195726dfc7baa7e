"""What a job is: all that a user says of it, and the job itself at its destination. One destination is one job."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal

from airflow_openai_batch.engine.cancelling import Halt, cancel_all
from airflow_openai_batch.engine.journal import JOB, Journal
from airflow_openai_batch.engine.lifecycle import Rules
from airflow_openai_batch.engine.manifest import tidy
from airflow_openai_batch.engine.opener import Opener
from airflow_openai_batch.engine.requests import RequestSpec
from airflow_openai_batch.engine.routing import DIRECT_AT_ONCE, Route, deadline_at, direct_from, way
from airflow_openai_batch.engine.steps import Resolve
from airflow_openai_batch.exceptions import JobMismatchError, JournalError

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_openai_batch.engine.api import BatchAPI
    from airflow_openai_batch.engine.cache import Cache
    from airflow_openai_batch.engine.inline import Submission
    from airflow_openai_batch.engine.records import JobRecord
    from airflow_openai_batch.engine.sources import Source
    from airflow_openai_batch.engine.store import Store

log = logging.getLogger(__name__)

MAX_METADATA = 16
"""Pairs of metadata that a batch may have (API reference); four are ours."""


@dataclass(frozen=True)
class JobSpec:
    """All that a user says of a job, but for the source and the destination.

    :param request: what shapes the requests.
    :param submission: ``file``: shards are uploaded; ``inline``: they are sent in the create call, for gateways.
    :param requests_per_batch: 50,000 at OpenAI.
    :param bytes_per_batch: 209,715,200 at OpenAI.
    :param completion_window: ``24h`` at OpenAI; gateways take others.
    :param metadata: the user's own pairs, at most 12; ours are ``job``, ``shard``, ``round`` and ``attempt``.
    :param owner: what identifies the caller; equal owners are tries of one task instance.
    :param max_rounds: tries a row may have.
    :param max_enqueued_tokens: estimated input tokens in flight at once, None for no limit of ours.
    :param timeout: seconds from the first submission, None for no limit.
    :param delete_files: delete the job's files at OpenAI once all of it is landed.
    :param output_expires_after: seconds after which OpenAI drops output files, None for its default.
    :param result_format: of the results' files (:data:`~models.RESULT_FORMATS`); None: the one that they have already,
        or that the job was begun with.
    :param url: how requests and batches name the endpoint, where the server has another path for it.
    :param on_input_change: ``fail``, or ``restart``: cancel what runs, keep the old folder under a dated name.
    :param deduplicate: send equal requests once; the others share the answer.
    :param canary: rows, up to 1,000, that are asked first, directly; the job goes on if enough of them do well.
    :param canary_max_failed: the share of them (0 to 1) that may be without.
    :param cache: folder with answers of earlier jobs, that are taken and added to; None for none.
    :param cache_ttl: seconds after which an answer there is too old, None for never.
    :param max_cost_usd: what the job may cost, None for no cap.
    :param max_direct_cost_usd: what of it may be spent on direct calls, None for no cap of their own.
    :param prices: as :func:`~prices.check_prices` returns them.
    :param assume_batch_discount: take half of the standard price where no batch rate is known.
    :param route: ``batch``, ``direct``: one by one; ``auto``: directly if the job is small.
    :param direct_below: rows below which a job is small.
    :param deadline: as :func:`~routing.check_deadline` returns it.
    :param direct_at_once: direct calls under way at once.
    :param single_writer: the user makes sure that one process at a time works on the destination, so a store without
        exclusive create will do.
    """

    request: RequestSpec = field(default_factory=RequestSpec)
    submission: Submission = "file"
    requests_per_batch: int = 50_000
    bytes_per_batch: int = 209_715_200
    completion_window: str = "24h"
    metadata: dict[str, str] = field(default_factory=dict)
    owner: dict[str, str] = field(default_factory=dict)
    max_rounds: int = 2
    max_enqueued_tokens: int | None = None
    timeout: float | None = None
    delete_files: bool = True
    output_expires_after: int | None = None
    result_format: str | None = "jsonl"
    url: str | None = None
    on_input_change: Literal["fail", "restart"] = "fail"
    deduplicate: bool = False
    canary: int = 0
    canary_max_failed: float = 0.2
    cache: str | None = None
    cache_ttl: float | None = None
    max_cost_usd: float | None = None
    max_direct_cost_usd: float | None = None
    prices: dict[str, Any] | None = None
    assume_batch_discount: bool = False
    route: Route = "batch"
    direct_below: int = 100
    deadline: float | str | None = None
    direct_at_once: int = DIRECT_AT_ONCE
    single_writer: bool = False

    def parameters(self) -> dict[str, Any]:
        """Return what a change of must not go unnoticed: it would make other requests, or other results."""
        request = self.request
        return {
            "prompt": request.prompt,
            "system": request.system,
            "model": request.model,
            "endpoint": request.endpoint,
            "body": request.body,
            "response_format": request.response_format,
            "image_columns": request.image_columns,
            "image_root": request.image_root,
            "image_detail": request.image_detail,
            "completion_window": self.completion_window,
        }

    def settings(self) -> dict[str, Any]:
        """Return the rest, kept with the job for steps that have only its address."""
        left_out = {"request", "owner", "completion_window"}
        return {name: value for name, value in self.__dict__.items() if name not in left_out}

    @classmethod
    def of(cls, record: JobRecord) -> JobSpec:
        """Return the specification that a job was begun with."""
        parameters = dict(record.parameters)
        window = str(parameters.pop("completion_window"))
        return cls(RequestSpec(**parameters), completion_window=window, owner=record.owner, **record.settings)


class Job:
    """One job at one destination.

    :param store: the destination.
    :param api: the Batch API.
    :param spec: what the user wants.
    :param source: returns the source; called only when there is no plan yet, or its files must be compared.
    :param record: the job's record, where it is only gone on with.
    :param is_live: whether another owner of the job is at work at this moment.
    :param rules: replaces the timing rules (tests, gateways).
    :param clock: seconds of the epoch.
    :param at_once: uploads and downloads under way at once.
    :param resumed: the same try goes on after a deferral, so the source needn't be compared with the plan again.
    :param open_store: opens another folder by its URL (the cache's).
    :ivar halt: set when the process was told to end: it buys nothing more.
    """

    def __init__(
        self,
        store: Store,
        api: BatchAPI,
        spec: JobSpec,
        source: Callable[[], Source],
        *,
        record: JobRecord | None = None,
        rules: Rules | None = None,
        is_live: Callable[[dict[str, str]], bool] = lambda _owner: False,
        clock: Callable[[], float] = time.time,
        at_once: int = 1,
        resumed: bool = False,
        open_store: Callable[[str], Store] | None = None,
    ) -> None:
        self.store = store
        self._open_store = open_store
        store.single_writer = spec.single_writer
        self.api = api
        self.spec = spec
        self.clock = clock
        self.at_once = at_once
        self.journal = Journal(store)
        self.rules = replace(rules or Rules(), max_rounds=spec.max_rounds, max_enqueued_tokens=spec.max_enqueued_tokens)
        self._source = source
        self._record = record
        self._is_live = is_live
        self._resumed = resumed
        self.halt = Halt()

    def open(self) -> JobRecord:
        """Return the job's record, planning it if there is none.

        :raises InputError: the source can't be sent.
        :raises JobMismatchError: the destination holds another job.
        """
        if self._record is not None:
            return self._record
        opener = Opener(
            self.store,
            self.journal,
            self.spec,
            self._source,
            clock=self.clock,
            is_live=self._is_live,
            patience=self.rules.plan_patience,
            resumed=self._resumed,
            cache=self.cache,
        )
        try:
            record = opener.existing()
        except JobMismatchError:
            if self.spec.on_input_change != "restart" or self.journal.job() is None:
                raise
            self._give_up_old()
            return self.open()
        self._record = record or opener.plan()
        return self._record

    def cache(self) -> Cache | None:
        """Open the cache, if there is one.

        :raises StoreError: its folder can't be opened.
        """
        if self.spec.cache is None:
            return None
        from airflow_openai_batch.engine.cache import Cache
        from airflow_openai_batch.engine.store import Store

        folder = (self._open_store or Store.at)(self.spec.cache)
        return Cache(folder, ttl=self.spec.cache_ttl, clock=self.clock)

    def rules_for(self, record: JobRecord) -> Rules:
        """Return the rules, with the way that the job's requests go."""
        spec, begun = self.spec, record.created_at
        rows = sum(shard.rows for shard in record.plan.shards)
        due = deadline_at(begun, spec.deadline)
        return replace(
            self.rules,
            way=way(spec.route, rows, spec.direct_below, begun, due),
            direct_from=direct_from(begun, due, rows, spec.direct_at_once),
        )

    def known(self) -> JobRecord:
        """Return the record of a job that must be there already.

        :raises JournalError: it isn't.
        """
        record = self._record or self.journal.job()
        if record is None:
            raise JournalError(f"There is no job at {self.store.url}")
        return record

    def cancel(self, reason: str, *, again: bool = False) -> tuple[str, ...]:
        """Ask for the cancellation of all batches in flight; their finished rows are collected as ever.

        :param again: whether the unfinished rows go again when the job goes on. If not, the job is stopped for good:
            nothing more is bought for it, whoever goes on with it.
        :return: the ids of the batches; none where nothing was planned yet.
        :raises APIError: some couldn't be cancelled; all others were.
        """
        record = self._record or self.journal.job()
        if record is None:
            return ()
        return cancel_all(self.api, self.journal, self.clock, record, reason, again=again, at_once=self.at_once)

    def _find_lost(self) -> None:
        """Look for the batches of creates whose answers were lost, so that they are cancelled with the others."""
        from airflow_openai_batch.engine.submit import Submitter

        state = self.journal.state(self.known())
        submitter = Submitter(self.api, self.store, self.journal, self.spec, self.clock)
        for attempt in state.unclear():
            submitter.resolve(Resolve(attempt, give_up=False), state)

    def _give_up_old(self) -> None:
        self._find_lost()
        cancelled = self.cancel("restart")
        if self.spec.delete_files:
            tidy(self.api, self.journal.state(self.known()))
        stamp = datetime.fromtimestamp(self.clock(), timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        kept = self.store.move_aside(stamp, last=JOB)
        self.journal = Journal(self.store)
        log.warning("The old job was given up; %s batch(es) cancelled, its folder kept as %s", len(cancelled), kept)
