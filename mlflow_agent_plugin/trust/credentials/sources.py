"""The file that says where the secret of each scope comes from.

::

    apiVersion: mlflow-agents/v1
    credentials:
      - {scope: "orders:read", provider: environment, variable: ORDERS_TOKEN}
      - {scope: "mail:send", provider: file, path: /run/secrets/mail}
      - {scope: "refunds:write", provider: aws_secrets_manager, secret_id: "refunds/{tenant}"}
      - scope: "reports:read"
        provider: aws_sts
        role_arn: arn:aws:iam::123456789012:role/agent-reports
        session_policy: {Version: "2012-10-17", Statement: [...]}
      - scope: "ledger:read"
        provider: vault
        url: https://vault.example:8200
        path: database/creds/ledger
        mount: null
        login: {role_id: 6d1c…, secret_id_file: /run/secrets/vault}

Rules:
- It belongs to the place where the agent runs, not to the bundle: it holds no secret, and a bundle
  cannot choose which secret it gets.
- A scope that is not listed has the variable ``MLFLOW_AGENTS_CREDENTIAL_<SCOPE>`` as its source, if
  that is set (``orders:read`` → ``ORDERS_READ``), otherwise none: a tool that asks is told so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mlflow_agent_plugin.errors import ConfigError
from mlflow_agent_plugin.package.reading import read_yaml, validate_document
from mlflow_agent_plugin.trust.credentials.provider import (
    CredentialProvider,
    EnvironmentProvider,
    FileProvider,
)

VARIABLE_PREFIX = "MLFLOW_AGENTS_CREDENTIAL_"


class _Source(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    scope: str = Field(min_length=1, description="A scope of a tool contract")


class EnvironmentSource(_Source):
    """A variable of the process's environment."""

    provider: Literal["environment"]
    variable: str = Field(min_length=1)

    def open(self) -> CredentialProvider:
        """Return the provider."""
        return EnvironmentProvider(self.variable)


class FileSource(_Source):
    """A mounted file."""

    provider: Literal["file"]
    path: str = Field(min_length=1)

    def open(self) -> CredentialProvider:
        """Return the provider."""
        return FileProvider(self.path)


class SecretsManagerSource(_Source):
    """A secret in AWS Secrets Manager."""

    provider: Literal["aws_secrets_manager"]
    secret_id: str = Field(min_length=1)
    key: str | None = None
    region: str | None = None
    endpoint_url: str | None = None

    def open(self) -> CredentialProvider:
        """Return the provider."""
        from mlflow_agent_plugin.trust.credentials.aws import (  # noqa: PLC0415 - only where used
            SecretsManagerProvider,
        )

        return SecretsManagerProvider(**self.model_dump(exclude={"scope", "provider"}))


class AssumeRoleSource(_Source):
    """A role of AWS, for one call."""

    provider: Literal["aws_sts"]
    role_arn: str = Field(min_length=1)
    session_policy: dict[str, Any] | None = None
    duration_seconds: int = Field(default=900, ge=900, le=43200)
    region: str | None = None
    endpoint_url: str | None = None

    def open(self) -> CredentialProvider:
        """Return the provider."""
        from mlflow_agent_plugin.trust.credentials.aws import (  # noqa: PLC0415 - only where used
            AssumeRoleProvider,
        )

        return AssumeRoleProvider(**self.model_dump(exclude={"scope", "provider"}))


class VaultLoginSource(BaseModel):
    """A token file, or AppRole."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    token_file: str | None = None
    role_id: str | None = None
    secret_id_file: str | None = None

    @model_validator(mode="after")
    def _is_one_way(self) -> VaultLoginSource:
        token = self.token_file is not None
        role = self.role_id is not None and self.secret_id_file is not None
        some_role = self.role_id is not None or self.secret_id_file is not None
        if token == role or (token and some_role):
            raise ValueError("needs token_file, or role_id and secret_id_file")
        return self


class VaultSource(_Source):
    """A secret in HashiCorp Vault."""

    provider: Literal["vault"]
    url: str = Field(pattern=r"^https?://")
    path: str = Field(min_length=1)
    mount: str | None = "secret"
    login: VaultLoginSource
    namespace: str | None = None
    ca_file: str | None = None

    def open(self) -> CredentialProvider:
        """Return the provider."""
        from mlflow_agent_plugin.trust.credentials.vault import (  # noqa: PLC0415 - only where used
            VaultLogin,
            VaultProvider,
        )

        return VaultProvider(
            self.url,
            self.path,
            login=VaultLogin(**self.login.model_dump()),
            mount=self.mount,
            namespace=self.namespace,
            ca_file=self.ca_file,
        )


CredentialSource = Annotated[
    EnvironmentSource | FileSource | SecretsManagerSource | AssumeRoleSource | VaultSource,
    Field(discriminator="provider"),
]


class CredentialSources(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    api_version: Literal["mlflow-agents/v1"] = Field(alias="apiVersion")
    credentials: list[CredentialSource]

    @model_validator(mode="after")
    def _names_each_scope_once(self) -> CredentialSources:
        scopes = [source.scope for source in self.credentials]
        twice = sorted({scope for scope in scopes if scopes.count(scope) > 1})
        if twice:
            raise ValueError(f"scope {', '.join(twice)} has more than one source")
        return self


def read_sources(path: str | Path) -> CredentialSources:
    """Read the file at `path`.

    Raises:
        ConfigError: It is missing, is not YAML or does not follow the format.
    """
    document = read_yaml(Path(path).expanduser(), error=ConfigError)
    return validate_document(document, CredentialSources, error=ConfigError)


def open_providers(
    sources: CredentialSources | None, scopes: Iterable[str]
) -> dict[str, CredentialProvider]:
    """Return the provider of each of `scopes` that has one."""
    listed = {} if sources is None else {source.scope: source for source in sources.credentials}
    providers: dict[str, CredentialProvider] = {}
    for scope in scopes:
        variable = VARIABLE_PREFIX + re.sub(r"[^A-Z0-9]", "_", scope.upper())
        if scope in listed:
            providers[scope] = listed[scope].open()
        elif os.environ.get(variable):
            providers[scope] = EnvironmentProvider(variable)
    return providers
