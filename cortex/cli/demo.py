"""`cortex demo`: three providers on loopback ports, one conversation, and what the engine makes of their failures.

The providers are the public fault wall: they speak the vendors' protocols over real HTTP, and their answers are canned.
The engine is the real one with its real constants. Every line about a turn is read from the response's metadata, every
change of health from `engine.events()`.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, Literal

import attrs
import trio

from cortex.cli.terminal import Screen
from cortex.engine import Engine
from cortex.errors import CortexError
from cortex.events import Event, EventStream, FailedOver, HealthChanged, ProviderRestarted
from cortex.results import Attempt, Completion, Metadata
from cortex.session import Session
from cortex.testing import FaultWall, Hang, Reply, Seen, ToolCalls

ORCHESTRATOR: Final = "claude-opus-4-6"
WORKER: Final = "gemini-3-flash-preview"
SPARE: Final = "gpt-4o"
MODELS: Final = {"anthropic": ORCHESTRATOR, "gemini": WORKER, "openai": SPARE}

PATIENCE: Final = 1.0
"""Seconds a provider here has for an answer, so that the one that hangs does not hold up the show."""

RECOVERY: Final = 8.0
"""Seconds the demo waits for the engine to find out by itself that a provider is back: it takes 2 to 5."""

MOMENT: Final = 0.01
"""Seconds that news of a turn may be late: an actor may have still to send it."""

_STYLE: Final = {"up": "green", "slow": "yellow", "recovering": "yellow", "down": "red", "off": "red"}


def demo(_: argparse.Namespace) -> int:
    """Run the show; 0 when every question was answered."""
    return trio.run(_show, Screen(sys.stdout), restrict_keyboard_interrupt_to_checkpoints=True)  # as in `ask`


def providers(wall: FaultWall) -> dict[str, dict[str, Any]]:
    """Add the three providers to `wall`, and give an engine's configuration for them."""
    for name in MODELS:
        wall.add(name).always(Reply(_answer(name)))
    return {
        name: {
            "api_key": "no-key-needed",
            "base_url": wall[name].base_url,
            "default_model": model,
            "timeout": PATIENCE,
        }
        for name, model in MODELS.items()
    }


def _answer(name: str) -> Any:
    def reply(seen: Seen) -> str:
        return f'{name} says: this is my answer to "{seen.text.splitlines()[0][:60]}".'

    return reply


async def _show(screen: Screen) -> int:
    async with FaultWall() as wall:
        configuration = providers(wall)
        async with Engine(configuration, orchestrator_model=ORCHESTRATOR, worker_model=WORKER) as engine:
            show = Show(screen, wall, engine)
            show.introduce(configuration)
            await show.all_well()
            await show.one_goes_down()
            await show.it_comes_back()
            await show.another_hangs()
            await show.a_stream()
        return show.sum_up()


