"""The promotion desk: everything that can be done with a gated model, in one transaction.

Rules:
- Every way to make a protected slot point elsewhere leads through `promote`, `roll_back`,
  `override` or `retire`; each checks, changes MLflow's rows, and writes history and audit together.
- A protected stage holds one version: the one before is archived.
- Whatever is refused raises; the transaction then leaves nothing behind.
- After each step the desk shows the state in tags of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.errors import GateRefusedError, RequestError
from mlflow_agent_plugin.registry.content import AgentContent
from mlflow_agent_plugin.registry.facts import GateFacts
from mlflow_agent_plugin.registry.gate import evaluate
from mlflow_agent_plugin.registry.gathering import Candidate, Keys, gather
from mlflow_agent_plugin.registry.pointers import Pointers
from mlflow_agent_plugin.registry.records import (
    EvidenceRecord,
    Gate,
    HistoryEntry,
    Records,
    VersionRecord,
)
from mlflow_agent_plugin.registry.report import GateReport
from mlflow_agent_plugin.registry.rules import ApprovalsRequirement, GateRules, loosened
from mlflow_agent_plugin.registry.slots import STAGES, Slot
from mlflow_agent_plugin.registry.tags import TagBoard
from mlflow_agent_plugin.registry.transaction import Transaction
from mlflow_agent_plugin.registry.vault import Vault
from mlflow_agent_plugin.trust.audit import AuditKind

VALID_KINDS = frozenset({"promoted", "rolled_back"})
"""Kinds of history entries that show a version stood in a slot by right."""


@dataclass(frozen=True)
class Desk:
    """One gated model in one transaction.

    Attributes:
        caller: Who MLflow says is calling.
        move: Changes MLflow's rows so that a slot points to a version; `version` None empties it.
    """

    transaction: Transaction
    records: Records
    gate: Gate
    caller: Actor
    pointers: Pointers
    vault: Vault
    keys: Keys
    tags: TagBoard
    move: Callable[[Slot, int | None], Any]

    # --- looking ---------------------------------------------------------------------------------

    def protected(self, slot: Slot) -> bool:
        """Return True if the stored rules protect `slot`."""
        return bool(self.gate.rules.requirements(slot))

    def held_slots(self, version: int) -> list[Slot]:
        """Return the protected slots a version stands in."""
        return [
            slot
            for slot in self.gate.rules.slots()
            if self.pointers.of(slot) == version
            or (not slot.is_alias and version in self.pointers.in_stage(slot.name))
        ]

    def examine(self, slot: Slot, version: int) -> tuple[GateReport, Candidate]:
        """Return the gate's report about `version` before `slot`."""
        record = self.records.version(self.gate, version)
        problem = None if record is None else self.vault.problem(record.content_digest)
        candidate = gather(
            self.records,
            self.gate,
            slot,
            version=version,
            incumbent=self.pointers.of(slot),
            content_problem=problem,
            keys=self.keys,
        )
        return evaluate(candidate.requirements, candidate.facts), candidate

    def acting(self, by: str | None) -> Actor:
        """Return whom an action is attributed to."""
        from mlflow_agent_plugin.registry.caller import acting

        return acting(self.caller, by, allow_unverified=self.gate.rules.allow_unverified)

    # --- versions and evidence -------------------------------------------------------------------

    def register(self, version: int, content: AgentContent, *, first: bool) -> None:
        """Record a version MLflow has just created."""
        self.records.add_version(self.gate, version, content, self.caller)
        self._audit(
            AuditKind.VERSION_REGISTERED,
            version=version,
            agent=content.agent,
            agent_digest=content.agent_digest,
            content_digest=content.digest,
            gated_since_now=first,
        )
        self.tags.set_version(version, "agent.digest", content.agent_digest)
        self.tags.set_version(version, "agent.content", content.digest)
        if first:
            self.tags.set_model("agent.gated", "true")
            self._show_rules()
        self.show(version)

    def adopt(self) -> None:
        """Note what protected slots point to already; nothing new may follow without the gate."""
        for slot in self.gate.rules.slots():
            last = self.records.last_change(self.gate.name, str(slot))
            version = self.pointers.of(slot)
            known = None if last is None or last.epoch != self.gate.epoch else last.version
            if version != known:
                self.records.add_history(
                    self.gate,
                    str(slot),
                    "adopted",
                    record=None if version is None else self.records.version(self.gate, version),
                    version=version,
                    by=self.caller,
                    reason="stood there when the slot became protected",
                )

    def submit(self, version: int, found: list[EvidenceRecord]) -> None:
        """Record verified evidence about a version."""
        self._known(version)
        for item in found:
            self.records.add_evidence(self.gate.name, item, self.caller)
            self._audit(
                AuditKind.EVIDENCE_RECORDED,
                version=version,
                agent_digest=item.agent_digest,
                suite=item.suite,
                suite_digest=item.suite_digest,
                results_digest=item.results_digest,
                run_id=item.run_id,
            )
            self.tags.set_version(version, f"agent.evidence.{item.suite}", item.run_id)
        self.show(version)

    # --- promotion requests ----------------------------------------------------------------------

    def request(self, version: int, slot: Slot, *, by: Actor, comment: str) -> None:
        """Open a promotion request; requests of older versions for the slot give way."""
        self._protected_or_refuse(slot)
        self._known(version)
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
                self._audit(
                    AuditKind.PROMOTION_ANSWERED,
                    by=by,
                    version=other.version,
                    slot=str(slot),
                    answer="superseded",
                )
                self.show(other.version)
        self.records.open_request(self.gate, version, str(slot), by=by, comment=comment)
        self._audit(
            AuditKind.PROMOTION_REQUESTED, by=by, version=version, slot=str(slot), comment=comment
        )
        self.show(version)

    def approve(self, version: int, slot: Slot, *, by: Actor, comment: str) -> None:
        """Record a person's approval of the version as it stands now."""
        self._protected_or_refuse(slot)
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
        self._needs_role(by, role, "approve")
        if rule is not None and rule.not_author and _same(by.user, candidate.facts.author):
            raise GateRefusedError(
                f"{by.user} registered version {version} and cannot approve it",
                hint="Ask somebody else.",
            )
        known = self.records.answers(request.request_id)
        if not any(
            _same(item.user, by.user) and item.subject == candidate.subject for item in known
        ):
            self.records.add_answer(
                request.request_id, candidate.subject, by=by, comment=comment
            )
        self._audit(
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
        self._protected_or_refuse(slot)
        request = self.records.request(self.gate, version, str(slot))
        if request is None or request.state != "open":
            raise RequestError(
                f"there is no open request to point {slot} to version {version}"
            )
        if state == "rejected" or not _same(by.user, request.requested_by):
            self._needs_role(by, self.gate.rules.reviewer_role, state)
        self.records.close_request(request.request_id, state, by=by, reason=reason)
        self._audit(
            AuditKind.PROMOTION_ANSWERED,
            by=by,
            version=version,
            slot=str(slot),
            answer=state,
            reason=reason,
        )
        self.show(version)

    # --- moving slots ----------------------------------------------------------------------------

    def promote(self, version: int, slot: Slot) -> Any:
        """Point `slot` to `version` if the gate opens; return what MLflow's method returns.

        Raises:
            GateRefusedError: With the report.
        """
        if self.pointers.of(slot) == version and (
            slot.is_alias or self.pointers.in_stage(slot.name) == [version]
        ):
            return self.move(slot, version)  # nothing changes
        report, candidate = self.examine(slot, version)
        if not report.passed:
            raise GateRefusedError(report.refusal(), report=report.to_dict())
        request = candidate.request
        return self._point(
            slot,
            version,
            "promoted",
            by=self.caller,
            reason="" if request is None else request.comment,
            report=report,
            record=candidate.record,
            request_id=None if request is None else request.request_id,
        )

    def roll_back(self, slot: Slot, version: int | None, *, by: Actor, reason: str) -> int:
        """Point `slot` to a version that stood there by right before; return it."""
        self._protected_or_refuse(slot)
        self._needs_role(by, self.gate.rules.reviewer_role, "roll back")
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
        self._protected_or_refuse(slot)
        self._needs_role(by, self.gate.rules.emergency_role, "override the gate")
        self._known(version)
        report, candidate = self.examine(slot, version)
        self._intact(candidate.facts)
        self._audit(
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
        note = f"EMERGENCY: {slot} points to version {version} past the gate, by {by.user}: {reason}"
        self.tags.set_version(version, "agent.emergency", note[:1000])
        self.tags.set_model("agent.emergency", note[:1000])

    def retire(self, slot: Slot, *, by: Actor, reason: str) -> None:
        """Make `slot` point to nothing: its consumers get an error from now on."""
        self._protected_or_refuse(slot)
        self._needs_role(by, self.gate.rules.reviewer_role, "empty a slot")
        version = self.pointers.of(slot)
        if version is None:
            raise RequestError(f"{slot} points to nothing already")
        self.move(slot, None)
        self.records.add_history(
            self.gate, str(slot), "retired", record=None, version=None, by=by, reason=reason
        )
        self._audit(
            AuditKind.SLOT_EMPTIED, by=by, version=version, slot=str(slot), reason=reason
        )
        self._show_slot(slot)

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
        self._audit(AuditKind.SLOT_EMPTIED, slot=str(slot), reason="promoted to another stage")
        self._show_slot(slot)

    def end_epoch(self) -> None:
        """Close everything that was about a model that is being deleted; its gate stays."""
        for request in self.records.open_requests(self.gate):
            self.records.close_request(
                request.request_id, "withdrawn", by=self.caller, reason="the model was deleted"
            )
        for slot in self.gate.rules.slots():
            last = self.records.last_change(self.gate.name, str(slot))
            if last is not None and last.version is not None:
                raise GateRefusedError(f"{slot} still points to version {last.version}")
        self.records.change_gate(
            self.gate, by=self.caller, rules=self.gate.rules, epoch=self.gate.epoch + 1
        )

    def forget(self, version: int) -> None:
        """Close the requests of a version that is being deleted."""
        for request in self.records.open_requests(self.gate):
            if request.version == version:
                self.records.close_request(
                    request.request_id,
                    "withdrawn",
                    by=self.caller,
                    reason="the version was deleted",
                )

    # --- rules -----------------------------------------------------------------------------------

    def change_rules(self, rules: GateRules, *, by: Actor) -> Desk:
        """Replace the stored rules; loosening takes a reviewer."""
        looser = loosened(self.gate.rules, rules)
        if looser:
            self._needs_role(by, self.gate.rules.reviewer_role, "loosen the gate's rules")
        gate = self.records.change_gate(
            self.gate, by=by, rules=rules, epoch=self.gate.epoch
        )
        self._audit(
            AuditKind.GATE_RULES_CHANGED,
            by=by,
            before=self.gate.rules.digest(),
            after=rules.digest(),
            loosened=looser,
        )
        desk = Desk(**{**self.__dict__, "gate": gate})
        desk.adopt()
        desk._show_rules()
        return desk

    # --- showing ---------------------------------------------------------------------------------

    def show(self, version: int, slot: Slot | None = None) -> None:
        """Write the version's state before every protected slot (or one) into its tags."""
        for each in self.gate.rules.slots() if slot is None else (slot,):
            report, candidate = self.examine(each, version)
            standing = self.pointers.of(each) == version
            summary = f"in {each} now" if standing else report.summary()
            self.tags.set_version(version, each.tag_key("agent.gate"), summary)
            self.tags.set_version(
                version,
                each.tag_key("agent.gate_report"),
                json.dumps(report.to_dict(), ensure_ascii=False),
            )
            request = candidate.request
            if request is not None:
                text = request.state
                if request.state == "open":
                    text += f", {len(candidate.facts.approvals)} approvals"
                elif request.reason:
                    text += f": {request.reason[:500]}"
                self.tags.set_version(version, each.tag_key("agent.request"), text)

    def show_history(self, slot: Slot) -> None:
        """Write the latest history of `slot` into a tag of the model, as much as fits."""
        entries = [entry.to_dict() for entry in self.records.history(self.gate.name, str(slot))]
        text = json.dumps(entries, ensure_ascii=False)
        while len(text) > self.tags.MODEL_VALUE_CHARS and entries:
            entries = entries[max(1, len(entries) // 4) :]
            text = json.dumps(entries, ensure_ascii=False)
        self.tags.set_model(slot.tag_key("agent.history"), text)

    def _show_slot(self, slot: Slot) -> None:
        version = self.pointers.of(slot)
        last = self.records.last_change(self.gate.name, str(slot))
        since = "" if last is None else f" since {last.at:%Y-%m-%d %H:%M} UTC, {last.kind} by {last.actor}"
        text = "nothing" if version is None else f"version {version}"
        self.tags.set_model(slot.tag_key("agent.slot"), f"{text}{since}"[:1000])

    def _show_rules(self) -> None:
        self.tags.set_model(
            "agent.rules.current", f"revision {self.gate.revision}, {self.gate.rules.digest()}"
        )
        for slot in self.gate.rules.slots():
            self._show_slot(slot)

    # --- helpers ---------------------------------------------------------------------------------

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
            if not slot.is_alias and not other.is_alias and other != slot
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
            if request is not None and request.state == "open":
                self.records.close_request(
                    request.request_id, "executed", by=by, reason=f"{slot} points to it"
                )
        self._audit(
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
        self._show_slot(slot)
        for each in {before, version} - {None}:
            if each is not None and self.records.version(self.gate, each) is not None:
                self.show(each)
        if kind != "emergency":
            self.tags.drop_model("agent.emergency")
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

    def _known(self, version: int) -> VersionRecord:
        record = self.records.version(self.gate, version)
        if record is None or not self.pointers.exists(version):
            raise RequestError(
                f"version {version} of {self.gate.name} is not an agent version this registry knows"
            )
        return record

    def _intact(self, facts: GateFacts) -> None:
        if facts.content_digest is None or facts.content_problem is not None:
            raise GateRefusedError(
                f"the content of version {facts.version} cannot be served: "
                f"{facts.content_problem or 'it was never read'}"
            )

    def _protected_or_refuse(self, slot: Slot) -> None:
        if not self.protected(slot):
            names = ", ".join(str(item) for item in self.gate.rules.slots())
            raise RequestError(
                f"{slot} of {self.gate.name} is not protected", hint=f"Protected are: {names}."
            )

    def _needs_role(self, actor: Actor, role: str, what: str) -> None:
        if actor.verified and role in actor.roles:
            return
        if not actor.verified and self.gate.rules.allow_unverified:
            return
        if actor.verified:
            raise GateRefusedError(
                f"{actor.user} is not a {role} and may not {what}", hint=f"Ask a {role}."
            )
        raise GateRefusedError(
            f"nobody logged in: only a {role} may {what}",
            hint="Log in to the server, or set allow_unverified in the gate's rules.",
        )

    def _audit(self, kind: AuditKind, *, by: Actor | None = None, **data: Any) -> None:
        body: Mapping[str, Any] = {key: value for key, value in data.items() if value is not None}
        self.transaction.append(
            kind,
            actor=by or self.caller,
            model=self.gate.name,
            workspace=self.records.workspace,
            epoch=self.gate.epoch,
            **body,
        )


def _same(a: str, b: str | None) -> bool:
    return b is not None and a.strip().casefold() == b.strip().casefold()
