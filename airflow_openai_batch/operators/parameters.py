"""What can be told of parameters when a DAG is parsed: wrong whatever the data, and said where the author looks.

A mapped task is made on the worker, of what it was mapped over. What it has in common with its siblings (``partial``)
is checked at parse all the same; the rest fails the task at once, since another try would be made of the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_openai_batch.engine.endpoints import ENDPOINTS as KNOWN
from airflow_openai_batch.engine.endpoints import canonical
from airflow_openai_batch.engine.images import ENDPOINTS, check_images
from airflow_openai_batch.engine.models import RESULT_FORMATS
from airflow_openai_batch.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_METADATA = 12
"""Pairs left to the user: OpenAI takes 16 a batch (API reference), four are the job's."""

MAX_CANARY = 1_000
"""Rows that are asked first; with more, the canary is the job."""

EXPIRY = (3_600, 2_592_000)
"""Seconds that output files may be kept (API reference, ``output_expires_after``)."""

CHOICES = {"result_format": RESULT_FORMATS, "on_input_change": ("fail", "restart")}
"""Parameters that are one of a few words."""

SUBMISSIONS = ("file", "inline")
"""How requests get to the server; None: as the connection says."""

COUNTS = ("max_rounds", "max_batch_requests")
"""Parameters that are whole numbers from 1."""

LIMITS = ("max_enqueued_tokens", "max_batch_bytes")
"""Parameters that are whole numbers from 1, or None."""

FLAGS = (
    "cancel_on_kill",
    "delete_files",
    "single_writer",
    "assume_batch_discount",
    "estimate_only",
    "deduplicate",
)
"""Parameters that are True or False; any text would count as True."""

_RESERVED = {"job", "shard", "round", "attempt"}


class ParameterError(ConfigurationError, AirflowFailException):
    """A :class:`ConfigurationError` that Airflow understands: a task that is made on the worker isn't tried again."""


@contextmanager
def parameters_checked() -> Iterator[None]:
    """Let what is wrong with parameters end a mapped task without a retry."""
    try:
        yield
    except ConfigurationError as error:
        raise ParameterError(str(error)) from error


def check_parameters(known: Mapping[str, Any]) -> None:
    """Check parameters of :class:`~airflow_openai_batch.operators.openai_batch.OpenAIBatchOperator`.

    :param known: by name: all of a task's, or those that mapped tasks have in common. One that isn't there may yet
        come, so its absence is never wrong.
    """
    for name, allowed in CHOICES.items():
        if name in known:
            check_choice(name, known[name], allowed)
    if known.get("submission") is not None:
        check_choice("submission", known["submission"], SUBMISSIONS)
    if "max_failed_ratio" in known:
        check_ratio(known["max_failed_ratio"])
    for name in COUNTS:
        check_count(name, known.get(name, 1), needed=True)
    for name in LIMITS:
        check_count(name, known.get(name))
    check_flags(known)
    seconds(known.get("timeout"), "timeout")
    if not is_template(known.get("poll_interval")):
        seconds(known.get("poll_interval"), "poll_interval")
    check_expiry(known.get("output_expires_after"))
    body = known.get("body") or {}
    check_model(known.get("model"), body)
    check_templates(known.get("prompt"), known.get("system"), body)
    endpoint = known.get("endpoint")
    # One that isn't said yet, or is a template, may be any.
    endpoint = canonical(endpoint) if isinstance(endpoint, str) and not is_template(endpoint) else None
    check_system(known.get("system"), endpoint)
    check_response_format(known.get("response_format"), endpoint)
    if not is_template(known.get("metadata")):
        check_metadata(known.get("metadata") or {})
    check_sql(known)
    check_economy(known)
    check_all_images(known)


def check_job(known: Mapping[str, Any]) -> None:
    """Check the same, and where rows come from and results go, which the steps around a job needn't say."""
    check_parameters(known)
    source, destination = known.get("source"), known.get("destination", "somewhere")
    if not _may_have_rows(source):
        raise ConfigurationError(f"source: a list or iterable of rows is needed, not {type(source).__name__}")
    if not destination or not (isinstance(destination, str) or _is_path(destination) or is_template(destination)):
        raise ConfigurationError(f"destination: a folder is needed, not {destination!r}")


