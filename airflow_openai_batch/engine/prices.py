"""What a token of a model costs at a moment: as the DAG's author says, else as ``genai-prices`` knows.

No price stands in this package. ``genai-prices`` brings its table along; it is imported when a price is first asked
for, and nothing here makes it fetch another. Where neither knows a price, that is an error and never a guess.

What the author gives (``prices=``), in USD per 1M tokens::

    {"my-model": {"input": 0.25, "output": 2.0, "cached_input": 0.025}}   # however a request is processed
    {"my-model": {"batch": {...}, "standard": {...}, "flex": {...}}}      # by processing; one of them is enough
    {"my-model": [{"since": "2026-01-01", "input": ...}, {...}]}          # the newest that isn't after the moment

``output`` is 0 for embeddings; ``cached_input`` is ``input`` unless given. A processing that isn't given is looked up
as if nothing were. Names match exactly, then without a gateway's prefix (``openai/``), then without a snapshot's date.

Where a table leaves room, the dearer reading is taken, since these figures guard a budget: cached input costs what
other input does where the batch rates name none of its own, and an image model's tokens are all image tokens if those
are dearer. Not in a price: web searches, storage, cache writes, and long requests' rates (see :attr:`Price.long_from`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import date, datetime, timezone
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Literal, get_args

from airflow_openai_batch.exceptions import ConfigurationError, UnknownPriceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Processing = Literal["batch", "standard", "flex"]
PROCESSINGS: tuple[Processing, ...] = get_args(Processing)

MILLION = 1_000_000
_FIELDS = ("input", "output", "cached_input")
_SNAPSHOT = re.compile(r"-\d{4}-\d{2}-\d{2}$")
_CONTEXT: dict[Processing, dict[str, str]] = {"batch": {"processing": "batch"}, "flex": {"service_tier": "flex"}}
"""By what ``genai-prices`` tells its variants apart."""


@dataclass(frozen=True)
class Price:
    """What 1M tokens of a model cost, in USD.

    :param source: ``given``, or ``genai-prices`` with its version; what was assumed is said as well.
    :param since: the day from which the source has this price, None where it names none.
    :param long_from: input tokens of one request above which the source has a dearer rate, which isn't in here.
    """

    model: str
    processing: Processing
    input: Decimal
    cached_input: Decimal
    output: Decimal
    source: str
    since: date | None = None
    long_from: int | None = None

    def cost(self, input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> Decimal:
        """Return what these tokens cost in USD.

        :param input_tokens: all of them, the cached ones too.
        :param output_tokens: all of them, those of reasoning too.
        """
        cached = min(cached_tokens, input_tokens)
        return (
            (input_tokens - cached) * self.input + cached * self.cached_input + output_tokens * self.output
        ) / MILLION

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "model": self.model,
            "processing": self.processing,
            **{name: float(getattr(self, name)) for name in _FIELDS},
            "source": self.source,
            "since": self.since and self.since.isoformat(),
            "long_from": self.long_from,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Price:
        """Return what :meth:`to_json` was made of."""
        since = value["since"]
        rates = {name: Decimal(str(value[name])) for name in _FIELDS}
        return cls(**{**value, **rates, "since": date.fromisoformat(since) if since else None})


@dataclass(frozen=True)
class Pricing:
    """Where prices come from; the arguments of :func:`price_of` but for model and processing.

    :param at: the moment whose prices count.
    """

    at: datetime
    prices: Mapping[str, Any] | None = None
    assume_batch_discount: bool = False

    def of(self, model: str, processing: Processing) -> tuple[Price | None, str | None]:
        """Return a price, or None and why there is none."""
        try:
            return self.must(model, processing), None
        except UnknownPriceError as error:
            return None, str(error)

    def must(self, model: str, processing: Processing) -> Price:
        """Return a price.

        :raises UnknownPriceError: nobody knows it.
        """
        return price_of(model, self.at, processing, self.prices, assume_batch_discount=self.assume_batch_discount)


def check_prices(value: Any) -> dict[str, list[dict[str, Any]]]:
    """Check prices that a DAG's author gives; see the module for their forms.

    :returns: the same as plain JSON, each model's by date, numbers as text. It may be given here again.
    :raises ConfigurationError: they can't be right.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigurationError(f"prices: a mapping of models to prices is needed, not {type(value).__name__}")
    checked: dict[str, list[dict[str, Any]]] = {}
    for model, given in value.items():
        if not isinstance(model, str) or not model:
            raise ConfigurationError(f"prices: a model's name is needed, not {model!r}")
        entries = given if isinstance(given, (list, tuple)) else [given]
        if not entries:
            raise ConfigurationError(f"prices[{model!r}]: it is empty")
        dated = [_entry(f"prices[{model!r}]", entry) for entry in entries]
        days = [entry["since"] for entry in dated]
        if len(set(days)) < len(days):
            raise ConfigurationError(f"prices[{model!r}]: two prices begin on the same day; give each its since")
        checked[model] = sorted(dated, key=lambda entry: entry["since"] or "")
    return checked


