"""The digest of a job's own files, by which a changed one is known before anything is bought for it.

SHA-256, since today's processors have instructions for it: on two vCPUs that have them it took a third of BLAKE2b's
time, and every byte of a job is digested when it is planned, uploaded and landed.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import _Hash


def new_digest(content: bytes = b"") -> _Hash:
    """Return the digest of what has been read so far, to be updated; ``hexdigest()`` gives what records hold."""
    return hashlib.sha256(content, usedforsecurity=False)