def _may_have_rows(source: Any) -> bool:
    """Whether rows may come of a value: of all that can be gone over or called, and of tables that can't."""
    if isinstance(source, (bytes, Mapping)):
        return False
    if source is None or isinstance(source, Iterable) or callable(source) or _is_path(source) or is_template(source):
        return True
    return any(hasattr(type(source), name) for name in ("schema", "columns", "blocks"))


def _is_path(value: Any) -> bool:
    return callable(getattr(value, "as_posix", None))


def check_economy(known: Mapping[str, Any]) -> None:
    """Check the parameters of :class:`~airflow_openai_batch.operators.economy.EconomicalOperator`.

    Templates among them are checked once they are rendered.
    """
    from airflow_openai_batch.engine.budget import check_cap
    from airflow_openai_batch.engine.prices import check_prices
    from airflow_openai_batch.engine.routing import ROUTES, check_deadline

    known = {name: value for name, value in known.items() if not is_template(value)}
    for name in ("max_cost_usd", "max_direct_cost_usd"):
        try:
            check_cap(known.get(name))
        except ConfigurationError as error:
            raise ConfigurationError(f"{name}: {error}") from error
    check_prices(known.get("prices"))
    check_deadline(known.get("deadline"))
    seconds(known.get("cache_ttl"), "cache_ttl")
    check_choice("route", known.get("route", ROUTES[0]), ROUTES)
    for name in ("direct_below", "direct_concurrency"):
        check_count(name, known.get(name))
    if "canary_max_failed" in known:
        check_ratio(known["canary_max_failed"], "canary_max_failed")
    canary = known.get("canary", 0)
    if isinstance(canary, bool) or not isinstance(canary, int) or not 0 <= canary <= MAX_CANARY:
        raise ConfigurationError(f"canary: a number of rows from 0 to {MAX_CANARY:,} is needed, not {canary!r}")


def is_template(value: Any) -> bool:
    """Whether a value is to be rendered yet: text with braces, or an XCom. A path has a ``resolve`` of another kind."""
    if isinstance(value, str):
        return "{{" in value or "{%" in value
    return hasattr(value, "resolve") and not hasattr(value, "as_posix")


def check_all_images(known: Mapping[str, Any]) -> None:
    """Check the parameters about images; a root that is an XCom is checked once it is there."""
    endpoint = str(known.get("endpoint") or next(iter(ENDPOINTS)))
    endpoint = endpoint if endpoint.startswith("/v1/") else f"/v1{endpoint}"
    root = known.get("image_root")
    root = str(root) if is_template(root) else root
    check_images(known.get("image_columns"), root, known.get("image_detail"), endpoint)


def check_sql(known: Mapping[str, Any]) -> None:
    """Check a query against the rest of what gives rows."""
    sql, conn_id = known.get("sql"), known.get("sql_conn_id")
    if sql is not None and known.get("source") is not None:
        raise ConfigurationError("source, sql: both are given, and rows come from one of them")
    for name, value in (("sql", sql), ("sql_conn_id", conn_id)):
        if value is not None and not (isinstance(value, str) and value.strip()) and not hasattr(value, "resolve"):
            raise ConfigurationError(f"{name}: a string is needed, not {value!r}")
    if sql is not None and conn_id is None and "sql_conn_id" in known:
        raise ConfigurationError("sql_conn_id: with sql, say which connection it is for")
    if sql is None and conn_id is not None and "sql" in known:
        raise ConfigurationError("sql: with sql_conn_id, say what to ask the database")


def seconds(value: float | str | timedelta | None, name: str) -> float | None:
    """Return a duration in seconds.

    :raises ConfigurationError: it isn't a positive number.
    """
    if value is None or value == "":
        return None
    try:
        number = value.total_seconds() if isinstance(value, timedelta) else float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number < math.inf:
        raise ConfigurationError(f"{name}: a positive number of seconds or a timedelta is needed, not {value!r}")
    return number


def check_target(job: Any, batch_id: str | None) -> None:
    """Check that exactly one of both is given."""
    if (job is None) == (batch_id is None):
        raise ConfigurationError("give either job (what the submit step returned) or batch_id")


