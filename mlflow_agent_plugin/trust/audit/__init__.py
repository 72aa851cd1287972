"""The audit: what happened, in an order and wording nobody can change quietly.

- `chain`: how events are spelled, linked and sealed (pure).
- `log`: writing and reading them.
- `request`: one request's whole story.
- `search`, `findings`: looking for events in a large one.
- `notebook`: a story as a notebook shows it.
- `export`: taking the record elsewhere.
- `verify`: finding whatever was changed, and saying what cannot be found.
"""

from __future__ import annotations

from mlflow_agent_plugin.trust.audit.chain import AuditEvent, AuditKind, AuditSubject
from mlflow_agent_plugin.trust.audit.export import (
    AuditExport,
    AuditSelection,
    export_audit,
    export_audit_to_s3,
)
from mlflow_agent_plugin.trust.audit.log import AuditLog
from mlflow_agent_plugin.trust.audit.request import RequestStory, read_request
from mlflow_agent_plugin.trust.audit.transaction import AuditTransaction
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
    "AuditExport",
    "AuditKind",
    "AuditLog",
    "AuditProblem",
    "AuditSelection",
    "AuditSubject",
    "AuditTransaction",
    "AuditVerification",
    "RequestStory",
    "export_audit",
    "export_audit_to_s3",
    "read_request",
    "verify_audit",
]
