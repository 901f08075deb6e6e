"""Settings, the lanes of a model, and chains: tables, and the rules that hold for every set of providers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cortex import config
from cortex.config import Chain, Settings, chain, from_env, load, parse, private, resolve
from cortex.errors import ConfigError
from cortex.policy import Policy
from cortex.routing import Lane
from cortex.vendors import CLOUD, ON_PREM

KEY = "sk-secret-5f2c"
OPENAI = {"openai": {"api_key": KEY}}
GEMINI = {"gemini": {"api_key": KEY}}
ANTHROPIC = {"anthropic": {"api_key": KEY}}
LOCAL = {"local": {"base_url": "http://localhost:11434/v1"}}


def settings(providers: Mapping[str, Any], env: Mapping[str, str] | None = None, **arguments: Any) -> Settings:
    return parse(providers, **arguments, env=env or {})


def names(lanes: tuple[Lane, ...]) -> list[str]:
    return [str(lane) for lane in lanes]


def tiers(built: Chain) -> list[list[str]]:
    return [names(tier) for tier in built.tiers]


# ----------------------------------------------------------------------------------------------- the roles' models


@pytest.mark.parametrize(
    ("arguments", "orchestrator", "worker", "guessed"),
    [
        ({"orchestrator_model": "gpt-4o", "worker_model": "gemini-2.5-flash"}, "gpt-4o", "gemini-2.5-flash", set()),
        ({"orchestrator_model": "gpt-4o"}, "gpt-4o", "gpt-4o", set()),
        ({"worker_model": "gpt-4o"}, "gpt-4o", "gpt-4o", set()),
        ({}, "gpt-6.1-sol", "gpt-6-luna", {"gpt-6.1-sol", "gpt-6-luna"}),
    ],
)
def test_either_model_may_be_omitted(
    arguments: dict[str, Any], orchestrator: str, worker: str, guessed: set[str]
) -> None:
    made = settings({**OPENAI, **GEMINI}, **arguments)
    assert (made.orchestrator_model, made.worker_model, made.guessed) == (orchestrator, worker, guessed)
    assert (made.model_of("orchestrator"), made.model_of("worker")) == (orchestrator, worker)


def test_a_default_the_user_named_is_no_guess() -> None:
    made = settings({"local": {**LOCAL["local"], "default_model": "llama3.1:8b"}, **OPENAI})
    assert (made.orchestrator_model, made.worker_model, made.guessed) == ("llama3.1:8b", "llama3.1:8b", frozenset())


@pytest.mark.parametrize(
    ("providers", "arguments", "match"),
    [
        ({}, {}, "^providers: must name at least one"),
        (None, {}, "^providers: must be a dict .* not None"),
        (["openai"], {}, "^providers: .* not list"),
        ({5: {}}, {}, "^providers: its keys must be texts, not int"),
        ({"opnai": {}}, {}, r'^providers\.opnai: .*did you mean "openai"'),
        (LOCAL, {}, r"^worker_model: no model is named and local has no default; .*providers\.local\.default_model"),
        (OPENAI, {"worker_model": 5}, "^worker_model: .*not int"),
        (OPENAI, {"orchestrator_model": ""}, "^orchestrator_model: .*empty"),
        (OPENAI, {"worker_model": "llama3.1:8b"}, r"^worker_model: .*'llama3\.1:8b' \(registered: openai\)"),
        (OPENAI, {"orchestrator_model": "claude-opus-4-6"}, r"^orchestrator_model: no registered provider serves"),
        (OPENAI, {"fallback_models": "gpt-4o"}, "^fallback_models: must be a list .* not str"),
        (OPENAI, {"fallback_models": [5]}, r"^fallback_models\[0\]: .*not int"),
        (OPENAI, {"fallback_models": ["gpt-4o", "nope"]}, "^fallback_models: no registered provider serves 'nope'"),
        (OPENAI, {"policy": {"grace": -1}}, r"^Policy\.grace: "),
        (OPENAI, {"policy": 5}, "^policy: .*not int"),
    ],
)
def test_what_cannot_work_is_named(providers: Any, arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        settings(providers, **arguments)


def test_settings_know_their_providers() -> None:
    made = settings({**OPENAI, **GEMINI})
    assert made.provider("gemini").name == "gemini"
    with pytest.raises(ConfigError, match=r"^provider: 'gemni' is not registered; did you mean \"gemini\""):
        made.provider("gemni")
    assert KEY not in repr(made)


# ---------------------------------------------------------------------------------------------------- who serves it

GATEWAY = {"gateway": {"kind": "openai", "base_url": "https://gw.example.com/v1", "api_key": KEY}}
AZURE = {"azure": {"base_url": "https://r.openai.azure.com", "api_key": KEY}}


@pytest.mark.parametrize(
    ("providers", "model", "lanes"),
    [
        # (3) the family, under a vendor's own name or an alias, in the order registered
        ({**OPENAI, **GEMINI, **ANTHROPIC, **LOCAL}, "claude-opus-4-6", ["anthropic/claude-opus-4-6"]),
        ({**OPENAI, **GEMINI, **ANTHROPIC, **LOCAL}, "gemini-3-flash-preview", ["gemini/gemini-3-flash-preview"]),
        ({**OPENAI, **AZURE}, "gpt-4o", ["openai/gpt-4o", "azure/gpt-4o"]),
        ({**AZURE, **OPENAI}, "gpt-4o", ["azure/gpt-4o", "openai/gpt-4o"]),
        ({"claude": {"api_key": KEY}}, "claude-next", ["claude/claude-next"]),
        ({**OPENAI, **GATEWAY}, "gpt-4o", ["openai/gpt-4o"]),
        # (1) its own config
        (
            {**OPENAI, "gateway": {**GATEWAY["gateway"], "models": ["gpt-4o"]}},
            "gpt-4o",
            ["openai/gpt-4o", "gateway/gpt-4o"],
        ),
        ({**OPENAI, "gateway": {**GATEWAY["gateway"], "default_model": "m"}}, "m", ["gateway/m"]),
        (
            {**GEMINI, "openai": {"api_key": KEY, "models": ["gemini-x"]}},
            "gemini-x",
            ["gemini/gemini-x", "openai/gemini-x"],
        ),
        # (2) addressed to one
        ({**OPENAI, **AZURE}, "azure/gpt-4o", ["azure/gpt-4o"]),
        ({**OPENAI, **LOCAL}, "local:llama3.1:8b", ["local/llama3.1:8b"]),
        ({**OPENAI, **GATEWAY}, "gateway/openai/gpt-4o", ["gateway/openai/gpt-4o"]),
        # a slash or a colon otherwise belongs to the name; (4) the only local server
        ({**OPENAI, **LOCAL}, "llama3.1:8b", ["local/llama3.1:8b"]),
        ({**OPENAI, **LOCAL}, "meta-llama/Llama-3.1-8B-Instruct", ["local/meta-llama/Llama-3.1-8B-Instruct"]),
        ({**LOCAL}, "gpt-4o", ["local/gpt-4o"]),
        ({**OPENAI, **LOCAL}, "gpt-4o", ["openai/gpt-4o"]),
        ({**OPENAI, **LOCAL}, "gpt-oss:20b", ["local/gpt-oss:20b"]),
    ],
)
def test_who_serves_a_model(providers: dict[str, Any], model: str, lanes: list[str]) -> None:
    made = settings(providers, worker_model=model)
    assert names(resolve(model, made)) == lanes


@pytest.mark.parametrize(
    ("providers", "model", "match"),
    [
        ({**LOCAL, "vllm": {"base_url": "http://b:1/v1"}}, "llama3", "serves 'llama3' .registered: local, vllm"),
        ({"openai": {"api_key": KEY, "models": ["gpt-4o"]}}, "gpt-4o-mini", r'did you mean "gpt-4o"'),
        (
            {"openai": {"api_key": KEY, "models": ["gpt-4o"]}},
            "openai/gpt-4",
            "openai does not serve 'gpt-4'; did you mean",
        ),
        ({"local": {**LOCAL["local"], "models": ["llama3"]}}, "qwen3", "serves 'qwen3'"),
        (OPENAI, "openai/", "names no model after the provider"),
        (OPENAI, "openrouter/gpt-4o", "serves 'openrouter/gpt-4o'"),
        (OPENAI, "  ", "empty"),
    ],
)
def test_nobody_serves_it(providers: dict[str, Any], model: str, match: str) -> None:
    made = settings(
        providers, worker_model=next(iter(providers)) + "/" + ("gpt-4o" if "openai" in providers else "llama3")
    )
    with pytest.raises(ConfigError, match=match) as caught:
        resolve(model, made)
    assert str(caught.value).startswith("model: ")


def test_a_public_name_and_the_name_at_the_provider() -> None:
    made = settings({"azure": {**AZURE["azure"], "models": {"gpt-4o": "our-deployment"}}}, worker_model="gpt-4o")
    assert resolve("gpt-4o", made) == (Lane("azure", "gpt-4o", "our-deployment"),)
    assert resolve("azure/gpt-4o", made) == resolve("gpt-4o", made)


# ---------------------------------------------------------------------------------------------------------- chains


def test_the_tabs_of_the_page() -> None:
    split = settings({**OPENAI, **GEMINI}, orchestrator_model="gpt-4o", worker_model="gemini-3-flash-preview")
    assert tiers(chain(split)) == [["gemini/gemini-3-flash-preview"], ["openai/gpt-4o"]]
    assert tiers(chain(split, role="orchestrator")) == [["openai/gpt-4o"], ["gemini/gemini-3-flash-preview"]]

    cheap = settings({**OPENAI, **GEMINI}, orchestrator_model="gemini-2.5-flash", worker_model="gemini-2.5-flash")
    assert tiers(chain(cheap)) == [["gemini/gemini-2.5-flash"], ["openai/gpt-6-luna"]]
    assert tiers(chain(cheap, role="orchestrator")) == [["gemini/gemini-2.5-flash"], ["openai/gpt-6.1-sol"]]
    assert names(tuple(chain(cheap).implicit)) == ["openai/gpt-6-luna"]

    private_first = settings({**OPENAI, **LOCAL}, orchestrator_model="gpt-4o", worker_model="llama3.1:8b")
    worker = chain(private_first)
    assert tiers(worker) == [["local/llama3.1:8b"]]
    assert [(str(lane), "fallback_models" in reason) for lane, reason in worker.left_out] == [("openai/gpt-4o", True)]
    assert tiers(chain(private_first, role="orchestrator")) == [["openai/gpt-4o"], ["local/llama3.1:8b"]]
    assert private(private_first)
    assert not private(split)


def test_the_same_model_elsewhere_is_in_the_first_tier() -> None:
    made = settings({**OPENAI, **AZURE, **GEMINI}, orchestrator_model="gemini-2.5-pro", worker_model="gpt-4o")
    assert tiers(chain(made)) == [["openai/gpt-4o", "azure/gpt-4o"], ["gemini/gemini-2.5-pro"]]


def test_a_list_of_fallbacks_is_exactly_that() -> None:
    providers = {**OPENAI, **GEMINI, **ANTHROPIC}
    made = settings(
        providers, worker_model="gpt-4o", fallback_models=["claude-haiku-4-5", "gpt-4o", "claude-haiku-4-5"]
    )
    assert tiers(chain(made)) == [["openai/gpt-4o"], ["anthropic/claude-haiku-4-5"]]
    none = settings(providers, worker_model="gpt-4o", orchestrator_model="gemini-2.5-pro", fallback_models=[])
    assert tiers(chain(none)) == [["openai/gpt-4o"]]
    assert chain(none).implicit == frozenset()


def test_a_call_may_name_its_model() -> None:
    made = settings({**OPENAI, **GEMINI}, orchestrator_model="gpt-4o", worker_model="gemini-2.5-flash")
    assert tiers(chain(made, model="gpt-4o-mini")) == [
        ["openai/gpt-4o-mini"],
        ["gemini/gemini-2.5-flash"],
        ["openai/gpt-4o"],
    ]
    assert tiers(chain(made, model="openai:gpt-4o", role="orchestrator"))[0] == ["openai/gpt-4o"]
    with pytest.raises(ConfigError, match=r"^model: .*'nope'"):
        chain(made, model="nope")


def test_role_models_that_were_guessed_are_implicit() -> None:
    made = settings({**OPENAI, **GEMINI})
    built = chain(made)
    assert tiers(built) == [["openai/gpt-6-luna"], ["openai/gpt-6.1-sol"], ["gemini/gemini-3.8-flash"]]
    assert built.implicit == set(built.lanes)
    assert Lane("openai", "gpt-6-luna", "gpt-6-luna") not in chain(made, model="gpt-6-luna").implicit


def test_naming_a_target_is_consent() -> None:
    made = settings({**LOCAL, **OPENAI}, worker_model="llama3.1:8b", fallback_models=["gpt-4o"])
    assert tiers(chain(made)) == [["local/llama3.1:8b"], ["openai/gpt-4o"]]
    assert chain(made).left_out == ()


def test_the_same_model_in_another_zone_is_left_out() -> None:
    providers = {"azure": {**AZURE["azure"], "zone": "eu"}, **OPENAI}
    built = chain(settings(providers, worker_model="gpt-4o"))
    assert tiers(built) == [["azure/gpt-4o"]]
    assert built.left_out[0][0] == Lane("openai", "gpt-4o", "gpt-4o")
    assert "'eu'" in built.left_out[0][1]


def test_a_local_server_in_the_cloud_is_cloud() -> None:
    providers = {"local": {"base_url": "https://llm.example.com/v1"}, **OPENAI}
    made = settings(providers, orchestrator_model="gpt-4o", worker_model="llama3")
    assert tiers(chain(made)) == [["local/llama3"], ["openai/gpt-4o"]]
    assert not private(made)


@pytest.mark.parametrize(
    ("worker", "orchestrator", "expected"),
    [
        (ON_PREM, CLOUD, True),
        (ON_PREM, "eu", True),
        ("eu", CLOUD, True),
        ("eu", "us", False),
        (CLOUD, ON_PREM, False),
        (CLOUD, CLOUD, False),
        (ON_PREM, ON_PREM, False),
    ],
)
def test_private_is_when_the_worker_is_trusted_more(worker: str, orchestrator: str, expected: bool) -> None:
    providers = {"openai": {"api_key": KEY, "zone": worker}, "gemini": {"api_key": KEY, "zone": orchestrator}}
    assert private(settings(providers, worker_model="gpt-4o", orchestrator_model="gemini-2.5-pro")) is expected


# ------------------------------------------------------------------------------------------- properties of chains

MODELS = ["gpt-4o", "gpt-4o-mini", "claude-opus-4-6", "gemini-2.5-flash", "llama3.1:8b", "shared"]


@st.composite
def provider_sets(draw: st.DrawFn) -> dict[str, Any]:
    chosen = draw(
        st.lists(
            st.sampled_from(["openai", "azure", "gemini", "claude", "local", "gw1", "gw2"]), min_size=1, unique=True
        )
    )
    providers: dict[str, Any] = {}
    for name in chosen:
        entry: dict[str, Any] = {"api_key": KEY, "base_url": f"https://{name}.example.com/v1"}
        if name == "local" and draw(st.booleans()):
            entry["base_url"] = "http://localhost:11434/v1"
        if name.startswith("gw"):
            entry["kind"] = draw(st.sampled_from(["openai", "local", "gemini"]))
        if draw(st.booleans()):
            entry["models"] = draw(st.lists(st.sampled_from(MODELS), min_size=1, max_size=3, unique=True))
        elif draw(st.booleans()):
            entry["default_model"] = draw(st.sampled_from(MODELS))
        if draw(st.booleans()):
            entry["zone"] = draw(st.sampled_from([ON_PREM, CLOUD, "eu"]))
        providers[name] = entry
    return providers


@st.composite
def any_settings(draw: st.DrawFn) -> Settings:
    maybe = st.none() | st.sampled_from(MODELS)
    fallbacks = draw(st.none() | st.lists(st.sampled_from(MODELS), max_size=3))
    try:
        return settings(
            draw(provider_sets()),
            orchestrator_model=draw(maybe),
            worker_model=draw(maybe),
            fallback_models=fallbacks,
        )
    except ConfigError:
        assume(False)
        raise


ROLES: Any = st.sampled_from(["worker", "orchestrator"])


@given(any_settings(), ROLES)
def test_no_lane_leaves_its_zone_without_consent(made: Settings, role: config.RoleName) -> None:
    built = chain(made, role=role)
    home = made.provider(resolve(made.model_of(role), made)[0].provider).zone
    consented = {lane for model in made.fallback_models or () for lane in resolve(model, made)}
    for lane in built.lanes:
        assert made.provider(lane.provider).zone in (home, ON_PREM) or lane in consented
    for lane, reason in built.left_out:
        assert lane not in built.lanes
        assert lane.provider in reason
        assert made.provider(lane.provider).zone not in (home, ON_PREM)


@given(any_settings(), ROLES)
def test_a_chain_begins_with_its_model_and_has_no_lane_twice(made: Settings, role: config.RoleName) -> None:
    built = chain(made, role=role)
    model = made.model_of(role)
    assert built.tiers[0]
    assert built.tiers[0][0] == resolve(model, made)[0]
    assert all(built.tiers)
    assert len(set(built.lanes)) == len(built.lanes)
    assert built.implicit <= set(built.lanes)
    for tier in built.tiers:
        assert len({lane.model for lane in tier}) == 1
        order = [provider.name for provider in made.providers]
        assert [lane.provider for lane in tier] == sorted((lane.provider for lane in tier), key=order.index)


@given(any_settings(), ROLES)
def test_a_lane_nobody_named_is_implicit(made: Settings, role: config.RoleName) -> None:
    built = chain(made, role=role)
    named = {*(made.fallback_models or ())} | ({made.orchestrator_model, made.worker_model} - made.guessed)
    for lane in built.lanes:
        own = made.provider(lane.provider).names(lane.model)
        assert (lane in built.implicit) == (lane.model not in named and not own)


@given(any_settings(), ROLES)
def test_a_list_of_fallbacks_lets_nobody_else_in(made: Settings, role: config.RoleName) -> None:
    assume(made.fallback_models is not None)
    allowed = {made.model_of(role), *(made.fallback_models or ())}
    assert {lane.model for lane in chain(made, role=role).lanes} <= allowed


@given(provider_sets(), st.sampled_from(MODELS), st.randoms(use_true_random=False))
def test_the_order_of_providers_only_orders(providers: dict[str, Any], model: str, random: Any) -> None:
    shuffled = list(providers.items())
    random.shuffle(shuffled)
    results = []
    for given_providers in (providers, dict(shuffled)):
        try:
            results.append({*resolve(model, settings(given_providers, worker_model=model))})
        except ConfigError:
            results.append(set())
    assert results[0] == results[1]


@given(any_settings())
def test_keys_are_never_shown(made: Settings) -> None:
    assert KEY not in repr(made)
    assert KEY not in repr(chain(made))
    with pytest.raises(ConfigError) as caught:
        resolve("nobody/serves-this!", settings({**OPENAI, **GEMINI}, worker_model="gpt-4o"))
    assert KEY not in str(caught.value)


# ------------------------------------------------------------------------------------------------- the environment


@pytest.mark.parametrize(
    ("env", "found"),
    [
        ({"OPENAI_API_KEY": KEY}, ["openai"]),
        ({"GOOGLE_API_KEY": KEY, "OPENAI_API_KEY": KEY}, ["openai", "gemini"]),
        ({"ANTHROPIC_API_KEY": KEY, "GEMINI_API_KEY": ""}, ["anthropic"]),
        ({"OLLAMA_HOST": "box", "OPENAI_API_KEY": KEY}, ["openai", "local"]),
        ({"OPENAI_API_KEY": KEY, "GEMINI_API_KEY": KEY, "CORTEX_PROVIDERS": "gemini"}, ["gemini"]),
        ({"OPENAI_API_KEY": KEY, "GEMINI_API_KEY": KEY, "CORTEX_PROVIDERS": " gemini, openai,"}, ["gemini", "openai"]),
        ({"GEMINI_API_KEY": KEY, "CORTEX_PROVIDERS": "google,openai"}, ["google"]),
        ({"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": "http://x/v1"}, ["openai"]),
        (
            {
                "AZURE_OPENAI_API_KEY": KEY,
                "AZURE_OPENAI_ENDPOINT": "https://a.b",
                "OPENAI_API_KEY": KEY,
                "CORTEX_PROVIDERS": "azure",
                "CORTEX_WORKER_MODEL": "gpt-4o",
            },
            ["azure"],
        ),
    ],
)
def test_what_the_environment_names(env: dict[str, str], found: list[str]) -> None:
    env = {"CORTEX_WORKER_MODEL": f"{found[0]}/m", **env}
    arguments = from_env(env)
    made = parse(**arguments, env=env)
    assert [provider.name for provider in made.providers] == found
    assert made.worker_model == env["CORTEX_WORKER_MODEL"]
    assert KEY not in repr(arguments)


def test_the_roles_from_the_environment() -> None:
    env = {"OPENAI_API_KEY": KEY, "CORTEX_ORCHESTRATOR_MODEL": "gpt-4o", "CORTEX_WORKER_MODEL": "gpt-4o-mini"}
    made = parse(**from_env(env), env=env)
    assert (made.orchestrator_model, made.worker_model) == ("gpt-4o", "gpt-4o-mini")


@pytest.mark.parametrize(
    ("env", "match"),
    [
        ({}, "^providers: the environment names none; set one of OPENAI_API_KEY, .*OLLAMA_HOST"),
        (
            {"OPENAI_API_KEY": KEY, "CORTEX_PROVIDERS": "gemini"},
            r"for gemini \(CORTEX_PROVIDERS\); set one of GEMINI_API_KEY",
        ),
        ({"OPENAI_API_KEY": KEY, "CORTEX_PROVIDERS": "opnai"}, '^CORTEX_PROVIDERS: .*did you mean "openai"'),
    ],
)
def test_an_environment_that_names_nobody(env: dict[str, str], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        from_env(env)


# ------------------------------------------------------------------------------------------------------------ TOML

TOML = """
orchestrator_model = "gpt-4o"
worker_model = "llama3.1:8b"
fallback_models = ["gpt-4o"]

