"""The command line, in-process: what goes to stdout, what to stderr, and the exit code."""

from __future__ import annotations

import errno
import io
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import cortex
from cortex import circuit
from cortex.cli import chat as chat_room
from cortex.cli import demo as show
from cortex.cli import local, main
from cortex.cli.terminal import Screen
from cortex.testing import Action, Cut, Delay, FaultProvider, FaultWall, Garbage, Hang, Reply, Reset, Status
from cortex.vendors import VENDORS

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is set, and nobody listens at the usual ports."""
    for vendor in VENDORS.values():
        for variable in (*vendor.key_envs, vendor.url_env):
            monkeypatch.delenv(variable or "", raising=False)
    for variable in ("CORTEX_PROVIDERS", "CORTEX_ORCHESTRATOR_MODEL", "CORTEX_WORKER_MODEL", "NO_COLOR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(local, "PORTS", {})


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run("ask", "hi")` -> exit code, stdout, stderr; `terminal=True`: stdout is one."""

    def go(*argv: str, terminal: bool = False) -> tuple[int, str, str]:
        if terminal:
            monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        try:
            code = main(argv)
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return go


@pytest.fixture
def providers(fault_wall: FaultWall, monkeypatch: pytest.MonkeyPatch) -> FaultWall:
    """openai and gemini are in the environment; openai comes first and serves both roles."""
    for name, variable in (("openai", "OPENAI_API_KEY"), ("gemini", "GEMINI_API_KEY")):
        fault_wall.add(name)
        monkeypatch.setenv(variable, "a-key")
    for variable, url in fault_wall.env().items():
        monkeypatch.setenv(variable, url)
    monkeypatch.setenv("CORTEX_ORCHESTRATOR_MODEL", "gemini-2.5-pro")
    monkeypatch.setenv("CORTEX_WORKER_MODEL", "gpt-4o")
    return fault_wall


# --------------------------------------------------------------------------------------------------------------- ask


def test_the_answer_goes_to_stdout_and_who_served_it_to_stderr(run: Run, providers: FaultWall) -> None:
    providers["openai"].always(Reply("Paris."))
    code, out, err = run("ask", "What is the capital of France?")
    assert (code, out) == (0, "Paris.\n")
    assert err.startswith("served by openai/gpt-4o, System 1, ")
    assert providers["openai"].requests[0].text == "What is the capital of France?"
    assert not providers["openai"].requests[0].stream


def test_a_failover_is_told_on_stderr(run: Run, providers: FaultWall) -> None:
    providers["openai"].always(Status(503))
    code, out, err = run("ask", "hi")
    assert (code, out) == (0, "Hello from gemini.\n")
    assert "served by gemini/gemini-2.5-pro" in err
    assert "after openai/gpt-4o overload" in err


def test_the_orchestrator_answers_when_it_is_asked_to(run: Run, providers: FaultWall) -> None:
    code, out, err = run("ask", "hi", "--system", "2")
    assert (code, out) == (0, "Hello from gemini.\n")
    assert "gemini/gemini-2.5-pro, System 2" in err


def test_a_model_can_be_named(run: Run, providers: FaultWall) -> None:
    code, _, err = run("ask", "hi", "--model", "gemini-2.5-flash")
    assert code == 0
    assert "served by gemini/gemini-2.5-flash" in err


def test_a_question_comes_from_stdin(run: Run, providers: FaultWall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("From a pipe?\n"))
    assert run("ask", "-")[0] == 0
    assert providers["openai"].requests[0].text.strip() == "From a pipe?"


