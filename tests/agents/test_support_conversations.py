"""The support agent through the whole runtime: policies, approvals, ledger and audit are real."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.core import AgentRuntime, validate
from mlflow_agent_plugin.entities import Actor, AgentRequest, CallStatus, Outcome
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.trust import verify_audit

NOW = datetime(2026, 1, 15, 12, 0, tzinfo=timezone.utc)


def customer(name, *, verified=True):
    return Actor(user=name, roles=frozenset({"customer"}), verified=verified)


OLGA = Actor(user="olga", roles=frozenset({"operations"}), verified=True)


@pytest.fixture
def store(tmp_path):
    opened = Store.open(f"sqlite:///{tmp_path}/agents.db")
    yield opened
    opened.close()


@pytest.fixture
def open_agent(trained_support, store, bank):
    opened = []

    def open_one(environment="production", resources=bank):
        runtime = AgentRuntime.open(
            trained_support,
            store=store,
            resources=resources,
            clock=lambda: NOW,
            settings=Settings(environment=environment, tracing=False),
            tracing=False,
        )
        opened.append(runtime)
        return runtime

    yield open_one
    for runtime in opened:
        runtime.close()


@pytest.fixture
def say(open_agent):
    """Return a function that says something to the agent and returns its reply."""
    runtime = open_agent()

    def turn(text, *, actor, session="s"):
        return runtime.invoke(AgentRequest(text=text, session_id=session, actor=actor))

    turn.runtime = runtime
    return turn


def calls_of(reply):
    return [(call.tool, call.status) for call in reply.calls]


def test_the_trained_bundle_is_valid(trained_support):
    assert validate(trained_support.root).digest == trained_support.digest


def test_a_stolen_card_is_frozen_before_anything_else_is_talked_about(say, bank, use):
    reply = say("My card was stolen", actor=customer("amira"))
    assert reply.outcome is Outcome.ACTED
    assert ("freeze_card", CallStatus.EXECUTED) in calls_of(reply)
    card = use("list_cards", bank, last4="4417")["cards"][0]
    assert (card["status"], card["frozen_reason"]) == ("frozen", "stolen")
    assert "new card" in reply.text


def test_the_other_card_too_is_understood_from_the_conversation(say, bank, use):
    dora = customer("dora")
    assert say("My card was stolen", actor=dora).outcome is Outcome.CLARIFIED
    assert say("the one ending in 9004", actor=dora).outcome is Outcome.ACTED
    say("no, not now", actor=dora)
    assert say("and freeze the other one too", actor=dora).outcome is Outcome.ACTED
    states = {c["last4"]: c["status"] for c in use("list_cards", bank, user="dora")["cards"]}
    assert states == {"9004": "frozen", "1183": "frozen", "7765": "frozen"}


def test_closing_waits_for_operations_even_across_a_restart(say, open_agent, bank, use):
    dora = customer("dora")
    assert say("Please close my account", actor=dora).outcome is Outcome.CLARIFIED
    waiting = say("Yes", actor=dora)
    assert waiting.outcome is Outcome.WAITING_APPROVAL
    assert use("get_account", bank, user="dora")["status"] == "open"
    approval = waiting.approvals[0]
    assert (approval.tool, approval.role) == ("close_account", "operations")

    again = open_agent()
    again.approvals.approve(approval.approval_id, OLGA, "called the customer")
    done = again.invoke(AgentRequest(text="", session_id="s", actor=dora, resume=True))
    assert done.outcome is Outcome.ACTED
    assert use("get_account", bank, user="dora")["status"] == "closed"


def test_closing_needs_a_clear_yes(say, bank, use):
    dora = customer("dora")
    say("Please close my account", actor=dora)
    reply = say("No, I changed my mind", actor=dora)
    assert reply.outcome is Outcome.ANSWERED
    assert reply.calls == ()
    assert "stays open" in reply.text


def test_a_misused_card_is_not_switched_on_again(say, bank, use):
    reply = say("I found my card, can I link it to the app again?", actor=customer("dora"))
    assert reply.outcome is Outcome.REFUSED
    assert calls_of(reply)[-1] == ("unfreeze_card", CallStatus.DENIED)
    assert "never switched on again" in reply.text


def test_who_is_not_signed_in_learns_nothing_in_production(say):
    reply = say("My card was stolen", actor=customer("amira", verified=False))
    assert reply.outcome is Outcome.REFUSED
    assert calls_of(reply) == [("list_cards", CallStatus.DENIED)]
    assert "4417" not in reply.text


def test_in_development_the_customer_one_names_is_enough(open_agent):
    actor = Actor(user="amira")
    request = AgentRequest(text="My card was stolen", session_id="dev", actor=actor)
    assert open_agent("development").invoke(request).outcome is Outcome.ACTED
    assert (
        open_agent("staging")
        .invoke(AgentRequest(text="My card was stolen", session_id="staging", actor=actor))
        .outcome
        is Outcome.REFUSED
    )


def test_who_is_no_customer_is_not_left_alone(say):
    reply = say("My card was stolen", actor=customer("root"))
    assert reply.outcome is Outcome.FAILED
    assert calls_of(reply)[0] == ("list_cards", CallStatus.FAILED)
    assert "call the number" in reply.text


def test_who_is_not_understood_twice_gets_a_person(say, bank):
    amira = customer("amira")
    first = say("Zugzwang, quoth the raven", actor=amira)
    assert first.outcome is Outcome.CLARIFIED
    assert first.calls == ()
    second = say("Fjord glyphs vex", actor=amira)
    assert second.outcome is Outcome.ESCALATED
    assert [row["customer_id"] for row in bank.snapshot()["tickets"]] == ["amira"]


@pytest.mark.parametrize("text", ["\u202ehuman", "x" * 15_000, "🂡" * 3_000, "{{ 7 * 7 }}", "'; --"])
def test_a_hostile_message_is_answered_in_peace(say, bank, text):
    before = bank.snapshot()
    reply = say(text, actor=customer("amira"))
    assert reply.text
    assert "49" not in reply.text
    after = bank.snapshot()
    assert {name: rows for name, rows in after.items() if name != "tickets"} == {
        name: rows for name, rows in before.items() if name != "tickets"
    }


def test_everything_that_was_done_is_in_the_audit(say, store):
    say("My card was stolen", actor=customer("amira"))
    say("I want to speak to a human", actor=customer("amira"))
    assert verify_audit(store).ok


# --- The graph with another model -----------------------------------------------------------------


class Scripted:
    """A chat model that says what it is told to."""

    def __init__(self, messages):
        self._messages = iter(messages)

    def bind_tools(self, tools):
        assert tools
        return self

    def invoke(self, messages):
        self.seen = messages
        return next(self._messages)


def build(part, support, messages, run):
    from types import SimpleNamespace

    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.prebuilt import ToolNode

    from mlflow_agent_plugin.core.context import describe_tools

    tools = describe_tools(
        [support.contracts["list_cards"], support.contracts["escalate_to_human"]]
    )
    model = Scripted(messages)
    context = SimpleNamespace(
        model=model,
        tools=tools,
        prompts=support.prompts,
        settings={"give_up_after_failures": 2},
        manifest=support.manifest,
        tool_node=lambda: ToolNode(tools, wrap_tool_call=lambda request, _: run(request)),
    )
    return part("graph:build")(context).compile(checkpointer=InMemorySaver()), model


def asks(at):
    call = {"name": "list_cards", "args": {}, "id": f"c{at}"}
    return AIMessage(content="", tool_calls=[call])


def test_the_graph_calls_a_person_itself_when_calls_keep_failing(part, support):
    ran = []

    def run(request):
        name = request.tool_call["name"]
        ran.append(name)
        status = "success" if name == "escalate_to_human" else "error"
        call_id = request.tool_call["id"]
        return ToolMessage(content="{}", name=name, tool_call_id=call_id, status=status)

    graph, _ = build(part, support, [asks(at) for at in range(9)], run)
    state = graph.invoke(
        {"messages": [HumanMessage("My cards?")]}, {"configurable": {"thread_id": "t"}}
    )
    assert ran == ["list_cards", "list_cards", "escalate_to_human"]
    assert state["messages"][-1].text == support.prompts["handed_over"].render()


def test_the_model_sees_whole_turns_of_its_window_only(part, support):
    def run(request):
        call_id = request.tool_call["id"]
        return ToolMessage(content="{}", name="list_cards", tool_call_id=call_id)

    window = support.manifest.memory.window_turns
    messages = [m for at in range(window + 3) for m in (asks(at), AIMessage(content=f"a{at}"))]
    graph, model = build(part, support, messages, run)
    config = {"configurable": {"thread_id": "t"}}
    for at in range(window + 3):
        graph.invoke({"messages": [HumanMessage(f"q{at}")]}, config)
    kinds = [message.type for message in model.seen]
    assert kinds[0] == "system"
    assert kinds.count("human") == window
    assert model.seen[1].text == "q3"
