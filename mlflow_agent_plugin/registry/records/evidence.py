"""Evidence as it was submitted."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select

from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.registry import tables
from mlflow_agent_plugin.registry.records.base import Rows
from mlflow_agent_plugin.registry.records.rows import EvidenceRecord

LOAD_PREFIX = "load:"
DRIFT_PREFIX = "drift:"
"""A colon stands in no suite's name: what other kinds of evidence are about follows these."""


class EvidenceRows(Rows):
    """Reads and writes evidence."""

    def evidence(self, name: str, agent_digest: str) -> list[EvidenceRecord]:
        """Return the latest evidence per suite about one agent digest."""
        return self._latest(name, agent_digest, lambda suite: ":" not in suite)

    def loads(self, name: str, agent_digest: str) -> list[EvidenceRecord]:
        """Return the latest load test per profile about one agent digest."""
        return self._latest(name, agent_digest, lambda suite: suite.startswith(LOAD_PREFIX))

    def drift_reports(self, name: str, agent_digest: str) -> list[EvidenceRecord]:
        """Return the drift reports about one agent digest, the latest per window of traffic."""
        found = self._latest(name, agent_digest, lambda suite: suite.startswith(DRIFT_PREFIX))
        return [item for item in found if item.revoked is None]

    def _latest(
        self, name: str, agent_digest: str, wanted: Callable[[str], bool]
    ) -> list[EvidenceRecord]:
        """Return the latest record per suite.

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
        latest = {row.suite: row.evidence_id for row in rows if wanted(row.suite)}
        if not latest:
            return []
        revoked = self.revocations(name)
        found = self.connection.execute(
            select(table).where(table.c.evidence_id.in_(list(latest.values())))
        ).mappings()
        records = []
        for row in found:
            self._sealer.check(table.name, {k: v for k, v in row.items() if k != "results"})
            records.append(_evidence(dict(row), revoked.get(row["run_id"])))
        return sorted(records, key=lambda item: item.suite)

    def revocations(self, name: str) -> dict[str, str]:
        """Return the runs whose evidence about a model was revoked: by whom and why, by run."""
        table = tables.revocations
        found = {}
        for row in self._all(table, table.c.name == name, order=table.c.at):
            self._sealer.check(table.name, row)
            found[row["run_id"]] = f"revoked by {row['revoked_by']}: {row['reason']}"
        return found

    def has_evidence(self, name: str, agent_digest: str, run_id: str) -> bool:
        """Say whether a run's evidence about an agent digest was recorded."""
        table = tables.evidence
        query = select(table.c.evidence_id).where(
            table.c.workspace == self.workspace,
            table.c.name == name,
            table.c.agent_digest == agent_digest,
            table.c.run_id == run_id,
        )
        return self.connection.execute(query.limit(1)).first() is not None

    def revoke_evidence(self, name: str, run_id: str, *, by: Actor, reason: str) -> None:
        """Record that a run's evidence about a model counts no more."""
        row = self._sealed(
            tables.revocations,
            {
                "revocation_id": uuid.uuid4().hex,
                "workspace": self.workspace,
                "name": name,
                "run_id": run_id,
                "revoked_by": by.user,
                "verified": int(by.verified),
                "reason": reason,
                "at": self.now.isoformat(),
            },
        )
        self.connection.execute(insert(tables.revocations), row)

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
        self.connection.execute(insert(tables.evidence), {**row, "results": record.packed})


def _evidence(row: Mapping[str, Any], revoked: str | None) -> EvidenceRecord:
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
        recorded_at=datetime.fromisoformat(row["recorded_at"]),
        recorded_by=row["recorded_by"],
        revoked=revoked,
    )
