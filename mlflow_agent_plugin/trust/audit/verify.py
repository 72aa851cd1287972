"""Checking an audit: what was changed, removed, reordered or cut off, and where first.

Detected, with the row named:
- a changed field: the row's hash no longer fits;
- a removed or inserted row: the chain's numbers or links do not fit;
- reordered rows: a writer's row numbers do not grow with its sequence;
- a rewritten chain with fresh hashes: it misses a signed checkpoint;
- a cut-off tail that a checkpoint had sealed, a whole writer that is gone, a writer nobody signed;
- forged, removed or reordered checkpoints; a checkpoint by an unknown key, or by a revoked one
  unless a trusted key signed a later one: who took over vouches for what he found, and nothing
  before that can be changed any more, not even by the thief of the old key;
- with an anchor (a checkpoint noted elsewhere): everything cut off before that checkpoint.

Not detected, and why:
- events after a writer's last checkpoint can be rewritten or cut off by whoever may write the
  database and drop its triggers (on sqlite a plain DELETE still shows in the row numbers);
- the newest checkpoints together with all events they seal can be cut off, unless an anchor from
  after them was kept elsewhere;
- row numbers can be exchanged between writers as long as each writer's rows stay in order: no chain
  runs across writers, so what was first among them is for the (hashed) times to say;
- whoever holds a trusted signing key can write a new history. Keep anchors outside of his reach.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import Connection, select, text

from mlflow_agent_plugin.store.engine import Store
from mlflow_agent_plugin.store.tables import audit_checkpoints, audit_events
from mlflow_agent_plugin.trust.audit.chain import (
    CHECKPOINT_GENESIS,
    HEADER_FIELDS,
    RowHasher,
    checkpoint_hash,
    decode_signature,
    genesis,
)
from mlflow_agent_plugin.trust.audit.verification import (
    AT_END,
    MAX_PROBLEMS,
    AuditAnchor,
    AuditDefect,
    AuditProblem,
    AuditVerification,
)
from mlflow_agent_plugin.trust.keys import KeyPurpose, KeyStore, verify_signature

EVENT_COLUMNS = (*HEADER_FIELDS, "body", "prev_hash", "hash", "position")
"""An event's columns in the order they are hashed, then its hash and its row number."""

_WRITER, _SEQ, _PREVIOUS, _HASH, _POSITION = map(
    EVENT_COLUMNS.index, ("writer", "seq", "prev_hash", "hash", "position")
)
_EVENTS = (
    f"SELECT {', '.join(EVENT_COLUMNS)} FROM {audit_events.name} "  # noqa: S608 - constants
    "ORDER BY writer, seq, position"
)
_NULLABLE = frozenset(column.name for column in audit_events.columns if column.nullable)


def verify_audit(
    store: Store,
    *,
    trusted_keys: Mapping[str, Ed25519PublicKey] | None = None,
    revoked_keys: Mapping[str, Ed25519PublicKey] | None = None,
    anchor: AuditAnchor | None = None,
) -> AuditVerification:
    """Check every event and checkpoint of a store.

    Args:
        store: The store.
        trusted_keys: Public keys by key id that may sign checkpoints; default: this machine's and
            those it trusts for audit.
        revoked_keys: Keys whose checkpoints count only if a trusted key signed a later one; default
            (with that of `trusted_keys`): those this machine revoked.
        anchor: A checkpoint noted earlier outside of the store, which must still be there.

    Raises:
        StoreError: The store cannot be read.
    """
    keys, revoked = trusted_keys, revoked_keys
    if keys is None:
        known = KeyStore()
        keys = known.trusted_keys(KeyPurpose.AUDIT)
        revoked = known.revoked_keys(KeyPurpose.AUDIT) if revoked is None else revoked
    with store.read() as connection:
        check = AuditCheck(keys, revoked or {})
        checkpoints = connection.execution_options(yield_per=1000).execute(
            select(audit_checkpoints).order_by(audit_checkpoints.c.number)
        )
        check.read_checkpoints(row._mapping for row in checkpoints)  # noqa: SLF001
        check.check_anchor(anchor)
        check.read_rows(_events(connection))
        if store.dialect == "sqlite":
            given = _rows_given(connection)
            if given is not None:
                check.check_rows_given(given)
    return check.result()


def _events(connection: Connection) -> Iterable[Sequence[Any]]:
    # Most of what a check would cost otherwise is SQLAlchemy: its language, and on sqlite its rows.
    if connection.dialect.name == "sqlite":
        raw: Any = connection.connection.driver_connection
        rows: Iterable[Sequence[Any]] = raw.execute(_EVENTS)
        return rows
    events = connection.execution_options(stream_results=True).exec_driver_sql(_EVENTS)
    return chain.from_iterable(events.partitions(1000))