@attrs.define
class Show:
    """The acts, one method each, in order. `served` and `lost` count answers."""

    screen: Screen
    wall: FaultWall
    engine: Engine
    session: Session = attrs.field(init=False)
    served: Counter[str] = attrs.field(factory=Counter)
    lost: int = 0
    failovers: int = 0
    events: EventStream = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.events = self.engine.events()
        agent = self.engine.create_agent("demo", system_prompt="You are a reliable assistant.")
        self.session = agent.start_session(user_id="you")

    def introduce(self, configuration: dict[str, dict[str, Any]]) -> None:
        roles = {"anthropic": "orchestrator", "gemini": "worker", "openai": "spare"}
        self.screen.line("Three providers on this machine, real HTTP, no key, no network.")
        self.screen.line("Their answers are canned; everything else is the engine's own report.")
        self.screen.line()
        for name, given in configuration.items():
            self.screen.line(f"{name:<10} {given['base_url']:<26} {MODELS[name]:<23} {roles[name]}", indent=2)

    async def all_well(self) -> None:
        self._act("All is well: the worker answers (System 1), or the orchestrator (System 2)")
        await self._ask("What is the capital of France?")
        plan = ToolCalls(("delegate", {"tasks": ["Trains to Rome", "Hotels in Rome"]}))
        self.wall["anthropic"].script(plan)
        await self._ask("Plan a trip to Rome step by step.")
        self._show_health()

    async def one_goes_down(self) -> None:
        self._act("gemini goes down: its port is closed")
        self.wall["gemini"].down()
        # The engine lets a provider fail three times before it stops asking; the fourth turn pays nothing.
        for question in ("And of Italy?", "And of Spain?", "And of Norway?", "And of Japan?"):
            await self._ask(question)
        self.screen.line()
        self.screen.line("engine.explain():", style="bold", indent=2)
        for row in str(self.engine.explain()).splitlines():
            self.screen.line(row.strip(), indent=len(row) - len(row.lstrip()) + 4)
        self._show_health()

    async def it_comes_back(self) -> None:
        self._act("gemini is back: its port is open, and nobody tells the engine")
        self.wall["gemini"].up()
        await self._wait_until_asked_again("gemini")
        for question in ("And of Peru?", "And of Kenya?"):
            await self._ask(question)
        self._show_health()

    async def another_hangs(self) -> None:
        self._act(f"anthropic hangs: it never answers, and its timeout is {PATIENCE:g} s")
        self.wall["anthropic"].always(Hang())
        await self._ask("Is this plan sound?", system=2)
        self.wall["anthropic"].always(Reply(_answer("anthropic")))
        self._show_health()

    async def a_stream(self) -> None:
        self._act("A stream: gemini goes down again, before the first word")
        self.wall["gemini"].down()
        await self._ask("Tell me a story.", stream=True)
        self._show_health()

    def sum_up(self) -> int:
        asked = self.served.total() + self.lost
        who = ", ".join(f"{name} {count}" for name, count in self.served.most_common())
        self.screen.line()
        self.screen.line(
            f"{asked} questions: {self.served.total()} answered ({who or 'by nobody'}), {self.failovers} by failover; "
            f"{self.lost} lost.",
            style="bold",
        )
        return 1 if self.lost else 0

    # ---- one turn

    async def _ask(self, question: str, *, system: Literal[1, 2] | None = None, stream: bool = False) -> None:
        self.screen.line()
        forced = f"  (system={system})" if system else ""
        self.screen.line(f"> {question}{forced}", style="bold", indent=2)
        try:
            answer = await (self._streamed(question) if stream else self._whole(question, system))
            await self._show_news()
        except CortexError as error:
            await self._show_news()
            self.lost += 1
            self.screen.line(f"{type(error).__name__}: {error}", style="red", indent=4)
            self._show_trail(error.attempts)
            return
        meta = answer.metadata
        self.served[meta.provider] += 1
        self.failovers += meta.failover
        self.screen.line(_served(meta), indent=4)
        self._show_trail(meta.attempts)

    async def _whole(self, question: str, system: Literal[1, 2] | None) -> Completion:
        answer = await self.session.run(question, system=system)
        self.screen.line(answer.content, indent=4)
        return answer

    async def _streamed(self, question: str) -> Completion:
        async with self.session.run_stream(question) as stream:
            pieces = [chunk.content async for chunk in stream if chunk.content]
            self.screen.line(f"{''.join(pieces)}  ({len(pieces)} pieces)", indent=4)
            return stream.response

    def _show_trail(self, attempts: Sequence[Attempt]) -> None:
        for number, attempt in enumerate(attempts, start=1):
            what = "ok" if attempt.ok else f"{attempt.outcome}: {attempt.reason}"
            row = f"{number}. {attempt.provider + '/' + attempt.model:<30} {attempt.duration * 1000:>5.0f} ms  {what}"
            self.screen.line(row, style="dim" if attempt.ok else "yellow", indent=6)

    # ---- health

    async def _show_news(self) -> None:
        """Show the events that have come, until none comes for a moment."""
        while True:
            event: Event | None = None
            with trio.move_on_after(MOMENT):
                event = await anext(self.events)
            if event is None:
                return
            line, style = _news(event)
            self.screen.line(f"* {line}", style=style, indent=4)

    async def _wait_until_asked_again(self, name: str) -> None:
        started = trio.current_time()
        self.screen.line("waiting until the engine gives it another chance ...", style="dim", indent=2)
        with trio.move_on_after(RECOVERY) as patience:
            while self.engine.health()[name].status == "down":  # noqa: ASYNC110 - there is no event to wait for:
                await trio.sleep(0.1)  # an opening just ends, and shows when somebody looks
        if patience.cancelled_caught:
            self.screen.line("that takes too long for a demo: engine.recheck()", style="dim", indent=2)
            await self.engine.recheck(name)
        self.screen.line(f"{self.engine.health()[name]} after {trio.current_time() - started:.1f} s", indent=2)

    def _show_health(self) -> None:
        self.screen.line()
        self.screen.line("engine.health():", style="bold", indent=2)
        for health in self.engine.health().values():
            self.screen.line(str(health), style=_STYLE[health.status], indent=4)

    def _act(self, title: str) -> None:
        self.screen.line()
        self.screen.line(f"== {title}", style="bold")


def _served(meta: Metadata) -> str:
    parts = [f"by {meta.provider}/{meta.model_used}", f"System {meta.system}", f"{meta.latency_ms:.0f} ms"]
    parts.append(f"{meta.tokens_used} tokens")
    if meta.steps_taken > 1:
        parts.append(f"{meta.steps_taken} model calls")
    if meta.failover:
        parts.append("failover")
    return ", ".join(parts)


def _news(event: Event) -> tuple[str, str | None]:
    match event:
        case HealthChanged():
            why = f" ({event.why})" if event.why else ""
            return f"{event.provider}: {event.previous} -> {event.status}{why}", _STYLE.get(event.status)
        case FailedOver():
            return f"failover to {event.provider}/{event.model}", "yellow"
        case ProviderRestarted():
            return f"{event.provider} was restarted: {event.why}", "yellow"
        case _:
            return str(event), None
