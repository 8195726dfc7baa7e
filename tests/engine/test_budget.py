"""The account under a cap: what is reserved and spent stays within it, whatever comes and whoever is killed."""

from __future__ import annotations

import pickle
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from airflow_openai_batch.engine.budget import Budget, Reservation, check_cap
from airflow_openai_batch.exceptions import ConfigurationError, CostCapError

money = st.decimals(min_value=0, max_value=100, places=6)
names = st.integers(0, 20).map("shard {}".format)


def test_money_is_reserved_spent_and_given_back():
    budget = Budget(Decimal(10))
    first = budget.reserve(Decimal(6), "shard 0")
    assert (budget.reserved, budget.spent, budget.left) == (6, 0, 4)
    budget.settle(first, Decimal(2))
    assert (budget.reserved, budget.spent, budget.left) == (0, 2, 8)
    second = budget.reserve(Decimal(8), "shard 1")
    budget.settle(second, Decimal(0))
    assert (budget.reserved, budget.spent, budget.left) == (0, 2, 8)


def test_what_the_cap_has_no_room_for_is_refused_with_the_figures():
    budget = Budget(Decimal(10))
    budget.settle(budget.reserve(Decimal(3), "shard 0"), Decimal("2.5"))
    budget.reserve(Decimal(5), "shard 1")
    with pytest.raises(CostCapError) as caught:
        budget.reserve(Decimal("2.51"), "shard 2")
    error = caught.value
    assert (error.what, error.estimate, error.cap) == ("shard 2", Decimal("2.51"), 10)
    assert (error.spent, error.reserved, error.retryable) == (Decimal("2.5"), 5, False)
    for figure in ("shard 2", "$2.5100", "$10.0000", "$2.5000 was spent", "$5.0000 more"):
        assert figure in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.reserved) == (str(error), 5)
    assert budget.reserve(Decimal("2.5"), "shard 2").amount == Decimal("2.5")


def test_small_amounts_are_shown_in_full():
    with pytest.raises(CostCapError, match=r"estimated at \$0.000012, .*cap of \$0.000010 .*\$0.0000 was spent\. It"):
        Budget(Decimal("0.00001")).reserve(Decimal("0.000012"), "shard 0")


def test_the_whole_cap_can_be_reserved():
    budget = Budget(Decimal("0.3"))
    for number in range(3):
        budget.reserve(Decimal("0.1"), str(number))
    assert budget.left == 0


def test_a_second_reservation_of_a_name_is_the_first():
    budget = Budget(Decimal(10))
    first = budget.reserve(Decimal(6), "shard 0")
    assert budget.reserve(Decimal(9), "shard 0") is first
    assert budget.reserved == 6


def test_what_is_settled_stays_settled():
    budget = Budget(Decimal(10))
    first = budget.reserve(Decimal(6), "shard 0")
    budget.settle(first, Decimal(1))
    budget.settle(first, Decimal(5))
    assert budget.spent == 1


def test_past_the_cap_nothing_can_be_reserved_not_even_for_free():
    budget = Budget(Decimal(10))
    budget.settle(budget.reserve(Decimal(6), "shard 0"), Decimal(11))
    assert (budget.spent, budget.left) == (11, 0)
    with pytest.raises(CostCapError):
        budget.reserve(Decimal(0), "shard 1")


def test_facts_rebuild_the_account():
    facts = [Reservation("a", Decimal(3)), Reservation("b", Decimal(4)), Reservation("a", Decimal(9))]
    budget = Budget(Decimal(10), facts, {"a": Decimal(1)})
    assert (budget.spent, budget.reserved, budget.left) == (1, 4, 5)


def test_facts_past_the_cap_are_facts():
    """The author has lowered the cap between two tries."""
    budget = Budget(Decimal(1), [Reservation("a", Decimal(3))])
    assert (budget.reserved, budget.left) == (3, 0)


