"""What slots pointed to, when, by whom and why: a chain per slot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select

from mlflow_agent_plugin.entities import Actor, sha256_of_json
from mlflow_agent_plugin.errors import IntegrityError
from mlflow_agent_plugin.registry import tables
from mlflow_agent_plugin.registry.records.base import Rows
from mlflow_agent_plugin.registry.records.rows import Gate, HistoryEntry, VersionRecord
from mlflow_agent_plugin.trust.evidence import Promotion, sign_promotion

GENESIS = "sha256:" + "0" * 64
STANDING = frozenset({"promoted", "rolled_back", "emergency"})
"""Kinds of entries after which a slot points to a version by the registry's doing."""


class HistoryRows(Rows):
    """Reads and writes the history."""

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

    def statement(self, name: str, slot: str) -> dict[str, Any] | None:
        """Return the registry's signed word about what a slot points to; None if to nothing."""
        row = self._last_row(name, slot)
        if row is None or row["kind"] not in STANDING or row["content_digest"] is None:
            return None
        return sign_promotion(
            Promotion(
                workspace=self.workspace,
                name=name,
                slot=slot,
                version=row["version"],
                kind=row["kind"],
                number=row["number"],
                content_digest=row["content_digest"],
                agent_digest=row["agent_digest"],
                actor=row["actor"],
                verified=bool(row["verified"]),
                at=datetime.fromisoformat(row["at"]),
            ),
            self._sealer.key,
        )

    def _last_row(self, name: str, slot: str) -> dict[str, Any] | None:
        table = tables.history
        query = (
            select(table)
            .where(table.c.workspace == self.workspace, table.c.name == name, table.c.slot == slot)
            .order_by(table.c.number.desc())
            .limit(1)
        )
        found = self.connection.execute(query).mappings().first()
        if found is None:
            return None
        row = dict(found)
        self._sealer.check(table.name, row)
        return row


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
