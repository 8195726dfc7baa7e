"""A hand on the connection that a call came in by, which ASGI doesn't give.

Faults close connections in the middle of things. uvicorn makes one protocol object a connection; the subclass made
here notes its transport under the client's address, which every call's scope has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

    from starlette.types import Scope
    from uvicorn.protocols.http.h11_impl import H11Protocol as HTTPProtocol
else:
    from uvicorn.protocols.http.auto import AutoHTTPProtocol as HTTPProtocol


class Connections:
    """The open connections of a server."""

    def __init__(self) -> None:
        self._transports: dict[tuple[str, int], asyncio.Transport] = {}

    def hang_up(self, scope: Scope) -> None:
        """Close the call's connection, after what was sent so far. Does nothing on another server than ours."""
        client = scope.get("client")
        transport = self._transports.get(tuple(client)) if client else None
        if transport is not None:
            transport.close()

    def protocol(self) -> type[asyncio.Protocol]:
        """Return uvicorn's protocol class, with this as its register."""
        transports = self._transports

        class NotedProtocol(HTTPProtocol):
            _peer: tuple[str, int] | None = None

            def connection_made(self, transport: Any) -> None:
                peer = transport.get_extra_info("peername")
                if peer:
                    self._peer = (peer[0], peer[1])
                    transports[self._peer] = transport
                super().connection_made(transport)

            def connection_lost(self, exc: Exception | None) -> None:
                if self._peer is not None:
                    transports.pop(self._peer, None)
                super().connection_lost(exc)

        return NotedProtocol
