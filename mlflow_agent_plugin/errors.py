"""Every error of the package, grouped by whose fault it is.

Each says where (file, line or field), what is wrong, and what to do. They do not import mlflow;
where one leaves through an MLflow surface (a served model, the registry store), `as_mlflow` turns
it into an `MlflowException` with the matching error code, so that a client sees one line and the
right HTTP status, never a stack trace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from mlflow.exceptions import MlflowException


class AgentError(Exception):
    """Base of every error this package raises on purpose.

    Args:
        problem: What is wrong, one sentence.
        where: File, line or field the problem is in.
        hint: What to do about it.
    """

    error_code: ClassVar[str] = "INTERNAL_ERROR"

    def __init__(self, problem: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.problem = problem
        self.where = where
        self.hint = hint
        text = problem if where is None else f"{where}: {problem}"
        if hint is not None:
            text = f"{text.rstrip('.')}. {hint}"
        super().__init__(text)

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive pickling between processes with all three parts."""
        return (_rebuild, (type(self), self.problem, self.where, self.hint, self.__dict__))


def _rebuild(
    kind: type[AgentError],
    problem: str,
    where: str | None,
    hint: str | None,
    state: dict[str, Any],
) -> AgentError:
    error = kind.__new__(kind)
    AgentError.__init__(error, problem, where=where, hint=hint)
    error.__dict__.update(state)
    return error


def as_mlflow(error: AgentError) -> MlflowException:
    """Return the `MlflowException` a client of MLflow should see for `error`."""
    from mlflow.exceptions import MlflowException  # noqa: PLC0415 - import cost
    from mlflow.protos.databricks_pb2 import ErrorCode  # noqa: PLC0415

    more = {}
    if isinstance(error, _RetryAfter) and error.retry_after_seconds is not None:
        # Stands in the body beside code and message: the scoring server lets no header through.
        more["retry_after_seconds"] = error.retry_after_seconds
    # By number: a name is not accepted there and would turn every error into an internal one.
    return MlflowException(str(error), error_code=ErrorCode.Value(error.error_code), **more)


# --- The author's bundle -------------------------------------------------------------------------


class BundleError(AgentError):
    """The bundle directory is missing, unreadable or inconsistent."""

    error_code = "INVALID_PARAMETER_VALUE"


class ManifestError(BundleError):
    """`agent.yaml` does not follow its schema."""


class ContractError(BundleError):
    """A tool contract is malformed, or an incompatible change came without a major version."""


class PromptError(BundleError):
    """A prompt is missing, or uses a variable nobody provides."""


class PolicyError(BundleError):
    """A policy does not parse, validate, lint or pass its own tests."""


class GraphError(BundleError):
    """The graph's entry point is missing or does not build."""


class PlannerError(BundleError):
    """The local planner or its playbook is missing, malformed or untrained."""


class KnowledgeError(BundleError):
    """The knowledge base is missing, empty or unreadable."""


# --- The caller's request ------------------------------------------------------------------------


class RequestError(AgentError):
    """The request has the wrong shape, is empty or too large."""

    error_code = "INVALID_PARAMETER_VALUE"


class NotFoundError(AgentError):
    """The named rollout, deployment or trace does not exist, or is another tenant's."""

    error_code = "RESOURCE_DOES_NOT_EXIST"


class SessionNotFoundError(AgentError):
    """The named session does not exist for this actor."""

    error_code = "RESOURCE_DOES_NOT_EXIST"


class SessionBusyError(AgentError):
    """Another worker is running this session's turn."""

    error_code = "RESOURCE_CONFLICT"


class IdentityError(AgentError):
    """A token is missing, forged or expired."""

    error_code = "UNAUTHENTICATED"


class ToolCallError(AgentError):
    """A tool call broke its contract or the tool failed; the message says which side is wrong."""

    error_code = "INVALID_PARAMETER_VALUE"


class ApprovalError(AgentError):
    """An approval does not exist, expired, was answered, or is not this person's to give."""

    error_code = "RESOURCE_CONFLICT"


