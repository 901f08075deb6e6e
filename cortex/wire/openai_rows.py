"""How servers of OpenAI's dialect differ: one row of data each, found by the host of the base URL."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from urllib.parse import urlsplit

import attrs

from cortex.messages import Effort, Request
from cortex.wire.codec import Target
from cortex.wire.values import as_dict, id_grammar

# These count hidden reasoning, so they refuse `max_tokens`: https://platform.openai.com/docs/guides/reasoning
_REASONING = re.compile(r"o[1-9]|gpt-[5-9]")
# And the Responses API gives it encrypted, if asked; a chat model refuses to be asked.
_ENCRYPTS = re.compile(r"o[1-9]|gpt-[5-9](?!.*-chat)|grok-[4-9](?!.*non-reasoning)")
# And these of them take no temperature; gpt-5.1 to 5.4 do, as long as nobody asks them to reason:
# https://platform.openai.com/docs/guides/latest-model
_FIXED_TEMPERATURE = re.compile(
    r"o[1-9]|gpt-5(?!-chat|\.)|gpt-5\.([5-9]|\d\d)(?!.*-chat)|gpt-5.*-(pro|codex)|gpt-[6-9]"
)
# https://platform.openai.com/docs/guides/structured-outputs: all since gpt-4o-2024-08-06
_KNOWS_SCHEMAS = re.compile(r"(?!gpt-3|gpt-4(?!o|\.)|gpt-4o-2024-05-13|o1-(mini|preview))")
_ALL, _NONE = re.compile(""), re.compile("(?!)")
_ANY_ID = id_grammar(r".{1,64}", "call_", 29)


def _graded(efforts: str, models: str = "") -> Callable[[str, Effort], str | None]:
    """How an effort is told to models whose name fits: by the nearest of `efforts`; None to others."""
    known, fits = efforts.split(), re.compile(models).match
    return lambda model, effort: (effort if effort in known else known[0]) if fits(model) else None


_ANY_EFFORT = _graded("low medium high")


# https://platform.openai.com/docs/models, each model's page
_OPENAI_EFFORTS = (
    _graded("high", "gpt-5-pro"),
    _graded("medium high", r"gpt-5\.\d+-pro"),
    _graded("minimal low medium high", r"gpt-5(?!\.|.*-(chat|codex))"),
    _graded("low medium high", rf"({_REASONING.pattern})(?!.*-chat)"),
)


def _openai_effort(model: str, effort: Effort) -> str | None:
    return next((word for graded in _OPENAI_EFFORTS if (word := graded(model, effort))), None)


UNTHOUGHT = " "  # what an answer thought that another model gave: it may not be missing, and "" counts as missing


@attrs.frozen
class Row:
    """A server. `host`: its name or the end of it.

    `names_reasoning_models`: model names mean what they mean at OpenAI. `encrypts`: gives encrypted reasoning, to be
    brought back, where the model's name tells that it reasons. `stream_usage`: knows `stream_options.include_usage`.
    `json_schema`: the models that know it as a response format, `strict`: those that can be held to it strictly,
    `schema_alone`: neither beside tools nor in a stream.
    `thinks`: the models that think unasked, and aloud: they want all they thought back, in `thinking_field`, cannot be
    made to call a tool, and take no temperature. `call_id`: its grammar of call ids. `seed`: what the seed is called,
    None where there is none. `effort`: a model's word for an effort, None where it takes none. `reasoning`: takes
    effort and budget in an object of that name. `stops`: how many stop texts at most, `stopless`: the models that take
    none. `own_heat`: the models that take no temperature, whether they think or not. `answers_tools`: wants an
    assistant between a tool and a user, and no assistant at the end. `least`: how many tokens an answer may be limited
    to, at least, in the Responses dialect.
    """

    host: str
    names_reasoning_models: bool = False
    encrypts: bool = False
    stream_usage: bool = True
    json_schema: re.Pattern[str] = _ALL
    strict: re.Pattern[str] = _ALL
    schema_alone: bool = False
    thinks: re.Pattern[str] = _NONE
    thinking_field: str | None = None
    call_id: Callable[[str], str] = _ANY_ID
    seed: str | None = "seed"
    effort: Callable[[str, Effort], str | None] = _ANY_EFFORT
    reasoning: bool = False
    stops: int | None = None
    stopless: re.Pattern[str] = _NONE
    own_heat: re.Pattern[str] = _NONE
    answers_tools: bool = False
    least: int = 1

    def limit_field(self, model: str) -> str:
        """What the limit of the answer's tokens is called."""
        return "max_completion_tokens" if self.names_reasoning_models and _REASONING.match(model) else "max_tokens"

    def fixes_temperature(self, model: str, request: Request) -> bool:
        """Whether this model refuses a temperature, or passes it over."""
        if not self.names_reasoning_models:
            return self.thinks_aloud(model, request) or bool(self.own_heat.match(model))
        reasons = request.effort is not None and self.effort(model, request.effort) is not None
        return reasons or bool(_FIXED_TEMPERATURE.match(model))

    def takes_stops(self, model: str) -> bool:
        """Whether this model can be told where to stop."""
        return not self.stopless.match(model)

    def takes_parallel(self, model: str) -> bool:
        """Whether this model can be told to call one tool at a time, or several."""
        return not (self.names_reasoning_models and re.match("o[1-9]", model))

    def takes_schema(self, model: str, request: Request) -> bool:
        """Whether this model can be asked this with a schema for its answer."""
        alone = not request.tools and not request.stream
        return bool(self.json_schema.match(model)) and (alone or not self.schema_alone)

    def thinks_aloud(self, model: str, request: Request) -> bool:
        """Whether this model thinks, and shows it, when it is asked this: `extra` can make it, and keep it from it."""
        if self.thinking_field is None:
            return False
        told = as_dict(request.extra.get("thinking")).get("type")
        return told == "enabled" or (told != "disabled" and bool(self.thinks.match(model)))

    def is_muted(self, request: Request) -> bool:
        """Whether `extra` keeps a model here from thinking."""
        return self.thinking_field is not None and as_dict(request.extra.get("thinking")).get("type") == "disabled"

    def encrypts_reasoning(self, model: str) -> bool:
        """Whether this model can be asked for its reasoning, encrypted."""
        return self.encrypts and bool(_ENCRYPTS.match(model))


