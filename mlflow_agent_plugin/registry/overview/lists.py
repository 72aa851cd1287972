"""Agents, versions and promotion requests, page by page."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.registry.overview.access import bounded, current_epoch, now, reading
from mlflow_agent_plugin.registry.overview.rows import (
    PAGE,
    AgentSummary,
    HistorySummary,
    Page,
    RequestSummary,
    VersionSummary,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from sqlalchemy import Connection


def list_agents(
    *,
    contains: str = "",
    offset: int = 0,
    limit: int = PAGE,
    client: MlflowClient | None = None,
) -> Page[AgentSummary]:
    """Return gated models by name.

    Args:
        contains: Only names with this text in them.
        offset: How many to skip.
        limit: How many to return, at most `MAX_PAGE`.
        client: MLflow client on an ``agents+`` database.

    Raises:
        RequestError: This process does not hold a gated registry.
    """
    from sqlalchemy import select

    from mlflow_agent_plugin.registry import tables

    limit = bounded(limit)
    with reading(client) as (connection, workspace):
        gates = tables.gates
        query = select(gates.c.name, gates.c.epoch, gates.c.rules).where(
            gates.c.workspace == workspace
        )
        if contains:
            query = query.where(gates.c.name.contains(contains, autoescape=True))
        query = query.order_by(gates.c.name).offset(offset).limit(limit + 1)
        found = connection.execute(query).all()
        rows = _summaries(connection, workspace, found[:limit])
        return Page(rows, offset, len(found) > limit)


def _summaries(connection: Connection, workspace: str, gates: Sequence[Any]) -> list[AgentSummary]:
    """Return the summaries of gated models; five queries, however many they are."""
    from sqlalchemy import func, select

    from mlflow_agent_plugin.registry import tables
    from mlflow_agent_plugin.registry.pointers import read_pointers
    from mlflow_agent_plugin.registry.rules import stored_rules

    versions, requests = tables.versions, tables.requests
    pointers = read_pointers(connection, workspace, [gate.name for gate in gates])
    latest = {
        (row.name, row.epoch): row.latest
        for row in connection.execute(
            select(versions.c.name, versions.c.epoch, func.max(versions.c.version).label("latest"))
            .where(versions.c.workspace == workspace, versions.c.name.in_(pointers))
            .group_by(versions.c.name, versions.c.epoch)
        )
    }
    waiting = {
        (row.name, row.epoch): row.waiting
        for row in connection.execute(
            select(requests.c.name, requests.c.epoch, func.count().label("waiting"))
            .where(
                requests.c.workspace == workspace,
                requests.c.name.in_(pointers),
                requests.c.state == "open",
            )
            .group_by(requests.c.name, requests.c.epoch)
        )
    }
    history = tables.history
    slot = (history.c.name, history.c.epoch, history.c.slot)
    newest = (
        select(*slot, func.max(history.c.number).label("number"))
        .where(history.c.workspace == workspace, history.c.name.in_(pointers))
        .group_by(*slot)
        .subquery()
    )
    emergencies = {
        (row.name, row.epoch, row.slot)
        for row in connection.execute(
            select(*slot)
            .join(
                newest,
                (history.c.name == newest.c.name)
                & (history.c.slot == newest.c.slot)
                & (history.c.number == newest.c.number),
            )
            .where(history.c.workspace == workspace, history.c.kind == "emergency")
        )
    }
    return [
        AgentSummary(
            gate.name,
            {str(slot): pointers[gate.name].get(slot) for slot in stored_rules(gate.rules).slots()},
            latest.get((gate.name, gate.epoch)),
            waiting.get((gate.name, gate.epoch), 0),
            frozenset(
                at for name, epoch, at in emergencies if (name, epoch) == (gate.name, gate.epoch)
            ),
        )
        for gate in gates
        if gate.name in pointers  # deleted; its gate stays for whoever takes the name again
    ]


def list_versions(
    name: str,
    *,
    author: str | None = None,
    digest: str | None = None,
    offset: int = 0,
    limit: int = PAGE,
    client: MlflowClient | None = None,
) -> Page[VersionSummary]:
    """Return the agent versions of a model, the newest first.

    Args:
        name: The model.
        author: Registered by this user.
        digest: Whose agent digest begins like this, with or without ``sha256:``.
        offset: How many to skip.
        limit: How many to return.
        client: MLflow client.

    Raises:
        RequestError: This process does not hold a gated registry.
    """
    from sqlalchemy import select

    from mlflow_agent_plugin.registry import tables

    limit = bounded(limit)
    table = tables.versions
    with reading(client) as (connection, workspace):
        query = (
            select(table)
            .where(
                table.c.workspace == workspace,
                table.c.name == name,
                table.c.epoch == current_epoch(connection, workspace, name),
            )
            .order_by(table.c.version.desc())
            .offset(offset)
            .limit(limit + 1)
        )
        if author:
            query = query.where(table.c.author == author)
        if digest:
            start = f"sha256:{digest.removeprefix('sha256:')}"
            query = query.where(table.c.agent_digest.startswith(start, autoescape=True))
        found = connection.execute(query).mappings().all()
    return Page([_version(dict(row)) for row in found[:limit]], offset, len(found) > limit)


def get_version(
    name: str, version: int, *, client: MlflowClient | None = None
) -> VersionSummary | None:
    """Return one agent version, None if the registry knows none; raises as `list_agents`."""
    from sqlalchemy import select

    from mlflow_agent_plugin.registry import tables

    table = tables.versions
    with reading(client) as (connection, workspace):
        row = (
            connection.execute(
                select(table).where(
                    table.c.workspace == workspace,
                    table.c.name == name,
                    table.c.epoch == current_epoch(connection, workspace, name),
                    table.c.version == version,
                )
            )
            .mappings()
            .first()
        )
    return None if row is None else _version(dict(row))


def find_digests(
    digests: Collection[str], *, client: MlflowClient | None = None
) -> dict[str, list[VersionSummary]]:
    """Return the registered versions that hold agents of the given digests, the newest first."""
    from sqlalchemy import select

    from mlflow_agent_plugin.registry import tables

    table = tables.versions
    found: dict[str, list[VersionSummary]] = {}
    with reading(client) as (connection, workspace):
        query = (
            select(table)
            .where(table.c.workspace == workspace, table.c.agent_digest.in_(sorted(digests)))
            .order_by(table.c.epoch.desc(), table.c.version.desc())
        )
        for row in connection.execute(query).mappings():
            found.setdefault(row["agent_digest"], []).append(_version(dict(row)))
    return found


def protected_slots(name: str, *, client: MlflowClient | None = None) -> dict[str, int | None]:
    """Return what each protected slot of a model points to; empty if it is not gated."""
    from mlflow_agent_plugin.registry.pointers import Pointers
    from mlflow_agent_plugin.registry.records import Records

    with reading(client) as (connection, workspace):
        gate = Records(connection, workspace, now=now()).gate(name)
        if gate is None:
            return {}
        pointers = Pointers(connection, workspace, name)
        return {str(slot): pointers.of(slot) for slot in gate.rules.slots()}


def list_history(
    name: str,
    *,
    slot: str | None = None,
    offset: int = 0,
    limit: int = PAGE,
    client: MlflowClient | None = None,
) -> Page[HistorySummary]:
    """Return what the slots of a model pointed to, the newest first; raises as `list_agents`.

    The rows as they are: `registry.history` checks the whole chain.
    """
    from sqlalchemy import select

    from mlflow_agent_plugin.registry import tables

    limit = bounded(limit)
    table = tables.history
    with reading(client) as (connection, workspace):
        query = select(table).where(table.c.workspace == workspace, table.c.name == name)
        if slot:
            query = query.where(table.c.slot == slot)
        query = query.order_by(table.c.at.desc(), table.c.slot, table.c.number.desc())
        found = connection.execute(query.offset(offset).limit(limit + 1)).mappings().all()
    rows = [
        HistorySummary(
            at=datetime.fromisoformat(row["at"]),
            slot=row["slot"],
            kind=row["kind"],
            version=row["version"],
            actor=row["actor"],
            verified=bool(row["verified"]),
            reason=row["reason"],
        )
        for row in found[:limit]
    ]
    return Page(rows, offset, len(found) > limit)


def list_requests(
    *,
    name: str | None = None,
    contains: str = "",
    requested_by: str | None = None,
    version: int | None = None,
    state: str | None = "open",
    offset: int = 0,
    limit: int = PAGE,
    client: MlflowClient | None = None,
) -> Page[RequestSummary]:
    """Return promotion requests, the newest first.

    Args:
        name: Of this model.
        contains: Of models with this text in their name.
        requested_by: Made by this user.
        version: About this version.
        state: In this state; None for all. ``open`` leaves out the expired ones.
        offset: How many to skip.
        limit: How many to return.
        client: MLflow client.

    Raises:
        RequestError: This process does not hold a gated registry.
    """
    from datetime import timedelta

    from sqlalchemy import select

    from mlflow_agent_plugin.registry import tables
    from mlflow_agent_plugin.registry.records.requests import REQUEST_DAYS

    limit = bounded(limit)
    table, gates, answers = tables.requests, tables.gates, tables.answers
    applying = tables.applies.c.request_id
    oldest = (now() - timedelta(days=REQUEST_DAYS)).isoformat()
    with reading(client) as (connection, workspace):
        query = (
            select(table)
            .join(
                gates,
                (gates.c.workspace == table.c.workspace)
                & (gates.c.name == table.c.name)
                & (gates.c.epoch == table.c.epoch),
            )
            .where(table.c.workspace == workspace)
        )
        if name is not None:
            query = query.where(table.c.name == name)
        if contains:
            query = query.where(table.c.name.contains(contains, autoescape=True))
        if requested_by:
            query = query.where(table.c.requested_by == requested_by)
        if version is not None:
            query = query.where(table.c.version == version)
        if state == "open":
            query = query.where(table.c.state == "open", table.c.created_at >= oldest)
        elif state == "expired":
            query = query.where(table.c.state == "open", table.c.created_at < oldest)
        elif state is not None:
            query = query.where(table.c.state == state)
        query = query.order_by(table.c.created_at.desc(), table.c.request_id)
        found = connection.execute(query.offset(offset).limit(limit + 1)).mappings().all()
        ids = [row["request_id"] for row in found[:limit]]
        said: dict[str, list[str]] = {}
        for row in connection.execute(
            select(answers.c.request_id, answers.c.user_name)
            .where(answers.c.request_id.in_(ids))
            .order_by(answers.c.at)
        ):
            said.setdefault(row.request_id, []).append(row.user_name)
        applied = set(connection.execute(select(applying).where(applying.in_(ids))).scalars())
    rows = [
        _request(
            dict(row),
            tuple(said.get(row["request_id"], ())),
            oldest=oldest,
            applies=row["request_id"] in applied,
        )
        for row in found[:limit]
    ]
    return Page(rows, offset, len(found) > limit)


def _version(row: Mapping[str, Any]) -> VersionSummary:
    return VersionSummary(
        name=row["name"],
        version=row["version"],
        agent=row["agent"],
        agent_digest=row["agent_digest"],
        content_digest=row["content_digest"],
        author=row["author"],
        author_verified=bool(row["author_verified"]),
        created_at=datetime.fromisoformat(row["created_at"]),
    )


def _request(
    row: Mapping[str, Any], said: tuple[str, ...], *, oldest: str, applies: bool
) -> RequestSummary:
    state = str(row["state"])
    return RequestSummary(
        request_id=row["request_id"],
        name=row["name"],
        version=row["version"],
        slot=row["slot"],
        state="expired" if state == "open" and row["created_at"] < oldest else state,
        requested_by=row["requested_by"],
        verified=bool(row["verified"]),
        comment=row["comment"],
        created_at=datetime.fromisoformat(row["created_at"]),
        closed_by=row["closed_by"],
        reason=row["reason"] or "",
        approvals=said,
        applies=applies,
    )
