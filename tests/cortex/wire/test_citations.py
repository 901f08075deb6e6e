"""The sources of an answer: kept as the vendor names them, whole and streamed, each once."""

from __future__ import annotations

import math
from typing import Any

import pytest

from cortex.messages import Ended
from cortex.wire import WIRES
from cortex.wire.codec import Target

TARGET = Target("p", "https://h/v1", "m", api_key="k")
URL = {"type": "url_citation", "url_citation": {"url": "https://a.example", "title": "A", "start_index": 0}}
FILE = {"type": "file_citation", "file_id": "f1", "index": 3}
WEB = {"type": "web_search_result_location", "url": "https://b.example", "cited_text": "B"}
GROUNDS = {"groundingChunks": [{"web": {"uri": "https://c.example"}}]}
CITED = {"citationSources": [{"startIndex": 1, "uri": "https://d.example"}]}
FOUND = [{"title": "E", "url": "https://e.example"}]
OWN = {"content": "F", "url": None, "filepath": "f.md", "chunk_id": "0"}
REFERENCE = {"type": "reference", "reference_ids": [0, 2]}
SAID = {"type": "message", "content": [{"type": "output_text", "text": "x", "annotations": [FILE]}]}
TEXT = {"content": {"parts": [{"text": "x"}]}}


def chat(payload: dict[str, Any], finish: str | None = "stop", **top: Any) -> dict[str, Any]:
    return {"choices": [{"delta": payload, "message": payload, "finish_reason": finish}], **top}


def block(delta: str, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": delta, **fields}}


WHOLE: list[tuple[str, Any, tuple[Any, ...]]] = [
    ("openai_chat", chat({"content": "x", "annotations": [URL, URL]}), (URL,)),
    ("openai_chat", chat({"content": "x"}, citations=["https://a"], search_results=FOUND), ("https://a", *FOUND)),
    ("openai_chat", chat({"content": "x", "context": {"citations": [OWN], "intent": "[]"}}), (OWN,)),
    ("openai_chat", chat({"content": [{"type": "text", "text": "x"}, REFERENCE]}), (REFERENCE,)),
    ("openai_responses", {"status": "completed", "output": [SAID]}, (FILE,)),
    ("anthropic", {"content": [{"type": "text", "text": "x", "citations": [WEB]}], "stop_reason": "end_turn"}, (WEB,)),
    ("anthropic", {"content": [{"type": "text", "text": "x", "citations": None}], "stop_reason": "end_turn"}, ()),
    (
        "gemini",
        {"candidates": [{**TEXT, "finishReason": "STOP", "groundingMetadata": GROUNDS, "citationMetadata": CITED}]},
        (GROUNDS, CITED),
    ),
]
STREAMS: list[tuple[str, list[Any], tuple[Any, ...]]] = [
    ("openai_chat", [chat({"content": "x"}, None), chat({"annotations": [URL]}, None), chat({})], (URL,)),
    ("openai_chat", [chat({"context": {"citations": [OWN]}}, None), chat({"content": "x"})], (OWN,)),
    ("openai_chat", [chat({"content": [REFERENCE]}, None), chat({"content": "x"})], (REFERENCE,)),
    ("openai_chat", [chat({"content": "x"}, None, citations=["u"]), chat({}, citations=["u", "v"])], ("u", "v")),
    (
        "openai_responses",
        [
            {"type": "response.output_text.delta", "output_index": 0, "delta": "x"},
            {"type": "response.output_text.annotation.added", "output_index": 0, "annotation": FILE},
            {"type": "response.output_item.done", "output_index": 0, "item": SAID},
            {"type": "response.completed", "response": {"status": "completed", "output": [SAID]}},
        ],
        (FILE,),
    ),
    (
        "anthropic",
        [
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "", "citations": []}},
            block("citations_delta", citation=WEB),
            block("text_delta", text="x"),
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
            {"type": "message_stop"},
        ],
        (WEB,),
    ),
    (
        "gemini",
        [
            {"candidates": [{**TEXT, "groundingMetadata": {}}]},
            {"candidates": [{"finishReason": "STOP", "groundingMetadata": GROUNDS}]},
        ],
        (GROUNDS,),
    ),
]


@pytest.mark.parametrize(("kind", "payload", "citations"), WHOLE)
def test_of_a_whole_reply(kind: str, payload: Any, citations: tuple[Any, ...], reply: Any) -> None:
    answer = WIRES[kind].decode(reply(payload), TARGET)
    assert (answer.text, answer.citations) == ("x", citations)
    assert "example" not in repr(answer)


@pytest.mark.parametrize(("kind", "payloads", "citations"), STREAMS)
def test_of_a_stream(kind: str, payloads: list[Any], citations: tuple[Any, ...], read: Any, sse: Any) -> None:
    ended = read(WIRES[kind], [sse(*payloads)])[-1]
    assert isinstance(ended, Ended)
    assert (ended.answer.text, ended.answer.citations) == ("x", citations)


@pytest.mark.parametrize("junk", [None, "", 0, [], [None], [{}], {"a": 1}, "x", True])
def test_what_is_no_source_is_none(junk: Any, reply: Any) -> None:
    answer = WIRES["openai_chat"].decode(reply(chat({"content": "x", "annotations": junk}, citations=junk)), TARGET)
    assert (answer.text, answer.citations) == ("x", ())


def test_a_source_is_as_it_came_even_where_it_is_odd(reply: Any) -> None:
    body = b'{"choices":[{"message":{"content":"x","annotations":[{"a":Infinity},{"b":"\\ud83d"}]}}]}'
    assert WIRES["openai_chat"].decode(reply(body), TARGET).citations == ({"a": math.inf}, {"b": "\ud83d"})
