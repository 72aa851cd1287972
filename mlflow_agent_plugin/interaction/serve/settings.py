"""What a front end is told when it starts; handed to its workers as one JSON text."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mlflow_agent_plugin.errors import ConfigError

VARIABLE = "MLFLOW_AGENTS_SERVE"
"""Environment variable in which the command hands the settings to its workers."""

AgentName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\w][\w.\-]*$")]


class OidcSettings(BaseModel):
    """Whose tokens are believed, and which claims mean what.

    Attributes:
        issuer: As the token's ``iss``; its discovery document names the keys.
        audience: As the token's ``aud``.
        user_claim: Claim with the user's stable name.
        tenant_claim: Claim with the tenant; a token without it is refused.
        roles_claim: Claim with a list of roles; dots go down into objects.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    issuer: Annotated[str, Field(pattern=r"^https?://")]
    audience: Annotated[str, Field(min_length=1)]
    user_claim: str = "sub"
    tenant_claim: str = "tenant"
    roles_claim: str = "roles"


class ServeSettings(BaseModel):
    """Settings of the front end.

    Attributes:
        agents: Name in requests to MLflow model URI.
        keys: File of API keys (see `serve.people`).
        oidc: OpenID Connect issuer, if one is used.
        anonymous: Answer requests without a credential, as the unverified anonymous actor.
        max_body_bytes: Longest request body.
        body_seconds: Longest time a request body may take to arrive.
        timeout_seconds: Longest time a client waits for one answer.
        max_concurrent: Turns that run at a time in one worker; more wait a moment, then get 503.
        follow_seconds: How often stages, aliases, rollouts and deployments are looked at; 0: never.
        deployments: Serve what operators deploy over the API too.
        grpc_address: ``host:port`` of the gRPC server beside HTTP, if there is one.
        shutdown_seconds: How long running calls over gRPC may take to finish at the end.
        operator_role: Who may start and stop rollouts and change deployments.
        labeller_role: Who may say over the API what a request really was.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    agents: dict[AgentName, str]
    keys: str | None = None
    oidc: OidcSettings | None = None
    anonymous: bool = False
    max_body_bytes: Annotated[int, Field(ge=1024)] = 1024 * 1024
    body_seconds: Annotated[float, Field(gt=0)] = 30.0
    timeout_seconds: Annotated[float, Field(gt=0)] = 120.0
    max_concurrent: Annotated[int, Field(ge=1)] = 16
    follow_seconds: Annotated[float, Field(ge=0)] = 5.0
    deployments: bool = False
    grpc_address: str | None = None
    shutdown_seconds: Annotated[float, Field(ge=0)] = 60.0
    operator_role: Annotated[str, Field(min_length=1)] = "operator"
    labeller_role: Annotated[str, Field(min_length=1)] = "labeller"

    @model_validator(mode="after")
    def _something_is_served(self) -> ServeSettings:
        if not self.agents and not self.deployments:
            raise ValueError("names no agent, and deployments are off")
        return self

    @classmethod
    def from_env(cls) -> ServeSettings:
        """Read what the command handed over.

        Raises:
            ConfigError: There is nothing, or nothing that makes sense.
        """
        text = os.environ.get(VARIABLE)
        if not text:
            raise ConfigError(
                "is not set", where=VARIABLE, hint="Start the front end with mlflow-agents serve."
            )
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ConfigError(first["msg"], where=f"{VARIABLE}: {where}") from error
