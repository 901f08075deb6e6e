"""The vendors' own clients read the wall as they read the vendors: the proof that it speaks like them."""

from __future__ import annotations

import pytest

from cortex.testing import Cut, FaultWall, Refuse, Reply, Status, StreamError, ToolCall, ToolCalls

pytestmark = [
    pytest.mark.slow,  # importing the three clients takes seconds
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # theirs, at import
]
SAID = Reply("Paris is nice.", thinking="The user asks.", usage=(11, 7))
WEATHER = ToolCalls(("weather", {"city": "Paris", "days": 3}), ToolCall("news", {}), text="Let me see.")
CALLED = [("weather", {"city": "Paris", "days": 3}), ("news", {})]
STATUSES = [400, 401, 403, 404, 409, 422, 429, 500, 503, 529]
HI = [{"role": "user", "content": "hi"}]
DELTAS = ("response.output_text.delta", "response.reasoning_summary_text.delta")


@pytest.fixture
def wall():
    with FaultWall() as wall:
        yield wall


def class_of(sdk, status):
    """What OpenAI's and Anthropic's clients raise for a status."""
    classes = {
        400: sdk.BadRequestError,
        401: sdk.AuthenticationError,
        403: sdk.PermissionDeniedError,
        404: sdk.NotFoundError,
        409: sdk.ConflictError,
        422: sdk.UnprocessableEntityError,
        429: sdk.RateLimitError,
    }
    return classes.get(status, sdk.InternalServerError)


class TestOpenAI:
    @pytest.fixture
    def sdk(self):
        return pytest.importorskip("openai")

    @pytest.fixture
    def provider(self, wall):
        return wall.add("openai")

    @pytest.fixture
    def chat(self, sdk, provider):
        with sdk.OpenAI(api_key="key", base_url=provider.base_url, max_retries=0, timeout=5) as client:
            yield lambda **fields: client.chat.completions.create(model="gpt-4o", messages=HI, **fields)

    def test_json(self, provider, chat):
        provider.script(SAID)
        got = chat()
        assert got.choices[0].message.content == "Paris is nice."
        assert got.choices[0].message.reasoning_content == "The user asks."
        assert got.choices[0].finish_reason == "stop"
        assert (got.model, got.usage.prompt_tokens, got.usage.completion_tokens) == ("gpt-4o", 11, 7)

    @pytest.mark.parametrize("counted", [True, False])
    def test_stream(self, provider, chat, counted):
        provider.script(SAID)
        options = {"stream_options": {"include_usage": True}} if counted else {}
        events = list(chat(stream=True, **options))
        assert "".join(event.choices[0].delta.content or "" for event in events if event.choices) == "Paris is nice."
        assert [event.choices[0].finish_reason for event in events if event.choices][-1] == "stop"
        assert [event.usage.total_tokens for event in events if event.usage] == ([18] if counted else [])

    def test_tool_calls(self, provider, chat):
        import json

        provider.script(WEATHER, WEATHER)
        message = chat().choices[0].message
        assert [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls] == CALLED
        calls: dict[int, list[str]] = {}
        ids = []
        for event in chat(stream=True):
            for call in event.choices[0].delta.tool_calls or ():
                row = calls.setdefault(call.index, ["", ""])
                row[0] += call.function.name or ""
                row[1] += call.function.arguments or ""
                ids += [call.id] if call.id else []
        assert [(name, json.loads(arguments)) for name, arguments in calls.values()] == CALLED
        assert len(set(ids)) == 2

    @pytest.mark.parametrize("status", STATUSES)
    def test_status(self, sdk, provider, chat, status):
        provider.script(Status(status, message="no", vendor_code="a_code", headers={"retry-after": 7}))
        with pytest.raises(sdk.APIStatusError) as caught:
            chat()
        assert type(caught.value) is class_of(sdk, status)
        assert caught.value.code == "a_code"
        assert caught.value.body["message"] == "no"
        assert caught.value.response.headers["retry-after"] == "7"
        assert caught.value.request_id is not None

    def test_faults_of_the_connection(self, sdk, provider, chat):
        provider.script(Refuse(), Cut())
        for _ in range(2):
            with pytest.raises(sdk.APIConnectionError):
                chat()
        provider.down()
        with pytest.raises(sdk.APIConnectionError):
            chat()

    @pytest.mark.parametrize("how", ["eof", "rst"])
    def test_cut_stream(self, sdk, provider, chat, how):
        provider.script(Cut(2, how))
        with pytest.raises(sdk.APIConnectionError):
            list(chat(stream=True))

    def test_error_in_a_stream(self, sdk, provider, chat):
        provider.script(StreamError(2, message="no", reply=SAID))
        with pytest.raises(sdk.APIError, match="no"):
            list(chat(stream=True))

    def test_models(self, sdk, provider):
        with sdk.OpenAI(api_key="key", base_url=provider.base_url) as client:
            assert [model.id for model in client.models.list()] == ["gpt-4o", "gpt-4o-mini"]


