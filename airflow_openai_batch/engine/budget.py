"""A cap on what a job may spend: money is reserved before requests are sent, and settled when their usage is known.

The account itself keeps nothing. It is rebuilt from facts that the journal has (what was reserved, what came of it),
so a process that is killed between two of them leaves it as true as before. The facts are to be written in this order:
the reservation, then the request it is for; so whatever may be billed is reserved, and what was reserved for nothing
is settled with 0. Reserving again under a name that has a reservation returns that one, whatever the amount.

Spent and reserved money together stay within the cap. Only reality may break that: a request that cost more than was
reserved for it is booked as it is, and then nothing can be reserved any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.exceptions import ConfigurationError, CostCapError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True)
class Reservation:
    """Money that something may cost.

    :param what: names it, for good: an attempt, a row's call.
    :param amount: USD.
    """

    what: str
    amount: Decimal


def check_cap(value: Any) -> Decimal | None:
    """Return a cap in USD that a DAG's author gives; None stays None.

    :raises ConfigurationError: it is no amount of money above 0.
    """
    if value is None:
        return None
    try:
        cap = Decimal("NaN") if isinstance(value, bool) else Decimal(str(value))
    except InvalidOperation:
        cap = Decimal("NaN")
    if not cap.is_finite() or cap <= 0:
        raise ConfigurationError(f"a cap is an amount of USD above 0, not {value!r}")
    return cap


class Budget:
    """The account of one job: ``spent`` was paid for all that is settled, ``reserved`` is what the rest may cost.

    :param cap: what may be spent, in USD.
    :param reservations: what was reserved so far.
    :param settled: what came of reservations, by name, in USD.
    :raises ValueError: something was settled that was never reserved, or an amount is no amount.
    """

    def __init__(
        self,
        cap: Decimal,
        reservations: Iterable[Reservation] = (),
        settled: Mapping[str, Decimal] | None = None,
    ) -> None:
        self.cap = cap
        self._reservations: dict[str, Reservation] = {}
        self._settled: set[str] = set()
        self.spent = self.reserved = Decimal(0)
        for reservation in reservations:
            _check(reservation.amount)
            if reservation.what not in self._reservations:
                self._add(reservation)
        for what, amount in (settled or {}).items():
            self._settle(what, amount)

    @property
    def left(self) -> Decimal:
        """What can still be reserved; 0 where reality went past the cap."""
        return max(self.cap - self.spent - self.reserved, Decimal(0))

    def reserve(self, amount: Decimal, what: str) -> Reservation:
        """Set money aside.

        :raises CostCapError: there isn't that much left.
        :raises ValueError: the amount is below 0, or no number.
        """
        known = self._reservations.get(what)
        if known is not None:
            return known
        _check(amount)
        if self.spent + self.reserved + amount > self.cap:
            raise CostCapError(what, amount, self.cap, self.spent, self.reserved)
        reservation = Reservation(what, amount)
        self._add(reservation)
        return reservation

    def settle(self, reservation: Reservation, actual: Decimal) -> None:
        """Book what a reservation came to: 0 where nothing was bought. Settled again, the first amount stays.

        :raises ValueError: it isn't this account's, or the amount is below 0, or no number.
        """
        self._settle(reservation.what, actual)

    def _settle(self, what: str, actual: Decimal) -> None:
        if what not in self._reservations:
            raise ValueError(f"{what!r} was never reserved")
        _check(actual)
        if what not in self._settled:
            self._settled.add(what)
            self.reserved -= self._reservations[what].amount
            self.spent += actual

    def _add(self, reservation: Reservation) -> None:
        self._reservations[reservation.what] = reservation
        self.reserved += reservation.amount


def _check(amount: Decimal) -> None:
    if not amount.is_finite() or amount < 0:
        raise ValueError(f"an amount of money is 0 or more, not {amount}")


__all__ = ["Budget", "Reservation", "check_cap"]
