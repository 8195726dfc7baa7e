"""Whether a landed job is good enough, and what to say when it isn't."""

from __future__ import annotations

from typing import Any

from airflow_openai_batch.exceptions import JobFailedError

_ADVICE = {
    "model_not_found": " Check model= and whether connection {conn_id!r} may use it in batches.",
    "insufficient_quota": " Check the plan and billing of connection {conn_id!r}.",
    "invalid_api_key": " Check the API key of connection {conn_id!r}.",
}
"""What to look at first, by OpenAI's error code."""


def checked_manifest(outcome: Any, max_failed_ratio: float, conn_id: str) -> dict[str, Any]:
    """Return a landed job's manifest.

    The first line of the error is what a notifier shows: it stands alone and doesn't grow with the server's words.

    :raises JobFailedError: the share of rows without a good answer is over the limit.
    """
    manifest: dict[str, Any] = outcome.manifest
    rows = manifest["rows"]
    failed = rows["total"] - rows["succeeded"]
    if failed <= max_failed_ratio * rows["total"]:
        return manifest
    statuses = {name: count for name, count in rows.items() if count and name not in {"total", "succeeded"}}
    by_status = ", ".join(f"{count:,} {name}" for name, count in statuses.items())
    error = next((example["error"] for example in manifest["errors_sample"] if example["error"]), None) or {}
    message = str(error.get("message") or "no message").rstrip(".")
    advice = _ADVICE.get(str(error.get("code")), "").format(conn_id=conn_id)
    raise JobFailedError(
        f"{failed:,} of {rows['total']:,} rows ({failed / rows['total']:.1%}) have no good answer, more than "
        f"max_failed_ratio={max_failed_ratio:g}: {by_status}; {manifest['usage']['total_tokens']:,} tokens were "
        f"billed. Results: {manifest['results']}\n"
        f"First error: {error.get('code')}: {message}.{advice}\n"
        "Every row's result is landed. To accept the job as it is, raise max_failed_ratio and clear the task, which "
        "costs nothing; to run it again once the cause is mended, use another destination or "
        'on_input_change="restart" with what you changed.'
    )
