"""`cortex chat`: one conversation in the terminal, streamed, with who served each answer; health on demand.

Ctrl-C ends the answer that is being given, and its turn is forgotten; Ctrl-D, or `/quit`, ends the conversation.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import attrs

from cortex.calls import Role
from cortex.cli.ask import engine_for, report, show_chunk
from cortex.cli.terminal import Screen
from cortex.engine import Engine
from cortex.errors import CortexError
from cortex.session import Session

PROMPT: Final = "> "


def chat(options: argparse.Namespace) -> int:
    """Talk until the input ends; 0 when every message was answered, 1 when one was not."""
    if sys.stdin.isatty():
        _edit_lines()
    with engine_for(options) as engine:
        engine.explain(model=options.model)  # an unknown one cannot work for any message
        talk = Talk(engine, options.model, Screen(sys.stdout), Screen(sys.stderr), Screen(sys.stdin).is_terminal)
        talk.greet()
        return talk.run()


def _edit_lines() -> None:
    """Arrow keys and a history at the prompt, where the platform has them."""
    try:
        import readline  # noqa: F401 - to import it is to use it
    except ImportError:
        return


@attrs.define
class Talk:
    """The conversation. `system` and `model` are what the user chose for what comes; None: triage and the roles do."""

    engine: Engine
    model: str | None
    out: Screen
    err: Screen
    interactive: bool
    session: Session = attrs.field(init=False)
    system: Any = None
    failed: bool = False

    def __attrs_post_init__(self) -> None:
        self.session = self._new_session()

    def _new_session(self) -> Session:
        return self.engine.create_agent("chat").start_session()

    def greet(self) -> None:
        """Say what there is, to a person."""
        if self.interactive:
            self.err.line(f"{self.engine!r}", style="dim")
            self.err.line("/help tells the commands; Ctrl-D ends.", style="dim")

    def run(self) -> int:
        """Read and answer, line by line."""
        while True:
            try:
                line = self._read()
            except KeyboardInterrupt:
                self.err.line()
                continue
            if line is None or line.strip() == "/quit":
                return 1 if self.failed else 0
            if line.startswith("/"):
                self._command(line[1:].strip())
            elif line.strip():
                self._answer(line)

    def _read(self) -> str | None:
        """The next line; None at the end."""
        try:
            # By bytes where nobody types: of a text stream one wrong byte would take the lines around with it.
            return input(PROMPT) if self.interactive else sys.stdin.buffer.readline().decode(sys.stdin.encoding) or None
        except EOFError:
            self.err.line()
            return None
        except UnicodeDecodeError as error:
            self.failed = True
            self.err.message(f"cortex: a line that is not {error.encoding} text was passed over")
            return ""

    # ---- an answer

    def _answer(self, message: str) -> None:
        end_line = self.err.line
        try:
            with self.session.run_stream_sync(message, system=self.system, model=self.model) as stream:
                for chunk in stream:
                    end_line = partial(self.out.text, "\n")  # what comes next is no part of it
                    show_chunk(chunk, self.out)
                end_line()
                report(stream.response, self.err)
        except KeyboardInterrupt:
            self.failed = True
            end_line()
            self.err.line("interrupted", style="yellow")
        except CortexError as error:
            self.failed = True
            end_line()
            self.err.message(f"cortex: {error}")

    # ---- commands

    def _command(self, line: str) -> None:
        name, _, argument = line.partition(" ")
        command = COMMANDS.get(name)
        if command is None:
            self.err.line(f"/{name} is none of the commands: {', '.join(f'/{known}' for known in COMMANDS)}, /quit")
            return
        command(self, argument.strip())

    def _help(self, _: str) -> None:
        """What can be typed."""
        for name, command in COMMANDS.items():
            self.err.line(f"/{name:<10} {command.__doc__}")
        self.err.line("/quit       End; so does Ctrl-D. Ctrl-C ends an answer only.")

    def _health(self, _: str) -> None:
        """How the providers are."""
        for health in self.engine.health().values():
            self.err.line(str(health), style={"up": "green", "down": "red"}.get(health.status, "yellow"))

    def _explain(self, _: str) -> None:
        """Who would be asked next, in which order, and why."""
        role: Role = "orchestrator" if self.system == 2 else "worker"
        self._or_say(lambda: self.err.message(str(self.engine.explain(role=role, model=self.model))))

    def _choose_system(self, argument: str) -> None:
        """1: the worker answers, 2: the orchestrator, nothing: triage decides."""
        if argument not in ("", "1", "2"):
            self.err.line("/system takes 1, 2 or nothing")
            return
        self.system = int(argument) if argument else None

    def _choose_model(self, argument: str) -> None:
        """The model to ask, e.g. /model gpt-4o; nothing: the roles' own."""
        if self._or_say(lambda: self.engine.explain(model=argument or None)):
            self.model = argument or None

    def _begin_anew(self, _: str) -> None:
        """Forget the conversation."""
        self.session = self._new_session()

    def _or_say(self, act: Callable[[], object]) -> bool:
        """Do it, or say why it cannot be done."""
        try:
            act()
        except CortexError as error:
            self.err.message(f"cortex: {error}")
            return False
        return True


COMMANDS: Final[dict[str, Callable[[Talk, str], None]]] = {
    "help": Talk._help,
    "health": Talk._health,
    "explain": Talk._explain,
    "system": Talk._choose_system,
    "model": Talk._choose_model,
    "new": Talk._begin_anew,
}
