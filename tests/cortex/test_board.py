"""The board: views for the ranking, a word for people, and whether it is our own network that is down."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from cortex import config
from cortex.board import Board, public_host
from cortex.budget import Budget
from cortex.health import Health
from cortex.limits import Limit
from cortex.outcomes import Scope
from cortex.protocol import LaneState, Snapshot
from cortex.routing import Lane

OPENAI, HOME = Lane("openai", "gpt-4o-mini", "gpt-4o-mini"), Lane("home", "llama", "llama")


class Clock:
    """A clock that stands."""

    def current_time(self) -> float:
        return 100.0


@pytest.fixture
def board() -> Board:
    settings = config.parse(
        {
            "openai": {"api_key": "k" * 9},
            "anthropic": {"api_key": "k" * 9, "max_concurrency": 3},
            "home": {"kind": "local", "base_url": "http://127.0.0.1:1/v1"},
        },
        worker_model="gpt-4o-mini",
        env={},
    )
    return Board(settings)


def snapshot(name: str, **given: Any) -> Snapshot:
    return Snapshot(name, Health.new(100.0, Scope.ENDPOINT), {}, Budget.new(100.0), **given)


def test_before_the_start_everybody_is_well_and_present(board: Board) -> None:
    view = board.view(OPENAI, 0.0)
    assert (view.present, view.enabled, view.in_flight, view.limit) == (True, True, 0, None)
    assert board.view(Lane("anthropic", "m", "m"), 0.0).limit == 3
    assert board.status_of("openai", 0.0) == ("up", "never asked")


def test_after_the_start_only_who_is_there_is_there(board: Board) -> None:
    board.open(Clock())
    assert board.now() == 100.0
    assert not board.view(OPENAI, 100.0).present
    board.present.add("openai")
    assert board.view(OPENAI, 100.0).present


def test_picks_on_their_way_count(board: Board) -> None:
    state = LaneState(Health.new(100.0), Limit(), in_flight=2)
    board.snapshots["openai"] = attrs.evolve(snapshot("openai"), lanes={OPENAI: state})
    view = board.view(OPENAI, 100.0, issued=3, trial_out=True)
    assert (view.in_flight, view.trial_out) == (5, True)


def test_two_hosts_unreached_and_nobody_heard_is_our_network(board: Board) -> None:
    board.snapshots["openai"] = snapshot("openai", unreached_at=99.0)
    assert not board.offline(100.0)
    board.snapshots["anthropic"] = snapshot("anthropic", unreached_at=97.0)
    assert board.offline(100.0)
    assert not board.offline(103.0)  # five seconds are over
    board.snapshots["home"] = snapshot("home", answered_at=100.0)
    assert board.offline(100.0)  # a neighbour proves nothing
    board.snapshots["openai"] = snapshot("openai", unreached_at=99.0, answered_at=98.0)
    assert not board.offline(100.0)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://api.openai.com/v1", "api.openai.com"),
        ("http://8.8.8.8/v1", "8.8.8.8"),
        ("http://127.0.0.1:8080", None),
        ("http://localhost:8080", None),
        ("http://192.168.1.4/v1", None),
        ("http://[::1]:80/", None),
        ("http://gpu-box/v1", None),
        ("http://ollama.internal/v1", None),
    ],
)
def test_public_addresses(url: str, host: str | None) -> None:
    assert public_host(url) == host
