"""Identifiers in the forms that the service gives them, so that clients' own checks are exercised."""

from __future__ import annotations

import secrets
import string

_ALPHABET = string.ascii_letters + string.digits


def new_file_id() -> str:
    """Return an id such as ``file-9gKxR...``: 22 letters and digits."""
    return "file-" + "".join(secrets.choice(_ALPHABET) for _ in range(22))


def new_id(prefix: str) -> str:
    """Return ``prefix`` and 32 hex digits, e.g. ``batch_6740...``."""
    return prefix + secrets.token_hex(16)
