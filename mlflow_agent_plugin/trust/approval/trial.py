"""Try an edit before it is made: would the agent run the edited call?

The runtime decides when the conversation goes on, and only that counts. This says the same earlier,
to the person who edits, from the facts that were on record when the call was decided. A value the
reviewer put counts as trusted; whether it stands in somebody else's text only the runtime can see.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities import Actor, DecisionValue, PolicyRequest, Provenance
from mlflow_agent_plugin.errors import ApprovalError
from mlflow_agent_plugin.trust.approval.record import Approval
from mlflow_agent_plugin.trust.audit import AuditEvent, AuditKind, AuditLog

if TYPE_CHECKING:
    from mlflow_agent_plugin.package.bundle import Bundle
    from mlflow_agent_plugin.store.engine import Store


def check_edit(
    approval: Approval, arguments: Mapping[str, Any], bundle: Bundle, store: Store
) -> None:
    """Check that the edited call fits its contract, and that this approval would be enough for it.

    Args:
        approval: The approval that is to be edited.
        arguments: The arguments to be.
        bundle: The agent.
        store: Where the decision about the call is on record.

    Raises:
        ApprovalError: The agent would not run the edited call.
        PolicyError: The agent's policies cannot be loaded.
    """
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - import cost
    from jsonschema.exceptions import best_match  # noqa: PLC0415

    from mlflow_agent_plugin.trust.policy import CedarPolicyEngine  # noqa: PLC0415 - import cost

    where = f"approval {approval.approval_id}"
    if bundle.digest.value != approval.agent_digest:
        raise ApprovalError(
            "the call was made by another version of the agent",
            where=where,
            hint=f"Give the folder of the one with digest {approval.agent_digest}.",
        )
    misfit = best_match(
        Draft202012Validator(bundle.contracts[approval.tool].input).iter_errors(dict(arguments))
    )
    if misfit is not None:
        place = ".".join(str(part) for part in misfit.absolute_path) or "arguments"
        raise ApprovalError(
            f"the edited call does not fit the contract of {approval.tool!r}: {place}: "
            f"{misfit.message[:300]}",
            where=where,
        )
    request = _request(approval, arguments, _decided(approval, store))
    decision = CedarPolicyEngine.from_bundle(bundle).decide(request)
    if decision.value is DecisionValue.DENY:
        raise ApprovalError(f"the edited call is denied: {decision.reason}", where=where)
    if decision.value is DecisionValue.NEEDS_APPROVAL and (
        decision.approver_role != approval.role or decision.quorum > approval.quorum
    ):
        raise ApprovalError(
            f"the edited call needs another approval: {decision.reason}",
            where=where,
            hint="Reject it, and let the agent ask for the call that is wanted.",
        )


def _decided(approval: Approval, store: Store) -> AuditEvent:
    events = AuditLog(store).events(
        session_id=approval.session_id, kind=AuditKind.TOOL_CALL_DECIDED, tenant=approval.tenant
    )
    for event in reversed(events):
        if event.body.get("call_id") == approval.call_id:
            return event
    raise ApprovalError(
        "no decision about the call is on record", where=f"approval {approval.approval_id}"
    )


def _request(
    approval: Approval, arguments: Mapping[str, Any], decided: AuditEvent
) -> PolicyRequest:
    missing = object()
    actor = decided.body["actor"]
    known = decided.body["provenance"]
    return PolicyRequest(
        actor=Actor(
            user=actor["user"],
            tenant=actor["tenant"],
            roles=frozenset(actor["roles"]),
            verified=actor["verified"],
        ),
        agent=approval.agent,
        tool=approval.tool,
        arguments=dict(arguments),
        session=decided.body["session"],
        provenance={
            name: known[name]
            if name in known and approval.arguments.get(name, missing) == value
            else Provenance.TRUSTED.value
            for name, value in arguments.items()
        },
    )
