"""Every option of the emulator, with the service's own figures as defaults.

The names are the command line's: ``--rows-per-second 50`` is ``running(rows_per_second=50)``. Durations are real
seconds. Limits exist as options so that a test can reach them with a small file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.emulator.oddities import MODES, ODDITIES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from airflow_openai_batch.emulator.prompts import Prompt

DAY = 86_400
MAX_FILE_BYTES = 512 * 1024 * 1024
MAX_BATCH_BYTES = 200 * 1024 * 1024
MAX_REQUESTS = 50_000
MAX_AZURE_REQUESTS = 100_000
MAX_EMBEDDING_INPUTS = 50_000

_CHAT = """
gpt-6-astra gpt-6.2-astra gpt-6-sol gpt-6.2-sol gpt-6.1-terra gpt-6-luna gpt-5.6-sol gpt-5.6-terra gpt-5.6-luna
gpt-5.5 gpt-5.5-2026-04-23 gpt-5.4 gpt-5.4-mini gpt-5.4-mini-2026-03-17 gpt-5.4-nano gpt-5.4-nano-2026-03-17
gpt-5.2 gpt-5.2-2025-12-11 gpt-5.2-pro gpt-5.1 gpt-5.1-2025-11-13
gpt-5 gpt-5-2025-08-07 gpt-5-mini gpt-5-mini-2025-08-07 gpt-5-nano gpt-5-nano-2025-08-07
gpt-4.1 gpt-4.1-2025-04-14 gpt-4.1-mini gpt-4.1-mini-2025-04-14 gpt-4.1-nano gpt-4.1-nano-2025-04-14
gpt-4o gpt-4o-2024-11-20 gpt-4o-2024-08-06 gpt-4o-mini gpt-4o-mini-2024-07-18 gpt-4-turbo gpt-4-turbo-2024-04-09
gpt-3.5-turbo gpt-3.5-turbo-0125 gpt-3.5-turbo-instruct davinci-002 babbage-002
o4-mini o4-mini-2025-04-16 o3 o3-2025-04-16 o3-mini o3-mini-2025-01-31 o1 o1-2024-12-17
"""
_OTHER = """
text-embedding-3-small text-embedding-3-large text-embedding-ada-002
omni-moderation-latest omni-moderation-2024-09-26
gpt-image-2 gpt-image-2-2026-04-21 gpt-image-1.5 gpt-image-1 gpt-image-1-mini
sora-2 sora-2-pro sora-2-2025-10-06 sora-2-pro-2025-10-06
"""
DEFAULT_MODELS = tuple((_CHAT + _OTHER).split())


def parse_token_limits(limits: Sequence[str | int]) -> dict[str, int]:
    """Read ``--token-limit`` values.

    :param limits: ``"N"`` (or an integer) for every model, ``"model=N"`` for one model. The later wins.
    :return: limit by model; the key ``"*"`` holds the limit of all models that have none of their own.
    """
    parsed: dict[str, int] = {}
    for limit in limits:
        model, _, number = str(limit).rpartition("=")
        parsed[model or "*"] = int(number)
    return parsed


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a run of the emulator can be told.

    :param host: address to listen on.
    :param port: port to listen on; 0 picks a free one.
    :param mode: ``openai``, ``azure``, or ``gateway`` for an odd one.
    :param oddity: oddities besides the mode's, by name.
    :param data: directory for the bytes of files, kept at exit. Default: a temporary one, removed at exit.
    :param key: API keys that are accepted, or ``KEY=PROJECT``: a key sees what its project's keys made. Empty: every
        key that begins with ``sk-``; in mode ``azure`` every one of at least 32 characters that doesn't.
    :param token: Entra tokens that are accepted in mode ``azure``. Empty: every one that begins with ``eyJ``.
    :param models: models that exist.
    :param responder: ``auto``, ``echo``, ``sentiment``, ``module:attr``, or (from Python) the object itself.
    :param validating: least seconds that a batch is ``validating``.
    :param in_progress: least seconds that a batch is ``in_progress``; its rows are spread over them.
    :param finalizing: seconds that a batch is ``finalizing``.
    :param cancelling: seconds that a batch is ``cancelling``.
    :param rows_per_second: rows that one batch runs in a second. Default: as ``in_progress`` says.
    :param window: real seconds that the completion window of 24 h takes. ``expires_at`` follows it.
    :param token_limit: enqueued tokens a model may hold: numbers, or ``model=N``. Default: no limit.
    :param token_lag: seconds after a batch's end in which its tokens still count as enqueued.
    :param batches_per_hour: creates accepted in an hour. Default: no limit (the service: 2,000).
    :param requests_per_minute: synchronous calls that a model takes in a minute, ``None`` for any number; answers have
        no headers of it then. Default: that of a large account.
    :param tokens_per_minute: likewise its tokens.
    :param minute: real seconds that a minute of these limits takes.
    :param max_file_bytes: greatest size of a file.
    :param max_batch_bytes: greatest size of a batch's input file.
    :param max_requests: most requests in a batch. Default: 50,000; in mode ``azure`` 100,000.
    :param file_processing: seconds that a file is ``pending`` after its upload, where files are.
    :param max_embedding_inputs: most embedding inputs in a batch.
    :param fault: faults active from the start, in the forms that ``faults.parse`` takes.
    :param organization: organization id that headers and messages name.
    :param project: project id that headers and messages name.
    """

    host: str = "127.0.0.1"
    port: int = 0
    mode: str = "openai"
    oddity: str | Sequence[str] = ()
    data: Path | str | None = None
    key: str | Sequence[str] = ()
    token: str | Sequence[str] = ()
    models: str | Sequence[str] = DEFAULT_MODELS
    responder: str | Callable[[Prompt], str] = "auto"
    validating: float = 1.0
    in_progress: float = 3.0
    finalizing: float = 1.0
    cancelling: float = 1.0
    file_processing: float = 1.0
    rows_per_second: float | None = None
    window: float = DAY
    token_limit: str | int | Sequence[str | int] = ()
    token_lag: float = 0.0
    batches_per_hour: int | None = None
    requests_per_minute: int | None = 30_000
    tokens_per_minute: int | None = 180_000_000
    minute: float = 60.0
    max_file_bytes: int = MAX_FILE_BYTES
    max_batch_bytes: int = MAX_BATCH_BYTES
    max_requests: int | None = None
    max_embedding_inputs: int = MAX_EMBEDDING_INPUTS
    fault: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]] = ()
    organization: str = "org-emulated"
    project: str = "proj_emulated"
    known_models: frozenset[str] = field(init=False, repr=False)
    token_limits: Mapping[str, int] = field(init=False, repr=False)
    oddities: frozenset[str] = field(init=False, repr=False)
    projects: Mapping[str, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("key", "token", "models", "fault", "oddity"):
            value = getattr(self, name)
            if isinstance(value, (str, Mapping)):
                object.__setattr__(self, name, (value,))
        object.__setattr__(self, "known_models", frozenset(self.models))
        keys = (given.partition("=") for given in self.key)
        object.__setattr__(self, "projects", {key: project or self.project for key, _, project in keys})
        if self.mode not in MODES:
            raise ValueError(f"Not a mode: {self.mode!r}; there are {', '.join(MODES)}")
        if unknown := set(self.oddity) - ODDITIES:
            raise ValueError(f"Not an oddity: {', '.join(sorted(unknown))}; there are {', '.join(sorted(ODDITIES))}")
        object.__setattr__(self, "oddities", MODES[self.mode] | frozenset(self.oddity))
        limits = self.token_limit
        limits = (limits,) if isinstance(limits, (str, int)) else limits
        object.__setattr__(self, "token_limits", parse_token_limits(limits))

    @property
    def requests_limit(self) -> int:
        """Most requests in a batch."""
        if self.max_requests is not None:
            return self.max_requests
        return MAX_AZURE_REQUESTS if self.mode == "azure" else MAX_REQUESTS

    def limit_of(self, model: str) -> int | None:
        """Return how many tokens ``model`` may have enqueued, ``None`` for any number."""
        return self.token_limits.get(model, self.token_limits.get("*"))
