"""Every recorded reply of a real service, read whole, byte by byte, and cut short.

The expectations came from the vendors' own SDKs. Where this library's neutral values mean something else on purpose
(input with its cached tokens, output with its thoughts), the expectation is computed from the raw usage here.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cortex.messages import (
    Answer,
    Broken,
    Ended,
    Failure,
    Finish,
    Kind,
    Phase,
    TextDelta,
    ThinkingDelta,
    ToolCallReady,
    Usage,
)
from cortex.wire import WIRES
from cortex.wire.codec import HttpReply, Target
from cortex.wire.faults import MESSAGE_LIMIT

DIALECTS = {
    "openai_chat": "openai_chat",
    "openai_compat": "openai_chat",
    "openai_responses": "openai_responses",
    "azure_openai": "openai_chat",
    "anthropic": "anthropic",
    "gemini": "gemini",
    "ollama_native": "ollama",
}
KINDS = {  # what each recorded error is
    "openai_chat/openai-json-error400-01": Kind.BAD_REQUEST,
    "openai_chat/openai-json-error400-02": Kind.BAD_REQUEST,
    "openai_chat/openai-json-error400-03": Kind.BAD_REQUEST,
    "openai_chat/openai-json-error401-01": Kind.CREDENTIAL,
    "openai_chat/openai-json-error404-02": Kind.MODEL_GONE,
    "openai_chat/openai-json-error404-03": Kind.MODEL_GONE,
    "openai_chat/openai-json-error429-02": Kind.QUOTA,
    "openai_chat/openai-json-error500-01": Kind.TRANSIENT,
    "openai_chat/openai-json-error503-01": Kind.OVERLOADED,
    "openai_compat/groq-json-error400-02": Kind.BAD_REQUEST,
    "openai_compat/groq-json-error404-01": Kind.MODEL_GONE,
    "openai_compat/groq-json-error404-02": Kind.MODEL_GONE,
    "openai_compat/litellm-json-error400-01": Kind.CONTEXT,
    "openai_compat/litellm-json-error400-02": Kind.MODEL_GONE,
    "openai_compat/litellm-json-error400-03": Kind.BAD_REQUEST,
    "openai_compat/litellm-json-error429-01": Kind.RATE_LIMIT,
    "openai_compat/litellm-json-error500-01": Kind.TRANSIENT,
    "openai_compat/llamacpp-json-error400-03": Kind.CONTEXT,
    "openai_compat/llamacpp-json-error404-01": Kind.ROUTE_GONE,
    "openai_compat/mistral-json-error401-01": Kind.CREDENTIAL,
    "openai_compat/ollama-json-error503-01": Kind.OVERLOADED,
    "openai_compat/ollama_cloud-json-error400-01": Kind.CONTEXT,
    "openai_compat/ollama_cloud-json-error401-01": Kind.CREDENTIAL,
    "openai_compat/openrouter-json-error401-01": Kind.CREDENTIAL,
    "openai_compat/perplexity-json-error400-01": Kind.CONTEXT,
    "openai_compat/proxy-json-error502-01": Kind.TRANSIENT,
    "openai_compat/vllm-json-error400-02": Kind.BAD_REQUEST,
    "openai_compat/vllm-json-error404-02": Kind.MODEL_GONE,
    "openai_responses/deepseek-json-error400-01": Kind.BAD_REQUEST,
    "openai_responses/openai-json-error400-03": Kind.BAD_REQUEST,
    "openai_responses/openai-json-error400-05": Kind.SIGNATURE,
    "openai_responses/openai-json-error400-06": Kind.MODEL_GONE,
    "openai_responses/openai-json-error400-08": Kind.BAD_REQUEST,
    "openai_responses/openai-json-error401-01": Kind.CREDENTIAL,
    "openai_responses/openai-json-error429-01": Kind.QUOTA,
    "openai_responses/openai-sse-error400-01": Kind.BAD_REQUEST,
    "openai_responses/openai-sse-stream_error-01": Kind.QUOTA,
    "openai_responses/openai-sse-stream_error-02": Kind.OVERLOADED,
    "openai_responses/openai-sse-stream_error-03": Kind.OVERLOADED,
    "openai_responses/xai-json-error400-01": Kind.CREDENTIAL,
    "azure_openai/azure-json-error400-01": Kind.CONTENT,
    "azure_openai/azure-json-error404-01": Kind.MODEL_GONE,
    "azure_openai/azure-json-error404-02": Kind.ROUTE_GONE,
    "azure_openai/azure-json-error429-01": Kind.RATE_LIMIT,
    "anthropic/anthropic-json-error400-01": Kind.CONTEXT,
    "anthropic/anthropic-json-error400-02": Kind.BAD_REQUEST,
    "anthropic/anthropic-json-error404-02": Kind.MODEL_GONE,
    "anthropic/anthropic-json-error429-01": Kind.RATE_LIMIT,
    "anthropic/anthropic-json-error529-02": Kind.OVERLOADED,
    "anthropic/anthropic-sse-stream_error-01": Kind.OVERLOADED,
    "anthropic/litellm-json-error429-01": Kind.RATE_LIMIT,
    "anthropic/vllm-json-error400-01": Kind.BAD_REQUEST,
    "gemini/gemini-json-error400-01": Kind.CREDENTIAL,
    "gemini/gemini-json-error404-01": Kind.MODEL_GONE,
    "gemini/gemini-json-error429-01": Kind.RATE_LIMIT,
    "gemini/gemini-json-error429-02": Kind.OVERLOADED,
    "gemini/gemini-json-error429-03": Kind.RATE_LIMIT,
    "gemini/vertex-json-error400-01": Kind.CONTEXT,
    "gemini/vertex-json-error400-02": Kind.BAD_REQUEST,
    "gemini/vertex-json-error400-03": Kind.BAD_REQUEST,
    "gemini/vertex-json-error400-04": Kind.BAD_REQUEST,
    "ollama_native/ollama-json-error404-01": Kind.MODEL_GONE,
}
FINISH = {  # what each recorded reason is, beside those of answers that end in calls
    "stop": Finish.STOP,
    "STOP": Finish.STOP,
    "end_turn": Finish.STOP,
    "completed": Finish.STOP,
    "length": Finish.LENGTH,
    "MAX_TOKENS": Finish.LENGTH,
    "max_tokens": Finish.LENGTH,
    "incomplete:max_output_tokens": Finish.LENGTH,
    "content_filter": Finish.CONTENT_FILTER,
    "incomplete:content_filter": Finish.CONTENT_FILTER,
    "SAFETY": Finish.CONTENT_FILTER,
    "MODEL_ARMOR": Finish.CONTENT_FILTER,
    "refusal": Finish.REFUSAL,
}
# The SDK saw a success without choices; the body is Azure's content filter, an error under status 200.
ERROR_IN_200 = {"azure_openai/azure-json-multi_choice_or_none-01": Kind.CONTENT}
TARGET = Target("p", "https://h/v1", "m", api_key="k-not-a-secret")


def is_stream(case: dict[str, Any]) -> bool:
    return case["stream"] and case["response"]["status"] == 200


def result_of(case: dict[str, Any], read: Any) -> Answer | Failure:
    response, wire = case["response"], WIRES[DIALECTS[case["dialect"]]]
    body = response["body"].encode()
    if is_stream(case):
        verdict = read(wire, [body], TARGET)[-1]
        return verdict.answer if isinstance(verdict, Ended) else verdict.failure
    headers = {name.lower(): value for name, value in response["headers"].items()}
    return wire.decode(HttpReply(response["status"], headers, body), TARGET)


def test_no_recorded_case_is_forgotten(recorded: Path) -> None:
    index = {row["id"] for row in json.loads((recorded / "index.json").read_text())}
    assert index == {path.relative_to(recorded).with_suffix("").as_posix() for path in recorded.glob("*/*.json")}
    assert {ident.partition("/")[0] for ident in index} == set(DIALECTS)
    assert set(DIALECTS.values()) <= set(WIRES)


def test_what_it_says(case: dict[str, Any], read: Any) -> None:
    expect, result = case["expect"], result_of(case, read)
    if expect["error"] or case["id"] in ERROR_IN_200:
        assert isinstance(result, Failure)
        assert result.kind is {**KINDS, **ERROR_IN_200}[case["id"]]
        if expect["error"]:
            assert_error(result, case)
        return
    assert isinstance(result, Answer), result
    assert result.text == (expect["text"] or "") + (expect.get("refusal") or "")
    assert result.thinking == (expect.get("thinking_text") or "")
    assert result.raw_finish == (expect["finish_reason"] or expect.get("block_reason"))
    assert result.model_reported == expect["model"]
    assert result.usage == expected_usage(case) or expected_usage(case) is None
    assert_calls(result, case)
    assert result.finish is expected_finish(case, result)


SOURCES = (
    "citations",
    "citation",
    "annotations",
    "annotation",
    "search_results",
    "groundingMetadata",
    "citationMetadata",
)


def sources(value: Any) -> Iterator[Any]:
    """What a reply's body names as sources, wherever it does."""
    if isinstance(value, list):
        yield from (source for child in value for source in sources(child))
    elif isinstance(value, dict):
        for name, child in value.items():
            if name in SOURCES and not (
                name == "annotations" and isinstance(child, dict)
            ):  # a tool's own are no sources
                yield from child if isinstance(child, list) else [child]
            else:
                yield from sources(child)


