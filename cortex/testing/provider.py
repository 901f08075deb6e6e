"""One scripted provider: its script, its log, its port. It answers with steps; a shell carries them out.

Whatever is touched from more than one thread (script, log, up or down) is guarded here, so that a test may change the
script while its subject runs in another loop.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import trio
from attrs import evolve, field, frozen

from .dialects import Call, Dialect
from .play import Stage, Step, elsewhere, play
from .script import Reply, Script, Seen, checked, resolved


@frozen
class Request:
    """A request as it came off the wire. Header names are in lower case."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    content: bytes = field(repr=False)


class Log:
    """What was received, in order. Any thread may read it, wait for it, and be woken by it."""

    def __init__(self) -> None:
        self._rows: list[Seen] = []
        self._news = threading.Condition()
        self._wakers: set[Callable[[], None]] = set()

    def rows(self) -> tuple[Seen, ...]:
        with self._news:
            return tuple(self._rows)

    def add(self, seen: Seen) -> int:
        """Keeps `seen`; returns its index, to be given to `left`."""
        with self._news:
            self._rows.append(seen)
            self._news.notify_all()
            for wake in self._wakers:
                wake()
            return len(self._rows) - 1

    def left(self, index: int) -> None:
        """The client of request `index` went before its answer ended."""
        with self._news:
            self._rows[index] = evolve(self._rows[index], gone=True)

    def wait(self, n: int, timeout: float) -> tuple[Seen, ...]:
        with self._news:
            self._news.wait_for(lambda: len(self._rows) >= n, timeout)
        return self._at_least(n, timeout)

    async def wait_trio(self, n: int, timeout: float) -> tuple[Seen, ...]:
        token = trio.lowlevel.current_trio_token()
        with trio.move_on_after(timeout):
            while len(self.rows()) < n:
                news = trio.Event()
                with self._woken_by(lambda news=news: token.run_sync_soon(news.set)):  # type: ignore[misc]
                    if len(self.rows()) < n:
                        await news.wait()
        return self._at_least(n, timeout)

    @contextmanager
    def _woken_by(self, wake: Callable[[], None]) -> Iterator[None]:
        with self._news:
            self._wakers.add(wake)
        try:
            yield
        finally:
            with self._news:
                self._wakers.discard(wake)

    def _at_least(self, n: int, timeout: float) -> tuple[Seen, ...]:
        rows = self.rows()
        if len(rows) < n:
            raise TimeoutError(f"{len(rows)} of {n} requests were seen in {timeout} s")
        return rows


class FaultProvider:
    """A provider of a wall; `FaultWall.add` makes it. All members may be used from any thread."""

    def __init__(self, name: str, dialect: Dialect, number: int, port: int) -> None:
        self.name = name
        self.dialect = dialect
        self.port = port
        self._number = number
        self._standing: Script = Reply(f"Hello from {name}.")
        self._script: deque[Script] = deque()
        self._log = Log()
        self._up = True
        self._falls = 0
        self._switches: set[Callable[[bool], None]] = set()
        self._lock = threading.Lock()

    @property
    def base_url(self) -> str:
        """What a client of this vendor takes as its base URL."""
        return f"http://127.0.0.1:{self.port}{self.dialect.root}"

    @property
    def requests(self) -> tuple[Seen, ...]:
        """Every request received so far, model lists and unknown places included, in the order of arrival."""
        return self._log.rows()

    def always(self, action: Script) -> None:
        """What every request gets for which the script has nothing."""
        self._standing = checked(action)

    def script(self, *actions: Script) -> None:
        """Adds `actions` to the queue: one for each request for a completion. A callable chooses by the request."""
        self._script.extend([checked(action) for action in actions])

    def down(self) -> None:
        """Closes the port: new connections are refused by the system, open ones dropped. Done when this returns."""
        self._switch(False)

    def up(self) -> None:
        """Opens the port again, the same one."""
        self._switch(True)

    @property
    def is_up(self) -> bool:
        return self._up

    @property
    def falls(self) -> int:
        """How often it went down. For the shells: an answer begun before a fall is not finished after it."""
        return self._falls

    def wait_for(self, n: int, timeout: float = 5.0) -> tuple[Seen, ...]:
        """Blocks until `n` requests were seen in all and returns them; TimeoutError after `timeout` seconds."""
        return self._log.wait(n, timeout)

    async def wait_for_async(self, n: int, timeout: float = 5.0) -> tuple[Seen, ...]:
        """`wait_for` for trio (by the clock of its loop) and asyncio."""
        if trio.lowlevel.in_trio_run():
            return await self._log.wait_trio(n, timeout)
        import asyncio

        return await asyncio.to_thread(self._log.wait, n, timeout)

    def receive(self, request: Request, at: float, connection: int) -> tuple[int, Iterator[Step]]:
        """Logs `request` and returns its index there, with the steps that answer it. For the shells.

        Raises what a callable in the script raises.
        """
        body = _parsed(request.content)
        dialect, call = self.dialect, None
        if request.method == "POST":
            dialect, call = dialect.hear(request.path, request.query, body)
        asked = call or Call(model="", text="")
        seen = Seen(
            request.method, request.path, request.query, request.headers, body,
            asked.text, asked.model, asked.stream, at, connection,
        )  # fmt: skip
        index = self._log.add(seen)
        stage = Stage(dialect, asked, seen, f"{self._number:02d}{index + 1:06d}")
        if call is None:
            return index, play(elsewhere(dialect, request.method, request.path), stage)
        return index, play(resolved(self._next(), seen), stage)

    def left(self, index: int) -> None:
        """The client of request `index` is gone. For the shells."""
        self._log.left(index)

    @contextmanager
    def switched_by(self, switch: Callable[[bool], None]) -> Iterator[None]:
        """Calls `switch` with True for each `up` and False for each `down` meanwhile. For the shells."""
        with self._lock:
            self._switches.add(switch)
        try:
            yield
        finally:
            with self._lock:
                self._switches.discard(switch)

    def _next(self) -> Script:
        try:
            return self._script.popleft()
        except IndexError:
            return self._standing

    def _switch(self, up: bool) -> None:
        with self._lock:
            changed, self._up = self._up != up, up
            self._falls += changed and not up
            switches = list(self._switches) if changed else []
        for switch in switches:
            switch(up)

    def __repr__(self) -> str:
        return f"<FaultProvider {self.name} {self.base_url} {'up' if self._up else 'down'}, {len(self.requests)} seen>"


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None
