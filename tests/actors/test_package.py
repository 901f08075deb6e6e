"""The room itself: what its door shows, what it imports, and where it starts tasks."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import actors

ROOM = Path(actors.__file__).parent


def test_tasks_are_started_in_three_places() -> None:
    users = {
        path.name
        for path in ROOM.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("start_soon", "spawn_system_task", "open_nursery")
    }
    assert users == {"supervisor.py", "cell.py", "system.py"}


def test_imports_neither_http_nor_cortex() -> None:
    code = "import sys, actors, actors.testing; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "trio" in loaded
    assert not {"httpx", "h11", "cortex", "pydantic", "anyio"} & set(loaded)


def test_the_kernel_knows_no_trio() -> None:
    for name in ("restart.py", "errors.py"):
        tree = ast.parse((ROOM / name).read_text())
        modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert modules <= {"attrs", "math"}


def test_the_door() -> None:
    assert sorted(actors.__all__) == actors.__all__
    assert all(hasattr(actors, name) for name in actors.__all__)
