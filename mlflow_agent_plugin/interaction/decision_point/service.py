"""Answers "may this call run?" for an enforcement point that is not this process.

Rules:
- Two people are in every request. The caller is the enforcement point: it shows a signed actor
  token, has the role for it, and is believed about the session and where arguments came from. The
  subject is who the call is for: a token of his own, or nobody in particular. Both belong to one
  tenant.
- The environment and the time are this process's, never the caller's to say.
- A call that does not fit its tool's contract is a denial, like everything the engine cannot
  decide.
- An answer is given only after it was recorded; if it cannot be, there is no answer.
- Whatever goes wrong is a `ServiceError` with an HTTP status; an enforcement point treats
  everything but a 200 that says ``allow`` as a no.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError

from mlflow_agent_plugin.core.gateway.journal import auditable_arguments
from mlflow_agent_plugin.entities import (
    ANONYMOUS,
    Actor,
    Clock,
    Decision,
    DecisionValue,
    PolicyRequest,
    utc_now,
)
from mlflow_agent_plugin.errors import AgentError, IdentityError
from mlflow_agent_plugin.package.manifest import StrictModel
from mlflow_agent_plugin.trust import (
    AuditKind,
    AuditLog,
    CedarPolicyEngine,
    KeyPurpose,
    KeyStore,
    actor_from_token,
)

if TYPE_CHECKING:
    from mlflow_agent_plugin.package import Bundle

CALLER_ROLE = "policy-enforcement"
"""Role a caller's token must carry, unless another one is chosen."""


class ServiceError(Exception):
    """A request that gets no decision.

    Attributes:
        status: HTTP status.
        code: One word for programs.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    def to_dict(self) -> dict[str, Any]:
        """Return the answer's body."""
        return {"error": {"code": self.code, "message": str(self)}}


class SessionFacts(StrictModel):
    """What the caller keeps about the conversation."""

    calls: int = Field(ge=0, le=2**53)
    turn: int = Field(ge=0, le=2**53)
    untrusted_seen: bool


