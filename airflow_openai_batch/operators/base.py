"""What the operators and the sensor share: open the job, let the engine advance, defer or sleep until it can again."""

from __future__ import annotations

import time
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from airflow.configuration import conf
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import BaseOperator

from airflow_openai_batch.exceptions import JournalError, OpenAIBatchError
from airflow_openai_batch.hooks.openai_batch import DEFAULT_CONN_ID, OpenAIBatchHook
from airflow_openai_batch.links.openai_batch import OpenAIBatchLink, ResultsLink
from airflow_openai_batch.operators.destination import below_root, expanded
from airflow_openai_batch.operators.parameters import check_parameters, parameters_checked, seconds
from airflow_openai_batch.operators.reporting import Report, fill_outlets

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from airflow.sdk import BaseOperatorLink, Context
    from airflow.sdk.definitions.mappedoperator import OperatorPartial

    from airflow_openai_batch.engine.job import Job
    from airflow_openai_batch.engine.models import Done, Ended, Waiting
    from airflow_openai_batch.engine.runner import Stop
    from airflow_openai_batch.engine.store import Store

KILL_PATIENCE = 3.0
"""Seconds for finding out in a signal handler whether the task is over; a worker is killed soon after."""

LEEWAY = 900.0
"""Seconds by which Airflow's own timeout is later than the job's, after which no code of ours would run any more."""


def default_deferrable() -> bool:
    """Return ``[openai_batch] deferrable``, True where it isn't set: waiting in a worker slot helps nobody.

    Airflow's own ``[operators] default_deferrable`` can't serve: it is False unless it is set, and in many a generated
    ``airflow.cfg`` it is written out as False by nobody's decision.
    """
    return bool(conf.getboolean("openai_batch", "deferrable", fallback=True))


def setting(name: str, fallback: float) -> float:
    """Return a number of the ``[openai_batch]`` section."""
    return float(conf.getfloat("openai_batch", name, fallback=fallback))


def concurrency() -> int:
    """Return how many uploads and downloads a task has under way at once: ``[openai_batch] concurrency``, default 4."""
    return max(1, int(setting("concurrency", 4)))


def open_store(destination: str) -> Store:
    """Open a destination through Airflow's object storage, so that ``s3://conn_id@bucket/prefix`` works."""
    from airflow_openai_batch.engine.store import Store

    return Store(*resolve_source(destination), destination)


def open_folder(url: str) -> Store:
    """Open a folder beside the destination (the cache's), below ``results_root`` where it is relative."""
    return open_store(below_root(url))


def resolve_source(url: str) -> tuple[Any, str]:
    """Return filesystem and path of a source, through Airflow's object storage."""
    from airflow.sdk import ObjectStoragePath

    # What a relative path would become depends on the version of universal-pathlib; 0.2 puts it below the root.
    path = ObjectStoragePath(url if "://" in url or not url else str(Path(expanded(url)).absolute()))
    return path.fs, str(path.path)


@contextmanager
def final_errors() -> Iterator[None]:
    """Fail the task at once where another try would end in the same way."""
    try:
        yield
    except OpenAIBatchError as error:
        if error.retryable:
            raise
        raise AirflowFailException(str(error)) from error


