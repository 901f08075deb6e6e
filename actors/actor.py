"""What users write: an `Actor` with handlers, and the `Spec` that says how to make and keep one.

A handler is found by the annotation of its message parameter. Annotations are resolved when the first actor of the
class starts, so a message may be defined below its actor; names that only exist inside a function are found among the
members of the union the actor declares.
"""

# ruff: noqa: A002 - an actor's exit is called exit

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar, get_args, overload

import attrs

from .errors import Exit
from .mailbox import Mailbox, Reply
from .restart import Restart, RestartKind

if TYPE_CHECKING:
    from .ref import ActorRef, Ref

M = TypeVar("M")
M_contra = TypeVar("M_contra", contravariant=True)
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Context(Protocol[M_contra]):
    """An actor's hold on its own life, set as `self.ctx` before `on_start`. One per incarnation."""

    @property
    def ref(self) -> ActorRef[M_contra]: ...
    @property
    def name(self) -> str: ...
    @property
    def generation(self) -> int: ...
    @property
    def rng(self) -> Random:
        """The system's seeded generator."""
        ...

    @property
    def kept(self) -> Any:
        """What an earlier incarnation gave to `keep`, or None."""
        ...

    def keep(self, value: Any) -> None:
        """Leave one frozen value to the next incarnation: the only thing that outlives a crash."""
        ...

    @overload
    async def enter(self, manager: AbstractAsyncContextManager[T]) -> T: ...
    @overload
    async def enter(self, manager: AbstractContextManager[T]) -> T: ...
    async def enter(self, manager: Any) -> Any:
        """Open a resource that is closed when this incarnation ends, however it ends. Not a nursery or cancel scope."""
        ...

    def defer(self) -> Reply[Any]:
        """Inside the handler of an ask, before its first await: answer later, through the `Reply`."""
        ...

    def spawn(
        self, async_fn: Callable[..., Awaitable[Any]], *args: Any, reply: Reply[Any] | None = None, name: object = None
    ) -> None:
        """Run a task that ends with this incarnation at the latest.

        Without `reply` an exception in it crashes the incarnation. With `reply` the task serves that ask: it runs in
        the asker's contextvars, inside `reply.scope()`, and what it returns is the answer unless one was given; an
        exception gives the asker `TaskFailed` and the actor lives. `Reject(error)` gives the asker `error`.
        """
        ...

    def watch(self, ref: Ref, restarts: bool = False) -> None:
        """Get exactly one `Down` once `ref` has stopped for good; with `restarts` also `Restarting` and `Restarted`."""
        ...

    def unwatch(self, ref: Ref) -> None:
        """Undo `watch`; what it already put in the queue is removed."""
        ...

    def stop(self) -> None:
        """End this incarnation after the present message (exit `Normal`). A permanent actor is then restarted."""
        ...


def handle(method: F) -> F:
    """Mark a method, `def` or `async def`, as the handler of the type its one parameter is annotated with."""
    method.__actor_handler__ = True  # type: ignore[attr-defined]
    return method


class Actor(Generic[M]):
    """Base of actors; `M` is the union of the messages it takes.

    One handler runs at a time. State is made only by the spec's factory: a restart is a new object.
    """

    ctx: Context[M]
    __actor_table__: ClassVar[dict[type, tuple[str, bool]]]

    async def on_start(self) -> None:
        """Called before the first message. An exception fails the start."""

    async def on_stop(self, exit: Exit) -> None:
        """Called after the last message and the end of all tasks, unless the actor was killed or never started."""


def handlers_of(cls: type[Actor[Any]]) -> dict[type, tuple[str, bool]]:
    """Message type -> (method name, is async), for the class and its bases. TypeError for a faulty declaration."""
    if "__actor_table__" not in cls.__dict__:
        declared = _declared(cls)
        table: dict[type, tuple[str, bool]] = {}
        for base in reversed(cls.__mro__):
            table |= _own_handlers(base, cls, {member.__name__: member for member in declared})
        missing = [member.__name__ for member in declared if not any(kind in table for kind in member.__mro__)]
        if missing:
            raise TypeError(f"{cls.__qualname__} declares {', '.join(missing)} but has no handler for it")
        cls.__actor_table__ = table
    return cls.__actor_table__