class DecideRequest(StrictModel):
    """One question.

    Attributes:
        actor_token: Signed token of whom the call is for; None: nobody in particular.
        provenance: Argument to where its value came from; an argument without one is denied.
    """

    tool: str = Field(min_length=1, max_length=256)
    arguments: dict[str, Any]
    session_id: str = Field(min_length=1, max_length=256)
    call_id: str = Field(min_length=1, max_length=256)
    request_id: str | None = Field(default=None, max_length=256)
    actor_token: str | None = None
    session: SessionFacts
    provenance: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class DecisionService:
    """Decides for one agent.

    Attributes:
        bundle: The agent.
        engine: Its policies.
        audit: Records every decision.
        keys: Whose tokens are believed.
        environment: Policies see it as ``context.session.environment``.
        caller_role: Role an enforcement point must have.
        clock: Source of time.
    """

    bundle: Bundle
    engine: CedarPolicyEngine
    audit: AuditLog
    keys: KeyStore
    environment: str
    caller_role: str = CALLER_ROLE
    clock: Clock = utc_now

    def about(self) -> dict[str, Any]:
        """Return which agent this decides for."""
        return {
            "agent": self.bundle.manifest.name,
            "agent_digest": self.bundle.digest.value,
            "policy_digest": self.engine.digest,
        }

    def decide(self, body: bytes, authorization: str | None) -> dict[str, Any]:
        """Return the recorded decision about the call in `body`.

        Raises:
            ServiceError: There is no decision.
        """
        caller, asked, subject, request = self._read(body, authorization)
        decision = self._misfit(asked) or self.engine.decide(request)
        try:
            event_id = self.audit.append(
                AuditKind.TOOL_CALL_DECIDED,
                request_id=asked.request_id,
                session_id=asked.session_id,
                actor=subject,
                agent=self.bundle.manifest.name,
                agent_digest=self.bundle.digest.value,
                call_id=asked.call_id,
                tool=asked.tool,
                arguments=auditable_arguments(asked.arguments),
                decision=decision.to_dict(),
                provenance=dict(asked.provenance),
                session=dict(request.session),
                decision_point="http",
                caller=caller.to_dict(),
            )
        except AgentError as error:
            raise ServiceError(
                503, "not_recorded", "the decision could not be recorded, so there is none"
            ) from error
        told = decision.to_dict()
        return {"decision": told.pop("value"), **told, "decision_id": event_id, **self.about()}

    def explain(self, body: bytes, authorization: str | None) -> dict[str, Any]:
        """Return which policies matched the call in `body` and what would change the answer.

        Nothing is decided by it, so nothing is recorded; raises as `decide`.
        """
        *_, request = self._read(body, authorization)
        return self.engine.explain(request).to_dict()

    def _read(
        self, body: bytes, authorization: str | None
    ) -> tuple[Actor, DecideRequest, Actor, PolicyRequest]:
        caller = self._caller(authorization)
        asked = _parse(body)
        subject = ANONYMOUS
        if asked.actor_token is not None:
            subject = self._actor(asked.actor_token, "actor_token")
            if subject.tenant != caller.tenant:
                raise ServiceError(403, "forbidden", "actor_token is of another tenant")
        request = PolicyRequest(
            actor=subject,
            agent=self.bundle.manifest.name,
            tool=asked.tool,
            arguments=asked.arguments,
            session={
                "environment": self.environment,
                "now": int(self.clock().timestamp()),
                **asked.session.model_dump(),
            },
            provenance=asked.provenance,
        )
        return caller, asked, subject, request

    def _caller(self, authorization: str | None) -> Actor:
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise ServiceError(401, "unauthenticated", "send Authorization: Bearer <actor token>")
        caller = self._actor(token.strip(), "Authorization")
        if self.caller_role not in caller.roles:
            raise ServiceError(
                403, "forbidden", f"the caller does not have the role {self.caller_role}"
            )
        return caller

    def _actor(self, token: str, where: str) -> Actor:
        try:
            return actor_from_token(
                token, self.keys.trusted_keys(KeyPurpose.ACTORS), clock=self.clock
            )
        except IdentityError as error:
            raise ServiceError(401, "unauthenticated", f"{where}: {error.problem}") from error
        except AgentError as error:
            raise ServiceError(503, "unavailable", "the trusted keys cannot be read") from error

    def _misfit(self, asked: DecideRequest) -> Decision | None:
        from jsonschema import Draft202012Validator  # noqa: PLC0415 - import cost
        from jsonschema.exceptions import best_match  # noqa: PLC0415

        contract = self.bundle.contracts.get(asked.tool)
        if contract is None:
            return None  # the engine says so
        try:
            found = best_match(Draft202012Validator(contract.input).iter_errors(asked.arguments))
        except RecursionError:
            return _denied("the arguments are nested too deeply")
        if found is None:
            return None
        # Where, not what: messages of the validator hold values.
        place = ".".join(str(part)[:64] for part in found.absolute_path) or "arguments"
        return _denied(f"the call does not fit the tool's contract at {place} ({found.validator})")


def _denied(text: str) -> Decision:
    return Decision(DecisionValue.DENY, reason=f"Denied: {text}.", errors=(text,))


def _parse(body: bytes) -> DecideRequest:
    try:
        document = json.loads(body, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ServiceError(400, "malformed", "the body is not plain JSON") from error
    if not isinstance(document, Mapping):
        raise ServiceError(400, "malformed", "the body is not a JSON object")
    try:
        return DecideRequest.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part)[:64] for part in first["loc"])
        raise ServiceError(400, "malformed", f"{place}: {first['msg']}") from error
    except RecursionError as error:
        raise ServiceError(400, "malformed", "the body is nested too deeply") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Readers disagree about which of two equal keys counts; what was decided must be what runs.
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
