"""What a gateway asks before, around and after a call."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlflow_agent_plugin.trust import NoCredentials, NoPrivacyFilter

if TYPE_CHECKING:
    from mlflow_agent_plugin.core.resilience.turns import TurnLimits
    from mlflow_agent_plugin.trust import (
        ApprovalQueue,
        AuditLog,
        CallGuard,
        CredentialLender,
        EffectLedger,
        PolicyEngine,
        PrivacyFilter,
    )


@dataclass(frozen=True)
class Governance:
    """The parts of the Trust room a gateway asks.

    Attributes:
        guards: Entered in this order around each permitted call, left in reverse.
        credentials: Lends tools what their scopes ask for.
        privacy: Filters texts on their way in and out.
        turns: Limits turns and their calls of the model; None: they are not limited.
    """

    policies: PolicyEngine
    approvals: ApprovalQueue
    ledger: EffectLedger
    audit: AuditLog
    guards: tuple[CallGuard, ...] = ()
    credentials: CredentialLender = field(default_factory=NoCredentials)
    privacy: PrivacyFilter = field(default_factory=NoPrivacyFilter)
    turns: TurnLimits | None = None
