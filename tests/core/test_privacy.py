"""Privacy rules in a conversation: the model sees tokens, the tool gets values, records get neither."""

from __future__ import annotations

import json
from dataclasses import replace

import mlflow
import pytest
from helpers.shelf_agent import call, say, write_bundle

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.core import AgentRuntime, TextDelta
from mlflow_agent_plugin.entities import Actor, AgentReply, AgentRequest, CallStatus
from mlflow_agent_plugin.errors import ManifestError, RequestError, StoreError
from mlflow_agent_plugin.package import load_bundle
from mlflow_agent_plugin.trust import AuditLog

ANN = Actor(user="ann")
CARD = "4111 1111 1111 1111"
MAIL = "jo@example.org"
SECRET = "ghp_" + "a1B2" * 9


@pytest.fixture
def opened(tmp_path):
    """Open a runtime with privacy rules; the shelf's `look` returns its item."""
    runtimes = []

    def make(*replies, rules="", tracing=False, tools=None, forbidden="gold"):
        root = write_bundle(
            tmp_path / f"bundle{len(runtimes)}", list(replies), folder=tmp_path / "shelf"
        )
        manifest = root / "agent.yaml"
        manifest.write_text(manifest.read_text() + (f"privacy:\n{rules}" if rules else ""))
        hard = root / "policies" / "hard.cedar"
        hard.write_text(hard.read_text().replace('"gold"', f'"{forbidden}"'))
        if tools is not None:
            (root / "tools.py").write_text((root / "tools.py").read_text() + tools)
        settings = replace(Settings.from_env(), store_uri=f"sqlite:///{tmp_path}/agents.db")
        runtime = AgentRuntime.open(load_bundle(root), tracing=tracing, settings=settings)
        runtimes.append(runtime)
        return runtime

    yield make
    for runtime in runtimes:
        runtime.close()


def ask(runtime, text="go", session_id="s1"):
    return runtime.invoke(AgentRequest(text=text, session_id=session_id, actor=ANN))


def state(runtime, session_id="s1"):
    messages = runtime.graph.get_state({"configurable": {"thread_id": session_id}}).values
    return str(messages)


def test_the_model_sees_a_token_the_tool_gets_the_value_and_the_user_sees_the_value(
    opened, effects
):
    runtime = opened(
        call("put", "<CARD_1>"), say("I put <CARD_1> away"), rules="  input: {card: mask}\n"
    )
    reply = ask(runtime, f"put {CARD} on the shelf")
    assert effects() == [CARD]
    assert reply.text == f"I put {CARD} away"
    assert reply.calls[0].arguments == {"item": "<CARD_1>"}
    assert CARD not in state(runtime)
    assert "<CARD_1>" in state(runtime)


def test_a_tool_that_repeats_the_value_does_not_give_it_to_the_model(opened):
    runtime = opened(call("look", "<CARD_1>"), say("seen"), rules="  input: {card: mask}\n")
    reply = ask(runtime, f"look for {CARD}")
    assert reply.calls[0].output["item"] == "<CARD_1>"
    assert CARD not in state(runtime)


def test_an_error_that_repeats_the_value_does_not_give_it_to_the_model(opened):
    tools = "\n\ndef look(context, *, item, amount=0):\n    raise ValueError('no ' + item)\n"
    runtime = opened(
        call("look", "<CARD_1>"), say("sorry"), rules="  input: {card: mask}\n", tools=tools
    )
    reply = ask(runtime, f"look for {CARD}")
    assert reply.calls[0].status is CallStatus.FAILED
    assert "no <CARD_1>" in reply.calls[0].error
    assert CARD not in state(runtime)


def test_an_argument_that_breaks_its_contract_is_not_quoted_with_its_value(opened):
    runtime = opened(
        call("look", "lamp", amount="<CARD_1>"), say("sorry"), rules="  input: {card: mask}\n"
    )
    reply = ask(runtime, f"look for {CARD}")
    assert reply.calls[0].status is CallStatus.INVALID
    assert "<CARD_1>" in reply.calls[0].error
    assert CARD not in state(runtime)


def test_the_policy_decides_on_the_value_not_on_the_token(opened):
    runtime = opened(
        call("put", "<EMAIL_1>"), say("no"), rules="  input: {email: mask}\n", forbidden=MAIL
    )
    assert ask(runtime, f"put {MAIL}").calls[0].status is CallStatus.DENIED


