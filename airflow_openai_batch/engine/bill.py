"""What a job did cost, from the usage that its answers reported, beside what the same would have cost one by one.

Rules of money as in ``cost``: millionths, and no sum with a part that nobody knows. What answers don't report isn't in
it: web searches, storage, cache writes. It is an account of ours at list prices or those given, not OpenAI's invoice.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.engine.cost import add_up, cost_of, dollars, number, subtract
from airflow_openai_batch.engine.models import Usage
from airflow_openai_batch.engine.prices import Price, Pricing, Processing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal


@dataclass(frozen=True)
class Charge:
    """What one model's answers cost, of one processing.

    :param price: what was paid for 1M tokens, None where nobody knows.
    :param standard: what would be paid for answers at once.
    :param problem: why there is no amount, or None.
    """

    model: str
    processing: Processing
    usage: Usage
    price: Price | None
    standard: Price | None
    problem: str | None = None

    @property
    def usd(self) -> Decimal | None:
        """What was paid."""
        return self._at(self.price)

    @property
    def usd_standard(self) -> Decimal | None:
        """What the same would have cost one by one."""
        return self._at(self.standard)

    def _at(self, price: Price | None) -> Decimal | None:
        return cost_of(price, self.usage.input_tokens, self.usage.output_tokens, self.usage.cached_tokens)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types; the amounts are in it for readers alone."""
        return {
            "model": self.model,
            "processing": self.processing,
            "usage": asdict(self.usage),
            "price": self.price and self.price.to_json(),
            "standard": self.standard and self.standard.to_json(),
            "problem": self.problem,
            "usd": number(self.usd),
            "usd_standard": number(self.usd_standard),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Charge:
        """Return what :meth:`to_json` was made of."""
        return cls(
            value["model"],
            value["processing"],
            Usage(**value["usage"]),
            value["price"] and Price.from_json(value["price"]),
            value["standard"] and Price.from_json(value["standard"]),
            value["problem"],
        )


@dataclass(frozen=True)
class Bill:
    """What a job did cost."""

    charges: tuple[Charge, ...]

    @property
    def usd(self) -> Decimal | None:
        """All that was paid; None where a price isn't known."""
        return add_up(charge.usd for charge in self.charges)

    @property
    def usd_batch(self) -> Decimal | None:
        """What was paid for batches."""
        return add_up(charge.usd for charge in self.charges if charge.processing == "batch")

    @property
    def usd_direct(self) -> Decimal | None:
        """What was paid for answers at once."""
        return add_up(charge.usd for charge in self.charges if charge.processing != "batch")

    @property
    def usd_standard(self) -> Decimal | None:
        """What all of it would have cost one by one."""
        return add_up(charge.usd_standard for charge in self.charges)

    @property
    def saving(self) -> Decimal | None:
        """What was saved; below 0 if it was dearer. None where a price isn't known."""
        return subtract(self.usd_standard, self.usd)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types; the sums are in it for readers alone."""
        return {
            "usd": number(self.usd),
            "usd_batch": number(self.usd_batch),
            "usd_direct": number(self.usd_direct),
            "usd_standard": number(self.usd_standard),
            "saving": number(self.saving),
            "charges": [charge.to_json() for charge in self.charges],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Bill:
        """Return what :meth:`to_json` was made of."""
        return cls(tuple(map(Charge.from_json, value["charges"])))


def actual(usage: Mapping[tuple[str, Processing], Usage], pricing: Pricing) -> Bill:
    """Return what this usage cost. It raises nothing: a price that nobody knows leaves its amounts None.

    :param usage: by model, as answers or requests name it, and by how they were processed.
    """
    charges = []
    for (model, processing), used in sorted(usage.items(), key=lambda item: item[0]):
        price, problem = pricing.of(model, processing)
        standard, _ = pricing.of(model, "standard")
        charges.append(Charge(model, processing, used, price, standard, problem))
    return Bill(tuple(charges))


def describe_bill(bill: Bill) -> list[str]:
    """Return what to log of a bill: the whole, then what was paid for, then what nobody knows the price of."""
    if bill.usd is None:
        lines = ["What it cost isn't known"]
    else:
        saving = (
            f"; one by one {dollars(bill.usd_standard)}, {dollars(bill.saving)} saved"
            if bill.saving is not None and bill.usd_standard is not None
            else ""
        )
        lines = [f"It cost {dollars(bill.usd)}{saving}"]
    for charge in bill.charges:
        amount = charge.problem if charge.usd is None else dollars(charge.usd)
        used = charge.usage
        lines.append(
            f"  {charge.model}, {charge.processing}: {amount} ({used.input_tokens:,} tokens in, "
            f"{used.cached_tokens:,} of them cached, {used.output_tokens:,} out)"
        )
    return lines


__all__ = ["Bill", "Charge", "actual", "describe_bill"]
