"""What a reply's status, headers and body say about a failure: one `Failure`, for whatever a server sends.

First matching row wins, most certain evidence first: the vendor's own code, then the words of its message, then the
HTTP status. Codes and words that mean "somebody has to pay" stand before the status, because most vendors send them
under 429, beside plain rate limits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from email.utils import mktime_tz, parsedate_tz
from typing import Any

import attrs

from cortex.messages import Failure, Kind, Phase, Usage
from cortex.wire.codec import HttpReply, Target
from cortex.wire.values import as_dict, as_list, as_text, clean, dumps, loads

MESSAGE_LIMIT = 500  # characters of a vendor's message that are kept
BODY_LIMIT = 1024 * 1024  # bytes of an error that are parsed; of a longer one only the beginning is read
_SCAN = 4_000  # characters of it that are searched for telling words

_STATUS: Mapping[int, Kind] = {
    401: Kind.CREDENTIAL,
    402: Kind.QUOTA,
    403: Kind.PERMISSION,
    404: Kind.ROUTE_GONE,
    405: Kind.ROUTE_GONE,
    407: Kind.ROUTE_GONE,  # of a proxy that carries the requests: no word of the vendor's
    408: Kind.CONFLICT,
    409: Kind.CONFLICT,
    410: Kind.MODEL_GONE,
    413: Kind.TOO_LARGE,
    421: Kind.TRANSIENT,
    424: Kind.TRANSIENT,
    425: Kind.TRANSIENT,
    429: Kind.RATE_LIMIT,
    431: Kind.TOO_LARGE,
    451: Kind.REGION,
    499: Kind.TRANSIENT,
    503: Kind.OVERLOADED,
    529: Kind.OVERLOADED,
}


def kind_of_status(status: int) -> Kind:
    """What a bare HTTP status means, when the body says nothing more."""
    if status in _STATUS:
        return _STATUS[status]
    if 300 <= status < 400:
        return Kind.ROUTE_GONE
    if 400 <= status < 500:
        return Kind.BAD_REQUEST
    return Kind.TRANSIENT if status >= 500 else Kind.PROTOCOL


@attrs.frozen
class Phrase:
    """Words of a message that tell a kind, where the status is among `statuses` (or is not known)."""

    pattern: re.Pattern[str]
    kind: Kind
    statuses: frozenset[int]


def phrase(kind: Kind, statuses: str, words: str) -> Phrase:
    """A row: `statuses` separated by blanks, `words` a regular expression that minds no case."""
    return Phrase(re.compile(words, re.IGNORECASE), kind, frozenset(map(int, statuses.split())))


@attrs.frozen
class Rules:
    """How one dialect tells its failures.

    `codes`: a code, type or reason (lower case) that decides under any status. `inband`: one that decides only for an
    error inside a 200, where there is no status to ask. `phrases`: rows that stand before the shared ones.
    """

    codes: Mapping[str, Kind] = attrs.field(factory=dict)
    inband: Mapping[str, Kind] = attrs.field(factory=dict)
    phrases: tuple[Phrase, ...] = ()


# Words that mean the same wherever they were met, at vendors, compatible servers and gateways.
_SHARED = (
    phrase(Kind.SIGNATURE, "400", r"invalid .?signature.? in|thought.?signature|invalid_encrypted_content"),
    phrase(
        Kind.QUOTA,
        "400 402 403 429",
        r"insufficient[_ ](quota|balance|credits|funds)|credit[_ ]balance|spend(ing)?[_ ]limit|billing_hard_limit"
        r"|account is not active|organization_usage_limit|out of credits",
    ),
    phrase(
        Kind.REGION, "400 403", r"unsupported_country|location is not supported|not available in your (country|reg)"
    ),
    phrase(
        Kind.CREDENTIAL,
        "400 403",
        r"(incorrect|invalid|expired|missing|malformed|bad)[^.\n]{0,30}\bapi[ _-]?key"
        r"|\bapi[ _-]?key[^.\n]{0,30}(not valid|invalid|expired|incorrect|missing|revoked)",
    ),
    phrase(
        Kind.CONTEXT,
        "400 413 422 429 500",
        r"context[ _-]?(length|window|size)|maximum context|(prompt|input|messages)( is| are)? too long"
        r"|too[_ ]many[_ ](prompt[_ ])?tokens|exceeds? the maximum number of tokens|input tokens? exceed"
        r"|token count[^.\n]{0,40}exceed|reduce the length of|request too large[^\n]{0,120}tokens per min",
    ),
    phrase(
        Kind.MODEL_GONE,
        "400 422",
        r"invalid model name|not a valid model|model_not_found|unknown[_ ]model"
        r"|\bmodel\b[^\n]{0,80}(does not exist|not found|decommissioned|no longer (available|supported))",
    ),
    phrase(
        Kind.MODEL_GONE,
        "403 404 410",
        r"\bmodels?\b[^\n]{0,160}(not exist|not found|no longer|decommission|deprecated|retired)"
        r"|unknown[_ ]model|model_not_found|deploymentnotfound|no endpoints found",
    ),
    phrase(
        Kind.CONTENT,
        "400 403 422",
        r"content[_ ](filter|policy|management policy)|responsibleaipolicy|usage polic(y|ies)|content_policy_violation"
        r"|flagged|moderation",
    ),
    phrase(Kind.OVERLOADED, "429 500 502 503 529", r"overloaded|slow[_ ]down|server (is )?busy|over capacity"),
)


def classify(status: int | None, words: tuple[str, ...], message: str, rules: Rules) -> Kind:
    """The kind of a failure. `status` None: an error inside a 200; `words`: its codes, types and reasons."""
    lowered = [word.lower() for word in words]
    for word in lowered:
        if word in rules.codes:
            return rules.codes[word]
    text = f"{message[:_SCAN]} {' '.join(words)[:_SCAN]}"
    for row in (*rules.phrases, *_SHARED):
        if (status is None or status in row.statuses) and row.pattern.search(text):
            return row.kind
    inner = next((int(word) for word in words if re.fullmatch("[1-5][0-9][0-9]", word)), None)
    if status is None:
        named = next((rules.inband[word] for word in lowered if word in rules.inband), None)
        return named or (kind_of_status(inner) if inner and inner >= 400 else Kind.TRANSIENT)
    if status >= 500 and inner == 429:  # a gateway that wraps its upstream's refusal
        return Kind.RATE_LIMIT
    return kind_of_status(status)


# --------------------------------------------------------------------------------------------------------- the body


@attrs.frozen
class ErrorBody:
    """What an error body says: the message, its codes and types (most telling first), a delay in seconds."""

    message: str = ""
    words: tuple[str, ...] = ()
    retry_after: float | None = None
    request_id: str | None = None

    @property
    def code(self) -> str | None:
        """The most telling word: a name rather than a number."""
        return next((word for word in self.words if not word.isdigit()), next(iter(self.words), None))


def read_error(payload: Any) -> ErrorBody:
    """Read any of the shapes in use: an object, a string or a list under `error`, `detail` or `message`, or a list."""
    if isinstance(payload, list):
        payload = next((item for item in payload if isinstance(item, dict)), {})
    outer = as_dict(payload)
    error = outer.get("error") or outer.get("message") or outer.get("detail") or outer
    inner = as_dict(error)
    details = [as_dict(item) for item in as_list(inner.get("details"))]
    return ErrorBody(
        message=_message(error),
        words=tuple(_words(inner, details)) or tuple(_words(outer, [])),
        retry_after=next((parsed for d in details if (parsed := _delay(d.get("retryDelay"))) is not None), None),
        request_id=as_text(outer.get("request_id"))[:200] or None,
    )


def _message(error: Any) -> str:
    """The human words in an error, wherever they hide."""
    for _ in range(4):
        if isinstance(error, str):
            return error
        if isinstance(error, list) and error:
            error = error[0]
            continue
        found = as_dict(error)
        inner = next((found[key] for key in ("message", "msg", "detail", "error") if found.get(key)), None)
        if inner is None:
            break
        error = inner
    return "" if error in ({}, [], None) else dumps(error)[: 4 * MESSAGE_LIMIT].decode(errors="ignore")


def _words(error: dict[str, Any], details: list[dict[str, Any]]) -> Iterator[str]:
    """Codes, types and reasons, inner ones too."""
    found = [error.get("code"), error.get("type"), error.get("status"), as_dict(error.get("innererror")).get("code")]
    for detail in details:
        found.append(detail.get("reason"))
        found += [as_dict(violation).get("quotaId") for violation in as_list(detail.get("violations"))]
    for word in found:
        if isinstance(word, str) and word:
            yield word[:100]
        elif type(word) is int and abs(word) < 1_000_000:
            yield str(word)


# ------------------------------------------------------------------------------------------------------ the headers

_DECIMAL = re.compile(r"[0-9]{1,15}(\.[0-9]{1,12})?")
_REQUEST_ID = ("request-id", "x-request-id", "apim-request-id", "x-ms-request-id", "cf-ray")


def _number(text: str) -> float | None:
    """A plain decimal that is not negative; `float` alone would let inf, nan, 1_0 and 1e309 through."""
    return float(text) if _DECIMAL.fullmatch(text) else None


def _delay(value: Any) -> float | None:
    """A protobuf duration, such as "46s" or "45.837906927s", in seconds."""
    text = as_text(value)
    return _number(text[:-1]) if text.endswith("s") else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """How long the server asks to wait, in seconds; None when it does not say so in a way that can be meant.

    `retry-after-ms` first, then `retry-after` as seconds or as a date, which counts from the same reply's `date`: the
    clock here may be wrong, and is not read.
    """
    millis = _number(headers.get("retry-after-ms", "").strip())
    text = headers.get("retry-after", "").strip()
    seconds = _number(text)
    if millis or (millis is not None and seconds is None):  # Azure sends 0 beside a real number of seconds
        return millis / 1000
    if seconds is not None:
        return seconds
    then, now = _instant(text), _instant(headers.get("date", ""))
    return then - now if then is not None and now is not None and then >= now else None


def _instant(text: str) -> float | None:
    """An HTTP date in seconds since the epoch."""
    try:
        parsed = parsedate_tz(text[:100])
        instant = float(mktime_tz(parsed)) if parsed else None
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return instant if instant is not None and math.isfinite(instant) else None


def should_retry(headers: Mapping[str, str]) -> bool | None:
    """The server's explicit word, where it gives one."""
    return {"true": True, "false": False}.get(headers.get("x-should-retry", "").strip().lower())


