"""Approvals and votes as rows of the store, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from mlflow_agent_plugin.store.tables import approval_votes, approvals
from mlflow_agent_plugin.trust.approval.record import Approval, ApprovalState, Vote
from mlflow_agent_plugin.trust.approval.rules import not_found

FIELDS = tuple(field.name for field in fields(Approval) if field.name != "votes")
"""Columns of ``agent_approvals``."""

CHANGING = (
    "state",
    "answered_by",
    "answered_at",
    "answer_reason",
    "executed_at",
    "claimed_by",
    "claimed_until",
    "replaced_by",
)
"""Those that change after the row was made."""

_IDS_AT_ONCE = 500  # bound parameters of one statement


def read_approval(row: Row[Any]) -> Approval:
    """Return the approval of a row, without its votes."""
    values = {name: row._mapping[name] for name in FIELDS}  # noqa: SLF001 - public accessor
    values["arguments"] = json.loads(values["arguments"])
    values["state"] = ApprovalState(values["state"])
    return Approval(**values)


def read_one(connection: Connection, approval_id: str, *, lock: bool = False) -> Approval:
    """Return one approval with its votes.

    Args:
        connection: An open transaction.
        approval_id: Its id.
        lock: Keep others from changing it until the transaction ends.

    Raises:
        ApprovalError: There is none.
    """
    query = select(approvals).where(approvals.c.approval_id == approval_id)
    row = connection.execute(query.with_for_update() if lock else query).first()
    if row is None:
        raise not_found(approval_id)
    return with_votes(connection, [read_approval(row)])[0]


def with_votes(connection: Connection, found: Sequence[Approval]) -> list[Approval]:
    """Return the approvals with their votes, the oldest first."""
    votes: dict[str, list[Vote]] = {approval.approval_id: [] for approval in found}
    names = list(votes)
    for start in range(0, len(names), _IDS_AT_ONCE):
        query = (
            select(approval_votes)
            .where(approval_votes.c.approval_id.in_(names[start : start + _IDS_AT_ONCE]))
            .order_by(approval_votes.c.voted_at, approval_votes.c.voter)
        )
        for row in connection.execute(query):
            votes[row.approval_id].append(
                Vote(
                    voter=row.voter,
                    yes=row.yes,
                    verified=row.verified,
                    reason=row.reason,
                    voted_at=row.voted_at,
                )
            )
    return [replace(approval, votes=tuple(votes[approval.approval_id])) for approval in found]


def insert_votes(connection: Connection, approval_id: str, votes: Sequence[Vote]) -> None:
    """Add votes; the database refuses a second one of the same name."""
    for vote in votes:
        connection.execute(insert(approval_votes), {"approval_id": approval_id, **vars(vote)})


def spell_arguments(arguments: Mapping[str, Any]) -> str:
    """Return arguments as the text that is kept."""
    return json.dumps(dict(arguments), sort_keys=True)
