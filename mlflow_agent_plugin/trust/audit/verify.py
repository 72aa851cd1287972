"""Checking an audit: what was changed, removed, reordered or cut off, and where first.

Detected, with the row named:
- a changed field: the row's hash no longer fits;
- a removed or inserted row: the chain's numbers or links do not fit;
- reordered rows: a writer's row numbers do not grow with its sequence;
- a rewritten chain with fresh hashes: it misses a signed checkpoint;
- a cut-off tail that a checkpoint had sealed, a whole writer that is gone, a writer nobody signed;
- forged, removed or reordered checkpoints; a checkpoint by a revoked or unknown key;
- with an anchor (a checkpoint noted elsewhere): everything cut off before that checkpoint.

Not detected, and why:
- events after a writer's last checkpoint can be rewritten or cut off by whoever may write the
  database and drop its triggers (on sqlite a plain DELETE still shows in the row numbers);
- the newest checkpoints together with all events they seal can be cut off, unless an anchor from
  after them was kept elsewhere;
- whoever holds a trusted signing key can write a new history. Keep anchors outside of his reach.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import Connection, select, text

from mlflow_agent_plugin.store.engine import Store
from mlflow_agent_plugin.store.tables import audit_checkpoints, audit_events
from mlflow_agent_plugin.trust.audit.chain import (
    CHECKPOINT_GENESIS,
    HEADER_FIELDS,
    checkpoint_hash,
    decode_signature,
    event_hash,
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

_NULLABLE = frozenset(column.name for column in audit_events.columns if column.nullable)


def verify_audit(
    store: Store,
    *,
    trusted_keys: Mapping[str, Ed25519PublicKey] | None = None,
    anchor: AuditAnchor | None = None,
) -> AuditVerification:
    """Check every event and checkpoint of a store.

    Args:
        store: The store.
        trusted_keys: Public keys by key id that may sign checkpoints; default: this machine's and
            those it trusts for audit.
        anchor: A checkpoint noted earlier outside of the store, which must still be there.

    Raises:
        StoreError: The store cannot be read.
    """
    keys = KeyStore().trusted_keys(KeyPurpose.AUDIT) if trusted_keys is None else trusted_keys
    with store.read() as connection:
        check = AuditCheck(keys)
        checkpoints = connection.execution_options(yield_per=1000).execute(
            select(audit_checkpoints).order_by(audit_checkpoints.c.number)
        )
        check.read_checkpoints(row._mapping for row in checkpoints)  # noqa: SLF001
        check.check_anchor(anchor)
        events = connection.execution_options(yield_per=1000).execute(
            select(audit_events).order_by(
                audit_events.c.writer, audit_events.c.seq, audit_events.c.position
            )
        )
        check.read_events(row._mapping for row in events)  # noqa: SLF001
        if store.dialect == "sqlite":
            given = _rows_given(connection)
            if given is not None:
                check.check_rows_given(given)
    return check.result()


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


class AuditCheck:
    """The check itself, on rows from wherever: no I/O.

    Give it the checkpoints first, in order of number, then the events, in order of writer and
    sequence; then ask for the result.

    Args:
        keys: Public keys by key id that may sign checkpoints.
    """

    def __init__(self, keys: Mapping[str, Ed25519PublicKey]) -> None:
        self._keys = keys
        self._problems: list[AuditProblem] = []
        self._events = 0
        self._writers = 0
        self._checkpoints = 0
        self._unsealed = 0
        self._largest_position = 0
        self._checkpoint_hashes: dict[int, str] = {}
        # Writer to what valid checkpoints say: sequence number to hash.
        self._sealed: dict[str, dict[int, str]] = {}

    def read_checkpoints(self, rows: Iterable[Mapping[Any, Any]]) -> None:
        """Check the chain and the signatures of checkpoints."""
        expected, previous = 1, CHECKPOINT_GENESIS
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
                self._sealed.setdefault(row["writer"], {})[int(row["seq"])] = row["head_hash"]
            else:
                self._add(AuditDefect.FORGED_CHECKPOINT, name, f"{name} {reason}")
            self._checkpoint_hashes[number] = row["hash"]
            expected, previous = number + 1, row["hash"]

    def _distrust(self, row: Mapping[Any, Any], own_hash: str) -> str | None:
        if row["hash"] != own_hash:
            return "was changed"
        key = self._keys.get(row["key_id"])
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
        """Check the writers' chains, and that they lead to what the checkpoints sealed."""
        writer = ""
        seq, head, position, sealed = 0, "", 0, 0
        for row in rows:
            self._events += 1
            typed = _is_typed(row, ("seq", "position"))
            if not typed and not _is_typed(
                {field: row[field] for field in ("writer", "seq", "position")},
                ("seq", "position"),
            ):
                name = f"{row['writer']}-{row['seq']}"
                self._add(AuditDefect.CHANGED, name, f"event {name} was changed")
                continue
            if row["writer"] != writer:
                self._end_writer(writer, seq, sealed)
                writer = str(row["writer"])
                self._writers += 1
                seq, head, position, sealed = 0, genesis(writer), 0, 0
            name = f"{writer}-{row['seq']}"
            at = int(row["position"])
            self._largest_position = max(self._largest_position, at)
            if row["seq"] > seq + 1:
                missing = f"{writer}-{seq + 1}"
                self._add(AuditDefect.REMOVED, missing, f"event {missing} is gone", at)
            elif row["seq"] < seq + 1:
                self._add(AuditDefect.REORDERED, name, f"event {name} is there twice", at)
            if at <= position:
                self._add(AuditDefect.REORDERED, name, f"event {name} stands out of order", at)
            header = {field: row[field] for field in HEADER_FIELDS}
            if not typed or row["hash"] != event_hash(header, row["body"], row["prev_hash"]):
                self._add(AuditDefect.CHANGED, name, f"event {name} was changed", at)
            elif row["seq"] == seq + 1 and row["prev_hash"] != head:
                self._add(
                    AuditDefect.CHANGED, name, f"event {name} does not follow the one before", at
                )
            seal = self._sealed.get(writer, {}).pop(int(row["seq"]), None)
            if seal is not None:
                sealed = int(row["seq"])
                if seal != row["hash"]:
                    self._add(
                        AuditDefect.CHANGED,
                        name,
                        f"event {name}, or one before it, is not what a checkpoint sealed",
                        at,
                    )
            seq, head, position = int(row["seq"]), str(row["hash"]), max(position, at)
        self._end_writer(writer, seq, sealed)
        for gone, seals in self._sealed.items():
            missing = f"{gone}-1"
            self._add(
                AuditDefect.TRUNCATED,
                missing,
                f"every event of writer {gone} is gone (a checkpoint sealed {max(seals)})",
            )

    def _end_writer(self, writer: str, seq: int, sealed: int) -> None:
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
        problems = sorted(self._problems, key=lambda problem: problem.position)
        return AuditVerification(
            ok=not problems,
            events=self._events,
            writers=self._writers,
            checkpoints=self._checkpoints,
            unsealed=self._unsealed,
            first_bad=problems[0].row if problems else None,
            problems=tuple(problems[:MAX_PROBLEMS]),
        )

    def _add(self, defect: AuditDefect, row: str, message: str, position: int = AT_END) -> None:
        self._problems.append(AuditProblem(defect, row, message, position))
