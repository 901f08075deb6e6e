"""The command line: `cortex demo`, `cortex ask`, `cortex chat`, `cortex explain`.

Answers go to stdout, everything about them to stderr. Exit codes: 0 done, 1 a provider (or cortex) failed, 2 what was
typed or configured cannot work, 130 interrupted, 141 the reader of a pipe went away. No traceback is ever shown; with
`--verbose` the log, which has them, goes to stderr.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Final

from cortex import __version__

FAILED: Final = 1
UNUSABLE: Final = 2
INTERRUPTED: Final = 130
READER_GONE: Final = 141
"""128 + SIGPIPE, as a shell reports it."""

logger = logging.getLogger("cortex")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code. `argv` None: the process's own. SystemExit for `--help` and bad usage."""
    try:
        _stand_in_for_closed_streams()
        options = _parser().parse_args(argv)
        with _log(options.verbose):
            return _run(options)
    except KeyboardInterrupt as error:
        return _ended(error)


def _run(options: argparse.Namespace) -> int:
    try:
        code: int = getattr(import_module(f"cortex.cli.{options.room}"), options.command)(options)
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt, BaseExceptionGroup) as error:
        return _ended(error)
    return code


def _stand_in_for_closed_streams() -> None:
    """A stream that was closed by whoever started us is None in Python: nothing comes from it, and what goes there is
    lost, as it was meant to be."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - for the life of the process


@contextmanager
def _log(wanted: bool) -> Iterator[None]:
    """The log on stderr for the time of one command, if wanted."""
    if not wanted:
        yield
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cortex", description="Several LLM providers as if they were one.", epilog="cortex demo needs no key."
    )
    parser.add_argument("--version", action="version", version=f"cortex {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    demo = commands.add_parser("demo", help="providers on loopback ports fail and come back; no key, no network")
    demo.set_defaults(room="demo", command="demo")

    ask = commands.add_parser(
        "ask",
        help="ask one question with what the environment offers",
        description="The answer goes to stdout, who served it to stderr.",
    )
    ask.add_argument("question", help='the question; "-" reads it from stdin')
    ask.add_argument("--system", type=int, choices=(1, 2), help="1: the worker answers, 2: the orchestrator")
    ask.add_argument("--timeout", type=float, metavar="SECONDS", help="for the whole turn")
    shape = ask.add_mutually_exclusive_group()
    shape.add_argument(
        "--stream", action=argparse.BooleanOptionalAction, help="show the answer as it comes (default: on a terminal)"
    )
    shape.add_argument("--json", action="store_true", help="answer and metadata as one JSON object")
    ask.set_defaults(room="ask", command="ask")

    chat = commands.add_parser(
        "chat",
        help="talk with what the environment offers",
        description="Answers go to stdout as they come, who served them to stderr. /help tells the commands.",
    )
    chat.set_defaults(room="chat", command="chat")

    explain = commands.add_parser("explain", help="who would be asked, in which order, and why; asks nobody")
    explain.add_argument("--json", action="store_true", help="the plans as one JSON object")
    explain.set_defaults(room="ask", command="explain")

    for command in (ask, chat, explain):
        command.add_argument("--config", metavar="FILE", help="a TOML file instead of the environment")
        command.add_argument("--model", help="this model instead of the role's own")
    for command in (demo, ask, chat, explain):
        command.add_argument("-v", "--verbose", action="store_true", help="the log to stderr")
    return parser


# ------------------------------------------------------------------------------------------------------ how it ended


def _ended(error: BaseException) -> int:
    """Say in one message what happened, and choose the exit code. A nursery may have wrapped the cause in groups."""
    causes = list(_leaves(error))
    for cause in causes:
        if isinstance(cause, KeyboardInterrupt):
            _say("interrupted")
            return INTERRUPTED
    for cause in causes:
        # Not CortexErrors that happen to be a ConnectionError: this one is our own stdout.
        if isinstance(cause, BrokenPipeError):
            _let_go_of_stdout()
            return READER_GONE
    return _explained(causes[0])


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _leaves(one)
    else:
        yield error


def _explained(error: BaseException) -> int:
    from cortex.errors import ConfigError, CortexError

    if isinstance(error, CortexError):
        _say(str(error))
        return UNUSABLE if isinstance(error, ConfigError) else FAILED
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        _let_go_of_stdout()
        _say(f"reading or writing here failed: {error}")
        return FAILED
    logger.error("a fault of cortex itself", exc_info=error)
    _say(f"a fault of cortex itself: {type(error).__name__}: {error} (--verbose shows where)")
    return FAILED


def _say(message: str) -> None:
    from cortex.cli.terminal import Screen

    Screen(sys.stderr).message(f"cortex: {message}")


def _let_go_of_stdout() -> None:
    """What is still in the buffer can go nowhere; without this the interpreter complains when it flushes at exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # a stdout that is no file has nothing to let go of
        return
