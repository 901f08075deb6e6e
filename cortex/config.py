"""What users pass to an engine -> `Settings`, and which lanes serve a model in which order. Pure: the environment is an
argument, and only `read` touches a file.

A model is served by (1) every provider whose own config names it, (2) for `provider/model` or `provider:model` with a
registered provider's name: that one alone, (3) every provider registered under a vendor's own name, if the model is of
that vendor's family. When none of these does, (4) by the only local server registered. Else it is an error: a guess
would send a key, or a user's data, to the wrong company.

A request stays in the zone its model lives in, or moves to "on-prem". A lane elsewhere is left out of the chain, unless
the user named its model in `fallback_models`: naming is consent.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import attrs

from cortex import catalog, checks, vendors
from cortex.errors import ConfigError
from cortex.policy import Policy
from cortex.routing import Lane
from cortex.vendors import ALIASES, CLOUD, ON_PREM, VENDORS, ProviderConfig

__all__ = [
    "Chain",
    "ProviderConfig",
    "RoleName",
    "Settings",
    "chain",
    "from_env",
    "load",
    "parse",
    "private",
    "read",
    "resolve",
]

RoleName: TypeAlias = Literal["worker", "orchestrator"]

_FAMILY: Final[Mapping[str, str]] = {
    "openai": "openai",
    "azure": "openai",
    "anthropic": "anthropic",
    "gemini": "gemini",
}
"""Whose models a kind of provider serves when it is registered under a name that says so."""

_DISCOVERED: Final = ("openai", "gemini", "anthropic", "local")
_ENGINE_KEYS: Final = ("providers", "orchestrator_model", "worker_model", "fallback_models", "policy")
_ROLE_TIER: Final[Mapping[RoleName, catalog.Tier]] = {"worker": "fast", "orchestrator": "deep"}


@attrs.frozen(kw_only=True)
class Settings:
    """An engine's configuration, checked. The order of `providers` is preference among equals.

    `fallback_models` None means the automatic chain. `guessed` holds those role models that nobody named.
    """

    providers: tuple[ProviderConfig, ...]
    orchestrator_model: str
    worker_model: str
    fallback_models: tuple[str, ...] | None = None
    policy: Policy = attrs.field(factory=Policy)
    guessed: frozenset[str] = frozenset()

    def provider(self, name: str) -> ProviderConfig:
        """The provider registered as `name`; `ConfigError` when there is none."""
        names = [provider.name for provider in self.providers]
        if name not in names:
            hint = f"{checks.nearest(name, names)} (registered: {checks.listed(names)})"
            raise ConfigError(f"provider: {name!r} is not registered{hint}")
        return self.providers[names.index(name)]

    def model_of(self, role: RoleName) -> str:
        """The role's model as configured."""
        return self.worker_model if role == "worker" else self.orchestrator_model


@attrs.frozen
class Chain:
    """Who may serve a call: `tiers` in order; within a tier health and load choose.

    `left_out` tells who was dropped and why; `implicit` are lanes of models that nobody named.
    """

    tiers: tuple[tuple[Lane, ...], ...]
    left_out: tuple[tuple[Lane, str], ...] = ()
    implicit: frozenset[Lane] = frozenset()

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """All lanes, in order."""
        return tuple(lane for tier in self.tiers for lane in tier)


# ------------------------------------------------------------------------------------------- arguments -> settings


def parse(
    providers: object,
    *,
    orchestrator_model: object = None,
    worker_model: object = None,
    fallback_models: object = None,
    policy: object = None,
    env: Mapping[str, str],
) -> Settings:
    """The arguments of an engine, checked and completed from `env`. Raises `ConfigError` at the first fault."""
    example = '{"openai": {"api_key": "..."}}'
    given = checks.mapping("providers", providers, example=example)
    if not given:
        raise ConfigError(f"providers: must name at least one provider, e.g. {example}")
    registered = tuple(vendors.provider(name, config, env) for name, config in given.items())
    orchestrator, worker, guessed = _role_models(registered, orchestrator_model, worker_model)
    settings = Settings(
        providers=registered,
        orchestrator_model=orchestrator,
        worker_model=worker,
        fallback_models=_fallback_models(fallback_models),
        policy=Policy.of(policy),
        guessed=guessed,
    )
    roles = {"worker_model": worker, "orchestrator_model": orchestrator}
    if worker_model is None:  # the one that was passed comes first: it is the one to blame
        roles = dict(reversed(roles.items()))
    for field, model in roles.items():
        resolve(model, settings, field=field)
    for model in settings.fallback_models or ():
        resolve(model, settings, field="fallback_models")
    return settings


