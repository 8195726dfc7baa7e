"""Opens a destination: planned when empty, resumed when it holds this very job.

A try of the same task instance (an equal owner) goes on from the plan without reading the source again, unless its
files have changed; another owner must bring the same rows and parameters.
"""

from __future__ import annotations

import logging
import time
import uuid
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from airflow_openai_batch.engine.cost import describe, estimate
from airflow_openai_batch.engine.journal import JOB, MANIFEST, VERSION, Journal
from airflow_openai_batch.engine.planner import OvertakenError, Planner
from airflow_openai_batch.engine.prices import Pricing
from airflow_openai_batch.engine.records import JobRecord, OwnerRecord
from airflow_openai_batch.engine.requests import RequestBuilder, measure
from airflow_openai_batch.engine.sampling import Sampler
from airflow_openai_batch.engine.shards import Limits
from airflow_openai_batch.engine.sift import Sifter, Wish
from airflow_openai_batch.exceptions import InputError, JobMismatchError, JobOwnedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_openai_batch.engine.cache import Cache
    from airflow_openai_batch.engine.job import JobSpec
    from airflow_openai_batch.engine.models import Plan
    from airflow_openai_batch.engine.records import Sifting
    from airflow_openai_batch.engine.sources import Source
    from airflow_openai_batch.engine.store import Store

log = logging.getLogger(__name__)


class Opener:
    """Opens a destination.

    :param store: the destination.
    :param spec: the job as the user wants it.
    :param source: returns the source; called only when rows or their files must be looked at.
    :param is_live: whether another owner is at work.
    :param patience: seconds to wait for the plan of an attempt that overtook this one.
    :param resumed: whether the same try goes on; then the source isn't looked at again.
    :param cache: opens the cache, if the job has one.
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
        resumed: bool = False,
        cache: Callable[[], Cache | None] = lambda: None,
    ) -> None:
        self._cache = cache
        self._resumed = resumed
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
        # Nobody takes a job over from a task that waits.
        known = self._resumed and record.owner == self._spec.owner
        owners = [record.owner] if known else self._journal.owners(record)
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
        self._tell_of_wishes(record)
        return record

    def _tell_of_wishes(self, record: JobRecord) -> None:
        """Say what is wished now and has no effect, since the plan was made without."""
        settings = self._spec.settings()
        late = [name for name in ("canary", "deduplicate", "cache") if settings[name] and not record.settings.get(name)]
        if late and not self._resumed:
            log.warning("The job was planned without %s, and goes on without", ", ".join(late))

    def plan(self) -> JobRecord:
        """Plan the job and write its record, or return the record of whoever was first."""
        source = self._source()
        listing = source.listing()
        log.info("Planning %s", self._store.url)
        wish = Wish(self._spec.deduplicate, self._spec.canary, self._cache())
        sampler = Sampler()
        planner = self._planner(self._store, self._spec.settings(), lambda: self._journal.is_its_turn(claim), sampler)
        claim = self._journal.claim_plan()
        sifting: Sifting | None = None
        try:
            plan = planner.plan(source)
            if wish:
                whole, left = plan, Sampler()
                plan, sifting = self._sift(plan, wish, left, lambda: self._journal.is_its_turn(claim))
                # Where nothing was taken out, nothing was packed anew, nor weighed.
                sampler = sampler if plan.shards is whole.shards else left
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
            sifting=sifting,
            estimate=self._estimate(sampler),
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

    def _sift(self, plan: Plan, wish: Wish, sampler: Sampler, its_turn: Callable[[], bool]) -> tuple[Plan, Sifting]:
        endpoint = self._spec.request.endpoint
        sifter = Sifter(
            self._store,
            wish,
            endpoint=endpoint,
            limits=self._limits(self._spec.settings()),
            measure=partial(measure, endpoint=endpoint),
            its_turn=its_turn,
            sampler=sampler,
        )
        plan, sifting = sifter.sift(plan)
        log.info(
            "Of %s rows, %s are answered by the cache, %s repeat another's request",
            f"{plan.rows:,}",
            f"{sifting.cached:,}",
            f"{sifting.repeats:,}",
        )
        return plan, sifting

    def _estimate(self, sampler: Sampler) -> dict[str, Any]:
        """Say and return what the job will cost."""
        spec = self._spec
        pricing = Pricing(datetime.fromtimestamp(self._clock(), timezone.utc), spec.prices, spec.assume_batch_discount)
        told = estimate(sampler.measures(), pricing, endpoint=spec.request.endpoint)
        for line in describe(told):
            log.info("%s", line)
        return told.to_json()

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
        self,
        store: Store | None,
        settings: dict[str, Any],
        its_turn: Callable[[], bool] = lambda: True,
        sampler: Sampler | None = None,
    ) -> Planner:
        builder = RequestBuilder(self._spec.request, settings.get("url"))
        return Planner(store, builder, self._limits(settings), its_turn, sampler)

    @staticmethod
    def _limits(settings: dict[str, Any]) -> Limits:
        return Limits(settings["requests_per_batch"], settings["bytes_per_batch"], settings["max_enqueued_tokens"])

    def _changes(self, record: JobRecord, *, same_owner: bool) -> str:
        """Say what differs, or nothing."""
        wanted = self._plain(self._spec.parameters())
        names = [name for name in wanted if wanted[name] != record.parameters.get(name)]
        if names:
            name = names[0]
            old, new = (orjson.dumps(value).decode()[:120] for value in (record.parameters.get(name), wanted[name]))
            return f"{', '.join(names)} changed ({name} was {old}, is {new})"
        if same_owner and self._resumed:
            return ""
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
