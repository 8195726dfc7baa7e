"""The operators: thin over the engine. Parameters in, ``advance``, defer or return.

:class:`OpenAIBatchOperator` does a whole job. The three steps (submit, sensor, download) are the same engine stopped at
different points, for DAGs that want to see them.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow_openai_batch.exceptions import ConfigurationError
from airflow_openai_batch.operators.base import concurrency, final_errors, open_folder, open_store, resolve_source
from airflow_openai_batch.operators.economy import TEMPLATED, EconomicalOperator
from airflow_openai_batch.operators.outcome import checked_manifest
from airflow_openai_batch.operators.parameters import (
    check_all_images,
    check_job,
    check_metadata,
    check_model,
    parameters_checked,
    seconds,
)
from airflow_openai_batch.operators.steps import (
    OpenAIBatchCancelOperator,
    OpenAIBatchDownloadOperator,
    job_reference,
    open_reference,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import timedelta
    from typing import TypeGuard

    from airflow.sdk import Context
    from jinja2 import Environment

    from airflow_openai_batch.engine.job import Job, JobSpec
    from airflow_openai_batch.engine.models import Done, Ended, Waiting
    from airflow_openai_batch.engine.runner import Stop
    from airflow_openai_batch.engine.sources import Source


class OpenAIBatchOperator(EconomicalOperator):
    """Turn a dataset into LLM results on object storage, through the OpenAI Batch API.

    The task plans the dataset into shards, uploads them, creates a batch for each, waits deferred, sends the rows that
    failed in passing again, and lands one result a row, in input order. Whatever dies in between, a retry goes on where
    it was and buys nothing twice. The task's result is the manifest.

    Parameters about money (caps, cache, canary, routes) are those of
    :class:`~airflow_openai_batch.operators.economy.EconomicalOperator`.

    :param source: rows: a path, glob or folder of JSON Lines, CSV, TSV or Parquet files, also ``.gz`` and ``.zst``, on
        any store, ``s3://conn_id@bucket/prefix`` included; or a list of prompts (strings), rows (mappings), ready-made
        requests (``custom_id``, ``method``, ``url``, ``body``); or a frame or table; or an XCom of these. Templated.
    :param sql: instead of ``source``: one query, or a ``.sql`` file beside the DAG; its rows are streamed. Templated.
    :param sql_conn_id: with ``sql``: the connection of the database, of any type with a common.sql hook. Templated.
    :param destination: folder of the job, one for each job: ``s3://bucket/labels/{{ ds }}``. Templated.
    :param prompt: row template (Jinja) of the user prompt: ``Is this positive? {{ row.text }}``. It sees ``row`` alone.
        Without it each row has a column ``messages``, ``input`` or ``prompt``.
    :param system: row template of the system prompt; default none.
    :param model: model of rows that name none; a list: every row on every model, with a result for each; default: each
        row names its own, in a column ``model``. Templated.
    :param endpoint: default ``/v1/chat/completions``. One that isn't known passes with a warning. Sent as the
        connection's server names it: at Azure with an API version as ``/chat/completions``. Templated.
    :param body: more fields of the request body; strings inside are row templates.
    :param response_format: structured output: a pydantic model class, a JSON schema, or OpenAI's ``response_format``.
        Answers are parsed and checked; one that doesn't fit is ``invalid`` and asked for once more.
    :param image_columns: a column or several with images that join the prompt (chat completions, responses): URLs,
        paths below ``image_root``, bytes (PNG, JPEG, GIF, WebP), or lists of such; null is no image.
    :param image_root: the folder, on any store, that these paths are below; default: none may be a path. Templated.
    :param image_detail: ``low``, ``high``, ``auto`` or ``original``; default OpenAI's.
    :param conn_id: connection of type ``openai_batch`` or ``openai``; default ``openai_default``. Templated.
    :param completion_window: default ``24h``, the only one at OpenAI; gateways have others.
    :param metadata: pairs on each batch, at most 12; ``job``, ``shard``, ``round``, ``attempt`` are ours. Templated.
    :param result_format: of the results' files: ``jsonl`` (default), ``jsonl.gz``, ``jsonl.zst``, ``parquet`` (typed
        columns) or ``csv`` (one level of columns). Changed for a job that is done, its results are landed again.
    :param max_rounds: tries a row may have; default 2. Rows that never ran (expired) don't use one up.
    :param max_failed_ratio: the share of rows without a good answer (0 to 1) above which the task fails once all is
        landed; default 0.05.
    :param max_enqueued_tokens: estimated input tokens that this job may have in flight; default no limit of ours.
    :param poll_interval: seconds between looks at the batches; default ``[openai_batch] poll_interval``. Templated.
    :param timeout: seconds or timedelta from the first submission; default none. Airflow's ``execution_timeout`` isn't
        enforced while a task is deferred, this is.
    :param deferrable: wait in the triggerer (default) or, False, in the worker slot.
    :param cancel_on_kill: cancel the batches when a user ends the task; default True.
    :param delete_files: delete the job's files at OpenAI once all of it is landed; default True.
    :param on_input_change: when the destination holds a job with other rows or parameters: ``fail`` (default), or
        ``restart``: cancel what runs, keep the old folder under a dated name, begin anew.
    :param single_writer: True where you make sure that only one task at a time works on the destination: then a store
        without exclusive create will do. Default False: such a store is refused before anything is uploaded.
    :param output_expires_after: seconds (3,600 to 2,592,000) after which OpenAI drops output files; default its own.
    :param max_batch_requests: requests a batch may hold; default 50,000, OpenAI's limit. Gateways differ.
    :param max_batch_bytes: bytes a batch's requests may have; default 209,715,200 (200 MB), OpenAI's limit; sent inline
        8,388,608 (8 MB).
    :param submission: ``file``: requests are uploaded as files; ``inline``: they are sent in the create call, for
        gateways that work so. Default: what the connection says, else ``file``.
    :raises ConfigurationError: parameters that can't be right, when the DAG is parsed.
    :raises AirflowFailException: the input can't be sent, the key is wrong, too many rows failed: no retry would help.
    """

    template_fields: Sequence[str] = (
        "source",
        "sql",
        "sql_conn_id",
        "destination",
        "model",
        "endpoint",
        "conn_id",
        "completion_window",
        "metadata",
        "image_root",
        "poll_interval",
        *TEMPLATED,
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"sql": "sql"}

    def __init__(
        self,
        *,
        source: Any = None,
        sql: str | None = None,
        sql_conn_id: str | None = None,
        destination: str,
        prompt: str | None = None,
        system: str | None = None,
        model: Any = None,
        endpoint: str = "/v1/chat/completions",
        body: Mapping[str, Any] | None = None,
        response_format: Any = None,
        image_columns: str | Sequence[str] | None = None,
        image_root: str | None = None,
        image_detail: str | None = None,
        completion_window: str = "24h",
        metadata: Mapping[str, str] | None = None,
        result_format: str = "jsonl",
        max_rounds: int = 2,
        max_failed_ratio: float = 0.05,
        max_enqueued_tokens: int | None = None,
        timeout: float | timedelta | None = None,
        cancel_on_kill: bool = True,
        delete_files: bool = True,
        on_input_change: Literal["fail", "restart"] = "fail",
        single_writer: bool = False,
        output_expires_after: int | None = None,
        max_batch_requests: int = 50_000,
        max_batch_bytes: int | None = None,
        submission: Literal["file", "inline"] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(destination=destination, **kwargs)
        self.source = source
        self.sql = sql
        self.sql_conn_id = sql_conn_id
        self.prompt = prompt
        self.system = system
        self.model = model
        self.endpoint = endpoint
        self.body = body or {}
        self.response_format = response_format
        self.image_columns = image_columns
        self.image_root = image_root
        self.image_detail = image_detail
        self.completion_window = completion_window
        self.metadata = metadata or {}
        self.result_format = result_format
        self.max_rounds = max_rounds
        self.max_failed_ratio = max_failed_ratio
        self.max_enqueued_tokens = max_enqueued_tokens
        self.cancel_on_kill = cancel_on_kill
        self.delete_files = delete_files
        self.on_input_change = on_input_change
        self.single_writer = single_writer
        self.output_expires_after = output_expires_after
        self.max_batch_requests = max_batch_requests
        self.max_batch_bytes = max_batch_bytes
        self.submission = submission
        with parameters_checked():
            self.timeout = seconds(timeout, "timeout")
            self.check(vars(self))
            self.check_source()

    @staticmethod
    def check(known: Mapping[str, Any]) -> None:
        """Check a task's parameters by name, or those that mapped tasks have in common."""
        check_job(known)

    def resolve_template_files(self) -> None:
        """Read the query's file, if it is in one, when the DAG is parsed.

        ``template_ext`` would take any templated value that ends so for a file: a prompt, a row's column.
        """
        if _is_file(self.sql):
            try:
                self.sql = _read(self.sql, self.get_template_env())
            except Exception:
                self.log.exception("sql: %s can't be read", self.sql)
        super().resolve_template_files()

    def _do_render_template_fields(
        self, parent: Any, template_fields: Iterable[str], context: Context, jinja_env: Environment, seen_oids: set[int]
    ) -> None:
        """Read the file of a mapped task, which wasn't there at parse; a name that came by XCom is none."""
        if parent is self and _is_file(self.sql) and id(self.sql) not in seen_oids:
            self.sql = _read(self.sql, jinja_env)
        super()._do_render_template_fields(parent, template_fields, context, jinja_env, seen_oids)

    def check_source(self) -> None:
        """Check that one source is given, and one only."""
        if self.source is None and self.sql is None:
            raise ConfigurationError("give the rows: source=, or sql= and sql_conn_id=")

    def job_spec(self, context: Context) -> JobSpec:
        """Return what the engine needs to know."""
        from airflow_openai_batch.engine.endpoints import canonical
        from airflow_openai_batch.engine.images import column_names
        from airflow_openai_batch.engine.inline import bytes_per_batch
        from airflow_openai_batch.engine.job import JobSpec
        from airflow_openai_batch.engine.requests import RequestSpec
        from airflow_openai_batch.engine.structured import normalize

        ti = context["ti"]
        submission = self.submission or self.hook.client.config.submission
        endpoint = canonical(self.endpoint)
        # Azure and some gateways have other paths. One that the user gave in their form is sent as it is.
        url = self.hook.client.config.wire_path(endpoint) if endpoint == self.endpoint else self.endpoint
        # Rendered by now, and what is wrong with it would else be found once the shard is uploaded.
        metadata = self.metadata or {}
        check_metadata(metadata)
        check_model(self.model, self.body)
        check_all_images(vars(self))
        request = RequestSpec(
            prompt=self.prompt,
            system=self.system,
            model=self.model or None,
            endpoint=endpoint,
            body=dict(self.body),
            response_format=normalize(self.response_format),
            image_columns=column_names(self.image_columns),
            image_root=self.image_root,
            image_detail=self.image_detail,
            resolve=resolve_source,
        )
        return JobSpec(
            request=request,
            requests_per_batch=self.max_batch_requests,
            bytes_per_batch=bytes_per_batch(submission, self.max_batch_bytes),
            submission=submission,
            completion_window=self.completion_window,
            metadata={str(name): str(value) for name, value in metadata.items()},
            owner={"dag_id": ti.dag_id, "task_id": ti.task_id, "run_id": ti.run_id, "map_index": str(ti.map_index)},
            max_rounds=self.max_rounds,
            max_enqueued_tokens=self.max_enqueued_tokens,
            timeout=self.timeout,
            delete_files=self.delete_files,
            output_expires_after=self.output_expires_after,
            result_format=self.result_format,
            url=None if url == endpoint else url,
            on_input_change=self.on_input_change,
            single_writer=self.single_writer,
            **self.economy(),
        )

    def open_source(self, context: Context) -> Source:
        """Return the source; called only when its rows or files must be looked at."""
        from airflow_openai_batch.engine.sources import open_source

        if self.sql is not None:
            from airflow_openai_batch.operators.sql import SqlSource

            return SqlSource(self.sql, str(self.sql_conn_id))
        return open_source(self.source, resolve_source)

    def open_job(self, context: Context) -> Job:
        """Return the job at the destination."""
        from airflow_openai_batch.engine.job import Job
        from airflow_openai_batch.triggers.kill import is_live

        if not self.destination:
            raise ConfigurationError("destination: it is empty")
        store = open_store(self.results_location)
        return Job(
            store,
            self.hook.client,
            self.job_spec(context),
            lambda: self.open_source(context),
            is_live=is_live,
            at_once=concurrency(),
            resumed=self.resumed,
            open_store=open_folder,
        )

    def execute(self, context: Context) -> Any:
        """Do the job, or only say what it would cost."""
        if not self.estimate_only:
            return super().execute(context)
        with final_errors(), closing(self.hook):
            return self.open_job(context).open().estimate

    def finish(self, outcome: Done | Ended | Waiting, job: Job, context: Context) -> Any:
        """Return the manifest, or fail where too many rows did."""
        return checked_manifest(outcome, self.max_failed_ratio, self.conn_id)


