"""`cortex ask` and `cortex explain`: an engine of what is there, one question, and who answered it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

import attrs
import trio

from cortex import config
from cortex.calls import Role
from cortex.cli import local
from cortex.cli.terminal import Screen
from cortex.engine import Engine
from cortex.errors import ConfigError, CortexError, ProviderError
from cortex.results import Attempt, Chunk, Completion
from cortex.session import Session
from cortex.vendors import VENDORS


def ask(options: argparse.Namespace) -> int:
    """Ask one question; 0 when it was answered."""
    question = _question(options.question)
    engine = engine_for(options)
    # Else Ctrl-C may come between the end of an `async with` and its `__aexit__`, which Python then never calls.
    answer = trio.run(_asked, engine, question, options, restrict_keyboard_interrupt_to_checkpoints=True)
    report(answer, Screen(sys.stderr))
    return 0


def explain(options: argparse.Namespace) -> int:
    """Print the plan of both roles."""
    engine, screen = engine_for(options), Screen(sys.stdout)
    roles: tuple[Role, ...] = ("orchestrator", "worker")
    plans = [engine.explain(role=role, model=options.model) for role in roles]
    if options.json:
        screen.text(json.dumps({plan.role: plan.as_dict() for plan in plans}, indent=2) + "\n")
        return 0
    for plan in plans:
        screen.message(str(plan))
    return 0


# --------------------------------------------------------------------------------------------------------- the engine


def engine_for(options: argparse.Namespace) -> Engine:
    """From the file that is named; else from the environment; else of a local server at a usual port.

    ConfigError that names what to set when there is nothing at all.
    """
    if options.config is not None:
        return Engine.from_config(options.config)
    if _environment_names_one(os.environ):
        return Engine(**_with_a_model(config.from_env(os.environ), options.model))
    found = local.find()
    if found is None:
        raise ConfigError(_nothing(os.environ))
    return Engine({"local": {"base_url": found.base_url, "default_model": options.model or found.model}})


def _environment_names_one(env: Mapping[str, str]) -> bool:
    """Whether the user has set anything that says which providers he means."""
    keys = [variable for vendor in VENDORS.values() if vendor.base_url for variable in vendor.key_envs]
    return any(env.get(variable) for variable in ("CORTEX_PROVIDERS", "OLLAMA_HOST", *keys))


def _with_a_model(arguments: dict[str, Any], model: str | None) -> dict[str, Any]:
    """A local server alone has no default: ask it what it has, unless the user said."""
    nobody_says = not {"worker_model", "orchestrator_model"} & set(arguments)
    if nobody_says and list(arguments["providers"]) in (["local"], ["ollama"]):
        arguments["worker_model"] = model or local.first_model_of(arguments["providers"], os.environ)
    return arguments


def _nothing(env: Mapping[str, str]) -> str:
    try:
        config.from_env(env)
    except ConfigError as error:
        ports = ", ".join(f"{port} ({name})" for port, name in local.PORTS.items())
        return f"{error}; or pass --config FILE, or start a local server (nobody answers on 127.0.0.1 at {ports})"
    raise AssertionError("the environment names a provider after all")


# ----------------------------------------------------------------------------------------------------------- asking


def _question(given: str) -> str:
    if given != "-":
        return given
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise ConfigError(f"question: stdin is not {error.encoding} text") from None


async def _asked(engine: Engine, question: str, options: argparse.Namespace) -> Completion:
    screen = Screen(sys.stdout)
    call: dict[str, Any] = {"system": options.system, "model": options.model, "timeout": options.timeout}
    streamed = options.stream if options.stream is not None else screen.is_terminal and not options.json
    async with engine:
        session = engine.create_agent("ask").start_session()
        try:
            if streamed:
                return await _streamed(session, question, call, screen)
            answer = await session.run(question, **call)
        except CortexError as error:
            if options.json and not isinstance(error, ConfigError):
                _print_json(screen, {"error": _told(error)})
            raise
    if options.json:
        _print_json(screen, {"content": answer.content, "metadata": attrs.asdict(answer.metadata)})
    else:
        screen.text(_ended_line(answer.content))
    return answer


async def _streamed(session: Session, question: str, call: dict[str, Any], screen: Screen) -> Completion:
    shown = ""
    try:
        async with session.run_stream(question, **call) as stream:
            async for chunk in stream:
                show_chunk(chunk, screen)
                shown = chunk.content or shown
            return stream.response
    finally:
        if shown and not shown.endswith("\n"):
            screen.text("\n")


def show_chunk(chunk: Chunk, screen: Screen) -> None:
    """A piece of an answer, as it comes."""
    if chunk.kind == "restart":
        screen.text("\n[the provider failed: what follows replaces the above]\n")
    screen.text(chunk.content)


def _ended_line(text: str) -> str:
    return text if text.endswith("\n") else f"{text}\n"


# -------------------------------------------------------------------------------------------------------- reporting


def report(answer: Completion, screen: Screen) -> None:
    """Who served it, and after whom."""
    meta = answer.metadata
    parts = [f"{meta.provider}/{meta.model_used}", f"System {meta.system}", f"{meta.latency_ms:.0f} ms"]
    parts.append(f"{meta.tokens_used} tokens" if meta.tokens_used else "tokens unknown")
    if meta.finish_reason != "stop":
        parts.append(f"ended by {meta.finish_reason}")
    screen.line(f"served by {', '.join(parts)}", style="dim")
    for attempt in meta.attempts:
        if not attempt.ok:
            screen.line(f"after {attempt}", style="yellow", indent=2)


def _told(error: CortexError) -> dict[str, Any]:
    told: dict[str, Any] = {"type": type(error).__name__, "message": str(error)}
    if isinstance(error, ProviderError):
        for name in ("provider", "model", "status", "kind", "retry_after", "request_id", "retryable"):
            told[name] = getattr(error, name)
    return {**told, "attempts": [_attempt(attempt) for attempt in error.attempts]}


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return attrs.asdict(attempt)


def _print_json(screen: Screen, value: object) -> None:
    screen.text(json.dumps(value, indent=2) + "\n")
