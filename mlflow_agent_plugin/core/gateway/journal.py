"""The audit of one call: what is said before its effect, and what is said after.

Rules:
- A decision is on record, durably, before anything else happens because of it. Until then it waits
  here, to share a transaction with what it leads to: the request for an approval, the claim and
  the start of a tool, or the refusal.
- A tool's start is told with the decision that let it start, as one event: what is durable before
  an effect is one event, and one after it.
- The session state a call came from is saved with the first of them (`core.unsaved`).
- A call's end is recorded once, in one transaction with its ledger entry.
- That a credential was lent is recorded with the call's end: scope and source, never a value. The
  start names the scopes, for a call whose worker died meanwhile.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from mlflow_agent_plugin.core.gateway.contracts import MAX_CALL_ID_CHARS
from mlflow_agent_plugin.entities import (
    CallStatus,
    Decision,
    PolicyRequest,
    Spelled,
    ToolCall,
    ToolCallRecord,
    canonical_json,
    read_canonical,
    sha256_digest,
)
from mlflow_agent_plugin.entities.sensitive import mask_value
from mlflow_agent_plugin.store.driver import UnexpectedRowsError
from mlflow_agent_plugin.trust import AuditKind, AuditSubject, Credential

if TYPE_CHECKING:
    from types import TracebackType

    from mlflow_agent_plugin.core.gateway.governance import Governance
    from mlflow_agent_plugin.core.turn import Turn
    from mlflow_agent_plugin.trust import AuditTransaction, CallRefusedError

MAX_AUDITED_BYTES = 8192
"""Larger arguments are audited by their digest."""

_Noted = tuple[AuditKind, AuditSubject, dict[str, Any]]

_Written = TypeVar("_Written")

AuditWrite = Callable[["AuditTransaction", bool], _Written]
"""Writes what has to be in the same transaction as the events.

It is told whether it may be optimistic: take what is usual for granted, without waiting for the
database to say so. It may run twice, then not optimistic, after nothing of the first time was
written.
"""


class CallJournal:
    """Audits one call.

    Args:
        trust: Its audit, and the privacy filter for what a refusal says.
        call: The call as the model sent it, or as a reviewer edited it since.
        turn: The turn it belongs to.
        agent: Agent name.
        agent_digest: Digest of the bundle.

    Attributes:
        decision: The last decision about the call, None before the first.
    """

    def __init__(
        self, trust: Governance, call: ToolCall, turn: Turn, *, agent: str, agent_digest: str
    ) -> None:
        self.call = call
        self.decision: Decision | None = None
        self._canonical: bytes | None = None
        self._edited: dict[str, Any] = {}
        self._audit = trust.audit
        self._privacy = trust.privacy
        self._turn = turn
        self._agent = agent
        self._agent_digest = agent_digest
        self._credentials: dict[str, str] = {}
        self._pending: list[_Noted] = []
        self._record: ToolCallRecord | None = None
        self._starts: dict[str, Any] | None = None

    def decided(
        self, decision: Decision, request: PolicyRequest, *, approval_id: str | None = None
    ) -> None:
        """Note a decision; the next transaction records it."""
        self.decision = decision
        body = {
            "decision": decision.to_dict(),
            "provenance": dict(request.provenance),
            "session": dict(request.session),
            "approval_id": approval_id,
            "edited": sorted(self._edited),
        }
        self._pending.append((AuditKind.TOOL_CALL_DECIDED, self._subject, body))

    def accepted(self, canonical: bytes) -> None:
        """Note the canonical JSON of the arguments, so that it need not be made again."""
        self._canonical = canonical

    def edited(self, call: ToolCall, edited: Mapping[str, Any]) -> None:
        """Go on with the call as a reviewer edited it.

        Args:
            call: The call as records are told of it.
            edited: The arguments he put.
        """
        self.call = call
        self._canonical = None
        self._edited = dict(edited)
        self.__dict__.pop("_subject", None)

    def transaction(
        self, *, starting: bool = False
    ) -> AbstractContextManager[AuditTransaction, bool | None]:
        """Record what was noted, and in the same transaction whatever the block writes.

        A block that raises leaves what was noted for the next transaction.

        Args:
            starting: The block may say that the tool `starts`: the last decision is recorded at
                its end, with that.
        """
        self._starts = None
        return _Recording(self, starting=starting)

    def transact(self, write: AuditWrite[_Written], *, starting: bool = False) -> _Written:
        """Run `write` in a `transaction`, and once more if it was too optimistic."""
        try:
            with self.transaction(starting=starting) as transaction:
                return write(transaction, True)  # noqa: FBT003 - named where it is defined
        except UnexpectedRowsError:
            with self.transaction(starting=starting) as transaction:
                return write(transaction, False)  # noqa: FBT003 - named where it is defined

    def record_decisions(self) -> None:
        """Record what was noted, now."""
        if self._pending:
            with self.transaction():
                pass

    def lent(self, credential: Any) -> None:
        """Note what the tool got for its scopes; the call's end records it."""
        if isinstance(credential, Credential):
            self._credentials = credential.providers

    def starts(self, **facts: Any) -> None:
        """Say in a `starting` transaction that the tool starts when it has committed."""
        self._starts = facts

    def ended(
        self,
        *,
        output: Spelled | None = None,
        refusal: CallRefusedError | None = None,
        seconds: float = 0.0,
        also: AuditWrite[None] | None = None,
    ) -> ToolCallRecord:
        """Record what became of the call, and return it; later calls only return it.

        Args:
            output: What the tool gave, as the model will see it; None with a refusal.
            refusal: Why the call ended otherwise.
            seconds: Time spent in the tool.
            also: Writes the ledger's entry.
        """
        if self._record is not None:
            return self._record
        record = self._record_of(output, refusal, seconds)
        facts = {
            "status": record.status.value,
            "error": self._turn.audited(record.error),
            "output_digest": None if output is None else sha256_digest(output.text),
            "seconds": round(seconds, 6),
            **({"credentials": self._credentials} if self._credentials else {}),
        }

        def write(transaction: AuditTransaction, optimistic: bool) -> None:  # noqa: FBT001
            if also is not None:
                also(transaction, optimistic)
            transaction.append(AuditKind.TOOL_CALL_FINISHED, self._subject, **facts)

        self.transact(write)
        self._record = record
        return record

    def _record_of(
        self,
        output: Spelled | None,
        refusal: CallRefusedError | None,
        seconds: float,
    ) -> ToolCallRecord:
        decision = self.decision
        return ToolCallRecord(
            call_id=self.call.call_id,
            tool=self.call.tool,
            arguments=dict(self.call.arguments),
            status=CallStatus.EXECUTED if refusal is None else refusal.status,
            decision="" if decision is None else decision.value.value,
            policy_ids=() if decision is None else decision.policy_ids,
            output=None if output is None else output.value,
            error=None if refusal is None else f"{refusal.kind}: {self.told(refusal)}",
            seconds=seconds,
            edited={} if refusal else self._edited,
            retry_after_seconds=None if refusal is None else refusal.retry_after_seconds,
        )

    def told(self, refusal: CallRefusedError) -> str:
        """Return what may be said of why the call was refused: it may quote tool or arguments."""
        return self._privacy.told(refusal.message, session_id=self._turn.session_id)

    @cached_property
    def _subject(self) -> AuditSubject:
        turn = self._turn
        about = turn.subjects.get((self._agent, self._agent_digest))
        if about is None:
            about = turn.subjects[self._agent, self._agent_digest] = AuditSubject(
                request_id=turn.request_id,
                session_id=turn.session_id,
                actor=turn.actor,
                agent=self._agent,
                agent_digest=self._agent_digest,
            )
        return about.narrowed(
            call_id=self.call.call_id[:MAX_CALL_ID_CHARS],
            tool=self.call.tool[:256],
            arguments=auditable_arguments(
                self.call.arguments, turn.audited, canonical=self._canonical
            ),
        )


