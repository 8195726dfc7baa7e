"""What a job will cost, and what it did cost, in US dollars. Pure.

Money is Decimal here, rounded to millionths; in JSON it is a number. An amount that depends on a price nobody knows is
None, and so is every sum with it: half a bill would look like a small one. Such a part says why in ``problem``.

The input of an estimate is counted (see ``tokens`` and ``sampling``), without any from a cache. Its output can't be
known: it is what rows came to before (``measured``), else the limits that requests set themselves (``ceiling``), which
few answers reach, else :data:`ASSUMED_OUTPUT` tokens a row (``assumed``), which is no more than a round figure.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import timezone
from decimal import Decimal
from math import ceil
from typing import TYPE_CHECKING, Any, Literal

from airflow_openai_batch.engine.prices import Price, Pricing
from airflow_openai_batch.exceptions import UnknownPriceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow_openai_batch.engine.sampling import Measure

ASSUMED_OUTPUT = 1_000
"""Output tokens of a row of which nothing is known. One word is 5; a reasoning model thinks for thousands."""

_NO_OUTPUT = ("/embeddings", "/moderations")
_NO_TEXT = ("/images/generations", "/images/edits", "/videos")
_MICRO = Decimal("0.000001")

OutputFrom = Literal["none", "measured", "ceiling", "assumed"]


@dataclass(frozen=True)
class ModelEstimate:
    """What the requests of one model will cost.

    :param sampled: rows whose tokens were counted; the rest is in proportion to bytes.
    :param output_from: what ``output_tokens`` stands on.
    :param most_output_tokens: what all rows are allowed, None where some set no limit, as far as the sample shows.
    :param counter: how tokens were counted.
    :param batch: the price in batches, None where nobody knows.
    :param standard: the price one by one, None where nobody knows.
    :param problem: why there is no amount, or None.
    :param notes: what the amount leaves out.
    """

    model: str
    rows: int
    bytes: int
    sampled: int
    input_tokens: int
    output_tokens: int
    output_from: OutputFrom
    most_output_tokens: int | None
    counter: str
    batch: Price | None
    standard: Price | None
    problem: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def usd(self) -> Decimal | None:
        """In batches."""
        return cost_of(self.batch, self.input_tokens, self.output_tokens)

    @property
    def usd_most(self) -> Decimal | None:
        """In batches, if every answer is as long as it may be; None where there is no limit."""
        most = self.most_output_tokens
        return None if most is None else cost_of(self.batch, self.input_tokens, most)

    @property
    def usd_standard(self) -> Decimal | None:
        """The same requests one by one."""
        return cost_of(self.standard, self.input_tokens, self.output_tokens)

    def usd_of(self, rows: int, size: int) -> Decimal | None:
        """Return what some of the requests, such as a shard, cost in batches: input by bytes, output by rows."""
        if self.batch is None:
            return None
        into = ceil(Decimal(self.input_tokens) * size / self.bytes) if self.bytes else 0
        out_of = ceil(Decimal(self.output_tokens) * rows / self.rows) if self.rows else 0
        return cost_of(self.batch, into, out_of)

    def measured(self, output_tokens_per_row: float) -> ModelEstimate:
        """Return the same with what rows came to in fact; never more than they are allowed."""
        tokens = ceil(output_tokens_per_row * self.rows)
        if self.output_from == "none":
            return self
        most = self.most_output_tokens
        return replace(self, output_from="measured", output_tokens=tokens if most is None else min(tokens, most))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types; the amounts are in it for readers alone."""
        return {
            **{name: value for name, value in asdict(self).items() if name not in {"batch", "standard", "notes"}},
            "batch": self.batch and self.batch.to_json(),
            "standard": self.standard and self.standard.to_json(),
            "notes": list(self.notes),
            "usd": number(self.usd),
            "usd_most": number(self.usd_most),
            "usd_standard": number(self.usd_standard),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ModelEstimate:
        """Return what :meth:`to_json` was made of."""
        fields = {name: item for name, item in value.items() if not name.startswith("usd")}
        fields.update({name: fields[name] and Price.from_json(fields[name]) for name in ("batch", "standard")})
        return cls(**{**fields, "notes": tuple(fields["notes"])})


@dataclass(frozen=True)
class Estimate:
    """What a job will cost.

    :param at: the moment of its prices, ISO 8601.
    """

    at: str
    models: tuple[ModelEstimate, ...]

    @property
    def rows(self) -> int:
        """Requests of all models."""
        return sum(model.rows for model in self.models)

    @property
    def usd(self) -> Decimal | None:
        """In batches; None where a price isn't known."""
        return add_up(model.usd for model in self.models)

    @property
    def usd_most(self) -> Decimal | None:
        """In batches, if every answer is as long as it may be; None where a limit or a price isn't known."""
        return add_up(model.usd_most for model in self.models)

    @property
    def usd_standard(self) -> Decimal | None:
        """The same requests one by one; None where a price isn't known."""
        return add_up(model.usd_standard for model in self.models)

    @property
    def saving(self) -> Decimal | None:
        """What batches save; below 0 if they cost more. None where a price isn't known."""
        return subtract(self.usd_standard, self.usd)

    def measured(self, output_tokens_per_row: Mapping[str, float]) -> Estimate:
        """Return the same with the mean output of rows that were run, by model; others stay as they are."""
        means = output_tokens_per_row
        models = (model.measured(means[model.model]) if model.model in means else model for model in self.models)
        return replace(self, models=tuple(models))

    def require(self) -> Decimal:
        """Return what it costs in batches.

        :raises UnknownPriceError: that can't be said; the text says of which models, and how to go on.
        """
        usd = self.usd
        if usd is None:
            raise UnknownPriceError(". ".join(model.problem for model in self.models if model.problem))
        return usd

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types; the sums are in it for readers alone."""
        return {
            "at": self.at,
            "rows": self.rows,
            "usd": number(self.usd),
            "usd_most": number(self.usd_most),
            "usd_standard": number(self.usd_standard),
            "models": [model.to_json() for model in self.models],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Estimate:
        """Return what :meth:`to_json` was made of."""
        return cls(value["at"], tuple(map(ModelEstimate.from_json, value["models"])))


def estimate(
    measures: Iterable[Measure],
    pricing: Pricing,
    *,
    endpoint: str = "/v1/chat/completions",
    assumed_output: int = ASSUMED_OUTPUT,
) -> Estimate:
    """Return what requests will cost.

    :param measures: as :meth:`~sampling.Sampler.measures` returns them.
    :param endpoint: embeddings and moderations have no output; what images and videos cost can't be told from a prompt.
    :param assumed_output: tokens of a row's output where requests set no limit.
    """
    at = pricing.at if pricing.at.tzinfo else pricing.at.replace(tzinfo=timezone.utc)
    models = tuple(_of_model(measure, pricing, endpoint, assumed_output) for measure in measures)
    return Estimate(at.isoformat(timespec="seconds"), models)


def _of_model(measure: Measure, pricing: Pricing, endpoint: str, assumed_output: int) -> ModelEstimate:
    batch, problem = pricing.of(measure.model, "batch")
    standard, _ = pricing.of(measure.model, "standard")
    per_byte = Decimal(measure.input_tokens) / measure.sampled_bytes if measure.sampled_bytes else Decimal(0)
    per_row = Decimal(measure.ceilings) / measure.limited if measure.limited else Decimal(0)
    limited = measure.sampled > 0 and measure.limited == measure.sampled
    notes = []
    source: OutputFrom = "assumed"
    most: int | None = None
    if endpoint.endswith(_NO_OUTPUT):
        output = most = 0
        source = "none"
    elif limited:
        output = most = ceil(per_row * measure.rows)
        source = "ceiling"
    else:
        share = Decimal(measure.limited) / measure.sampled if measure.sampled else Decimal(0)
        mean = share * per_row + (1 - share) * assumed_output
        output = ceil(mean * measure.rows)
    if endpoint.endswith(_NO_TEXT):
        batch = standard = None
        problem = f"{measure.model}: what {endpoint} makes is no text, so its cost can't be told from its prompts"
    elif measure.rows and not measure.sampled:
        batch = standard = None
        problem = f"{measure.model}: no request of it was counted"
    if measure.unseen:
        share_unseen = f"{100 * measure.unseen / measure.sampled:.0f} %"
        notes.append(f"{share_unseen} of rows have audio, files or references, which aren't counted")
    price = batch or standard
    if price is not None and price.long_from is not None and per_byte * measure.longest > price.long_from:
        notes.append(f"some rows seem to have over {price.long_from:,} input tokens, for which a dearer rate applies")
    return ModelEstimate(
        model=measure.model,
        rows=measure.rows,
        bytes=measure.bytes,
        sampled=measure.sampled,
        input_tokens=ceil(per_byte * measure.bytes),
        output_tokens=output,
        output_from=source,
        most_output_tokens=most,
        counter=measure.counter,
        batch=batch,
        standard=standard,
        problem=problem,
        notes=tuple(notes),
    )


def cost_of(price: Price | None, input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> Decimal | None:
    """Return an amount rounded to millionths of a dollar, None where there is no price."""
    return None if price is None else price.cost(input_tokens, output_tokens, cached_tokens).quantize(_MICRO)


def add_up(amounts: Iterable[Decimal | None]) -> Decimal | None:
    """Return a sum, None where a part of it is."""
    total = Decimal(0)
    for amount in amounts:
        if amount is None:
            return None
        total += amount
    return total


def subtract(amount: Decimal | None, other: Decimal | None) -> Decimal | None:
    """Return a difference, None where a part of it is."""
    return None if amount is None or other is None else amount - other


def number(amount: Decimal | None) -> float | None:
    """Return an amount for JSON."""
    return None if amount is None else float(amount)


def describe(estimate: Estimate) -> list[str]:
    """Return what to log of an estimate: the whole, then each model, the cheapest first, then what is left out."""
    ranked = sorted(estimate.models, key=lambda model: (model.usd is None, model.usd or 0, model.model))
    lines = [f"Estimate for {estimate.rows:,} requests: {_amounts(estimate)}"]
    for model in ranked:
        lines.append(f"  {model.model}: {_amounts(model)}{_times(model, ranked[0])}; {_tokens(model)}")
        if model.batch is not None:
            rates = f"{model.batch.input.normalize():f} in, {model.batch.output.normalize():f} out"
            lines.append(f"    USD per 1M tokens: {rates} ({model.batch.source})")
        if model.output_from == "assumed" and model.usd is not None:
            lines.append(
                "    Rows set no limit to their output, so its length is assumed; max_completion_tokens sets one"
            )
        lines += [f"    {note[0].upper()}{note[1:]}" for note in (model.problem, *model.notes) if note]
    return lines


def _amounts(part: Estimate | ModelEstimate) -> str:
    if part.usd is None:
        return f"cost in batches unknown{_aside('one by one ', part.usd_standard)}"
    saving = subtract(part.usd_standard, part.usd)
    most = _aside("at most ", part.usd_most) if part.usd_most != part.usd else ""
    return f"{dollars(part.usd)} in batches{most}" + (
        f", {dollars(part.usd_standard)} one by one, {dollars(saving)} saved"
        if saving is not None and part.usd_standard is not None
        else ""
    )


def _aside(text: str, amount: Decimal | None) -> str:
    return "" if amount is None else f" ({text}{dollars(amount)})"


def _times(model: ModelEstimate, cheapest: ModelEstimate) -> str:
    """Compare two models, unless the one's output is an assumption and the other's isn't."""
    if model is cheapest or not model.usd or not cheapest.usd or model.output_from != cheapest.output_from:
        return ""
    return f" ({model.usd / cheapest.usd:.1f} times the cheapest)"


def _tokens(model: ModelEstimate) -> str:
    how = {"none": "", "measured": " (as measured)", "ceiling": " (their limit)", "assumed": " (assumed)"}
    counted = "all" if model.sampled == model.rows else f"{model.sampled:,}"
    return (
        f"{model.rows:,} requests, {model.input_tokens:,} tokens in ({model.counter}, {counted} counted), "
        f"{model.output_tokens:,} out{how[model.output_from]}"
    )


def dollars(amount: Decimal) -> str:
    """Return an amount for people: cents, and more digits where cents say little."""
    size = abs(amount)
    digits = 2 if size >= 1 or not size else 4 if size >= Decimal("0.01") else 6
    return f"{'-' if amount < 0 else ''}${size:,.{digits}f}"


__all__ = ["Estimate", "ModelEstimate", "describe", "estimate"]
