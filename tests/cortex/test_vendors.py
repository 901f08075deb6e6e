"""One provider's dict: what it becomes, and an error that names the field and never shows a secret."""

from __future__ import annotations

import math
import ssl
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.addresses import ollama_url, url
from cortex.errors import ConfigError
from cortex.vendors import ALIASES, CLOUD, ON_PREM, VENDORS, provider
from cortex.vertex import AccessToken
from cortex.wire import WIRES

KEY = "sk-secret-5f2c"
ENV = {variable: f"{KEY}-{variable}" for vendor in VENDORS.values() for variable in vendor.key_envs}


def make(name: str, **config: Any) -> Any:
    return provider(name, config, {})


# ------------------------------------------------------------------------------------------------------- who it is


@pytest.mark.parametrize(
    ("name", "kind", "base_url"),
    [
        ("openai", "openai", "https://api.openai.com/v1"),
        ("gemini", "gemini", "https://generativelanguage.googleapis.com"),
        ("google", "gemini", "https://generativelanguage.googleapis.com"),
        ("anthropic", "anthropic", "https://api.anthropic.com"),
        ("claude", "anthropic", "https://api.anthropic.com"),
    ],
)
def test_a_vendors_name_needs_only_a_key(name: str, kind: str, base_url: str) -> None:
    made = make(name, api_key=KEY)
    assert (made.name, made.kind, made.base_url, made.api_key, made.zone) == (name, kind, base_url, KEY, CLOUD)
    assert made.key_env is None


@pytest.mark.parametrize("name", ["local", "ollama", "vllm"])
def test_a_local_server_needs_only_an_address(name: str) -> None:
    made = make(name, base_url="http://localhost:11434/v1/")
    assert (made.kind, made.base_url, made.api_key, made.zone) == ("local", "http://localhost:11434/v1", None, ON_PREM)


def test_another_name_needs_kind_and_address() -> None:
    made = make("gateway", kind="openai", base_url="https://gw.example.com/v1", api_key=KEY)
    assert (made.name, made.kind, made.base_url) == ("gateway", "openai", "https://gw.example.com/v1")
    assert make("box", kind="ollama", base_url="http://box:1/v1").kind == "local"


@pytest.mark.parametrize(
    ("name", "config", "match"),
    [
        ("antropic", {"api_key": KEY}, r'^providers\.antropic: unknown provider; did you mean "anthropic"\?'),
        ("OpenAI", {"api_key": KEY}, 'did you mean "openai"'),
        ("mistral", {"api_key": KEY}, r"unknown provider \(known: openai, .*needs `kind`, .* and a `base_url`"),
        ("mistral", {"kind": "openai", "api_key": KEY}, r"^providers\.mistral\.base_url: is missing"),
        ("mistral", {"kind": "mistral"}, r"^providers\.mistral\.kind: must be one of"),
        ("openai", {"kind": "local"}, r'^providers\.openai\.kind: "openai" is of kind openai; give .* another name'),
        ("a/b", {"kind": "local", "base_url": "http://x"}, r"^providers\.a/b: a provider's name may not"),
        ("", {"kind": "local", "base_url": "http://x"}, "name may not be empty"),
        ("openai", "sk-secret-5f2c", r'^providers\.openai: must be a dict such as \{"api_key": "\.\.\."\}, not str'),
        ("openai", None, r"^providers\.openai: must be a dict .* not None"),
        ("openai", {1: 2}, r"^providers\.openai: its keys must be texts, not int"),
        ("openai", {"api_kye": KEY}, r"^providers\.openai: unknown key 'api_kye'; did you mean \"api_key\""),
        ("local", {"base_url": "http://x", "organization": "o"}, r"organization: is an option of openai, not of local"),
        ("openai", {"api_key": KEY, "thinking_budget": 1}, "is an option of gemini, anthropic, not of openai"),
    ],
)
def test_who_it_is_must_be_clear(name: str, config: object, match: str) -> None:
    with pytest.raises(ConfigError, match=match) as caught:
        provider(name, config, {})
    assert KEY not in str(caught.value)


