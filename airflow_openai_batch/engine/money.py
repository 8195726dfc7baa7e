"""What a job may spend and has spent, told by its journal: reserved with an attempt's intent, settled with its end.

An attempt that was voided bought nothing. Requests that are asked directly are reserved in chunks, each before it is
sent; a chunk that was sent and whose answers a kill lost may have been billed, so it stays reserved.
"""

from __future__ import annotations

import threading
from datetime import datetime, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from airflow_openai_batch.engine.answers import parse_line, usage_of
from airflow_openai_batch.engine.bill import Bill, actual
from airflow_openai_batch.engine.budget import Budget, Reservation
from airflow_openai_batch.engine.cost import Estimate
from airflow_openai_batch.engine.models import Usage
from airflow_openai_batch.engine.prices import Pricing
from airflow_openai_batch.exceptions import CostCapError, UnknownPriceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow_openai_batch.engine.cost import ModelEstimate
    from airflow_openai_batch.engine.job import JobSpec
    from airflow_openai_batch.engine.journal import JobState
    from airflow_openai_batch.engine.models import Key, Shard
    from airflow_openai_batch.engine.prices import Price, Processing
    from airflow_openai_batch.engine.records import Attempt, EndRecord, JobRecord


def is_direct(attempt: Attempt) -> bool:
    """Whether an attempt's requests were asked one by one."""
    return attempt.intent is not None and attempt.intent.purpose == "direct"


class Account:
    """The money of one job.

    Prices are those of the moment at which the job was planned.
    """

    def __init__(self, record: JobRecord, spec: JobSpec) -> None:
        at = datetime.fromtimestamp(record.created_at, timezone.utc)
        self._pricing = Pricing(at, spec.prices, spec.assume_batch_discount)
        self._estimates = {
            model.model: model for model in (Estimate.from_json(record.estimate).models if record.estimate else ())
        }
        self._estimate = Estimate.from_json(record.estimate) if record.estimate else None
        tier = record.parameters.get("body", {}).get("service_tier")
        self._direct: Processing = "flex" if tier == "flex" else "standard"
        self._cap = None if spec.max_cost_usd is None else Decimal(str(spec.max_cost_usd))
        self._may_ask = spec.canary > 0 or spec.deadline is not None
        self._aside: dict[Key, Decimal] = {}
        self._lock = threading.Lock()
        self._direct_cap = None if spec.max_direct_cost_usd is None else Decimal(str(spec.max_direct_cost_usd))

    @property
    def capped(self) -> bool:
        """Whether there is a cap at all."""
        return self._cap is not None or self._direct_cap is not None

    def bill(self, state: JobState) -> Bill:
        """Return what was paid so far."""
        usage: dict[tuple[str, Processing], Usage] = {}
        for attempt in state.all_attempts():
            for model, used in attempt.end.usage.items() if attempt.end else ():
                place = (model, self._processing(attempt))
                usage[place] = usage.get(place, Usage()) + used
        return actual(usage, self._pricing)

    def check_estimate(self, state: JobState, way: Literal["batch", "direct"] = "batch") -> None:
        """See that the whole job fits the caps, before anything is bought.

        :param way: how it goes.
        :raises CostCapError: it doesn't.
        :raises UnknownPriceError: that can't be told, or couldn't be once it is to be paid.
        """
        if not self.capped or self._estimate is None or any(attempt.intent for attempt in state.all_attempts()):
            return
        if self._may_ask or way == "direct":
            for model in self._estimates:
                self._price(model)
        amount = self._whole(self._estimate, way) if self._cap is not None or way == "direct" else Decimal(0)
        for cap in (self._cap, self._direct_cap if way == "direct" else None):
            if cap is not None and amount > cap:
                raise CostCapError("the whole job", amount, cap, Decimal(0), Decimal(0))

    def _whole(self, estimate: Estimate, way: Literal["batch", "direct"]) -> Decimal:
        """Return what all requests cost, each by the same way."""
        if way == "batch":
            return estimate.require()
        total = Decimal(0)
        for model in estimate.models:
            if model.standard is None and model.problem is not None:
                raise UnknownPriceError(model.problem)
            total += self._price(model.model).cost(model.input_tokens, model.output_tokens)
        return total

    def check_projection(
        self, state: JobState, ends: Iterable[EndRecord], way: Literal["batch", "direct"] = "batch"
    ) -> None:
        """See that the whole job fits the cap, by what its canary came to.

        :param way: how the rest goes.
        :raises CostCapError: it doesn't.
        """
        if self._cap is None or self._estimate is None:
            return
        tokens: dict[str, int] = {}
        rows: dict[str, int] = {}
        for end in ends:
            for model, used in end.usage.items():
                tokens[model] = tokens.get(model, 0) + used.output_tokens
                rows[model] = rows.get(model, 0) + end.answered
        means = {model: tokens[model] / rows[model] for model in tokens if rows[model]}
        amount = self._whole(self._estimate.measured(means), way)
        if amount > self._cap:
            spent = self.bill(state).usd or Decimal(0)
            raise CostCapError("the whole job, by what its canary came to", amount, self._cap, spent, Decimal(0))

    def reserve(self, shard: Shard, key: Key, state: JobState) -> None:
        """See that there is money for a shard's batch.

        :raises CostCapError: there isn't.
        :raises UnknownPriceError: that can't be told.
        """
        if self._cap is None:
            return
        # Several shards are submitted at once; each must know of the others before their intents are written.
        with self._lock:
            amount = self._amount(shard, "batch")
            self._budget(state, self._cap, without=key).reserve(amount, f"shard {key}")
            self._aside[key] = amount

    def allowance(self, shard: Shard, key: Key, state: JobState) -> Allowance | None:
        """Return what a shard that is asked directly may spend, None without a cap."""
        if not self.capped:
            return None
        budgets = [self._budget(state, self._cap, without=key)] if self._cap is not None else []
        if self._direct_cap is not None:
            budgets.append(self._budget(state, self._direct_cap, without=key, direct_alone=True))
        estimate = self._model(shard.model)
        return Allowance(
            f"requests of shard {key}", min(budgets, key=lambda budget: budget.left), estimate, self._price(shard.model)
        )

    def _budget(
        self, state: JobState, cap: Decimal, *, without: Key | None = None, direct_alone: bool = False
    ) -> Budget:
        aside = {key: amount for key, amount in self._aside.items() if key != without and not direct_alone}
        shards = {(shard.round, shard.number): shard for shards in state.rounds for shard in shards}
        reservations, settled = [], {}
        for attempt in state.all_attempts():
            intent = attempt.intent
            if intent is None or intent.purpose not in {"create", "direct"} or attempt.key == without:
                continue
            if direct_alone and not is_direct(attempt):
                continue
            aside.pop(attempt.key, None)
            shard = shards.get((attempt.key.round, attempt.key.shard))
            amount = self._amount(shard, self._processing(attempt)) if shard is not None else Decimal(0)
            reservations.append(Reservation(f"shard {attempt.key}", amount))
            if attempt.void is not None:
                settled[f"shard {attempt.key}"] = Decimal(0)
            elif attempt.end is not None:
                settled[f"shard {attempt.key}"] = self._paid(attempt, attempt.end.usage)
        reservations += [Reservation(f"shard {key}", amount) for key, amount in aside.items()]
        return Budget(cap, reservations, settled)

    def _paid(self, attempt: Attempt, usage: Mapping[str, Usage]) -> Decimal:
        processing = self._processing(attempt)
        paid = Decimal(0)
        for model, used in usage.items():
            price = self._pricing.must(model, processing)
            paid += price.cost(used.input_tokens, used.output_tokens, used.cached_tokens)
        return paid

    def _processing(self, attempt: Attempt) -> Processing:
        return self._direct if is_direct(attempt) else "batch"

    def _price(self, model: str) -> Price:
        return self._pricing.must(model, self._direct)

    def _model(self, model: str) -> ModelEstimate:
        estimate = self._estimates.get(model)
        if estimate is None:
            raise UnknownPriceError(f"{model}: nothing was estimated for it, so a cap can't be kept")
        return estimate

    def _amount(self, shard: Shard, processing: Processing) -> Decimal:
        """Return a shard's share of what its model was estimated at."""
        estimate = self._model(shard.model)
        share = Decimal(shard.bytes) / estimate.bytes if estimate.bytes else Decimal(1)
        price = self._pricing.must(shard.model, processing)
        return share * price.cost(estimate.input_tokens, estimate.output_tokens)


