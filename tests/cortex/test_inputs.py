"""What users pass with a call: the shapes that are taken, and an early error that names the item for the rest."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex import inputs
from cortex.errors import ConfigError
from cortex.messages import Image, Message, Text, Thinking, ToolCall, ToolResult

PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)
JPEG = b"\xff\xd8\xff\xe0" + bytes(8)
GIF = b"GIF89a" + bytes(8)
WEBP = b"RIFF\x00\x00\x00\x00WEBPVP8 "
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}


def user(text: str) -> Message:
    return Message("user", (Text(text),))


# --------------------------------------------------------------------------------------------------- conversations


@pytest.mark.parametrize(
    "messages",
    ["hello", ["hello"], {"role": "user", "content": "hello"}, [{"role": "user", "content": "hello"}], user("hello")],
    ids=["text", "list", "dict", "dicts", "Message"],
)
def test_one_message_in_every_shape(messages: object) -> None:
    assert inputs.conversation(messages) == ("", (user("hello"),))


def test_system_messages_become_the_prompt_wherever_they_stand() -> None:
    system, rest = inputs.conversation(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hi"},
            {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        ]
    )
    assert system == "Be brief.\n\nBe kind."
    assert rest == (user("hi"),)


def test_a_round_of_tools_in_the_openai_shape() -> None:
    second = {"id": "c2", "type": "function", "function": {"name": "sub", "arguments": {"b": 2}}}
    _, messages = inputs.conversation(
        [
            "count",
            {"role": "assistant", "content": None, "tool_calls": [CALL, second], "refusal": None},
            {"role": "tool", "tool_call_id": "c1", "content": "3"},
            {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "4"}]},
            {"role": "assistant", "content": "done"},
        ]
    )
    assert messages[1].parts == (
        ToolCall("c1", "add", {"a": 1}, '{"a": 1}'),
        ToolCall("c2", "sub", {"b": 2}, '{"b": 2}'),
    )
    assert messages[2] == Message("tool", (ToolResult("c1", "add", "3"), ToolResult("c2", "sub", "4")))
    assert messages[3] == Message("assistant", (Text("done"),))


def test_arguments_that_are_no_json_stay_as_they_are() -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": "{oops"}}
    _, messages = inputs.conversation(["x", {"role": "assistant", "tool_calls": [call]}])
    assert messages[1].parts == (ToolCall("c", "f", None, "{oops"),)


def test_an_empty_answer_may_stand_in_a_history() -> None:
    _, messages = inputs.conversation(["hi", {"role": "assistant", "content": ""}, "well?"])
    assert messages[1] == Message("assistant", (Text(""),))


def test_the_parts_of_a_message_may_be_texts_and_images() -> None:
    url = "https://example.com/cat.png"
    content = [{"type": "text", "text": "what is"}, {"type": "image_url", "image_url": {"url": url}}, "this?"]
    _, messages = inputs.conversation([{"role": "user", "content": content}])
    assert messages[0].parts == (Text("what is"), Image(url=url), Text("this?"))


def test_how_closely_to_look_at_an_image() -> None:
    url = "https://example.com/cat.png"
    content = [{"type": "image_url", "image_url": {"url": url, "detail": "low"}}, Image(url=url, detail="high")]
    _, messages = inputs.conversation([{"role": "user", "content": content}], images=[Image(data=PNG, detail="auto")])
    assert [part.detail for part in messages[0].parts if isinstance(part, Image)] == ["low", "high", "auto"]


def test_what_an_sdk_leaves_empty_in_a_message_is_no_matter() -> None:
    dumped = {"role": "assistant", "content": None, "refusal": "I can't.", "tool_calls": [], "audio": None}
    parts = {"role": "assistant", "content": [{"type": "refusal", "refusal": "I can't."}], "prefix": False}
    for one in (dumped, parts):
        _, messages = inputs.conversation(["x", one, "why?"])
        assert messages[1] == Message("assistant", (Text("I can't."),))


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_an_answer_as_a_compatible_server_gives_it(name: str) -> None:
    given = {"role": "assistant", "content": "Yes.", name: "Hm.", "annotations": [{"type": "url_citation"}]}
    _, messages = inputs.conversation(["x", given, "why?"])
    assert messages[1] == Message("assistant", (Thinking("Hm."), Text("Yes.")))


def test_the_texts_of_a_tools_result_stay_apart() -> None:
    call = {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f"}}]}
    texts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    _, messages = inputs.conversation(["x", call, {"role": "tool", "tool_call_id": "1", "content": texts}])
    assert messages[2].parts == (ToolResult("1", "f", "one\n\ntwo"),)


def test_what_only_the_text_of_the_arguments_says_is_read() -> None:
    calls = (
        ToolCall("1", "f", None, '{"a": 1}'),
        ToolCall("2", "f", {}, '{"a": 1}'),
        ToolCall("3", "f", None, "{oops"),
    )
    for message in (Message("assistant", calls), {"role": "assistant", "tool_calls": calls}):
        _, messages = inputs.conversation(["x", message])
        read = [part.arguments for part in messages[1].parts if isinstance(part, ToolCall)]
        assert read == [{"a": 1}, {"a": 1}, None]


def test_a_message_of_values_is_taken_as_it_is() -> None:
    answer = Message("assistant", (Thinking("hm", "sig"), Text("yes"), ToolCall("1", "f", {}, "{}")))
    results = Message("tool", (ToolResult("1", "f", "ok"),))
    assert inputs.conversation([user("hi"), answer, results]) == ("", (user("hi"), answer, results))


CIRCLE: dict[str, Any] = {}
CIRCLE["again"] = CIRCLE
CALLED = Message("assistant", (ToolCall("1", "f"),))
OPAQUE_CALL = {"id": "1", "function": {"name": "f", "arguments": {"a": object()}}}
WRONG_PARTS: list[tuple[Any, str]] = [
    (ToolCall(1, "f"), r"^messages\[1\]\.parts\[0\]\.id: must be a text, not int"),  # type: ignore[arg-type]
    (ToolCall("1", None), r"^messages\[1\]\.parts\[0\]\.name: must be a text, not None"),  # type: ignore[arg-type]
    (ToolCall("1", "f", {"a": object()}), r"^messages\[1\]\.parts\[0\]\.arguments: cannot be written as JSON"),
    (ToolCall("1", "f", CIRCLE), r"^messages\[1\]\.parts\[0\]\.arguments: cannot be written as JSON"),
    (ToolCall("1", "f", {}, 5), r"^messages\[1\]\.parts\[0\]\.raw_arguments: .*not int"),  # type: ignore[arg-type]
    (ToolCall("1", "f", signature=b"x"), r"^messages\[1\]\.parts\[0\]\.signature: .*not bytes"),  # type: ignore[arg-type]
    (Thinking("hm", 5), r"^messages\[1\]\.parts\[0\]\.signature: must be a text, not int"),  # type: ignore[arg-type]
    (Thinking("hm", "s", "openai"), r"^messages\[1\]\.parts\[0\]\.issuer: .*not str"),  # type: ignore[arg-type]
]
WRONG = [
    ("", r"^messages\[0\]: is empty"),
    ("  \n", r"^messages\[0\]: is empty"),
    ([], "hold nothing to answer"),
    ([{"role": "system", "content": "x"}], "hold nothing to answer"),
    (7, "^messages: must be a text, or a list .* not int"),
    (None, "^messages: .* not None"),
    (b"hi", "^messages: .* not bytes"),
    ([7], r"^messages\[0\]: must be a text, a dict or a Message, not int"),
    ([{"content": "x"}], r"^messages\[0\]\.role: is missing"),
    ([{"role": "usr", "content": "x"}], r'^messages\[0\]\.role: .*did you mean "user"'),
    ([{"role": 1, "content": "x"}], r"^messages\[0\]\.role: .*not int"),
    (["a", {"role": "user", "content": ""}], r"^messages\[1\]\.content: is empty"),
    ([{"role": "user"}], r"^messages\[0\]\.content: is empty"),
    ([{"role": "user", "content": 5}], r"^messages\[0\]\.content: .*not int"),
    ([{"role": "user", "content": "x", "contnet": "y"}], r'unknown key \'contnet\'; did you mean "content"'),
    (
        ["a", {"role": "assistant", "content": "x", "reasoning": 5}],
        r"^messages\[1\]\.reasoning: must be a text, not int",
    ),
    ([{"role": "user", "content": "x", "name": "Bob"}], r"^messages\[0\]\.name: only some vendors"),
    ([{"role": "user", "content": "x", "cache_control": {"type": "ephemeral"}}], r"^messages\[0\]\.cache_control: "),
    (
        [{"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]}],
        r"^messages\[0\]\.content\[0\]\.cache_control: .*extra",
    ),
    ([{"role": "user", "content": [{"type": "text", "text": "x", "txt": "y"}]}], r"content\[0\]: unknown key 'txt'"),
    (
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x.y", "detail": "all"}}]}],
        r"^messages\[0\]\.content\[0\]\.image_url\.detail: must be one of low, high, auto",
    ),
    ([{"role": "user", "content": [{"type": "txt"}]}], r"^messages\[0\]\.content\[0\]\.type: must be one of"),
    ([{"role": "user", "content": [{"type": "text", "text": 3}]}], r"content\[0\]\.text: must be a text, not int"),
    ([{"role": "system", "content": [{"type": "image_url", "image_url": "https://x.y"}]}, "a"], "cannot hold Image"),
    (["a", {"role": "assistant", "tool_calls": "f"}], r"^messages\[1\]\.tool_calls: must be a list, not str"),
    (["a", {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}], r"tool_calls\[0\]\.id"),
    (["a", {"role": "assistant", "tool_calls": [{"id": "1"}]}], r"tool_calls\[0\]\.function: .*not None"),
    ([{"role": "tool", "tool_call_id": "c1", "content": "3"}], "tool result for 'c1' has no call before it"),
    (["a", {"role": "tool", "tool_call_id": "c1", "content": "3"}], "tool result for 'c1' has no call before it"),
    (["a", {"role": "tool", "content": "3"}], r"^messages\[1\]\.tool_call_id: "),
    ([Message("user", ())], r"^messages\[0\]\.parts: "),
    ([Message("user", (ToolResult("1", "f", "x"),))], r"^messages\[0\]\.parts\[0\]: .*not ToolResult"),
    ([Message("user", (Text(3),))], r"parts\[0\]\.text: must be a text, not int"),  # type: ignore[arg-type]
    *((["a", Message("assistant", (part,))], match) for part, match in WRONG_PARTS),
    (
        ["a", {"role": "assistant", "content": [ToolCall("1", "f", {"a": object()})]}],
        r"content\[0\]\.arguments: cannot",
    ),
    (["a", {"role": "assistant", "tool_calls": [ToolCall(1, "f")]}], r"tool_calls\[0\]\.id: .*not int"),  # type: ignore[arg-type]
    (["a", {"role": "assistant", "tool_calls": [OPAQUE_CALL]}], r"tool_calls\[0\]\.function\.arguments: cannot"),
    ([{"role": "user", "content": [Image(data=b"junk")]}], r"^messages\[0\]\.content\[0\]: is no PNG"),
    ([Message("user", (Image(url="file:///etc/passwd"),))], r"^messages\[0\]\.parts\[0\]\.url: must begin with http"),
    (["a", CALLED, Message("tool", (ToolResult("1", "f", {"a": 1}),))], r"\.content: must be a text, not dict"),  # type: ignore[arg-type]
    (["a", CALLED, Message("tool", (ToolResult(1, "f", "x"),))], r"\.call_id: must be a text, not int"),  # type: ignore[arg-type]
    (["half \ud800 a pair"], r"^messages\[0\]: holds half a surrogate pair"),
]


@pytest.mark.parametrize(("messages", "match"), WRONG, ids=[match for _, match in WRONG])
def test_what_cannot_work_is_named(messages: object, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        inputs.conversation(messages)


# ---------------------------------------------------------------------------------------------- messages and images


def test_message_takes_a_text_or_a_message_of_the_user() -> None:
    assert inputs.message("hi") == user("hi")
    assert inputs.message(user("hi")) == user("hi")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "^message: is empty"),
        (None, "^message: must be a text or a Message, not None"),
        (["hi"], "^message: .*not list"),
        (Message("assistant", (Text("x"),)), "^message.role: must be user, not assistant"),
    ],
)
def test_message_refuses_the_rest(text: object, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        inputs.message(text)


@pytest.mark.parametrize(
    ("data", "media_type"), [(PNG, "image/png"), (JPEG, "image/jpeg"), (GIF, "image/gif"), (WEBP, "image/webp")]
)
def test_the_bytes_say_what_an_image_is(data: bytes, media_type: str) -> None:
    expected = Message("user", (Text("see"), Image(media_type=media_type, data=data)))
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    for form in (data, bytearray(data), memoryview(data), url, Image(media_type="image/x", data=data)):
        assert inputs.message("see", [form]) == expected


def test_a_web_address_is_passed_on() -> None:
    assert inputs.message("see", ("HTTPS://x.y/a",)).parts[1] == Image(url="HTTPS://x.y/a")
    told = Image("image/webp", url="https://x.y/a")
    assert inputs.message("see", (told,)).parts[1] == told


def test_an_image_that_is_a_data_url_is_its_bytes() -> None:
    url = "data:image/png;base64," + base64.b64encode(PNG).decode()
    assert inputs.message("see", [Image(url=url)]).parts[1] == Image("image/png", PNG)


def test_images_go_with_the_last_message_of_the_user() -> None:
    _, messages = inputs.conversation(["a", {"role": "assistant", "content": "b"}, "c"], images=[PNG])
    assert [len(message.parts) for message in messages] == [1, 1, 2]


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (PNG, "^images: must be a list, not bytes"),
        ("https://x.y", "^images: must be a list, not str"),
        ([PNG, b"plain"], r"^images\[1\]: is no PNG, JPEG, GIF or WebP"),
        ([b""], r"^images\[0\]: is no PNG"),
        (["cat.png"], r"^images\[0\]: must begin with http://"),
        ([Path("cat.png")], r"^images\[0\]: .*read_bytes"),
        (["data:image/png;base64,???"], r"^images\[0\]: is not valid base64"),
        (["data:text/plain,hi"], r"^images\[0\]: must be a data URL in base64"),
        (["data:image/png;base64,aGk="], r"^images\[0\]: is no PNG.*declared as image/png"),
        ([Image()], r"^images\[0\]: an Image has either data or a url"),
        ([Image(url="data:application/pdf;base64,AAAA")], r"^images\[0\]\.url: is no PNG, JPEG, GIF or WebP"),
        ([Image(url="data:image/png,zz")], r"^images\[0\]\.url: must be a data URL in base64"),
        ([Image(url="file:///etc/passwd")], r"^images\[0\]\.url: must begin with http://"),
        ([Image(url=b"https://x.y")], r"^images\[0\]\.url: must be a text, not bytes"),  # type: ignore[arg-type]
        ([Image("image/tiff", url="https://x.y")], r"^images\[0\]\.media_type: must be one of image/png, "),
        ([3], r"^images\[0\]: .*not int"),
    ],
)
def test_an_image_that_is_none_is_named(images: object, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        inputs.message("see", images)


# --------------------------------------------------------------------------------------------------- call options


def test_options_default_to_nothing_said() -> None:
    assert inputs.options() == inputs.CallOptions()


def test_options_are_taken() -> None:
    got = inputs.options(
        temperature=1, max_tokens=5, timeout=2, extra={"top_p": 0.5}, role="orchestrator", model="x", system=2
    )
    assert (got.temperature, got.max_tokens, got.timeout, got.extra) == (1.0, 5, 2.0, {"top_p": 0.5})
    assert (got.role, got.model, got.system) == ("orchestrator", "x", 2)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("temperature", "hot"),
        ("temperature", 3),
        ("temperature", math.nan),
        ("temperature", True),
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("timeout", 0),
        ("timeout", "5s"),
        ("timeout", math.inf),
        ("extra", ["top_p"]),
        ("extra", {"f": object()}),
        ("extra", {"f": math.nan}),
        ("extra", {1: 2}),
        ("extra.model", {"model": "another"}),
        ("extra.messages", {"messages": []}),
        ("extra.contents", {"contents": []}),
        ("extra.input", {"input": "x"}),
        ("extra.stream", {"stream": True}),
        ("role", "boss"),
        ("role", None),
        ("model", ""),
        ("model", 3),
        ("system", 3),
        ("system", True),
        ("system", "2"),
        ("system", [1]),
        ("tool_choice", 5),
    ],
)
def test_a_wrong_option_is_named(option: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^{option}"):
        inputs.options(**{option.partition(".")[0]: value})


# ----------------------------------------------------------------------------------------------------- properties

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["role", "content", "tool_calls", "tool_call_id", "type", "text", "image_url", "function"])
            | st.text(max_size=4),
            inner | st.sampled_from(["user", "assistant", "tool", "system", "text", "image_url"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_rubbish_is_a_config_error_and_nothing_else(messages: object) -> None:
    fault = ""
    try:
        system, read = inputs.conversation(messages)
    except ConfigError as error:
        fault = str(error)
    else:
        assert all(message.parts for message in read)
        assert read
        json.dumps(system).encode()
    assert not fault or fault.startswith("messages")


@given(st.lists(st.text(min_size=1, alphabet=st.characters(codec="utf-8")).filter(str.strip), min_size=1, max_size=4))
def test_texts_come_through_unchanged(texts: list[str]) -> None:
    _, read = inputs.conversation(texts)
    assert [message.text for message in read] == texts
