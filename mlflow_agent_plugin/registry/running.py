"""How the gated store runs a change: as MLflow does, or through the desk.

Rules:
- Whether a model is gated is asked again under the lock; a model that becomes gated in between is
  treated as gated.
- Whatever is refused rolls the transaction back, leaves one audit event of its own, and reaches the
  client as an `MlflowException`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from urllib.parse import urlparse

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.validation import _validate_model_version
from sqlalchemy import text

from mlflow_agent_plugin.entities import Actor, utc_now
from mlflow_agent_plugin.errors import AgentError, IntegrityError, RequestError, as_mlflow
from mlflow_agent_plugin.package.slots import Slot
from mlflow_agent_plugin.registry import tables
from mlflow_agent_plugin.registry.caller import current_caller
from mlflow_agent_plugin.registry.content import AgentContent
from mlflow_agent_plugin.registry.desk import Desk
from mlflow_agent_plugin.registry.gate import evaluate
from mlflow_agent_plugin.registry.gathering import Keys, gather
from mlflow_agent_plugin.registry.places import may_read, resolve
from mlflow_agent_plugin.registry.pointers import Pointers
from mlflow_agent_plugin.registry.records import Gate, HistoryEntry, Records
from mlflow_agent_plugin.registry.report import GateReport
from mlflow_agent_plugin.registry.rules import default_rules
from mlflow_agent_plugin.registry.tags import TagBoard
from mlflow_agent_plugin.registry.transaction import Transactions, lock_model
from mlflow_agent_plugin.registry.vault import ContentNeededError, Vault
from mlflow_agent_plugin.registry.webhooks import Announcement, announce
from mlflow_agent_plugin.trust.audit import AuditKind

T = TypeVar("T")

# Asked at every call about any model: one statement, compiled once.
_GATED = text(
    f"SELECT name FROM {tables.gates.name} WHERE workspace = :w AND name = :n "  # noqa: S608 - our names
    f"UNION ALL SELECT name FROM {tables.versions.name} WHERE workspace = :w AND name = :n LIMIT 1"
)


class RunningStore(SqlAlchemyStore):  # type: ignore[misc]  # mlflow is untyped to us
    """MLflow's SQL registry store with a desk beside it; changes nothing by itself.

    Args:
        db_uri: SQLAlchemy URL of MLflow's registry database.
        read_db_uri: Of a read replica; decisions never read from it.
        tracking_uri: Where evaluation runs are read from, if not MLflow's current one.
    """

    def __init__(
        self, db_uri: str, read_db_uri: str | None = None, tracking_uri: str | None = None
    ) -> None:
        super().__init__(db_uri, read_db_uri=read_db_uri)
        self._tracking_uri = tracking_uri
        self._vault = Vault.beside(db_uri)
        stock_sessions: Any = self.ManagedSessionMaker  # type: ignore[has-type]  # mlflow is untyped
        self._transactions = Transactions(
            db_uri, self.engine, stock_sessions, utc_now, replica=bool(read_db_uri)
        )
        self.ManagedSessionMaker = self._join

    def _join(self, read_only: bool = True) -> Any:  # noqa: FBT001, FBT002 - MLflow's signature
        return self._transactions.session(read_only=read_only)

    def _change(
        self,
        operation: str,
        name: str,
        ordinary: Callable[[], T],
        governed: Callable[[Desk], T],
    ) -> T:
        """Run a change as MLflow does, or through the desk if the model is gated."""
        with self._transactions.ordinary() as session:
            lock_model(session, self._get_active_workspace(), name)
            if not self._is_gated(name):
                return ordinary()
        return self._governed(operation, name, governed)

    def _governed(
        self,
        operation: str,
        name: str,
        work: Callable[[Desk], T],
        *,
        content: AgentContent | None = None,
    ) -> T:
        try:
            with self._vault.for_one_decision() as vault:
                if content is not None:
                    vault.know(content)
                while True:
                    try:
                        result, told = self._decide(name, work, content, vault)
                        break
                    except ContentNeededError as needed:
                        vault.read(needed.digest)  # nothing is locked now
        except AgentError as error:
            raise self._refused(operation, name, error) from error
        except MlflowException:
            raise
        except Exception as error:
            raise MlflowException(
                f"{operation} failed: {type(error).__name__}: {error}", error_code=INTERNAL_ERROR
            ) from error
        announce(self, name, told)
        return result

    def _decide(
        self, name: str, work: Callable[[Desk], T], content: AgentContent | None, vault: Vault
    ) -> tuple[T, list[Announcement]]:
        """Run a change in one transaction; return its result and what webhooks are told.

        Raises:
            ContentNeededError: It has to be run again once that content was read.
        """
        workspace = self._get_active_workspace()
        told: list[Announcement] = []
        caller = current_caller(workspace)
        with self._transactions.governed() as transaction:
            lock_model(transaction.session, workspace, name)
            records = Records(transaction.connection, workspace, now=utc_now())
            pointers = Pointers(transaction.connection, workspace, name)
            if self._is_gated(name):
                gate = gate_of(records, name)
                check_spelling(gate.name, name)
            else:
                gate = self._new_gate(records, pointers, name, content, caller)
            result = work(
                Desk(
                    transaction=transaction,
                    records=records,
                    gate=gate,
                    caller=caller,
                    pointers=pointers,
                    vault=vault,
                    keys=Keys(),
                    tags=TagBoard(transaction.session, workspace, name),
                    move=lambda slot, version: self._move(name, slot, version),
                    told=told,
                )
            )
        return result, told

    def _new_gate(
        self,
        records: Records,
        pointers: Pointers,
        name: str,
        content: AgentContent | None,
        caller: Actor,
    ) -> Gate:
        if not pointers.model_exists():
            self.get_registered_model(name)  # MLflow says that it does not exist
        if content is None:
            raise RequestError(f"{name} is not an agent's model")
        return records.create_gate(name, content.rules or default_rules(), caller)

    def _move(self, name: str, slot: Slot, version: int | None) -> Any:
        """Change MLflow's rows; only the desk calls this, inside its transaction."""
        if slot.is_alias:
            if version is None:
                return super().delete_registered_model_alias(name, slot.name)
            return super().set_registered_model_alias(name, slot.name, version)
        if version is not None:
            return super().transition_model_version_stage(name, version, slot.name, True)
        session = self._transactions.joined
        assert session is not None
        found = Pointers(session.connection(), self._get_active_workspace(), name)
        for each in found.in_stage(slot.name):
            super().transition_model_version_stage(name, each, "Archived", False)
        return None

    def _refused(self, operation: str, name: str, error: AgentError) -> MlflowException:
        """Record a refusal and return what the client gets."""
        report = getattr(error, "report", None)
        with suppress(AgentError):  # what is refused stays refused, even if nobody can note it
            self._transactions.audit.append(
                AuditKind.GATE_DECIDED,
                actor=self._caller_or_nobody(),
                model=name[:300],
                workspace=self._get_active_workspace(),
                decision="refused",
                operation=operation,
                problem=str(error)[:2000],
                unmet=[]
                if report is None
                else [item["title"] for item in report["results"] if item["status"] != "met"],
            )
        return as_mlflow(error)

    def _caller_or_nobody(self) -> Actor:
        try:
            return current_caller(self._get_active_workspace())
        except AgentError:
            return Actor(user="unknown")

    def _is_gated(self, name: str) -> bool:
        """Say whether a model ever had an agent version, though its gate's row were gone."""
        return self._gated_name(name) is not None

    def _gated_name(self, name: str) -> str | None:
        """Return the gated model the database takes `name` for, None for an ordinary one."""
        with self._transactions.reading() as connection:
            found = connection.execute(_GATED, {"w": self._get_active_workspace(), "n": name})
            row = found.first()
        return None if row is None else str(row.name)

    def _location(self, source: str) -> str | None:
        """Return where the bytes of a version's source lie, None if that cannot be said."""
        try:
            if urlparse(source).scheme == "models":
                from mlflow.store.artifact.utils.models import _parse_model_uri

                parsed = _parse_model_uri(source)
                if parsed.model_id is None:
                    return str(self.get_model_version_download_uri(parsed.name, parsed.version))
            location = resolve(source, tracking_uri=self._tracking_uri)
        except Exception:  # MLflow's own method says what is wrong with it
            return None
        return location if may_read(location) else None

    @contextmanager
    def _reading(self, name: str) -> Iterator[Records | None]:
        """Give the registry's rows to read by, None for an ordinary model."""
        if not self._is_gated(name):
            yield None
            return
        try:
            with self._transactions.reading() as connection:
                yield Records(connection, self._get_active_workspace(), now=utc_now())
        except IntegrityError as error:
            raise as_mlflow(error) from error

    def _check_pointers(self, name: str, slots: list[str]) -> None:
        """Refuse to resolve a protected slot that MLflow's rows and the history see differently."""
        with self._reading(name) as records:
            if records is not None:
                check_pointers(records, name, slots)

    def _gate_report(self, name: str, version: Any, to: str) -> GateReport:
        number, slot = _validate_model_version(version), Slot.parse(to)
        try:
            with self._reading(name) as records:
                if records is None:
                    raise RequestError(f"{name} is not an agent's model")
                pointers = Pointers(records.connection, records.workspace, name)
                if not pointers.exists(number):
                    self.get_model_version(name, number)  # MLflow says that it does not exist
                candidate = gather(
                    records,
                    gate_of(records, name),
                    slot,
                    version=number,
                    incumbent=pointers.of(slot),
                    vault=self._vault,
                    keys=Keys(),
                )
        except AgentError as error:
            raise as_mlflow(error) from error
        return evaluate(candidate.requirements, candidate.facts)

    def _slot_history(self, name: str, slot: str | None) -> list[HistoryEntry]:
        with self._reading(name) as records:
            return [] if records is None else records.history(name, slot)


