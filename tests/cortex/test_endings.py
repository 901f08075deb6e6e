"""Which error a call without an answer ends with, and in whose words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.config import Chain
from cortex.endings import Try, given_up, nothing_allowed, stopped
from cortex.errors import (
    AuthError,
    ContextTooLong,
    NetworkUnavailable,
    NoProviderLeft,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    RequestRejected,
)
from cortex.messages import Failure, Kind, Phase
from cortex.outcomes import classify
from cortex.protocol import Nobody
from cortex.routing import Lane

A, B, C = (Lane(name, f"model-{name}", "up") for name in "abc")


def a_try(lane: Lane, kind: Kind, message: str = "words", **more: object) -> Try:
    failure = Failure(kind, message, **more)  # type: ignore[arg-type]
    return Try(lane, failure, classify(failure))


def chain_of(*lanes: Lane, left_out: tuple[tuple[Lane, str], ...] = ()) -> Chain:
    return Chain(tuple((lane,) for lane in lanes), left_out)


def test_who_may_not_be_asked_is_told_with_the_rule() -> None:
    error = given_up([a_try(A, Kind.CONNECT)], None, chain_of(A, left_out=((B, "zone: far away"),)), [])
    assert type(error) is ProviderUnavailable
    assert str(error) == "a/model-a: connect: words\n  b/model-b: may not be asked: zone: far away"


def test_each_lane_has_one_line_however_often_it_was_tried() -> None:
    tries = [a_try(A, Kind.TRANSIENT), a_try(B, Kind.CUT), a_try(A, Kind.OVERLOADED, "full")]
    error = given_up(tries, Nobody(((A, "tried"), (B, "tried"), (C, "off"))), chain_of(A, B, C), [])
    assert str(error).splitlines()[1:] == [
        "  a/model-a: overloaded: full (2 attempts)",
        "  b/model-b: cut: words",
        "  c/model-c: not asked: off",
    ]


def test_one_provider_has_its_own_error_whatever_its_models() -> None:
    other = Lane("a", "other", "up")
    error = given_up([a_try(A, Kind.TRANSIENT), a_try(other, Kind.CREDENTIAL)], None, chain_of(A, other), [])
    assert type(error) is AuthError
    assert str(error) == "a/other: credential: words"


@pytest.mark.parametrize(
    ("kinds", "best"),
    [
        ([Kind.TRANSIENT, Kind.RATE_LIMIT, Kind.QUOTA], Kind.QUOTA),
        ([Kind.TRANSIENT, Kind.RATE_LIMIT, Kind.CUT], Kind.RATE_LIMIT),
        ([Kind.CONTEXT, Kind.TRANSIENT, Kind.RATE_LIMIT], Kind.CONTEXT),
        ([Kind.TRANSIENT, Kind.BAD_REQUEST, Kind.CUT], Kind.TRANSIENT),
    ],
)
def test_the_most_actionable_cause_lends_its_face(kinds: list[Kind], best: Kind) -> None:
    error = given_up(
        [a_try(lane, kind) for lane, kind in zip((A, B, C), kinds, strict=True)], None, chain_of(A, B, C), []
    )
    assert isinstance(error, NoProviderLeft)
    assert error.kind == best
    assert [one.kind for one in error.errors] == kinds


def test_too_long_for_everybody_is_the_requests_own_error() -> None:
    error = given_up([a_try(A, Kind.CONTEXT), a_try(B, Kind.CONTEXT)], None, chain_of(A, B), [])
    assert type(error) is ContextTooLong
    assert error.provider == "a"


def test_nobody_asked_at_all() -> None:
    gated = Nobody(((A, "asked for a pause, in 9.0 s"), (B, "asked for a pause, in 5.0 s")), 5.0, gated=True)
    alone = given_up([], gated, chain_of(A), [])
    assert type(alone) is RateLimited
    assert alone.retry_after == 5.0
    several = given_up([], gated, chain_of(A, B), [])
    assert isinstance(several, NoProviderLeft)
    assert (several.kind, several.retry_after, several.retryable) == (Kind.RATE_LIMIT, 5.0, True)
    assert "a/model-a: not asked: asked for a pause" in str(several)
    assert "b/model-b: not asked" in str(several)
    off = given_up([], Nobody(((A, "switched off"),)), chain_of(A), [])
    assert type(off) is ProviderUnavailable


def test_a_dead_network_is_told_only_when_nothing_else_was_seen() -> None:
    unreached = [a_try(lane, Kind.CONNECT, phase=Phase.NOT_SENT) for lane in (A, B)]
    offline = Nobody(((A, "open"), (B, "open")), offline=True)
    assert type(given_up(unreached, offline, chain_of(A, B), [])) is NetworkUnavailable
    assert type(given_up([], offline, chain_of(A, B), [])) is NetworkUnavailable
    assert isinstance(given_up(unreached, Nobody(()), chain_of(A, B), []), NoProviderLeft)
    answered = [unreached[0], a_try(B, Kind.OVERLOADED, status=503)]
    assert isinstance(given_up(answered, offline, chain_of(A, B), []), NoProviderLeft)


def test_a_fallbacks_dislike_does_not_hide_the_first() -> None:
    error = stopped([a_try(A, Kind.OVERLOADED), a_try(B, Kind.BAD_REQUEST)], [])
    assert isinstance(error, NoProviderLeft)
    assert error.kind == Kind.OVERLOADED
    assert type(stopped([a_try(A, Kind.TRANSIENT), a_try(A, Kind.BAD_REQUEST)], [])) is RequestRejected


def test_an_empty_chain_says_why() -> None:
    error = nothing_allowed([(A, "zone cloud is not allowed")])
    assert "a/model-a: zone cloud is not allowed" in str(error)


tries = st.builds(
    a_try,
    st.sampled_from([A, B, C]),
    st.sampled_from(list(Kind)),
    status=st.none() | st.integers(200, 599),
    phase=st.sampled_from(list(Phase)),
    retry_after=st.none() | st.floats(0, 1e6),
)
nobodies = st.none() | st.builds(
    Nobody, st.just(((A, "why"), (B, "why"))), st.none() | st.floats(0, 100), st.booleans(), st.booleans()
)


@given(st.lists(tries, max_size=5), nobodies)
def test_every_end_is_one_error_that_names_each_lane(failed: list[Try], nobody: Nobody | None) -> None:
    error = given_up(failed, nobody, chain_of(A, B, C), [])
    assert str(error)
    if isinstance(error, NoProviderLeft):
        assert len(error.errors) == len(failed)
        assert all(str(one.lane) in str(error) for one in failed)
        assert all(isinstance(one, ProviderError) for one in error.errors)
    if failed:
        assert str(stopped(failed, []))