def payloads(case: dict[str, Any]) -> list[Any]:
    """The JSON in a body: one value, or that of each event or line."""
    body = case["response"]["body"]
    if not is_stream(case) or body.startswith("["):
        return [json.loads(body)]
    lines = (line.removeprefix("data:").strip() for line in re.split("[\r\n]+", body))
    return [json.loads(line) for line in lines if line.startswith("{")]


def named_sources(case: dict[str, Any]) -> list[Any]:
    """Each of a reply's sources once, in order."""
    return [*{json.dumps(one): one for payload in payloads(case) for one in sources(payload) if one}.values()]


def test_the_sources_it_names_are_kept_as_they_are(case: dict[str, Any], read: Any) -> None:
    result = result_of(case, read)
    if isinstance(result, Answer):
        assert [*result.citations] == named_sources(case)


def test_sources_are_recorded_in_every_way_they_come(recorded: Path) -> None:
    cases = [json.loads(path.read_text()) for path in recorded.glob("*/*_citation-*.json")]
    ways = {(DIALECTS[case["dialect"]], is_stream(case)) for case in cases if named_sources(case)}
    assert ways == {(kind, way) for kind in ("anthropic", "gemini", "openai_responses") for way in (True, False)}


def expected_finish(case: dict[str, Any], result: Answer) -> Finish:
    if case["expect"].get("refusal"):
        return Finish.REFUSAL
    named = FINISH.get(result.raw_finish or "", Finish.STOP)
    return Finish.TOOL_CALLS if named is Finish.STOP and case["expect"]["tool_calls"] else named


