"""The audit: what happened, in an order and wording nobody can change quietly.

- `chain`: how events are spelled, linked and sealed (pure).
- `log`: writing and reading them.
- `verify`: finding whatever was changed, and saying what cannot be found.
"""

from __future__ import annotations

from mlflow_agent_plugin.trust.audit.chain import AuditEvent, AuditKind
from mlflow_agent_plugin.trust.audit.log import AuditLog, AuditTransaction
from mlflow_agent_plugin.trust.audit.verification import (
    AuditAnchor,
    AuditDefect,
    AuditProblem,
    AuditVerification,
)
from mlflow_agent_plugin.trust.audit.verify import AuditCheck, verify_audit

__all__ = [
    "AuditAnchor",
    "AuditCheck",
    "AuditDefect",
    "AuditEvent",
    "AuditKind",
    "AuditLog",
    "AuditProblem",
    "AuditTransaction",
    "AuditVerification",
    "verify_audit",
]
