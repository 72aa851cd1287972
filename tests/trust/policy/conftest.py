"""A small shop of tools, and bundles made of it, for the policy tests."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from mlflow_agent_plugin.entities import Actor, PolicyRequest

STRING = {"type": "string"}


def contract(name, properties, *, effect="read", required=None, **schema):
    """One contract as a dictionary."""
    return {
        "apiVersion": "mlflow-agents/v1",
        "name": name,
        "version": "1.0.0",
        "description": f"Does {name}",
        "input": {
            "type": "object",
            "properties": properties,
            "required": list(properties) if required is None else required,
            "additionalProperties": False,
            **schema,
        },
        "output": {"type": "object"},
        "effect": effect,
    }


CONTRACTS = [
    contract("get_order", {"order_id": STRING}),
    contract(
        "refund",
        {
            "order_id": STRING,
            "amount": {"type": "number", "minimum": 0, "maximum": 1000},
            "count": {"type": "integer"},
            "note": {"type": ["string", "null"]},
            "tags": {"type": "array", "items": STRING},
            "speed": {"enum": ["slow", "fast"]},
            "address": {
                "type": "object",
                "properties": {"zip": STRING, "city": STRING},
                "required": ["zip"],
                "additionalProperties": False,
            },
            "extra": {"type": "object"},
        },
        effect="irreversible",
        required=["order_id", "amount"],
    ),
    contract("get-issue", {"in": STRING, "my-param": STRING}, required=["in"]),
    contract("cancel", {"order_id": STRING}, effect="write"),
]

ROLES = """\
apiVersion: mlflow-agents/v1
roles:
  customer: Buys things
  clerk: Sells things
  manager: Answers for the clerks
"""

PERMIT = """\
// what customers may do
@id("customers-read")
permit (
  principal in Agent::Role::"customer",
  action in Agent::Action::"effect:read",
  resource
);

@id("small-refunds")
@reason("customers get small refunds; ask a clerk for more")
permit (
  principal in Agent::Role::"customer",
  action == Agent::Action::"refund",
  resource == Agent::Agent::"shop"
) when { context.input.amount.lessThanOrEqual(decimal("100.0")) };
"""

HARD = """\
@id("not-from-strangers")
@reason("the order must come from the user")
forbid (principal, action == Agent::Action::"refund", resource)
when { context.provenance.order_id == "untrusted" };

@id("verified-only")
forbid (principal, action == Agent::Action::"refund", resource)
unless { principal.verified };
"""

APPROVAL = """\
@id("big-refunds")
@approval("manager")
@reason("more than 50 is much")
forbid (principal, action == Agent::Action::"refund", resource)
when { context.input.amount.greaterThan(decimal("50.0")) }
unless { context.session.approved };
"""

TESTS = """\
apiVersion: mlflow-agents/v1
defaults:
  actor: {roles: [customer]}
cases:
  - name: A customer reads an order
    tool: get_order
    arguments: {order_id: o1}
    expect: allow
    policies: [customers-read]
  - name: A small refund is paid
    tool: refund
    arguments: {order_id: o1, amount: 10}
    expect: allow
    policies: [small-refunds]
  - name: A middling refund waits for the manager
    tool: refund
    arguments: {order_id: o1, amount: 75.5}
    expect: needs_approval
    policies: [big-refunds]
    role: manager
  - name: A large refund is not even asked about
    tool: refund
    arguments: {order_id: o1, amount: 500}
    expect: deny
    policies: []
  - name: A number that somebody else wrote into a mail is refused
    tool: refund
    arguments: {order_id: o1, amount: 75.5}
    provenance: {order_id: untrusted}
    actor: {verified: false}
    expect: deny
    policies: [not-from-strangers, verified-only, big-refunds]
"""


@pytest.fixture
def make_bundle(tmp_path):
    """Return a function that writes and loads a bundle; None leaves a file out."""
    from mlflow_agent_plugin.package.bundle import load_bundle

    def make(
        *,
        permit=PERMIT,
        hard=HARD,
        approval=APPROVAL,
        roles=ROLES,
        tests=TESTS,
        contracts=CONTRACTS,
        forbidden=(),
        more=None,
        load=True,
    ):
        root = tmp_path / "shop"
        files = {
            "policies/permit.cedar": permit,
            "policies/hard.cedar": hard,
            "policies/approval.cedar": approval,
            "policies/roles.yaml": roles,
            "policies/tests.yaml": tests,
            "graph.py": "def build(context):\n    raise NotImplementedError\n",
            "tools.py": "def tool(context, **arguments):\n    return {}\n",
            "agent.yaml": yaml.safe_dump(
                {
                    "apiVersion": "mlflow-agents/v1",
                    "name": "shop",
                    "description": "Sells things",
                    "owner": "shop-team",
                    "workflow": {"goal": "Help buyers", "forbidden_tools": list(forbidden)},
                    "model": {"provider": "scripted", "name": "script"},
                    "tools": {
                        "python": [
                            {"name": item["name"], "entry_point": "tools:tool"}
                            for item in contracts
                        ]
                    },
                }
            ),
            **{f"contracts/{item['name']}.yaml": yaml.safe_dump(item) for item in contracts},
            **(more or {}),
        }
        for name, text in files.items():
            path = Path(root, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            if text is not None:
                path.write_text(text, encoding="utf-8")
        return load_bundle(root) if load else root

    return make


@pytest.fixture(scope="session")
def shop_sources():
    """The shop's policies without a folder."""
    return sources()


def sources(*, permit=PERMIT, hard=HARD, approval=APPROVAL, contracts=CONTRACTS, **changes):
    """Policy sources made in memory."""
    from mlflow_agent_plugin.package.contract import ToolContract
    from mlflow_agent_plugin.trust.policy import PolicySources

    parsed = {item["name"]: ToolContract.model_validate(item) for item in contracts}
    texts = {"permit.cedar": permit, "hard.cedar": hard, "approval.cedar": approval}
    values = {
        "agent": "shop",
        "contracts": parsed,
        "usable_tools": tuple(parsed),
        "files": {name: text for name, text in texts.items() if text is not None},
        "roles": {"customer": "", "clerk": "", "manager": ""},
        "content_digest": "sha256:0",
        **changes,
    }
    return PolicySources(**values)


@pytest.fixture(scope="session")
def engine(shop_sources):
    """The shop's engine."""
    from mlflow_agent_plugin.trust.policy import CedarPolicyEngine

    return CedarPolicyEngine(shop_sources)


SESSION = {"environment": "production", "calls": 0, "turn": 1, "untrusted_seen": False, "now": 1}


def make_request(
    tool="refund", arguments=None, *, provenance=None, session=None, agent="shop", **actor
):
    """A request by a verified customer; everything can be changed."""
    arguments = {"order_id": "o1", "amount": 10} if arguments is None else arguments
    return PolicyRequest(
        actor=Actor(**{"user": "ann", "roles": frozenset({"customer"}), "verified": True, **actor}),
        agent=agent,
        tool=tool,
        arguments=arguments,
        session=SESSION if session is None else session,
        provenance=dict.fromkeys(arguments, "user") if provenance is None else provenance,
    )


@pytest.fixture(scope="session")
def shop():
    """The helpers of this folder."""
    return SimpleNamespace(
        request=make_request,
        sources=sources,
        contract=contract,
        contracts=CONTRACTS,
        permit=PERMIT,
        hard=HARD,
        approval=APPROVAL,
        tests=TESTS,
        session=SESSION,
    )