class TestOpenAIResponses:
    """At the same address as the chat completions of the same provider."""

    @pytest.fixture
    def sdk(self):
        return pytest.importorskip("openai")

    @pytest.fixture
    def provider(self, wall):
        return wall.add("openai")

    @pytest.fixture
    def client(self, sdk, provider):
        with sdk.OpenAI(api_key="key", base_url=provider.base_url, max_retries=0, timeout=5) as client:
            yield client

    ASK = {"model": "gpt-4o", "input": "hi"}

    def final(self, client):
        """The last response, after the client has put its events together, each in the place it names."""
        with client.responses.stream(**self.ASK) as stream:
            return stream.get_final_response()

    @pytest.mark.parametrize("how", ["json", "stream", "built"])
    def test_text_thinking_and_usage(self, provider, client, how):
        provider.script(SAID)
        if how == "built":
            got = self.final(client)
        elif how == "json":
            got = client.responses.create(**self.ASK)
        else:
            events = list(client.responses.create(**self.ASK, stream=True))
            got = events[-1].response
            told = {kind: "".join(event.delta for event in events if event.type == kind) for kind in DELTAS}
            assert told == dict(zip(DELTAS, ("Paris is nice.", "The user asks."), strict=True))
            assert [event.sequence_number for event in events] == list(range(len(events)))
        assert [item.type for item in got.output] == ["reasoning", "message"]
        assert [part.text for part in got.output[0].summary] == ["The user asks."]
        assert got.output[0].encrypted_content
        assert (got.output_text, got.status, got.model) == ("Paris is nice.", "completed", "gpt-4o")
        assert (got.usage.input_tokens, got.usage.output_tokens, got.usage.total_tokens) == (11, 7, 18)

    @pytest.mark.parametrize("stream", [True, False])
    def test_tool_calls(self, provider, client, stream):
        import json

        provider.script(WEATHER)
        got = self.final(client) if stream else client.responses.create(**self.ASK)
        assert got.output_text == "Let me see."
        calls = [item for item in got.output if item.type == "function_call"]
        assert [(call.name, json.loads(call.arguments)) for call in calls] == CALLED
        assert len({call.call_id for call in calls}) == len({call.id for call in calls}) == 2

    def test_tool_calls_piece_by_piece(self, provider, client):
        import json

        provider.script(WEATHER)
        pieces: dict[str, str] = {}
        for event in client.responses.create(**self.ASK, stream=True):
            if event.type == "response.output_item.added" and event.item.type == "function_call":
                pieces[event.item.id] = ""
            if event.type == "response.function_call_arguments.delta":
                pieces[event.item_id] += event.delta
            if event.type == "response.function_call_arguments.done":
                assert pieces[event.item_id] == event.arguments
        assert [json.loads(text) for text in pieces.values()] == [arguments for _, arguments in CALLED]

    @pytest.mark.parametrize("stream", [True, False])
    def test_refusal(self, provider, client, stream):
        provider.script(Reply("I will not.", finish="refusal"))
        got = self.final(client) if stream else client.responses.create(**self.ASK)
        (part,) = got.output[0].content
        assert (part.type, part.refusal) == ("refusal", "I will not.")
        assert (got.status, got.output_text) == ("completed", "")

    @pytest.mark.parametrize("finish", ["length", "content_filter"])
    @pytest.mark.parametrize("stream", [True, False])
    def test_incomplete(self, provider, client, stream, finish):
        provider.script(Reply("Paris is", finish=finish))
        if stream:
            *_, last = client.responses.create(**self.ASK, stream=True)
            assert last.type == "response.incomplete"
            got = last.response
        else:
            got = client.responses.create(**self.ASK)
        assert got.status == "incomplete"
        assert got.incomplete_details.reason == ("max_output_tokens" if finish == "length" else finish)
        assert got.output_text == "Paris is"

    @pytest.mark.parametrize("status", STATUSES)
    def test_status(self, sdk, provider, client, status):
        provider.script(Status(status, message="no", vendor_code="a_code", headers={"retry-after": 7}))
        with pytest.raises(sdk.APIStatusError) as caught:
            client.responses.create(**self.ASK)
        assert caught.value.status_code == status
        assert type(caught.value) is class_of(sdk, status)
        assert (caught.value.code, caught.value.body["message"]) == ("a_code", "no")

    def test_error_in_a_stream(self, sdk, provider, client):
        provider.script(StreamError(2, message="no", reply=SAID))
        with pytest.raises(sdk.APIError, match="no"):
            list(client.responses.create(**self.ASK, stream=True))

    @pytest.mark.parametrize("how", ["eof", "rst"])
    def test_cut_stream(self, sdk, provider, client, how):
        provider.script(Cut(2, how))
        with pytest.raises(sdk.APIConnectionError):
            list(client.responses.create(**self.ASK, stream=True))


