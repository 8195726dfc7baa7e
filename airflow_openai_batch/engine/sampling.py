"""What a job's requests weigh: every row by its bytes, a sample of them by its tokens.

A row costs two additions and a comparison, and a caller that adds rows up anyway needs the comparison alone
(:attr:`Tally.due`, :meth:`Tally.weigh`). Counted are the first rows of a model, and from there on ever fewer,
which take the places of earlier ones: a reservoir (Li's algorithm L), so that each row is as likely to be in the sample
as any other. The dice are seeded with the model's name, so equal rows give equal figures. The tokens of all rows are
those of the sample, in proportion to bytes; where the sample has every row, nothing is estimated at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from airflow_openai_batch.engine.tokens import TokenCounter, counter_for, output_ceiling

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

KEEP = 200
"""Rows of each model that are in the sample. With a spread of 60 % between rows, the sum is then true to 4 %."""


@dataclass(frozen=True)
class Measure:
    """What the requests of one model weigh.

    :param rows: all requests of the model.
    :param bytes: of all of their lines.
    :param sampled: how many of them were counted; the rest is about these.
    :param longest: bytes of the longest line.
    :param input_tokens: theirs alone.
    :param limited: how many of them set a limit to their output.
    :param ceilings: the sum of these limits, in tokens.
    :param unseen: how many have audio, files or references, which weren't counted.
    :param counter: how tokens were counted.
    """

    model: str
    rows: int
    bytes: int
    sampled: int
    sampled_bytes: int
    longest: int
    input_tokens: int
    limited: int
    ceilings: int
    unseen: int
    counter: str


_SHORT = 1 << 14
"""Bytes of a line that may wait to be counted."""


class _Counted(NamedTuple):
    size: int
    tokens: int
    ceiling: int | None
    unseen: int


class Tally:
    """Takes the requests of one model; ``due`` is the number, from 1, of the next one that is to be counted."""

    def __init__(self, model: str, keep: int, counter: Callable[[str], TokenCounter]) -> None:
        self.model = model
        self.rows = self.bytes = 0
        self._keep = keep
        self._make_counter = counter
        self._counter: TokenCounter | None = None
        self._dice = Random(model)  # noqa: S311 - a sample, no secret
        self.due = 1
        self._width = 1.0
        self._kept: list[tuple[int, bytes] | _Counted] = []

    def add(self, size: int, request: bytes | Mapping[str, Any] | None = None) -> None:
        """Take one request.

        :param size: bytes of its line.
        :param request: the line, or its body (as JSON or parsed); looked at only if the row is in the sample. Without
            it the row is weighed and never counted.
        """
        self.rows += 1
        self.bytes += size
        if self.rows >= self.due and request is not None:
            self.count(self.rows, size, request)

    def take(self, rows: int, size: int, line: Callable[[int], bytes]) -> None:
        """Take many requests at once, of ``size`` bytes in all; ``line`` gives the one at a place among them."""
        before = self.rows
        self.rows += rows
        self.bytes += size
        while self.due <= self.rows:
            due = line(self.due - before - 1)
            self.count(self.due, len(due), due)

    def count(self, row: int, size: int, request: bytes | Mapping[str, Any]) -> None:
        """Count one request that is due.

        :param row: its number among the model's, from 1.
        """
        # A line may have to make room for another; a short one can wait to be counted until it is known to stay.
        entry = (
            (size, request) if isinstance(request, bytes) and len(request) <= _SHORT else self._counted(size, request)
        )
        if len(self._kept) < self._keep:
            self._kept.append(entry)
        else:
            self._kept[self._dice.randrange(self._keep)] = entry
        self.due = row + 1
        if len(self._kept) == self._keep:
            self._width = min(self._width * math.exp(math.log(self._roll()) / self._keep), 1 - 1e-12)
            self.due += math.floor(math.log(self._roll()) / math.log1p(-self._width))

    def _counted(self, size: int, request: bytes | Mapping[str, Any]) -> _Counted:
        if self._counter is None:
            self._counter = self._make_counter(self.model)
        value: Any = orjson.loads(request) if isinstance(request, bytes) else request
        body = value["body"] if "custom_id" in value and isinstance(value.get("body"), dict) else value
        counted = self._counter.count_body(body)
        return _Counted(size, counted.tokens, output_ceiling(body), counted.unseen)

    def _roll(self) -> float:
        """Return a number above 0 and below 1."""
        return max(self._dice.random(), 1e-12)

    def measure(self) -> Measure:
        """Return what came together so far."""
        kept = [entry if isinstance(entry, _Counted) else self._counted(*entry) for entry in self._kept]
        self._kept = list(kept)
        ceilings = [ceiling for _, _, ceiling, _ in kept if ceiling is not None]
        return Measure(
            model=self.model,
            rows=self.rows,
            bytes=self.bytes,
            sampled=len(kept),
            sampled_bytes=sum(size for size, _, _, _ in kept),
            longest=max((size for size, _, _, _ in kept), default=0),
            input_tokens=sum(tokens for _, tokens, _, _ in kept),
            limited=len(ceilings),
            ceilings=sum(ceilings),
            unseen=sum(1 for _, _, _, unseen in kept if unseen),
            counter=self._counter.name if self._counter else "nothing was counted",
        )


class Sampler:
    """Takes all requests of a job.

    :param keep: rows of each model in the sample.
    :param counter: gives a model's counter.
    """

    def __init__(self, keep: int = KEEP, counter: Callable[[str], TokenCounter] = counter_for) -> None:
        self._keep = keep
        self._counter = counter
        self._tallies: dict[str, Tally] = {}

    def add(self, model: str, size: int, request: bytes | Mapping[str, Any] | None = None) -> None:
        """Take one request; see :meth:`Tally.add`."""
        tally = self._tallies.get(model)
        (tally or self.tally(model)).add(size, request)

    def tally(self, model: str) -> Tally:
        """Return what takes the requests of one model, for a caller that has many of them."""
        return self._tallies.setdefault(model, Tally(model, self._keep, self._counter))

    def measures(self) -> tuple[Measure, ...]:
        """Return what came together so far, by model's name."""
        return tuple(tally.measure() for _, tally in sorted(self._tallies.items()) if tally.rows)


__all__ = ["KEEP", "Measure", "Sampler", "Tally"]
