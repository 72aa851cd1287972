"""One governed tool call, and the parts that may have a say in it.

The gateway asks these at fixed places (see `core.gateway`). Each is optional: where nothing is
configured, nothing is limited, lent or filtered.

Rules:
- A part says no by raising `CallRefusedError`; any other exception of a part ends the call too,
  without an effect: a broken part is a no.
- A part sees the call as it will run. It cannot change tool, arguments or actor; only a
  `PrivacyFilter` may replace texts, and policies decide on what the tool will get.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mlflow_agent_plugin.entities import Actor, CallStatus, PrivacyPlace, ToolCall
from mlflow_agent_plugin.entities.sensitive import mask_value
from mlflow_agent_plugin.errors import AgentError

if TYPE_CHECKING:
    from mlflow_agent_plugin.package.contract import ToolContract
    from mlflow_agent_plugin.trust.credentials import Credential


class CallRefusedError(AgentError):
    """A tool call ends here; the model, the user and the records are told why.

    Args:
        status: What became of the call.
        kind: One word the model can act on: ``denied``, ``invalid``, ``failed``, ``limited`` …
        message: One sentence, safe to show: no secret, no stack trace.
        retry_after_seconds: When the same call may be tried again, if that is known.
    """

    error_code = "PERMISSION_DENIED"

    def __init__(
        self,
        status: CallStatus,
        kind: str,
        message: str,
        *,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True)
class GovernedCall:
    """A call that fits its contract, with who asks and what it is for.

    Attributes:
        call: Tool, arguments, session and call id.
        contract: The tool's contract: effect, scopes, cost, rate.
        actor: On whose behalf.
        agent: Agent name.
        agent_digest: Digest of the bundle.
        request_id: Id of the turn in audit and trace.
    """

    call: ToolCall
    contract: ToolContract
    actor: Actor
    agent: str
    agent_digest: str
    request_id: str

    @property
    def key(self) -> str:
        """The call's key in the ledger, ``<session id>:<call id>``; its idempotency key."""
        return f"{self.call.session_id}:{self.call.call_id}"


class CallGuard(Protocol):
    """Limits calls: quota, concurrency, circuit breaker, kill switch."""

    def admit(self, governed: GovernedCall) -> AbstractContextManager[None]:
        """Let one permitted call through, or refuse it.

        Entered after policy and approval, before the effect is claimed: raise `CallRefusedError`
        to refuse. Left when the call has ended: with None if it ran (or an earlier result was
        replayed), else with the `CallRefusedError` that ended it (``failed``, ``in_doubt`` …; its
        ``__cause__`` is what the tool raised). Settle there; do not swallow it.
        """
        ...


class CredentialLender(Protocol):
    """Lends a tool the credential its contract's scopes ask for, for one call."""

    def lend(self, governed: GovernedCall) -> AbstractContextManager[Credential | None]:
        """Yield what the tool gets as ``context.credential``; revoke or drop it when left.

        Entered after the claim and its before-event; raising says that the tool did not run.
        """
        ...


class NoCredentials:
    """Nothing is configured: tools get None."""

    def lend(self, governed: GovernedCall) -> AbstractContextManager[Credential | None]:
        """Yield None."""
        del governed
        return nullcontext(None)


class PrivacyFilter(Protocol):
    """Replaces personal data and secrets in texts on their way in and out.

    Every method gets the session's id, so that a replacement can be undone within it.
    """

    def user_text(self, text: str, *, session_id: str) -> str:
        """Return what the model may see of a user's message."""
        ...

    def arguments(self, governed: GovernedCall) -> Mapping[str, Any]:
        """Return the arguments the tool gets (true values for tokens), of the same shape."""
        ...

    def output(self, governed: GovernedCall, output: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what the model may see of a tool's output; it still has to fit the contract."""
        ...

    def told(self, text: str, *, session_id: str) -> str:
        """Return what the model may see of a message about a call, e.g. why it failed."""
        ...

    def retrieved(self, text: str, *, session_id: str) -> str:
        """Return what the model may see of a passage of the knowledge base."""
        ...

    def answer(self, text: str, *, session_id: str) -> str:
        """Return what the user may see of the agent's answer."""
        ...

    @property
    def answers_stream(self) -> bool:
        """Whether pieces of an answer may be shown before the whole of it is known."""
        ...

    @property
    def screens_passages(self) -> bool:
        """Whether `retrieved` does anything."""
        ...

    def recorded(self, place: PrivacyPlace, value: Any) -> Any:
        """Return a JSON value as a trace or the audit may hold it."""
        ...


class NoPrivacyFilter:
    """Nothing is configured: texts pass unchanged."""

    def user_text(self, text: str, *, session_id: str) -> str:
        """Return `text`."""
        del session_id
        return text

    def arguments(self, governed: GovernedCall) -> Mapping[str, Any]:
        """Return the arguments as the model sent them."""
        return governed.call.arguments

    def output(self, governed: GovernedCall, output: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return `output`."""
        del governed
        return output

    def told(self, text: str, *, session_id: str) -> str:
        """Return `text`."""
        del session_id
        return text

    def retrieved(self, text: str, *, session_id: str) -> str:
        """Return `text`."""
        del session_id
        return text

    def answer(self, text: str, *, session_id: str) -> str:
        """Return `text`."""
        del session_id
        return text

    @property
    def answers_stream(self) -> bool:
        """They do."""
        return True

    @property
    def screens_passages(self) -> bool:
        """It does not."""
        return False

    def recorded(self, place: PrivacyPlace, value: Any) -> Any:
        """Return `value` with everything masked that records never hold."""
        del place
        return mask_value(value)
