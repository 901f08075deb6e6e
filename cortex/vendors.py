"""What is known of each kind of provider, and a provider's dict -> `ProviderConfig`. Pure: `env` is an argument.

A name says what a provider is only if it is a vendor's own, or an alias. Any other name needs `kind` and `base_url`; a
key from the environment is never taken for it, because its address is another origin than the key was made for.

Everything wrong is a `ConfigError` that names the field. A key, a header or a proxy is never shown, even a wrong one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

import attrs

from cortex import catalog, checks, vertex
from cortex.addresses import is_near, is_ollamas, ollama_url, url
from cortex.errors import ConfigError
from cortex.routing import Lane

ApiKey: TypeAlias = str | vertex.AccessToken | Callable[[], str | Awaitable[str]]
"""A key, or a function (sync or async) that gives one and is asked again when the old one is refused."""

ON_PREM: Final = "on-prem"
CLOUD: Final = "cloud"


@attrs.frozen
class Vendor:
    """A kind of provider: its dialects, its address, the environment variables its own SDKs read, its own options.

    `apis`: what `api` may say, the default first, and the dialect each means (its name in `cortex.wire.WIRES`).
    """

    apis: Mapping[str, str]
    base_url: str | None = None
    key_envs: tuple[str, ...] = ()
    url_env: str | None = None
    options: frozenset[str] = frozenset()


_OPENAI: Final = {"chat": "openai_chat", "responses": "openai_responses"}

VENDORS: Final[Mapping[str, Vendor]] = {
    "openai": Vendor(
        _OPENAI,
        "https://api.openai.com/v1",
        ("OPENAI_API_KEY",),
        "OPENAI_BASE_URL",
        frozenset({"organization", "project"}),
    ),
    "gemini": Vendor(
        {"generate": "gemini"},
        "https://generativelanguage.googleapis.com",
        ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        "GOOGLE_GEMINI_BASE_URL",
        frozenset({"project", "location", "thinking_budget"}),
    ),
    "anthropic": Vendor(
        {"messages": "anthropic"},
        "https://api.anthropic.com",
        ("ANTHROPIC_API_KEY",),
        "ANTHROPIC_BASE_URL",
        frozenset({"version", "thinking_budget"}),
    ),
    "local": Vendor({**_OPENAI, "ollama": "ollama"}, url_env="OLLAMA_HOST"),
    "azure": Vendor(_OPENAI, None, ("AZURE_OPENAI_API_KEY",), "AZURE_OPENAI_ENDPOINT", frozenset({"api_version"})),
}

ALIASES: Final[Mapping[str, catalog.Kind]] = {
    "openai": "openai",
    "gemini": "gemini",
    "google": "gemini",
    "anthropic": "anthropic",
    "claude": "anthropic",
    "local": "local",
    "ollama": "local",
    "vllm": "local",
    "azure": "azure",
}
"""Names that say by themselves what a provider is."""

_COMMON: Final = (
    "kind",
    "api_key",
    "base_url",
    "default_model",
    "models",
    "headers",
    "timeout",
    "max_concurrency",
    "proxy",
    "verify",
    "cert",
    "zone",
    "enabled",
)
_OPTIONS: Final = frozenset[str]().union(*(vendor.options for vendor in VENDORS.values()))


@attrs.frozen(kw_only=True)
class ProviderConfig:
    """One registered provider, complete: nothing has to be looked up later.

    `wire` is the name of its dialect. `base_url` has no trailing slash. `key_env` is the variable the key came from, if
    it came from one. `models` maps public names to the names at this provider; None: whatever its family tells.
    `timeout` in seconds sets the answer, first-token and progress timers. `verify` is a bool, the path of a CA bundle,
    or an SSLContext. `options` belong to its dialect. `enabled` is how it starts: a disabled one can be enabled while
    the engine runs.
    """

    name: str
    kind: catalog.Kind
    wire: str
    base_url: str
    api_key: ApiKey | None = attrs.field(default=None, repr=False)
    key_env: str | None = None
    default_model: str | None = None
    models: Mapping[str, str] | None = None
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    timeout: float | None = None
    max_concurrency: int | None = None
    proxy: str | None = attrs.field(default=None, repr=False)
    verify: Any = True
    cert: str | tuple[str, ...] | None = attrs.field(default=None, repr=False)
    zone: str = CLOUD
    options: Mapping[str, Any] = attrs.field(factory=dict)
    enabled: bool = True

    def names(self, model: str) -> bool:
        """Whether this provider's own config names `model`."""
        return model == self.default_model or (self.models is not None and model in self.models)

    def lane(self, model: str) -> Lane:
        """The lane of `model` here, under the name this provider knows it by."""
        return Lane(self.name, model, self.models.get(model, model) if self.models else model)

    def default(self, tier: catalog.Tier) -> str | None:
        """The model to ask here when nobody named one; None when only the user knows."""
        if self.default_model is not None:
            return self.default_model
        if self.models:
            return next((name for name in self.models if catalog.tier(name) == tier), next(iter(self.models)))
        return catalog.default_model(self.kind, tier) if self.name in ALIASES else None


