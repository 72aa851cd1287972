"""Who may do what, who said so, and the proof of it.

- `trust.identity`: who asked (`Actor`).
- `trust.policy`: whether a call is allowed (Cedar).
- `trust.approval`: the calls a human must answer for.
- `trust.ledger`: a call takes effect at most once.
- `trust.audit`: the record nobody can change quietly.
- `trust.keys`, `trust.evidence`: signatures, and what was measured about a version.

Importing this room loads nothing heavy; each name loads its module when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_MODULES = {
    "approval": ("Approval", "ApprovalQueue", "ApprovalState"),
    "audit": (
        "AuditAnchor",
        "AuditEvent",
        "AuditKind",
        "AuditLog",
        "AuditTransaction",
        "AuditVerification",
        "verify_audit",
    ),
    "evidence": (
        "CaseResult",
        "Evidence",
        "Metric",
        "check_results",
        "compute_metrics",
        "evidence_statement",
        "read_evidence",
        "read_results",
        "results_digest",
        "sign_evidence",
        "verify_evidence",
        "write_results",
    ),
    "identity": ("actor_from_token", "issue_token", "local_actor", "parse_actor"),
    "keys": ("KeyPurpose", "KeyStore", "SigningKey"),
    "ledger": ("Claim", "ClaimStatus", "EffectLedger"),
    "policy": ("CedarPolicyEngine", "PolicyEngine", "check_policies", "run_policy_tests"),
}

_LAZY = {
    name: f"mlflow_agent_plugin.trust.{module}"
    for module, names in _MODULES.items()
    for name in names
}

__all__ = [
    "Approval",
    "ApprovalQueue",
    "ApprovalState",
    "AuditAnchor",
    "AuditEvent",
    "AuditKind",
    "AuditLog",
    "AuditTransaction",
    "AuditVerification",
    "CaseResult",
    "CedarPolicyEngine",
    "Claim",
    "ClaimStatus",
    "EffectLedger",
    "Evidence",
    "KeyPurpose",
    "KeyStore",
    "Metric",
    "PolicyEngine",
    "SigningKey",
    "actor_from_token",
    "check_policies",
    "check_results",
    "compute_metrics",
    "evidence_statement",
    "issue_token",
    "local_actor",
    "parse_actor",
    "read_evidence",
    "read_results",
    "results_digest",
    "run_policy_tests",
    "sign_evidence",
    "verify_audit",
    "verify_evidence",
    "write_results",
]

if TYPE_CHECKING:
    from mlflow_agent_plugin.trust.approval import Approval, ApprovalQueue, ApprovalState
    from mlflow_agent_plugin.trust.audit import (
        AuditAnchor,
        AuditEvent,
        AuditKind,
        AuditLog,
        AuditTransaction,
        AuditVerification,
        verify_audit,
    )
    from mlflow_agent_plugin.trust.evidence import (
        CaseResult,
        Evidence,
        Metric,
        check_results,
        compute_metrics,
        evidence_statement,
        read_evidence,
        read_results,
        results_digest,
        sign_evidence,
        verify_evidence,
        write_results,
    )
    from mlflow_agent_plugin.trust.identity import (
        actor_from_token,
        issue_token,
        local_actor,
        parse_actor,
    )
    from mlflow_agent_plugin.trust.keys import KeyPurpose, KeyStore, SigningKey
    from mlflow_agent_plugin.trust.ledger import Claim, ClaimStatus, EffectLedger
    from mlflow_agent_plugin.trust.policy import (
        CedarPolicyEngine,
        PolicyEngine,
        check_policies,
        run_policy_tests,
    )


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the lazy names too."""
    return sorted(set(globals()) | set(_LAZY))
