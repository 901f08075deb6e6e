"""What an engine may spend on a call: deadlines, attempts, room. Pure values, checked when they are made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs

from cortex import checks
from cortex.errors import ConfigError


def _seconds(_: Policy, field: attrs.Attribute[Any], value: object) -> None:
    checks.number(f"Policy.{field.name}", value, above=0, unit="seconds")


def _seconds_or_none(policy: Policy, field: attrs.Attribute[Any], value: object) -> None:
    if value is not None:
        _seconds(policy, field, value)


def _count(_: Policy, field: attrs.Attribute[Any], value: object) -> None:
    checks.whole(f"Policy.{field.name}", value)


def _count_or_none(policy: Policy, field: attrs.Attribute[Any], value: object) -> None:
    if value is not None:
        _count(policy, field, value)


def _count_or_zero(_: Policy, field: attrs.Attribute[Any], value: object) -> None:
    checks.whole(f"Policy.{field.name}", value, low=0)


def _seconds_or_zero(_: Policy, field: attrs.Attribute[Any], value: object) -> None:
    checks.number(f"Policy.{field.name}", value, low=0, unit="seconds")


def _interrupt(_: Policy, field: attrs.Attribute[Any], value: object) -> None:
    if value == "continue":
        raise ConfigError(f'Policy.{field.name}: "continue" does not exist yet; pass "raise" or "restart"')
    checks.one_of(f"Policy.{field.name}", value, ("raise", "restart"))


@attrs.frozen(kw_only=True)
class Policy:
    """Deadlines, attempts and room of an engine; all optional. Times are in seconds.

    total_timeout          one model call with all its attempts, its answer asked for whole
    stream_timeout         the same for a stream, or for a model that reasons before it answers
    turn_timeout           one turn of a session with all its model calls and tools
    connect_timeout        until a connection stands, name lookup and TLS included
    first_token_timeout    until a stream's first token; None adapts to what is usual for the model
    progress_timeout       longest pause of a stream between two tokens
    queue_timeout          longest wait for a free place in the engine; None: the call's own deadline
    max_attempts           attempts of one model call; None: each lane of its chain once, plus one
    max_attempts_per_lane  of these, on one provider's model
    max_in_flight          calls and turns inside the engine at once
    max_queue              how many more may wait; the next gets `QueueFull`
    on_interrupt           a stream that dies after something was shown: "raise" `StreamInterrupted`, or "restart" the
                           answer elsewhere after a chunk that tells the consumer to discard what it showed
    max_tool_rounds        rounds of tool calls in one turn
    grace                  how long a close, or a cancel from another loop, waits for what is running
    """

    total_timeout: float = attrs.field(default=120.0, validator=_seconds)
    stream_timeout: float = attrs.field(default=600.0, validator=_seconds)
    turn_timeout: float = attrs.field(default=900.0, validator=_seconds)
    connect_timeout: float = attrs.field(default=5.0, validator=_seconds)
    first_token_timeout: float | None = attrs.field(default=None, validator=_seconds_or_none)
    progress_timeout: float = attrs.field(default=60.0, validator=_seconds)
    queue_timeout: float | None = attrs.field(default=None, validator=_seconds_or_none)
    max_attempts: int | None = attrs.field(default=None, validator=_count_or_none)
    max_attempts_per_lane: int = attrs.field(default=2, validator=_count)
    max_in_flight: int = attrs.field(default=2_000, validator=_count)
    max_queue: int = attrs.field(default=10_000, validator=_count_or_zero)
    on_interrupt: Literal["raise", "restart"] = attrs.field(default="raise", validator=_interrupt)
    max_tool_rounds: int = attrs.field(default=10, validator=_count)
    grace: float = attrs.field(default=5.0, validator=_seconds_or_zero)

    @classmethod
    def of(cls, given: object) -> Policy:
        """The policy a user passed: one, a dict of its fields, or None for the defaults."""
        if given is None:
            return cls()
        if isinstance(given, Policy):
            return given
        if not isinstance(given, Mapping):
            fix = 'pass cortex.Policy(...) or a dict such as {"total_timeout": 60}'
            raise ConfigError(f"policy: must be a Policy, not {checks.kind(given)}; {fix}")
        fields = checks.mapping("policy", given, example='{"total_timeout": 60}')
        checks.known_keys("policy", fields, [field.name for field in attrs.fields(cls)])
        return cls(**fields)

    def call_timeout(self, *, stream: bool, reasoning: bool) -> float:
        """Seconds one model call may take with all its attempts."""
        return self.stream_timeout if stream or reasoning else self.total_timeout