def _role_models(
    providers: Sequence[ProviderConfig], orchestrator: object, worker: object
) -> tuple[str, str, frozenset[str]]:
    """Either may be omitted, it then equals the other; neither: the first provider's defaults."""
    deep = None if orchestrator is None else checks.text("orchestrator_model", orchestrator, example="gpt-4o")
    fast = None if worker is None else checks.text("worker_model", worker, example="gemini-2.5-flash")
    if deep is not None or fast is not None:
        return deep or fast or "", fast or deep or "", frozenset()
    first = providers[0]
    deep, fast = first.default("deep"), first.default("fast")
    if deep is None or fast is None:
        raise ConfigError(
            f"worker_model: no model is named and {first.name} has no default; pass worker_model, "
            f"or providers.{first.name}.default_model"
        )
    return deep, fast, frozenset(model for model in (deep, fast) if not first.names(model))


def _fallback_models(given: object) -> tuple[str, ...] | None:
    if given is None:
        return None
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
        raise ConfigError(f'fallback_models: must be a list such as ["gpt-4o"], or None, not {checks.kind(given)}')
    return tuple(dict.fromkeys(checks.text(f"fallback_models[{i}]", model) for i, model in enumerate(given)))


def from_env(env: Mapping[str, str]) -> dict[str, Any]:
    """Arguments for `parse` from the environment alone; `parse` then takes the keys from there.

    Registered is every provider whose key is set, and a local server that OLLAMA_HOST names. CORTEX_PROVIDERS, a
    comma-separated list, allows only these, in this order: a stray key must not become a fallback.
    CORTEX_ORCHESTRATOR_MODEL and CORTEX_WORKER_MODEL name the models. Nothing found: `ConfigError`.
    """
    allowed = [name.strip() for name in env.get("CORTEX_PROVIDERS", "").split(",") if name.strip()]
    for name in allowed:
        checks.one_of("CORTEX_PROVIDERS", name, ALIASES)
    found = [name for name in allowed or _DISCOVERED if _is_set(name, env)]
    if not found:
        wanted = {variable: None for name in allowed or _DISCOVERED for variable in _variables(name)}
        limit = f" for {checks.listed(allowed)} (CORTEX_PROVIDERS)" if allowed else ""
        raise ConfigError(f"providers: the environment names none{limit}; set one of {checks.listed(wanted)}")
    roles = {"orchestrator_model": "CORTEX_ORCHESTRATOR_MODEL", "worker_model": "CORTEX_WORKER_MODEL"}
    models = {argument: env[variable] for argument, variable in roles.items() if env.get(variable)}
    return {"providers": {name: {} for name in dict.fromkeys(found)}, **models}


def _variables(name: str) -> tuple[str, ...]:
    """What has to be set for a provider to be found in the environment; one of them is enough."""
    vendor = VENDORS[ALIASES[name]]
    return vendor.key_envs or ((vendor.url_env,) if vendor.url_env and name != "vllm" else ())


def _is_set(name: str, env: Mapping[str, str]) -> bool:
    vendor = VENDORS[ALIASES[name]]
    addressed = vendor.base_url is not None or bool(vendor.url_env and env.get(vendor.url_env))
    return addressed and any(env.get(variable) for variable in _variables(name))


def load(source: str | Path | Mapping[str, Any], env: Mapping[str, str]) -> dict[str, Any]:
    """Arguments for `parse` from a TOML file, or a dict, of the shape of these arguments; checked as a whole.

    A key is best left out of the file: `api_key = {env = "NAME"}`. Errors name the file, the table and the key.
    """
    where, given = ("", source) if isinstance(source, Mapping) else (f"{source}: ", read(source))
    try:
        arguments = dict(checks.mapping("config", given, example='{"providers": {...}}'))
        checks.known_keys("config", arguments, _ENGINE_KEYS)
        if "providers" not in arguments:
            raise ConfigError("providers: is missing; write a table such as [providers.openai]")
        arguments["policy"] = Policy.of(arguments.get("policy"))
        parse(**arguments, env=env)
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from None
    return arguments


def read(path: str | Path) -> dict[str, Any]:
    """The tables of a TOML file."""
    if not isinstance(path, (str, Path)):
        raise ConfigError(f"config: must be the path of a TOML file, or a dict, not {checks.kind(path)}")
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from None


# ---------------------------------------------------------------------------------------------------- who serves it


def resolve(model: str, settings: Settings, *, field: str = "model") -> tuple[Lane, ...]:
    """The lanes that serve `model`, in the order their providers were registered; at least one, else `ConfigError`."""
    model = checks.model(field, model)
    addressed = _addressed(model, settings.providers, field)
    if addressed is not None:
        return (addressed,)
    family = catalog.family(model)
    serving = [p for p in settings.providers if p.names(model) or _serves_family(p, family)]
    local = [p for p in settings.providers if p.kind == "local"]
    if not serving and len(local) == 1 and local[0].models is None:
        serving = local
    if serving:
        return tuple(provider.lane(model) for provider in serving)
    named = [name for provider in settings.providers for name in provider.models or ()]
    raise ConfigError(
        f"{field}: no registered provider serves {model!r} (registered: "
        f"{checks.listed(provider.name for provider in settings.providers)}); register its vendor, list it in a "
        f'provider\'s `models`, or write "provider/{model}"{checks.nearest(model, named)}'
    )