# --------------------------------------------------------------------------------------------------------- its key


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("openai", "OPENAI_API_KEY"),
        ("gemini", "GEMINI_API_KEY"),
        ("google", "GEMINI_API_KEY"),
        ("anthropic", "ANTHROPIC_API_KEY"),
        ("claude", "ANTHROPIC_API_KEY"),
        ("azure", "AZURE_OPENAI_API_KEY"),
    ],
)
@pytest.mark.parametrize("given_key", [{}, {"api_key": None}])
def test_a_key_that_is_not_given_comes_from_the_environment(
    name: str, variable: str, given_key: dict[str, Any]
) -> None:
    config = {**given_key, **({"base_url": "https://r.openai.azure.com"} if name == "azure" else {})}
    made = provider(name, config, ENV)
    assert (made.api_key, made.key_env) == (f"{KEY}-{variable}", variable)
    with pytest.raises(ConfigError, match=rf"^providers\.{name}\.api_key: is missing; pass it, or set {variable}"):
        provider(name, config, {variable: ""})


def test_google_api_key_is_geminis_second_name() -> None:
    assert provider("gemini", {}, {"GOOGLE_API_KEY": KEY}).key_env == "GOOGLE_API_KEY"


def test_a_key_from_the_environment_never_goes_to_an_address_of_the_users_own() -> None:
    config = {"kind": "openai", "base_url": "https://gw.example.com/v1"}
    with pytest.raises(ConfigError, match=r"^providers\.gateway\.api_key: is missing"):
        provider("gateway", config, ENV)
    assert provider("box", {"kind": "local", "base_url": "http://box/v1"}, ENV).api_key is None


def test_a_key_may_be_named_or_asked_for() -> None:
    made = provider("openai", {"api_key": {"env": "MINE"}}, {"MINE": f" {KEY}\n"})
    assert (made.api_key, made.key_env) == (KEY, "MINE")

    def fetch() -> str:
        raise AssertionError("only asked when a call needs it")

    assert make("openai", api_key=fetch).api_key is fetch


@pytest.mark.parametrize(
    ("key", "match"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        (f"{KEY}\n{KEY}", "holds a character"),
        (f"{KEY} x", "holds a character"),
        (f"“{KEY}”", "holds a character"),
        (5, "must be a text or a function that returns one, not int"),
        (KEY.encode(), "not bytes"),
        ({"env": "NOPE"}, "environment variable NOPE: is empty or not set"),
        ({"evn": KEY}, r'must be \{"env": "NAME"\}'),
        ({"env": 5}, r"api_key\.env: .*not int"),
    ],
)
def test_a_key_that_cannot_work_is_named_and_not_shown(key: object, match: str) -> None:
    with pytest.raises(ConfigError, match=match) as caught:
        make("openai", api_key=key)
    assert str(caught.value).startswith("providers.openai.api_key")
    assert KEY not in str(caught.value)


# ----------------------------------------------------------------------------------------------------- its address


@pytest.mark.parametrize(
    ("name", "variable"),
    [("openai", "OPENAI_BASE_URL"), ("anthropic", "ANTHROPIC_BASE_URL"), ("gemini", "GOOGLE_GEMINI_BASE_URL")],
)
def test_the_address_may_come_from_the_environment(name: str, variable: str) -> None:
    env = {variable: "http://127.0.0.1:8000/v1/"}
    assert provider(name, {"api_key": KEY}, env).base_url == "http://127.0.0.1:8000/v1"
    given_url = provider(name, {"api_key": KEY, "base_url": "http://127.0.0.1:9000"}, env)
    assert given_url.base_url == "http://127.0.0.1:9000"
    with pytest.raises(ConfigError, match=variable):
        provider(name, {"api_key": KEY}, {variable: "localhost:8000"})


