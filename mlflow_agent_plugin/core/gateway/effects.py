"""Runs a permitted call's tool, at most once where that matters.

Rules:
- The call's decisions, its claim, the use of its approval and its start are on record in one
  transaction before the tool runs, which also extends the session's lease; its end and its ledger
  entry are in one transaction after it.
- A write, and a read that needed an approval, is claimed in the ledger. A call that ended is
  replayed; one whose outcome is unknown runs again only if it may be repeated.
- A tool that says it failed had no effect; any other way not to end leaves the call in doubt.
- The ledger keeps what the model may see, so that a replay shows no more than the first time, and
  whether that was refused. Both were judged when the tool ran: a replay does not check a filtered
  output against the contract of the unfiltered one. What a person said of a call in doubt was never
  judged, so it is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.core.context import ToolContext
from mlflow_agent_plugin.core.gateway.refusals import refuse_if_it_breaks
from mlflow_agent_plugin.core.tool_runner import OutcomeUnknownError, ToolFailedError
from mlflow_agent_plugin.entities import (
    CallStatus,
    Clock,
    Effect,
    Spelled,
    ToolCall,
    ToolCallRecord,
    sha256_digest,
)
from mlflow_agent_plugin.errors import ApprovalError, CredentialError, ToolCallError
from mlflow_agent_plugin.trust import CallRefusedError, ClaimStatus

if TYPE_CHECKING:
    from types import TracebackType

    from sqlalchemy import Connection

    from mlflow_agent_plugin.core.gateway.contracts import ContractChecks
    from mlflow_agent_plugin.core.gateway.governance import Governance
    from mlflow_agent_plugin.core.gateway.journal import AuditWrite, CallJournal
    from mlflow_agent_plugin.core.tool_runner import ToolRunner
    from mlflow_agent_plugin.core.turn import Turn
    from mlflow_agent_plugin.information import KnowledgeIndex
    from mlflow_agent_plugin.package import ToolContract
    from mlflow_agent_plugin.trust import (
        Approval,
        AuditTransaction,
        Claim,
        CredentialLender,
        GovernedCall,
    )

_logger = logging.getLogger(__name__)

ExtendLease = Callable[["Turn", float, "Connection"], None]
"""Called with (turn, seconds, connection) in the transaction before a tool that may take so long.