class _Recording(AbstractContextManager["AuditTransaction", "bool | None"]):
    """A transaction that saves a turn's state and records what was noted of a call."""

    def __init__(self, journal: CallJournal, *, starting: bool) -> None:
        self._journal = journal
        self._starting = starting
        self._saving = journal._turn.unsaved.saving()  # noqa: SLF001 - same module
        self._block = journal._audit.transaction()  # noqa: SLF001 - same module

    def __enter__(self) -> AuditTransaction:
        save = self._saving.__enter__()
        self._transaction = transaction = self._block.__enter__()
        noted = self._journal._pending  # noqa: SLF001 - same module
        try:
            save(transaction.connection)
            for kind, subject, body in noted[:-1] if self._starting else noted:
                transaction.append(kind, subject, **body)
        except BaseException:
            self._leave(*sys.exc_info())
            raise
        return transaction

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and self._starting:
            try:
                self._record_start()
            except BaseException:
                self._leave(*sys.exc_info())
                raise
        self._leave(kind, error, trace)
        if kind is None:
            self._journal._pending.clear()  # noqa: SLF001 - same module

    def _leave(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A state that saves nothing has nothing to undo: it need not be told of a failed commit.
        self._block.__exit__(kind, error, trace)
        self._saving.__exit__(kind, error, trace)

    def _record_start(self) -> None:
        """Record the last decision, and that the tool starts if it does."""
        noted = self._journal._pending  # noqa: SLF001 - same module
        assert noted, "a tool starts without a decision"
        kind, subject, body = noted[-1]
        starts = self._journal._starts  # noqa: SLF001 - same module
        if starts is None:
            self._transaction.append(kind, subject, **body)
        else:
            self._transaction.append(kind, subject, **body, starts=starts)


def auditable_arguments(
    arguments: Mapping[str, Any],
    audited: Callable[[Any], Any] = mask_value,
    *,
    canonical: bytes | None = None,
) -> Any:
    """Return arguments as the audit holds them: masked; large or deep ones by their digest.

    `canonical` is their canonical JSON, if it was made already.
    """
    try:
        text = canonical or canonical_json(dict(arguments))
    except (ValueError, TypeError, RecursionError):
        return {"unreadable": True}
    if len(text) > MAX_AUDITED_BYTES:
        return {"digest": sha256_digest(text), "bytes": len(text)}
    try:
        return audited(read_canonical(text))
    except RecursionError:  # spelling a value takes fewer frames than masking it
        return {"digest": sha256_digest(text), "bytes": len(text)}
