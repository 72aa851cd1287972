"""A small agent with a local planner: a card desk with five intents."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from typing import Any

import pytest

EXAMPLES = {
    "stolen_card": [
        "my card was stolen",
        "somebody took my bank card",
        "I lost my card yesterday",
        "please freeze my card, it is gone",
        "a thief has my card",
        "my card is missing from my wallet",
        "block the card I lost",
        "I cannot find my card, stop it",
    ],
    "opening_hours": [
        "when do you open",
        "what are your opening hours",
        "are you open on Sunday",
        "until what time is the desk open",
        "opening times please",
        "when does the office close",
        "at what hour do you start in the morning",
        "are you there at the weekend",
    ],
    "close_account": [
        "close my account",
        "I want to end my account with you",
        "delete my account please",
        "terminate the account",
        "shut down my account",
        "how do I cancel my account",
        "I would like to leave, close everything",
        "get rid of my account",
    ],
    "refund": [
        "I want my money back",
        "refund this payment",
        "how do I get a refund for a purchase",
        "give me the money back for the shoes",
        "return the amount I paid",
        "the shop must reimburse me",
        "a refund for my order please",
        "I need reimbursement for a ticket",
    ],
    "minors": [
        "can my child have an account",
        "what is the lowest age for customers",
        "my son is twelve, may he join",
        "do you accept teenagers",
        "account for my daughter of ten",
        "how old must one be",
        "is there an account for kids",
        "are minors allowed",
    ],
}

PLAYBOOK = """\
version: 1
thresholds: {clarify: 0.4, escalate_after: 2}
slots:
  card_last4: {kind: card_last4, ask: ask_card, remember: true}
  amount: {kind: amount, ask: ask_amount}
  sure: {kind: confirm, ask: ask_sure}
  why: {kind: text, ask: ask_why}
shortcuts:
  - {phrases: [talk to a human], intent: human}
  - {phrases: [thanks, no thanks], intent: thanks, whole_message: true}
intents:
  stolen_card:
    title: a lost or stolen card
    steps:
      - {tool: find_card, arguments: {last4: "{slots.card_last4?}"}}
      - tool: find_card
        when: results.find_card.matches > 1
        needs: [card_last4]
        arguments: {last4: "{slots.card_last4}"}
      - tool: freeze_card
        when: results.find_card.card_id
        arguments: {card_id: "{results.find_card.card_id}"}
    answer:
      - {prompt: card_frozen, when: results.freeze_card}
      - {prompt: no_such_card}
  close_account:
    title: closing your account
    min_confidence: 0.5
    needs: [sure, why]
    steps:
      - {tool: close_account, when: slots.sure == true, arguments: {reason: "{slots.why}"}}
    answer: closed
  refund:
    needs: [amount]
    steps:
      - {tool: refund, arguments: {amount_minor: "{slots.amount}", note: "asked: {session.request}"}}
    answer: refunded
    on_error:
      failed: {answer: try_again, outcome: failed}
  minors: {refuse: adults_only}
  human:
    steps: [{tool: escalate, arguments: {summary: "{session.request}"}}]
    answer: handed_over
  thanks: {answer: welcome}
fallback:
  steps: [{tool: search, arguments: {query: "{session.request}"}, optional: true}]
  answer: from_knowledge
low_confidence: {answer: did_you_mean, offer: 2}
escalation:
  tool: escalate
  arguments: {summary: "{session.request}", reason: "{session.reason}"}
  answer: handed_over
  failed: nobody_there
on_error:
  denied: {answer: not_allowed}
  rejected: {answer: not_allowed}
  invalid: {escalate: true}
  failed: {escalate: true}
  in_doubt: {escalate: true}
