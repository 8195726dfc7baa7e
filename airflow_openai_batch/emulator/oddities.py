"""How other servers differ from OpenAI, one oddity at a time, and the modes that are made of them.

====================  ==================================================================================================
``any_window``        completion windows other than 24h are taken: ``72h``, ``7d``
``azure_words``       batches fail with Azure's codes (``url_mismatch``, ``model_mismatch``) and words for a full queue
``bare_list``         the list of batches is an array without a frame, all of it at once
``blank_ids``         ``""`` in place of null where a batch has no output or error file
``capitalised``       statuses as ``Validating``
``codeless_errors``   errors of rows have no ``code``
``early_limits``      a full queue refuses the create: 400, ``{"errors": {"data": [{"code": "token_limit_exceeded"}]}}``
``empty_error_file``  a batch without failed rows has an error file too, of 0 bytes
``inline_create``     POST /batches takes requests too: their lines as a string, ``input_file_content``
``iso_times``         a batch's times are ISO 8601, with seven decimals
``never_expires``     batches run on when their window is over
``no_last_newline``   output and error files end without a newline
``no_line_ids``       their lines have no ``id``, and begin with ``custom_id``
``no_metadata``       batches don't show their metadata
``no_ranges``         downloads always begin at the beginning
``null_counts``       null in place of 0 in ``request_counts``
``null_endpoint``     batches don't show their endpoint
``oldest_first``      batches are listed oldest first
``pending_files``     files are ``pending`` for ``--file-processing`` seconds, and no batch is made of them meanwhile
``plain_paths``       endpoints are taken without ``/v1`` too: ``/chat/completions``
``short_ids``         a ``custom_id`` has at most 64 characters
``string_body``       ``response.body`` of a row is a string of JSON
``upper_case``        statuses as ``VALIDATING``
``wrapped_create``    POST /batches answers 201 and ``{"job": {...}, "warning": null}``
``wrapped_errors``    errors are told in a message, ``Error code: 400 - {...}``, with the HTTP status as their code
====================  ==================================================================================================

Mode ``azure`` also has paths and authentication of its own (module ``azure``). Its oddities are those of Azure's batch
guide; where the guide shows two forms, the one further from OpenAI's. Mode ``gateway`` is no server in particular: it
has what was seen at several.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Collection

MODES: dict[str, frozenset[str]] = {
    "openai": frozenset(),
    "azure": frozenset(
        {
            "azure_words",
            "blank_ids",
            "capitalised",
            "early_limits",
            "empty_error_file",
            "iso_times",
            "never_expires",
            "no_line_ids",
            "null_counts",
            "null_endpoint",
            "pending_files",
            "plain_paths",
        }
    ),
    "gateway": frozenset(
        {
            "any_window",
            "bare_list",
            "codeless_errors",
            "empty_error_file",
            "inline_create",
            "iso_times",
            "no_last_newline",
            "no_metadata",
            "no_ranges",
            "null_counts",
            "oldest_first",
            "plain_paths",
            "short_ids",
            "string_body",
            "upper_case",
            "wrapped_create",
            "wrapped_errors",
        }
    ),
}
ODDITIES = frozenset.union(*MODES.values())

MAX_ID = 64
"""Characters of a ``custom_id`` where ids are short."""

_TIMES = (
    "created_at",
    "in_progress_at",
    "expires_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
)
_AZURE_CODES = {"invalid_url": "url_mismatch", "mismatched_model": "model_mismatch"}


def shown_batch(batch: dict[str, Any], has: Collection[str]) -> dict[str, Any]:
    """Return a batch as a server with these oddities shows it."""
    shown = dict(batch)
    if "capitalised" in has:
        shown["status"] = shown["status"].capitalize()
    if "upper_case" in has:
        shown["status"] = shown["status"].upper()
    if "iso_times" in has:
        shown.update({name: _iso(shown[name]) for name in _TIMES})
    if "null_counts" in has:
        shown["request_counts"] = {name: count or None for name, count in shown["request_counts"].items()}
    if "blank_ids" in has:
        shown.update({name: shown[name] or "" for name in ("output_file_id", "error_file_id")})
    if "null_endpoint" in has:
        shown["endpoint"] = None
    if "no_metadata" in has:
        shown["metadata"] = None
    return shown


def shown_create(batch: dict[str, Any], has: Collection[str]) -> tuple[dict[str, Any], int]:
    """Return the answer to the creation of a batch, and its HTTP status."""
    shown = shown_batch(batch, has)
    return ({"job": shown, "warning": None}, 201) if "wrapped_create" in has else (shown, 200)


def shown_line(line: dict[str, Any], has: Collection[str]) -> bytes:
    """Return a line of an output or error file."""
    if "codeless_errors" in has:
        line = _codeless(line)
    response = line["response"]
    if "string_body" in has and response is not None:
        line = {**line, "response": {**response, "body": orjson.dumps(response["body"]).decode()}}
    if "no_line_ids" in has:
        line = {name: line[name] for name in ("custom_id", "response", "error")}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def _codeless(line: dict[str, Any]) -> dict[str, Any]:
    error, response = line["error"], line["response"]
    if error is not None:
        return {**line, "error": {"message": error["message"]}}
    body = response["body"]
    if isinstance(body, dict) and "error" in body:
        kept = {name: value for name, value in body["error"].items() if name != "code"}
        return {**line, "response": {**response, "body": {"error": kept}}}
    return line


def shown_issue(issue: dict[str, Any], has: Collection[str]) -> dict[str, Any]:
    """Return an item of a failed batch's ``errors.data``."""
    return {**issue, "code": _AZURE_CODES.get(issue["code"], issue["code"])} if "azure_words" in has else issue


def shown_error(body: dict[str, Any], status: int, has: Collection[str]) -> dict[str, Any]:
    """Return the body of an HTTP error."""
    if "wrapped_errors" not in has:
        return body
    told = {"message": f"Error code: {status} - {body}", "type": None, "param": None, "code": str(status)}
    return {"error": told}


def _iso(moment: int | None) -> str | None:
    if moment is None:
        return None
    return f"{datetime.fromtimestamp(moment, timezone.utc):%Y-%m-%dT%H:%M:%S}.0000000+00:00"
