"""What every step at the desk shares: the open transaction, looking, showing, roles, audit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mlflow_agent_plugin.entities import Actor, utc_now
from mlflow_agent_plugin.errors import AgentError, GateRefusedError, RequestError
from mlflow_agent_plugin.package.diff import diff
from mlflow_agent_plugin.package.slots import Slot
from mlflow_agent_plugin.registry.caller import acting
from mlflow_agent_plugin.registry.gate import evaluate
from mlflow_agent_plugin.registry.gathering import Candidate, Keys, gather
from mlflow_agent_plugin.registry.pointers import Pointers
from mlflow_agent_plugin.registry.records import Gate, Records, VersionRecord
from mlflow_agent_plugin.registry.report import GateReport
from mlflow_agent_plugin.registry.tags import TagBoard
from mlflow_agent_plugin.registry.transaction import Transaction
from mlflow_agent_plugin.registry.vault import Vault
from mlflow_agent_plugin.registry.webhooks import EVENT_TAG, TOLD, Announcement
from mlflow_agent_plugin.trust.audit import AuditKind

BUNDLE = "agent"
"""Folder of the bundle in a logged model."""


@dataclass(frozen=True)
class Context:
    """One gated model in one transaction.

    Attributes:
        transaction: The open transaction.
        records: The registry's rows in it.
        gate: The model's gate.
        caller: Who MLflow says is calling.
        pointers: MLflow's rows about the model.
        vault: The registry's copies.
        keys: Whose signatures count.
        tags: Writes the registry's own tags.
        move: Changes MLflow's rows so that a slot points to a version; `version` None empties it.
        told: What webhooks are told once the transaction is committed.
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
    told: list[Announcement]

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

    @contextmanager
    def unmoved(self) -> Iterator[None]:
        """Refuse what MLflow does inside if a protected slot points elsewhere afterwards.

        Whatever a call was taken for: databases differ in which names they take for equal.
        """
        before = {slot: self.pointers.of(slot) for slot in self.gate.rules.slots()}
        yield
        for slot, version in before.items():
            now = self.pointers.of(slot)
            if now != version:
                raise GateRefusedError(
                    f"this would make {slot} point to version {now} past the gate",
                    hint="Promote the version, or use a name that is less like a protected one.",
                )

    def examine(self, slot: Slot, version: int) -> tuple[GateReport, Candidate]:
        """Return the gate's report about `version` before `slot`."""
        candidate = gather(
            self.records,
            self.gate,
            slot,
            version=version,
            incumbent=self.pointers.of(slot),
            vault=self.vault,
            keys=self.keys,
        )
        return evaluate(candidate.requirements, candidate.facts), candidate

    def acting(self, by: str | None) -> Actor:
        """Return whom an action is attributed to."""
        return acting(self.caller, by, allow_unverified=self.gate.rules.allow_unverified)

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

    def show_difference(self, version: int, slot: Slot) -> None:
        """Write what the version changes against the incumbent into a tag, for reviewers."""
        incumbent = self.pointers.of(slot)
        old, new = (
            None if number is None else self.records.version(self.gate, number)
            for number in (incumbent, version)
        )
        if old is None or new is None:
            text = "there is no incumbent to compare with here"
        else:
            try:
                with (
                    self.vault.opened(old.content_digest) as before,
                    self.vault.opened(new.content_digest) as after,
                ):
                    text = diff(before / BUNDLE, after / BUNDLE).to_text()
            except AgentError as error:
                text = f"cannot be shown: {error.problem}"
        self.tags.set_version(version, slot.tag_key("agent.diff"), text)

    def show_history(self, slot: Slot) -> None:
        """Write the latest history of `slot` into a tag of the model, as much as fits."""
        entries = [entry.to_dict() for entry in self.records.history(self.gate.name, str(slot))]
        text = json.dumps(entries, ensure_ascii=False)
        while len(text) > self.tags.MODEL_VALUE_CHARS and entries:
            entries = entries[max(1, len(entries) // 4) :]
            text = json.dumps(entries, ensure_ascii=False)
        self.tags.set_model(slot.tag_key("agent.history"), text)

    def show_statement(self, slot: Slot, version: int) -> None:
        """Write the signed statement by which loaders of `slot` accept the version."""
        statement = self.records.statement(self.gate.name, str(slot))
        if statement is not None:
            self.tags.set_version(
                version, slot.tag_key("agent.promotion"), json.dumps(statement, sort_keys=True)
            )

    def show_slot(self, slot: Slot) -> None:
        """Write what a slot points to into a tag of the model."""
        version = self.pointers.of(slot)
        last = self.records.last_change(self.gate.name, str(slot))
        since = (
            ""
            if last is None
            else f" since {last.at:%Y-%m-%d %H:%M} UTC, {last.kind} by {last.actor}"
        )
        text = "nothing" if version is None else f"version {version}"
        self.tags.set_model(slot.tag_key("agent.slot"), f"{text}{since}"[:1000])

    def show_emergencies(self) -> None:
        """Mark the model, and each version a slot points to past the gate, while that is so."""
        notes: dict[int, list[str]] = {}
        for slot in self.gate.rules.slots():
            last = self.records.last_change(self.gate.name, str(slot))
            if last is not None and last.kind == "emergency" and last.version is not None:
                notes.setdefault(last.version, []).append(
                    f"EMERGENCY: {slot} points to version {last.version} past the gate, "
                    f"by {last.actor}: {last.reason}"
                )
        for version in self.tags.versions_with("agent.emergency") - set(notes):
            self.tags.drop_version(version, "agent.emergency")
        for version, texts in notes.items():
            self.tags.set_version(version, "agent.emergency", "; ".join(texts)[:1000])
        if notes:
            every = [text for _, texts in sorted(notes.items()) for text in texts]
            self.tags.set_model("agent.emergency", "; ".join(every)[:1000])
        else:
            self.tags.drop_model("agent.emergency")

    def show_rules(self) -> None:
        """Write which rules count into a tag of the model."""
        self.tags.set_model(
            "agent.rules.current", f"revision {self.gate.revision}, {self.gate.rules.digest()}"
        )
        self.tags.set_model("agent.slots", json.dumps(self.records.signed_slots(self.gate)))
        for slot in self.gate.rules.slots():
            self.show_slot(slot)

    def known(self, version: int) -> VersionRecord:
        """Return what is known about an existing version, or refuse."""
        record = self.records.version(self.gate, version)
        if record is None or not self.pointers.exists(version):
            raise RequestError(
                f"version {version} of {self.gate.name} is not an agent version this registry knows"
            )
        return record

    def check_protected(self, slot: Slot) -> None:
        """Refuse slots the stored rules do not protect."""
        if not self.protected(slot):
            names = ", ".join(str(item) for item in self.gate.rules.slots())
            raise RequestError(
                f"{slot} of {self.gate.name} is not protected", hint=f"Protected are: {names}."
            )

    def needs_role(self, actor: Actor, role: str, what: str) -> None:
        """Refuse `what` to people without the role."""
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

    def audit(self, kind: AuditKind, *, by: Actor | None = None, **data: Any) -> None:
        """Append an audit event, and tell webhooks, if the transaction commits."""
        body: Mapping[str, Any] = {key: value for key, value in data.items() if value is not None}
        actor = by or self.caller
        self.transaction.append(
            kind,
            actor=actor,
            model=self.gate.name,
            workspace=self.records.workspace,
            epoch=self.gate.epoch,
            **body,
        )
        version = data.get("version")
        if kind in TOLD and isinstance(version, int) and self.pointers.exists(version):
            event = {
                "event": kind.value,
                "at": utc_now().isoformat(timespec="seconds"),
                "by": actor.user,
                "verified": actor.verified,
                **body,
            }
            value = json.dumps(event, ensure_ascii=False, sort_keys=True)
            self.tags.set_version(version, EVENT_TAG, value)
            self.told.append(Announcement(version, value))


def same_person(a: str, b: str | None) -> bool:
    """Return True if two names are one person's."""
    return b is not None and a.strip().casefold() == b.strip().casefold()