@pytest.mark.parametrize("name", ["local", "ollama"])
def test_ollama_host_is_the_address_of_a_local_server(name: str) -> None:
    assert provider(name, {}, {"OLLAMA_HOST": "box"}).base_url == "http://box:11434/v1"
    with pytest.raises(ConfigError, match=rf"^providers\.{name}\.base_url: is missing.*OLLAMA_HOST"):
        provider(name, {}, {})


def test_vllm_is_not_at_ollamas_address() -> None:
    with pytest.raises(ConfigError, match=r"base_url: is missing; pass e\.g\. http://localhost:11434/v1$"):
        provider("vllm", {}, {"OLLAMA_HOST": "box"})


def test_vertex_is_an_address_with_a_project() -> None:
    made = make("gemini", project="p-1", location="europe-west4", api_key=lambda: "token")
    path = "/v1/projects/p-1/locations/europe-west4/publishers/google"
    assert made.base_url == "https://europe-west4-aiplatform.googleapis.com" + path
    assert make("gemini", project="p", api_key=KEY).base_url.startswith("https://aiplatform.googleapis.com/v1/")
    assert make("gemini", project="p", location="eu", api_key=KEY).base_url.startswith("https://aiplatform.eu.rep.go")
    with pytest.raises(ConfigError, match=r"^providers\.gemini\.project: is missing; `location` needs it"):
        make("gemini", location="x", api_key=KEY)
    with pytest.raises(ConfigError, match=r"^providers\.gemini\.project: .*empty"):
        make("gemini", project=" ", api_key=KEY)
    with pytest.raises(ConfigError, match=r"location: may only hold"):
        make("gemini", project="p", location="evil.com/", api_key=KEY)


@pytest.mark.parametrize(
    ("base_url", "expected"),
    [
        ("https://gw.example.com", "https://gw.example.com/v1/projects/p/locations/eu/publishers/google"),
        ("https://gw.example.com/v1beta1/", "https://gw.example.com/v1beta1/projects/p/locations/eu/publishers/google"),
        ("https://gw.example.com/v2/projects/x/y", "https://gw.example.com/v2/projects/x/y"),
    ],
)
def test_vertex_at_an_address_of_the_users_own(base_url: str, expected: str) -> None:
    assert make("gemini", project="p", location="eu", api_key=KEY, base_url=base_url).base_url == expected


def test_vertex_takes_no_key_from_the_environment_but_googles_own_credentials() -> None:
    made = provider("gemini", {"project": "p"}, ENV)
    assert isinstance(made.api_key, AccessToken)
    assert not made.api_key.fresh
    two = provider("frankfurt", {"kind": "gemini", "project": "p", "location": "europe-west3"}, {})
    assert isinstance(two.api_key, AccessToken)
    assert two.base_url.startswith("https://europe-west3-aiplatform.")


