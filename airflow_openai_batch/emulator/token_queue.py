"""Enqueued tokens: what each model's waiting and running batches hold against its limit.

At the service the counter lags: tokens of a batch that has ended count on for a while. ``--token-lag`` and the
``token_lag`` fault make it so here.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING

from airflow_openai_batch.emulator.validation import batch_error

if TYPE_CHECKING:
    from airflow_openai_batch.emulator.settings import Settings


class TokenQueue:
    """The counters of all models. Lives on the event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._held: defaultdict[str, int] = defaultdict(int)
        self._leaving: list[tuple[float, str, int]] = []

    def enqueue(self, model: str, tokens: int) -> dict[str, str | int | None] | None:
        """Take ``tokens`` into the queue of ``model``, or return the error that fails the batch."""
        error = self.refusal(model, tokens)
        if error is None:
            self._held[model] += tokens
        return error

    def refusal(self, model: str, tokens: int) -> dict[str, str | int | None] | None:
        """Return the error of a batch for which there is no room, ``None`` where there is."""
        self._settle()
        limit = self._settings.limit_of(model)
        if limit is None or self._held[model] + tokens <= limit:
            return None
        if "azure_words" in self._settings.oddities:
            return azure_limit_error(model, limit)
        return limit_error(model, limit, self._settings.organization)

    def release(self, model: str, tokens: int, lag: float) -> None:
        """Let ``tokens`` go after ``lag`` seconds."""
        self._leaving.append((time.monotonic() + lag, model, tokens))
        self._settle()

    def held(self, model: str) -> int:
        """Return the tokens that count against the limit of ``model`` now."""
        self._settle()
        return self._held[model]

    def _settle(self) -> None:
        now = time.monotonic()
        for moment, model, tokens in self._leaving:
            if moment <= now:
                self._held[model] -= tokens
        self._leaving = [entry for entry in self._leaving if entry[0] > now]


def limit_error(model: str, limit: int, organization: str) -> dict[str, str | int | None]:
    """Return the error of a batch for which the queue of ``model`` is too full."""
    message = (
        f"Enqueued token limit reached for {model} in organization {organization}. Limit: {limit:,} enqueued tokens. "
        "Please try again once some in_progress batches have been completed."
    )
    return batch_error("token_limit_exceeded", message)


def azure_limit_error(deployment: str, limit: int) -> dict[str, str | int | None]:
    """Return the same in Azure's words, which count in thousands."""
    shown = str(limit) if limit % 1_000 else f"{limit // 1_000}K"
    message = (
        f"The number of enqueued tokens has surpassed the configured limit of {shown} for the deployment "
        f"'{deployment}'. Please either increase the limit or try again once the current jobs have finished."
    )
    return batch_error("token_limit_exceeded", message)