class Allowance:
    """What direct calls may spend, chunk by chunk.

    :param what: names them, for errors.
    :param budget: money that nothing else of the job has a claim to.
    :param estimate: of the model.
    :param price: of a direct call.
    """

    def __init__(self, what: str, budget: Budget, estimate: ModelEstimate, price: Price) -> None:
        self._what = what
        self._budget = budget
        self._per_byte = price.cost(estimate.input_tokens, estimate.output_tokens) / max(1, estimate.bytes)
        self._price = price
        self._spent = Decimal(0)
        self._in_the_air: dict[str, Decimal] = {}
        self._answered = self._expected = Decimal(0)

    @property
    def _dearer(self) -> Decimal:
        """How many times what was estimated answers came to so far, 1 if that is less."""
        return max(Decimal(1), self._answered / self._expected) if self._expected else Decimal(1)

    def reserve(self, lines: Iterable[bytes]) -> None:
        """Set money aside for requests that are about to be sent.

        :raises CostCapError: there isn't that much left.
        """
        wanted = {str((parse_line(line) or {}).get("custom_id")): len(line) * self._per_byte for line in lines}
        amount = self._dearer * sum(wanted.values(), Decimal(0))
        reserved = self._dearer * sum(self._in_the_air.values(), Decimal(0))
        budget = self._budget
        if self._spent + reserved + amount > budget.left:
            raise CostCapError(self._what, amount, budget.cap, budget.spent + self._spent, budget.reserved + reserved)
        self._in_the_air.update(wanted)

    def note(self, line: dict[str, Any], size: int = 0) -> None:
        """Book an answer.

        :param size: bytes of the request, where an earlier process asked it.
        """
        expected = self._in_the_air.pop(line["custom_id"], size * self._per_byte)
        body = (line.get("response") or {}).get("body")
        usage = usage_of(body.get("usage")) if isinstance(body, dict) else None
        if usage:
            cost = self._price.cost(usage["input_tokens"], usage["output_tokens"], usage["cached_tokens"])
            self._spent += cost
            self._answered += cost
            self._expected += expected

    def note_lost(self, size: int) -> None:
        """Book requests that were sent and whose answers a kill lost: they may have been billed.

        :param size: bytes of them.
        """
        self._spent += self._dearer * size * self._per_byte