"""

PROMPTS = {
    "ask_card": "Which card? Its last four digits, please.",
    "ask_amount": "How much?",
    "ask_sure": "Are you sure?",
    "ask_why": "Why do you leave?",
    "card_frozen": "Card {{ results.freeze_card.card_id }} is frozen.",
    "no_such_card": "There is no such card.",
    "closed": "{% if results.close_account %}Closed.{% else %}Still open.{% endif %}",
    "refunded": "You get {{ slots.amount }}.",
    "try_again": "That failed: {{ error.message }}",
    "adults_only": "Adults only.",
    "handed_over": "A colleague takes over ({{ reason or 'asked' }}).",
    "welcome": "You are welcome.",
    "from_knowledge": "{% for passage in passages %}{{ passage.text }}{% else %}I do not know."
    "{% endfor %}",
    "did_you_mean": "Did you mean {{ alternatives | map(attribute='title') | join(' or ') }}?",
    "nobody_there": "Nobody is there.",
    "not_allowed": "That is not allowed.",
}

TOOLS = {
    "find_card": {"last4": "string"},
    "freeze_card": {"card_id": "string"},
    "close_account": {"reason": "string"},
    "refund": {"amount_minor": "integer", "note": "string"},
    "escalate": {"summary": "string", "reason": "string"},
    "search": {"query": "string"},
}


def write_desk(root, *, playbook=PLAYBOOK, model="provider: local\n  name: desk\n  path: model"):
    """Write the card desk's bundle to `root`."""
    for folder in ("contracts", "prompts", "model", "policies"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    manifest = ["apiVersion: mlflow-agents/v1", "name: desk", "description: A card desk."]
    manifest += ["owner: tests", "workflow: {goal: Help.}", "model:", f"  {model}", "prompts:"]
    manifest += [f"  {name}: prompts/{name}.md" for name in PROMPTS]
    manifest += ["tools:", "  python:"]
    manifest += [f"    - {{name: {name}, entry_point: 'tools:{name}'}}" for name in TOOLS]
    (root / "agent.yaml").write_text("\n".join(manifest) + "\n")
    for name, text in PROMPTS.items():
        (root / "prompts" / f"{name}.md").write_text(text + "\n")
    for name, arguments in TOOLS.items():
        properties = ", ".join(f"{key}: {{type: {kind}}}" for key, kind in arguments.items())
        (root / "contracts" / f"{name}.yaml").write_text(
            textwrap.dedent(
                f"""\
                apiVersion: mlflow-agents/v1
                name: {name}
                version: 1.0.0
                description: {name}
                input: {{type: object, properties: {{{properties}}}}}
                output: {{type: object}}
                effect: read
                """
            )
        )
    (root / "tools.py").write_text(
        "\n\n".join(f"def {name}(context, **arguments):\n    return {{}}" for name in TOOLS) + "\n"
    )
    (root / "graph.py").write_text("def build(context):\n    raise NotImplementedError\n")
    (root / "model" / "playbook.yaml").write_text(playbook)
    return root


@pytest.fixture(scope="session")
def trained():
    """Return a planner trained on the desk's examples."""
    from mlflow_agent_plugin.foundation import train_planner

    pairs = [(text, label) for label, texts in EXAMPLES.items() for text in texts]
    return train_planner([text for text, _ in pairs], [label for _, label in pairs])


@pytest.fixture(scope="session")
def desk_dir(tmp_path_factory, trained):
    """Return the folder of the card desk, its planner trained."""
    root = write_desk(tmp_path_factory.mktemp("desk") / "desk")
    trained.save(root / "model" / "planner")
    return root


@pytest.fixture(scope="session")
def desk(desk_dir):
    """Return the card desk's bundle."""
    from mlflow_agent_plugin.package import load_bundle

    return load_bundle(desk_dir)


@pytest.fixture
def make_desk(tmp_path, trained):
    """Return a function that writes another card desk and loads it."""
    from mlflow_agent_plugin.package import load_bundle

    def make(*, with_planner=True, edit=str, **changes):
        root = write_desk(tmp_path / "desk", playbook=edit(PLAYBOOK), **changes)
        if with_planner:
            trained.save(root / "model" / "planner")
        return load_bundle(root)

    return make


def tool_schemas(names=TOOLS):
    """Return the desk's tools as a chat model is bound to them."""
    return [
        {
            "type": "function",
            "function": {
                "name": name,
                "description": name,
                "parameters": {
                    "type": "object",
                    "properties": {key: {"type": kind} for key, kind in TOOLS[name].items()},
                },
            },
        }
        for name in names
    ]


@dataclass
class Conversation:
    """A user and a desk whose tools answer from `world`."""

    model: Any
    world: dict[str, Any]
    messages: list[Any] = field(default_factory=list)
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def say(self, text):
        """Say something, run the tools, return the last message."""
        from langchain_core.messages import HumanMessage

        self.messages.append(HumanMessage(text))
        return self.go_on()

    def go_on(self):
        """Let the model work until it says something."""
        import json

        from langchain_core.messages import ToolMessage

        for _ in range(20):
            reply = self.model.invoke(self.messages)
            self.messages.append(reply)
            if not reply.tool_calls:
                return reply
            for call in reply.tool_calls:
                self.calls.append((call["name"], call["args"]))
                answer = self.world.get(call["name"], {})
                answer = answer(**call["args"]) if callable(answer) else answer
                failed = isinstance(answer, dict) and "error" in answer
                self.messages.append(
                    ToolMessage(
                        json.dumps(answer),
                        name=call["name"],
                        tool_call_id=call["id"],
                        status="error" if failed else "success",
                    )
                )
        raise AssertionError("the model never stopped calling tools")


@pytest.fixture
def schemas():
    """Return the function that gives the desk's tools as a chat model is bound to them."""
    return tool_schemas


@pytest.fixture
def talk(desk):
    """Return a function that starts a conversation with the desk."""
    from mlflow_agent_plugin.foundation import build_chat_model

    def start(**world):
        model = build_chat_model(desk.manifest.model, desk).bind_tools(tool_schemas())
        return Conversation(model, world)

    return start
