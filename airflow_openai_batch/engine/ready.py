"""Ready-made request lines, looked over and taken as they stand.

msgspec finds in a third of the time whether a line is a whole request of the job's endpoint, and where its body is,
since it makes no objects of messages and texts. What :mod:`requests` would accept word for word is accepted here; a
block in which anything else stands, right or wrong, is parsed and goes the general way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_openai_batch.engine.endpoints import Endpoint

_OTHER = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What looking lines over ends with where one is none of these requests."""

_NULL = b"null"
_NOTHING = Raw(_NULL)


class ReadyRows(NamedTuple):
    """Consecutive requests of one file, as they stand there.

    :param line: that of the first of them.
    :param records: their users' own ids.
    :param bodies: their bodies, as JSON.
    :param models: the model of each.
    """

    path: str
    line: int
    records: list[str]
    bodies: list[bytes]
    models: list[str]


_Text = Annotated[str, Meta(min_length=1)]


class _Message(Struct, gc=False):
    role: str


class _Chat(Struct, gc=False):
    model: _Text
    messages: Annotated[list[_Message], Meta(min_length=1)]
    stream: UnsetType = UNSET


class _Embedding(Struct, gc=False):
    model: _Text
    # A list may be several inputs, which are counted.
    input: str
    stream: UnsetType = UNSET


class ReadyLines:
    """Takes lines of one endpoint.

    :param endpoint: as lines must name it.
    :param shape: what its requests need.
    :param longest: bytes of a body that surely fits a batch.
    """

    def __init__(self, endpoint: str, shape: Endpoint, longest: int) -> None:
        self._longest = longest
        self._needs: tuple[str, ...] = ()
        body: Any
        if shape.prompt is None:
            body = _Chat
        elif endpoint.endswith("/embeddings"):
            body = _Embedding
        else:
            self._needs = shape.needs
            needs = [(name, Raw, _NOTHING) for name in shape.needs]
            body = msgspec.defstruct("_Body", [("model", _Text), ("stream", UnsetType, UNSET), *needs], gc=False)
        fields = [("custom_id", _Text), ("method", Literal["POST"]), ("url", Literal[endpoint]), ("body", Raw)]
        line = msgspec.defstruct("_Line", fields, gc=False, forbid_unknown_fields=True)
        self._line: Callable[[bytes], Any] = msgspec.json.Decoder(line).decode
        self._body: Callable[[Raw], Any] = msgspec.json.Decoder(body).decode

    def take(self, path: str, number: int, lines: list[bytes]) -> ReadyRows | None:
        """Return the requests that stand on lines, None where one of them isn't surely right.

        :param number: that of the first line.
        """
        try:
            # What is only looked over may be no UTF-8.
            b"".join(lines).decode()
            found = list(map(self._line, lines))
            read = [self._body(line.body) for line in found]
        except _OTHER:
            return None
        bodies = [bytes(line.body) for line in found]
        if max(map(len, bodies)) > self._longest or (self._needs and not all(map(self._has_what_it_needs, read))):
            return None
        return ReadyRows(path, number, [line.custom_id for line in found], bodies, [body.model for body in read])

    def _has_what_it_needs(self, body: Any) -> bool:
        return any(bytes(getattr(body, name)) != _NULL for name in self._needs)