def request_id(headers: Mapping[str, str]) -> str | None:
    """The vendor's id of this exchange."""
    return next((headers[name][:200] for name in _REQUEST_ID if headers.get(name)), None)


# ------------------------------------------------------------------------------------------------------ the failure


def scrub(text: str, target: Target) -> str:
    """A message fit to be shown: bounded, valid text, one that repeats no secret of the target."""
    text = clean(text)
    for secret in (target.api_key or "", *target.headers.values()):
        for word in (secret, secret.rpartition(" ")[2]):  # "Bearer xyz" holds xyz
            if len(word) >= 6:
                text = text.replace(word, "[secret]")
    text = text.strip()
    return text if len(text) <= MESSAGE_LIMIT else text[: MESSAGE_LIMIT - 1] + "…"


def inband_failure(payload: Any, target: Target, rules: Rules, usage: Usage) -> Failure:
    """An error that came inside a 200."""
    error = read_error(payload)
    return Failure(
        kind=classify(None, error.words, error.message, rules),
        message=scrub(error.message or "an error without a message", target),
        code=error.code,
        retry_after=error.retry_after,
        request_id=error.request_id,
        phase=Phase.STREAM,
        usage=usage,
    )


def status_failure(reply: HttpReply, target: Target, rules: Rules) -> Failure:
    """A reply whose status is no success."""
    error = _error_of(reply.body)
    after = retry_after(reply.headers)
    return Failure(
        kind=classify(reply.status, error.words, error.message, rules),
        message=scrub(error.message, target) or _bare(reply),
        status=reply.status,
        code=error.code,
        retry_after=after if after is not None else error.retry_after,
        should_retry=should_retry(reply.headers),
        request_id=request_id(reply.headers) or error.request_id,
    )


def _error_of(body: bytes) -> ErrorBody:
    """What the body says, as JSON, else in its words."""
    try:
        return read_error(loads(body)) if len(body) <= BODY_LIMIT else ErrorBody(_plain_text(body))
    except ValueError:
        return ErrorBody(_plain_text(body))


def _bare(reply: HttpReply) -> str:
    """For a body without words. Of a redirect's address only the origin is told: the rest may hold a secret."""
    origin = re.match(r"https?://[^/?#@\s]{1,200}", reply.headers.get("location", ""))
    return f"redirected to {origin[0]}" if origin else f"HTTP {reply.status} without a message"


def _plain_text(body: bytes) -> str:
    """The words of a body that is no JSON: a page's title, else its text without tags."""
    text = body[:20_000].decode(errors="replace")
    if "<" in text:
        title = re.search(r"<title[^>]{0,200}>([^<]{1,500})", text, re.IGNORECASE)
        text = title[1] if title else re.sub(r"<[^<>]{0,2000}>", " ", text)
    return " ".join(text.split())
