"""Evidence: what was measured about an agent, signed, and computable again from its cases.

- `results`: one line per case, byte for byte the same for the same cases.
- `metrics`: what the gate asks about, computed from these lines and nothing else.
- `statement`: an in-toto statement over agent, suite and results, in a signed DSSE envelope.
- `load`, `load_statement`: the same for load tests: requests table and levels computed from it;
  their statement.
- `promotion`: a registry's word what a slot points to, which loaders check.

    digest = write_results(rows, "results.jsonl")
    statement = evidence_statement(agent="support", agent_digest=…, suite="banking77", …)
    envelope = sign_evidence(statement, KeyStore().signing_key())
    evidence = read_evidence(verify_evidence(envelope, KeyStore().trusted_keys()))
    rows = check_results(evidence, Path("results.jsonl").read_bytes())
"""

from __future__ import annotations

from mlflow_agent_plugin.trust.evidence.load import (
    LoadEvidence,
    LoadLevel,
    LoadRequest,
    LoadStage,
    requests_table,
)
from mlflow_agent_plugin.trust.evidence.load_statement import (
    check_load,
    load_statement,
    sign_load,
    verify_load,
)
from mlflow_agent_plugin.trust.evidence.metrics import Metric, MetricKind, compute_metrics
from mlflow_agent_plugin.trust.evidence.promotion import (
    Promotion,
    protected_slots,
    sign_promotion,
    sign_slots,
    verify_promotion,
)
from mlflow_agent_plugin.trust.evidence.results import (
    CaseResult,
    parse_results,
    read_results,
    results_digest,
    write_results,
)
from mlflow_agent_plugin.trust.evidence.statement import (
    Evidence,
    check_results,
    evidence_statement,
    read_evidence,
    sign_evidence,
    verify_evidence,
)

__all__ = [
    "CaseResult",
    "Evidence",
    "LoadEvidence",
    "LoadLevel",
    "LoadRequest",
    "LoadStage",
    "Metric",
    "MetricKind",
    "Promotion",
    "check_load",
    "check_results",
    "compute_metrics",
    "evidence_statement",
    "load_statement",
    "parse_results",
    "protected_slots",
    "read_evidence",
    "read_results",
    "requests_table",
    "results_digest",
    "sign_evidence",
    "sign_load",
    "sign_promotion",
    "sign_slots",
    "verify_evidence",
    "verify_load",
    "verify_promotion",
    "write_results",
]
