"""The promotion desk: everything that can be done with a gated model, in one transaction.

Rules:
- Every way to make a protected slot point elsewhere leads through `promote`, `roll_back`,
  `override` or `retire`.
- Whatever is refused raises; the transaction then leaves nothing behind.
- After each step the desk shows the state in tags of its own.
"""

from __future__ import annotations

from collections.abc import Iterable

from mlflow_agent_plugin.core.flavor import CONSOLE_TAG
from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.errors import GateRefusedError, RequestError
from mlflow_agent_plugin.package.slots import Slot
from mlflow_agent_plugin.registry.content import AgentContent
from mlflow_agent_plugin.registry.desk.requests import RequestDesk
from mlflow_agent_plugin.registry.places import console_path
from mlflow_agent_plugin.registry.records import LOAD_PREFIX, EvidenceRecord
from mlflow_agent_plugin.registry.rules import GateRules, loosened
from mlflow_agent_plugin.trust.audit import AuditKind

__all__ = ["Desk"]


class Desk(RequestDesk):
    """One gated model in one transaction; see `context.Context` for the attributes."""

    def register(self, version: int, content: AgentContent, *, first: bool) -> None:
        """Record a version MLflow has just created."""
        self.records.add_version(self.gate, version, content, self.caller)
        self.audit(
            AuditKind.VERSION_REGISTERED,
            version=version,
            agent=content.agent,
            agent_digest=content.agent_digest,
            content_digest=content.digest,
            gated_since_now=first,
        )
        self.tags.set_version(version, "agent.digest", content.agent_digest)
        self.tags.set_version(version, "agent.content", content.digest)
        console = console_path(self.gate.name, version)
        if console is not None:
            self.tags.set_version(version, CONSOLE_TAG, console)
        self.tags.set_model("agent.gated", "true")
        self.show_rules()
        self.show(version)

    def adopt(self, slots: Iterable[Slot]) -> None:
        """Note what newly protected slots point to; nothing new may follow without the gate.

        Only ever for slots that were not protected before: else a row changed past the registry
        would be taken for granted.
        """
        for slot in slots:
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
        self.known(version)
        revoked = self.records.revocations(self.gate.name)
        for item in found:
            if item.run_id in revoked:
                raise RequestError(
                    f"the evidence of run {item.run_id} was {revoked[item.run_id]}",
                    hint="Evaluate again.",
                )
        for item in found:
            self.records.add_evidence(self.gate.name, item, self.caller)
            self.audit(
                AuditKind.EVIDENCE_RECORDED,
                version=version,
                agent_digest=item.agent_digest,
                suite=item.suite,
                suite_digest=item.suite_digest,
                results_digest=item.results_digest,
                run_id=item.run_id,
            )
            kind = "" if item.suite.startswith(LOAD_PREFIX) else "evidence."
            self.tags.set_version(
                version, f"agent.{kind}{item.suite.replace(':', '.')}", item.run_id
            )
        self.show(version)

    def revoke_evidence(self, version: int, run_id: str, *, by: Actor, reason: str) -> None:
        """Let the evidence of a run count no more, about any version of this model."""
        record = self.known(version)
        self.needs_role(by, self.gate.rules.reviewer_role, "revoke evidence")
        if not self.records.has_evidence(self.gate.name, record.agent_digest, run_id):
            raise RequestError(f"there is no evidence of run {run_id} about version {version}")
        if run_id in self.records.revocations(self.gate.name):
            raise RequestError(f"the evidence of run {run_id} is revoked already")
        self.records.revoke_evidence(self.gate.name, run_id, by=by, reason=reason)
        self.audit(
            AuditKind.EVIDENCE_REVOKED,
            by=by,
            version=version,
            agent_digest=record.agent_digest,
            run_id=run_id,
            reason=reason,
        )
        self.tags.set_version(
            version, "agent.revoked", f"evidence of run {run_id}, by {by.user}: {reason}"[:1000]
        )
        self.show(version)

    def report_drift(self, version: int, report: EvidenceRecord) -> None:
        """Record a drift report about a version."""
        self.known(version)
        self.records.add_evidence(self.gate.name, report, self.caller)
        self.audit(
            AuditKind.DRIFT_DETECTED
            if report.envelope["word"] == "drift"
            else AuditKind.EVIDENCE_RECORDED,
            version=version,
            agent_digest=report.agent_digest,
            suite=report.suite,
            results_digest=report.results_digest,
            run_id=report.run_id,
            word=report.envelope["word"],
        )
        self.show(version)

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
        self.audit(AuditKind.GATE_RULES_CHANGED, reason="the model was deleted; its gate stays")

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
                self.audit(
                    AuditKind.PROMOTION_ANSWERED,
                    version=version,
                    slot=request.slot,
                    answer="withdrawn",
                    reason="the version was deleted",
                )

    def change_rules(self, rules: GateRules, *, by: Actor) -> Desk:
        """Replace the stored rules; loosening takes a reviewer."""
        looser = loosened(self.gate.rules, rules)
        if looser:
            self.needs_role(by, self.gate.rules.reviewer_role, "loosen the gate's rules")
        gate = self.records.change_gate(self.gate, by=by, rules=rules, epoch=self.gate.epoch)
        self.audit(
            AuditKind.GATE_RULES_CHANGED,
            by=by,
            before=self.gate.rules.digest(),
            after=rules.digest(),
            loosened=looser,
        )
        desk = Desk(**{**self.__dict__, "gate": gate})
        before = self.gate.rules.slots()
        desk.adopt(slot for slot in rules.slots() if slot not in before)
        desk.show_rules()
        return desk
