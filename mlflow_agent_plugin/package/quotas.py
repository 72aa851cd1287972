"""Quotas: how much of something one tenant, user or session may take.

The same rule stands in a bundle's ``agent.yaml`` (``quotas``) and in the host's own file
(``MLFLOW_AGENTS_QUOTAS``). All rules that fit a request have to admit it, so the host's rules can
only tighten.

Rules:
- Every quota belongs to a tenant, a user or a session: none is shared between tenants, so that no
  tenant can use up another's.
- A quota of ``concurrency`` counts what runs now; any other counts within windows of the clock.
- Money is counted in whole millionths of a dollar; nothing finer.
"""

from __future__ import annotations

import math
from enum import Enum
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from mlflow_agent_plugin.errors import ConfigError
from mlflow_agent_plugin.package.strict import Name, StrictModel

MICRO = 1_000_000
"""Millionths of a dollar in a dollar."""

LONGEST_WINDOW_SECONDS = 366 * 24 * 3600


class QuotaScope(str, Enum):
    """Whose use is counted together."""

    TENANT = "tenant"
    USER = "user"
    SESSION = "session"


class QuotaResource(str, Enum):
    """What is counted."""

    REQUESTS = "requests"
    CALLS = "calls"
    TOKENS = "tokens"
    COST_USD = "cost_usd"
    CONCURRENCY = "concurrency"


_OF_TOOLS = (QuotaResource.CALLS, QuotaResource.COST_USD, QuotaResource.CONCURRENCY)


class QuotaRule(StrictModel):
    """At most `limit` `of` something `per` tenant, user or session, `every_seconds`."""

    per: QuotaScope = Field(description="Whose use is counted together")
    of: QuotaResource = Field(
        description="requests: turns begun; calls: tool calls; tokens: of the model, in and out; "
        "cost_usd: model and tools; concurrency: turns at once, or calls at once with `tool`"
    )
    limit: float = Field(gt=0, le=1e12, allow_inf_nan=False, description="How much is allowed")
    every_seconds: int | None = Field(
        default=None,
        ge=1,
        le=LONGEST_WINDOW_SECONDS,
        description="Length of the window, in seconds; not for concurrency",
    )
    tool: Name | None = Field(default=None, description="Only calls of this tool")

    @model_validator(mode="after")
    def _is_consistent(self) -> QuotaRule:
        if self.of is QuotaResource.CONCURRENCY:
            if self.every_seconds is not None:
                raise ValueError("every_seconds: a quota of concurrency has no window")
        elif self.every_seconds is None:
            raise ValueError(f"every_seconds: a quota of {self.of.value} needs a window")
        if self.tool is not None and self.of not in _OF_TOOLS:
            raise ValueError(f"tool: {self.of.value} are not counted by tool")
        if self.units < 1:
            raise ValueError("limit: is less than a millionth of a dollar")
        if self.of is not QuotaResource.COST_USD and self.limit != int(self.limit):
            raise ValueError(f"limit: {self.of.value} are counted in whole numbers")
        return self

    @property
    def units(self) -> int:
        """The limit as counted: whole numbers, money in millionths of a dollar."""
        return micro_usd(self.limit) if self.of is QuotaResource.COST_USD else int(self.limit)

    def __str__(self) -> str:
        amount = f"{self.limit:g}" if self.limit < MICRO else f"{self.limit:.0f}"
        window = "at once" if self.every_seconds is None else f"every {self.every_seconds} s"
        what = self.of.value if self.tool is None else f"{self.of.value} of {self.tool}"
        return f"{amount} {what} {window} per {self.per.value}"


class HostQuota(QuotaRule):
    """A quota of the host: for all agents and tenants together by default, or only for one."""

    agent: Name | None = Field(
        default=None, description="Only for this agent; None: all agents are counted together"
    )
    tenant: str | None = Field(default=None, min_length=1, description="Only for this tenant")


class HostQuotas(StrictModel):
    """The file ``MLFLOW_AGENTS_QUOTAS`` names."""

    api_version: Literal["mlflow-agents/v1"] = Field(alias="apiVersion")
    quotas: list[HostQuota] = Field(default_factory=list)


def micro_usd(amount_usd: float) -> int:
    """Return an amount in whole millionths of a dollar, rounded up: nothing that costs is free."""
    return math.ceil(round(amount_usd * MICRO, 6))


def read_host_quotas(path: str | Path) -> tuple[HostQuota, ...]:
    """Read the host's quotas.

    Raises:
        ConfigError: The file is missing, is not YAML or does not follow the format.
    """
    from mlflow_agent_plugin.package.reading import (  # noqa: PLC0415 - only where there is a file
        read_yaml,
        validate_document,
    )

    document = read_yaml(Path(path), error=ConfigError)
    return tuple(validate_document(document, HostQuotas, error=ConfigError).quotas)
