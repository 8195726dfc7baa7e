"""The errors of this package, and what each means for money and for a retry.

::

    OpenAIBatchError
    ├── ConfigurationError          parameters that can't be right, found when the DAG is parsed
    ├── InputError                  rows that can't be sent, found before anything is uploaded
    ├── UnknownPriceError           money is to be counted, and nobody knows the model's price
    ├── CanaryError                 the rows that were asked first did too badly to buy the rest
    ├── CostCapError                what is to be sent next could cost more than is left of the cap
    ├── DestinationError            what lies at the destination isn't this job's, or can't be read
    │   ├── JobMismatchError        another job, or this one with other input or parameters
    │   ├── JobOwnedError           another task instance is at work on it at this moment
    │   ├── JobUnfinishedError      its results are wanted, and it isn't landed yet
    │   └── JournalError            a journal or manifest that is damaged or of an unknown version
    ├── StoreError                  the object store refused: wrong bucket, wrong key, no permission
    │   └── ExclusiveCreateError    the store can't tell the first of two writers of a name
    ├── APIError                    OpenAI, or what stands in for it, said no or nothing
    │   ├── AuthenticationError     401, 403: the connection's key
    │   │   └── NoTokenError        Entra gave no token, for a reason that may pass; nothing was sent
    │   ├── NotFoundError           404: a wrong base URL, or an object of another project
    │   ├── RejectedError           any other 4xx: the same call would be refused again
    │   │   └── QueueFullError      the model's enqueued tokens are used up; the shard waits in the journal
    │   ├── QuotaError              no credit, or a spend limit: waiting doesn't help
    │   ├── RateLimitError          429 that outlived the retries of the call
    │   └── UnreachableError        no answer, or 5xx, within the retries: what the call did is unknown
    ├── JobFailedError              every row was landed, and too many of them failed
    ├── JobTimeoutError             the user's timeout passed with batches still running
    ├── JobHaltedError              the task's process was told to end, and bought nothing more
    └── BatchEndedError             a batch that was waited for by its id ended without results

``retryable`` says whether another try of the same task could end otherwise. A try that can't is failed at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

MAX_PROBLEMS_SHOWN = 20


class OpenAIBatchError(Exception):
    """Base of everything that this package raises on purpose."""

    retryable: ClassVar[bool] = False


class ConfigurationError(OpenAIBatchError, ValueError):
    """Parameters that can't be right whatever the data."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with the input.

    :param where: file and line, or the row's position in a list.
    :param field: the column or request field, or an empty string where the whole row is meant.
    :param message: what is wrong with it.
    """

    where: str
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.field}: {self.message}" if self.field else f"{self.where}: {self.message}"


class InputError(OpenAIBatchError):
    """Rows that can't be sent. Nothing was uploaded, and nothing of the plan was kept.

    :param problems: the first problems, :data:`MAX_PROBLEMS_SHOWN` at most.
    :param count: how many there are in all.
    """

    def __init__(self, problems: Sequence[Problem], count: int | None = None) -> None:
        self.problems = tuple(problems[:MAX_PROBLEMS_SHOWN])
        self.count = len(problems) if count is None else count
        lines = [f"  {problem}" for problem in self.problems]
        if self.count > len(lines):
            lines.append(f"  ... and {self.count - len(lines):,} more")
        plural = "problem" if self.count == 1 else "problems"
        super().__init__(f"{self.count:,} {plural} in the input; nothing was uploaded:\n" + "\n".join(lines))


class UnknownPriceError(OpenAIBatchError):
    """Money is to be counted, and neither the DAG's author nor ``genai-prices`` knows the model's price."""


class CanaryError(OpenAIBatchError):
    """Too many of the rows that were asked first have no good answer; the rest wasn't bought."""


