"""The public names: what is documented is there, what is there is documented."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import actors
import cortex
import cortex.errors
import cortex.testing


def _declared(module: object) -> set[str]:
    """The names a type checker sees: those imported under TYPE_CHECKING."""
    tree = ast.parse(Path(inspect.getfile(module)).read_text())  # type: ignore[arg-type]
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.asname or alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }


def test_type_checkers_and_the_interpreter_see_the_same_names() -> None:
    assert _declared(cortex) == set(cortex.__all__) == set(cortex._ROOMS)


@pytest.mark.parametrize("module", [cortex, actors, cortex.testing], ids=lambda module: module.__name__)
def test_every_exported_name_is_there_and_documented(module: object) -> None:
    names = module.__all__  # type: ignore[attr-defined]
    assert len(set(names)) == len(names)
    for name in names:
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, f"{module.__name__}.{name} has no docstring"  # type: ignore[attr-defined]


@pytest.mark.parametrize("cls", [cortex.Engine, cortex.Agent, cortex.Session, cortex.Stream, cortex.SyncStream])
def test_every_public_method_is_documented(cls: type) -> None:
    for name, member in inspect.getmembers(cls):
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
            assert member.__doc__, f"{cls.__name__}.{name} has no docstring"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Enigne"):
        cortex.Enigne  # noqa: B018


def test_errors_are_also_the_builtins_a_careful_caller_would_catch() -> None:
    pairs = {
        cortex.ConfigError: ValueError,
        cortex.DeadlineExceeded: TimeoutError,
        cortex.ProviderTimeout: TimeoutError,
        cortex.NetworkUnavailable: ConnectionError,
        cortex.ProviderUnavailable: ConnectionError,
        cortex.AuthError: PermissionError,
        cortex.ModelNotFound: LookupError,
        cortex.EngineClosed: RuntimeError,
    }
    for error, builtin in pairs.items():
        assert issubclass(error, builtin)


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    drawn = cortex.errors.__doc__ or ""
    for name in cortex.errors.__all__:
        cls = getattr(cortex.errors, name)
        assert issubclass(cls, cortex.CortexError)
        assert name in drawn


TYPED = """
import attrs, cortex
from typing import assert_type

@attrs.frozen
class City:
    name: str

def use(engine: cortex.Engine) -> cortex.Response:
    session = engine.create_agent("a").start_session()
    assert_type(engine.complete_sync("x", output_type=City).output, City)
    assert_type(session.run_sync("x", output_type=list[int], temperature=0.1).output, list[int])
    return session.run_sync("x", output_type={"type": "object"})

async def wait(engine: cortex.Engine) -> City:
    answer = await engine.complete("x", output_type=City)
    return answer.output
"""


@pytest.mark.slow
def test_an_output_has_the_type_that_was_asked_for(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api", reason="mypy comes with the extra `dev`")
    file = tmp_path / "typed.py"
    file.write_text(TYPED)
    report, _, code = api.run(["--strict", "--cache-dir", str(tmp_path), str(file)])
    assert code == 0, report