def _entry(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigurationError(f"{where}: {{'input': ..., 'output': ...}} is needed, not {value!r}")
    rest = {key: item for key, item in value.items() if key != "since"}
    since = _day(f"{where}['since']", value.get("since"))
    if any(key in PROCESSINGS for key in rest):
        for key in rest:
            if key not in PROCESSINGS:
                raise ConfigurationError(f"{where}: {key!r} can't stand beside {', '.join(PROCESSINGS)}")
        return {"since": since, **{key: _rates(f"{where}[{key!r}]", item) for key, item in rest.items()}}
    rates = _rates(where, rest)
    return {"since": since, **dict.fromkeys(PROCESSINGS, rates)}


def _rates(where: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ConfigurationError(f"{where}: {{'input': ..., 'output': ...}} is needed, not {value!r}")
    unknown = [key for key in value if key not in _FIELDS]
    if unknown:
        known = ", ".join((*_FIELDS, "since"))
        raise ConfigurationError(f"{where}: unknown {unknown[0]!r}; there are {known}, or {', '.join(PROCESSINGS)}")
    for name in ("input", "output"):
        if name not in value:
            raise ConfigurationError(f"{where}: {name!r} is missing; it is USD per 1M tokens, 0 where there are none")
    given = [name for name in _FIELDS if name != "cached_input" or value.get(name) is not None]
    return {name: str(_amount(f"{where}[{name!r}]", value[name])) for name in given}


def _amount(where: str, value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
        raise ConfigurationError(f"{where}: a number of USD per 1M tokens is needed, not {value!r}")
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        raise ConfigurationError(f"{where}: a number of USD per 1M tokens is needed, not {value!r}") from None
    if not amount.is_finite() or amount < 0:
        raise ConfigurationError(f"{where}: it must be 0 or more, and finite, not {value!r}")
    return amount


def _day(where: str, value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, datetime):
        value = value.date()
    try:
        return (value if isinstance(value, date) else date.fromisoformat(value)).isoformat()
    except (TypeError, ValueError):
        raise ConfigurationError(f"{where}: a day such as '2026-01-31' is needed, not {value!r}") from None


def price_of(
    model: str,
    at: datetime,
    processing: Processing,
    overrides: Mapping[str, Any] | None = None,
    *,
    assume_batch_discount: bool = False,
) -> Price:
    """Return what a model costs.

    :param model: as requests or answers name it.
    :param at: the moment; without a time zone it is UTC.
    :param processing: ``batch``, ``standard`` (a call that is answered at once) or ``flex``.
    :param overrides: what the DAG's author gives, in any form that :func:`check_prices` takes; it goes first.
    :param assume_batch_discount: where no batch price is known, half of the standard price is taken, and
        :attr:`Price.source` says so.
    :raises UnknownPriceError: nobody knows; the text says how to give it.
    """
    at = at.replace(tzinfo=timezone.utc) if at.tzinfo is None else at.astimezone(timezone.utc)
    price = _given(model, at, processing, overrides)
    if price is not None:
        return price
    known, why = _known(model, at, processing)
    if known is not None:
        return known
    if processing == "batch":
        try:
            standard = price_of(model, at, "standard", overrides)
        except UnknownPriceError as error:
            raise UnknownPriceError(f"{model}: {why}. {_how_to_give(model, processing)}") from error
        if assume_batch_discount:
            return replace(
                standard,
                processing=processing,
                input=standard.input / 2,
                cached_input=standard.cached_input / 2,
                output=standard.output / 2,
                source=f"half of the standard price assumed ({standard.source})",
            )
        raise UnknownPriceError(
            f"{model}: {why}. {_how_to_give(model, processing)}; "
            f"or have half of its standard price taken: assume_batch_discount=True"
        )
    raise UnknownPriceError(f"{model}: {why}. {_how_to_give(model, processing)}")


def _how_to_give(model: str, processing: Processing) -> str:
    rates = "{'input': ..., 'output': ...}"
    return f"Give it, in USD per 1M tokens: prices={{{model!r}: {{{processing!r}: {rates}}}}}"


def _names(model: str) -> Iterator[str]:
    """Yield the names under which a model's price may stand, the closest first."""
    seen = dict.fromkeys((model, model.rpartition("/")[2]))
    yield from dict.fromkeys((*seen, *(_SNAPSHOT.sub("", name) for name in seen)))


def _given(model: str, at: datetime, processing: Processing, overrides: Mapping[str, Any] | None) -> Price | None:
    name = next((name for name in _names(model) if overrides and name in overrides), None)
    if name is None or overrides is None:
        return None
    today = at.date().isoformat()
    for entry in reversed(check_prices({name: overrides[name]})[name]):
        rates, since = entry.get(processing), entry["since"]
        if rates is not None and (since or "") <= today:
            return Price(
                model,
                processing,
                input=Decimal(rates["input"]),
                cached_input=Decimal(rates.get("cached_input", rates["input"])),
                output=Decimal(rates["output"]),
                source="given" if name == model else f"given for {name}",
                since=date.fromisoformat(since) if since else None,
            )
    return None


def _known(model: str, at: datetime, processing: Processing) -> tuple[Price | None, str]:
    """Return what ``genai-prices`` knows, or None and why it doesn't."""
    from importlib.metadata import version

    source = f"genai-prices {version('genai-prices')}"
    found = _find(model, at)
    if found is None:
        return None, f"{source} doesn't know its price"
    info = found.model
    if found.auto_update_timestamp is not None:
        source += f" updated {found.auto_update_timestamp:%Y-%m-%d}"
    told = source if info.id == model else f"{source}, as {info.id}"
    standard = found.model_price
    kept = {key: rate for key, rate in vars(standard).items() if rate is not None and not key.startswith("_")}
    if not kept:
        # It stands in the table without any price: moderation, which is free.
        return Price(model, processing, Decimal(0), Decimal(0), Decimal(0), told), ""
    if _rate(standard, "input") is None:
        return None, f"{source} has no price of its tokens ({', '.join(sorted(kept))})"
    if processing == "standard":
        return _price(model, processing, standard, told, _since(info.prices, at), own_cache=True), ""
    # get_prices() falls back to the standard rates without a word, so whether there are others is looked at first.
    context = _CONTEXT[processing]
    variants = [
        variant
        for variant in getattr(info, "price_variants", None) or ()
        if all(context.get(key) == value for key, value in variant.when.items())
    ]
    active = [variant for variant in variants if variant.constraint is None or variant.constraint.active(at)]
    if not active:
        starts = [start for start in (_start(variant) for variant in variants) if start]
        when = f" before {min(starts)}" if starts else ""
        return None, f"{source} knows its standard price, and no {processing} price{when}"
    own_cache = any(_rate(variant.prices, "cached_input") is not None for variant in active)
    since = _start(active[0])
    return _price(model, processing, info.get_prices(at, context), told, since, own_cache=own_cache), ""


def _find(model: str, at: datetime) -> Any:
    from genai_prices import Usage, calc_price

    for provider in ("openai", None):
        for name in _names(model):
            try:
                return calc_price(
                    Usage(input_tokens=0, output_tokens=0), name, provider_id=provider, genai_request_timestamp=at
                )
            except (LookupError, ValueError):
                continue
    return None


_KEYS = {
    "input": ("input_mtok", "input_image_mtok"),
    "cached_input": ("cache_read_mtok", "cache_image_read_mtok"),
    "output": ("output_mtok", "output_image_mtok"),
}


def _rate(prices: Any, field: str) -> Decimal | None:
    rates = [getattr(prices, key, None) for key in _KEYS[field]]
    return max((Decimal(getattr(rate, "base", rate)) for rate in rates if rate is not None), default=None)


def _price(
    model: str, processing: Processing, prices: Any, source: str, since: date | None, *, own_cache: bool
) -> Price:
    rate = _rate(prices, "input") or Decimal(0)
    cached = _rate(prices, "cached_input") if own_cache else None
    tiers = [tier.start for keys in _KEYS.values() for key in keys for tier in _tiers(getattr(prices, key, None))]
    return Price(
        model,
        processing,
        input=rate,
        cached_input=rate if cached is None else cached,
        output=_rate(prices, "output") or Decimal(0),
        source=source,
        since=since,
        long_from=min(tiers, default=None),
    )


def _tiers(rate: Any) -> list[Any]:
    return list(getattr(rate, "tiers", ()))


def _start(conditional: Any) -> date | None:
    start = getattr(conditional.constraint, "start_date", None)
    return start if isinstance(start, date) else None


def _since(prices: Any, at: datetime) -> date | None:
    """Return the day from which the price in force at a moment holds, as the table's list of prices says."""
    for conditional in reversed(prices if isinstance(prices, list) else []):
        if conditional.constraint is None or conditional.constraint.active(at):
            return _start(conditional)
    return None


__all__ = ["PROCESSINGS", "Price", "Pricing", "Processing", "check_prices", "price_of"]
