"""What one policy decision costs, beside handing Cedar the policies as text each time.

    python benchmarks/policy_decision.py [--bundle agents/support] [--decisions 5000] [--json out]

Without ``--bundle`` a made-up agent of ten tools and thirty policies is used. Times are wall clock
of one thread; ratios are what to compare between machines.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cedarpy

from mlflow_agent_plugin.entities import Actor, PolicyRequest
from mlflow_agent_plugin.package.bundle import load_bundle
from mlflow_agent_plugin.package.contract import ToolContract
from mlflow_agent_plugin.trust.policy import CedarPolicyEngine, PolicySources, run_policy_tests

SESSION = {"environment": "production", "calls": 2, "turn": 1, "untrusted_seen": False, "now": 1}


def made_up_engine() -> CedarPolicyEngine:
    """Ten tools, each with a permit, a hard forbid and an approval rule."""
    contracts, permit, hard, approval = {}, [], [], []
    for number in range(10):
        name = f"tool_{number}"
        text = {"type": "string"}
        contracts[name] = ToolContract.model_validate(
            {
                "apiVersion": "mlflow-agents/v1",
                "name": name,
                "version": "1.0.0",
                "description": "Moves money",
                "input": {
                    "type": "object",
                    "properties": {"account": text, "amount": {"type": "number"}, "note": text},
                    "required": ["account", "amount"],
                    "additionalProperties": False,
                },
                "output": {"type": "object"},
                "effect": "write",
            }
        )
        scope = f'action == Agent::Action::"{name}", resource'
        permit.append(f'@id("p{number}") permit (principal in Agent::Role::"customer", {scope});')
        hard.append(
            f'@id("h{number}") forbid (principal, {scope})'
            ' when { context.provenance.account == "untrusted" };'
        )
        approval.append(
            f'@id("a{number}") @approval("manager") forbid (principal, {scope})'
            ' when { context.input.amount.greaterThan(decimal("50.0")) }'
            " unless { context.session.approved };"
        )
    return CedarPolicyEngine(
        PolicySources(
            agent="bench",
            contracts=contracts,
            usable_tools=tuple(contracts),
            files={
                "permit.cedar": "\n".join(permit),
                "hard.cedar": "\n".join(hard),
                "approval.cedar": "\n".join(approval),
            },
            roles={"customer": "", "manager": ""},
        )
    )


def made_up_requests() -> dict[str, PolicyRequest]:
    """One request for each of the three answers."""
    return {
        name: PolicyRequest(
            actor=Actor(user="ann", roles=frozenset({"customer"}), verified=True),
            agent="bench",
            tool="tool_3",
            arguments={"account": "DE1", "amount": amount},
            session=SESSION,
            provenance={"account": origin, "amount": "user"},
        )
        for name, amount, origin in (
            ("allow", 10, "user"),
            ("needs_approval", 75.5, "user"),
            ("deny", 10, "untrusted"),
        )
    }


def as_text(engine: CedarPolicyEngine, request: PolicyRequest) -> Callable[[], str]:
    """Return the plain way: policies, entities and schema as text at every call."""
    policies = "\n".join(policy.text for policy in engine.policies.values())
    schema = json.dumps(engine.schema)
    actor = request.actor
    facts = engine.facts[request.tool]
    session = {
        **request.session,
        "verified": actor.verified,
        "tenant": actor.tenant,
        "approved": False,
    }
    cedar_request: dict[str, Any] = {
        "principal": {"type": "Agent::User", "id": actor.user},
        "action": {"type": "Agent::Action", "id": request.tool},
        "resource": {"type": "Agent::Agent", "id": engine.sources.agent},
        "context": {
            "input": facts.input.convert(request.arguments),
            "session": session,
            "provenance": facts.provenance(request.arguments, request.provenance),
        },
    }
    entities = json.dumps(
        [
            {
                "uid": {"type": "Agent::User", "id": actor.user},
                "attrs": {"user": actor.user, "tenant": actor.tenant, "verified": actor.verified},
                "parents": [{"type": "Agent::Role", "id": role} for role in sorted(actor.roles)],
            }
        ]
    )
    return lambda: str(cedarpy.is_authorized(cedar_request, policies, entities, schema).decision)


def measure(work: Callable[[], object], times: int) -> dict[str, float]:
    """Return p50 and p99 of `work` in milliseconds."""
    for _ in range(min(50, times)):
        work()
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    seconds.sort()
    return {
        "p50_ms": round(seconds[len(seconds) // 2] * 1000, 4),
        "p99_ms": round(seconds[min(len(seconds) - 1, int(len(seconds) * 0.99))] * 1000, 4),
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, help="agent whose policy tests are the requests")
    parser.add_argument("--decisions", type=int, default=5000)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    options = parser.parse_args(arguments)

    start = time.perf_counter()
    if options.bundle:
        bundle = load_bundle(options.bundle)
        engine = CedarPolicyEngine.from_bundle(bundle)
        built = time.perf_counter() - start
        requests = {}
        for test in run_policy_tests(bundle, engine=engine):
            requests.setdefault(test.decision.value.value, test.request)
    else:
        engine, requests = made_up_engine(), made_up_requests()
        built = time.perf_counter() - start

    rows = []
    for name, request in requests.items():
        assert engine.decide(request).value.value == name
        ours = measure(lambda r=request: engine.decide(r), options.decisions)
        plain = measure(as_text(engine, request), max(20, options.decisions // 25))
        ratio = round(plain["p50_ms"] / ours["p50_ms"], 1)
        rows.append({"answer": name, "decide": ours, "policies_as_text": plain, "ratio": ratio})
    report = {
        "agent": engine.sources.agent,
        "tools": len(engine.facts),
        "policies": len(engine.policies),
        "build_engine_ms": round(built * 1000, 1),
        "decisions": options.decisions,
        "python": platform.python_version(),
        "cedarpy": "4.12.2",
        "rows": rows,
    }
    print(f"{report['agent']}: {report['tools']} tools, {report['policies']} policies, ", end="")
    print(f"engine built in {report['build_engine_ms']} ms")
    print(f"{'answer':<16}{'p50 ms':>10}{'p99 ms':>10}{'as text p50':>14}{'ratio':>8}")
    for row in rows:
        ours, plain = row["decide"], row["policies_as_text"]
        print(
            f"{row['answer']:<16}{ours['p50_ms']:>10.3f}{ours['p99_ms']:>10.3f}"
            f"{plain['p50_ms']:>14.3f}{row['ratio']:>7.1f}x"
        )
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
