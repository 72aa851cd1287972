"""Promotion requests: opened by anybody, answered by people with the role.

An approval is about one subject: version, content, evidence, incumbent and rules as they are then.
A newer version put forward for the same slot closes the requests of older ones.

Unless its request says that it waits, the approval that completes it moves the slot in the same
transaction. Where the gate says no at that moment the approval is kept, nothing moves, and the
tag ``agent.applied.<slot>`` says why.
"""

from __future__ import annotations

import json

from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.errors import GateRefusedError, RequestError
from mlflow_agent_plugin.package.slots import Slot
from mlflow_agent_plugin.registry.commands import APPLIED, APPLIED_TAG, Command
from mlflow_agent_plugin.registry.desk.context import same_person
from mlflow_agent_plugin.registry.desk.moves import MoveDesk
from mlflow_agent_plugin.registry.records import RequestRecord
from mlflow_agent_plugin.registry.report import Status
from mlflow_agent_plugin.registry.requirements import ApprovalsRequirement
from mlflow_agent_plugin.trust.audit import AuditKind

HELD = "the request asks to wait until somebody promotes it"
"""Why the approval of such a request moves nothing."""

SHOWN = 10
"""Comments shown in a version's tag; all are kept."""


class RequestDesk(MoveDesk):
    """Opens, approves, rejects and withdraws promotion requests."""

    def request(self, version: int, slot: Slot, *, by: Actor, comment: str, applies: bool) -> None:
        """Open a promotion request; requests of older versions for the slot give way."""
        self.check_protected(slot)
        self.known(version)
        if self.pointers.of(slot) == version:
            raise RequestError(f"{slot} points to version {version} already")
        for other in self.records.open_requests(self.gate, str(slot)):
            if other.version == version:
                if other.applies != applies:
                    raise RequestError(
                        f"the open request says that its approval "
                        f"{'moves' if other.applies else 'does not move'} {slot}",
                        hint="Withdraw it and ask again.",
                    )
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
                self.tags.drop_version(other.version, slot.tag_key(APPLIED_TAG))
                self.show(other.version)
        self.records.open_request(
            self.gate, version, str(slot), by=by, comment=comment, applies=applies
        )
        self.show_difference(version, slot)
        self.audit(
            AuditKind.PROMOTION_REQUESTED,
            by=by,
            version=version,
            slot=str(slot),
            comment=comment,
            applies=applies,
        )
        self._show_applied(version, slot, f"no: {'it waits for approval' if applies else HELD}")
        self.show(version)

    def approve(self, version: int, slot: Slot, *, by: Actor, comment: str) -> None:
        """Record a person's approval of the version as it stands now, and apply it if it may be."""
        self.check_protected(slot)
        _, candidate = self.examine(slot, version)
        request = self._open(version, slot)
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
        refused = self._apply(version, slot, by=by) if request.applies else HELD
        if refused is None:
            self._show_applied(version, slot, f"{APPLIED}: this moved {slot}")
        else:
            self._show_applied(version, slot, f"no: {refused}")
            self.show(version)

    def _apply(self, version: int, slot: Slot, *, by: Actor) -> str | None:
        """Move the slot if the gate opens now; return why it does not, None if it was moved."""
        try:
            self.promote(version, slot, by=by)  # what it refuses it refuses before any change
        except GateRefusedError as error:
            unmet = [
                item
                for item in (error.report or {}).get("results", [])
                if item["status"] != Status.MET.value
            ]
            if any(item["kind"] != "approvals" for item in unmet) or not unmet:
                self.audit(
                    AuditKind.GATE_DECIDED,
                    by=by,
                    version=version,
                    slot=str(slot),
                    decision="refused",
                    operation=Command.APPROVE.value,
                    problem=error.problem[:2000],
                    unmet=[item["title"] for item in unmet],
                )
            return error.problem
        return None

    def _show_applied(self, version: int, slot: Slot, text: str) -> None:
        self.tags.set_version(version, slot.tag_key(APPLIED_TAG), text)

    def comment(self, version: int, slot: Slot, *, by: Actor, comment: str) -> None:
        """Add what somebody says to the open request; it decides nothing."""
        self.check_protected(slot)
        request = self._open(version, slot)
        self.records.add_comment(request.request_id, by=by, comment=comment)
        self.audit(
            AuditKind.PROMOTION_ANSWERED,
            by=by,
            version=version,
            slot=str(slot),
            answer="commented",
            comment=comment,
        )
        said = [item.to_dict() for item in self.records.comments(request.request_id)[-SHOWN:]]
        self.tags.set_version(
            version, slot.tag_key("agent.comments"), json.dumps(said, ensure_ascii=False)
        )

    def _open(self, version: int, slot: Slot) -> RequestRecord:
        request = self.records.request(self.gate, version, str(slot))
        if request is None or request.state != "open":
            raise RequestError(
                f"there is no open request to point {slot} to version {version}",
                hint="Open one with request_promotion.",
            )
        return request

    def close(self, version: int, slot: Slot, state: str, *, by: Actor, reason: str) -> None:
        """Reject or withdraw the open request."""
        self.check_protected(slot)
        request = self._open(version, slot)
        if state == "rejected" or not same_person(by.user, request.requested_by):
            self.needs_role(by, self.gate.rules.reviewer_role, state)
        self.records.close_request(request.request_id, state, by=by, reason=reason)
        self.tags.drop_version(version, slot.tag_key(APPLIED_TAG))
        self.audit(
            AuditKind.PROMOTION_ANSWERED,
            by=by,
            version=version,
            slot=str(slot),
            answer=state,
            reason=reason,
        )
        self.show(version)
