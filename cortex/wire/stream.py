"""How replies are read, whatever the dialect: a fold takes parsed chunks, this feeds it from bytes.

A whole JSON reply and a stream go through the same fold. A stream may turn out to be neither: a server that ignored
`stream: true` sends one JSON body, a captive portal a page; the first byte tells.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import attrs

from cortex.messages import Answer, Broken, Ended, Failure, Finish, Kind, Phase, StreamEvent
from cortex.wire import faults
from cortex.wire.codec import HttpReply, Target
from cortex.wire.draft import Draft
from cortex.wire.faults import Rules
from cortex.wire.sse import LIMIT, SseDecoder, SseEvent, SseItem
from cortex.wire.values import TooMuch, loads


class Fold(ABC):
    """One answer, folded from parsed chunks. Every method gives events; after `Ended` or `Broken` none is called."""

    rules: Rules

    def __init__(self, target: Target) -> None:
        self.target = target
        self.draft = Draft(target.issuer)

    @abstractmethod
    def chunk(self, name: str, payload: dict[str, Any]) -> list[StreamEvent]:
        """One event of a stream: its name and its JSON object."""

    @abstractmethod
    def whole(self, payload: Any) -> list[StreamEvent]:
        """A whole JSON reply; the last event is `Ended` or `Broken`."""

    def done(self) -> list[StreamEvent]:
        """The marker `[DONE]`."""
        return []

    def closed(self) -> list[StreamEvent]:
        """The stream has ended without a terminal event."""
        return self.broken(Kind.CUT, "the stream ended before the answer did")

    def ended(self, finish: Finish, raw: str | None) -> list[StreamEvent]:
        """The answer is whole: what is still open is finished first."""
        events = self.finish_calls(finish)
        if raw is None and finish is Finish.OTHER and self.draft.are_whole:
            finish = Finish.TOOL_CALLS  # some servers give no reason; what was called speaks for itself
        return [*events, Ended(self.draft.answer(finish, raw))]

    def finish_calls(self, finish: Finish) -> list[StreamEvent]:
        """No more will come of the calls that are still open."""
        cut = finish not in (Finish.STOP, Finish.TOOL_CALLS)
        return [event for call in self.draft.unfinished for event in self.draft.finish_call(call, cut=cut)]

    def broken(self, kind: Kind, message: str, code: str | None = None) -> list[StreamEvent]:
        """The answer will not come."""
        return [Broken(Failure(kind, message, code=code, phase=Phase.STREAM, usage=self.draft.usage))]

    def error(self, payload: Any) -> list[StreamEvent]:
        """The server's own error, inside a 200."""
        return [Broken(faults.inband_failure(payload, self.target, self.rules, self.draft.usage))]


class StreamDecoder:
    """Bytes of a stream in, events out. See `cortex.wire.codec.Decoder`."""

    def __init__(self, fold: Fold) -> None:
        self._fold = fold
        self._sse = SseDecoder()
        self._body: list[bytes] | None = None  # a reply that is one JSON body after all
        self._body_size = 0
        self._begun = False
        self._over = False

    def feed(self, data: bytes) -> list[StreamEvent]:
        """Take the next bytes, however they were cut."""
        if self._over:
            return []
        if not self._begun:
            head = data.lstrip(b"\xef\xbb\xbf \t\r\n")
            self._begun = bool(head)
            if head.startswith((b"{", b"[")):
                self._body, data = [], head
            elif head.startswith(b"<"):
                return self._until_over(self._fold.broken(Kind.NOT_API, "a page came where a stream belongs"))
        if self._body is None:
            return self._events(self._sse.feed(data))
        self._body.append(data)
        self._body_size += len(data)
        if self._body_size > LIMIT:
            return self._until_over(self._fold.broken(Kind.PROTOCOL, f"a body is longer than {LIMIT} bytes"))
        return []

    def close(self) -> list[StreamEvent]:
        """No more bytes will come."""
        if self._over:
            return []
        self._over = True
        if self._body is not None:
            try:
                payload = loads(b"".join(self._body))
            except TooMuch as error:
                return self._fold.broken(Kind.PROTOCOL, f"the body: {error}")
            except ValueError:
                return self._fold.broken(Kind.CUT, "the JSON body is not whole")
            return bounded(self._fold, lambda: self._fold.whole(payload))
        events = bounded(self._fold, self._fold.closed)
        last = events[-1]
        if self._sse.close() and isinstance(last, Broken):
            failure = attrs.evolve(last.failure, message=f"{last.failure.message}, inside an event")
            events = [*events[:-1], Broken(failure)]
        return events

    def _events(self, items: list[SseItem]) -> list[StreamEvent]:
        events: list[StreamEvent] = []
        for item in items:
            events += self._until_over(self._item(item))
            if self._over:
                break
        return events

    def _item(self, item: SseItem) -> list[StreamEvent]:
        if not isinstance(item, SseEvent):
            return self._fold.broken(Kind.PROTOCOL, item.reason)
        data = item.data.strip()
        if data == "[DONE]":
            return bounded(self._fold, self._fold.done)
        return fold_json(self._fold, item.name, data) if data else []

    def _until_over(self, events: list[StreamEvent]) -> list[StreamEvent]:
        self._over = bool(events) and isinstance(events[-1], Ended | Broken)
        return events


