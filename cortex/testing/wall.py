"""The door: `FaultWall`, a set of loopback providers and where they are served.

`with` gives the wall a thread and a trio loop of its own, so that asyncio, threads and notebooks can use it.
`async with` puts it into the caller's own trio loop: no thread, and the caller's clock, virtual or not.
`transport()` needs neither.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, ExitStack
from time import monotonic
from types import MappingProxyType, TracebackType
from typing import Literal
from weakref import finalize

import httpx
import trio

from .dialects import DIALECTS
from .memory import MemoryTransport
from .provider import FaultProvider
from .server import Door, House, Port

DialectName = Literal["openai", "anthropic", "gemini"]
VARIABLES = {  # a provider's name -> where its vendor's clients look for a base URL
    "openai": "OPENAI_BASE_URL",
    "anthropic": "ANTHROPIC_BASE_URL",
    "gemini": "GOOGLE_GEMINI_BASE_URL",
}
PATIENCE = 5.0  # seconds that opening and closing may take


class FaultWall:
    """Loopback LLM providers over real HTTP, each told by a script how to answer.

    Entered once, with `with` or `async with`. What a callable in a script raised is raised again at the end of the
    block, unless the block itself raised.
    """

    def __init__(self) -> None:
        self._providers: dict[str, FaultProvider] = {}
        self._ports: dict[str, Port] = {}
        self._house: House | None = None
        self._switches = ExitStack()
        self._state: Literal["new", "open", "closed"] = "new"
        self._thread: threading.Thread | None = None
        self._crash: BaseException | None = None
        self._nursery_manager: AbstractAsyncContextManager[trio.Nursery] | None = None

    def add(self, name: str, dialect: DialectName | None = None) -> FaultProvider:
        """A new provider on a port of its own; `dialect` may be left out where it is the name. "openai" is also that of
        a local server, which speaks Ollama's own dialect too, at the base URL without its `/v1`. At any time until the
        wall is closed, from any thread. ValueError for a name taken or a dialect unknown."""
        spoken = DIALECTS.get(dialect or name)
        if spoken is None:
            raise ValueError(f"dialect is {dialect!r} for the provider {name!r}; give one of {', '.join(DIALECTS)}")
        if name in self._providers:
            raise ValueError(f"name is {name!r}, which this wall has already; give each provider its own")
        if self._state == "closed":
            raise RuntimeError("the wall is closed; add providers before that")
        port = Port()
        finalize(self, port.close)  # for a wall that is never entered
        provider = FaultProvider(name, spoken, len(self._providers) + 1, port.number)
        self._providers[name], self._ports[name] = provider, port
        if self._house is not None:
            self._open(self._house, provider)
        return provider

    def __getitem__(self, name: str) -> FaultProvider:
        return self._providers[name]

    @property
    def providers(self) -> Mapping[str, FaultProvider]:
        """All providers by name, in the order added."""
        return MappingProxyType(self._providers)

    def env(self) -> dict[str, str]:
        """Environment variables that lead the vendors' clients here, for the providers named after a vendor."""
        return {VARIABLES[name]: row.base_url for name, row in self._providers.items() if name in VARIABLES}

    def transport(self) -> httpx.AsyncBaseTransport:
        """The same providers, scripts and logs without sockets, for trio: waits are `trio.sleep`."""
        return MemoryTransport(lambda: self._providers)

    def __enter__(self) -> FaultWall:
        self._begin()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), name="fault-wall", daemon=True)
        self._thread.start()
        if not started.wait(PATIENCE) or self._house is None:
            raise RuntimeError("the fault wall's thread did not start") from self._crash
        self._settle(self._house)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        house, thread = self._house, self._thread
        if house is None or thread is None:
            raise RuntimeError("the wall was not entered with `with`")
        self._end()
        house.stop()
        thread.join(PATIENCE)
        if thread.is_alive():
            raise RuntimeError(f"the fault wall's loop did not end in {PATIENCE} s: something in a script blocks it")
        if error is None:
            self._raise_faults(house)

    async def __aenter__(self) -> FaultWall:
        self._begin()
        self._nursery_manager = trio.open_nursery()
        nursery = await self._nursery_manager.__aenter__()
        self._house = House(nursery, trio.current_time)
        self._settle(self._house)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        house, manager = self._house, self._nursery_manager
        if house is None or manager is None:
            raise RuntimeError("the wall was not entered with `async with`")
        self._end()
        # The nursery is told nothing of the block's error: it would come back wrapped in a group. Shielded, because
        # the wait for tasks that are cancelled already is short and must not lose that error to another cancel.
        house.nursery.cancel_scope.shield = True
        house.nursery.cancel_scope.cancel()
        await manager.__aexit__(None, None, None)
        if error is None:
            self._raise_faults(house)

    def _begin(self) -> None:
        if self._state != "new":
            raise RuntimeError(f"the wall is {self._state}; each is entered once, make another")
        self._state = "open"

    def _settle(self, house: House) -> None:
        for provider in self._providers.values():
            self._open(house, provider)

    def _open(self, house: House, provider: FaultProvider) -> None:
        door = Door(house, provider, self._ports[provider.name])
        self._switches.enter_context(provider.switched_by(door.switch))
        if provider.is_up:
            door.switch(True)

    def _end(self) -> None:
        self._state = "closed"
        self._switches.close()
        for port in self._ports.values():
            port.close()

    def _run(self, started: threading.Event) -> None:
        try:
            trio.run(self._serve, started)
        except Exception as crash:
            self._crash = crash
        finally:
            started.set()

    async def _serve(self, started: threading.Event) -> None:
        async with trio.open_nursery() as nursery:
            self._house = House(nursery, monotonic)
            started.set()
            await trio.sleep_forever()

    def _raise_faults(self, house: House) -> None:
        faults = [*house.faults, *([self._crash] if isinstance(self._crash, Exception) else [])]
        if faults:
            raise ExceptionGroup("a script of the fault wall raised", faults)
