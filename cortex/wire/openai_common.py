"""What the two dialects of OpenAI share: where a call goes, how it is let in, what their errors mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from cortex.messages import Image, Kind, OutputSchema, Part, Request, Text
from cortex.wire.codec import HttpCall, Target, get
from cortex.wire.faults import Rules, phrase
from cortex.wire.history import History
from cortex.wire.openai_rows import Row, is_azure, model_of
from cortex.wire.output import by_tool
from cortex.wire.subsets import strict_schema
from cortex.wire.values import base64_of, dumps, media_type

AZURE_API_VERSION = "2024-10-21"  # https://learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle

RULES = Rules(
    # https://platform.openai.com/docs/guides/error-codes, learn.microsoft.com/azure/ai-foundry/openai/reference
    codes={
        "insufficient_quota": Kind.QUOTA,
        "billing_hard_limit_reached": Kind.QUOTA,
        "billing_not_active": Kind.QUOTA,
        "credit_balance_exhausted": Kind.QUOTA,
        "organization_spend_limit_exceeded": Kind.QUOTA,
        "project_spend_limit_exceeded": Kind.QUOTA,
        "organization_usage_limit_exceeded": Kind.QUOTA,
        "context_length_exceeded": Kind.CONTEXT,
        "exceed_context_size_error": Kind.CONTEXT,
        "too_many_prompt_tokens": Kind.CONTEXT,
        "string_above_max_length": Kind.CONTEXT,
        "content_policy_violation": Kind.CONTENT,
        "content_filter": Kind.CONTENT,
        "responsibleaipolicyviolation": Kind.CONTENT,
        "image_content_policy_violation": Kind.CONTENT,
        "misalignment_policy_violation": Kind.CONTENT,
        "bio_policy": Kind.CONTENT,
        "invalid_prompt": Kind.CONTENT,
        "model_not_found": Kind.MODEL_GONE,
        "model_decommissioned": Kind.MODEL_GONE,
        "deploymentnotfound": Kind.MODEL_GONE,
        "invalid_api_key": Kind.CREDENTIAL,
        "unsupported_country_region_territory": Kind.REGION,
        "data_residency_mismatch": Kind.REGION,
        "invalid_encrypted_content": Kind.SIGNATURE,
        "slow_down": Kind.OVERLOADED,
        "server_is_overloaded": Kind.OVERLOADED,
    },
    inband={
        "invalid_request_error": Kind.BAD_REQUEST,
        "badrequesterror": Kind.BAD_REQUEST,
        "authentication_error": Kind.CREDENTIAL,
        "rate_limit_exceeded": Kind.RATE_LIMIT,
        "rate_limit_error": Kind.RATE_LIMIT,
        "tokens": Kind.RATE_LIMIT,
        "requests": Kind.RATE_LIMIT,
        "server_error": Kind.TRANSIENT,
        "service_unavailable_error": Kind.OVERLOADED,
    },
    phrases=(
        phrase(Kind.QUOTA, "429", "exceeded your current quota"),
        # A reasoning item that cannot be read again where it stands.
        phrase(Kind.SIGNATURE, "400 404", r"'reasoning' was provided without|required 'reasoning' item"),
    ),
)


def address(target: Target, path: str) -> str:
    """The URL of "/chat/completions", "/responses" or "/models".

    Azure knows three layouts: a deployment's own address, the resource's, and the newer /v1, which is OpenAI's.
    """
    base = target.base_url
    if not is_azure(target):
        return base + path
    version = target.options.get("api_version")
    if base.endswith(("/v1", "/models")):  # the second: Azure AI's inference endpoint
        base = base.removesuffix("/models") if path == "/models" else base
        return base + path + (f"?api-version={version}" if version else "")
    root, deployments, _ = base.partition("/deployments/")
    root = root if root.endswith("/openai") else root + "/openai"
    if path == "/responses" and not version:  # of no deployment, and no longer dated
        return f"{root}/v1{path}"
    if path == "/chat/completions":
        root = base if deployments else f"{root}/deployments/{quote(target.model, safe='')}"
    return f"{root}{path}?api-version={version or AZURE_API_VERSION}"


def auth(target: Target) -> dict[str, str]:
    """The headers that let a call in. Options: `organization`, `project`."""
    if is_azure(target):
        return {"api-key": target.api_key} if target.api_key else {}
    headers = {"authorization": f"Bearer {target.api_key}"} if target.api_key else {}
    for option in ("organization", "project"):
        if target.options.get(option):
            headers[f"openai-{option}"] = str(target.options[option])
    return headers


def probe(target: Target) -> HttpCall:
    """Ask for the list of models: costs no token."""
    return get(address(target, "/models"), auth(target), target)


def with_output(request: Request, target: Target, row: Row) -> Request:
    """The request, its output schema as a tool where the model knows no schema but can be made to call."""
    if row.takes_schema(model_of(target), request) or row.thinks_aloud(model_of(target), request):
        return request
    return by_tool(request)


def system_of(request: Request, history: History, target: Target, row: Row) -> str:
    """The system prompt; where the model knows no schema and cannot be made to call a tool, it is told it there."""
    if not request.output or row.takes_schema(model_of(target), request):
        return history.system
    told = dumps(request.output.schema).decode()
    return f"{history.system}\n\nAnswer with one JSON object that satisfies this JSON schema: {told}".strip()


def named_schema(output: OutputSchema, target: Target, row: Row) -> dict[str, Any]:
    """The schema of a structured answer, strict where it can be."""
    name = output.name
    strict = strict_schema(output.schema) if row.strict.match(model_of(target)) else None
    if strict is None:
        return {"name": name, "schema": output.schema}
    return {"name": name, "schema": strict, "strict": True}


def choice_of(request: Request, target: Target, row: Row, notes: list[str]) -> str | None:
    """The request's choice among its tools, as far as the model can be told it."""
    if request.tool_choice in (None, "none") or not row.thinks_aloud(model_of(target), request):
        return request.tool_choice
    notes.append("tool_choice was left out: this model thinks, and cannot be made to call a tool")
    return None


