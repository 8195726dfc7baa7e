"""The frozen dataclasses that travel between the rooms of the engine.

Those that are written to the store are read back through ``journal``, which checks each field's type, so they hold
plain JSON types alone. Times are seconds of the epoch (float, UTC) as this process's clock gave them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Status = Literal[
    "succeeded", "failed", "invalid", "refused", "truncated", "filtered", "expired", "cancelled", "missing"
]
STATUSES: tuple[Status, ...] = get_args(Status)
"""Every status that a result can have, as the README lists them."""

RESULT_FORMATS = ("jsonl", "jsonl.gz", "jsonl.zst", "parquet", "csv")
TERMINAL = frozenset({"completed", "failed", "expired", "cancelled"})
"""Statuses after which a batch changes no more."""

Range = tuple[int, int]
"""First and last row number, both included."""


@dataclass(frozen=True)
class BatchIssue:
    """One entry of a batch's ``errors.data``: why it failed validation. ``line`` counts from 1, None for the whole."""

    code: str | None = None
    message: str | None = None
    param: str | None = None
    line: int | None = None


@dataclass(frozen=True)
class Counts:
    """A batch's ``request_counts``. ``failed`` leaves out rows that never ran."""

    total: int = 0
    completed: int = 0
    failed: int = 0


@dataclass(frozen=True)
class BatchSnapshot:
    """A batch as the API showed it at one moment; ids that aren't known yet are None."""

    id: str
    status: str
    endpoint: str = ""
    input_file_id: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: float = 0.0
    expires_at: float | None = None
    ended_at: float | None = None
    counts: Counts = field(default_factory=Counts)
    errors: tuple[BatchIssue, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether the batch changes no more."""
        return self.status in TERMINAL


@dataclass(frozen=True)
class RemoteFile:
    """A file at OpenAI."""

    id: str
    name: str
    bytes: int
    created_at: float


@dataclass(frozen=True)
class Usage:
    """Tokens, summed over what was billed: answers of every round, whatever their status."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    total_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.cached_tokens + other.cached_tokens,
            self.output_tokens + other.output_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.total_tokens + other.total_tokens,
        )


@dataclass(frozen=True)
class Shard:
    """A file of requests that fits one batch.

    :param kind: ``plan``; ``sifted``: what was left of the plan to buy; ``canary``: asked first, one by one.
    :param rows: how many requests it holds.
    :param spans: the row numbers it holds, as ranges; None where they are many and scattered: the file itself tells.
    :param tokens: input tokens, estimated at four bytes of the request a token.
    :param digest: digest of the file as planned, so that a changed file is never uploaded.
    """

    number: int
    round: int
    rows: int
    bytes: int
    model: str
    first: int
    last: int
    spans: tuple[Range, ...] | None
    tokens: int
    digest: str
    kind: Literal["plan", "sifted", "canary"] = "plan"

    @property
    def name(self) -> str:
        """File name below ``_job/shards``, without its folder."""
        mark = f".r{self.round}" if self.round else "" if self.kind == "plan" else f".{self.kind}"
        return f"{self.number:05d}{mark}.jsonl"


@dataclass(frozen=True)
class Part:
    """A run of consecutive rows that is landed as one file of results.

    :param digest: digest of its joints, lest a row's columns stand beside another's answer; empty if made elsewhere.
    """

    number: int
    first: int
    rows: int
    digest: str = ""


@dataclass(frozen=True)
class SourceSpan:
    """From ``row`` on, rows are consecutive lines of ``path``, the first of them ``line`` (from 1)."""

    row: int
    path: str
    line: int


@dataclass(frozen=True)
class Plan:
    """What the planner made of the source.

    :param rows: requests: rows of the source, times the models where there are several.
    :param columns: the source's Arrow schema (serialized, base64), for the types of results' columns; else empty.
    """

    rows: int
    shards: tuple[Shard, ...]
    parts: tuple[Part, ...]
    sources: tuple[SourceSpan, ...]
    digest: str
    columns: str = ""


@dataclass(frozen=True, order=True)
class Key:
    """Names one attempt to run one shard of one round."""

    shard: int
    round: int
    attempt: int

    def __str__(self) -> str:
        return f"{self.shard:05d}.r{self.round}.a{self.attempt}"


@dataclass(frozen=True)
class Done:
    """The job is landed."""

    manifest: dict[str, Any]


@dataclass(frozen=True)
class Waiting:
    """Nothing can be done now.

    :param batches: the batches to watch, by id.
    :param wake: ``any``: as soon as one of them ends; ``all``: when all have.
    :param until: wake then in any case (seconds of the epoch), None for no such time.
    :param reason: for the log.
    """

    batches: tuple[str, ...]
    wake: Literal["any", "all"]
    until: float | None
    reason: str


@dataclass(frozen=True)
class Ended:
    """All rounds are over and collected; the job can be landed."""

    batches: tuple[str, ...]
