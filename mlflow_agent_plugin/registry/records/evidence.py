"""Evidence as it was submitted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select

from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.registry import tables
from mlflow_agent_plugin.registry.records.base import Rows
from mlflow_agent_plugin.registry.records.rows import EvidenceRecord


class EvidenceRows(Rows):
    """Reads and writes evidence."""

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
            records.append(_evidence(dict(row)))
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
        self.connection.execute(insert(tables.evidence), {**row, "results": record.packed})


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
