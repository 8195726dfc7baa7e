"""What a job may cost, and what it needn't buy: the parameters about money, apart from those about requests."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.operators.base import JobOperator
from airflow_openai_batch.operators.parameters import check_economy, parameters_checked, seconds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import time, timedelta

TEMPLATED = ("max_cost_usd", "max_direct_cost_usd", "cache", "canary", "deadline")
"""Parameters that may be Airflow templates, so that they can be params of the DAG."""


class EconomicalOperator(JobOperator):
    """Base of the operators that buy answers.

    :param max_cost_usd: what the job may cost in all, in US dollars; default no cap. A job that is estimated at more is
        refused before anything is sent; later rounds and direct calls reserve what they may cost first. Needs a price.
        Templated.
    :param max_direct_cost_usd: what of it may be spent on direct calls (canary, ``route``, ``deadline``); default no
        cap of their own. Templated.
    :param prices: prices that ``genai-prices`` doesn't know, or that you pay: US dollars per 1M tokens by model,
        ``{"my-model": {"input": 0.25, "output": 2.0}}``; or by processing, ``{"my-model": {"batch": {...}}}``; or a
        list of these, each with ``"since": "2026-01-01"``.
    :param assume_batch_discount: take half of the standard price where no batch rate is known; default False.
    :param estimate_only: plan the job, say what it would cost, and send nothing; the task's result is the estimate.
        A later run at the same destination goes on from the plan. Default False.
    :param deduplicate: send equal requests once, and give all their rows the answer; default False, since with a
        temperature repeats may be meant.
    :param cache: folder, on any store, with answers of earlier jobs: rows whose request is answered there aren't sent,
        and good answers of this job are added. Results say ``cached``. One folder for each server: an answer is found
        by endpoint and body. Default none. Templated.
    :param cache_ttl: seconds or timedelta after which an answer there is too old; default never.
    :param canary: rows (up to 1,000), drawn from all, that are asked first, directly; default 0. Their answers count.
        Templated.
    :param canary_max_failed: the share of them (0 to 1) that may be failed, invalid, truncated or missing; default 0.2.
        With more, or when what they cost says that the job would exceed its cap, the task fails.
    :param route: ``batch`` (default); ``direct``: one by one at the standard price, for what can't wait; ``auto``:
        directly where fewer than ``direct_below`` rows are to be bought, or the deadline is within the hour.
    :param direct_below: default 100.
    :param direct_concurrency: direct calls under way at once; default 8.
    :param deadline: seconds or timedelta from the job's beginning, or a time of day (``"06:00"``, UTC), by which all
        rows are to be answered: in time before it what runs is cancelled, and asked directly. Default none. Templated.
    """

    template_fields: Sequence[str] = (*JobOperator.template_fields, *TEMPLATED)

    def __init__(
        self,
        *,
        max_cost_usd: float | str | None = None,
        max_direct_cost_usd: float | str | None = None,
        prices: Mapping[str, Any] | None = None,
        assume_batch_discount: bool = False,
        estimate_only: bool = False,
        deduplicate: bool = False,
        cache: str | None = None,
        cache_ttl: float | timedelta | None = None,
        canary: int | str = 0,
        canary_max_failed: float = 0.2,
        route: str = "batch",
        direct_below: int = 100,
        direct_concurrency: int = 8,
        deadline: float | str | timedelta | time | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.max_cost_usd = max_cost_usd
        self.max_direct_cost_usd = max_direct_cost_usd
        self.prices = prices
        self.assume_batch_discount = assume_batch_discount
        self.estimate_only = estimate_only
        self.deduplicate = deduplicate
        self.cache = cache
        self.cache_ttl = cache_ttl
        self.canary = canary
        self.canary_max_failed = canary_max_failed
        self.route = route
        self.direct_below = direct_below
        self.direct_concurrency = direct_concurrency
        self.deadline = deadline
        with parameters_checked():
            check_economy(vars(self))

    def economy(self) -> dict[str, Any]:
        """Return what the engine needs to know of it; all is rendered by now.

        :raises ConfigurationError: what a template gave can't be right.
        """
        from airflow_openai_batch.engine.prices import check_prices
        from airflow_openai_batch.engine.routing import check_deadline

        given = {name: rendered(getattr(self, name)) for name in TEMPLATED}
        given |= {"canary": given["canary"] or 0, "cache": str(self.cache) if given["cache"] is not None else None}
        check_economy({**vars(self), **given})
        return {
            **given,
            "prices": check_prices(self.prices) or None,
            "assume_batch_discount": self.assume_batch_discount,
            "deduplicate": self.deduplicate,
            "cache_ttl": seconds(self.cache_ttl, "cache_ttl"),
            "canary_max_failed": self.canary_max_failed,
            "route": self.route,
            "direct_below": self.direct_below,
            "direct_at_once": self.direct_concurrency,
            "deadline": check_deadline(given["deadline"]),
        }


def rendered(value: Any) -> Any:
    """Return what a template came to: a number where it reads as one, None where it is empty or says ``None``."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return None if text in {"", "None"} else text
