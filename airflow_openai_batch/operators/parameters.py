"""What can be told of parameters when a DAG is parsed: wrong whatever the data, and said where the author looks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_openai_batch.exceptions import ConfigurationError

MAX_METADATA = 12
"""Pairs left to the user: OpenAI takes 16 a batch (API reference), four are the job's."""

EXPIRY = (3_600, 2_592_000)
"""Seconds that output files may be kept (API reference, ``output_expires_after``)."""

_RESERVED = {"job", "shard", "round", "attempt"}


def check_target(job: Any, batch_id: str | None) -> None:
    """Check that exactly one of both is given."""
    if (job is None) == (batch_id is None):
        raise ConfigurationError("give either job (what the submit step returned) or batch_id")


def check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Check one of a few words."""
    if value not in allowed:
        raise ConfigurationError(f"{name}: one of {', '.join(allowed)} is needed, not {value!r}")


def check_ratio(ratio: float) -> None:
    """Check a share."""
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 <= ratio <= 1:
        raise ConfigurationError(f"max_failed_ratio: a number from 0 to 1 is needed, not {ratio!r}")


def check_count(name: str, count: Any) -> None:
    """Check a count, or None."""
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
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


def check_response_format(response_format: Any) -> None:
    """Check that it is a kind of structured output."""
    from airflow_openai_batch.engine.structured import normalize

    normalize(response_format)


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
        if len(str(name)) > 64 or len(str(value)) > 512:  # noqa: PLR2004 - the two limits that are named above
            raise ConfigurationError(f"metadata: {str(name)[:64]!r}: keys have at most 64 characters, values 512")