def test_json_holds_the_answer_and_its_metadata(run: Run, providers: FaultWall) -> None:
    providers["openai"].always(Reset())
    code, out, _ = run("ask", "hi", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["content"] == "Hello from gemini."
    assert told["metadata"]["failover"] is True
    assert [(one["provider"], one["outcome"]) for one in told["metadata"]["attempts"]][-1] == ("gemini", "ok")


def test_a_failure_is_json_too(run: Run, providers: FaultWall) -> None:
    for name in ("openai", "gemini"):
        providers[name].always(Status(401))
    code, out, err = run("ask", "hi", "--json")
    error = json.loads(out)["error"]
    assert code == 1
    assert error["type"] == "NoProviderLeft"
    assert error["kind"] == "credential"
    assert {one["provider"] for one in error["attempts"]} == {"openai", "gemini"}
    assert "a-key" not in out + err


def test_it_streams_on_a_terminal(run: Run, providers: FaultWall) -> None:
    code, out, _ = run("ask", "hi", terminal=True)
    assert (code, out) == (0, "Hello from openai.\n")
    assert providers["openai"].requests[0].stream


def test_streaming_can_be_chosen_and_declined(run: Run, providers: FaultWall) -> None:
    assert run("ask", "hi", "--no-stream", terminal=True)[1] == "Hello from openai.\n"
    assert run("ask", "hi", "--json", terminal=True)[0] == 0
    assert [seen.stream for seen in providers["openai"].requests] == [False, False]


def test_a_stream_that_dies_shows_its_part_and_fails(run: Run, providers: FaultWall) -> None:
    providers["openai"].always(Cut(after=2, reply=Reply("one two three four")))
    code, out, err = run("ask", "hi", "--stream")
    assert (code, out) == (1, "one two\n")
    assert err.startswith("cortex: openai/gpt-4o: cut: ")
    assert "Traceback" not in err


def test_the_deadline_is_an_error_of_one_line(run: Run, providers: FaultWall) -> None:
    providers["openai"].always(Hang())
    providers["gemini"].always(Hang())
    code, out, err = run("ask", "hi", "--timeout", "0.2")
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert "deadline" in err


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        (["ask", "  "], "message"),
        (["ask", "hi", "--timeout", "0"], "timeout"),
        (["ask", "hi", "--timeout", "soon"], "--timeout"),
        (["ask", "hi", "--model", "no-such-model"], "no-such-model"),
        (["ask", "hi", "--system", "3"], "--system"),
        (["ask", "hi", "--config", "/no/such/file.toml"], "/no/such/file.toml"),
        (["ask", "hi", "--json", "--stream"], "--json"),
        (["ask"], "question"),
        (["aks"], "aks"),
        ([], "COMMAND"),
    ],
)
def test_what_cannot_work_is_exit_code_2(run: Run, providers: FaultWall, argv: list[str], names: str) -> None:
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert names in err
    assert "Traceback" not in err


def test_a_config_file_comes_before_the_environment(run: Run, providers: FaultWall, tmp_path: Path) -> None:
    file = tmp_path / "engine.toml"
    url = providers["gemini"].base_url
    file.write_text(f'worker_model = "gemini-2.5-flash"\n[providers.gemini]\napi_key = "k"\nbase_url = "{url}"\n')
    code, _, err = run("ask", "hi", "--config", str(file))
    assert code == 0
    assert "served by gemini/gemini-2.5-flash" in err


def test_what_a_model_sends_does_not_steer_the_terminal(run: Run, providers: FaultWall) -> None:
    providers["openai"].always(Reply("\x1b[2Jred\talert\n"))
    assert run("ask", "hi", terminal=True)[1] == "[2Jred\talert\n"


def test_a_pipe_gets_the_answer_as_it_is(run: Run, providers: FaultWall) -> None:
    providers["openai"].always(Reply("\x1b[2Jred\n"))
    assert run("ask", "hi")[1] == "\x1b[2Jred\n"


