"""The datasets: made up, the same in every run, each row different. ``python -m tests.benchmarks.rows KIND N PATH``.

``reviews``: columns ``id, language, stars, text``, about 540 bytes a row. ``ready_made``: request lines with such
texts, about 770 bytes. ``short``: a number and four words, about 40 bytes.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TEXTS = 997
"""Different texts; each row puts its own number before one of them."""

SYSTEM = "You label reviews of restaurants. Answer with one word: positive or negative."
PROMPT = "Is this review positive or negative? {{ row.text }}"
MODEL = "gpt-5-mini"

_WORDS = [
    "the",
    "food",
    "was",
    "great",
    "but",
    "service",
    "slow",
    "and",
    "room",
    "rather",
    "loud",
    "we",
    "waited",
    "for",
    "an",
    "hour",
    "before",
    "anyone",
    "came",
    "to",
    "our",
    "table",
    "my",
    "wife",
    "had",
    "soup",
    "which",
    "arrived",
    "cold",
    '"again"',
    "they",
    "said",
    "sorry",
    "about",
    "that",
    "dessert",
    "made",
    "up",
    "it",
    "crème",
    "brûlée",
    "perfect",
    "prices",
    "are",
    "fair",
    "parking",
    "is",
    "awful",
    "staff",
    "friendly",
    "kitchen",
    "closes",
    "at",
    "nine",
    "so",
    "come",
    "early",
    "or",
    "don't",
    "come",
    "at",
    "all\n",
]
_GROUP = 131_072
"""Rows of a row group of Parquet; writers in use make groups of about that and up to ten times as many."""


def texts(words: int = 90) -> list[str]:
    """Return the texts, of about so many words."""
    dice = random.Random(7)
    return [" ".join(dice.choices(_WORDS, k=dice.randint(words * 2 // 3, words * 4 // 3))) for _ in range(TEXTS)]


def reviews(number: int) -> Iterator[dict[str, Any]]:
    """Yield rows of columns, for a row template."""
    pool = texts()
    for n in range(number):
        yield {"id": n, "language": ("en", "fr", "de")[n % 3], "stars": n % 5 + 1, "text": f"{n}: {pool[n % TEXTS]}"}


def ready_made(number: int) -> Iterator[dict[str, Any]]:
    """Yield request lines."""
    pool = texts()
    for n in range(number):
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": f"{n}: {pool[n % TEXTS]}"}]
        body = {"model": MODEL, "messages": messages, "max_completion_tokens": 16}
        yield {"custom_id": f"review-{n}", "method": "POST", "url": "/v1/chat/completions", "body": body}


def short(number: int) -> Iterator[dict[str, Any]]:
    """Yield rows of next to nothing."""
    for n in range(number):
        yield {"id": n, "text": f"row {n} was great"}


KINDS: dict[str, Callable[[int], Iterator[dict[str, Any]]]] = {
    "reviews": reviews,
    "ready_made": ready_made,
    "short": short,
}


def write(kind: str, number: int, path: Path) -> Path:
    """Write a dataset as JSON Lines, or as Parquet where the path says so; return the path."""
    made = KINDS[kind](number)
    if path.suffix == ".parquet":
        _write_parquet(made, path)
        return path
    with path.open("wb", buffering=1 << 20) as file:
        file.writelines(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in made)
    return path


def _write_parquet(made: Iterator[dict[str, Any]], path: Path) -> None:
    import itertools

    import pyarrow as pa
    import pyarrow.parquet as pq

    first = pa.Table.from_pylist(list(itertools.islice(made, _GROUP)))
    with pq.ParquetWriter(path, first.schema) as writer:
        writer.write_table(first)
        while piece := list(itertools.islice(made, _GROUP)):
            writer.write_table(pa.Table.from_pylist(piece, schema=first.schema))


def main() -> None:
    """Write one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("number", type=int)
    parser.add_argument("path", type=Path)
    given = parser.parse_args()
    write(given.kind, given.number, given.path)


if __name__ == "__main__":
    main()