def check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Check one of a few words."""
    if value not in allowed:
        raise ConfigurationError(f"{name}: one of {', '.join(allowed)} is needed, not {value!r}")


def check_ratio(ratio: float, name: str = "max_failed_ratio") -> None:
    """Check a share."""
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 <= ratio <= 1:
        raise ConfigurationError(f"{name}: a number from 0 to 1 is needed, not {ratio!r}")


def check_flags(known: Mapping[str, Any]) -> None:
    """Check what is True or False; ``deferrable`` may be None, for what the configuration says."""
    for name in ("deferrable", *FLAGS):
        value = known.get(name, False)
        if not isinstance(value, bool) and not (value is None and name == "deferrable"):
            raise ConfigurationError(f"{name}: True or False is needed, not {value!r}")


def check_count(name: str, count: Any, *, needed: bool = False) -> None:
    """Check a count, or None where it isn't needed."""
    if (needed or count is not None) and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise ConfigurationError(f"{name}: a whole number from 1 is needed, not {count!r}")


def check_expiry(seconds: Any) -> None:
    """Check how long OpenAI shall keep output files, or None."""
    check_count("output_expires_after", seconds)
    if seconds is not None and not EXPIRY[0] <= seconds <= EXPIRY[1]:
        raise ConfigurationError(f"output_expires_after: {EXPIRY[0]:,} to {EXPIRY[1]:,} seconds, not {seconds:,}")


def check_templates(prompt: Any, system: Any, body: Any) -> None:
    """Check that row templates compile, and that the body is a mapping."""
    from airflow_openai_batch.engine.templates import compile_value

    for name, text in (("prompt", prompt), ("system", system)):
        if text is not None and not isinstance(text, str):
            raise ConfigurationError(f"{name}: a string is needed, not {type(text).__name__}")
        compile_value(text, name)
    if not isinstance(body, Mapping):
        raise ConfigurationError(f"body: a mapping of request fields is needed, not {type(body).__name__}")
    compile_value(dict(body), "body")
    if body.get("stream"):
        raise ConfigurationError("body: stream isn't supported in batches")


def check_model(model: Any, body: Any) -> None:
    """Check the name of a model, or several names; an XCom is checked once it is there."""
    if model is None or isinstance(model, str) or hasattr(model, "resolve"):
        return
    if not isinstance(model, (list, tuple)) or not all(isinstance(name, str) and name for name in model):
        raise ConfigurationError(f"model: the name of a model, or a list of names, is needed, not {model!r}")
    if not model or len(set(model)) < len(model):
        raise ConfigurationError(f"model: a list of different models is needed, not {list(model)!r}")
    if isinstance(body, Mapping) and "model" in body:
        raise ConfigurationError("body: it names a model, and model= several: drop one of both")


def check_system(system: Any, endpoint: str | None) -> None:
    """Check that an endpoint takes a system prompt; None and one that isn't known may."""
    shape = KNOWN.get(endpoint or "")
    if system is not None and shape is not None and shape.prompt is not None and shape.system is None:
        raise ConfigurationError(f"system: {endpoint} has no system prompt")


def check_response_format(response_format: Any, endpoint: str | None = None) -> None:
    """Check that it is a kind of structured output, and that the endpoint has it; None may be any."""
    from airflow_openai_batch.engine.structured import for_endpoint, normalize

    normal = normalize(response_format)
    if normal is not None and endpoint is not None:
        for_endpoint(normal, endpoint)


def check_metadata(metadata: Any) -> None:
    """Check the user's pairs against OpenAI's limits (API reference: 16 pairs, keys 64, values 512 characters)."""
    if not isinstance(metadata, Mapping):
        raise ConfigurationError(f"metadata: a mapping is needed, not {type(metadata).__name__}")
    if _RESERVED & metadata.keys():
        raise ConfigurationError(
            f"metadata: {', '.join(sorted(_RESERVED & metadata.keys()))} is used by the job itself"
        )
    if len(metadata) > MAX_METADATA:
        raise ConfigurationError(f"metadata: at most {MAX_METADATA} pairs, not {len(metadata)}")
    for name, value in metadata.items():
        if len(str(name)) > 64 or (len(str(value)) > 512 and not is_template(value)):  # noqa: PLR2004 - the two limits that are named above
            raise ConfigurationError(f"metadata: {str(name)[:64]!r}: keys have at most 64 characters, values 512")