class _RetryAfter:
    """Part of errors that end by waiting.

    Attributes:
        retry_after_seconds: When trying again makes sense; None: waiting does not help.
    """

    def __init__(
        self,
        problem: str,
        *,
        where: str | None = None,
        hint: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        AgentError.__init__(self, problem, where=where, hint=hint)  # type: ignore[arg-type]
        self.retry_after_seconds = retry_after_seconds


class QuotaExceededError(_RetryAfter, AgentError):
    """A quota of the tenant, the user or the session is used up."""

    error_code = "RESOURCE_EXHAUSTED"


class BudgetExceededError(_RetryAfter, AgentError):
    """A turn or a session has used up its budget of tokens, money or time."""

    error_code = "RESOURCE_EXHAUSTED"


class ToolRateLimitedError(_RetryAfter, AgentError):
    """Raised by a tool: the service behind it refused for now, and nothing happened there.

    Give it the service's own ``Retry-After`` as `retry_after_seconds`.
    """

    error_code = "RESOURCE_EXHAUSTED"


class ToolUnavailableError(_RetryAfter, AgentError):
    """Raised by a tool: the service behind it is out of order, and nothing happened there."""

    error_code = "TEMPORARILY_UNAVAILABLE"


# --- Governance says no --------------------------------------------------------------------------


class GateRefusedError(AgentError):
    """The gate refused a change to a protected stage or alias.

    Attributes:
        report: The gate report as a dictionary (see `registry.gate.GateReport.to_dict`), or None.
    """

    error_code = "PERMISSION_DENIED"

    def __init__(
        self,
        problem: str,
        *,
        where: str | None = None,
        hint: str | None = None,
        report: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(problem, where=where, hint=hint)
        self.report = report


class StoppedError(AgentError):
    """An operator has stopped this agent, this tool or this tenant."""

    error_code = "TEMPORARILY_UNAVAILABLE"


class IntegrityError(AgentError):
    """Content is not what its digest or signature says."""

    error_code = "PERMISSION_DENIED"


class EvidenceError(AgentError):
    """Evidence is missing, forged, stale or about other content."""

    error_code = "PERMISSION_DENIED"


# --- The environment -----------------------------------------------------------------------------


class ConfigError(AgentError):
    """A setting has a value that makes no sense."""

    error_code = "INVALID_PARAMETER_VALUE"


class CredentialError(AgentError):
    """A tool's credential is missing, refused or over; the message never holds a secret."""

    error_code = "PERMISSION_DENIED"


class StoreError(AgentError):
    """The runtime store cannot be read or written; callers treat it as a "no"."""

    error_code = "TEMPORARILY_UNAVAILABLE"


class LimitsUnavailableError(AgentError):
    """The server that counts quotas does not answer; callers treat it as a "no"."""

    error_code = "TEMPORARILY_UNAVAILABLE"


class SpoolError(AgentError):
    """The local spool of telemetry cannot be used, or is full and set to stop the agent."""

    error_code = "TEMPORARILY_UNAVAILABLE"


# --- Evaluation, drift, pipelines ----------------------------------------------------------------


class SuiteError(AgentError):
    """A suite or scenario is malformed or names things the agent does not have."""

    error_code = "INVALID_PARAMETER_VALUE"


class DataError(AgentError):
    """A data set is missing, has the wrong checksum or fails its expectations."""

    error_code = "INVALID_PARAMETER_VALUE"


class DriftInputError(AgentError):
    """Reference or current data cannot support a drift verdict."""

    error_code = "INVALID_PARAMETER_VALUE"


class PipelineError(AgentError):
    """A pipeline stage failed, or another run holds the pipeline."""

    error_code = "RESOURCE_CONFLICT"


class LeaseLostError(PipelineError):
    """The lease this work was begun under went to somebody else; the work was stopped."""


# --- The agent at run time -----------------------------------------------------------------------


class AgentRunError(AgentError):
    """The agent's graph or model failed; the audit has the details under the request id."""

    error_code = "INTERNAL_ERROR"


class UngovernedToolCallError(AgentError):
    """Bundle code tried to run a tool past the gateway."""

    error_code = "PERMISSION_DENIED"
