"""Checking a whole registry: rows, history, pointers, copies, and what the audit tells of.

    from mlflow_agent_plugin.registry import verify_registry

    print(verify_registry())        # in a process that holds the registry (agents+… URI)

Single rows are checked whenever they are used; this finds what nobody has used yet, and what is not
there any more although the audit tells of it. It reads only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.errors import AgentError, RequestError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from sqlalchemy import Connection

_MOVES = {
    "version_promoted": "promoted or overridden",
    "version_rolled_back": "rolled back",
    "slot_emptied": "emptied",
}


@dataclass(frozen=True)
class RegistryVerification:
    """What `verify_registry` found.

    Attributes:
        checked: Number of things looked at, by kind.
        problems: One sentence each; empty if all is in order.
    """

    checked: dict[str, int]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """True if nothing is wrong."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {"ok": self.ok, "checked": dict(self.checked), "problems": list(self.problems)}

    def __str__(self) -> str:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.checked.items()))
        return "\n".join([f"checked: {counts or 'nothing'}", *(self.problems or ("no problems",))])


def verify_registry(client: MlflowClient | None = None) -> RegistryVerification:
    """Check everything the gated registry keeps.

    Args:
        client: MLflow client on an ``agents+`` database; default: MLflow's current registry.

    Raises:
        RequestError: This process does not hold a gated registry.
        StoreError: The audit cannot be read.
    """
    from mlflow_agent_plugin.registry.api import _client, _own_store

    store = _own_store(_client(client))
    if store is None:
        raise RequestError(
            "this process does not hold a gated registry",
            hint="Use a registry URI that starts with agents+ and names the database.",
        )
    checked: Counter[str] = Counter()
    problems: list[str] = []
    with store._transactions.reading() as connection:  # noqa: SLF001 - the registry's own
        for kind, check in _checks(connection, store):
            checked[kind] += 1
            try:
                check()
            except AgentError as error:
                problems.append(str(error))
    problems += _missing(store)
    return RegistryVerification(dict(checked), tuple(problems))


def _checks(connection: Connection, store: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    from sqlalchemy import select

    from mlflow_agent_plugin.entities import utc_now
    from mlflow_agent_plugin.registry import tables
    from mlflow_agent_plugin.registry.records import Records
    from mlflow_agent_plugin.registry.seal import Sealer

    sealer = Sealer()
    sealed = (
        tables.gates,
        tables.versions,
        tables.evidence,
        tables.revocations,
        tables.requests,
        tables.applies,
        tables.answers,
        tables.comments,
    )
    for table in sealed:
        columns = [column for column in table.c if column.name != "results"]
        for row in connection.execute(select(*columns)).mappings().all():
            yield "rows", lambda t=table, r=dict(row): sealer.check(t.name, r)  # type: ignore[misc]
    for row in connection.execute(select(tables.evidence)).mappings():
        yield "evidence", lambda r=dict(row): _check_evidence(r)  # type: ignore[misc]
    gates = connection.execute(select(tables.gates)).mappings().all()
    for gate in gates:
        records = Records(connection, gate["workspace"], now=utc_now())
        yield "histories", lambda r=records, n=gate["name"]: r.history(n)  # type: ignore[misc]
        yield "slots", lambda r=records, n=gate["name"]: _check_slots(r, n)  # type: ignore[misc]
    contents = select(tables.versions.c.content_digest).distinct()
    for digest in connection.execute(contents).scalars():
        yield "copies", lambda d=digest: _check_copy(store, d)  # type: ignore[misc]


def _check_evidence(row: dict[str, Any]) -> None:
    from mlflow_agent_plugin.entities import sha256_digest
    from mlflow_agent_plugin.errors import EvidenceError
    from mlflow_agent_plugin.registry.measures import read_measures, unpack

    try:
        if ":" not in row["suite"]:
            read_measures(bytes(row["results"]), row["results_digest"])
        elif sha256_digest(unpack(bytes(row["results"]))) != row["results_digest"]:
            raise EvidenceError("the stored table is not the one that was recorded")
    except AgentError as error:
        raise type(error)(
            error.problem, where=f"evidence of {row['name']} on {row['suite']}, run {row['run_id']}"
        ) from error


def _check_slots(records: Any, name: str) -> None:
    from mlflow_agent_plugin.registry.running import check_pointers

    check_pointers(records, name, None)


def _check_copy(store: Any, digest: str) -> None:
    from mlflow_agent_plugin.errors import IntegrityError

    problem = store._vault.problem(digest)  # noqa: SLF001 - the registry's own
    if problem is not None:
        raise IntegrityError(problem, where=f"content {digest[:19]}…")


def _missing(store: Any) -> Iterator[str]:
    """Say what the audit tells of and the tables do not hold."""
    from sqlalchemy import func, select

    from mlflow_agent_plugin.registry import tables

    events = store._transactions.audit.events()  # noqa: SLF001 - the registry's own
    with store._transactions.reading() as connection:  # noqa: SLF001
        v, e, h = tables.versions.c, tables.evidence.c, tables.history.c
        known = connection.execute(select(v.workspace, v.name, v.epoch, v.version)).all()
        versions = {tuple(row) for row in known}
        held = Counter(
            tuple(row)
            for row in connection.execute(select(e.workspace, e.name, e.suite, e.results_digest))
        )
        entries = {
            (row[0], row[1], row[2]): row[3]
            for row in connection.execute(
                select(h.workspace, h.name, h.slot, func.count()).group_by(
                    h.workspace, h.name, h.slot
                )
            )
        }
        r = tables.revocations.c
        revoked = {tuple(row) for row in connection.execute(select(r.workspace, r.name, r.run_id))}
    told: Counter[tuple[Any, ...]] = Counter()
    moves: Counter[tuple[Any, ...]] = Counter()
    for event in events:
        body = event.body
        where = (body.get("workspace"), body.get("model"))
        if event.kind == "version_registered":
            if (*where, body.get("epoch"), body.get("version")) not in versions:
                yield f"{where[1]}: version {body.get('version')} was registered, its row is gone"
        elif event.kind in {"evidence_recorded", "drift_detected"} and "suite" in body:
            told[(*where, body.get("suite"), body.get("results_digest"))] += 1
        elif event.kind == "evidence_revoked":
            if (*where, body.get("run_id")) not in revoked:
                run = body.get("run_id")
                yield f"{where[1]}: evidence of run {run} was revoked, its row is gone"
        elif event.kind in _MOVES:
            moves[(*where, body.get("slot"))] += 1
    for key, count in told.items():
        if held[key] < count:
            yield f"{key[1]}: evidence on suite {key[2]} was recorded, its row is gone"
    for slot, count in moves.items():
        if entries.get(slot, 0) < count:
            yield f"{slot[1]}: {slot[2]} was changed {count} times, its history tells of fewer"
