"""What a job is, and how a destination is opened: planned when empty, resumed when it holds this very job.

One destination is one job. A try of the same task instance (an equal owner) goes on from the plan without reading the
source again, unless its files have changed; another owner must bring the same rows and parameters.
"""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import orjson

from airflow_openai_batch.engine.journal import JOB, MANIFEST, VERSION, Journal
from airflow_openai_batch.engine.models import JobRecord, OwnerRecord
from airflow_openai_batch.engine.planner import Limits, OvertakenError, Planner
from airflow_openai_batch.engine.requests import RequestBuilder, RequestSpec
from airflow_openai_batch.exceptions import InputError, JobMismatchError, JobOwnedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_openai_batch.engine.sources import Source
    from airflow_openai_batch.engine.store import Store

log = logging.getLogger(__name__)

MAX_METADATA = 16
"""Pairs of metadata that a batch may have (API reference); four are ours."""


@dataclass(frozen=True)
class JobSpec:
    """All that a user says of a job, but for the source and the destination.

    :param request: what shapes the requests.
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
    :param on_input_change: ``fail``, or ``restart``: cancel what runs, keep the old folder under a dated name.
    """

    request: RequestSpec = field(default_factory=RequestSpec)
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
    on_input_change: Literal["fail", "restart"] = "fail"

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


class Opener:
    """Opens a destination.

    :param store: the destination.
    :param spec: the job as the user wants it.
    :param source: returns the source; called only when rows or their files must be looked at.
    :param is_live: whether another owner is at work.
    :param patience: seconds to wait for the plan of an attempt that overtook this one.
    """

    def __init__(
        self,
        store: Store,
        journal: Journal,
        spec: JobSpec,
        source: Callable[[], Source],
        *,
        clock: Callable[[], float],
        is_live: Callable[[dict[str, str]], bool],
        patience: float,
    ) -> None:
        self._patience = patience
        self._store = store
        self._journal = journal
        self._spec = spec
        self._source = source
        self._clock = clock
        self._is_live = is_live

    def existing(self) -> JobRecord | None:
        """Return the job at the destination, None where there is none.

        :raises JobMismatchError: it is another.
        """
        record = self._journal.job()
        if record is None:
            if self._store.exists(MANIFEST):
                raise JobMismatchError(
                    f"{self._store.address(MANIFEST)} is there, but no job beside it ({JOB}). "
                    "Use another destination, or remove what is left of the old one."
                )
            return None
        owners = self._journal.owners(record)
        owner, same_owner = owners[-1], owners[-1] == self._spec.owner
        taking_over = not same_owner and not self._store.exists(MANIFEST)
        if taking_over and self._is_live(owner):
            named = ", ".join(f"{name} {value}" for name, value in owner.items())
            raise JobOwnedError(
                f"{self._store.url} holds job {record.job}, which another task instance is working on ({named}). "
                "Give each its own destination, with the run in its name."
            )
        changed = self._changes(record, same_owner=same_owner and bool(owner))
        if changed:
            raise JobMismatchError(
                f"{self._store.url} holds another job ({record.job}): {changed}. One destination is one job. Use "
                'another destination (with the run in its name), or on_input_change="restart" to give the old job up.'
            )
        if taking_over and not self._journal.take_over(OwnerRecord(self._clock(), self._spec.owner), len(owners)):
            return self.existing()  # another took it over meanwhile
        return record

    def plan(self) -> JobRecord:
        """Plan the job and write its record, or return the record of whoever was first."""
        source = self._source()
        listing = source.listing()
        log.info("Planning %s", self._store.url)
        planner = self._planner(self._store, self._spec.settings(), lambda: self._journal.is_its_turn(claim))
        claim = self._journal.claim_plan()
        try:
            plan = planner.plan(source)
        except InputError:
            self._journal.drop_claim(claim)
            raise
        except OvertakenError:
            return self._overtaken()
        record = JobRecord(
            version=VERSION,
            job=uuid.uuid4().hex[:12],
            destination=self._store.url,
            created_at=self._clock(),
            owner=self._spec.owner,
            parameters=self._plain(self._spec.parameters()),
            settings=self._plain(self._spec.settings()),
            listing=listing,
            plan=plan,
        )
        if not self._journal.create_job(record):
            first = self.existing()
            if first is not None:
                return first
        log.info(
            "Planned job %s: %s rows in %s shard(s), %s bytes",
            record.job,
            f"{plan.rows:,}",
            len(plan.shards),
            f"{sum(shard.bytes for shard in plan.shards):,}",
        )
        return record

    def _overtaken(self) -> JobRecord:
        give_up = time.monotonic() + self._patience
        while (first := self.existing()) is None:
            if time.monotonic() >= give_up:
                raise JobOwnedError(
                    f"Another attempt is planning the job at {self._store.url}; nothing was bought here"
                )
            time.sleep(0.2)
        return first

    def _planner(
        self, store: Store | None, settings: dict[str, Any], its_turn: Callable[[], bool] = lambda: True
    ) -> Planner:
        limits = Limits(settings["requests_per_batch"], settings["bytes_per_batch"], settings["max_enqueued_tokens"])
        return Planner(store, RequestBuilder(self._spec.request), limits, its_turn)

    def _changes(self, record: JobRecord, *, same_owner: bool) -> str:
        """Say what differs, or nothing."""
        wanted = self._plain(self._spec.parameters())
        names = [name for name in wanted if wanted[name] != record.parameters.get(name)]
        if names:
            name = names[0]
            old, new = (orjson.dumps(value).decode()[:120] for value in (record.parameters.get(name), wanted[name]))
            return f"{', '.join(names)} changed ({name} was {old}, is {new})"
        try:
            source = self._source()
            listing = source.listing()
        except InputError:
            if same_owner:
                log.warning("The source can't be read any more; going on with what was planned from it")
                return ""
            raise
        if listing == record.listing and (listing is not None or same_owner):
            return ""
        log.info("Comparing the source with what was planned from it")
        # Split as it was then, or a limit that changed since would look like other rows.
        plan = self._planner(None, record.settings).plan(source)
        return "" if plan.digest == record.plan.digest else "the source's rows changed"

    @staticmethod
    def _plain(value: dict[str, Any]) -> dict[str, Any]:
        plain = orjson.loads(orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SORT_KEYS))
        return dict(plain)
