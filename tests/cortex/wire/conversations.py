"""Random conversations: any at all, however broken, as a long life with many providers may leave them."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from cortex.messages import (
    Image,
    Issuer,
    Message,
    OutputSchema,
    Part,
    Request,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    ToolSpec,
)

OWN, FOREIGN = Issuer("p", "m"), Issuer("q", "m")
texts = st.one_of(st.sampled_from(["", " ", "\n", "hello ", "\ud800x"]), st.text(max_size=5))
ids = st.sampled_from(["", "0", "1", "call_1", "toolu_x", "call.with:odd/chars", "x" * 90, "é"])
names = st.sampled_from(["f", "get weather", "a.b", "9lives", "", "x" * 80])
issuers = st.sampled_from([OWN, FOREIGN, None])
SEALED = '{"type":"reasoning","id":"rs_1","encrypted_content":"sealed","summary":[]}'
signatures = st.sampled_from([None, "sig", SEALED])
nan = float("nan")
arguments = st.sampled_from(
    [({}, ""), ({"a": 1}, '{"a": 1}'), (True, "true"), (None, '{"a": '), ({"a": nan}, '{"a": NaN}'), (None, "")]
)

calls = st.builds(
    lambda i, n, a, s, who: ToolCall(i, n, a[0], a[1], f"{json.dumps(s)}" if s else None, who),
    ids, names, arguments, signatures, issuers,
)  # fmt: skip
images = st.builds(Image, st.none(), st.sampled_from([None, b"", b"\x89PNG"]), st.sampled_from([None, "https://x"]))
user_parts: st.SearchStrategy[Part] = st.one_of(st.builds(Text, texts), images)
results = st.builds(ToolResult, ids, names, texts, st.booleans())
assistant_parts: st.SearchStrategy[Part] = st.one_of(
    st.builds(Text, texts), st.builds(Thinking, texts, signatures, issuers), calls, calls
)


def message(role: Any, parts: st.SearchStrategy[Part]) -> st.SearchStrategy[Message]:
    return st.builds(Message, st.just(role), st.lists(parts, max_size=4).map(tuple))


conversations = st.lists(
    st.one_of(
        message("user", user_parts),
        message("assistant", assistant_parts),
        message("tool", results),
        message("user", st.one_of(user_parts, results)),
        message("system", st.builds(Text, texts)),
    ),
    max_size=8,
)
requests = st.builds(
    Request,
    conversations.map(tuple),
    system=texts,
    tools=st.sampled_from([(), (ToolSpec("f", "d", {"type": "object"}),)]),
    tool_choice=st.sampled_from([None, "none", "required", "f"]),
    output=st.sampled_from([None, OutputSchema("x y", {"type": "object"})]),
    temperature=st.sampled_from([None, 0.0]),
    max_tokens=st.sampled_from([None, 10]),
    stream=st.booleans(),
)
