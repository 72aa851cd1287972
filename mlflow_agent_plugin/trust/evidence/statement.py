"""Signed statements: "agent with this digest got these results on this suite".

Rules:
- The statement is an in-toto Statement (v1) with one subject, the agent's digest; it binds the
  digests of suite and results, the metrics, the evaluation run and the time.
- It travels in a DSSE envelope, signed with Ed25519. Nothing in it is read before a trusted key's
  signature was found to fit.
- `verify_evidence` gives the statement or raises; there is no third way and no boolean to forget.
- A statement counts for the content its subject names, and for nothing else.

Sources: in-toto attestation framework, Statement v1; DSSE 1.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mlflow_agent_plugin import __version__
from mlflow_agent_plugin.entities import sha256_digest
from mlflow_agent_plugin.errors import EvidenceError
from mlflow_agent_plugin.trust.evidence.envelope import (
    check_envelope,
    from_digest,
    seal,
    to_digest,
    unseal,
)
from mlflow_agent_plugin.trust.evidence.format import (
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    validate_statement,
)
from mlflow_agent_plugin.trust.evidence.metrics import Metric, MetricKind, compute_metrics
from mlflow_agent_plugin.trust.evidence.results import CaseResult, parse_results
from mlflow_agent_plugin.trust.keys import SigningKey


@dataclass(frozen=True)
class Evidence:
    """A verified statement, for programs.

    Attributes:
        agent_digest: ``sha256:…`` of the bundle it is about.
        suite_digest: ``sha256:…`` of the suite.
        results_digest: ``sha256:…`` of the results table.
        cases: Rows of the results table.
        run_id: The evaluation run.
        evaluated_at: When, says the signer.
    """

    agent: str
    agent_digest: str
    suite: str
    suite_digest: str
    results_digest: str
    cases: int
    metrics: Mapping[str, Metric]
    run_id: str
    evaluated_at: datetime


def evidence_statement(
    *,
    agent: str,
    agent_digest: str,
    suite: str,
    suite_digest: str,
    results_digest: str,
    rows: Sequence[CaseResult],
    run_id: str,
    evaluated_at: datetime,
) -> dict[str, Any]:
    """Return the in-toto statement of one evaluation.

    Args:
        agent: Agent name.
        agent_digest: ``sha256:…`` of the bundle.
        suite: Suite name.
        suite_digest: ``sha256:…`` of the suite.
        results_digest: ``sha256:…`` of the results table, as `write_results` gave it.
        rows: The results; the metrics are computed from them here.
        run_id: The evaluation run.
        evaluated_at: When, timezone-aware.

    Raises:
        EvidenceError: A digest is not ``sha256:`` and 64 hex digits, or a field is empty.
    """
    if evaluated_at.tzinfo is None:
        raise EvidenceError("the time of evaluation needs a time zone", where="evaluated_at")
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": agent, "digest": to_digest(agent_digest, "agent_digest")}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "suite": {"name": suite, "digest": to_digest(suite_digest, "suite_digest")},
            "results": {
                "cases": len(rows),
                "digest": to_digest(results_digest, "results_digest"),
            },
            "metrics": {
                name: metric.to_dict() for name, metric in sorted(compute_metrics(rows).items())
            },
            "runId": run_id,
            "evaluatedAt": evaluated_at.astimezone(timezone.utc).isoformat(timespec="seconds"),
            "evaluator": {"name": "mlflow-agent-plugin", "version": __version__},
        },
    }
    validate_statement(statement)
    return statement


def sign_evidence(statement: Mapping[str, Any], key: SigningKey) -> dict[str, Any]:
    """Return the statement in a signed DSSE envelope, JSON-ready.

    Raises:
        EvidenceError: The statement is malformed.
    """
    validate_statement(statement)
    return seal(statement, key)


def verify_evidence(
    envelope: Mapping[str, Any],
    trusted_keys: Mapping[str, Ed25519PublicKey],
    *,
    agent_digest: str | None = None,
) -> dict[str, Any]:
    """Return the statement in an envelope, if a trusted key signed it.

    Args:
        envelope: DSSE envelope as read from JSON.
        trusted_keys: Keys that may sign evidence, by key id: `KeyStore.trusted_keys` for
            `KeyPurpose.EVIDENCE`; revoked keys are not among them.
        agent_digest: The content it has to be about, if given.

    Raises:
        EvidenceError: It is malformed, unsigned, altered, signed by nobody trusted, of another
            type, or about other content.
    """
    statement = unseal(envelope, trusted_keys)
    found = validate_statement(statement)
    if agent_digest is not None and from_digest(found.subject[0].digest) != agent_digest:
        raise EvidenceError(
            f"the evidence is about {from_digest(found.subject[0].digest)}, "
            f"not about {agent_digest}"
        )
    return statement


def signer_ids(envelope: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the key ids an envelope claims to be signed by; trust none of them."""
    check_envelope(envelope)
    return tuple(str(signature["keyid"]) for signature in envelope["signatures"])


def read_evidence(statement: Mapping[str, Any]) -> Evidence:
    """Return a verified statement's content.

    Raises:
        EvidenceError: It is malformed.
    """
    found = validate_statement(statement)
    predicate = found.predicate
    try:
        evaluated_at = datetime.fromisoformat(predicate.evaluatedAt)
    except ValueError as error:
        raise EvidenceError("evaluatedAt is not a time") from error
    if evaluated_at.tzinfo is None:
        raise EvidenceError("evaluatedAt has no time zone")
    return Evidence(
        agent=found.subject[0].name,
        agent_digest=from_digest(found.subject[0].digest),
        suite=predicate.suite.name,
        suite_digest=from_digest(predicate.suite.digest),
        results_digest=from_digest(predicate.results.digest),
        cases=predicate.results.cases,
        metrics={
            name: Metric(**{**metric.model_dump(), "kind": MetricKind(metric.kind)})
            for name, metric in predicate.metrics.items()
        },
        run_id=predicate.runId,
        evaluated_at=evaluated_at,
    )


def check_results(evidence: Evidence, data: bytes) -> list[CaseResult]:
    """Return the rows of a results table, if they are the ones the evidence is about.

    Args:
        evidence: From `read_evidence`.
        data: Bytes of ``results.jsonl``.

    Raises:
        EvidenceError: Digest, number of cases, suite or a recomputed metric differs.
    """
    if sha256_digest(data) != evidence.results_digest:
        raise EvidenceError("the results are not the ones that were signed", where=evidence.suite)
    rows = parse_results(data)
    if len(rows) != evidence.cases:
        raise EvidenceError(
            f"the results hold {len(rows)} cases, signed were {evidence.cases}",
            where=evidence.suite,
        )
    strangers = {row.suite for row in rows} - {evidence.suite}
    if strangers:
        raise EvidenceError(f"the results hold cases of {min(strangers)!r}", where=evidence.suite)
    computed = compute_metrics(rows)
    for name, claimed in evidence.metrics.items():
        if name not in computed or not computed[name].agrees(claimed):
            raise EvidenceError(
                f"the signed {name} does not follow from the results", where=evidence.suite
            )
    return rows
