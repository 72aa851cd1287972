"""Gates of models and what is known about their versions."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from sqlalchemy import insert, update

from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.registry import tables
from mlflow_agent_plugin.registry.content import AgentContent
from mlflow_agent_plugin.registry.facts import PolicyTestsFact
from mlflow_agent_plugin.registry.records.base import Rows
from mlflow_agent_plugin.registry.records.rows import Gate, VersionRecord
from mlflow_agent_plugin.registry.rules import GateRules, stored_rules
from mlflow_agent_plugin.trust.evidence import sign_slots


class GateRows(Rows):
    """Reads and writes gates and versions."""

    def gate(self, name: str) -> Gate | None:
        """Return the gate of a model, None if it is an ordinary one."""
        row = self._one(tables.gates, tables.gates.c.name == name)
        if row is None:
            return None
        self._sealer.check(tables.gates.name, row)
        return Gate(row["name"], row["epoch"], stored_rules(row["rules"]), row["revision"])

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

    def signed_slots(self, gate: Gate) -> dict[str, Any]:
        """Return the registry's signed word which slots of a model it protects."""
        return sign_slots(
            workspace=self.workspace,
            name=gate.name,
            revision=gate.revision,
            rules_digest=gate.rules.digest(),
            protected=[str(slot) for slot in gate.rules.slots()],
            key=self._sealer.key,
        )

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

    def version(self, gate: Gate, version: int) -> VersionRecord | None:
        """Return what is known about a version, None if it was never read."""
        table = tables.versions
        row = self._one(
            table,
            table.c.name == gate.name,
            table.c.epoch == gate.epoch,
            table.c.version == version,
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
            rules=None if row["rules"] is None else stored_rules(row["rules"]),
            contracts=row["contracts"],
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
