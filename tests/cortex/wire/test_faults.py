"""Statuses, headers and error bodies, as tables."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.messages import Failure, Kind
from cortex.wire import WIRES, faults
from cortex.wire.codec import HttpReply, Target

TARGET = Target("p", "https://h/v1", "m", api_key="sk-verysecret1", headers={"X-Team": "team-alsosecret"})


def fail(kind: str, status: int, body: Any, reply: Any, **headers: str) -> Failure:
    failure = WIRES[kind].decode(reply(body, status, **headers), TARGET)
    assert isinstance(failure, Failure)
    return failure


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, Kind.ROUTE_GONE), (307, Kind.ROUTE_GONE), (400, Kind.BAD_REQUEST), (401, Kind.CREDENTIAL),
        (402, Kind.QUOTA), (403, Kind.PERMISSION), (404, Kind.ROUTE_GONE), (408, Kind.CONFLICT), (409, Kind.CONFLICT),
        (407, Kind.ROUTE_GONE),
        (410, Kind.MODEL_GONE), (413, Kind.TOO_LARGE), (415, Kind.BAD_REQUEST), (418, Kind.BAD_REQUEST),
        (422, Kind.BAD_REQUEST), (424, Kind.TRANSIENT), (425, Kind.TRANSIENT), (429, Kind.RATE_LIMIT),
        (431, Kind.TOO_LARGE), (500, Kind.TRANSIENT), (502, Kind.TRANSIENT), (503, Kind.OVERLOADED),
        (504, Kind.TRANSIENT), (522, Kind.TRANSIENT), (529, Kind.OVERLOADED), (599, Kind.TRANSIENT),
        (101, Kind.PROTOCOL),
    ],
)  # fmt: skip
@pytest.mark.parametrize("body", [b"", b"<html><title>Oops</title>", b"[]", b"null", b'{"error": null}', b"\xff\x00"])
def test_J6_a_body_that_says_nothing_is_classified_by_status(status: int, kind: Kind, body: bytes, reply: Any) -> None:
    for wire in ("openai_chat", "openai_responses", "anthropic", "gemini"):
        failure = fail(wire, status, body, reply)
        assert (failure.kind, failure.status) == (kind, status)
        assert failure.message


CASES: list[tuple[str, int, Any, Kind]] = [
    # OpenAI and Azure
    (
        "openai_chat",
        429,
        {"error": {"type": "insufficient_quota", "code": "insufficient_quota", "message": "x"}},
        Kind.QUOTA,
    ),
    ("openai_chat", 429, {"error": {"message": "You exceeded your current quota, please check your plan"}}, Kind.QUOTA),
    ("openai_chat", 429, {"error": {"code": "credit_balance_exhausted", "message": "x"}}, Kind.QUOTA),  # H10
    ("openai_chat", 429, {"error": {"message": "Your account is not active, please check your billing"}}, Kind.QUOTA),
    ("openai_chat", 429, {"error": {"code": "rate_limit_exceeded", "message": "Rate limit reached"}}, Kind.RATE_LIMIT),
    (
        "openai_chat",
        429,
        {"error": {"code": "rate_limit_exceeded", "message": "Request too large for gpt-4o on tokens per min (TPM)"}},
        Kind.CONTEXT,
    ),
    ("openai_chat", 429, {"error": {"code": "slow_down", "message": "Slow down"}}, Kind.OVERLOADED),
    ("openai_chat", 400, {"error": {"code": "context_length_exceeded", "message": "x"}}, Kind.CONTEXT),
    ("openai_chat", 400, {"error": {"message": "This model's maximum context length is 8192 tokens."}}, Kind.CONTEXT),
    ("openai_chat", 400, {"error": {"code": "content_policy_violation", "message": "x"}}, Kind.CONTENT),
    ("openai_chat", 400, {"error": {"code": "invalid_encrypted_content", "message": "x"}}, Kind.SIGNATURE),
    ("openai_chat", 400, {"error": {"message": "Missing required parameter: 'messages'."}}, Kind.BAD_REQUEST),
    ("openai_chat", 401, {"error": {"code": "invalid_api_key", "message": "Incorrect API key"}}, Kind.CREDENTIAL),
    ("openai_chat", 403, {"error": {"code": "unsupported_country_region_territory", "message": "x"}}, Kind.REGION),
    ("openai_chat", 403, {"error": {"message": "Project does not have access to model `gpt-5`"}}, Kind.PERMISSION),
    ("openai_chat", 404, {"error": {"message": "The model `gpt-4.1-foo` does not exist"}}, Kind.MODEL_GONE),
    ("openai_chat", 404, {"error": {"message": "Invalid URL (POST /v1/chat/completion)"}}, Kind.ROUTE_GONE),
    ("openai_chat", 503, {"error": {"message": "Slow down"}}, Kind.OVERLOADED),
    ("openai_chat", 404, {"error": {"code": "DeploymentNotFound", "message": "x"}}, Kind.MODEL_GONE),
    (
        "openai_chat",
        400,
        {"error": {"code": "x", "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
        Kind.CONTENT,
    ),
    # compatible servers and gateways
    (
        "openai_chat",
        400,
        {"code": "Client specified an invalid argument", "error": "Incorrect API key provided"},
        Kind.CREDENTIAL,
    ),
    ("openai_chat", 402, {"error": {"message": "Insufficient Balance"}}, Kind.QUOTA),
    ("openai_chat", 403, {"error": {"message": "Your input was flagged", "code": 403}}, Kind.CONTENT),
    ("openai_chat", 404, {"error": 'model "llama9" not found, try pulling it first'}, Kind.MODEL_GONE),
    ("openai_chat", 404, {"detail": "Not Found"}, Kind.ROUTE_GONE),
    ("openai_chat", 422, {"detail": [{"loc": ["body", "x"], "msg": "field required"}]}, Kind.BAD_REQUEST),
    ("openai_chat", 500, {"error": {"message": "the request exceeds the available context size"}}, Kind.CONTEXT),
    ("openai_chat", 500, {"error": {"message": "x", "code": 429}}, Kind.RATE_LIMIT),
    ("openai_chat", 500, {"error": {"message": "x", "code": "429"}}, Kind.RATE_LIMIT),
    (
        "openai_chat",
        503,
        {"error": "server busy, please try again. maximum pending requests exceeded"},
        Kind.OVERLOADED,
    ),
    # Anthropic
    (
        "anthropic",
        400,
        {"error": {"type": "invalid_request_error", "message": "prompt is too long: 3 > 2"}},
        Kind.CONTEXT,
    ),
    ("anthropic", 400, {"error": {"message": "Your credit balance is too low"}}, Kind.QUOTA),
    (
        "anthropic",
        400,
        {"error": {"message": "You have reached your specified API usage limits: spend limit"}},
        Kind.QUOTA,
    ),
    ("anthropic", 400, {"error": {"message": "messages.1: Invalid `signature` in `thinking` block"}}, Kind.SIGNATURE),
    (
        "anthropic",
        400,
        {"error": {"message": "`thinking` blocks in the latest message cannot be modified"}},
        Kind.BAD_REQUEST,
    ),
    ("anthropic", 402, {"error": {"type": "billing_error", "message": "x"}}, Kind.QUOTA),
    ("anthropic", 403, {"error": {"type": "permission_error", "message": "x"}}, Kind.PERMISSION),
    ("anthropic", 404, {"error": {"type": "not_found_error", "message": "model: claude-x"}}, Kind.MODEL_GONE),
    ("anthropic", 404, {"error": {"type": "not_found_error", "message": "Not Found"}}, Kind.ROUTE_GONE),
    ("anthropic", 409, {"error": {"type": "conflict_error", "message": "x"}}, Kind.CONFLICT),
    ("anthropic", 413, {"error": {"type": "request_too_large", "message": "x"}}, Kind.TOO_LARGE),
    ("anthropic", 504, {"error": {"type": "timeout_error", "message": "x"}}, Kind.TIMEOUT_FIRST),
    ("anthropic", 529, {"error": {"type": "overloaded_error", "message": "Overloaded"}}, Kind.OVERLOADED),
    # Gemini
    (
        "gemini",
        400,
        {"error": {"status": "INVALID_ARGUMENT", "message": "API key expired. Please renew."}},
        Kind.CREDENTIAL,
    ),
    (
        "gemini",
        400,
        {"error": {"status": "FAILED_PRECONDITION", "message": "User location is not supported"}},
        Kind.REGION,
    ),
    ("gemini", 400, {"error": {"status": "FAILED_PRECONDITION", "message": "Please enable billing"}}, Kind.QUOTA),
    ("gemini", 400, {"error": {"message": "Function call is missing a thought_signature"}}, Kind.SIGNATURE),
    ("gemini", 400, {"error": {"message": "Corrupted thought signature."}}, Kind.SIGNATURE),
    ("gemini", 403, {"error": {"status": "PERMISSION_DENIED", "message": "x"}}, Kind.PERMISSION),
    ("gemini", 404, {"error": {"message": "models/gemini-9.9 is not found for API version v1beta"}}, Kind.MODEL_GONE),
    ("gemini", 503, {"error": {"status": "UNAVAILABLE", "message": "The model is overloaded."}}, Kind.OVERLOADED),
    ("gemini", 504, {"error": {"status": "DEADLINE_EXCEEDED", "message": "Deadline expired"}}, Kind.TIMEOUT_FIRST),
    ("gemini", 429, [{"error": {"status": "RESOURCE_EXHAUSTED", "message": "x"}}], Kind.RATE_LIMIT),
]


@pytest.mark.parametrize(("wire", "status", "body", "kind"), CASES)
def test_the_vendors_words(wire: str, status: int, body: Any, kind: Kind, reply: Any) -> None:
    assert fail(wire, status, body, reply).kind is kind


@pytest.mark.parametrize(
    ("quota", "kind"),
    [
        ("GenerateRequestsPerMinutePerProjectPerModel", Kind.RATE_LIMIT),
        ("GenerateRequestsPerDayPerProjectPerModel-FreeTier", Kind.QUOTA),
    ],
)
def test_H11_geminis_quota_is_told_by_its_name_and_its_delay_by_RetryInfo(quota: str, kind: Kind, reply: Any) -> None:
    details = [
        {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": quota}]},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "45.837906927s"},
    ]
    body = {"error": {"status": "RESOURCE_EXHAUSTED", "message": "You exceeded your current quota", "details": details}}
    failure = fail("gemini", 429, body, reply)
    assert (failure.kind, failure.retry_after) == (kind, 45.837906927)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "2"}, 2.0),  # H5
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after-ms": "150"}, 0.15),  # H7
        ({"retry-after-ms": "150", "retry-after": "9"}, 0.15),
        ({"retry-after-ms": "0", "retry-after": "1"}, 1.0),
        ({"retry-after": "86400"}, 86_400.0),  # H9
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT", "date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 30.0),  # H6
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT"}, None),  # by whose clock?
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT", "date": "Wed, 21 Oct 2015 07:28:30 GMT"}, None),
        *(({"retry-after": junk}, None) for junk in ("", "-1", "abc", "1e309", "nan", "inf", "1_0", "0x1", "9" * 400)),
        ({}, None),
    ],
)
def test_H8_retry_after_is_a_number_that_can_be_meant_or_none(headers: dict[str, str], seconds: float | None) -> None:
    assert faults.retry_after(headers) == seconds


@given(st.text(), st.text())
def test_retry_after_never_raises_and_is_never_negative(text: str, date: str) -> None:
    value = faults.retry_after({"retry-after": text, "retry-after-ms": date, "date": date})
    assert value is None or value >= 0


def test_H28_the_servers_explicit_word_and_its_request_id(reply: Any) -> None:
    failure = fail("openai_chat", 500, {}, reply, x_should_retry="false", x_request_id="req_1")
    assert (failure.should_retry, failure.request_id) == (False, "req_1")
    assert fail("openai_chat", 400, {}, reply, x_should_retry="true").should_retry is True
    assert fail("openai_chat", 400, {}, reply, x_should_retry="maybe").should_retry is None
    assert fail("anthropic", 400, {"error": {}, "request_id": "req_2"}, reply).request_id == "req_2"


def test_I27_a_message_is_bounded_and_repeats_no_secret(reply: Any) -> None:
    said = f"Bad key {TARGET.api_key} and team team-alsosecret " + "x" * 5_000
    failure = fail("openai_chat", 401, {"error": {"message": said}}, reply)
    assert len(failure.message) == 500
    assert "secret1" not in failure.message
    assert "alsosecret" not in failure.message
    assert failure.message.startswith("Bad key [secret] and team [secret] xxx")


def test_H19_of_a_redirect_only_the_origin_is_told(reply: Any) -> None:
    failure = fail("openai_chat", 307, b"", reply, location="https://evil.example/path?key=abc")
    assert failure.kind is Kind.ROUTE_GONE
    assert failure.message == "redirected to https://evil.example"


@pytest.mark.parametrize(
    ("body", "content_type", "kind"),
    [
        (b"<!doctype html><title>Log in</title>", "text/html", Kind.NOT_API),  # H20
        (b"\n <html>", "application/json", Kind.NOT_API),
        (b"Welcome to the wifi", "text/plain", Kind.NOT_API),
        (b"", "application/json", Kind.PROTOCOL),  # H21
        (b" \n", "", Kind.PROTOCOL),
        (b'{"choices": [', "application/json", Kind.PROTOCOL),  # J1
        (b"7", "application/json", Kind.PROTOCOL),
        (b"{}", "application/json", Kind.PROTOCOL),
        (b"[" * 50_000, "application/json", Kind.PROTOCOL),  # J3
    ],
)
def test_a_200_that_is_no_answer(body: bytes, content_type: str, kind: Kind) -> None:
    for wire in ("openai_chat", "openai_responses", "anthropic", "gemini"):
        failure = WIRES[wire].decode(HttpReply(200, {"content-type": content_type}, body), TARGET)
        assert isinstance(failure, Failure)
        assert (failure.kind, failure.status) == (kind, 200)


def test_H21_a_204(reply: Any) -> None:
    assert fail("openai_chat", 204, b"", reply).kind is Kind.PROTOCOL


def test_a_wrong_content_type_over_a_right_body_does_no_harm() -> None:
    body = b'{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}'
    answer = WIRES["openai_chat"].decode(HttpReply(200, {"content-type": "text/plain"}, body), TARGET)
    assert not isinstance(answer, Failure)
    assert answer.text == "hi"


words = st.one_of(
    st.none(), st.text(max_size=20), st.integers(), st.sampled_from([c for *_, b, _ in CASES for c in [str(b)]])
)


@given(st.integers(100, 999), st.lists(words, max_size=3), words)
def test_I20_classification_is_total(status: int, codes: list[Any], message: Any) -> None:
    names = tuple(str(code) for code in codes)
    for wire in (None, status):
        assert isinstance(faults.classify(wire, names, str(message), faults.Rules()), Kind)