def _is_file(sql: Any) -> TypeGuard[str]:
    return isinstance(sql, str) and sql.endswith(".sql")


def _read(name: str, env: Environment) -> str:
    """Return a file beside the DAG, or below its ``template_searchpath``, as it is before it is rendered."""
    from jinja2 import BaseLoader

    return (env.loader or BaseLoader()).get_source(env, name)[0]


class OpenAIBatchSubmitOperator(OpenAIBatchOperator):
    """Plan a dataset and submit its batches; the first of three steps.

    Takes the parameters of :class:`OpenAIBatchOperator`. Shards for which the queue has no room are submitted by the
    sensor. The task's result is a small reference to the job: ``{"job", "destination", "conn_id", "batches"}``.
    """

    stop: ClassVar[Stop] = "submitted"

    def finish(self, outcome: Done | Ended | Waiting, job: Job, context: Context) -> Any:
        """Return the job's reference."""
        return job_reference(job, self.conn_id)


class OpenAIBatchEstimateOperator(OpenAIBatchOperator):
    """Say what a job would cost, and send nothing.

    Takes the parameters of :class:`OpenAIBatchOperator`; with several models it compares them. The plan stays at the
    destination: a job with the same source and parameters goes on from it. The task's result is the estimate:
    ``{"at", "rows", "usd", "usd_most", "usd_standard", "models": [...]}``, in US dollars, null where no price is known.
    """

    operator_extra_links = ()

    def __init__(self, *, estimate_only: bool = True, **kwargs: Any) -> None:
        super().__init__(estimate_only=estimate_only, **kwargs)


__all__ = [
    "OpenAIBatchCancelOperator",
    "OpenAIBatchDownloadOperator",
    "OpenAIBatchEstimateOperator",
    "OpenAIBatchOperator",
    "OpenAIBatchSubmitOperator",
    "job_reference",
    "open_reference",
]
