"""Every example runs as it stands, and says what it promises to."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
TESTS = "test_your_service.py"

PROMISES = {
    "failover.py": [
        "failover: True",
        "gemini/gemini-3-flash-preview transient",
        "openai/gpt-4o ok",
        "Rome, says Gemini. served by gemini-3-flash-preview",
    ],
    "streaming.py": [
        "Once upon a time there was an engine.  <- gpt-4o",
        "what was shown: 'Once upon a'",
        "[discard that, it begins anew]",
    ],
    "privacy.py": [
        "openai/gpt-4o: left out (zone: ",
        "from this machine - System 1",
        "ProviderUnavailable: local/llama3.1:8b",
        "requests the cloud saw: 0",
        "from the cloud - with consent",
    ],
    "tools.py": [
        "Your order was shipped, says Gemini.",
        "tools called: ('order_status',) - runs: 1",
        'order_status -> {"order": "1234", "status": "shipped"}',
    ],
    "service.py": [
        "one -> openai",
        "[health] openai is down auth",
        "two -> anthropic",
        "three -> anthropic",
        "four -> openai",
        "five -> anthropic",
        "[health] openai is off",
    ],
    "threads.py": [
        *(f"answer to 'Translate {word}'" for word in ("un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit")),
        "answer to 'And as a stream?'",
        "gemini: down",
    ],
}

if EXAMPLES.exists():
    # The example of tests is a test of this file, too: pytest finds its functions and its fixture here.
    _its_own = runpy.run_path(str(EXAMPLES / TESTS))
    globals().update({name: value for name, value in _its_own.items() if name.startswith("test_") or name == "engine"})

needs_examples = pytest.mark.skipif(not EXAMPLES.exists(), reason="the examples are in the checkout")


@needs_examples
def test_every_example_has_promises() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*PROMISES, TESTS}


@needs_examples
@pytest.mark.parametrize("name", PROMISES)
def test_the_example_keeps_its_promises(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    out = capsys.readouterr().out
    for promise in PROMISES[name]:
        assert promise in out