def test_vertex_without_its_extra_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        sys.modules, "google.auth.transport.requests", None
    )  # what an import finds when it is not there
    with pytest.raises(ConfigError, match=r"^providers\.gemini\.api_key: .*pip install 'cortex-engine\[vertex\]'"):
        provider("gemini", {"project": "p"}, {})
    assert make("gemini", project="p", api_key=lambda: "token").api_key is not None


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ("localhost:11434/v1", "must begin with http:// or https://"),
        ("ftp://x.y", "must begin with"),
        ("http://", "names no host"),
        ("http://a b/", "names no host"),
        ("http://x:port/", "is not an address"),
        ("http://x:70000/", "is not an address"),
        ("http://x:0/", "nothing can listen on port 0"),
        ("http://[::1/", "is not an address"),
        (f"https://user:{KEY}@x.y/v1", "holds credentials"),
        (f"https://{KEY}@x.y/v1", "holds credentials"),
        (f"https://x.y/v1?key={KEY}", "may have no query"),
        ("https://x.y/#a", "no fragment"),
        ("", "is empty"),
        (5, "not int"),
    ],
)
def test_an_address_that_cannot_work_is_named(value: object, match: str) -> None:
    with pytest.raises(ConfigError, match=rf"^base_url: .*{match}") as caught:
        url("base_url", value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("box", "http://box:11434/v1"),
        ("box:8080", "http://box:8080/v1"),
        (":8080", "http://127.0.0.1:8080/v1"),
        ("127.0.0.1", "http://127.0.0.1:11434/v1"),
        ("0.0.0.0", "http://127.0.0.1:11434/v1"),
        ("0.0.0.0:11434", "http://127.0.0.1:11434/v1"),
        ("[::]:11434", "http://127.0.0.1:11434/v1"),
        ("[::1]", "http://[::1]:11434/v1"),
        ("::1", "http://[::1]:11434/v1"),
        ("http://box", "http://box:80/v1"),
        ("https://box.example.com", "https://box.example.com:443/v1"),
        ("http://box:11434/", "http://box:11434/v1"),
        ("http://box:11434/v1", "http://box:11434/v1"),
        ("http://box:11434/ollama", "http://box:11434/ollama/v1"),
        (" box ", "http://box:11434/v1"),
    ],
)
def test_ollama_host_has_ollamas_own_forms(host: str, expected: str) -> None:
    assert ollama_url(host) == expected


@pytest.mark.parametrize("host", ["box:port", "ftp://box", f"http://u:{KEY}@box"])
def test_an_ollama_host_that_cannot_work_is_named(host: str) -> None:
    with pytest.raises(ConfigError, match=r"^OLLAMA_HOST: ") as caught:
        ollama_url(host)
    assert KEY not in str(caught.value)


# ----------------------------------------------------------------------------------------------------------- zones


@pytest.mark.parametrize(
    ("host", "zone"),
    [
        ("localhost", ON_PREM),
        ("LOCALHOST.", ON_PREM),
        ("api.localhost", ON_PREM),
        ("127.0.0.1", ON_PREM),
        ("[::1]", ON_PREM),
        ("10.1.2.3", ON_PREM),
        ("192.168.1.5", ON_PREM),
        ("172.16.0.1", ON_PREM),
        ("[fd00::1]", ON_PREM),
        ("[fe80::1]", ON_PREM),
        ("[::ffff:10.0.0.1]", ON_PREM),
        ("gpu-box", ON_PREM),
        ("8.8.8.8", CLOUD),
        ("[2001:4860:4860::8888]", CLOUD),
        ("[::ffff:8.8.8.8]", CLOUD),
        ("134744072", CLOUD),
        ("0x08080808", CLOUD),
        ("llm.example.com", CLOUD),
        ("localhost.example.com", CLOUD),
        ("10.0.0.1.example.com", CLOUD),
    ],
)
def test_a_local_server_is_on_prem_only_where_its_address_says_so(host: str, zone: str) -> None:
    assert make("local", base_url=f"http://{host}:8000/v1").zone == zone
    assert make("local", base_url=f"http://{host}:8000/v1", zone="lab").zone == "lab"
    assert make("openai", base_url=f"http://{host}:8000/v1", api_key=KEY).zone == CLOUD


# ------------------------------------------------------------------------------------------------ the other fields