class TestAnthropic:
    @pytest.fixture
    def sdk(self):
        return pytest.importorskip("anthropic")

    @pytest.fixture
    def provider(self, wall):
        return wall.add("anthropic")

    @pytest.fixture
    def client(self, sdk, provider):
        with sdk.Anthropic(api_key="key", base_url=provider.base_url, max_retries=0, timeout=5) as client:
            yield client

    ASK = {"model": "claude-sonnet-4-5", "max_tokens": 100, "messages": HI}

    def final(self, client):
        with client.messages.stream(**self.ASK) as stream:
            return stream.get_final_message()

    @pytest.mark.parametrize("stream", [True, False])
    def test_text_and_thinking(self, provider, client, stream):
        provider.script(SAID)
        got = self.final(client) if stream else client.messages.create(**self.ASK)
        assert [(block.type) for block in got.content] == ["thinking", "text"]
        assert got.content[0].thinking == "The user asks."
        assert got.content[0].signature
        assert got.content[1].text == "Paris is nice."
        assert (got.model, got.stop_reason) == ("claude-sonnet-4-5", "end_turn")
        assert (got.usage.input_tokens, got.usage.output_tokens) == (11, 7)

    @pytest.mark.parametrize("stream", [True, False])
    def test_tool_calls(self, provider, client, stream):
        provider.script(WEATHER)
        got = self.final(client) if stream else client.messages.create(**self.ASK)
        assert got.content[0].text == "Let me see."
        assert [(block.name, block.input) for block in got.content[1:]] == CALLED
        assert got.stop_reason == "tool_use"
        assert len({block.id for block in got.content[1:]}) == 2

    @pytest.mark.parametrize("status", STATUSES)
    def test_status(self, sdk, provider, client, status):
        provider.script(Status(status, message="no"))
        with pytest.raises(sdk.APIStatusError) as caught:
            client.messages.create(**self.ASK)
        assert isinstance(caught.value, class_of(sdk, status))
        assert caught.value.body["error"]["message"] == "no"
        assert caught.value.request_id is not None

    def test_faults_of_the_connection(self, sdk, provider, client):
        provider.script(Refuse(), Cut())
        for _ in range(2):
            with pytest.raises(sdk.APIConnectionError):
                client.messages.create(**self.ASK)

    @pytest.mark.parametrize("how", ["eof", "rst"])
    def test_cut_stream(self, provider, client, how):
        provider.script(Cut(2, how))
        with pytest.raises(Exception, match=r"closed connection|reset by peer"):
            self.final(client)

    def test_error_in_a_stream(self, sdk, provider, client):
        provider.script(StreamError(2))
        with pytest.raises(sdk.APIStatusError, match="Overloaded") as caught:
            self.final(client)
        assert caught.value.body["error"]["type"] == "overloaded_error"

    def test_models(self, client):
        assert [model.id for model in client.models.list()] == ["claude-sonnet-4-5", "claude-haiku-4-5"]


