"""Builds the parts of the Trust room that govern one agent's calls.

What a helper room adds to a call (guards, credentials, privacy) is put in here, and nowhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlflow_agent_plugin.core.gateway import Governance
from mlflow_agent_plugin.core.resilience.guards import HealthGuard, QuotaGuard
from mlflow_agent_plugin.core.resilience.turns import TurnLimits
from mlflow_agent_plugin.entities import Clock
from mlflow_agent_plugin.package import read_host_quotas
from mlflow_agent_plugin.trust import (
    ApprovalQueue,
    AuditLog,
    EffectLedger,
    PolicyEngine,
    ScopedCredentials,
    SwitchBoard,
    bind_quotas,
    open_privacy,
    open_providers,
    open_quota_book,
    read_sources,
)

if TYPE_CHECKING:
    from mlflow_agent_plugin.config import Settings
    from mlflow_agent_plugin.package import Bundle
    from mlflow_agent_plugin.store import Store


def build_governance(
    bundle: Bundle, *, store: Store, policies: PolicyEngine, settings: Settings, clock: Clock
) -> Governance:
    """Return what the gateway and the turns of `bundle` ask.

    Args:
        bundle: The agent.
        store: Runtime store: approvals, ledger, audit.
        policies: The agent's policy engine.
        settings: Settings of this process.
        clock: Source of time.

    Raises:
        ConfigError: The file of credential sources or of quotas is missing or malformed, or
            Presidio cannot find what the manifest asks for.
    """
    sources = None if settings.credentials is None else read_sources(settings.credentials)
    scopes = {scope for contract in bundle.contracts.values() for scope in contract.scopes}
    audit = AuditLog(store, clock=clock)
    switches = SwitchBoard(store, clock=clock, audit=audit)
    host = () if settings.quotas is None else read_host_quotas(settings.quotas)
    quotas = bind_quotas(bundle.manifest, bundle.contracts, host)
    book = open_quota_book(quotas, settings, clock=clock)
    turns = TurnLimits(bundle.manifest, store=store, switches=switches, book=book)
    budgets = bundle.manifest.model.budgets
    return Governance(
        policies=policies,
        approvals=ApprovalQueue(
            store,
            clock=clock,
            audit=audit,
            require_verified={"always": True, "never": False}.get(settings.verified_reviewers),
        ),
        ledger=EffectLedger(store, clock=clock),
        audit=audit,
        guards=(
            QuotaGuard(switches, book, keep_spend=turns.keep_spend),
            HealthGuard(switches, max_step_seconds=budgets.max_step_seconds),
        ),
        turns=turns,
        credentials=ScopedCredentials(open_providers(sources, scopes), clock=clock),
        privacy=open_privacy(bundle.manifest, store=store, key_dir=settings.key_dir, clock=clock),
    )