class JobOperator(BaseOperator):
    """Base of the operators that advance a job.

    Subclasses say how to open the job (:meth:`open_job`), how far to go (``stop``) and what to return.
    """

    stop: ClassVar[Stop] = "landed"
    template_fields: Sequence[str] = ("destination", "conn_id", "poll_interval")
    operator_extra_links: tuple[BaseOperatorLink, ...] = (OpenAIBatchLink(), ResultsLink())
    ui_color = "#e8f0ec"
    cancel_on_kill: bool = False

    def __init__(
        self,
        *,
        conn_id: str = DEFAULT_CONN_ID,
        destination: str = "",
        poll_interval: float | str | None = None,
        deferrable: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self.destination = destination
        self.poll_interval = poll_interval
        with parameters_checked():
            check_parameters({"poll_interval": poll_interval, "deferrable": deferrable})
        self.deferrable = default_deferrable() if deferrable is None else deferrable
        self.watched_batches: tuple[str, ...] = ()
        self.base_url: str | None = None
        self.resumed = False
        self.landed: dict[str, Any] | None = None
        self._running: tuple[Job, Any] | None = None

    @classmethod
    def partial(cls, **kwargs: Any) -> OperatorPartial:
        """Begin a mapped task; what is wrong with what its instances have in common is said here, at parse.

        :raises ConfigurationError: a parameter that can't be right.
        """
        with parameters_checked():
            cls.check(kwargs)
        return super().partial(**kwargs)

    @staticmethod
    def check(known: Mapping[str, Any]) -> None:
        """Check a task's parameters by name, or those that mapped tasks have in common."""
        check_parameters(known)

    @cached_property
    def hook(self) -> OpenAIBatchHook:
        """The hook of the connection."""
        return OpenAIBatchHook(self.conn_id)

    def use_connection(self, conn_id: str | None) -> None:
        """Take the job's own connection, where the user named none."""
        if conn_id and self.conn_id == DEFAULT_CONN_ID:
            self.conn_id = self.hook.conn_id = conn_id

    @property
    def results_location(self) -> str:
        """Where the results are, or will be; for the link."""
        return below_root(str(self.destination or ""))

    @property
    def opened(self) -> Job | None:
        """The job, once it is opened."""
        return self._running[0] if self._running else None

    def open_job(self, context: Context) -> Job | Waiting:
        """Return the job, or what to wait for before it can be opened."""
        raise NotImplementedError

    def finish(self, outcome: Done | Ended | Waiting, job: Job, context: Context) -> Any:
        """Return the task's result."""
        raise NotImplementedError

    def execute(self, context: Context) -> Any:
        """Advance the job as far as it goes, then wait."""
        return self.go_on(context, new_try=True)

    def go_on(self, context: Context, *, new_try: bool) -> Any:
        """Do what both a new try and a task that was woken do."""
        from airflow_openai_batch.engine.models import Waiting
        from airflow_openai_batch.engine.runner import advance

        self.resumed = not new_try
        report = Report(context["ti"], self.log)
        with final_errors(), closing(self.hook):
            # Rendered by now; a bad one must not be found out once batches run.
            self._interval()
            opened = self.open_job(context)
            before = self._landed_before(opened)
            self.base_url = self.hook.client.config.base_url
            while True:
                if isinstance(opened, Waiting):
                    outcome: Done | Ended | Waiting = opened
                else:
                    self._running = (opened, context["ti"])
                    outcome = advance(opened, stop=self.stop, new_try=new_try and self.cancel_on_kill)
                    new_try = False
                self.watched_batches = _batches(outcome) or self.watched_batches
                if not isinstance(opened, Waiting) and self._is_enough(outcome):
                    return self._end(outcome, opened, context, report, before)
                self._wait(outcome, report)  # type: ignore[arg-type] # what isn't enough is always a Waiting
                if isinstance(opened, Waiting):
                    opened = self.open_job(context)

    def execute_complete(self, context: Context, event: Mapping[str, Any] | None = None) -> Any:
        """Go on after a deferral: the same as a first run, since the journal knows all that has happened."""
        if event:
            Report(context["ti"], self.log).woken(event)
        return self.go_on(context, new_try=False)

    def get_openlineage_facets_on_start(self) -> Any:
        """Return inputs and outputs; called by the OpenLineage provider alone."""
        try:
            from airflow_openai_batch.operators.lineage import lineage_of
        except ImportError:
            return None
        return lineage_of(self)

    def get_openlineage_facets_on_complete(self, _task_instance: Any) -> Any:
        """Return the same with the job's counts, also where it failed once it was landed."""
        return self.get_openlineage_facets_on_start()

    def on_kill(self) -> None:
        """Cancel the job's batches if a user ended the task for good; leave them to the next try in any other case."""
        if self._running is None:
            return
        from airflow_openai_batch.triggers.kill import is_over_soon

        job, ti = self._running
        if self.cancel_on_kill and is_over_soon(ti, KILL_PATIENCE):
            self.log.info("Cancelled: %s", ", ".join(job.cancel("on_kill", again=True)) or "no batch was running")
        else:
            self.log.info("The next try goes on with the job's batches; none is cancelled")

    def _landed_before(self, opened: Job | Waiting) -> str | None:
        """Return the job that lies landed at the destination; a task that had to wait for it has landed it itself."""
        if self.resumed or self.stop != "landed" or not hasattr(opened, "journal"):
            return None
        # A manifest that can't be read is told by what goes on from it.
        with suppress(JournalError):
            manifest = opened.journal.manifest()
            return str(manifest["job"]) if manifest else None
        return None

    def _end(
        self, outcome: Done | Ended | Waiting, job: Job, context: Context, report: Report, before: str | None
    ) -> Any:
        manifest = getattr(outcome, "manifest", None)
        if self.stop == "submitted":
            report.submitted(_batches(outcome), self.results_location)
        else:
            report.over()
        if self.stop != "landed" or manifest is None:
            return self.finish(outcome, job, context)
        self.landed = manifest
        report.done(manifest, landed=manifest["job"] != before)
        result = self.finish(outcome, job, context)
        fill_outlets(self.outlets, context, manifest)
        return result

    def _is_enough(self, outcome: Done | Ended | Waiting) -> bool:
        from airflow_openai_batch.engine.models import Waiting

        return not isinstance(outcome, Waiting) or self.stop == "submitted"

    def _interval(self) -> float:
        return seconds(self.poll_interval, "poll_interval") or setting("poll_interval", 60.0)

    def _wait(self, waiting: Waiting, report: Report) -> None:
        if self.deferrable:
            report.waiting(waiting, None, self.results_location)
            self._defer(waiting)
        pause = self._interval()
        if waiting.until is not None:
            pause = min(pause, max(0.1, waiting.until - time.time()))
        report.waiting(waiting, pause, self.results_location)
        time.sleep(pause)

    def _defer(self, waiting: Waiting) -> NoReturn:
        from airflow_openai_batch.triggers.openai_batch import OpenAIBatchTrigger

        now = time.time()
        self.defer(
            trigger=OpenAIBatchTrigger(
                conn_id=self.conn_id,
                batch_ids=list(waiting.batches),
                wake=waiting.wake,
                poll_interval=self._interval(),
                not_before=now + setting("min_wait", 10.0),
                until=waiting.until,
                cancel_on_kill=self.cancel_on_kill,
                since=now,
            ),
            method_name="execute_complete",
            timeout=self._patience(),
        )

    def _patience(self) -> timedelta | None:
        """Return when Airflow gives up on the trigger: past the job's ``timeout``, and never where there is none.

        ``Waiting.until`` is no end but a time to look again, which may be late: no triggerer may be up.
        """
        timeout = self._running[0].spec.timeout if self._running else None
        # It counts from the first submission, so it can't be over any later.
        return None if timeout is None else timedelta(seconds=timeout + LEEWAY)


def _batches(outcome: Done | Ended | Waiting) -> tuple[str, ...]:
    """Return the batches of an outcome; a worker that only landed has seen no other trace of them."""
    manifest = getattr(outcome, "manifest", None)
    return tuple(manifest["batches"] if manifest else getattr(outcome, "batches", ()))
