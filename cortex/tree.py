"""The supervision tree of one engine, on one page: who is whose child, and who gets whose ref.

    root
      providers          a supervisor with no code of ours: one actor per configured provider, restarted one by one
      router             who may serve; starts, watches and restarts the providers; told of their health by them
      worker             System 1; knows the router
      orchestrator       System 2; knows the router and the worker
      porter             carries calls in from other loops, each in a task of its own

Asks go one way: porter (or the caller's own task) -> worker | orchestrator -> router, and -> provider. Nobody asks
upwards or sideways, so no cycle can exist. Started in this order, stopped in the reverse one.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any, Never
from urllib.parse import urlsplit

import attrs
import httpx
import trio

import actors
from cortex import prices
from cortex.attempts import Link
from cortex.board import Board
from cortex.config import ProviderConfig, Settings
from cortex.errors import EngineFailed
from cortex.events import EventHub, FailedOver, wall_clock
from cortex.gate import Gate
from cortex.host import TOOL_THREADS
from cortex.messages import Usage
from cortex.orchestrator import Orchestrator
from cortex.policy import Policy
from cortex.protocol import Snapshot
from cortex.provider import Provider
from cortex.results import Attempt
from cortex.router import Router
from cortex.routing import Lane
from cortex.worker import Worker

logger = logging.getLogger("cortex")

FOREVER = actors.Restart(max_restarts=None, cap=30.0)
"""An engine never gives up for good: its own actors are restarted as long as it lives."""

PROVIDER_RESTARTS = actors.Restart(max_restarts=5, base=0.1, cap=10.0, stable_after=30.0, on_exhausted="stop")
"""A provider that crashes six times in a row is left out; the router starts it afresh later."""


class Porter(actors.Actor[Never]):
    """Carries calls in: a job from another loop becomes a task of this actor, which ends with the tree."""


@attrs.define
class Tree:
    """A running engine: the refs its doors use."""

    system: actors.System
    router: actors.ActorRef[Any]
    worker: actors.ActorRef[Any]
    orchestrator: actors.ActorRef[Any]
    gate: Gate
    board: Board
    hub: EventHub
    policy: Policy
    tool_threads: trio.CapacityLimiter
    _porters: list[Porter]

    def spawn(self, fn: Callable[[], Awaitable[None]]) -> None:
        """Run `fn` as a task of this tree, in the present contextvars context."""
        try:
            self._porters[0].ctx.spawn(fn)
        except RuntimeError as error:  # it has crashed, and is not up again yet
            raise EngineFailed(
                f"a fault of cortex itself: its porter has crashed and is started anew: {error}"
            ) from error

    def abandoned(self, tool: str) -> None:
        """A sync tool outlived its timeout: its thread goes on, nobody waits for it."""
        self.board.abandoned_tools += 1
        logger.warning("tool %s did not end within its timeout; its thread was abandoned", tool)

    async def drain(self) -> None:
        """Take no more calls and wait for those inside, at most the policy's grace."""
        with trio.move_on_after(self.policy.grace):
            await self.gate.drained()

    async def stop(self) -> None:
        """Drain, then stop every actor; whoever still waits for one gets EngineClosed. From any task of the run."""
        await self.drain()
        await self.system.stop()


@asynccontextmanager
async def open_tree(
    settings: Settings, transport: httpx.AsyncBaseTransport | None, board: Board, hub: EventHub
) -> AsyncIterator[Tree]:
    """Grow the tree, and take it down in order when the block is left. Constructing it touches no network."""
    policy = settings.policy
    async with actors.System("cortex", grace=policy.grace) as system:
        board.open(trio.lowlevel.current_clock())
        link = _links(settings, hub)
        providers = await system.start(actors.SupervisorSpec("providers", policy=FOREVER))
        router = await system.start(
            _permanent(
                "router", policy, lambda: Router(settings, board, hub, providers, _provider_spec(policy, transport))
            )
        )
        worker = await system.start(_permanent("worker", policy, lambda: Worker(link(router))))
        orchestrator = await system.start(
            _permanent("orchestrator", policy, lambda: Orchestrator(link(router), worker))
        )
        porters: list[Porter] = []

        def porter() -> Porter:
            porters[:] = [Porter()]
            return porters[0]

        await system.start(_permanent("porter", policy, porter))
        tree = Tree(
            system,
            router,
            worker,
            orchestrator,
            Gate(policy),
            board,
            hub,
            policy,
            trio.CapacityLimiter(TOOL_THREADS),
            porters,
        )
        try:
            yield tree
        finally:
            tree.gate.closing = True


def _permanent(name: str, policy: Policy, factory: Callable[[], actors.Actor[Any]]) -> actors.Spec[Any]:
    # Each call inside has at most one ask open at each of these, so a mailbox of this size is never full.
    cap = policy.max_in_flight + 64
    return actors.Spec(factory, name, policy=FOREVER, mailbox=actors.Mailbox(cap=cap))


def _provider_spec(
    policy: Policy, transport: httpx.AsyncBaseTransport | None
) -> Callable[[ProviderConfig, actors.ActorRef[Any], Snapshot | None], actors.Spec[Any]]:
    def spec(config: ProviderConfig, router: actors.ActorRef[Any], last: Snapshot | None) -> actors.Spec[Any]:
        return actors.Spec(
            lambda: Provider(config, policy, router, transport, last),
            f"provider:{config.name}",
            policy=PROVIDER_RESTARTS,
            mailbox=actors.Mailbox(cap=policy.max_in_flight + 64),
            asks_while_down="fail",
        )

    return spec


def _links(settings: Settings, hub: EventHub) -> Callable[[actors.ActorRef[Any]], Link]:
    def cost_of(lane: Lane, reported: str | None, usage: Usage) -> float | None:
        provider = settings.provider(lane.provider)
        # A deployment's name at Azure is the user's own, and says nothing of the model.
        names = (reported, lane.model if provider.kind == "azure" else lane.upstream)
        return prices.cost_of(provider.base_url, filter(None, names), usage)

    def failed_over(attempt: Attempt, failed: Attempt) -> None:
        logger.info("failover to %s/%s (%s) after %s", attempt.provider, attempt.model, attempt.outcome, failed)
        hub.emit(FailedOver(attempt.provider, attempt.model, attempt.outcome, wall_clock(), str(failed)))

    def vendor_of(lane: Lane) -> tuple[str, ...]:
        provider = settings.provider(lane.provider)
        # Who speaks OpenAI's dialect may be anybody, with members of a body that OpenAI refuses, and the reverse.
        host = urlsplit(provider.base_url).hostname or "" if provider.kind == "openai" else ""
        return provider.wire, provider.kind, host

    return lambda router: Link(router, settings.policy, Random(), cost_of, failed_over, vendor_of)
