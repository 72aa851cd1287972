"""The signed statement of a load test, and back (the numbers: see `load`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import Field, ValidationError

from mlflow_agent_plugin import __version__
from mlflow_agent_plugin.entities import sha256_digest
from mlflow_agent_plugin.errors import EvidenceError
from mlflow_agent_plugin.trust.evidence.envelope import from_digest, seal, to_digest, unseal
from mlflow_agent_plugin.trust.evidence.format import STATEMENT_TYPE, Digest
from mlflow_agent_plugin.trust.evidence.load import (
    LoadEvidence,
    LoadLevel,
    LoadModel,
    LoadStage,
    Row,
    compute_levels,
    parse_requests,
)
from mlflow_agent_plugin.trust.keys import SigningKey

LOAD_PREDICATE_TYPE = "urn:mlflow-agent-plugin:load:v1"


def load_statement(
    *,
    agent: str,
    agent_digest: str,
    profile: str,
    profile_digest: str,
    table: bytes,
    stages: Sequence[LoadStage],
    run_id: str,
    measured_at: datetime,
) -> dict[str, Any]:
    """Return the in-toto statement of one load test.

    Args:
        agent: Agent name.
        agent_digest: ``sha256:…`` of the bundle.
        profile: Name of the load profile.
        profile_digest: ``sha256:…`` of it.
        table: From `requests_table`; the levels are computed from it here.
        stages: The steady stages, as they were run.
        run_id: The MLflow run.
        measured_at: When, timezone-aware.

    Raises:
        EvidenceError: A digest or the time is malformed, or there is no steady stage.
    """
    if measured_at.tzinfo is None:
        raise EvidenceError("the time of the load test needs a time zone", where="measured_at")
    requests = parse_requests(table)
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": agent, "digest": to_digest(agent_digest, "agent_digest")}],
        "predicateType": LOAD_PREDICATE_TYPE,
        "predicate": {
            "profile": {"name": profile, "digest": to_digest(profile_digest, "profile_digest")},
            "requests": {
                "count": len(requests),
                "digest": to_digest(sha256_digest(table), "requests"),
            },
            "stages": [stage.model_dump() for stage in stages],
            "levels": [level.to_dict() for level in compute_levels(stages, requests)],
            "runId": run_id,
            "measuredAt": measured_at.astimezone(timezone.utc).isoformat(timespec="seconds"),
            "generator": {"name": "mlflow-agent-plugin", "version": __version__},
        },
    }
    _read(statement)
    return statement


def sign_load(statement: Mapping[str, Any], key: SigningKey) -> dict[str, Any]:
    """Return a load statement in a signed DSSE envelope, JSON-ready.

    Raises:
        EvidenceError: The statement is malformed.
    """
    _read(statement)
    return seal(statement, key)


def verify_load(
    envelope: Mapping[str, Any],
    trusted_keys: Mapping[str, Ed25519PublicKey],
    *,
    agent_digest: str | None = None,
) -> LoadEvidence:
    """Return what an envelope says, if a trusted key signed it.

    Args:
        envelope: DSSE envelope as read from JSON.
        trusted_keys: Keys that may sign evidence, by key id.
        agent_digest: The content it has to be about, if given.

    Raises:
        EvidenceError: It is malformed, altered, signed by nobody trusted, or about other content.
    """
    evidence = _read(unseal(envelope, trusted_keys))
    if agent_digest is not None and evidence.agent_digest != agent_digest:
        raise EvidenceError(
            f"the load test is about {evidence.agent_digest}, not about {agent_digest}"
        )
    return evidence


def check_load(evidence: LoadEvidence, table: bytes) -> tuple[LoadLevel, ...]:
    """Return the levels of a requests table, if it is the one the evidence is about.

    Raises:
        EvidenceError: Digest, number of requests or a recomputed level differs.
    """
    if sha256_digest(table) != evidence.requests_digest:
        raise EvidenceError("the requests are not the ones that were signed", where="load test")
    requests = parse_requests(table)
    if len(requests) != evidence.requests:
        raise EvidenceError(
            f"the table holds {len(requests)} requests, signed were {evidence.requests}",
            where="load test",
        )
    levels = compute_levels(evidence.stages, requests)
    for computed, claimed in zip(levels, evidence.levels, strict=True):
        if not _agree(computed.to_dict(), claimed.to_dict()):
            raise EvidenceError(
                f"the signed numbers of stage {claimed.stage} do not follow from the requests",
                where="load test",
            )
    return levels


# --- the shape of the statement ------------------------------------------------------------------


class _Subject(Row):
    name: str = Field(min_length=1)
    digest: Digest


class _Profile(Row):
    name: str = Field(min_length=1)
    digest: Digest


class _Requests(Row):
    count: int = Field(ge=0)
    digest: Digest


class _Generator(Row):
    name: str
    version: str


class _Level(Row):
    stage: int = Field(ge=0)
    model: LoadModel
    concurrency: int = Field(ge=0)
    rate: float | None
    seconds: float = Field(gt=0)
    requests: int = Field(ge=0)
    errors: int = Field(ge=0)
    error_rate: float = Field(ge=0, le=1)
    error_rate_high: float = Field(ge=0, le=1)
    throughput: float = Field(ge=0)
    p50_seconds: float = Field(ge=0)
    p95_seconds: float = Field(ge=0)
    p99_seconds: float = Field(ge=0)
    max_seconds: float = Field(ge=0)
    attempts: int = Field(ge=0)
    limited: int = Field(ge=0)
    tool_calls: int = Field(ge=0)
    tool_limited: int = Field(ge=0)
    input_tokens: int = Field(ge=0)
    output_tokens: int = Field(ge=0)


class _Predicate(Row):
    profile: _Profile
    requests: _Requests
    stages: list[LoadStage] = Field(min_length=1, max_length=100)
    levels: list[_Level] = Field(min_length=1, max_length=100)
    runId: str  # noqa: N815 - in-toto spells fields so
    measuredAt: datetime  # noqa: N815
    generator: _Generator


class _Statement(Row):
    type_: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    subject: list[_Subject] = Field(min_length=1, max_length=1)
    predicateType: Literal["urn:mlflow-agent-plugin:load:v1"]  # noqa: N815
    predicate: _Predicate


def _read(statement: Mapping[str, Any]) -> LoadEvidence:
    try:
        found = _Statement.model_validate(statement)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "statement"
        raise EvidenceError(f"{field}: {first['msg']}", where="load statement") from error
    predicate = found.predicate
    if predicate.measuredAt.tzinfo is None:
        raise EvidenceError("measuredAt has no time zone", where="load statement")
    if [stage.stage for stage in predicate.stages] != [level.stage for level in predicate.levels]:
        raise EvidenceError("stages and levels do not belong together", where="load statement")
    return LoadEvidence(
        agent=found.subject[0].name,
        agent_digest=from_digest(found.subject[0].digest),
        profile=predicate.profile.name,
        profile_digest=from_digest(predicate.profile.digest),
        requests_digest=from_digest(predicate.requests.digest),
        requests=predicate.requests.count,
        stages=tuple(predicate.stages),
        levels=tuple(LoadLevel(**level.model_dump()) for level in predicate.levels),
        run_id=predicate.runId,
        measured_at=predicate.measuredAt,
    )


def _agree(computed: Mapping[str, Any], claimed: Mapping[str, Any]) -> bool:
    return all(
        math.isclose(value, claimed[name], rel_tol=1e-9, abs_tol=1e-12)
        if isinstance(value, float) and claimed[name] is not None
        else value == claimed[name]
        for name, value in computed.items()
    )
