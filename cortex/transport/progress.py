"""How far a request has come. Whoever sent it must know: what never left may be sent again, what did may be done."""

from __future__ import annotations

from collections.abc import Mapping
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
    _opened: bool = False
    _stream: Any = None
    _tunnelling: bool = False  # what is said to a proxy is no part of the request

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
            case "connect_tcp.started" | "connect_unix_socket.started":
                self.phase, self._opened = Phase.NOT_SENT, True
            case "connect_tcp.complete":
                self._stream = info["return_value"]
            case "start_tls.failed" if self._stream is not None:
                self._stream.get_extra_info("socket").close()
            case "send_request_headers.started":
                self._tunnelling = info["request"].method == b"CONNECT"
                if not self._tunnelling:
                    self.phase, self.reused = Phase.SENT, not self._opened
            case "receive_response_headers.complete" if not self._tunnelling:
                self.phase = Phase.HEADERS
