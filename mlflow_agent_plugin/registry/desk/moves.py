"""Making a protected slot point elsewhere: the only four ways.

Each checks, changes MLflow's rows, and writes history and audit together. A protected stage holds
one version: the one before is archived. A version leaves a protected stage only for a higher one.
"""

from __future__ import annotations

from typing import Any

from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.errors import GateRefusedError, RequestError
from mlflow_agent_plugin.package.slots import STAGES, Slot
from mlflow_agent_plugin.registry.commands import APPLIED_TAG
from mlflow_agent_plugin.registry.desk.context import Context
from mlflow_agent_plugin.registry.facts import GateFacts
from mlflow_agent_plugin.registry.records import HistoryEntry, VersionRecord
from mlflow_agent_plugin.registry.report import GateReport
from mlflow_agent_plugin.trust.audit import AuditKind

VALID_KINDS = frozenset({"promoted", "rolled_back"})
"""Kinds of history entries that show a version stood in a slot by right."""


class MoveDesk(Context):
    """Promotes, rolls back, overrides and retires."""

    def promote(self, version: int, slot: Slot, *, by: Actor | None = None) -> Any:
        """Point `slot` to `version` if the gate opens; return what MLflow's method returns.

        Raises:
            GateRefusedError: With the report; nothing was changed.
        """
        if self.pointers.of(slot) == version and (
            slot.is_alias or self.pointers.in_stage(slot.name) == [version]
        ):
            self.show_statement(slot, version)  # signed anew, by the key of today
            return self.move(slot, version)  # nothing changes
        report, candidate = self.examine(slot, version)
        if not report.passed:
            raise GateRefusedError(report.refusal(), report=report.to_dict())
        request = candidate.request
        return self._point(
            slot,
            version,
            "promoted",
            by=by or self.caller,
            reason="" if request is None else request.comment,
            report=report,
            record=candidate.record,
            request_id=None if request is None else request.request_id,
        )

    def roll_back(self, slot: Slot, version: int | None, *, by: Actor, reason: str) -> int:
        """Point `slot` to a version that stood there by right before; return it."""
        self.check_protected(slot)
        self.needs_role(by, self.gate.rules.reviewer_role, "roll back")
        entry = self._earlier(slot, version)
        assert entry.version is not None
        record = self.records.version(self.gate, entry.version)
        if record is None or record.content_digest != entry.content_digest:
            raise GateRefusedError(f"version {entry.version} is not what stood in {slot} before")
        report, candidate = self.examine(slot, entry.version)
        self._intact(candidate.facts)
        revoked = [item for item in candidate.facts.evidence if item.problem is not None]
        if revoked:
            raise GateRefusedError(
                f"the evidence of version {entry.version} on suite {revoked[0].suite} no longer "
                f"counts: {revoked[0].problem}",
                hint="Roll back to another version.",
            )
        self._point(
            slot, entry.version, "rolled_back", by=by, reason=reason, report=report, record=record
        )
        return entry.version

    def override(self, slot: Slot, version: int, *, by: Actor, reason: str) -> None:
        """Point `slot` to `version` past the rules: an emergency, on record everywhere."""
        self.check_protected(slot)
        self.needs_role(by, self.gate.rules.emergency_role, "override the gate")
        self.known(version)
        report, candidate = self.examine(slot, version)
        self._intact(candidate.facts)
        self.audit(
            AuditKind.UNSAFE_OVERRIDE,
            by=by,
            version=version,
            slot=str(slot),
            reason=reason,
            unmet=[item.title for item in report.missing],
        )
        self._point(
            slot,
            version,
            "emergency",
            by=by,
            reason=reason,
            report=report,
            record=candidate.record,
        )

    def retire(self, slot: Slot, *, by: Actor, reason: str) -> None:
        """Make `slot` point to nothing: its consumers get an error from now on."""
        self.check_protected(slot)
        self.needs_role(by, self.gate.rules.reviewer_role, "empty a slot")
        version = self.pointers.of(slot)
        if version is None:
            raise RequestError(f"{slot} points to nothing already")
        self.move(slot, None)
        self.records.add_history(
            self.gate, str(slot), "retired", record=None, version=None, by=by, reason=reason
        )
        self.audit(AuditKind.SLOT_EMPTIED, by=by, version=version, slot=str(slot), reason=reason)
        self.show_slot(slot)
        self.show_emergencies()

    def leave(self, slot: Slot) -> None:
        """Note that a version went from `slot` to another slot that opened for it."""
        self.records.add_history(
            self.gate,
            str(slot),
            "left",
            record=None,
            version=None,
            by=self.caller,
            reason="promoted to another stage",
        )
        self.audit(AuditKind.SLOT_EMPTIED, slot=str(slot), reason="promoted to another stage")
        self.show_slot(slot)

    def _point(
        self,
        slot: Slot,
        version: int,
        kind: str,
        *,
        by: Actor,
        reason: str,
        report: GateReport,
        record: VersionRecord | None,
        request_id: str | None = None,
    ) -> Any:
        before = self.pointers.of(slot)
        left = [
            other
            for other in self.gate.rules.slots()
            if not slot.is_alias
            and not other.is_alias
            and other != slot
            and self.pointers.of(other) == version
        ]
        for other in left:
            if STAGES.index(other.name) > STAGES.index(slot.name):
                raise GateRefusedError(
                    f"moving version {version} to {slot} would leave {other} empty",
                    hint=f"Promote another version to {other} first, or retire the slot.",
                )
        result = self.move(slot, version)
        self.records.add_history(
            self.gate,
            str(slot),
            kind,
            record=record,
            version=version,
            by=by,
            reason=reason,
            request_id=request_id,
            report=report.to_dict(),
        )
        for other in left:
            self.leave(other)
        if request_id is not None:
            request = self.records.request(self.gate, version, str(slot))
            self.tags.drop_version(version, slot.tag_key(APPLIED_TAG))
            if request is not None and request.state == "open":
                self.records.close_request(
                    request.request_id, "executed", by=by, reason=f"{slot} points to it"
                )
        self.audit(
            AuditKind.VERSION_ROLLED_BACK if kind == "rolled_back" else AuditKind.VERSION_PROMOTED,
            by=by,
            version=version,
            slot=str(slot),
            was=before,
            how=kind,
            reason=reason,
            agent_digest=None if record is None else record.agent_digest,
            content_digest=None if record is None else record.content_digest,
            report=report.summary(),
        )
        self.show_statement(slot, version)
        self.show_slot(slot)
        for each in {before, version} - {None}:
            if each is not None and self.records.version(self.gate, each) is not None:
                self.show(each)
        self.show_emergencies()
        return result

    def _earlier(self, slot: Slot, version: int | None) -> HistoryEntry:
        now = self.pointers.of(slot)
        for entry in reversed(self.records.history(self.gate.name, str(slot))):
            if (
                entry.epoch == self.gate.epoch
                and entry.kind in VALID_KINDS
                and entry.version is not None
                and (entry.version == version if version is not None else entry.version != now)
                and self.pointers.exists(entry.version)
            ):
                if entry.version == now:
                    raise RequestError(f"{slot} points to version {now} already")
                return entry
        wanted = "an earlier version" if version is None else f"version {version}"
        raise GateRefusedError(
            f"{wanted} never stood in {slot} by right",
            hint="Promote a version through the gate instead.",
        )

    def _intact(self, facts: GateFacts) -> None:
        if facts.content_digest is None or facts.content_problem is not None:
            raise GateRefusedError(
                f"the content of version {facts.version} cannot be served: "
                f"{facts.content_problem or 'it was never read'}"
            )
