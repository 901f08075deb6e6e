"""How far a request has come. Whoever sent it must know: what never left may be sent again, what did may be done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import httpx

from cortex.messages import Phase


@attrs.define(eq=False)
class Progress:
    """The request extension `trace`: our transport writes the fields.

    A transport of httpx's own kind calls it (https://www.encode.io/httpcore/extensions/#trace). For that kind it also
    closes the socket of a TLS handshake that was cancelled or took too long, which httpcore forgets. Of one that says
    nothing the worst is assumed.
    """

    phase: Phase = Phase.SENT
    reused: bool = False
    """The connection had served before."""
    socket: Any = None
    """Of the connection that httpx opened for it."""
    when_sent: Callable[[], None] | None = None
    """Called when the request itself begins to be sent; what is said to a proxy before is no part of it."""
    _opened: bool = False
    _tunnelling: bool = False

    @classmethod
    def of(cls, request: httpx.Request) -> Progress:
        """That of a request, which has not been sent yet."""
        trace = request.extensions.get("trace")
        progress = trace if isinstance(trace, cls) else cls()
        progress.phase, progress.reused = Phase.NOT_SENT, False
        return progress

    async def __call__(self, name: str, info: Mapping[str, Any]) -> None:
        """An event of httpcore's. Its first word tells who speaks: the connection, a proxy, a protocol."""
        match name.partition(".")[2]:
            case "connect_tcp.started":
                self.phase, self._opened = Phase.NOT_SENT, True
            case "connect_tcp.complete":
                self.socket = info["return_value"].get_extra_info("socket")
            case "start_tls.failed" if self.socket is not None:
                self.socket.close()
            case "send_request_headers.started":
                self._tunnelling = info["request"].method == b"CONNECT"
                if not self._tunnelling:
                    self._sent()
            case "receive_response_headers.complete" if not self._tunnelling:
                self.phase = Phase.HEADERS

    def _sent(self) -> None:
        self.phase, self.reused = Phase.SENT, not self._opened
        if self.when_sent is not None:
            self.when_sent()
