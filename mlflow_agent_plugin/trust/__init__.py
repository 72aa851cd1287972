"""Who may do what, who said so, and the proof of it.

- `trust.identity`: who asked (`Actor`).
- `trust.policy`: whether a call is allowed (Cedar).
- `trust.call`: one governed call, and the parts that may refuse it or lend to it.
- `trust.privacy`: what happens to sensitive values on their way.
- `trust.credentials`: short-lived secrets for tools.
- `trust.approval`: the calls a human must answer for.
- `trust.ledger`: a call takes effect at most once.
- `trust.quotas`: how much a tenant, a user or a session may take.
- `trust.switches`: what an operator has stopped.
- `trust.audit`: the record nobody can change quietly.
- `trust.keys`, `trust.evidence`: signatures, and what was measured about a version.

Importing this room loads nothing heavy; each name loads its module when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_MODULES = {
    "approval": ("Approval", "ApprovalQueue", "ApprovalState", "Vote", "check_edit"),
    "audit": (
        "AuditAnchor",
        "AuditEvent",
        "AuditKind",
        "AuditLog",
        "AuditSubject",
        "AuditTransaction",
        "AuditSelection",
        "AuditSubject",
        "AuditVerification",
        "RequestStory",
        "export_audit",
        "export_audit_to_s3",
        "read_request",
        "verify_audit",
    ),
    "call": (
        "CallGuard",
        "CallRefusedError",
        "CredentialLender",
        "GovernedCall",
        "NoCredentials",
        "NoPrivacyFilter",
        "PrivacyFilter",
    ),
    "credentials": ("Credential", "ScopedCredentials", "open_providers", "read_sources"),
    "credentials.scrubbing": ("Scrubber",),
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
    "privacy": ("RuledPrivacyFilter", "open_privacy"),
    "policy": ("CedarPolicyEngine", "PolicyEngine", "check_policies", "run_policy_tests"),
    "quotas": ("QuotaBook", "QuotaUse", "Reservation", "bind_quotas", "open_quota_book"),
    "switches": ("Switch", "SwitchBoard", "SwitchKind"),
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
    "AuditSelection",
    "AuditSubject",
    "AuditTransaction",
    "AuditVerification",
    "CallGuard",
    "CallRefusedError",
    "CaseResult",
    "CedarPolicyEngine",
    "Claim",
    "ClaimStatus",
    "Credential",
    "CredentialLender",
    "EffectLedger",
    "Evidence",
    "GovernedCall",
    "KeyPurpose",
    "KeyStore",
    "Metric",
    "NoCredentials",
    "NoPrivacyFilter",
    "PolicyEngine",
    "PrivacyFilter",
    "QuotaBook",
    "QuotaUse",
    "RequestStory",
    "Reservation",
    "RuledPrivacyFilter",
    "ScopedCredentials",
    "Scrubber",
    "SigningKey",
    "Switch",
    "SwitchBoard",
    "SwitchKind",
    "Vote",
    "actor_from_token",
    "bind_quotas",
    "check_edit",
    "check_policies",
    "check_results",
    "compute_metrics",
    "evidence_statement",
    "export_audit",
    "export_audit_to_s3",
    "issue_token",
    "local_actor",
    "open_privacy",
    "open_providers",
    "open_quota_book",
    "parse_actor",
    "read_evidence",
    "read_request",
    "read_results",
    "read_sources",
    "results_digest",
    "run_policy_tests",
    "sign_evidence",
    "verify_audit",
    "verify_evidence",
    "write_results",
]

if TYPE_CHECKING:
    from mlflow_agent_plugin.trust.approval import (
        Approval,
        ApprovalQueue,
        ApprovalState,
        Vote,
        check_edit,
    )
    from mlflow_agent_plugin.trust.audit import (
        AuditAnchor,
        AuditEvent,
        AuditKind,
        AuditLog,
        AuditSelection,
        AuditSubject,
        AuditTransaction,
        AuditVerification,
        RequestStory,
        export_audit,
        export_audit_to_s3,
        read_request,
        verify_audit,
    )
    from mlflow_agent_plugin.trust.call import (
        CallGuard,
        CallRefusedError,
        CredentialLender,
        GovernedCall,
        NoCredentials,
        NoPrivacyFilter,
        PrivacyFilter,
    )
    from mlflow_agent_plugin.trust.credentials import (
        Credential,
        ScopedCredentials,
        open_providers,
        read_sources,
    )
    from mlflow_agent_plugin.trust.credentials.scrubbing import Scrubber
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
    from mlflow_agent_plugin.trust.privacy import RuledPrivacyFilter, open_privacy
    from mlflow_agent_plugin.trust.quotas import (
        QuotaBook,
        QuotaUse,
        Reservation,
        bind_quotas,
        open_quota_book,
    )
    from mlflow_agent_plugin.trust.switches import Switch, SwitchBoard, SwitchKind


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
