"""From a manifest's model section to a chat model, or one clear error."""

import subprocess
import sys

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from mlflow_agent_plugin.errors import ConfigError, IntegrityError, PlannerError
from mlflow_agent_plugin.foundation import build_chat_model
from mlflow_agent_plugin.package import ModelSpec


def spec(provider, name="m", **details):
    return ModelSpec(provider=provider, name=name, **details)


# --- local ----------------------------------------------------------------------------------------


def test_the_local_planner_needs_a_path(desk):
    with pytest.raises(ConfigError, match=r"agent\.yaml: model\.path: .*folder of its playbook"):
        build_chat_model(spec("local"), desk)


def test_the_local_planner_has_no_settings(desk):
    with pytest.raises(ConfigError, match=r"model\.settings: the local planner has no settings"):
        build_chat_model(spec("local", path="model", settings={"temperature": 0}), desk)


def test_a_missing_playbook_is_named(desk):
    with pytest.raises(PlannerError, match=r"prompts/playbook\.yaml: .*no playbook"):
        build_chat_model(spec("local", path="prompts"), desk)


def test_an_untrained_planner_says_how_to_train_it(make_desk):
    bundle = make_desk(with_planner=False)
    with pytest.raises(PlannerError, match=r"model/planner: .*pipelines\.train"):
        build_chat_model(bundle.manifest.model, bundle)


def test_a_playbook_that_calls_an_unknown_tool_is_refused(make_desk):
    bundle = make_desk(edit=lambda text: text.replace("tool: refund", "tool: rob_bank"))
    with pytest.raises(PlannerError, match=r"playbook\.yaml:\d+: .*'rob_bank'"):
        build_chat_model(bundle.manifest.model, bundle)


def test_a_planner_that_changed_after_loading_the_bundle_is_refused(make_desk):
    bundle = make_desk()
    path = bundle.root / "model" / "planner" / "weights.npz"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(IntegrityError):
        build_chat_model(bundle.manifest.model, bundle)


# --- scripted -------------------------------------------------------------------------------------

REPLIES = [
    {
        "tool_calls": [{"name": "find_card", "args": {"last4": "1"}}],
        "intent": "i",
        "confidence": 0.5,
    },
    {"text": "Done.", "outcome": "acted"},
]


def test_a_script_is_replayed_in_order(desk, schemas):
    model = build_chat_model(spec("scripted", settings={"replies": REPLIES}), desk)
    messages = [HumanMessage("hi")]
    messages.append(model.bind_tools(schemas()).invoke(messages))
    assert messages[-1].tool_calls[0]["args"] == {"last4": "1"}
    assert messages[-1].response_metadata["intent"] == "i"
    reply = model.invoke(messages)
    assert (reply.text, reply.response_metadata["outcome"]) == ("Done.", "acted")
    assert reply.usage_metadata["output_tokens"] == 2


def test_a_script_is_chosen_by_the_first_message(desk):
    settings = {
        "scripts": [{"when": "(?i)disk", "replies": [{"text": "disk"}]}],
        "replies": [{"text": "else"}],
    }
    model = build_chat_model(spec("scripted", settings=settings), desk)
    assert model.invoke("the Disk is full").text == "disk"
    assert model.invoke("hello").text == "else"


def test_a_script_that_ran_out_is_an_error(desk):
    model = build_chat_model(spec("scripted", settings={"replies": [{"text": "a"}]}), desk)
    with pytest.raises(ConfigError, match="has 1 replies"):
        model.invoke([HumanMessage("a"), AIMessage("a"), HumanMessage("b")])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "needs replies or scripts"),
        ({"replies": [{}]}, r"replies\[0\]: needs text or tool_calls"),
        ({"replies": [{"text": "a", "x": 1}]}, r"replies\[0\]\.x"),
        ({"replies": [{"text": "a", "confidence": 2}]}, "confidence"),
        ({"scripts": [{"when": "(", "replies": [{"text": "a"}]}]}, "regular expression"),
    ],
)
def test_a_malformed_script_is_named(desk, settings, message):
    with pytest.raises(ConfigError, match=message):
        build_chat_model(spec("scripted", settings=settings), desk)


# --- providers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"api_key": "x"},
        {"openai_api_key": "x"},
        {"apiKey": "x"},
        {"token": "x"},
        {"aws_secret_access_key": "x"},
        {"password": "x"},
        {"default_headers": {"Authorization": "x"}},
        {"default_headers": [{"X-Api-Key": "x"}]},
        {"model_kwargs": {"user": "sk-abcdefghijklmnop1234"}},
        {"default_headers": {"X": "Bearer abcdefgh12345"}},
        {"base_url": "https://me:secret@example.com/v1"},
    ],
)
@pytest.mark.parametrize("provider", ["openai", "local", "scripted"])
def test_a_setting_that_looks_like_a_key_is_refused_and_never_shown(desk, provider, settings):
    with pytest.raises(ConfigError, match="environment variable") as caught:
        build_chat_model(spec(provider, settings=settings), desk)
    for secret in ("sk-abcdef", "abcdefgh12345", "me:secret"):
        assert secret not in str(caught.value)