def provider(name: str, config: object, env: Mapping[str, str]) -> ProviderConfig:
    """One entry of `providers`, checked and completed from `env`. A key that is None counts as not given."""
    field = f"providers.{name}"
    if not name or set(name) & set("/: "):
        raise ConfigError(f'{field}: a provider\'s name may not be empty or hold "/", ":" or a space')
    example = '{"base_url": "http://localhost:11434/v1"}' if ALIASES.get(name) == "local" else '{"api_key": "..."}'
    given = {key: value for key, value in checks.mapping(field, config, example=example).items() if value is not None}
    kind = _kind(field, name, given)
    _known_keys(field, kind, given)
    options = _options(field, kind, given)
    base_url = _base_url(field, name, kind, given, options, env)
    api_key, key_env = _api_key(field, name, kind, given, env)
    models = _models(f"{field}.models", given.get("models"))
    zone = given.get("zone")
    return ProviderConfig(
        name=name,
        kind=kind,
        base_url=base_url,
        api_key=api_key,
        key_env=key_env,
        default_model=_default_model(f"{field}.default_model", given.get("default_model"), models),
        models=models,
        headers=_headers(f"{field}.headers", given.get("headers", {})),
        timeout=_seconds(f"{field}.timeout", given.get("timeout")),
        max_concurrency=_count(f"{field}.max_concurrency", given.get("max_concurrency")),
        proxy=_proxy(f"{field}.proxy", given.get("proxy")),
        verify=_verify(f"{field}.verify", given.get("verify", True)),
        cert=_cert(f"{field}.cert", given.get("cert")),
        zone=_zone_of(kind, base_url) if zone is None else checks.text(f"{field}.zone", zone, example="eu"),
        wire=_wire(f"{field}.api", kind, given.get("api"), base_url),
        options=options,
        enabled=_flag(f"{field}.enabled", given.get("enabled", True)),
    )


# ------------------------------------------------------------------------------------------------------- who it is


def _kind(field: str, name: str, given: Mapping[str, Any]) -> catalog.Kind:
    by_name = ALIASES.get(name)
    if "kind" not in given:
        if by_name is not None:
            return by_name
        raise ConfigError(
            f"{field}: unknown provider{checks.nearest(name, ALIASES)} (known: {checks.listed(ALIASES)}); "
            "another name needs `kind`, one of these, and a `base_url`"
        )
    kind = ALIASES[checks.one_of(f"{field}.kind", given["kind"], ALIASES)]
    if by_name not in (None, kind):
        raise ConfigError(f'{field}.kind: "{name}" is of kind {by_name}; give a provider of kind {kind} another name')
    return kind


def _known_keys(field: str, kind: str, given: Iterable[str]) -> None:
    known = [*_COMMON, *(["api"] if len(VENDORS[kind].apis) > 1 else []), *sorted(VENDORS[kind].options)]
    for key in given:
        if key in _OPTIONS and key not in known:
            kinds = checks.listed(name for name, vendor in VENDORS.items() if key in vendor.options)
            raise ConfigError(f"{field}.{key}: is an option of {kinds}, not of {kind}")
    checks.known_keys(field, given, known)


def _is_vertex(kind: str, given: Mapping[str, Any]) -> bool:
    return kind == "gemini" and "project" in given