def test_all_fields_together() -> None:
    context = ssl.create_default_context()
    made = make(
        "openai",
        api_key=KEY,
        organization="org",
        project="proj",
        default_model="fast",
        models={"fast": "gpt-4o-mini", "deep": "gpt-4o"},
        headers={"X-Team": "search"},
        timeout=5,
        max_concurrency=3,
        proxy="http://u:p@proxy:3128",
        verify=context,
        zone="eu",
        api="chat",
        enabled=False,
    )
    assert (made.default_model, dict(made.models)) == ("fast", {"fast": "gpt-4o-mini", "deep": "gpt-4o"})
    assert (dict(made.headers), made.timeout, made.max_concurrency) == ({"X-Team": "search"}, 5.0, 3)
    assert (made.proxy, made.verify, made.zone) == ("http://u:p@proxy:3128", context, "eu")
    assert (made.wire, dict(made.options)) == ("openai_chat", {"organization": "org", "project": "proj"})
    assert not made.enabled
    assert made.lane("fast").upstream == "gpt-4o-mini"
    assert make("openai", api_key=KEY, models=["gpt-4o"]).models == {"gpt-4o": "gpt-4o"}


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("timeout", 0, "number"),
        ("timeout", "5", "not str"),
        ("timeout", math.nan, "nan"),
        ("timeout", True, "not bool"),
        ("max_concurrency", 0, "whole number"),
        ("max_concurrency", 1.5, "not float"),
        ("default_model", "", "empty"),
        ("default_model", 5, "not int"),
        ("models", "gpt-4o", "not str"),
        ("models", [], "is empty"),
        ("models", {}, "is empty"),
        ("models", ["a", "a"], "'a' twice"),
        ("models", ["a", 5], r"models\[1\]: .*not int"),
        ("models", {"a": 5}, r"models\.a: .*not int"),
        ("models", {5: "a"}, "not int"),
        ("headers", ["a"], "not list"),
        ("headers", {"a": KEY.encode()}, r"headers\.a: must be a text, not bytes"),
        ("headers", {"a b": KEY}, "a name that no header has"),
        ("headers", {f"Authorization: Bearer {KEY}": ""}, "a name that no header has"),
        ("headers", {"a": f"{KEY}\r\nb: c"}, "no header may have"),
        ("proxy", f"{KEY}@proxy", "must be an address"),
        ("proxy", f"ftp://{KEY}@proxy", "must be an address"),
        ("proxy", f"http://u:{KEY}@proxy:port", "must be an address"),
        ("proxy", 5, "not int"),
        ("verify", "", "must be True, False"),
        ("verify", 1, "not int"),
        ("zone", "", "empty"),
        ("zone", 5, "not int"),
        ("enabled", "yes", "must be True or False, not str"),
        ("organization", 5, "not int"),
        ("organization", "\xe9", "neither a header nor an address"),
        ("organization", "a\nb", "neither a header nor an address"),
        ("api", "completions", "must be one of chat, responses"),
        ("api", 5, "must be one of chat, responses, not int"),
    ],
)
def test_a_wrong_field_is_named_and_no_secret_shown(field: str, value: object, match: str) -> None:
    with pytest.raises(ConfigError, match=match) as caught:
        make("openai", api_key=KEY, **{field: value})
    assert str(caught.value).startswith(f"providers.openai.{field}")
    assert KEY not in str(caught.value)


def test_thinking_budget_is_a_whole_number() -> None:
    assert make("anthropic", api_key=KEY, thinking_budget=1024).options == {"thinking_budget": 1024}
    with pytest.raises(ConfigError, match=r"^providers\.anthropic\.thinking_budget: must be a whole number"):
        make("anthropic", api_key=KEY, thinking_budget="1k")


def test_a_default_model_must_be_among_the_models() -> None:
    with pytest.raises(ConfigError, match=r'default_model: \'gpt-4\' is not among its `models`; did you mean "gpt-4o"'):
        make("openai", api_key=KEY, models=["gpt-4o"], default_model="gpt-4")


def test_the_default_of_a_tier() -> None:
    assert make("openai", api_key=KEY).default("fast") == "gpt-6-luna"
    assert make("openai", api_key=KEY, default_model="x").default("deep") == "x"
    listed = make("azure", api_key=KEY, base_url="https://a.b", models=["gpt-4o", "gpt-4o-mini"])
    assert (listed.default("deep"), listed.default("fast")) == ("gpt-4o", "gpt-4o-mini")
    assert make("gateway", kind="openai", base_url="https://a.b", api_key=KEY).default("fast") is None
    assert make("local", base_url="http://x").default("fast") is None