Raises `SessionBusyError` if the turn has lost its session: nothing of the transaction happens then.
"""


class EffectRunner:
    """Runs tools so that each call takes effect at most once.

    Args:
        governance: Ledger, approvals, credentials and privacy filter.
        contracts: Check what a tool gives.
        runner: Runs the functions.
        resources: Handed to every tool.
        knowledge: Handed to every tool.
        extend_lease: See `ExtendLease`.
    """

    def __init__(
        self,
        governance: Governance,
        contracts: ContractChecks,
        runner: ToolRunner,
        *,
        resources: Any,
        knowledge: KnowledgeIndex | None,
        extend_lease: ExtendLease,
        clock: Clock,
    ) -> None:
        self._trust = governance
        self._contracts = contracts
        self._runner = runner
        self._resources = resources
        self._knowledge = knowledge
        self._extend_lease = extend_lease
        self._clock = clock

    def run(
        self,
        governed: GovernedCall,
        turn: Turn,
        journal: CallJournal,
        *,
        canonical: bytes,
        approval: Approval | None = None,
        action_digest: str = "",
    ) -> ToolCallRecord:
        """Run the tool, record its end, and return what became of the call.

        Args:
            governed: The permitted call.
            turn: The turn it belongs to.
            journal: The call's audit.
            canonical: Canonical JSON of the arguments the tool gets.
            approval: The approval it runs under, None if it needs none.
            action_digest: Of the call at hand; with `approval`, to use it up.

        Raises:
            CallRefusedError: It failed, or is in doubt; that is on record.
        """
        contract = governed.contract
        lease_seconds = (contract.timeout_seconds + 30) * contract.retry.attempts
        if contract.effect is Effect.READ and approval is None:
            with journal.transaction(starting=True) as transaction:
                self._extend_lease(turn, lease_seconds, transaction.connection)
                journal.starts(**_rights(contract))
            return self._call(governed, journal, canonical, claimed=False)
        digest = sha256_digest(canonical)

        def start(transaction: AuditTransaction, optimistic: bool) -> Claim:  # noqa: FBT001
            self._extend_lease(turn, lease_seconds, transaction.connection)
            # A replayed call's approval is used up already: first the claim has to be known.
            optimistic = optimistic and approval is None
            claim = self._claim(governed, turn, digest, transaction, optimistic=optimistic)
            if claim.status is not ClaimStatus.DONE:
                again = claim.status is ClaimStatus.IN_DOUBT
                if approval is not None and not again:
                    self._use_up(approval, action_digest, transaction)
                journal.starts(**_rights(contract), again=again)
            return claim

        claim = journal.transact(start, starting=True)
        if claim.status is ClaimStatus.DONE:
            return self._replay(governed, journal, claim)
        return self._call(governed, journal, canonical, claimed=True)

    def _call(
        self, governed: GovernedCall, journal: CallJournal, canonical: bytes, *, claimed: bool
    ) -> ToolCallRecord:
        started = time.perf_counter()
        try:
            with _Loan(self._trust.credentials, governed) as credential:
                journal.lent(credential)
                given = self._runner.run(
                    governed.contract,
                    self._tool_context(governed, credential),
                    canonical,
                )
        except OutcomeUnknownError as error:
            refusal = _in_doubt(governed.call, f" ({error})")
            journal.ended(refusal=refusal)
            raise refusal from error
        except (ToolFailedError, CallRefusedError) as error:
            refusal = error if isinstance(error, CallRefusedError) else _failed(governed, error)
            fail = self._failing(governed, journal.told(refusal)) if claimed else None
            journal.ended(refusal=refusal, also=fail)
            raise refusal from error
        seconds = time.perf_counter() - started
        shown, problem = self._shown(governed, given)
        told = None if problem is None else journal.told(problem)
        end = self._finishing(governed, shown, told) if claimed else None
        if problem is not None:
            journal.ended(refusal=problem, also=end)
            raise problem
        return journal.ended(output=shown, seconds=seconds, also=end)

    def _shown(
        self, governed: GovernedCall, given: Spelled
    ) -> tuple[Spelled, CallRefusedError | None]:
        """Return what the model may see of an output, and what is wrong with it.

        The tool has run: nothing here may look as if it had not.
        """
        try:
            with refuse_if_it_breaks("the privacy filter"):
                filtered = self._trust.privacy.output(governed, given.value)
                shown = given if filtered is given.value else Spelled.of(filtered)
        except CallRefusedError as refusal:
            return Spelled.of({"unusable_output": refusal.message}), refusal
        try:
            self._contracts.check_output(governed.call.tool, given.value)
        except CallRefusedError as refusal:
            return shown, refusal
        return shown, None

    def _replay(self, governed: GovernedCall, journal: CallJournal, claim: Claim) -> ToolCallRecord:
        if claim.error is not None:
            raise CallRefusedError(CallStatus.FAILED, "failed", claim.error)
        output = Spelled.of(claim.result)
        if claim.resolved_by is not None:
            output, problem = self._shown(governed, output)
            if problem is not None:
                raise problem
        return journal.ended(output=output)

    def _claim(
        self,
        governed: GovernedCall,
        turn: Turn,
        arguments_digest: str,
        transaction: AuditTransaction,
        *,
        optimistic: bool,
    ) -> Claim:
        """Claim the call; the claim is "in doubt" only if it was taken over, to run again."""
        ledger, contract = self._trust.ledger, governed.contract
        try:
            claim = ledger.claim(
                governed.key,
                tool=governed.call.tool,
                arguments_digest=arguments_digest,
                owner=turn.owner,
                connection=transaction.connection,
                optimistic=optimistic,
            )
        except ToolCallError as error:
            raise CallRefusedError(CallStatus.INVALID, "invalid", str(error)) from error
        if claim.status is ClaimStatus.IN_DOUBT:
            if not (contract.idempotent or contract.effect is Effect.READ):
                raise _in_doubt(governed.call)
            if claim.owner == turn.owner:
                # The same call twice in one step: the other one runs at this moment.
                raise _in_doubt(governed.call, " yet: this turn is at it already")
            try:
                ledger.take_over(
                    governed.key,
                    owner=turn.owner,
                    previous=claim,
                    connection=transaction.connection,
                )
            except ToolCallError as error:
                raise _in_doubt(governed.call, " and somebody else is at it") from error
        return claim

    def _use_up(
        self, approval: Approval, action_digest: str, transaction: AuditTransaction
    ) -> None:
        try:
            self._trust.approvals.mark_executed(
                approval.approval_id, action_digest=action_digest, transaction=transaction
            )
        except ApprovalError as error:
            raise CallRefusedError(CallStatus.REJECTED, "rejected", str(error)) from error

    def _failing(self, governed: GovernedCall, message: str) -> AuditWrite[None]:
        return lambda transaction, optimistic: self._trust.ledger.fail(
            governed.key, message, connection=transaction.connection, optimistic=optimistic
        )

    def _finishing(
        self, governed: GovernedCall, output: Spelled, problem: str | None
    ) -> AuditWrite[None]:
        return lambda transaction, optimistic: self._trust.ledger.finish(
            governed.key,
            output.value,
            problem=problem,
            spelled=output.text,
            connection=transaction.connection,
            optimistic=optimistic,
        )

    def _tool_context(self, governed: GovernedCall, credential: Any) -> ToolContext:
        return ToolContext(
            actor=governed.actor,
            session_id=governed.call.session_id,
            idempotency_key=governed.key,
            resources=self._resources,
            knowledge=self._knowledge,
            now=self._clock(),
            credential=credential,
        )


class _Loan(AbstractContextManager[Any, "bool | None"]):
    """A lent credential; a failure before the tool is a refusal, one after it is logged."""

    def __init__(self, credentials: CredentialLender, governed: GovernedCall) -> None:
        self._credentials = credentials
        self._governed = governed

    def __enter__(self) -> Any:
        try:
            self._loan = self._credentials.lend(self._governed)
            return self._loan.__enter__()  # noqa: PLC2801 - entering and leaving fail differently
        except CredentialError as error:
            raise ToolFailedError(str(error)) from None
        except Exception as error:
            # Its text may hold what was to be lent: neither shown nor logged.
            kind = type(error).__name__
            raise ToolFailedError(f"its credential could not be had ({kind})") from None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._loan.__exit__(kind, error, trace)
        except Exception as failure:
            if failure is not error:
                _logger.warning(
                    "call %s: its credential stays out (%s)",
                    self._governed.key,
                    type(failure).__name__,
                )


def _rights(contract: ToolContract) -> dict[str, Any]:
    """What the audit says of a tool that starts."""
    rights: dict[str, Any] = {"effect": contract.effect.value}
    return {**rights, "scopes": list(contract.scopes)} if contract.scopes else rights


def _failed(governed: GovernedCall, error: ToolFailedError) -> CallRefusedError:
    tool, wait = governed.call.tool, error.retry_after_seconds
    if wait is None:
        return CallRefusedError(CallStatus.FAILED, "failed", f"{tool!r} failed: {error}")
    return CallRefusedError(
        CallStatus.LIMITED,
        "limited",
        f"the service behind {tool!r} refuses for now: {error}",
        retry_after_seconds=wait,
    )


def _in_doubt(call: ToolCall, why: str = "") -> CallRefusedError:
    return CallRefusedError(
        CallStatus.IN_DOUBT,
        "in_doubt",
        f"it is unknown whether {call.tool!r} took effect{why}; a human has to look",
    )
