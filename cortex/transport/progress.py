"""How far a request has come. Whoever sent it must know: what never left may be sent again, what did may be done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

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

    async def __call__(self, name: str, info: Mapping[str, Any]) -> None:
        match name:
            case "connection.connect_tcp.started":
                self.phase, self._opened = Phase.NOT_SENT, True
            case "connection.connect_tcp.complete":
                self._stream = info["return_value"]
            case "connection.start_tls.failed" if self._stream is not None:
                self._stream.get_extra_info("socket").close()
            case "http11.send_request_headers.started":
                self.phase, self.reused = Phase.SENT, not self._opened
            case "http11.receive_response_headers.complete":
                self.phase = Phase.HEADERS