class CostCapError(OpenAIBatchError):
    """What is to be sent next could cost more than is left of the cap, so it isn't sent.

    :param what: names what was to be sent.
    :param estimate: its cost, estimated; this and the rest in USD.
    :param cap: what may be spent.
    :param spent: what was paid so far.
    :param reserved: what runs already may cost yet.
    """

    def __init__(self, what: str, estimate: Decimal, cap: Decimal, spent: Decimal, reserved: Decimal) -> None:
        self.what, self.estimate, self.cap, self.spent, self.reserved = what, estimate, cap, spent, reserved
        running = f", and {_usd(reserved)} more may become due for what already runs" if reserved else ""
        super().__init__(
            f"{what}: estimated at {_usd(estimate)}, which the cap of {_usd(cap)} has no room for: "
            f"{_usd(spent)} was spent{running}. It wasn't sent, and a retry would stop here again. "
            f"Raise the cap, or send fewer rows"
        )

    def __reduce__(self) -> tuple[type[CostCapError], tuple[str, Decimal, Decimal, Decimal, Decimal]]:
        return type(self), (self.what, self.estimate, self.cap, self.spent, self.reserved)


def _usd(amount: Decimal) -> str:
    return f"${amount:,.4f}" if amount >= 1 or not amount else f"${amount:.6f}"


class DestinationError(OpenAIBatchError):
    """The destination can't serve this job."""


class JobMismatchError(DestinationError):
    """The destination holds another job, or this job with other input or parameters."""


class JobOwnedError(DestinationError):
    """Another task instance is at work on the destination's job. A later try may find it done."""

    retryable = True


class JobUnfinishedError(DestinationError):
    """The destination's job isn't landed yet, so there are no results to read. A later try may find them."""

    retryable = True


class JournalError(DestinationError):
    """A file of the job's folder is damaged, or written by an unknown version."""


class StoreError(OpenAIBatchError):
    """The object store refused an operation. A retry may find it willing."""

    retryable = True


class ExclusiveCreateError(StoreError):
    """The store can't create a file exclusively, so two tries could buy the same rows. Nothing was uploaded."""

    retryable = False


class APIError(OpenAIBatchError):
    """The API refused a call or couldn't be reached.

    :param message: what happened, with the connection's name and what to check.
    :param status: the HTTP status, or None where no answer came.
    :param code: OpenAI's error code, or None.
    :param param: the request's field that OpenAI named, or None.
    :param retry_after: seconds that OpenAI asked to wait, 0 where it didn't.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        param: str | None = None,
        retry_after: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.status = status
        self.code = code
        self.param = param


class AuthenticationError(APIError):
    """401 or 403: the key is wrong, or may not do this."""


class NoTokenError(AuthenticationError):
    """Entra gave no token, though it didn't refuse one. Nothing was sent."""

    retryable = True


class NotFoundError(APIError):
    """404: the object or the route isn't there for this key."""


class RejectedError(APIError):
    """Another 4xx: the same call would be refused again."""


class QueueFullError(RejectedError):
    """The model's enqueued-token limit is reached. The job waits; this never fails a task."""

    retryable = True


class QuotaError(APIError):
    """No credit left, or a spending limit reached. Waiting doesn't help; paying does."""


class RateLimitError(APIError):
    """429 that outlived the retries of the call."""

    retryable = True


class UnreachableError(APIError):
    """No answer or 5xx within the retries. Whether the call had an effect is unknown."""

    retryable = True


class JobFailedError(OpenAIBatchError):
    """All rows were landed and paid for; the share that failed is over ``max_failed_ratio``.

    A retry would return the same results at no cost, so none is made.
    """


class JobTimeoutError(OpenAIBatchError):
    """The user's timeout passed. The text names the batches that still run and bill."""


class JobHaltedError(OpenAIBatchError):
    """The process was told to end. What it had bought is in the journal; the next try goes on from there."""

    retryable = True

    def __init__(self) -> None:
        super().__init__(
            "The task's process was told to end, so nothing more was sent. What was bought is kept; the next try goes "
            "on from there."
        )


class BatchEndedError(OpenAIBatchError):
    """A batch that was waited for by its id ended as failed, or can't be landed."""