# -------------------------------------------------------------------------------------------------------- its key


def _api_key(
    field: str, name: str, kind: str, given: Mapping[str, Any], env: Mapping[str, str]
) -> tuple[ApiKey | None, str | None]:
    """The key, and the variable it came from."""
    field = f"{field}.api_key"
    key: Any = given.get("api_key")
    if callable(key):
        fetch: Callable[[], Any] = key
        return fetch, None
    if isinstance(key, Mapping):
        variable = _variable(field, key)
        return _key_text(f"{field}: the environment variable {variable}", env.get(variable, "")), variable
    if key is not None:
        return _key_text(field, key), None
    if kind == "local":
        return None, None
    if _is_vertex(kind, given):
        return vertex.access_token(field), None
    if name not in ALIASES:
        raise ConfigError(f"{field}: is missing; a provider with a name of its own takes none from the environment")
    for variable in VENDORS[kind].key_envs:
        if env.get(variable):
            return _key_text(f"{field}: the environment variable {variable}", env[variable]), variable
    raise ConfigError(f"{field}: is missing; pass it, or set {' or '.join(VENDORS[kind].key_envs)}")


def _key_text(field: str, key: object) -> str:
    """A key goes into a header: one line of visible ASCII."""
    if not isinstance(key, str):
        raise ConfigError(f"{field}: must be a text or a function that returns one, not {checks.kind(key)}")
    plain = key.strip()
    if not plain:
        raise ConfigError(f"{field}: is empty or not set")
    if not (plain.isascii() and plain.isprintable()) or " " in plain:
        raise ConfigError(f"{field}: holds a character that no key has, such as a space or a line break")
    return plain


def _variable(field: str, given: Mapping[Any, Any]) -> str:
    if set(given) != {"env"}:
        raise ConfigError(f'{field}: a dict here must be {{"env": "NAME"}}: the variable that holds the key')
    return checks.text(f"{field}.env", given["env"], example="OPENAI_API_KEY")


# ---------------------------------------------------------------------------------------------------- its address


def _base_url(
    field: str, name: str, kind: str, given: Mapping[str, Any], options: Mapping[str, Any], env: Mapping[str, str]
) -> str:
    field = f"{field}.base_url"
    given_url = url(field, given["base_url"]) if "base_url" in given else None
    if _is_vertex(kind, given):
        return vertex.address(options["project"], options.get("location", "global"), given_url)
    if given_url is not None:
        return given_url
    if name not in ALIASES:
        raise ConfigError(f"{field}: is missing; a provider with a name of its own needs one")
    vendor = VENDORS[kind]
    variable = vendor.url_env if name != "vllm" else None
    if variable and env.get(variable):
        value = env[variable]
        return ollama_url(value) if variable == "OLLAMA_HOST" else url(variable, value)
    if vendor.base_url is not None:
        return vendor.base_url
    example = "http://localhost:11434/v1" if kind == "local" else "https://my-resource.openai.azure.com"
    raise ConfigError(f"{field}: is missing; pass e.g. {example}{f', or set {variable}' if variable else ''}")


def _zone_of(kind: str, base_url: str) -> str:
    """A local server is on-prem, unless its address is neither loopback, private nor a bare host name."""
    return ON_PREM if kind == "local" and is_near(urlsplit(base_url).hostname or "") else CLOUD


# ------------------------------------------------------------------------------------------------- the other fields


def _models(field: str, given: object) -> Mapping[str, str] | None:
    """A list of names, or a dict of public name -> the name at this provider."""
    if given is None:
        return None
    if isinstance(given, Mapping):
        pairs = [(checks.model(field, name), checks.model(f"{field}.{name}", given[name])) for name in given]
    elif isinstance(given, Sequence) and not isinstance(given, (str, bytes)):
        names = [checks.model(f"{field}[{i}]", name) for i, name in enumerate(given)]
        pairs = list(zip(names, names, strict=True))
    else:
        raise ConfigError(f'{field}: must be a list such as ["gpt-4o"] or a dict of names, not {checks.kind(given)}')
    if not pairs:
        raise ConfigError(f"{field}: is empty, so nothing could be served; leave it out, or name a model")
    models = dict(pairs)
    if len(models) < len(pairs):
        twice = next(name for name in models if sum(name == other for other, _ in pairs) > 1)
        raise ConfigError(f"{field}: names {twice!r} twice")
    return MappingProxyType(models)


