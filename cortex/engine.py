"""The engine: the providers, the roles, and everything a user does with them.

Constructing one does no I/O and starts nothing. The first call, or `async with` under trio, grows its tree.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, overload

import attrs
import httpx
import trio

import actors
from cortex import catalog, checks, clients, config, inputs, prices
from cortex.agent import Agent
from cortex.asking import ask_again
from cortex.board import Board
from cortex.calls import (
    CompleteOptions,
    Prepared,
    Role,
    as_completion,
    check_result,
    outcome_of,
    prepare,
    told,
)
from cortex.config import Chain, Settings
from cortex.errors import ConfigError
from cortex.events import EventHub, EventStream
from cortex.gate import Ticket
from cortex.host import Host
from cortex.messages import Message, Request
from cortex.needs import needs_of
from cortex.orchestrator import DELEGATE
from cortex.policy import Policy
from cortex.protocol import ByHand, Caller, Order, ProviderRecheck, ProviderSwitch, Sink, Turn
from cortex.reports import EngineHealth, Plan, health_of, plan
from cortex.results import Chunk, Completion
from cortex.routing import Lane
from cortex.streams import Stream, SyncStream
from cortex.tools import spec, toolbox
from cortex.tree import Tree, open_tree
from cortex.weights import WeightConfig

logger = logging.getLogger("cortex")

T = TypeVar("T")

MAX_CHAINS = 1024
"""Chains remembered: one per role and model ever asked for, until there are too many."""


@attrs.frozen
class _Asked:
    """One validated `complete`."""

    request: Request
    prepared: Prepared


@attrs.frozen
class _Visit:
    """That call, where the engine lives. `started`: when it arrived; `timeout`: seconds it has from then on."""

    tree: Tree
    ticket: Ticket
    started: float
    timeout: float
    sink: Sink | None


class Engine:
    """Several providers as if they were one.

    `providers` maps a name to its configuration; their order is preference among equals. `orchestrator_model` and
    `worker_model`: either may be omitted, it then equals the other; with neither, the first provider's defaults.
    `fallback_models`: None for the automatic chain, a list for exactly these, [] for none. `policy`: deadlines and
    room. `transport`: any `httpx.AsyncBaseTransport` (tests, proxies); None for cortex's own.

    Raises ConfigError at once for what cannot work, naming the field and the fix.
    """

    def __init__(
        self,
        providers: Mapping[str, Mapping[str, Any]],
        orchestrator_model: str | None = None,
        worker_model: str | None = None,
        fallback_models: Sequence[str] | None = None,
        policy: Policy | Mapping[str, Any] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if transport is not None and not isinstance(transport, httpx.AsyncBaseTransport):
            raise ConfigError(f"transport: must be an httpx.AsyncBaseTransport, not {checks.kind(transport)}")
        self.settings: Settings = config.parse(
            providers,
            orchestrator_model=orchestrator_model,
            worker_model=worker_model,
            fallback_models=fallback_models,
            policy=policy,
            env=os.environ,
        )
        for provider in self.settings.providers:
            clients.check(provider)
        prices.lists()  # loaded here, not beside the caller: a fork in the middle of an import breaks it in the child
        self.private = config.private(self.settings)
        """Whether the worker's zone is the more trusted: then System 2 is only the caller's choice."""
        self._board = Board(self.settings)
        self._hub = EventHub()
        self._chains: dict[tuple[Role, str | None], Chain] = {}
        self._guessed: set[str] = set()
        self._lock = threading.Lock()
        self.host: Host[Tree] = Host(
            partial(open_tree, self.settings, transport, self._board, self._hub),
            grace=self.settings.policy.grace,
            closed=self._hub.close,
        )
        self.host.belongs_to(self)

    @classmethod
    def from_env(cls, **given: Any) -> Self:
        """An engine of every provider whose key is in the environment, and a local server named by OLLAMA_HOST.

        CORTEX_PROVIDERS (a comma list) allows only these; CORTEX_ORCHESTRATOR_MODEL and CORTEX_WORKER_MODEL name the
        roles' models. `given` are arguments of `Engine`, which win. ConfigError naming what to set when nothing is.
        """
        return cls(**{**config.from_env(os.environ), **given})

    @classmethod
    def from_config(cls, source: str | Path | Mapping[str, Any], **given: Any) -> Self:
        """An engine from a TOML file, or a dict, of the very shape of these arguments; `api_key = {env = "NAME"}`.

        ConfigError names file, table and key. `given` are arguments of `Engine`, which win.
        """
        return cls(**{**config.load(source, os.environ), **given})

    def __repr__(self) -> str:
        names = ", ".join(provider.name for provider in self.settings.providers)
        return f"<Engine {names}; orchestrator {self.settings.orchestrator_model}, worker {self.settings.worker_model}>"

    # ---- agents and calls

    def create_agent(
        self,
        name: str,
        system_prompt: str = "",
        tools: Sequence[Any] = (),
        goal_tracking: bool = True,
        weight_config: WeightConfig | Mapping[str, float] | None = None,
        history_limit: int | None = None,
    ) -> Agent:
        """A template for sessions. `tools` are functions with type hints, sync or async, plain or made by `tool`."""
        if not isinstance(system_prompt, str):
            raise ConfigError(f"system_prompt: must be a text, not {checks.kind(system_prompt)}")
        box = toolbox(tools)
        if DELEGATE.name in box:
            raise ConfigError(f"tools: {DELEGATE.name!r} is the orchestrator's own tool; give yours another name")
        return Agent(
            self,
            checks.text("name", name),
            system_prompt,
            box,
            goal_tracking,
            WeightConfig.of(weight_config),
            checks.whole("history_limit", history_limit) if history_limit is not None else None,
        )

    @overload
    async def complete(
        self,
        messages: str | Sequence[Mapping[str, Any] | Message],
        *,
        output_type: type[T],
        **call: Unpack[CompleteOptions],
    ) -> Completion[T]: ...
    @overload
    async def complete(
        self,
        messages: str | Sequence[Mapping[str, Any] | Message],
        *,
        output_type: Any = None,
        **call: Unpack[CompleteOptions],
    ) -> Completion: ...
    async def complete(
        self,
        messages: str | Sequence[Mapping[str, Any] | Message],
        *,
        output_type: Any = None,
        **call: Unpack[CompleteOptions],
    ) -> Completion:
        """One routed call without a session. Tools are offered to the model and its calls returned; none is run.

        `messages`: a text, or dicts with role and content, or `Message`s. Raises as `Session.run` does.
        """
        asked = self._asked(messages, output_type, call)
        return await self.host.call(partial(self._arrive, asked))

    @overload
    def complete_sync(
        self,
        messages: str | Sequence[Mapping[str, Any] | Message],
        *,
        output_type: type[T],
        **call: Unpack[CompleteOptions],
    ) -> Completion[T]: ...
    @overload
    def complete_sync(
        self,
        messages: str | Sequence[Mapping[str, Any] | Message],
        *,
        output_type: Any = None,
        **call: Unpack[CompleteOptions],
    ) -> Completion: ...
    def complete_sync(
        self,
        messages: str | Sequence[Mapping[str, Any] | Message],
        *,
        output_type: Any = None,
        **call: Unpack[CompleteOptions],
    ) -> Completion:
        """`complete` for plain threads."""
        asked = self._asked(messages, output_type, call)
        return self.host.call_sync(partial(self._arrive, asked), "complete")

    def stream(
        self,
        messages: str | Sequence[Mapping[str, Any] | Message],
        *,
        output_type: Any = None,
        **call: Unpack[CompleteOptions],
    ) -> Stream:
        """`complete` as a stream of chunks; it begins with the first one asked for. The last chunk is `final`."""
        asked = self._asked(messages, output_type, call)
        return Stream(lambda: self.host.stream(self._streamed(asked)))

    def stream_sync(
        self,
        messages: str | Sequence[Mapping[str, Any] | Message],
        *,
        output_type: Any = None,
        **call: Unpack[CompleteOptions],
    ) -> SyncStream:
        """`stream` for plain threads."""
        asked = self._asked(messages, output_type, call)
        return SyncStream(lambda: self.host.stream_sync(self._streamed(asked), "stream"))

    def _asked(self, messages: object, output_type: object, call: CompleteOptions) -> _Asked:
        prepared = prepare(call, output_type, whole_turn=False)
        system, conversation = inputs.conversation(messages, images=call.get("images", ()))
        tools = toolbox(call.get("tools", ()))
        request = attrs.evolve(
            prepared.request,
            messages=conversation,
            system=system,
            tools=tuple(spec(tool) for tool in tools.values()),
            tool_choice=inputs.tool_choice(prepared.request.tool_choice, tools),
        )
        self.chain(prepared.role, prepared.model)  # an unknown model is an error of this very line
        return _Asked(request, prepared)

    def _arrive(self, asked: _Asked, tree: Tree, sink: Sink | None = None) -> Callable[[Caller], Awaitable[Completion]]:
        prepared = asked.prepared
        timeout = prepared.timeout
        if timeout is None:
            timeout = self.call_timeout(prepared.role, prepared, stream=sink is not None)
        visit = _Visit(tree, tree.gate.arrive(None), trio.current_time(), timeout, sink)
        return partial(self._complete, asked, visit)

    async def _complete(self, asked: _Asked, visit: _Visit, caller: Caller) -> Completion:
        prepared, tree, started, timeout = asked.prepared, visit.tree, visit.started, visit.timeout
        async with tree.gate.pass_through(visit.ticket, started + timeout):
            turn = Turn(
                request=asked.request,
                chain=self.chain(prepared.role, prepared.model),
                deadline=started + timeout,
                call_timeout=timeout,
                caller=caller,
                sink=visit.sink,
            )
            result = check_result(await outcome_of(tree, 1 if prepared.role == "worker" else 2, turn))
        self.served(turn.chain, result.lane)
        return as_completion(result, prepared, started=started)

    def _streamed(self, asked: _Asked) -> Any:
        def arrive(tree: Tree, sink: Sink) -> Callable[[Caller], Awaitable[None]]:
            serve = self._arrive(asked, tree, sink)

            async def served(caller: Caller) -> None:
                await sink.send(Chunk("final", response=await serve(caller)))

            return served

        return arrive

    # ---- what the doors share

    def chain(self, role: Role, model: str | None) -> Chain:
        """Who may serve a call of `role`, or of `model` when the call names one. ConfigError for an unknown model."""
        key = (role, model)
        chain = self._chains.get(key)
        if chain is None:
            chain = config.chain(self.settings, role=role, model=model)
            with self._lock:
                if len(self._chains) >= MAX_CHAINS:
                    self._chains.clear()
                self._chains[key] = chain
        return chain

    def call_timeout(self, role: Role, prepared: Prepared, *, stream: bool) -> float:
        """Seconds for one model call with all its attempts."""
        model = prepared.model or self.settings.model_of(role)
        return self.settings.policy.call_timeout(stream=stream, reasoning=catalog.reasoning(model))

    def served(self, chain: Chain, lane: Lane) -> None:
        """Somebody answered: say so once if nobody had named that model."""
        if lane in chain.implicit and lane.model not in self._guessed:
            self._guessed.add(lane.model)
            logger.warning(
                "%s/%s serves as a fallback that nobody named; name it in fallback_models, or pass [] for none",
                lane.provider,
                lane.model,
            )

    # ---- looking

    def health(self) -> EngineHealth:
        """Every provider's health, from any thread, without waiting: the newest published snapshots."""
        return health_of(self._board)

    def explain(
        self,
        what: str | Sequence[Mapping[str, Any] | Message] | None = None,
        *,
        role: Role = "worker",
        model: str | None = None,
    ) -> Plan:
        """A dry run: every lane a call would be offered to, in order, with the reason; and who is left out, and why.

        `what`: a model's name, or messages; None: a plain text for the role's model. Asks nobody, starts nothing.
        """
        inputs.options(role=role, model=model)
        if isinstance(what, str):
            model, what = what, None
        system, messages = inputs.conversation(what) if what is not None else ("", ())
        chain = self.chain(role, model)
        needs = needs_of(Request(messages=messages, system=system), chain)
        return plan(self._board, chain, needs, role=role, model=model or self.settings.model_of(role))

    def events(self) -> EventStream:
        """An async iterator of what happens from now on: health changes, failovers, restarts. See `cortex.events`."""
        return self._hub.subscribe()

    # ---- by hand

    async def recheck(self, provider: str | None = None) -> None:
        """Something was mended (a key, a bill): forget why `provider` (None: all) is off; the next call tries it."""
        name = self.settings.provider(provider).name if provider is not None else None
        await self.host.call(partial(_by_hand, name, ProviderRecheck()))

    async def set_enabled(self, provider: str, enabled: bool) -> None:
        """Take a provider out of the picks, or put it back. Calls that it is serving go on."""
        if not isinstance(enabled, bool):
            raise ConfigError(f"enabled: must be True or False, not {checks.kind(enabled)}")
        name = self.settings.provider(provider).name
        await self.host.call(partial(_by_hand, name, ProviderSwitch(enabled)))

    # ---- closing

    async def aclose(self) -> None:
        """Let the calls under way end, at most the policy's grace, and stop the tree. May be called twice."""
        await self.host.close()

    def close(self) -> None:
        """`aclose` for plain threads."""
        self.host.close_sync()

    @trio.lowlevel.enable_ki_protection  # Ctrl-C comes before the block or in it, not between
    async def __aenter__(self) -> Self:
        await self.host.enter()
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.host.exit(kind, error, trace)

    def __enter__(self) -> Self:
        self.host.enter_sync()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _by_hand(name: str | None, order: Order, tree: Tree) -> Callable[[Caller], Awaitable[None]]:
    tree.gate.check_open()
    return lambda _caller: _tell(tree, name, order)


async def _tell(tree: Tree, name: str | None, order: Order) -> None:
    """Tell the provider `name` (None: each); one that is being restarted right now is told when it is back."""
    try:
        for ref in await ask_again(tree.router, ByHand(name, order)):
            try:
                await ask_again(ref, order)
            except actors.ActorDied:  # given up meanwhile
                await ask_again(tree.router, ByHand(name, order))
        # What they published stands before this in the router's queue: from now on everybody sees it.
        await ask_again(tree.router, ByHand(name))
    except actors.ActorError as error:
        raise told(error) from error
