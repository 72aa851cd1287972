"""Who is told of what: the file of targets.

Rules:
- Addresses that are secrets (Slack's) and signing secrets stand in environment variables: the file
  names them.
- A target says whose tenants' approvals it may hear of; without that, of none. Promotion requests
  have no tenant.
- Plain HTTP goes to this machine only.
"""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from mlflow_agent_plugin.errors import ConfigError
from mlflow_agent_plugin.package import StrictModel, read_yaml, validate_document
from mlflow_agent_plugin.package.manifest import Name
from mlflow_agent_plugin.package.mcp import EnvironmentName

EVERY_TENANT = "*"


class Happening(str, Enum):
    """What can be told."""

    APPROVAL_WAITING = "approval_waiting"
    PROMOTION_REQUESTED = "promotion_requested"


class Target(StrictModel):
    """One receiver.

    Attributes:
        url: Where it is; or `url_variable`, the environment variable with it.
        secret_variable: Environment variable with the secret webhooks are signed by.
        tenants: Whose approvals it may hear of; ``*`` for all.
        repeat_when_unsure: Send again when nobody knows whether it arrived; the receiver then has
            to look at the delivery's id.
    """

    name: Name
    kind: Literal["webhook", "slack"]
    url: str | None = None
    url_variable: EnvironmentName | None = None
    secret_variable: EnvironmentName | None = None
    events: list[Happening] = Field(default_factory=lambda: list(Happening), min_length=1)
    tenants: list[str] = Field(default_factory=list)
    repeat_when_unsure: bool = False
    timeout_seconds: Annotated[float, Field(gt=0, le=60)] = 10.0

    @model_validator(mode="after")
    def _can_be_reached_and_signed(self) -> Target:
        if (self.url is None) == (self.url_variable is None):
            raise ValueError("needs either url or url_variable")
        if self.kind == "webhook" and self.secret_variable is None:
            raise ValueError("a webhook needs secret_variable: it is signed")
        if self.kind == "slack" and self.secret_variable is not None:
            raise ValueError("Slack's messages are not signed; their address is the secret")
        return self

    def hears(self, event: Happening, tenant: str | None) -> bool:
        """Return whether it is told of an event of a tenant (None: of no tenant)."""
        if event not in self.events:
            return False
        return tenant is None or EVERY_TENANT in self.tenants or tenant in self.tenants

    def address(self) -> str:
        """Return where it is.

        Raises:
            ConfigError: Its variable is not set, or it is no address that may be used.
        """
        url = self.url if self.url_variable is None else os.environ.get(self.url_variable)
        where = f"target {self.name}"
        if not url:
            raise ConfigError(f"{self.url_variable} is not set", where=where)
        parts = urlsplit(url)
        is_here = parts.hostname in ("127.0.0.1", "localhost", "::1")
        if parts.scheme != "https" and not (parts.scheme == "http" and is_here):
            raise ConfigError("its address is not https", where=where)
        return url

    def secret(self) -> str | None:
        """Return the signing secret, None for kinds without one.

        Raises:
            ConfigError: Its variable is not set.
        """
        if self.secret_variable is None:
            return None
        found = os.environ.get(self.secret_variable)
        if not found:
            raise ConfigError(f"{self.secret_variable} is not set", where=f"target {self.name}")
        return found


class Targets(StrictModel):
    """The whole file.

    Attributes:
        console_url: Where the review console is, for links in messages.
    """

    api_version: Literal["mlflow-agents/v1"] = Field(alias="apiVersion")
    console_url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    targets: list[Target] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Targets:
        names = [target.name for target in self.targets]
        if len(set(names)) < len(names):
            raise ValueError("targets: two have the same name")
        return self


def read_targets(path: str | Path) -> Targets:
    """Read the file of targets.

    Raises:
        ConfigError: It is missing or malformed; the message names file, line and field.
    """
    return validate_document(read_yaml(Path(path), error=ConfigError), Targets, error=ConfigError)