def assert_error(result: Failure, case: dict[str, Any]) -> None:
    error, inside = case["expect"]["error"], is_stream(case)
    assert result.status == (None if inside else error["status"])
    assert result.phase is (Phase.STREAM if inside else Phase.HEADERS)
    words = [str(word) for word in (error["code"], error["type"]) if word is not None]
    told = next((word for word in words if not word.isdigit()), next(iter(words), None))
    if case["provider"] != "xai":  # whose code stands beside `error`, where the SDK does not look
        assert result.code == told, "the name, else the number"
    message = error["message"].strip()
    if message.startswith("<html"):
        message = re.search("<title>(.*)</title>", message)[1]
    assert result.message == (message if len(message) <= MESSAGE_LIMIT else message[: MESSAGE_LIMIT - 1] + "…")


def assert_calls(result: Answer, case: dict[str, Any]) -> None:
    expected = case["expect"]["tool_calls"]
    if any(call.get("partial") for call in expected):  # the SDK gives the pieces; ours are put together
        assert all(call.name and call.arguments for call in result.tool_calls if call.name != "read_theme")
        assert len(result.tool_calls) == sum(call["name"] is not None for call in expected)
        return
    named = [(call["name"], call["arguments"]) for call in expected]
    assert [(call.name, call.arguments) for call in result.tool_calls] == named
    for call, wanted in zip(result.tool_calls, expected, strict=True):
        assert call.id
        assert call.id == (wanted["id"] or call.id)


