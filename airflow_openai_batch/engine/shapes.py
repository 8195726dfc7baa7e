"""What JSON values look like: the kinds met at each place, kept small however many values there are.

Rows without a schema get their columns' types from it; rows with one are held against it before anything is written.
"""

from __future__ import annotations

from typing import Any

MAX_FIELDS = 1_000
"""Fields of an object that are told apart; one with more is a table of its own, and stays JSON."""

MAX_DEPTH = 24

LONG = "long"
"""Kind of an integer that a float would round."""

HUGE = "huge"
"""Kind of an integer that 64 bits with a sign don't hold."""

MANY = "many"
"""Mark of an object with too many fields, or of what lies too deep."""

_EXACT = 2**53
_INT64 = 2**63


class Shape:
    """The kinds of the values at one place.

    :param kinds: types as ``orjson.loads`` gives them, and the marks above.
    :param fields: of objects, in the order in which they were first met.
    :param items: of lists, None where no list had one.
    """

    __slots__ = ("_depth", "fields", "items", "kinds")

    def __init__(self, depth: int = 0) -> None:
        self._depth = depth
        self.kinds: set[Any] = set()
        self.fields: dict[str, Shape] = {}
        self.items: Shape | None = None

    def see(self, value: Any) -> None:
        """Note one value."""
        kind: Any = type(value)
        if kind is int and not -_EXACT <= value <= _EXACT:
            self.kinds.add(LONG if -_INT64 <= value < _INT64 else HUGE)
            return
        self.kinds.add(kind)
        if kind is dict:
            self._see_fields(value)
        elif kind is list:
            self._see_items(value)

    def _see_fields(self, value: dict[str, Any]) -> None:
        fields = self.fields
        if MANY in self.kinds:
            return
        for name, item in value.items():
            field = fields.get(name)
            if field is None:
                if len(fields) >= MAX_FIELDS or self._depth >= MAX_DEPTH:
                    self.kinds.add(MANY)
                    fields.clear()
                    return
                field = fields[name] = Shape(self._depth + 1)
            field.see(item)

    def _see_items(self, value: list[Any]) -> None:
        if not value:
            return
        if self._depth >= MAX_DEPTH:
            self.kinds.add(MANY)
            return
        if self.items is None:
            self.items = Shape(self._depth + 1)
        for item in value:
            self.items.see(item)

    def only(self, *kinds: Any) -> bool:
        """Whether all values were of these kinds, or null."""
        return self.kinds <= {*kinds, type(None)}

    @property
    def empty(self) -> bool:
        """Whether there was no value but null."""
        return self.only()


def is_clear(names: list[str]) -> bool:
    """Whether names differ in more than their case: Spark and DuckDB don't tell others apart."""
    return len({name.casefold() for name in names}) == len(names)
