"""Promotion requests: opened by anybody, answered by people with the role.

An approval is about one subject: version, content, evidence, incumbent and rules as they are then.
A newer version put forward for the same slot closes the requests of older ones.
"""

from __future__ import annotations

from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.errors import GateRefusedError, RequestError
from mlflow_agent_plugin.registry.desk.context import Context, same_person
from mlflow_agent_plugin.registry.requirements import ApprovalsRequirement
from mlflow_agent_plugin.registry.slots import Slot
from mlflow_agent_plugin.trust.audit import AuditKind


class RequestDesk(Context):
    """Opens, approves, rejects and withdraws promotion requests."""

    def request(self, version: int, slot: Slot, *, by: Actor, comment: str) -> None:
        """Open a promotion request; requests of older versions for the slot give way."""
        self.check_protected(slot)
        self.known(version)
        if self.pointers.of(slot) == version:
            raise RequestError(f"{slot} points to version {version} already")
        for other in self.records.open_requests(self.gate, str(slot)):
            if other.version == version:
                self.show(version)
                return
            if other.version < version:
                self.records.close_request(
                    other.request_id,
                    "superseded",
                    by=by,
                    reason=f"version {version} was put forward",
                )
                self.audit(
                    AuditKind.PROMOTION_ANSWERED,
                    by=by,
                    version=other.version,
                    slot=str(slot),
                    answer="superseded",
                )
                self.show(other.version)
        self.records.open_request(self.gate, version, str(slot), by=by, comment=comment)
        self.show_difference(version, slot)
        self.audit(
            AuditKind.PROMOTION_REQUESTED, by=by, version=version, slot=str(slot), comment=comment
        )
        self.show(version)

    def approve(self, version: int, slot: Slot, *, by: Actor, comment: str) -> None:
        """Record a person's approval of the version as it stands now."""
        self.check_protected(slot)
        _, candidate = self.examine(slot, version)
        request = candidate.request
        if request is None or request.state != "open":
            raise RequestError(
                f"there is no open request to point {slot} to version {version}",
                hint="Open one with request_promotion.",
            )
        rule = next(
            (item for item in candidate.requirements if isinstance(item, ApprovalsRequirement)),
            None,
        )
        role = self.gate.rules.reviewer_role if rule is None else rule.role
        self.needs_role(by, role, "approve")
        if rule is not None and rule.not_author and same_person(by.user, candidate.facts.author):
            raise GateRefusedError(
                f"{by.user} registered version {version} and cannot approve it",
                hint="Ask somebody else.",
            )
        known = self.records.answers(request.request_id)
        if not any(
            same_person(item.user, by.user) and item.subject == candidate.subject for item in known
        ):
            self.records.add_answer(request.request_id, candidate.subject, by=by, comment=comment)
        self.audit(
            AuditKind.PROMOTION_ANSWERED,
            by=by,
            version=version,
            slot=str(slot),
            answer="approved",
            comment=comment,
            subject=candidate.subject,
        )
        self.show(version)

    def close(self, version: int, slot: Slot, state: str, *, by: Actor, reason: str) -> None:
        """Reject or withdraw the open request."""
        self.check_protected(slot)
        request = self.records.request(self.gate, version, str(slot))
        if request is None or request.state != "open":
            raise RequestError(f"there is no open request to point {slot} to version {version}")
        if state == "rejected" or not same_person(by.user, request.requested_by):
            self.needs_role(by, self.gate.rules.reviewer_role, state)
        self.records.close_request(request.request_id, state, by=by, reason=reason)
        self.audit(
            AuditKind.PROMOTION_ANSWERED,
            by=by,
            version=version,
            slot=str(slot),
            answer=state,
            reason=reason,
        )
        self.show(version)