def expected_usage(case: dict[str, Any]) -> Usage | None:
    raw, expect = case["expect"].get("usage_raw"), case["expect"]
    if case["dialect"] == "ollama_native":
        return Usage(expect["input_tokens"], expect["output_tokens"])
    if not raw:
        return None
    if case["dialect"] == "anthropic":
        cached = raw.get("cache_read_input_tokens")
        written = raw.get("cache_creation_input_tokens")
        known = [raw.get("input_tokens"), cached, written]
        thought = (raw.get("output_tokens_details") or {}).get("thinking_tokens")
        return Usage(sum(n for n in known if n is not None), raw.get("output_tokens"), cached, thought, written)
    if case["dialect"] == "gemini":
        thoughts, said = raw.get("thoughts_token_count"), raw.get("candidates_token_count")
        output = None if thoughts is None and said is None else (thoughts or 0) + (said or 0)
        known = [raw.get(name) for name in ("prompt_token_count", "tool_use_prompt_token_count")]
        given = sum(n for n in known if n) if any(n is not None for n in known) else None
        return Usage(given, output, raw.get("cached_content_token_count"), thoughts)
    if case["dialect"] == "openai_responses":
        cached = (raw.get("input_tokens_details") or {}).get("cached_tokens")
        reasoning = (raw.get("output_tokens_details") or {}).get("reasoning_tokens")
        return Usage(raw.get("input_tokens"), raw.get("output_tokens"), cached, reasoning)
    reasoning = (raw.get("completion_tokens_details") or {}).get("reasoning_tokens")
    cached = (raw.get("prompt_tokens_details") or {}).get("cached_tokens", raw.get("prompt_cache_hit_tokens"))
    output = expect["output_tokens"] + (reasoning if case["provider"] == "xai" else 0)
    return Usage(expect["input_tokens"], output, cached, reasoning)


def whole(stream: dict[str, Any], read: Any) -> tuple[Any, bytes, list[Any]]:
    """The stream's dialect, its bytes, and what they give uncut."""
    wire, body = WIRES[DIALECTS[stream["dialect"]]], stream["response"]["body"].encode()
    return wire, body, read(wire, [body], TARGET)


def test_byte_by_byte_is_the_same(stream: dict[str, Any], read: Any) -> None:
    wire, body, expected = whole(stream, read)
    assert read(wire, [body[i : i + 1] for i in range(len(body))], TARGET) == expected


def test_what_is_shown_is_what_the_answer_holds(stream: dict[str, Any], read: Any) -> None:
    _, _, events = whole(stream, read)
    if stream["expect"]["error"]:
        assert isinstance(events[-1], Broken)
        return
    answer = events[-1].answer
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == answer.text
    assert "".join(event.text for event in events if isinstance(event, ThinkingDelta)) == answer.thinking
    ready = [event.call for event in events if isinstance(event, ToolCallReady)]
    assert ready == [call for call in answer.tool_calls if call in ready]
    assert all(call.arguments is None for call in answer.tool_calls if call not in ready)


def test_a_cut_is_never_an_answer(stream: dict[str, Any], read: Any) -> None:
    terminal = terminal_at(stream)
    for place in (1, terminal // 2, terminal - 1):
        assert_cut(stream, place, terminal, read)


@pytest.mark.slow
def test_a_cut_anywhere_is_never_an_answer(stream: dict[str, Any], read: Any, chunks: Any) -> None:
    wire, body, expected = whole(stream, read)
    terminal, rng = terminal_at(stream), random.Random(stream["id"])
    for place in [rng.randrange(1, len(body)) for _ in range(20)]:
        assert_cut(stream, place, terminal, read)
        cuts = [rng.randrange(len(body)) for _ in range(rng.randrange(9))]
        assert read(wire, chunks(body, [place, *cuts]), TARGET) == expected


def assert_cut(stream: dict[str, Any], place: int, terminal: int, read: Any) -> None:
    wire, body, events = whole(stream, read)
    verdict = read(wire, [body[:place]], TARGET)[-1]
    if place < terminal:
        assert isinstance(verdict, Broken), place
        assert verdict.failure.kind is Kind.CUT
    elif isinstance(verdict, Ended):  # what may still come after it is the usage
        answer = events[-1].answer
        assert (verdict.answer.parts, verdict.answer.finish) == (answer.parts, answer.finish)
    else:
        assert verdict == events[-1]


def terminal_at(stream: dict[str, Any]) -> int:
    """Where the event that ends the answer is whole, as found by somebody who knows none of our code."""
    dialect, body = stream["dialect"], stream["response"]["body"].encode()
    if body.startswith(b"["):
        return len(body)
    if dialect == "ollama_native":
        return body.index(b"\n", body.index(b'"done":true'))  # the line is whole without its end
    if dialect == "anthropic":
        mark = re.search(rb"event: (message_stop|error)", body)
    elif dialect == "openai_responses":
        mark = re.search(rb'"type": ?"(response\.(completed|incomplete|failed)|error)"', body)
    elif dialect == "gemini":
        mark = re.search(rb'"finishReason": ?"', body)
    else:
        mark = re.search(rb'"finish_reason": ?"', body) or re.search(rb"data: \[DONE\]", body)
    assert mark
    end = re.compile(rb"\n\n|\r\n\r").search(body, mark.start())  # the CR alone ends a line
    assert end
    return end.end()