def _own_handlers(base: type, cls: type, names: dict[str, Any]) -> dict[type, tuple[str, bool]]:
    table: dict[type, tuple[str, bool]] = {}
    for name, raw in base.__dict__.items():
        if not getattr(raw, "__actor_handler__", False):
            continue
        for kind in _members(_annotation(raw, names)):
            if kind in table:
                raise TypeError(f"{base.__qualname__} has two handlers for {kind.__name__}")
            table[kind] = (name, inspect.iscoroutinefunction(getattr(cls, name)))
    return table


def _annotation(method: Any, names: dict[str, Any]) -> Any:
    parameters = list(inspect.signature(method).parameters.values())
    where = f"handler {method.__qualname__}"
    if len(parameters) != 2 or parameters[1].annotation is inspect.Parameter.empty:
        raise TypeError(f"{where} needs one parameter besides self, annotated with its message type")
    holder = types.SimpleNamespace(__annotations__={"message": parameters[1].annotation})
    try:
        return typing.get_type_hints(holder, method.__globals__, names)["message"]
    except NameError as error:
        raise TypeError(f"{where}: {error}; define the type at module level or name it in Actor[...]") from error


def _members(annotation: Any) -> list[type]:
    """The classes of a union, or of a single annotation; generic aliases stand for their origin."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [kind for member in get_args(annotation) for kind in _members(member)]
    kind = typing.get_origin(annotation) or annotation
    if not isinstance(kind, type):
        raise TypeError(f"{annotation!r} is no class, so it cannot be the type of a message")
    return [kind]


def _declared(cls: type) -> list[type]:
    """The members of the M in the nearest `Actor[M]` above `cls`, as far as they are known classes."""
    for base in cls.__mro__:
        for alias in base.__dict__.get("__orig_bases__", ()):
            origin = typing.get_origin(alias)
            if isinstance(origin, type) and issubclass(origin, Actor):
                found = []
                for member in get_args(alias):
                    if isinstance(member, type | types.UnionType) or typing.get_origin(member) is not None:
                        found += [kind for kind in _members(member) if kind not in (object, types.NoneType)]
                return found
    return []


@attrs.frozen
class Spec(Generic[M]):
    """How to make an actor and what to do when it ends.

    `restart`: "permanent" always, "transient" after a failure, "temporary" never. `shutdown`: seconds it may take to
    stop before it is killed. `start_timeout`: seconds for `on_start`. `asks_while_down`: "wait" keeps an ask whose
    deadline lies after the planned restart, "fail" gives every asker `Unavailable` at once. The factory should close
    over frozen values only: a restart cannot heal what it shares.
    """

    factory: Callable[[], Actor[M]]
    name: str = attrs.field(validator=attrs.validators.instance_of(str))
    restart: RestartKind = attrs.field(
        default="permanent", validator=attrs.validators.in_(("permanent", "transient", "temporary"))
    )
    policy: Restart = attrs.field(factory=Restart)
    mailbox: Mailbox = attrs.field(factory=Mailbox)
    shutdown: float = attrs.field(default=5.0, validator=attrs.validators.ge(0))
    start_timeout: float = attrs.field(default=10.0, validator=attrs.validators.gt(0))
    asks_while_down: Literal["wait", "fail"] = attrs.field(
        default="wait", validator=attrs.validators.in_(("wait", "fail"))
    )


@attrs.frozen
class SupervisorSpec:
    """A supervisor of its own, to which children are added. `policy` is how its parent restarts it.

    It is restarted with its children: they keep address, queue and kept value.
    """

    name: str = attrs.field(validator=attrs.validators.instance_of(str))
    policy: Restart = attrs.field(factory=Restart)
    shutdown: float = attrs.field(default=math.inf, validator=attrs.validators.ge(0))