# ----------------------------------------------------------------------------------------------------- finding someone


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port where somebody listens and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_with_nothing_found_it_says_what_to_set(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    monkeypatch.setattr(local, "PORTS", {closed: "Ollama"})
    code, out, err = run("ask", "hi")
    assert (code, out) == (2, "")
    for name in ("OPENAI_API_KEY", "GEMINI_API_KEY", "ANTHROPIC_API_KEY", "OLLAMA_HOST", "--config", "Ollama"):
        assert name in err


def test_a_local_server_at_a_usual_port_is_found(
    run: Run, fault_wall: FaultWall, monkeypatch: pytest.MonkeyPatch, silent_port: int
) -> None:
    other, server = fault_wall.add("gemini"), fault_wall.add("mine", dialect="openai")
    monkeypatch.setattr(local, "PATIENCE", 0.1)
    monkeypatch.setattr(local, "PORTS", {silent_port: "Ollama", other.port: "llama.cpp", server.port: "vLLM"})
    code, out, err = run("ask", "hi")
    assert (code, out) == (0, "Hello from mine.\n")
    assert "served by local/gpt-4o" in err  # the first of the models it lists
    assert server.requests[-1].model == "gpt-4o"


def test_a_key_in_the_environment_comes_before_a_local_server(
    run: Run, providers: FaultWall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "PORTS", {providers["openai"].port: "Ollama"})
    run("ask", "hi")
    assert [seen.method for seen in providers["openai"].requests] == ["POST"]


def test_ollama_host_alone_is_asked_for_its_models(
    run: Run, fault_wall: FaultWall, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = fault_wall.add("mine", dialect="openai")
    monkeypatch.setenv("OLLAMA_HOST", f"http://127.0.0.1:{server.port}")
    assert "served by local/gpt-4o" in run("ask", "hi")[2]
    assert "served by local/another" in run("ask", "hi", "--model", "another")[2]
    server.down()
    code, _, err = run("ask", "hi")
    assert code == 2
    assert "--model" in err


@pytest.mark.parametrize("listing", ["[]", '{"data": {}}', '{"data": [1, {}, {"id": 7}, {"id": ""}]}', "<html>", ""])
def test_a_strange_list_of_models_is_no_server(listing: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        reply = f"HTTP/1.1 200 OK\r\ncontent-length: {len(listing)}\r\n\r\n{listing}"

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(reply.encode())

        thread = threading.Thread(target=serve)
        thread.start()
        assert local.models_at(f"http://127.0.0.1:{server.getsockname()[1]}/v1") == []
        thread.join()


# ----------------------------------------------------------------------------------------------------------- explain


def test_explain_tells_the_plan_of_both_roles_and_asks_nobody(run: Run, providers: FaultWall) -> None:
    code, out, _ = run("explain")
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "orchestrator gemini-2.5-pro:"
    assert lines[1].startswith("  1. gemini/gemini-2.5-pro: ready")
    assert "worker gpt-4o:" in lines
    assert providers["openai"].requests == providers["gemini"].requests == ()


def test_explain_as_json(run: Run, providers: FaultWall) -> None:
    told = json.loads(run("explain", "--json", "--model", "gpt-4o-mini")[1])
    assert told["worker"]["lanes"][0]["model"] == "gpt-4o-mini"
    assert set(told) == {"worker", "orchestrator"}


def test_explain_says_whom_a_zone_leaves_out(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "engine.toml"
    file.write_text(
        'worker_model = "llama3.1:8b"\norchestrator_model = "gpt-4o"\n'
        '[providers.openai]\napi_key = "k"\n[providers.local]\nbase_url = "http://localhost:11434/v1"\n'
    )
    out = run("explain", "--config", str(file))[1]
    assert "openai/gpt-4o: left out (zone: llama3.1:8b lives in 'on-prem'" in out


# ---------------------------------------------------------------------------------------------------------- how it ends


def test_the_version(run: Run) -> None:
    assert run("--version") == (0, f"cortex {cortex.__version__}\n", "")


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (BaseExceptionGroup("a nursery", [ValueError("lost"), KeyboardInterrupt()]), 130, "interrupted"),
        (BrokenPipeError(), 141, ""),
        (ExceptionGroup("a nursery", [BrokenPipeError()]), 141, ""),
        (cortex.QueueFull("too many"), 1, "too many"),
        (cortex.ConfigError("field: wrong"), 2, "field: wrong"),
        (ZeroDivisionError("oops"), 1, "a fault of cortex itself: ZeroDivisionError: oops"),
    ],
)
def test_every_end_has_its_code_and_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, says: str
) -> None:
    def fail(_: object) -> int:
        raise error

    monkeypatch.setattr(show, "demo", fail)
    ended, out, err = run("demo")
    assert (ended, out) == (code, "")
    assert err == (f"cortex: {says}\n" if code in (130, 2) else err)
    assert says in err
    assert len(err.splitlines()) <= 1


def test_verbose_shows_where_a_fault_is(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "demo", lambda _: 1 // 0)
    assert "Traceback" in run("demo", "--verbose")[2]
    assert "Traceback" not in run("demo")[2]


# ---------------------------------------------------------------------------------------------------------- terminals


class Terminal(io.StringIO):
    encoding = "ascii"

    def isatty(self) -> bool:
        return True


def test_a_line_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    wide, narrow = io.StringIO(), Terminal()
    text = "a sentence that is rather longer than thirty columns are wide " + "x" * 40
    for stream in (wide, narrow):
        Screen(stream).line(text, indent=4)
    assert wide.getvalue() == f"    {text}\n"
    assert max(map(len, narrow.getvalue().splitlines())) <= 30
    assert narrow.getvalue().split() != []
    assert "".join(narrow.getvalue().split()) == "".join(text.split())


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb"), ("LANG", "C")])
def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(variable, value)
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        Screen(stream).line("down", style="red")
    assert pipe.getvalue() == "down\n"
    assert terminal.getvalue() == ("\x1b[31mdown\x1b[0m\n" if variable == "LANG" else "down\n")


def test_what_an_encoding_lacks_is_a_question_mark() -> None:
    terminal = Terminal()
    Screen(terminal).text("caf\u00e9 \ud800")
    assert terminal.getvalue() == "caf? ?"


# --------------------------------------------------------------------------------------------------------------- demo


def test_the_demo_answers_every_question(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit, "OPEN_FIRST", 0.6)  # the real one lasts 5 s, and the slow test below waits for it
    monkeypatch.setattr(show, "PATIENCE", 0.5)
    code, out, err = run("demo")
    assert (code, err) == (0, "")
    assert "10 questions: 10 answered" in out
    assert "; 0 lost." in out
    assert "\x1b" not in out
    assert "* gemini: up -> down" in out
    assert "gemini: recovering" in out
    assert "anthropic/claude-opus-4-6" in out
    assert "no answer within 0.5 s" in out


def test_a_lost_answer_is_exit_code_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(show.Show):
        async def all_well(self) -> None:
            for provider in self.wall.providers.values():
                provider.down()
            await self._ask("Is anybody there?")

        async def one_goes_down(self) -> None:
            """The other acts are left out."""

        it_comes_back = another_hangs = a_stream = one_goes_down

    monkeypatch.setattr(show, "Show", Broken)
    code, out, _ = run("demo")
    assert code == 1
    assert "NoProviderLeft" in out
    assert "0 answered (by nobody), 0 by failover; 1 lost." in out


FAULTS: list[Action | None] = [None, Status(503), Hang(), Hang(after=0.5), Cut(after=0.5), Reset(), Garbage("json")]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: repr(fault)[:16])
@pytest.mark.parametrize("victim", show.MODELS)
async def test_no_answer_of_the_demos_engine_is_lost_or_cut(
    victim: str, fault: Action | None, autojump_clock: object
) -> None:
    wall = FaultWall()
    configuration = show.providers(wall)
    _break(wall[victim], fault)
    engine = cortex.Engine(
        configuration, orchestrator_model=show.ORCHESTRATOR, worker_model=show.WORKER, transport=wall.transport()
    )
    async with engine:
        session = engine.create_agent("demo").start_session()
        for number in range(6):
            system: Any = 1 + number % 2
            answer = await session.run(f"question {number}", system=system)
            assert answer.metadata.provider != victim
            assert answer.content == f'{answer.metadata.provider} says: this is my answer to "question {number}".'
            assert answer.metadata.latency_ms < 1_100


def _break(provider: FaultProvider, fault: Action | None) -> None:
    if fault is None:
        provider.down()
    else:
        provider.always(fault)


async def test_a_slow_provider_in_the_demo_is_waited_for(autojump_clock: object) -> None:
    wall = FaultWall()
    configuration = show.providers(wall)
    wall["gemini"].always(Delay(show.PATIENCE / 2, Reply("late but whole")))
    async with cortex.Engine(configuration, worker_model=show.WORKER, transport=wall.transport()) as engine:
        answer = await engine.create_agent("demo").start_session().run("hi")
    assert answer.content == "late but whole"
    assert not answer.metadata.failover


@pytest.mark.slow
def test_the_demo_as_a_process_with_the_real_constants() -> None:
    ended = subprocess.run([sys.executable, "-m", "cortex", "demo"], capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "10 questions: 10 answered" in ended.stdout


@pytest.mark.slow
def test_a_reader_that_leaves_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "cortex", "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(30) == 141


# -------------------------------------------------------------------------------------------------------------- chat


def piped(data: bytes) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(data), "utf-8")


@pytest.fixture
def say(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`say("hello", "/health")`: a conversation of these lines, piped."""

    def go(*lines: str, argv: tuple[str, ...] = ()) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", piped("".join(f"{line}\n" for line in lines).encode()))
        return run("chat", *argv)

    return go


def test_a_conversation_goes_on_and_says_who_served(say: Run, providers: FaultWall) -> None:
    code, out, err = say("hello", "", "and you?")
    assert code == 0
    assert out == "Hello from openai.\nHello from openai.\n"
    assert err.count("served by openai/gpt-4o, System 1") == 2
    assert [len(seen.body["messages"]) for seen in providers["openai"].requests] == [1, 3]


def test_a_line_in_another_encoding_is_no_message(
    run: Run, providers: FaultWall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", piped(b"hello\ncaf\xe9\nstill there?\n\xe2\x82"))
    code, out, err = run("chat")
    assert (code, out.count("Hello from openai.")) == (1, 2)
    assert err.count("cortex: a line that is not utf-8 text was passed over\n") == 2


def test_a_failure_ends_one_answer_and_not_the_conversation(say: Run, providers: FaultWall) -> None:
    providers["openai"].script(Status(400, message="no such thing"))
    code, out, err = say("hello", "again")
    assert code == 1
    assert "no such thing" in err
    assert out == "Hello from openai.\n"
    assert [len(seen.body["messages"]) for seen in providers["openai"].requests] == [1, 1]


def test_what_was_cut_off_has_a_line_of_its_own(say: Run, providers: FaultWall) -> None:
    for name in ("openai", "gemini"):
        providers[name].always(
            lambda seen: Cut(after=3, reply=Reply("one two three four")) if seen.text.strip() == "a" else Reply("whole")
        )
    code, out, _ = say("a", "b")
    assert (code, out) == (1, "one two three\nwhole\n")


def test_a_model_that_nobody_has_is_told_before_the_first_word(say: Run, providers: FaultWall) -> None:
    code, out, err = say("hello", argv=("--model", "no-such-model"))
    assert (code, out) == (2, "")
    assert "no-such-model" in err
    assert not providers["openai"].requests


def test_streams_that_are_closed_lose_what_goes_there(
    say: Run, providers: FaultWall, monkeypatch: pytest.MonkeyPatch
) -> None:
    for closed, argv in (("stderr", ("ask", "hi")), ("stdin", ("chat",)), ("stdout", ("ask", "hi"))):
        with monkeypatch.context() as patch:
            patch.setattr(sys, closed, None)
            assert main(argv) == 0
            getattr(sys, closed).close()


def test_a_disk_that_is_full_is_no_fault_of_ours(run: Run, providers: FaultWall) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Screen, "text", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
        code, _, err = run("ask", "hi")
    assert code == 1
    assert err.endswith("cortex: reading or writing here failed: [Errno 28] No space left\n")


def test_the_commands_of_a_conversation(say: Run, providers: FaultWall) -> None:
    code, out, err = say(
        "/health", "/explain", "/system 2", "deep", "/system 3", "/model gemini-2.5-flash", "/system", "fast",
        "/model no-such-model", "/new", "anew", "/what", "/help", "/quit", "never said",
    )  # fmt: skip
    assert code == 0
    assert out == "Hello from gemini.\n" * 3
    for words in (
        "openai: up", "worker gpt-4o:", "served by gemini/gemini-2.5-pro, System 2", "/system takes 1, 2 or nothing",
        "served by gemini/gemini-2.5-flash, System 1", "no-such-model", "/what is none of the commands", "/quit",
    ):  # fmt: skip
        assert words in err
    assert [len(seen.body["contents"]) for seen in providers["gemini"].requests] == [1, 3, 1]


def test_ctrl_c_ends_the_answer_and_its_turn_is_forgotten(
    say: Run, providers: FaultWall, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = chat_room.show_chunk
    pressed: list[bool] = []

    def show(chunk: Any, screen: Any) -> None:
        shown(chunk, screen)
        if not pressed:
            pressed.append(True)
            raise KeyboardInterrupt

    monkeypatch.setattr(chat_room, "show_chunk", show)
    providers["openai"].script(Reply("word " * 1000, pace=0.05))
    code, out, err = say("hello", "again")
    assert code == 1
    assert "interrupted" in err
    assert out.endswith("Hello from openai.\n")
    assert [len(seen.body["messages"]) for seen in providers["openai"].requests] == [1, 1]


def test_a_person_has_a_prompt(run: Run, providers: FaultWall, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = iter(["hello", KeyboardInterrupt(), EOFError()])

    def type_in(prompt: str) -> str:
        assert prompt == "> "
        line = next(typed)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", type_in)
    code, out, err = run("chat")
    assert (code, out) == (0, "Hello from openai.\n")
    assert "/help tells the commands" in err
