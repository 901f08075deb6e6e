"""The pytest fixture `fault_wall`.

pytest loads this module in every run on a machine where cortex is installed, whether or not a test asks for the
wall, so nothing but pytest is imported until a test does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cortex.testing.wall import FaultWall


@pytest.fixture
def fault_wall() -> Iterator[FaultWall]:
    """An open `FaultWall` in a thread of its own, closed after the test. Add providers to it with `add`."""
    from cortex.testing.wall import FaultWall

    with FaultWall() as wall:
        yield wall
