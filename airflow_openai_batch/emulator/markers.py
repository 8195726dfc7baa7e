r"""Markers: a request whose text contains ``[[emulate:...]]`` is answered as the marker says.

============================  ==========================================================================================
``[[emulate:status=N]]``      an HTTP failure with status N (429, 500, 400, 0 ...): in a batch, a line of the error file
``[[emulate:error=CODE]]``    never run: a line of the error file with ``error.code`` CODE, e.g. ``request_timeout``;
                              synchronously a 500
``[[emulate:refusal]]``       the model refuses
``[[emulate:content_filter]]``  the content filter steps in: finish reason ``content_filter``, status ``incomplete``; a
                              400 from endpoints without text
``[[emulate:length]]``        the answer is cut in the middle, as by a token limit
``[[emulate:invalid_json]]``  the answer is text that isn't JSON, whatever was asked for
``[[emulate:lost]]``          in a batch: the row is in neither file though counted as completed
``[[emulate:twice]]``         in a batch: the row's line is in its file twice
``[[emulate:garbled]]``       in a batch: the row's line is cut off, so that it isn't JSON
============================  ==========================================================================================

Where there are several, the first counts. ``once`` after a comma, as in ``[[emulate:status=500,once]]``, makes it so
only the first time that this body is run; after that the request is answered as if the marker weren't there.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass

_MARKER = re.compile(rb"\[\[emulate:([a-z_]+)(?:=([A-Za-z0-9_]+))?(,once)?\]\]")
SIGN = b"[[emulate:"
LINE_ACTIONS = frozenset({"lost", "twice", "garbled"})


@dataclass(frozen=True, slots=True)
class Marker:
    """What a request asks the emulator to do.

    :param action: the word after ``emulate:``.
    :param value: what stands after ``=``, or ``""``.
    """

    action: str
    value: str = ""

    @property
    def status(self) -> int | None:
        """The HTTP status of a ``status=`` marker."""
        return int(self.value) if self.action == "status" and self.value.isdigit() else None


class Markers:
    """Finds the marker of a body and remembers which bodies with ``once`` have had their turn."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: set[bytes] = set()

    def find(self, raw: bytes, digest: bytes) -> Marker | None:
        """Return the first marker in ``raw``, unless it says ``once`` and this body was run before.

        :param raw: the request's JSON. No character of a marker is ever escaped in JSON, so bytes will do.
        :param digest: the body's hash.
        """
        if (match := _MARKER.search(raw)) is None:
            return None
        action, value, once = match.groups()
        if once:
            with self._lock:
                if digest in self._seen:
                    return None
                self._seen.add(digest)
        return Marker(action.decode(), (value or b"").decode())