def set_sampling(body: dict[str, Any], request: Request, target: Target, row: Row, notes: list[str]) -> None:
    """What both dialects call the same, as far as the model takes it."""
    if request.temperature is not None:
        if row.fixes_temperature(model_of(target), request):
            notes.append("temperature was left out: this model takes only its own")
        else:
            body["temperature"] = request.temperature
    if request.parallel_tools is not None and request.tools:
        if row.takes_parallel(model_of(target)):
            body["parallel_tool_calls"] = request.parallel_tools
        else:
            notes.append("parallel_tools was left out: this model is not told")


def effort_of(request: Request, target: Target, row: Row, notes: list[str]) -> str | None:
    """The model's word for the request's effort."""
    if request.effort is None:
        if request.thinking_budget is not None and not row.reasoning:
            notes.append("thinking_budget was left out: this dialect knows an effort, no number of tokens")
        return None
    word = None if row.is_muted(request) else row.effort(model_of(target), request.effort)
    if row.is_muted(request):
        notes.append("effort was left out: this model is told not to think")
    elif word is None:
        notes.append("effort was left out: this model takes none")
    elif word != request.effort:
        notes.append(f"effort {request.effort} was told as {word}: this model does not know it")
    return word


def user_content(
    parts: tuple[Part, ...], text: str, image_of: Callable[[Image], dict[str, Any]]
) -> str | list[dict[str, Any]]:
    """What a user says: plain text wherever that is all, as not every compatible server reads a list of parts; else
    parts, those of type `text` among them."""
    if all(isinstance(part, Text) for part in parts):
        return "\n\n".join(part.text for part in parts if isinstance(part, Text))
    told = (part for part in parts if isinstance(part, Text | Image))
    return [image_of(part) if isinstance(part, Image) else {"type": text, "text": part.text} for part in told]


def image_url(image: Image) -> str:
    """An image as a URL, with its bytes in it if there are any."""
    return f"data:{media_type(image)};base64,{base64_of(image)}" if image.data else image.url or ""


def detail_of(image: Image) -> dict[str, str]:
    """The member that says how closely to look, if anybody said so."""
    return {"detail": image.detail} if image.detail else {}
