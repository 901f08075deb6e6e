"""What the doors make of a call's options, and of the answer that comes back. No I/O but the asks themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

import attrs
import trio

import actors
from cortex import checks, inputs
from cortex.errors import BadReply, ContentRefused, CortexError, EngineClosed, EngineFailed, ProviderError
from cortex.goals import Goal
from cortex.messages import Answer, Effort, Finish, Kind, Message, OutputSchema, Request, Text, Usage
from cortex.protocol import Turn, TurnDone, TurnFailed, TurnResult
from cortex.results import Attempt, Completion, Metadata, Response
from cortex.schemas import parse_output, schema_of
from cortex.tree import Tree

Role = Literal["worker", "orchestrator"]

MAX_QUOTED = 300
"""Characters of a refusal that an error repeats."""


class CallOptions(TypedDict, total=False):
    """Options of `run` and its kin, beside `output_type`: see `Session.run`."""

    model: str | None
    images: Sequence[Any]
    temperature: float | None
    max_tokens: int | None
    stop: str | Sequence[str] | None
    seed: int | None
    effort: Effort | None
    thinking_budget: int | None
    parallel_tools: bool | None
    timeout: float | None
    extra: Mapping[str, Any] | None


class CompleteOptions(CallOptions, total=False):
    """Options of `complete` and `stream`: those of `run`, and the role, tools and tool choice."""

    role: Role
    tools: Sequence[Any]
    tool_choice: str | None


@attrs.frozen
class Prepared:
    """Validated options: a request without its messages, and what belongs to no request."""

    request: Request
    model: str | None = None
    timeout: float | None = None
    role: Role = "worker"
    system: Literal[1, 2] | None = None
    output: OutputSchema | None = None
    output_type: Any = None


_TURN = frozenset(CallOptions.__annotations__)
_CALL = _TURN | frozenset(CompleteOptions.__annotations__)
_CHECKED = _CALL - {"images", "tools"}


def prepare(options: CallOptions, output_type: Any, *, whole_turn: bool, system: object = None) -> Prepared:
    """Check the options of a turn, or of a single call. ConfigError names the option, its kind and the fix."""
    checks.known_keys("options", options, sorted(_TURN if whole_turn else _CALL))
    given = inputs.options(**{key: value for key, value in options.items() if key in _CHECKED}, system=system)
    output = schema_of(output_type) if output_type is not None else None
    request = Request(
        messages=(),
        tool_choice=given.tool_choice,
        output=output,
        temperature=given.temperature,
        max_tokens=given.max_tokens,
        stop=given.stop,
        seed=given.seed,
        effort=given.effort,
        thinking_budget=given.thinking_budget,
        parallel_tools=given.parallel_tools,
        extra=given.extra,
    )
    return Prepared(request, given.model, given.timeout, given.role, given.system, output, output_type)


async def outcome_of(tree: Tree, system: Literal[1, 2], turn: Turn) -> TurnResult:
    """Ask the role's actor. Its failure is a fault of ours and says so."""
    ref = tree.worker if system == 1 else tree.orchestrator
    try:
        return await ref.ask(turn, join=tree.policy.grace)
    except actors.ActorError as error:
        raise told(error) from error


def told(error: actors.ActorError) -> CortexError:
    """What a user is told of an actor of ours that failed, or was stopped."""
    if isinstance(error, actors.ActorDied) and isinstance(error.exit, actors.Shutdown | actors.Killed):
        return EngineClosed("the engine was closed while this call was under way")
    return EngineFailed(f"a fault of cortex itself ended the call: {error}")


@trio.lowlevel.disable_ki_protection  # a type's own checks are the user's code, and may compute for long
def parse_answer(prepared: Prepared, answer: Answer) -> tuple[Any, str]:
    """The answer as the output type, and what is wrong with it ("" when nothing is)."""
    if answer.finish is Finish.LENGTH and answer.text.rstrip()[-1:].isdigit():
        return None, "it ends in a number, of which more digits may follow"
    parsed = parse_output(prepared.output_type, answer.text)
    return parsed.value, parsed.fault


def can_repair(answer: Answer) -> bool:
    """Whether to ask again would help: not a model that refused, or that ran out of tokens or of rounds."""
    return answer.finish in (Finish.STOP, Finish.OTHER) and not answer.tool_calls