def check_spelling(known: str, given: str) -> None:
    """Refuse another spelling of a gated model's name, though the database took it for the same.

    Raises:
        RequestError: It is another one: what is signed and audited would be about no such model.
    """
    if given != known:
        raise RequestError(
            f"there is no model {given!r}; this database takes it for {known!r}",
            hint=f"Write {known}.",
        )


def gate_of(records: Records, name: str) -> Gate:
    """Return the gate of a model that is known to have one.

    Raises:
        IntegrityError: Its row is gone.
    """
    gate = records.gate(name)
    if gate is None:
        raise IntegrityError(
            "the gate's row was removed past the registry",
            where=name,
            hint="Restore it from a backup, and look at the audit.",
        )
    return gate


def check_pointers(records: Records, name: str, slots: Sequence[str] | None) -> None:
    """Check that MLflow's rows and the registry's history agree on protected slots.

    Args:
        records: The registry's rows.
        name: A gated model.
        slots: Which; None: all that are protected.

    Raises:
        IntegrityError: They do not: somebody changed the database past the registry.
    """
    gate = gate_of(records, name)
    for slot in gate.rules.slots():
        if slots is not None and str(slot) not in slots:
            continue
        now = Pointers(records.connection, records.workspace, name).of(slot)
        last = records.last_change(name, str(slot))
        known = None if last is None or last.epoch != gate.epoch else last.version
        if now != known:
            raise IntegrityError(
                f"{slot} points to version {now}, but the registry put version {known} there",
                where=name,
                hint="Somebody changed the database past the registry: look at the audit.",
            )
