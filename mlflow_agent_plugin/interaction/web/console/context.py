"""What a reviewer should know about a waiting call beyond the call itself.

Rules:
- Contract and policies are read from the very version that asked, as the registry keeps it; where
  it has none of that content, nothing is said.
- What user and agent said comes from the session's traces, masked as they were recorded. A trace
  that is not there yet, or cannot be read, leaves the conversation shorter, never the page away.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_agent_plugin.errors import AgentError
from mlflow_agent_plugin.interaction.web.records import records
from mlflow_agent_plugin.package import load_bundle
from mlflow_agent_plugin.registry.overview import VersionSummary, find_digests, open_bundle
from mlflow_agent_plugin.trust import Approval, AuditEvent

_logger = logging.getLogger(__name__)

_SHOWN_TURNS = 20
_PLAIN = re.compile(r"[\w.:@/=+-]{1,200}")
_EXPERIMENTS = 100


@dataclass(frozen=True)
class PolicyText:
    """A policy that asked, as it is written in the version."""

    policy_id: str
    place: str
    text: str


@dataclass(frozen=True)
class About:
    """What is known about a call.

    Attributes:
        versions: Registered versions with the content that asked.
        policy_ids: The policies that determined the decision, from the audit.
        policies: Their texts.
        effect: The tool's effect: read, write or irreversible; empty if unknown.
        risk: Its risk, likewise.
        description: What the tool does, by its contract.
    """

    versions: Sequence[VersionSummary] = ()
    policy_ids: Sequence[str] = ()
    policies: Sequence[PolicyText] = ()
    effect: str = ""
    risk: str = ""
    description: str = ""


@dataclass(frozen=True)
class Line:
    """One turn of a conversation."""

    at: Any
    user: str
    agent: str
    outcome: str


def describe(approval: Approval, events: Sequence[AuditEvent]) -> About:
    """Return what the audit and the registry know about a call."""
    ids = next(
        (
            list(event.body.get("decision", {}).get("policy_ids") or [])
            for event in events
            if event.kind == "tool_call_decided"
            and event.body.get("call_id") == approval.call_id
            and isinstance(event.body.get("decision"), dict)
        ),
        [],
    )
    client = records().client
    versions = find_digests({approval.agent_digest}, client=client).get(approval.agent_digest, [])
    if not versions:
        return About(policy_ids=ids)
    try:
        with open_bundle(versions[0].name, versions[0].version, client=client) as folder:
            return _from_bundle(load_bundle(folder), approval, ids, versions)
    except AgentError:
        _logger.warning("the agent that asked cannot be read", exc_info=True)
        return About(versions=versions, policy_ids=ids)


def _from_bundle(
    bundle: Any, approval: Approval, ids: Sequence[str], versions: Sequence[VersionSummary]
) -> About:
    from mlflow_agent_plugin.trust.policy.sources import PolicySources, parse_policies

    contract = bundle.contracts.get(approval.tool)
    policies = [
        PolicyText(policy.policy_id, f"{policy.file}:{policy.line}", policy.text)
        for policy in parse_policies(PolicySources.from_bundle(bundle))
        if policy.policy_id in ids
    ]
    return About(
        versions=versions,
        policy_ids=ids,
        policies=policies,
        effect="" if contract is None else contract.effect.value,
        risk="" if contract is None else contract.risk.value,
        description="" if contract is None else contract.description,
    )


def read_conversation(approval: Approval) -> list[Line]:
    """Return what was said in the call's session, the oldest first."""
    if not _PLAIN.fullmatch(approval.session_id):
        return []  # a client's own invention, which no search of MLflow's could be trusted with
    client = records().client
    try:
        experiments = client.search_experiments(max_results=_EXPERIMENTS)
        found = client.search_traces(
            locations=[item.experiment_id for item in experiments],
            filter_string=f"metadata.`mlflow.trace.session` = '{approval.session_id}'",
            max_results=_SHOWN_TURNS,
            order_by=["timestamp_ms DESC"],
            include_spans=False,
        )
    except Exception:
        _logger.warning("a session's traces cannot be read", exc_info=True)
        return []
    lines = [_line(trace.info, approval.tenant) for trace in found]
    return [line for line in reversed(lines) if line is not None]


def _line(info: Any, tenant: str) -> Line | None:
    from datetime import datetime, timezone

    try:
        row = json.loads(info.tags["agent.summary"])
    except (KeyError, ValueError):
        return None
    if row.get("tenant") != tenant:
        return None
    try:
        said = json.loads(info.response_preview or "")
    except ValueError:
        said = None
    return Line(
        at=datetime.fromtimestamp(info.timestamp_ms / 1000, tz=timezone.utc),
        user=str(row.get("text") or ""),
        agent=str(said.get("text") or "") if isinstance(said, dict) else "",
        outcome=str(row.get("outcome") or ""),
    )