def fold_json(fold: Fold, name: str, data: str | bytes) -> list[StreamEvent]:
    """One event of a stream, given as JSON text."""
    try:
        payload = loads(data)
    except TooMuch as error:
        return fold.broken(Kind.PROTOCOL, f"an event: {error}")
    except ValueError:
        return fold.broken(Kind.PROTOCOL, "an event is not JSON")
    if not isinstance(payload, dict):
        return fold.broken(Kind.PROTOCOL, "an event is not a JSON object")
    return bounded(fold, lambda: fold.chunk(name, payload))


def bounded(fold: Fold, step: Callable[[], list[StreamEvent]]) -> list[StreamEvent]:
    """A step of the fold; it ends the answer where there is more in it than any answer holds."""
    try:
        return step()
    except TooMuch as error:
        return fold.broken(Kind.PROTOCOL, f"the answer: {error}")


def decode_with(make_fold: Callable[[Target], Fold], reply: HttpReply, target: Target) -> Answer | Failure:
    """Read a whole reply of any status."""
    fold = make_fold(target)
    if not 200 <= reply.status < 300:
        return faults.status_failure(reply, target, fold.rules)
    payload = _json(reply)
    events = fold.broken(*payload) if isinstance(payload, tuple) else bounded(fold, lambda: fold.whole(payload))
    verdict = events[-1] if events else None
    ident = faults.request_id(reply.headers)
    if isinstance(verdict, Ended):
        return attrs.evolve(verdict.answer, request_id=ident or verdict.answer.request_id)
    failure = (
        verdict.failure if isinstance(verdict, Broken) else Failure(Kind.PROTOCOL, "not an answer of this dialect")
    )
    after = faults.retry_after(reply.headers)
    return attrs.evolve(
        failure,
        status=reply.status,
        phase=Phase.DONE,
        retry_after=after if after is not None else failure.retry_after,
        should_retry=faults.should_retry(reply.headers),
        request_id=ident or failure.request_id,
    )


def _json(reply: HttpReply) -> Any:
    """The JSON in a success's body; a tuple of kind and words where there is none (JSON has no tuples)."""
    if len(reply.body) > LIMIT:
        return Kind.PROTOCOL, f"the reply is longer than {LIMIT} bytes"
    head = reply.body[:200].lstrip(b"\xef\xbb\xbf \t\r\n")
    if not head and not reply.body.strip():
        return Kind.PROTOCOL, "the reply is empty"
    kind = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    if head.startswith(b"<") or "html" in kind:
        return Kind.NOT_API, "a page came where JSON belongs"
    try:
        return loads(reply.body)
    except TooMuch as error:
        return Kind.PROTOCOL, f"the reply: {error}"
    except ValueError:
        if kind and "json" not in kind:
            return Kind.NOT_API, f"{kind[:80]} came where JSON belongs"
        return Kind.PROTOCOL, "the reply is not JSON"