[providers.openai]
api_key = {env = "MY_KEY"}
timeout = 20

[providers.local]
base_url = "http://localhost:11434/v1"

[policy]
total_timeout = 60
"""


def test_a_file_has_the_shape_of_the_arguments(tmp_path: Path) -> None:
    path = tmp_path / "cortex.toml"
    path.write_text(TOML)
    env = {"MY_KEY": KEY}
    for source in (path, str(path)):
        arguments = load(source, env)
        made = parse(**arguments, env=env)
        assert [provider.name for provider in made.providers] == ["openai", "local"]
        assert (made.provider("openai").api_key, made.provider("openai").key_env) == (KEY, "MY_KEY")
        assert made.policy == Policy(total_timeout=60)
        assert made.fallback_models == ("gpt-4o",)
        assert KEY not in repr(arguments)


def test_a_dict_does_too() -> None:
    arguments = load({"providers": OPENAI, "worker_model": "gpt-4o"}, {})
    assert parse(**arguments, env={}).worker_model == "gpt-4o"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (("timeout = 20", "timeuot = 20"), r"providers\.openai: unknown key 'timeuot'; did you mean \"timeout\""),
        (("timeout = 20", 'timeout = "20"'), r"providers\.openai\.timeout: .*not str"),
        (("MY_KEY", "MY_OTHER"), r"providers\.openai\.api_key: .*MY_OTHER: is empty or not set"),
        (("total_timeout", "totaltimeout"), "policy: unknown key 'totaltimeout'"),
        (("= 60", "= -1"), r"Policy\.total_timeout: "),
        (("worker_model", "workers_model"), "config: unknown key 'workers_model'; did you mean \"worker_model\""),
        (('"llama3.1:8b"', "5"), "worker_model: .*not int"),
        (("[providers.openai]", "[providers.opnai]"), r'providers\.opnai: .*did you mean "openai"'),
        (("[policy]", "[policy"), "is not TOML: .*line"),
    ],
)
def test_errors_name_file_table_and_key(tmp_path: Path, change: tuple[str, str], match: str) -> None:
    path = tmp_path / "cortex.toml"
    path.write_text(TOML.replace(*change))
    with pytest.raises(ConfigError, match=match) as caught:
        load(path, {"MY_KEY": KEY})
    assert str(caught.value).startswith(f"{path}: ")
    assert KEY not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nope\.toml: cannot be read: No such file"):
        load(tmp_path / "nope.toml", {})
    with pytest.raises(ConfigError, match=r"cannot be read: "):
        load(tmp_path, {})
    with pytest.raises(ConfigError, match=r"^config: must be the path .* not int"):
        load(5, {})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^providers: is missing"):
        load({"worker_model": "gpt-4o"}, {})


def test_every_pair_of_vendors_can_share_an_engine() -> None:
    every = {**OPENAI, **GEMINI, **ANTHROPIC, **LOCAL}
    for first, second in itertools.permutations(every, 2):
        made = settings({first: every[first], second: every[second]}, worker_model=f"{first}/m")
        assert names(chain(made).lanes)[0] == f"{first}/m"