@pytest.mark.parametrize("amount", [Decimal(-1), Decimal("NaN"), Decimal("Infinity")])
def test_an_amount_is_a_number_of_0_or_more(amount):
    budget = Budget(Decimal(10))
    with pytest.raises(ValueError, match="0 or more"):
        budget.reserve(amount, "a")
    with pytest.raises(ValueError, match="0 or more"):
        Budget(Decimal(10), [Reservation("a", amount)])
    with pytest.raises(ValueError, match="0 or more"):
        budget.settle(budget.reserve(Decimal(1), "a"), amount)


def test_what_was_never_reserved_cannot_be_settled():
    with pytest.raises(ValueError, match="'a' was never reserved"):
        Budget(Decimal(10)).settle(Reservation("a", Decimal(1)), Decimal(1))


@pytest.mark.parametrize(
    ("value", "cap"), [(None, None), (5, Decimal(5)), (0.1, Decimal("0.1")), ("2.50", Decimal("2.50"))]
)
def test_a_cap_is_an_amount_of_money(value, cap):
    assert check_cap(value) == cap


@pytest.mark.parametrize("value", [0, -1, "much", True, float("nan"), float("inf"), [], {}])
def test_a_cap_that_cannot_be_right_is_told_at_dag_parse(value):
    with pytest.raises(ConfigurationError, match="a cap is an amount of USD above 0"):
        check_cap(value)


@given(cap=money, facts=st.lists(st.tuples(names, money)), ends=st.dictionaries(names, money))
def test_an_account_rebuilt_from_facts_equals_the_one_that_made_them(cap, facts, ends):
    budget = Budget(cap)
    kept = []
    for what, amount in facts:
        try:
            kept.append(budget.reserve(amount, what))
        except CostCapError:
            continue
    settled = {what: amount for what, amount in ends.items() if any(item.what == what for item in kept)}
    for what, amount in settled.items():
        budget.settle(next(item for item in kept if item.what == what), amount)
    again = Budget(cap, kept, settled)
    assert (again.spent, again.reserved, again.left) == (budget.spent, budget.reserved, budget.left)


class Account(RuleBasedStateMachine):
    """Any order of reserving, settling and dying, with requests that never cost more than was reserved for them."""

    reservations = Bundle("reservations")

    def __init__(self):
        super().__init__()
        self.cap = Decimal(250)
        self.budget = Budget(self.cap)
        self.facts = []
        self.settled = {}

    @rule(target=reservations, what=names, amount=money)
    def reserve(self, what, amount):
        before = self.budget.left
        known = any(item.what == what for item in self.facts)
        try:
            reservation = self.budget.reserve(amount, what)
        except CostCapError:
            assert amount > before or self.budget.spent + self.budget.reserved > self.cap
            assert not known
            return Reservation("refused", amount)
        assert known or amount <= before
        self.facts.append(reservation)
        return reservation

    @rule(reservation=reservations, share=st.decimals(min_value=0, max_value=1, places=3))
    def settle(self, reservation, share):
        if reservation.what == "refused":
            return
        amount = reservation.amount * share
        self.budget.settle(reservation, amount)
        self.settled.setdefault(reservation.what, amount)

    @rule()
    def die_and_come_back(self):
        self.budget = Budget(self.cap, self.facts, self.settled)

    @invariant()
    def spent_and_reserved_stay_within_the_cap(self):
        assert self.budget.spent + self.budget.reserved <= self.cap
        assert self.budget.left == self.cap - self.budget.spent - self.budget.reserved


class DearerAccount(Account):
    """The same where reality may be dearer than was reserved: then nothing more is reserved."""

    @rule(reservation=Account.reservations, more=money)
    def settle_for_more(self, reservation, more):
        if reservation.what == "refused":
            return
        self.budget.settle(reservation, reservation.amount + more)
        self.settled.setdefault(reservation.what, reservation.amount + more)

    @invariant()
    def spent_and_reserved_stay_within_the_cap(self):
        if self.budget.spent + self.budget.reserved <= self.cap:
            return
        assert self.budget.left == 0
        with pytest.raises(CostCapError):
            self.budget.reserve(Decimal(0), "one more")


TestAccount = Account.TestCase
TestDearerAccount = DearerAccount.TestCase
