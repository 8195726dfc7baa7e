"""Whose call it is. A key belongs to a project (at Azure: a resource), and sees what was made with its keys alone."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Protocol

PROJECT: ContextVar[str] = ContextVar("PROJECT", default="")
"""The project of the call that is being handled; a batch's rows run in that of its creation."""


class _Owned(Protocol):
    @property
    def project(self) -> str: ...


def is_visible(thing: _Owned) -> bool:
    """Whether the call that is being handled may see a file or a batch."""
    return thing.project == PROJECT.get()
