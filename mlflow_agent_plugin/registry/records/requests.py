"""Promotion requests and the answers to them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import insert, update

from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.registry import tables
from mlflow_agent_plugin.registry.records.base import Rows
from mlflow_agent_plugin.registry.records.rows import (
    AnswerRecord,
    CommentRecord,
    Gate,
    RequestRecord,
)

REQUEST_DAYS = 14
"""Age at which an open request counts as expired."""


class RequestRows(Rows):
    """Reads and writes promotion requests and answers."""

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
        found = [self._request(row) for row in self._all(table, *conditions, order=table.c.number)]
        return [request for request in found if request.state == "open"]

    def open_request(
        self,
        gate: Gate,
        version: int,
        slot: str,
        *,
        by: Actor,
        comment: str,
        applies: bool,
    ) -> RequestRecord:
        """Open a request; `applies`: the approval that completes it moves the slot."""
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
        if applies:
            told = {"request_id": row["request_id"], "at": self.now.isoformat()}
            self.connection.execute(insert(tables.applies), self._sealed(tables.applies, told))
        return self._request(row)

    def close_request(self, request_id: str, state: str, *, by: Actor, reason: str) -> None:
        """Close a request as executed, rejected, withdrawn or superseded."""
        table = tables.requests
        row = self._one(table, table.c.request_id == request_id, workspace=False)
        assert row is not None
        self._sealer.check(table.name, row)
        row.update(state=state, closed_at=self.now.isoformat(), closed_by=by.user, reason=reason)
        self.connection.execute(
            update(table).where(table.c.request_id == request_id).values(self._sealed(table, row))
        )

    def answers(self, request_id: str) -> list[AnswerRecord]:
        """Return the approvals of a request in the order they were given."""
        table = tables.answers
        rows = self._all(table, table.c.request_id == request_id, order=table.c.at, workspace=False)
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

    def comments(self, request_id: str) -> list[CommentRecord]:
        """Return what people said about a request, oldest first."""
        table = tables.comments
        rows = self._all(table, table.c.request_id == request_id, order=table.c.at, workspace=False)
        for row in rows:
            self._sealer.check(table.name, row)
        return [
            CommentRecord(
                user=row["user_name"],
                verified=bool(row["verified"]),
                comment=row["comment"],
                at=datetime.fromisoformat(row["at"]),
            )
            for row in rows
        ]

    def add_comment(self, request_id: str, *, by: Actor, comment: str) -> None:
        """Record what a person said about a request."""
        row = self._sealed(
            tables.comments,
            {
                "comment_id": uuid.uuid4().hex,
                "request_id": request_id,
                "user_name": by.user,
                "verified": int(by.verified),
                "comment": comment,
                "at": self.now.isoformat(),
            },
        )
        self.connection.execute(insert(tables.comments), row)

    def _request(self, row: Mapping[str, Any]) -> RequestRecord:
        self._sealer.check(tables.requests.name, row)
        state = str(row["state"])
        age = self.now - datetime.fromisoformat(row["created_at"])
        if state == "open" and age > timedelta(days=REQUEST_DAYS):
            state = "expired"
        return RequestRecord(
            request_id=row["request_id"],
            version=row["version"],
            slot=row["slot"],
            number=row["number"],
            state=state,
            requested_by=row["requested_by"],
            comment=row["comment"],
            reason=row["reason"] or "",
            applies=self._applies(row["request_id"]),
        )

    def _applies(self, request_id: str) -> bool:
        table = tables.applies
        row = self._one(table, table.c.request_id == request_id, workspace=False)
        if row is not None:
            self._sealer.check(table.name, row)
        return row is not None
