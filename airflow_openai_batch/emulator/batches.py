"""Batches as the API shows them, and the rules for creating, listing and cancelling them.

What moves a batch from one status to the next is in ``runner``.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from airflow_openai_batch.emulator import ids
from airflow_openai_batch.emulator.endpoints import batch_urls
from airflow_openai_batch.emulator.errors import APIError, from_validation, invalid_value
from airflow_openai_batch.emulator.faults import BatchFault, BlankIds, Hidden
from airflow_openai_batch.emulator.files import Cursor
from airflow_openai_batch.emulator.oddities import shown_batch
from airflow_openai_batch.emulator.projects import PROJECT, is_visible

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from airflow_openai_batch.emulator.clock import Clock
    from airflow_openai_batch.emulator.files import StoredFile
    from airflow_openai_batch.emulator.settings import Settings

F = TypeVar("F", bound=BatchFault)

Metadata = Annotated[
    dict[Annotated[str, StringConstraints(max_length=64)], Annotated[str, StringConstraints(max_length=512)]],
    Field(max_length=16),
]
OPEN = frozenset({"validating", "in_progress", "finalizing"})
_HOUR = 3_600
_DAY = 24
_WINDOW = re.compile(r"([1-9]\d*)([hd])")
_HOURS = {"h": 1, "d": 24}


class ExpiresAfter(BaseModel):
    """When a file shall go. The service takes one hour to thirty days."""

    model_config = ConfigDict(extra="forbid", strict=True)
    anchor: Literal["created_at"]
    seconds: int = Field(ge=3_600, le=2_592_000)


class BatchCreate(BaseModel):
    """The body of POST /v1/batches."""

    model_config = ConfigDict(extra="forbid", strict=True)
    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None


class InlineCreate(BatchCreate):
    """The body where the requests come with it."""

    input_file_id: None = None  # type: ignore[assignment] # it stands in the place of the field of the same name
    input_file_content: str


def read_create(body: dict[str, Any], oddities: Collection[str]) -> BatchCreate:
    """Read the body of POST /v1/batches.

    :raises APIError: 400, in the service's words.
    """
    inline = "inline_create" in oddities and "input_file_content" in body
    if inline and body.get("input_file_id") is not None:
        message = "Both 'input_file_id' and 'input_file_content' were given, but a batch has only one of them."
        raise APIError(400, message, code="invalid_value", param="input_file_content")
    try:
        return (InlineCreate if inline else BatchCreate).model_validate(body)
    except ValidationError as error:
        errors = error.errors()
        first = next((entry for entry in errors if entry["type"] == "extra_forbidden"), errors[0])
        raise from_validation({**first, "loc": ("body", *first["loc"])}) from None


def window_hours(window: str) -> int | None:
    """Return the hours of a completion window: ``24h``, ``7d``; None for what is none."""
    found = _WINDOW.fullmatch(window)
    return int(found[1]) * _HOURS[found[2]] if found else None


@dataclass(slots=True)
class Totals:
    """Rows and tokens of a batch so far. Rows that never ran are in none of them."""

    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(slots=True, kw_only=True)
class Batch:
    """One batch.

    :param deadline: moment of the monotonic clock at which the completion window ends.
    :param listed_from: moment of the monotonic clock from which lists show it (a fault).
    :param project: whose it is.
    :param faults: what is to go wrong with it.
    :param woken: set when it is cancelled, so that whatever waits looks up.
    """

    id: str
    asked: BatchCreate
    input_file: StoredFile
    created_at: int
    expires_at: int
    deadline: float
    faults: list[BatchFault] = field(default_factory=list)
    listed_from: float = 0.0
    project: str = field(default_factory=PROJECT.get)
    status: str = "validating"
    moments: dict[str, int] = field(default_factory=dict)
    model: str | None = None
    rows: int = 0
    totals: Totals = field(default_factory=Totals)
    errors: list[dict[str, str | int | None]] | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    cancelled: bool = False
    woken: asyncio.Event = field(default_factory=asyncio.Event)

    def fault(self, kind: type[F]) -> F | None:
        """Return the batch's fault of that kind, if it has one."""
        return next((fault for fault in self.faults if isinstance(fault, kind)), None)

    def to_json(self) -> dict[str, Any]:
        """Return the API's Batch object."""
        moments, totals = self.moments, self.totals
        no_id = None if self.fault(BlankIds) is None else ""
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.asked.endpoint,
            "model": self.model,
            "errors": None if self.errors is None else {"object": "list", "data": self.errors},
            "input_file_id": self.asked.input_file_id,
            "completion_window": self.asked.completion_window,
            "status": self.status,
            "output_file_id": self.output_file_id or no_id,
            "error_file_id": self.error_file_id or no_id,
            "created_at": self.created_at,
            "in_progress_at": moments.get("in_progress"),
            "expires_at": self.expires_at,
            "finalizing_at": moments.get("finalizing"),
            "completed_at": moments.get("completed"),
            "failed_at": moments.get("failed"),
            "expired_at": moments.get("expired"),
            "cancelling_at": moments.get("cancelling"),
            "cancelled_at": moments.get("cancelled"),
            "request_counts": {"total": self.rows, "completed": totals.completed, "failed": totals.failed},
            "usage": {
                "input_tokens": totals.input_tokens,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": totals.output_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": totals.input_tokens + totals.output_tokens,
            },
            "metadata": self.asked.metadata,
        }


