"""Evidence: what was measured about an agent, signed, and computable again from its cases.

- `results`: one line per case, byte for byte the same for the same cases.
- `metrics`: what the gate asks about, computed from these lines and nothing else.
- `statement`: an in-toto statement over agent, suite and results, in a signed DSSE envelope.

    digest = write_results(rows, "results.jsonl")
    statement = evidence_statement(agent="support", agent_digest=…, suite="banking77", …)
    envelope = sign_evidence(statement, KeyStore().signing_key())
    evidence = read_evidence(verify_evidence(envelope, KeyStore().trusted_keys()))
    rows = check_results(evidence, Path("results.jsonl").read_bytes())
"""

from __future__ import annotations

from mlflow_agent_plugin.trust.evidence.metrics import Metric, MetricKind, compute_metrics
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
    "Metric",
    "MetricKind",
    "check_results",
    "compute_metrics",
    "evidence_statement",
    "parse_results",
    "read_evidence",
    "read_results",
    "results_digest",
    "sign_evidence",
    "verify_evidence",
    "write_results",
]