def _rows_given(connection: Connection) -> int | None:
    # SQLite hands out every row number once, and takes it back with a rolled-back transaction.
    row = connection.execute(
        text("SELECT seq FROM sqlite_sequence WHERE name = :name"), {"name": audit_events.name}
    ).first()
    return int(row[0]) if row is not None and isinstance(row[0], int) else None


def _is_typed(row: Mapping[Any, Any], numbers: tuple[str, ...]) -> bool:
    """Say whether a row has the types its columns say; SQLite does not insist on them."""
    for name, value in row.items():
        if name in numbers:
            usable = isinstance(value, int) and not isinstance(value, bool)
        else:
            usable = isinstance(value, str) or (value is None and name in _NULLABLE)
        if not usable:
            return False
    return True


def _has_a_place(row: Sequence[Any]) -> bool:
    """Say whether a row of odd types still says where in which chain it stands."""
    return isinstance(row[_WRITER], str) and all(
        isinstance(row[at], int) and not isinstance(row[at], bool) for at in (_SEQ, _POSITION)
    )


class AuditCheck:
    """The check itself, on rows from wherever: no I/O.

    Give it the checkpoints first, in order of number, then the events, in order of writer and
    sequence; then ask for the result.

    Args:
        keys: Public keys by key id that may sign checkpoints.
        revoked: Keys that could, until they were revoked.
    """

    def __init__(
        self,
        keys: Mapping[str, Ed25519PublicKey],
        revoked: Mapping[str, Ed25519PublicKey] | None = None,
    ) -> None:
        self._keys = keys
        self._revoked = revoked or {}
        self._problems: list[AuditProblem] = []
        self._events = 0
        self._writers = 0
        self._checkpoints = 0
        self._unsealed = 0
        self._largest_position = 0
        self._checkpoint_hashes: dict[int, str] = {}
        # Writer to what valid checkpoints say: sequence number to hash.
        self._sealed: dict[str, dict[int, str]] = {}
        self._sealed_by: dict[tuple[str, int], int] = {}

    def read_checkpoints(self, rows: Iterable[Mapping[Any, Any]]) -> None:
        """Check the chain and the signatures of checkpoints."""
        expected, previous = 1, CHECKPOINT_GENESIS
        unvouched: list[Mapping[Any, Any]] = []
        for row in rows:
            self._checkpoints += 1
            if not _is_typed(row, ("number", "seq")):
                name = f"checkpoint {row['number']}"
                self._add(AuditDefect.FORGED_CHECKPOINT, name, f"{name} was changed")
                continue
            number = int(row["number"])
            name = f"checkpoint {number}"
            if number != expected:
                self._add(
                    AuditDefect.REMOVED, f"checkpoint {expected}", f"checkpoint {expected} is gone"
                )
            elif row["prev_hash"] != previous:
                self._add(
                    AuditDefect.FORGED_CHECKPOINT, name, f"{name} does not follow the one before"
                )
            names = ("number", "writer", "seq", "head_hash", "ts", "key_id", "prev_hash")
            own_hash = checkpoint_hash(**{field: row[field] for field in names})
            reason = self._distrust(row, own_hash)
            if reason is None:
                if row["key_id"] in self._revoked:
                    unvouched.append(row)
                else:
                    unvouched.clear()
                self._sealed.setdefault(row["writer"], {})[int(row["seq"])] = row["head_hash"]
                self._sealed_by[row["writer"], int(row["seq"])] = number
            else:
                self._add(AuditDefect.FORGED_CHECKPOINT, name, f"{name} {reason}")
            self._checkpoint_hashes[number] = row["hash"]
            expected, previous = number + 1, row["hash"]
        for row in unvouched:
            name = f"checkpoint {row['number']}"
            self._add(
                AuditDefect.FORGED_CHECKPOINT,
                name,
                f"{name} is signed by a revoked key, and no trusted one signed after it "
                f"({row['key_id']})",
            )

    def _distrust(self, row: Mapping[Any, Any], own_hash: str) -> str | None:
        if row["hash"] != own_hash:
            return "was changed"
        key = self._keys.get(row["key_id"]) or self._revoked.get(row["key_id"])
        if key is None:
            return f"is signed by a key that is not trusted ({row['key_id']})"
        signature = decode_signature(row["signature"])
        if signature is None or not verify_signature(key, signature, own_hash.encode("ascii")):
            return "has a signature that does not fit"
        return None

    def check_anchor(self, anchor: AuditAnchor | None) -> None:
        """Check that a checkpoint noted elsewhere is still there."""
        if anchor is None or self._checkpoint_hashes.get(anchor.number) == anchor.hash:
            return
        name = f"checkpoint {anchor.number}"
        self._add(AuditDefect.TRUNCATED, name, f"{name}, noted elsewhere, is gone or another one")

    def read_events(self, rows: Iterable[Mapping[Any, Any]]) -> None:
        """Check events given by column; as `read_rows`."""
        self.read_rows(tuple(row[name] for name in EVENT_COLUMNS) for row in rows)

    def read_rows(self, rows: Iterable[Sequence[Any]]) -> None:
        """Check the writers' chains, and that they lead to what the checkpoints sealed.

        Args:
            rows: Events as `EVENT_COLUMNS`, in order of writer, sequence and position.
        """
        writer = ""
        seq, head, position, sealed = 0, "", 0, 0
        usual: set[tuple[type, ...]] = set()
        seals: dict[int, str] = {}
        row_hash = RowHasher()
        for row in rows:
            self._events += 1
            own, at, own_hash = row[_SEQ], row[_POSITION], row[_HASH]
            types = tuple(map(type, row))
            typed = types in usual
            if not typed:
                typed = _is_typed(dict(zip(EVENT_COLUMNS, row, strict=True)), ("seq", "position"))
                if typed:
                    usual.add(types)
                elif not _has_a_place(row):
                    name = f"{row[_WRITER]}-{own}"
                    self._add(AuditDefect.CHANGED, name, f"event {name} was changed")
                    continue
            if row[_WRITER] != writer:
                self._end_writer(writer, seq, sealed, position)
                writer = str(row[_WRITER])
                self._writers += 1
                seals = self._sealed.get(writer, {})
                seq, head, position, sealed = 0, genesis(writer), 0, 0
            self._largest_position = max(self._largest_position, at)
            hashed = typed and own_hash == row_hash(row)
            if not (hashed and own == seq + 1 and at > position and row[_PREVIOUS] == head):
                self._blame(row, seq, position, head, hashed=hashed)
            seal = seals.pop(own, None)
            if seal is not None:
                sealed = own
                if seal != own_hash:
                    name = f"{writer}-{own}"
                    self._add(
                        AuditDefect.CHANGED,
                        name,
                        f"event {name}, or one before it, is not what a checkpoint sealed",
                        at,
                    )
            seq, head, position = own, str(own_hash), max(position, at)
        self._end_writer(writer, seq, sealed, position)
        for gone, left in self._sealed.items():
            missing = f"{gone}-1"
            self._add(
                AuditDefect.TRUNCATED,
                missing,
                f"every event of writer {gone} is gone (a checkpoint sealed {max(left)})",
                order=self._sealed_by[gone, min(left)],
            )

    def _blame(
        self, row: Sequence[Any], seq: int, position: int, head: str, *, hashed: bool
    ) -> None:
        """Say what is wrong with a row that does not follow the one before."""
        writer, own, at = row[_WRITER], row[_SEQ], row[_POSITION]
        name = f"{writer}-{own}"
        if own > seq + 1:
            missing = f"{writer}-{seq + 1}"
            self._add(AuditDefect.REMOVED, missing, f"event {missing} is gone", at)
        elif own < seq + 1:
            self._add(AuditDefect.REORDERED, name, f"event {name} is there twice", at)
        if at <= position:
            self._add(AuditDefect.REORDERED, name, f"event {name} stands out of order", at)
        if not hashed:
            self._add(AuditDefect.CHANGED, name, f"event {name} was changed", at)
        elif own == seq + 1 and row[_PREVIOUS] != head:
            self._add(AuditDefect.CHANGED, name, f"event {name} does not follow the one before", at)

    def _end_writer(self, writer: str, seq: int, sealed: int, position: int) -> None:
        if not writer:
            return
        open_seals = self._sealed.pop(writer, {})
        later = [number for number in open_seals if number > seq]
        if later:
            missing = f"{writer}-{seq + 1}"
            self._add(
                AuditDefect.TRUNCATED,
                missing,
                f"event {missing} and later are gone (a checkpoint sealed {max(later)})",
                position,
                order=self._sealed_by[writer, min(later)],
            )
        elif sealed == 0:
            first = f"{writer}-1"
            self._add(
                AuditDefect.UNSIGNED_WRITER, first, f"no trusted key signed for writer {writer}"
            )
        self._unsealed += max(0, seq - sealed)

    def check_rows_given(self, given: int) -> None:
        """Check that as many rows are left as the database says it ever numbered."""
        if given == self._events == self._largest_position or self._problems:
            return
        self._add(
            AuditDefect.TRUNCATED,
            f"row {self._largest_position + 1}",
            f"{given} rows were written, {self._events} are left",
        )

    def result(self) -> AuditVerification:
        """Return what was found."""
        problems = sorted(self._problems, key=lambda problem: (problem.position, problem.order))
        return AuditVerification(
            ok=not problems,
            events=self._events,
            writers=self._writers,
            checkpoints=self._checkpoints,
            unsealed=self._unsealed,
            first_bad=problems[0].row if problems else None,
            problems=tuple(problems[:MAX_PROBLEMS]),
        )

    def _add(
        self,
        defect: AuditDefect,
        row: str,
        message: str,
        position: int = AT_END,
        *,
        order: int = 0,
    ) -> None:
        self._problems.append(AuditProblem(defect, row, message, position, order))