class TestGemini:
    @pytest.fixture
    def sdk(self):
        pytest.importorskip("google.genai")
        from google import genai

        return genai

    @pytest.fixture
    def provider(self, wall):
        return wall.add("gemini")

    @pytest.fixture
    def client(self, sdk, provider):
        client = sdk.Client(api_key="key", http_options={"base_url": provider.base_url, "timeout": 5_000})
        yield client
        client.close()

    ASK = {"model": "gemini-2.5-flash", "contents": "hi"}

    def parts(self, client, *, stream):
        """All parts, the last finish reason and the last usage."""
        models = client.models
        events = list(models.generate_content_stream(**self.ASK)) if stream else [models.generate_content(**self.ASK)]
        parts = [part for event in events for part in event.candidates[0].content.parts]
        return parts, events[-1].candidates[0].finish_reason, events[-1].usage_metadata

    @pytest.mark.parametrize("stream", [True, False])
    def test_text_and_thinking(self, provider, client, stream):
        provider.script(SAID)
        parts, finish, usage = self.parts(client, stream=stream)
        assert "".join(part.text for part in parts if part.thought) == "The user asks."
        assert "".join(part.text for part in parts if not part.thought) == "Paris is nice."
        assert finish == "STOP"
        assert usage.prompt_token_count == 11
        assert usage.candidates_token_count + usage.thoughts_token_count == 7
        assert provider.requests[0].model == "gemini-2.5-flash"

    @pytest.mark.parametrize("stream", [True, False])
    def test_tool_calls(self, provider, client, stream):
        provider.script(WEATHER)
        parts, finish, _ = self.parts(client, stream=stream)
        assert [(part.function_call.name, part.function_call.args) for part in parts if part.function_call] == CALLED
        assert finish == "STOP"

    @pytest.mark.parametrize("status", STATUSES)
    def test_status(self, sdk, provider, client, status):
        from google.genai import errors

        provider.script(Status(status, message="no", vendor_code="A_WORD"))
        with pytest.raises(errors.ServerError if status >= 500 else errors.ClientError) as caught:
            client.models.generate_content(**self.ASK)
        assert (caught.value.code, caught.value.status, caught.value.message) == (status, "A_WORD", "no")

    def test_faults_of_the_connection(self, provider, client):
        provider.script(Refuse(), Cut())
        for _ in range(2):
            with pytest.raises(Exception, match=r"isconnected|closed connection"):
                client.models.generate_content(**self.ASK)

    @pytest.mark.parametrize("how", ["eof", "rst"])
    def test_cut_stream(self, provider, client, how):
        provider.script(Cut(2, how))
        with pytest.raises(Exception, match=r"closed connection|reset by peer"):
            self.parts(client, stream=True)

    def test_error_in_a_stream(self, provider, client):
        from google.genai import errors

        provider.script(StreamError(2, message="no"))
        with pytest.raises(errors.ServerError, match="no"):
            self.parts(client, stream=True)

    def test_models(self, client):
        assert [model.name for model in client.models.list()] == ["models/gemini-2.5-pro", "models/gemini-2.5-flash"]