def repair_request(request: Request, result: TurnDone, fault: str) -> Request:
    """The same request with the faulty answer and what is wrong with it: the one repair round."""
    words = f"That answer does not fit the schema: {fault}\nAnswer again, with JSON that fits and nothing else."
    return attrs.evolve(request, messages=(*request.messages, *result.transcript, Message("user", (Text(words),))))


def as_response(
    result: TurnDone, prepared: Prepared, *, started: float, system: Literal[1, 2], goal: Goal | None
) -> Response:
    """A turn's result as the user gets it. BadReply when the answer does not fit the output type, ContentRefused when
    the model would not give one."""
    meta = attrs.evolve(
        _metadata(result, started),
        system=system,
        tools_called=tuple(one.name for one in result.tool_results),
        steps_taken=result.steps,
        goal_progress=goal.progress if goal is not None else None,
    )
    answer = result.answer
    return Response(
        content=answer.text,
        metadata=meta,
        thinking=answer.thinking,
        output=_output(result, prepared),
        tool_calls=answer.tool_calls,
        citations=answer.citations,
        tool_results=result.tool_results,
    )


def as_completion(result: TurnDone, prepared: Prepared, *, started: float) -> Completion:
    """One routed call's result as the user gets it."""
    answer = result.answer
    return Completion(
        content=answer.text,
        metadata=_metadata(result, started),
        thinking=answer.thinking,
        output=None if answer.finish is Finish.TOOL_CALLS else _output(result, prepared),
        tool_calls=answer.tool_calls,
        citations=answer.citations,
    )


def _output(result: TurnDone, prepared: Prepared) -> Any:
    if prepared.output is None:
        return None
    value, fault = parse_answer(prepared, result.answer)
    if fault:
        raise _without_output(result, prepared.output.name, fault)
    return value


def _without_output(result: TurnDone, name: str, fault: str) -> ProviderError:
    """Why there is no value: the model would not, could not, or did not say it as it should."""
    answer, lane = result.answer, result.lane
    cls: type[ProviderError] = BadReply
    kind, retryable = Kind.PROTOCOL, True
    match answer.finish:
        case Finish.REFUSAL | Finish.CONTENT_FILTER:
            cls, kind, retryable = ContentRefused, Kind.CONTENT, False
            why = f"{name} was refused ({answer.raw_finish}): {answer.text[:MAX_QUOTED] or 'without a word'}"
        case Finish.LENGTH:
            kind, retryable = Kind.CUT, False
            why = f"the answer ran into its limit of tokens before {name} was whole; raise max_tokens"
        case Finish.TOOL_CALLS:
            why = f"the turn ended before there was {name}: {'; '.join(result.notes)}"
        case _:
            why = f"the answer does not fit {name}: {fault}"
    return cls(
        f"{lane.provider}/{lane.model}: {why}",
        provider=lane.provider,
        model=lane.model,
        kind=kind,
        retryable=retryable,
        attempts=result.attempts,
    )


def _metadata(result: TurnDone, started: float) -> Metadata:
    served = [attempt for attempt in result.attempts if attempt.ok]
    usage = _sum(served)
    answer, lane = result.answer, result.lane
    return Metadata(
        model_used=lane.model,
        provider=lane.provider,
        latency_ms=(trio.current_time() - started) * 1000,
        model_reported=answer.model_reported,
        tokens_used=usage.total,
        tokens_total=_sum(result.attempts).total,
        cost_usd=_cost(result.attempts),
        usage=usage,
        finish_reason=str(answer.finish),
        raw_finish_reason=answer.raw_finish,
        failover=result.failed_over,
        attempts=result.attempts,
        notes=result.notes,
    )


def _cost(attempts: Sequence[Attempt]) -> float | None:
    """Of all that was counted; None where something of it has no known price, or nothing was counted."""
    costs = [attempt.cost_usd for attempt in attempts if attempt.usage.total]
    known = [cost for cost in costs if cost is not None]
    return sum(known) if known and len(known) == len(costs) else None


def _sum(attempts: Sequence[Attempt]) -> Usage:
    total = Usage()
    for attempt in attempts:
        total = total + attempt.usage
    return total


def check_result(result: TurnResult) -> TurnDone:
    """The value, or the error it holds raised, with the trail of the whole turn: sub-tasks and both systems."""
    if isinstance(result, TurnFailed):
        if isinstance(result.error, CortexError):
            result.error.attempts = result.attempts
        try:
            raise result.error
        finally:
            del result  # the error's traceback holds this frame: no cycle
    return result