class BatchStore:
    """All batches. Lives on the event loop."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._batches: dict[str, Batch] = {}
        self._cursor = Cursor[Batch]()
        self._recent: deque[float] = deque()

    def create(
        self, asked: BatchCreate, input_file: StoredFile | None, take_faults: Callable[[], list[BatchFault]]
    ) -> Batch:
        """Make a batch, ``validating``.

        :param input_file: the file that was named, or what came in its place; ``None`` when there is none.
        :param take_faults: gives what is to go wrong with it. Called only if there will be a batch.
        :raises APIError: 400 when the file isn't there or not for batches; 429 when the hour's batches are used up.
        """
        self._check(asked)
        if input_file is None:
            message = f"Cannot find file {asked.input_file_id}, or project {PROJECT.get()} does not have access to it."
            raise APIError(400, message, code="invalid_request", param="input_file_id")
        if input_file.purpose != "batch":
            message = f"Invalid purpose of file {input_file.id}: expected 'batch', but got '{input_file.purpose}'."
            raise APIError(400, message, code="invalid_value", param="input_file_id")
        if input_file.status != "processed":
            # What Azure says here isn't documented; that it refuses is (openai-dotnet#312).
            message = f"The file {input_file.id} is not ready: its status is '{input_file.status}'."
            raise APIError(400, message, code="invalid_value", param="input_file_id")
        self._count_create()
        now = self._clock.now()
        oddities = self._settings.oddities
        window = self._settings.window * (window_hours(asked.completion_window) or _DAY) / _DAY
        faults = take_faults()
        hidden = next((fault for fault in faults if isinstance(fault, Hidden)), None)
        batch = Batch(
            id=ids.new_id("batch_"),
            asked=asked,
            input_file=input_file,
            created_at=now,
            expires_at=now + round(window),
            deadline=math.inf if "never_expires" in oddities else time.monotonic() + window,
            faults=faults,
            listed_from=0.0 if hidden is None else time.monotonic() + hidden.seconds,
        )
        self._batches[batch.id] = batch
        self._cursor.add(batch.id)
        return batch

    def _check(self, asked: BatchCreate) -> None:
        urls = batch_urls(self._settings)
        if asked.endpoint not in urls:
            raise invalid_value("endpoint", asked.endpoint, urls)
        taken = "any_window" in self._settings.oddities and window_hours(asked.completion_window) is not None
        if asked.completion_window != "24h" and not taken:
            raise invalid_value("completion_window", asked.completion_window, ("24h",))

    def _count_create(self) -> None:
        limit = self._settings.batches_per_hour
        now = time.monotonic()
        while self._recent and self._recent[0] <= now - _HOUR:
            self._recent.popleft()
        if limit is not None and len(self._recent) >= limit:
            message = f"Rate limit reached for batch creation: limit {limit} an hour. Please try again later."
            wait = max(1, round(self._recent[0] + _HOUR - now)) if self._recent else _HOUR
            headers = {"retry-after": str(wait)}
            raise APIError(429, message, code="rate_limit_exceeded", kind="requests", headers=headers)
        self._recent.append(now)

    def get(self, batch_id: str) -> Batch:
        """Return the batch or raise the service's 404."""
        if (batch := self._batches.get(batch_id)) is None or not is_visible(batch):
            raise APIError(404, f"No batch found with id '{batch_id}'.")
        return batch

    def page(self, *, after: str | None, limit: int) -> dict[str, Any] | list[dict[str, Any]]:
        """Return a page of batches, newest first."""
        now = time.monotonic()
        listed = [batch for batch in self._batches.values() if batch.listed_from <= now and is_visible(batch)]
        oddities = self._settings.oddities
        ascending = "oldest_first" in oddities
        if "bare_list" in oddities:
            return [shown_batch(batch.to_json(), oddities) for batch in (listed if ascending else listed[::-1])]
        page = self._cursor.page(listed, after=after, limit=limit, ascending=ascending)
        return {**page, "data": [shown_batch(batch.to_json(), oddities) for batch in page["data"]]}

    def cancel(self, batch: Batch) -> None:
        """Ask for the end of a batch. A second time changes nothing.

        :raises APIError: 409 on a batch that has ended.
        """
        if batch.status == "cancelling":
            return
        if batch.status not in OPEN:
            raise APIError(409, f"Cannot cancel a batch with status '{batch.status}'.")
        batch.status = "cancelling"
        batch.moments["cancelling"] = self._clock.now()
        batch.cancelled = True
        batch.woken.set()