def _default_model(field: str, given: object, models: Mapping[str, str] | None) -> str | None:
    if given is None:
        return None
    name = checks.model(field, given)
    if models is not None and name not in models:
        hint = f"{checks.nearest(name, models)} (models: {checks.listed(models)})"
        raise ConfigError(f"{field}: {name!r} is not among its `models`{hint}")
    return name


def _headers(field: str, given: object) -> Mapping[str, str]:
    headers = checks.mapping(field, given, example='{"x-team": "search"}')
    for name, value in headers.items():
        if not name or not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
            raise ConfigError(f"{field}: holds a name that no header has (letters, digits, - and _)")
        if not isinstance(value, str):
            raise ConfigError(f"{field}.{name}: must be a text, not {checks.kind(value)}")
        if not (value.isascii() and (value.isprintable() or not value)):
            raise ConfigError(f"{field}.{name}: holds a character that no header may have, such as a line break")
    return MappingProxyType(dict(headers))


def _seconds(field: str, given: object) -> float | None:
    return None if given is None else checks.number(field, given, above=0, unit="seconds")


def _count(field: str, given: object) -> int | None:
    return None if given is None else checks.whole(field, given)


def _flag(field: str, given: object) -> bool:
    if not isinstance(given, bool):
        raise ConfigError(f"{field}: must be True or False, not {checks.kind(given)}")
    return given


def _proxy(field: str, given: object) -> str | None:
    """It may hold credentials, so nothing of it is shown."""
    if given is None:
        return None
    plain = checks.text(field, given, example="http://proxy.example.com:3128")
    try:
        parts = urlsplit(plain)
        usable = parts.scheme in ("http", "https", "socks5", "socks5h") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"{field}: must be an address such as http://proxy.example.com:3128")
    return plain


def _verify(field: str, given: object) -> Any:
    if isinstance(given, (bool, str)) and given != "":
        return given
    if hasattr(given, "wrap_bio"):  # an ssl.SSLContext, or what stands for one
        return given
    raise ConfigError(
        f"{field}: must be True, False, the path of a CA bundle or an SSLContext, not {checks.kind(given)}"
    )


def _cert(field: str, given: object) -> str | tuple[str, ...] | None:
    """It may hold a password, so nothing of it is shown."""
    parts = (given,) if isinstance(given, str) else given
    if parts is None:
        return None
    if isinstance(parts, list | tuple) and len(parts) in (1, 2, 3) and all(isinstance(part, str) for part in parts):
        return parts[0] if len(parts) == 1 else tuple(parts)
    raise ConfigError(
        f"{field}: must be the path of a PEM file with certificate and key, or (certificate, key) or "
        f"(certificate, key, password), not {checks.kind(given)}"
    )


def _wire(field: str, kind: str, given: object, base_url: str) -> str:
    """The dialect that `api` names; without it, the first of this kind, or Ollama's own where the address tells so."""
    apis = VENDORS[kind].apis
    if given is not None:
        return apis[checks.one_of(field, given, tuple(apis))]
    return apis["ollama" if kind == "local" and is_ollamas(base_url) else next(iter(apis))]


def _options(field: str, kind: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
    options: dict[str, Any] = {}
    for name in sorted(VENDORS[kind].options & given.keys()):
        value = given[name]
        options[name] = (
            checks.whole(f"{field}.{name}", value, low=0)
            if name == "thinking_budget"
            else checks.text(f"{field}.{name}", value)
        )
        if not (str(value).isascii() and str(value).isprintable()):
            raise ConfigError(f"{field}.{name}: holds a character that neither a header nor an address may have")
    if "location" in options and "project" not in options:
        raise ConfigError(f"{field}.project: is missing; `location` needs it: both name where a model of Vertex lives")
    for name in ("project", "location"):  # they become part of an address, or of a header
        if not options.get(name, "x").replace("-", "").replace("_", "").isalnum():
            raise ConfigError(f"{field}.{name}: may only hold letters, digits, - and _")
    return MappingProxyType(options)
