"""An agent: a stateless template for sessions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from uuid import uuid4

import attrs

from cortex import checks
from cortex.session import Session
from cortex.tools import Tool
from cortex.weights import WeightConfig

if TYPE_CHECKING:
    from cortex.engine import Engine


@attrs.frozen
class Agent:
    """What sessions of this agent share: a name, a system prompt, tools, weights. Made by `engine.create_agent`.

    `history_limit`: messages of the past that go with a turn, trimmed by whole turns; None: all.
    """

    engine: Engine = attrs.field(repr=False)
    name: str
    system_prompt: str = attrs.field(default="", repr=False)
    tools: Mapping[str, Tool] = attrs.field(factory=dict, repr=False)
    goal_tracking: bool = True
    weights: WeightConfig = attrs.field(factory=WeightConfig)
    history_limit: int | None = None

    def start_session(self, user_id: str = "default", session_id: str | None = None) -> Session:
        """A new conversation. Does no I/O and starts nothing; dropping it is closing it."""
        user = checks.text("user_id", user_id)
        return Session(self, user, checks.text("session_id", session_id) if session_id is not None else uuid4().hex)