def _addressed(model: str, providers: Sequence[ProviderConfig], field: str) -> Lane | None:
    """`provider/model` or `provider:model`; otherwise a slash or a colon is part of the model's name."""
    for provider in providers:
        head, rest = model[: len(provider.name)], model[len(provider.name) :]
        if head != provider.name or rest[:1] not in ("/", ":"):
            continue
        name = rest[1:]
        if not name:
            raise ConfigError(f"{field}: {model!r} names no model after the provider")
        if provider.models is not None and name not in provider.models:
            hint = f"{checks.nearest(name, provider.models)} (its models: {checks.listed(provider.models)})"
            raise ConfigError(f"{field}: {provider.name} does not serve {name!r}{hint}")
        return provider.lane(name)
    return None


def _serves_family(provider: ProviderConfig, family: str | None) -> bool:
    if family is None or provider.models is not None or provider.name not in ALIASES:
        return False
    return _FAMILY.get(provider.kind) == family


# ---------------------------------------------------------------------------------------------------------- chains


def chain(settings: Settings, *, role: RoleName = "worker", model: str | None = None) -> Chain:
    """Who may serve a call of `role`, or of `model` where the call names one.

    First that model on every provider that serves it. Then `fallback_models`, if it is a list; else the role's own
    model (when the call named another), the other role's, and the default model of every provider not yet in the chain.
    """
    wanted = model if model is not None else settings.model_of(role)
    first = resolve(wanted, settings)
    home = settings.provider(first[0].provider).zone
    named = {lane for name in settings.fallback_models or () for lane in resolve(name, settings)}
    build = _Build(settings, wanted, home, named)
    guessed = model is None and wanted in settings.guessed
    build.add(first, implicit=guessed)
    for lanes, implicit in _spares(settings, role, build):
        build.add(lanes, implicit=implicit)
    return Chain(tuple(build.tiers), tuple(build.left_out.items()), frozenset(build.implicit))


def _spares(settings: Settings, role: RoleName, build: _Build) -> Iterator[tuple[tuple[Lane, ...], bool]]:
    if settings.fallback_models is not None:
        for name in settings.fallback_models:
            yield resolve(name, settings), False
        return
    other: RoleName = "orchestrator" if role == "worker" else "worker"
    for name in (settings.model_of(role), settings.model_of(other)):
        yield resolve(name, settings), name in settings.guessed
    for provider in settings.providers:
        default = provider.default(_ROLE_TIER[role])
        if default is not None and not build.knows(provider.name):
            yield (provider.lane(default),), not provider.names(default)


@attrs.define
class _Build:
    """A chain as it grows: no lane twice, none outside its zone without consent."""

    settings: Settings
    wanted: str
    home: str
    named: set[Lane]
    tiers: list[tuple[Lane, ...]] = attrs.field(factory=list)
    left_out: dict[Lane, str] = attrs.field(factory=dict)
    implicit: set[Lane] = attrs.field(factory=set)

    def add(self, lanes: tuple[Lane, ...], *, implicit: bool) -> None:
        new = [lane for lane in lanes if lane not in self.left_out and not any(lane in tier for tier in self.tiers)]
        tier = tuple(lane for lane in new if self._may_go(lane))
        if tier:
            self.tiers.append(tier)
        if implicit:
            self.implicit.update(tier)

    def knows(self, provider: str) -> bool:
        """Whether it is in the chain already, or already left out."""
        return any(lane.provider == provider for tier in (*self.tiers, self.left_out) for lane in tier)

    def _may_go(self, lane: Lane) -> bool:
        zone = self.settings.provider(lane.provider).zone
        if zone in (self.home, ON_PREM) or lane in self.named:
            return True
        self.left_out[lane] = (
            f"zone: {self.wanted} lives in {self.home!r}, {lane.provider} in {zone!r}; "
            f"name {lane.model!r} in fallback_models to allow it"
        )
        return False


def private(settings: Settings) -> bool:
    """Whether the worker's zone is more trusted than the orchestrator's: then only the caller may choose System 2.

    On-prem is trusted most, a zone the user named himself more than the plain cloud.
    """
    return _trust(settings, settings.worker_model) > _trust(settings, settings.orchestrator_model)


def _trust(settings: Settings, model: str) -> int:
    zone = settings.provider(resolve(model, settings)[0].provider).zone
    return {ON_PREM: 2, CLOUD: 0}.get(zone, 1)