secrets = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=12, max_size=20).map("zq-{}".format)


@given(secrets, st.sampled_from(sorted(ALIASES)))
def test_secrets_are_in_no_repr(secret: str, name: str) -> None:
    made = make(
        name,
        base_url="https://x.example.com",
        api_key=secret,
        headers={"a": secret},
        proxy=f"http://u:{secret}@proxy:1",
    )
    assert secret not in repr(made)
    assert secret not in str(made)


@given(
    secrets,
    st.dictionaries(st.sampled_from(["api_key", "headers", "proxy", "timeout", "models"]), st.none(), min_size=1),
)
def test_a_secret_in_the_wrong_place_is_not_shown(secret: str, fields: dict[str, None]) -> None:
    shapes: list[Any] = [{"x": secret}, [secret], (secret,), {secret}, secret.encode(), 5, {"env": 5}]
    for shape in shapes:
        for field in fields:
            try:
                made = provider("openai", {"api_key": secret, field: shape}, {})
            except ConfigError as error:
                told = str(error)
            else:
                told = "" if field == "models" else repr(made)
            assert secret not in told or field == "models"


def test_every_api_means_a_dialect_that_exists() -> None:
    for vendor in VENDORS.values():
        assert vendor.apis
        assert set(vendor.apis.values()) <= set(WIRES)


@pytest.mark.parametrize(
    ("base_url", "wire"),
    [
        ("http://localhost:11434", "ollama"),
        ("http://localhost:11434/", "ollama"),
        ("http://localhost:11434/api", "ollama"),
        ("https://ollama.com", "ollama"),
        ("http://box/ollama/api/", "ollama"),
        ("http://localhost:11434/v1", "openai_chat"),
        ("http://localhost:12434/engines/v1", "openai_chat"),
        ("http://box:8000/openai", "openai_chat"),
    ],
)
def test_the_address_of_a_local_server_tells_whose_dialect_it_speaks(base_url: str, wire: str) -> None:
    for name in ("local", "ollama"):
        assert make(name, base_url=base_url).wire == wire
    assert make("box", kind="local", base_url=base_url).wire == wire
    assert make("local", base_url=base_url, api="chat").wire == "openai_chat"
    assert make("local", base_url=base_url, api="ollama").wire == "ollama"


def test_ollama_host_is_reached_at_its_openai_compatible_address_unless_told_otherwise() -> None:
    assert provider("ollama", {}, {"OLLAMA_HOST": "box"}).wire == "openai_chat"
    assert provider("ollama", {"api": "ollama"}, {"OLLAMA_HOST": "box"}).wire == "ollama"


def test_only_a_local_server_speaks_ollamas_dialect() -> None:
    assert make("openai", api_key=KEY, base_url="https://gw.example.com").wire == "openai_chat"
    with pytest.raises(ConfigError, match=r"^providers\.openai\.api: must be one of chat, responses"):
        make("openai", api_key=KEY, api="ollama")


@pytest.mark.parametrize("name", ["openai", "azure", "local"])
def test_who_speaks_openai_speaks_both_its_dialects(name: str) -> None:
    config = {"api_key": KEY, "base_url": "https://h/v1"}
    assert make(name, **config).wire == make(name, **config, api="chat").wire == "openai_chat"
    assert make(name, **config, api="responses").wire == "openai_responses"


@pytest.mark.parametrize("name", ["anthropic", "gemini"])
def test_who_has_one_dialect_has_nothing_to_choose(name: str) -> None:
    assert make(name, api_key=KEY).wire == name
    with pytest.raises(ConfigError, match=rf"providers\.{name}.*api"):
        make(name, api_key=KEY, api="responses")