def test_settings_about_tokens_and_keys_in_names_are_no_keys(desk, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    settings = {"max_tokens": 5, "base_url": "http://localhost:1/v1", "temperature": 0}
    assert build_chat_model(spec("openai", settings=settings), desk).max_tokens == 5


def test_an_unknown_provider_is_named(desk):
    with pytest.raises(ConfigError, match=r"model\.provider: there is no provider 'nonsense'"):
        build_chat_model(spec("nonsense"), desk)


def test_a_provider_that_is_not_installed_names_the_package(desk):
    with pytest.raises(ConfigError, match=r"pip install 'langchain-anthropic'"):
        build_chat_model(spec("anthropic"), desk)


def test_openai_not_installed_names_the_extra(desk_dir):
    code = f"""
import sys
sys.modules["langchain_openai"] = None
from mlflow_agent_plugin.errors import ConfigError
from mlflow_agent_plugin.foundation import build_chat_model
from mlflow_agent_plugin.package import ModelSpec, load_bundle
try:
    build_chat_model(ModelSpec(provider="openai", name="m"), load_bundle({str(desk_dir)!r}))
except ConfigError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'mlflow-agent-plugin[openai]'" in done.stdout


def test_a_missing_key_is_an_error_that_names_the_variable(desk, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        build_chat_model(spec("openai"), desk)


def test_a_graph_can_be_checked_without_the_key_but_not_run(desk, monkeypatch, schemas):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    model = build_chat_model(spec("openai"), desk, checking=True).bind_tools(schemas())
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        model.invoke("hi")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": "hot"}, r"settings\.temperature"),
        ({"temprature": 0.1}, r"settings\.temprature: the provider has no such setting"),
        ({"model": "other"}, r"settings\.model: .*field name"),
        ({"model_provider": "other"}, "field provider"),
        ({"configurable_fields": "any"}, "configurable_fields"),
    ],
)
def test_a_wrong_setting_is_named(desk, monkeypatch, settings, message):
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    with pytest.raises(ConfigError, match=message):
        build_chat_model(spec("openai", settings=settings), desk)


# --- fallbacks ------------------------------------------------------------------------------------


def test_a_fallback_answers_when_the_first_model_fails(desk, schemas):
    failing = {"scripts": [{"when": "never", "replies": [{"text": "a"}]}]}
    chain = spec(
        "scripted",
        settings=failing,
        fallbacks=[spec("scripted", settings=failing), spec("local", path="model")],
    )
    model = build_chat_model(chain, desk)
    assert model.bind_tools(schemas()).invoke("thanks").text == "You are welcome."
    reply = model.bind_tools(schemas()).invoke("my card was stolen")
    assert reply.tool_calls[0]["name"] == "find_card"


def test_a_model_with_fallbacks_drives_an_agent_of_langchain(desk):
    from langchain.agents import create_agent

    chain = spec(
        "scripted",
        settings={"scripts": [{"when": "never", "replies": [{"text": "a"}]}]},
        fallbacks=[spec("scripted", settings={"replies": [{"text": "second"}]})],
    )
    agent = create_agent(build_chat_model(chain, desk), [])
    assert agent.invoke({"messages": [HumanMessage("hi")]})["messages"][-1].text == "second"


def test_fallbacks_of_fallbacks_and_keys_in_fallbacks_are_refused(desk):
    inner = spec("scripted", settings={"replies": REPLIES})
    nested = inner.model_copy(
        update={"fallbacks": [inner.model_copy(update={"fallbacks": [inner]})]}
    )
    with pytest.raises(ConfigError, match=r"model\.fallbacks\[0\]\.fallbacks"):
        build_chat_model(nested, desk)
    keyed = inner.model_copy(update={"fallbacks": [spec("openai", settings={"api_key": "x"})]})
    with pytest.raises(ConfigError, match=r"model\.fallbacks\[0\]\.settings\.api_key"):
        build_chat_model(keyed, desk)


# --- imports --------------------------------------------------------------------------------------


def test_importing_foundation_and_information_loads_no_heavy_library():
    code = (
        "import sys, mlflow_agent_plugin.foundation, mlflow_agent_plugin.information;"
        "heavy = {'sklearn', 'numpy', 'scipy', 'pandas', 'langchain', 'langchain_core', 'mlflow',"
        "'pydantic', 'yaml'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_of_foundation_loads():
    import mlflow_agent_plugin.foundation as room

    assert all(getattr(room, name) is not None for name in room.__all__)
    assert set(room.__all__) <= set(dir(room))
    with pytest.raises(AttributeError, match="nonsense"):
        room.nonsense  # noqa: B018 - the access is the test
