"""Reading and writing the registry's own tables, with their seals checked.

Every method works inside the transaction of the connection it was made with. Rows come back as plain
dataclasses; a row whose seal does not fit raises `IntegrityError` instead of coming back.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Table, insert, select, update

from mlflow_agent_plugin.entities import Actor, sha256_of_json
from mlflow_agent_plugin.errors import IntegrityError
from mlflow_agent_plugin.registry import tables
from mlflow_agent_plugin.registry.content import AgentContent
from mlflow_agent_plugin.registry.facts import PolicyTestsFact
from mlflow_agent_plugin.registry.rules import GateRules, parse_rules
from mlflow_agent_plugin.registry.seal import Sealer

GENESIS = "sha256:" + "0" * 64


@dataclass(frozen=True)
class Gate:
    """The gate of one registered model."""

    name: str
    epoch: int
    rules: GateRules
    revision: int


@dataclass(frozen=True)
class VersionRecord:
    """What the registry knows about one agent version."""

    name: str
    epoch: int
    version: int
    content_digest: str
    agent_digest: str
    agent: str
    author: str
    author_verified: bool
    created_at: datetime
    rules: GateRules | None
    contracts: Mapping[str, Mapping[str, Any]]
    policy_tests: PolicyTestsFact


@dataclass(frozen=True)
class EvidenceRecord:
    """One signed evaluation as it was submitted; `packed` is its results table, compressed."""

    evidence_id: str
    agent_digest: str
    suite: str
    suite_digest: str
    results_digest: str
    run_id: str
    evaluated_at: datetime
    envelope: Mapping[str, Any]
    packed: bytes


@dataclass(frozen=True)
class RequestRecord:
    """One promotion request."""

    request_id: str
    version: int
    slot: str
    number: int
    state: str
    requested_by: str
    comment: str
    reason: str


@dataclass(frozen=True)
class AnswerRecord:
    """One approval: who said yes to which subject (see `gathering.subject_of`)."""

    user: str
    verified: bool
    roles: frozenset[str]
    subject: str
    at: datetime


@dataclass(frozen=True)
class HistoryEntry:
    """One change of what a slot points to.

    Attributes:
        kind: adopted, promoted, rolled_back, emergency, left or retired.
        version: What it points to since then; None for nothing.
    """

    slot: str
    number: int
    epoch: int
    kind: str
    version: int | None
    content_digest: str | None
    agent_digest: str | None
    actor: str
    verified: bool
    reason: str
    at: datetime
    report: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary, without the report."""
        return {
            "slot": self.slot,
            "number": self.number,
            "kind": self.kind,
            "version": self.version,
            "content_digest": self.content_digest,
            "agent_digest": self.agent_digest,
            "actor": self.actor,
            "verified": self.verified,
            "reason": self.reason,
            "at": self.at.isoformat(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> HistoryEntry:
        """Read what `to_dict` wrote."""
        values = dict(data)
        at = datetime.fromisoformat(values.pop("at"))
        return cls(epoch=0, at=at, **values)


class Records:
    """The tables as one transaction sees them.

    Args:
        connection: Of the registry's database.
        workspace: MLflow workspace of all that follows.
        now: Time of whatever is written.
    """

    def __init__(
        self, connection: Connection, workspace: str, *, now: datetime, sealer: Sealer | None = None
    ) -> None:
        self.connection = connection
        self.workspace = workspace
        self.now = now
        self._sealer = sealer or Sealer()

    # --- gates -----------------------------------------------------------------------------------

    def gate(self, name: str) -> Gate | None:
        """Return the gate of a model, None if it is an ordinary one."""
        row = self._one(tables.gates, tables.gates.c.name == name)
        if row is None:
            return None
        self._sealer.check(tables.gates.name, row)
        rules = parse_rules(row["rules"], name="the stored rules", error=IntegrityError)
        return Gate(row["name"], row["epoch"], rules, row["revision"])

    def create_gate(self, name: str, rules: GateRules, by: Actor) -> Gate:
        """Make an ordinary model a gated one."""
        row = self._gate_row(name, 1, rules, 1, by)
        self.connection.execute(insert(tables.gates), row)
        return Gate(name, 1, rules, 1)

    def change_gate(self, gate: Gate, *, by: Actor, rules: GateRules, epoch: int) -> Gate:
        """Replace the rules, or begin the next epoch."""
        row = self._gate_row(gate.name, epoch, rules, gate.revision + 1, by)
        self.connection.execute(
            update(tables.gates)
            .where(
                tables.gates.c.workspace == self.workspace,
                tables.gates.c.name == gate.name,
            )
            .values(row)
        )
        return Gate(gate.name, epoch, rules, gate.revision + 1)

    def _gate_row(
        self, name: str, epoch: int, rules: GateRules, revision: int, by: Actor
    ) -> dict[str, Any]:
        return self._sealed(
            tables.gates,
            {
                "workspace": self.workspace,
                "name": name,
                "epoch": epoch,
                "rules": rules.to_json(),
                "revision": revision,
                "changed_at": self.now.isoformat(),
                "changed_by": by.user,
            },
        )

    # --- versions --------------------------------------------------------------------------------

    def version(self, gate: Gate, version: int) -> VersionRecord | None:
        """Return what is known about a version, None if it was never read."""
        table = tables.versions
        row = self._one(
            table, table.c.name == gate.name, table.c.epoch == gate.epoch, table.c.version == version
        )
        if row is None:
            return None
        self._sealer.check(table.name, row)
        tests = json.loads(row["policy_tests"])
        return VersionRecord(
            name=row["name"],
            epoch=row["epoch"],
            version=row["version"],
            content_digest=row["content_digest"],
            agent_digest=row["agent_digest"],
            agent=row["agent"],
            author=row["author"],
            author_verified=bool(row["author_verified"]),
            created_at=datetime.fromisoformat(row["created_at"]),
            rules=None if row["rules"] is None else parse_rules(row["rules"], error=IntegrityError),
            contracts=json.loads(row["contracts"]),
            policy_tests=PolicyTestsFact(tests["passed"], tuple(tests["failed"]), tests["error"]),
        )

    def add_version(self, gate: Gate, version: int, content: AgentContent, author: Actor) -> None:
        """Record what was read when a version was registered."""
        tests = content.policy_tests
        row = self._sealed(
            tables.versions,
            {
                "workspace": self.workspace,
                "name": gate.name,
                "epoch": gate.epoch,
                "version": version,
                "content_digest": content.digest,
                "agent_digest": content.agent_digest,
                "agent": content.agent,
                "author": author.user,
                "author_verified": int(author.verified),
                "created_at": self.now.isoformat(),
                "rules": None if content.rules is None else content.rules.to_json(),
                "contracts": json.dumps(content.contracts, sort_keys=True),
                "policy_tests": json.dumps(
                    {"passed": tests.passed, "failed": list(tests.failed), "error": tests.error}
                ),
            },
        )
        self.connection.execute(insert(tables.versions), row)

    # --- evidence --------------------------------------------------------------------------------

    def evidence(self, name: str, agent_digest: str) -> list[EvidenceRecord]:
        """Return the latest evidence per suite about one agent digest.

        The seal covers all but the results, whose digest stands in the signed statement.
        """
        table = tables.evidence
        keys = (table.c.suite, table.c.evaluated_at, table.c.recorded_at, table.c.evidence_id)
        rows = self.connection.execute(
            select(*keys)
            .where(
                table.c.workspace == self.workspace,
                table.c.name == name,
                table.c.agent_digest == agent_digest,
            )
            .order_by(table.c.evaluated_at, table.c.recorded_at)
        ).all()
        latest = {row.suite: row.evidence_id for row in rows}
        if not latest:
            return []
        found = self.connection.execute(
            select(table).where(table.c.evidence_id.in_(list(latest.values())))
        ).mappings()
        records = []
        for row in found:
            self._sealer.check(table.name, {k: v for k, v in row.items() if k != "results"})
            records.append(_evidence(row))
        return sorted(records, key=lambda item: item.suite)

    def add_evidence(self, name: str, record: EvidenceRecord, by: Actor) -> None:
        """Record verified evidence."""
        row = self._sealed(
            tables.evidence,
            {
                "evidence_id": record.evidence_id,
                "workspace": self.workspace,
                "name": name,
                "agent_digest": record.agent_digest,
                "suite": record.suite,
                "suite_digest": record.suite_digest,
                "results_digest": record.results_digest,
                "run_id": record.run_id,
                "evaluated_at": record.evaluated_at.isoformat(),
                "recorded_at": self.now.isoformat(),
                "recorded_by": by.user,
                "envelope": json.dumps(record.envelope, sort_keys=True),
            },
        )
        self.connection.execute(
            insert(tables.evidence), {**row, "results": record.packed}
        )

    # --- promotion requests ----------------------------------------------------------------------

    def request(self, gate: Gate, version: int, slot: str) -> RequestRecord | None:
        """Return the latest request to point `slot` to `version`."""
        table = tables.requests
        rows = self._all(
            table,
            table.c.name == gate.name,
            table.c.epoch == gate.epoch,
            table.c.version == version,
            table.c.slot == slot,
            order=table.c.number,
        )
        return self._request(rows[-1]) if rows else None

    def open_requests(self, gate: Gate, slot: str | None = None) -> list[RequestRecord]:
        """Return the open requests of a model."""
        table = tables.requests
        conditions = [
            table.c.name == gate.name,
            table.c.epoch == gate.epoch,
            table.c.state == "open",
        ]
        if slot is not None:
            conditions.append(table.c.slot == slot)
        return [self._request(row) for row in self._all(table, *conditions, order=table.c.number)]

    def open_request(
        self, gate: Gate, version: int, slot: str, *, by: Actor, comment: str
    ) -> RequestRecord:
        """Open a request."""
        table = tables.requests
        rows = self._all(
            table,
            table.c.name == gate.name,
            table.c.epoch == gate.epoch,
            table.c.slot == slot,
            order=table.c.number,
        )
        row = self._sealed(
            table,
            {
                "request_id": uuid.uuid4().hex,
                "workspace": self.workspace,
                "name": gate.name,
                "epoch": gate.epoch,
                "version": version,
                "slot": slot,
                "number": rows[-1]["number"] + 1 if rows else 1,
                "state": "open",
                "requested_by": by.user,
                "verified": int(by.verified),
                "comment": comment,
                "created_at": self.now.isoformat(),
                "closed_at": None,
                "closed_by": None,
                "reason": None,
            },
        )
        self.connection.execute(insert(table), row)
        return self._request(row)

    def close_request(self, request_id: str, state: str, *, by: Actor, reason: str) -> None:
        """Close a request as executed, rejected, withdrawn or superseded."""
        table = tables.requests
        row = self._one(table, table.c.request_id == request_id, workspace=False)
        assert row is not None
        self._sealer.check(table.name, row)
        row.update(
            state=state, closed_at=self.now.isoformat(), closed_by=by.user, reason=reason
        )
        self.connection.execute(
            update(table).where(table.c.request_id == request_id).values(self._sealed(table, row))
        )

    def answers(self, request_id: str) -> list[AnswerRecord]:
        """Return the approvals of a request in the order they were given."""
        table = tables.answers
        rows = self._all(
            table, table.c.request_id == request_id, order=table.c.at, workspace=False
        )
        found = []
        for row in rows:
            self._sealer.check(table.name, row)
            found.append(
                AnswerRecord(
                    user=row["user_name"],
                    verified=bool(row["verified"]),
                    roles=frozenset(json.loads(row["roles"])),
                    subject=row["subject"],
                    at=datetime.fromisoformat(row["at"]),
                )
            )
        return found

    def add_answer(self, request_id: str, subject: str, *, by: Actor, comment: str) -> None:
        """Record an approval of `subject`."""
        row = self._sealed(
            tables.answers,
            {
                "answer_id": uuid.uuid4().hex,
                "request_id": request_id,
                "user_name": by.user,
                "verified": int(by.verified),
                "roles": json.dumps(sorted(by.roles)),
                "subject": subject,
                "comment": comment,
                "at": self.now.isoformat(),
            },
        )
        self.connection.execute(insert(tables.answers), row)

    def _request(self, row: Mapping[str, Any]) -> RequestRecord:
        self._sealer.check(tables.requests.name, row)
        return RequestRecord(
            request_id=row["request_id"],
            version=row["version"],
            slot=row["slot"],
            number=row["number"],
            state=row["state"],
            requested_by=row["requested_by"],
            comment=row["comment"],
            reason=row["reason"] or "",
        )

    # --- history ---------------------------------------------------------------------------------

    def history(self, name: str, slot: str | None = None) -> list[HistoryEntry]:
        """Return what the slots of a model pointed to, oldest first.

        Raises:
            IntegrityError: A row was changed, removed or inserted past the registry.
        """
        table = tables.history
        conditions = [table.c.name == name]
        if slot is not None:
            conditions.append(table.c.slot == slot)
        found: list[HistoryEntry] = []
        heads: dict[str, tuple[int, str]] = {}
        for row in self._all(table, *conditions, order=table.c.number):
            number, head = heads.get(row["slot"], (0, GENESIS))
            if row["number"] != number + 1 or row["prev_hash"] != head or row["hash"] != _hash(row):
                raise IntegrityError(
                    "the history was changed past the registry",
                    where=f"{name} {row['slot']}, entry {number + 1}",
                    hint="Restore it from a backup, and look at the audit.",
                )
            self._sealer.check(table.name, row)
            heads[row["slot"]] = (row["number"], row["hash"])
            found.append(_entry(row))
        return sorted(found, key=lambda item: (item.at, item.slot, item.number))

    def last_change(self, name: str, slot: str) -> HistoryEntry | None:
        """Return the latest entry of a slot; checks its seal, not the whole chain."""
        row = self._last_row(name, slot)
        return None if row is None else _entry(row)

    def add_history(
        self,
        gate: Gate,
        slot: str,
        kind: str,
        *,
        record: VersionRecord | None,
        version: int | None,
        by: Actor,
        reason: str = "",
        request_id: str | None = None,
        report: Mapping[str, Any] | None = None,
    ) -> HistoryEntry:
        """Append one change of a slot."""
        last = self._last_row(gate.name, slot)
        row: dict[str, Any] = {
            "workspace": self.workspace,
            "name": gate.name,
            "slot": slot,
            "number": 1 if last is None else last["number"] + 1,
            "epoch": gate.epoch,
            "kind": kind,
            "version": version,
            "content_digest": None if record is None else record.content_digest,
            "agent_digest": None if record is None else record.agent_digest,
            "actor": by.user,
            "verified": int(by.verified),
            "reason": reason,
            "request_id": request_id,
            "report": json.dumps(report or {}, sort_keys=True),
            "at": self.now.isoformat(),
            "prev_hash": GENESIS if last is None else last["hash"],
        }
        row["hash"] = _hash(row)
        row = self._sealed(tables.history, row)
        self.connection.execute(insert(tables.history), row)
        return _entry(row)

    def _last_row(self, name: str, slot: str) -> dict[str, Any] | None:
        table = tables.history
        query = (
            select(table)
            .where(
                table.c.workspace == self.workspace, table.c.name == name, table.c.slot == slot
            )
            .order_by(table.c.number.desc())
            .limit(1)
        )
        found = self.connection.execute(query).mappings().first()
        if found is None:
            return None
        row = dict(found)
        self._sealer.check(table.name, row)
        return row

    # --- helpers ---------------------------------------------------------------------------------

    def _sealed(self, table: Table, row: Mapping[str, Any]) -> dict[str, Any]:
        plain = {name: value for name, value in row.items() if name != "seal"}
        return {**plain, "seal": self._sealer.seal(table.name, plain)}

    def _one(self, table: Table, *conditions: Any, workspace: bool = True) -> dict[str, Any] | None:
        rows = self._all(table, *conditions, workspace=workspace)
        return rows[0] if rows else None

    def _all(
        self, table: Table, *conditions: Any, order: Any = None, workspace: bool = True
    ) -> Sequence[dict[str, Any]]:
        query = select(table).where(*conditions)
        if workspace:
            query = query.where(table.c.workspace == self.workspace)
        if order is not None:
            query = query.order_by(order)
        return [dict(row) for row in self.connection.execute(query).mappings()]


def _evidence(row: Mapping[str, Any]) -> EvidenceRecord:
    return EvidenceRecord(
        evidence_id=row["evidence_id"],
        agent_digest=row["agent_digest"],
        suite=row["suite"],
        suite_digest=row["suite_digest"],
        results_digest=row["results_digest"],
        run_id=row["run_id"],
        evaluated_at=datetime.fromisoformat(row["evaluated_at"]),
        envelope=json.loads(row["envelope"]),
        packed=bytes(row["results"]),
    )


def _entry(row: Mapping[str, Any]) -> HistoryEntry:
    return HistoryEntry(
        slot=row["slot"],
        number=row["number"],
        epoch=row["epoch"],
        kind=row["kind"],
        version=row["version"],
        content_digest=row["content_digest"],
        agent_digest=row["agent_digest"],
        actor=row["actor"],
        verified=bool(row["verified"]),
        reason=row["reason"],
        at=datetime.fromisoformat(row["at"]),
        report=json.loads(row["report"]) or None,
    )


def _hash(row: Mapping[str, Any]) -> str:
    return sha256_of_json(
        {name: value for name, value in row.items() if name not in {"hash", "seal"}}
    )
