"""Whether a job's first rows did well enough to buy the rest. Pure, but for reading examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_openai_batch.engine.quick import line_reader
from airflow_openai_batch.engine.raws import raw_names
from airflow_openai_batch.exceptions import CanaryError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airflow_openai_batch.engine.answers import Check
    from airflow_openai_batch.engine.records import Attempt
    from airflow_openai_batch.engine.store import Store

BAD = ("failed", "invalid", "truncated", "missing")
"""Statuses that tell of a broken prompt, parameter or schema. A model that refuses or filters has understood."""

_EXAMPLES = 3
_TEXT = 200


def judge(store: Store, attempts: Iterable[Attempt], max_failed: float, check: Check | None) -> None:
    """See whether the job may go on.

    :param attempts: of the canary's shards, ended.
    :param max_failed: the share of bad rows that may be.
    :raises CanaryError: there are more.
    """
    attempts = list(attempts)
    counts: dict[str, int] = {}
    for attempt in attempts:
        for status, count in attempt.end.rows.items() if attempt.end else ():
            counts[status] = counts.get(status, 0) + count
    total, bad = sum(counts.values()), sum(counts.get(status, 0) for status in BAD)
    if not total or bad <= max_failed * total:
        return
    told = ", ".join(f"{counts[status]:,} {status}" for status in BAD if counts.get(status))
    examples = list(_examples(store, attempts, check))
    raise CanaryError(
        f"{bad:,} of the first {total:,} rows did badly ({bad / total:.0%}, more than canary_max_failed="
        f"{max_failed:g}): {told}. Nothing else was bought. Mend the cause and start again at another destination, or "
        'with on_input_change="restart"; or raise canary_max_failed and clear the task to go on as it is. '
        + " ".join(f"Example: {example}." for example in examples)
    )


def _examples(store: Store, attempts: Iterable[Attempt], check: Check | None) -> Iterator[str]:
    found = 0
    for name in (name for attempt in attempts for name in raw_names(attempt)):
        with store.open(name) as lines:
            for answer in map(line_reader(check), lines):
                if answer is None or answer.status not in BAD:
                    continue
                error = answer.error or {}
                why = f"{error.get('code')}: {error.get('message')}" if error else f"finished by {answer.finish_reason}"
                shown = "" if answer.output is None else f", answered {str(answer.output)[:_TEXT]!r}"
                yield f"row {answer.wire[1:]} {answer.status} ({why[:_TEXT]}{shown})"
                found += 1
                if found >= _EXAMPLES:
                    return