def test_a_later_worker_undoes_the_tokens_of_an_earlier_one(opened, effects):
    rules = "  input: {card: mask}\n"
    ask(opened(say("ok"), rules=rules), f"remember {CARD}")
    later = opened(say("ok"), call("put", "<CARD_1>"), say("done"), rules=rules)
    ask(later, "hello", session_id="other")
    assert ask(later, "put it").outcome.value in {"acted", "answered", "refused"}
    assert effects() == [CARD]


def test_a_tool_output_is_masked_hashed_or_withheld_as_the_rules_say(opened):
    tools = (
        "\n\ndef look(context, *, item, amount=0):\n"
        f"    return {{'ok': True, 'item': '{MAIL} {CARD} ' + item}}\n"
    )
    rules = "  tool_output: {email: hash, card: mask, iban: block}\n"
    script = [call("look", "x"), call("look", "GB29NWBK60161331926819", call_id="c2"), say("ok")]
    reply = ask(opened(*script, rules=rules, tools=tools))
    first, second = (record.output for record in reply.calls)
    assert first["item"].startswith("<EMAIL:")
    assert first["item"].endswith("> <CARD_1> x")
    assert second == {"withheld": "the output holds data that must not pass (iban)"}


def test_a_blocked_message_reaches_neither_model_nor_session(opened):
    runtime = opened(say("never"), rules="  input: {card: block}\n")
    with pytest.raises(RequestError, match="must not be given"):
        ask(runtime, f"my card is {CARD}")
    assert CARD not in state(runtime)


@pytest.mark.parametrize(
    ("rule", "shown"),
    [
        ("allow", f"write to {MAIL}"),
        ("mask", "write to <EMAIL>"),
        ("block", "I cannot show this answer"),
        ("hash", "write to <EMAIL:"),
    ],
)
def test_the_answer_follows_its_own_rules_streamed_or_not(opened, rule, shown):
    runtime = opened(*[say(f"write to {MAIL}")] * 2, rules=f"  answer: {{email: {rule}}}\n")
    assert ask(runtime).text.startswith(shown)
    events = list(runtime.stream(AgentRequest(text="go", session_id="s2", actor=ANN)))
    assert isinstance(events[-1], AgentReply)
    assert events[-1].text.startswith(shown)
    streamed = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert streamed in {events[-1].text, ""}


def test_by_default_only_secrets_are_kept_from_the_model(opened):
    runtime = opened(say("ok"))
    ask(runtime, f"{MAIL} {CARD} {SECRET}")
    assert MAIL in state(runtime)
    assert CARD in state(runtime)
    assert SECRET not in state(runtime)
    assert "<SECRET_1>" in state(runtime)


def test_traces_and_audit_hold_no_personal_data_by_default(opened, tmp_path):
    runtime = opened(call("put", MAIL), say(f"put {MAIL}"), tracing=True)
    ask(runtime, f"put {MAIL}")
    mlflow.flush_trace_async_logging()
    [trace] = mlflow.search_traces(return_type="list")
    assert MAIL not in trace.to_json()
    assert "<EMAIL>" in trace.to_json()
    events = json.dumps([event.body for event in AuditLog(runtime.store).events()])
    assert MAIL not in events
    assert "<EMAIL>" in events


def test_traces_and_audit_follow_the_agents_own_rules(opened):
    rules = "  trace: {email: allow, card: hash}\n  audit: {email: block}\n"
    runtime = opened(call("put", MAIL), say("done"), rules=rules, tracing=True)
    ask(runtime, f"put {MAIL} {CARD}")
    mlflow.flush_trace_async_logging()
    [trace] = mlflow.search_traces(return_type="list")
    assert MAIL in trace.to_json()
    assert CARD not in trace.to_json()
    assert "<CARD:" in trace.to_json()
    events = json.dumps([event.body for event in AuditLog(runtime.store).events()])
    assert MAIL not in events
    assert "(withheld: email)" in events


def test_a_store_that_is_away_lets_nothing_pass_unmasked(opened, monkeypatch):
    from mlflow_agent_plugin.trust.privacy import SessionTokens

    def away(*_):
        raise StoreError("the store is away")

    runtime = opened(say("never"), rules="  input: {card: mask}\n")
    monkeypatch.setattr(SessionTokens, "token", away)
    with pytest.raises(StoreError):
        ask(runtime, f"my card is {CARD}")
    assert CARD not in state(runtime)


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        ("  input: {credit_card: mask}\n", "unknown data class credit_card"),
        ("  input: {card: redact}\n", "redact|allow"),
        ("  output: {card: mask}\n", "output"),
        ("  input: {PERSON: mask}\n", "unknown data class PERSON"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(opened, rules, problem):
    with pytest.raises(ManifestError, match=problem):
        opened(say("never"), rules=rules)