_MISTRAL_ID = id_grammar(r"[a-zA-Z0-9]{9}", "", 9)

_OPENAI_ID = id_grammar(r".{1,40}", "call_", 29)
_NO_EFFORT = _graded("low", "(?!)")

OPENAI = Row(
    "api.openai.com",
    names_reasoning_models=True,
    encrypts=True,
    json_schema=_KNOWS_SCHEMAS,
    call_id=_OPENAI_ID,
    effort=_openai_effort,
    stops=4,
    stopless=_REASONING,
    least=16,  # https://platform.openai.com/docs/api-reference/responses/create
)
AZURE = attrs.evolve(OPENAI, host="azure.com")
# https://platform.moonshot.ai/docs/guide/use-kimi-k2-thinking-model: what holds at DeepSeek holds here.
MOONSHOT = Row(
    "moonshot.ai",
    thinks=re.compile(r"(?!moonshot|kimi-latest|kimi-k2-(\d{4}|turbo))"),
    own_heat=re.compile(r"kimi-k(2\.[5-9]|[3-9])"),
    thinking_field="reasoning_content",
    seed=None,
    effort=_NO_EFFORT,
    stops=5,
)
ROWS = (
    OPENAI,
    # https://docs.mistral.ai/api: usage comes unasked, and an option it does not know is refused; a call's id has nine
    # characters; a user after a tool is refused (code 3230), and an assistant at the end that is no prefix of the
    # answer. https://docs.mistral.ai/capabilities/reasoning: an effort is told to models that need not think.
    Row(
        "mistral.ai",
        stream_usage=False,
        call_id=_MISTRAL_ID,
        seed="random_seed",
        effort=_graded("high", r"mistral-small-(latest|2603)|mistral-medium-3[.-]5"),
        answers_tools=True,
    ),
    # https://docs.x.ai/docs/guides/reasoning
    Row(
        "x.ai",
        encrypts=True,
        effort=_graded("low high", "grok-3-mini"),
        stopless=re.compile("grok-(3-mini|code|[4-9](?!.*non-reasoning))"),
    ),
    # https://api-docs.deepseek.com/guides/json_mode and .../thinking_mode: a model that thinks, as all do by themselves
    # but deepseek-chat, refuses to be made to call, passes a temperature over, and answers 400 to a conversation with
    # tools in which any thought of an earlier answer is missing. It takes any effort, unless it is told not to think.
    Row(
        "deepseek.com",
        json_schema=_NONE,
        thinks=re.compile("(?!deepseek-chat)"),
        thinking_field="reasoning_content",
        seed=None,
        effort=_graded("minimal low medium high", "(?!deepseek-chat)"),
        stops=16,
    ),
    MOONSHOT,
    attrs.evolve(MOONSHOT, host="moonshot.cn"),
    # https://console.groq.com/docs/reasoning and .../structured-outputs
    Row(
        "groq.com",
        json_schema=re.compile("openai/gpt-oss|moonshotai/kimi|meta-llama/llama-4"),
        strict=re.compile("openai/gpt-oss"),
        schema_alone=True,
        effort=_graded("low medium high", "openai/gpt-oss"),
        stops=4,
    ),
    # https://openrouter.ai/docs/use-cases/reasoning-tokens
    Row("openrouter.ai", effort=_graded("minimal low medium high"), reasoning=True),
)
_OTHER = Row("")


@lru_cache(maxsize=256)
def host_of(base_url: str) -> str:
    """The host of a base URL, lower case; "" when there is none. Remembered: every call asks, of a handful of URLs."""
    try:
        return urlsplit(base_url).hostname or ""
    except ValueError:
        return ""


def is_azure(target: Target) -> bool:
    """Whether the target speaks Azure's variant: another address, another header for the key.

    Its kind says so wherever it is: there are clouds of states, and gateways. A provider of another kind tells by its
    address.
    """
    named = target.kind == "azure" or target.options.get("api_version") or "/deployments/" in target.base_url
    return bool(named) or host_of(target.base_url).endswith(".azure.com")


_OPENAIS = re.compile("(ft:)?(gpt-|chatgpt-|o[1-9])")


def model_of(target: Target) -> str:
    """The name that tells what a model is.

    It is the provider's own; of a fine-tuned one the part behind the mark
    (https://platform.openai.com/docs/guides/supervised-fine-tuning). But a deployment at Azure is called as its owner
    likes: there the public name tells, if it is one of OpenAI's.
    """
    name = target.name if is_azure(target) and _OPENAIS.match(target.name) else target.model
    return name.removeprefix("ft:")


def row_of(target: Target) -> Row:
    """The row of the target's server."""
    if is_azure(target):
        return AZURE
    host = host_of(target.base_url)
    return next((row for row in ROWS if host == row.host or host.endswith("." + row.host)), _OTHER)
