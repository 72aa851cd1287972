"""Fetching a run's evidence and verifying it before anything is recorded.

Rules:
- What counts is the signed statement and the table of cases or requests, not the run's metrics or
  tags: a number typed into a run is worth nothing.
- Evidence about other content than the version's is refused, whoever signed it.
"""

from __future__ import annotations

import json
import re
import tempfile
import uuid
import zlib
from pathlib import Path
from typing import Any

from mlflow_agent_plugin.errors import EvidenceError
from mlflow_agent_plugin.registry.gathering import Keys
from mlflow_agent_plugin.registry.measures import MAX_RESULTS_BYTES
from mlflow_agent_plugin.registry.places import fetch_file, may_read, repository, tracking
from mlflow_agent_plugin.registry.records import LOAD_PREFIX, EvidenceRecord

SUITES = ("evaluation", "evidence.dsse.json", "results.jsonl")
LOADS = ("load", "load.dsse.json", "requests.jsonl")
"""Folder in the run, signed statement and table of each kind of evidence."""

MAX_ENVELOPE_BYTES = 4 * 1024**2
MAX_SUITES = 100

PROFILE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,119}")
_RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def fetch_evidence(
    run_id: str, agent_digest: str, keys: Keys, *, tracking_uri: str | None = None
) -> list[EvidenceRecord]:
    """Return the verified evidence of a run, one record per suite and load profile.

    Args:
        run_id: The evaluation run.
        agent_digest: The content it has to be about.
        keys: Whose signatures count.
        tracking_uri: Where the run is; default: MLflow's current tracking server.

    Raises:
        EvidenceError: There is none, or some of it does not hold: then none is taken.
    """
    location = _artifact_uri(run_id, tracking_uri)
    if not may_read(location):
        raise EvidenceError(
            "the run's artifacts lie where this server does not fetch", where=run_id
        )
    found = [(kind, name) for kind in (SUITES, LOADS) for name in _names(location, kind[0], run_id)]
    if not found or len(found) > MAX_SUITES:
        raise EvidenceError(
            "the run holds too much evidence" if found else "the run holds no evidence",
            where=run_id,
            hint="Give the run of agents.evaluate or of mlflow-agents load.",
        )
    with tempfile.TemporaryDirectory(prefix="agent-evidence-") as scratch:
        return [
            _one(location, kind, name, Path(scratch), run_id, agent_digest, keys)
            for kind, name in found
        ]


def _artifact_uri(run_id: str, tracking_uri: str | None) -> str:
    from mlflow.exceptions import MlflowException

    if not _RUN_ID.fullmatch(run_id):
        raise EvidenceError("is not a run id", where=run_id[:80])
    try:
        return str(tracking(tracking_uri).get_run(run_id).info.artifact_uri)
    except MlflowException as error:
        raise EvidenceError(
            "there is no such evaluation run", where=run_id, hint="Give the run of agents.evaluate."
        ) from error


def _names(location: str, kind: str, run_id: str) -> list[str]:
    repo, prefix = repository(location)
    try:
        listed = repo.list_artifacts(f"{prefix}/{kind}".lstrip("/"))
        return sorted(Path(item.path).name for item in listed if item.is_dir)
    except Exception as error:
        raise EvidenceError(
            f"the run's artifacts cannot be read ({type(error).__name__})", where=run_id
        ) from error


def _one(
    location: str,
    kind: tuple[str, str, str],
    name: str,
    scratch: Path,
    run_id: str,
    agent_digest: str,
    keys: Keys,
) -> EvidenceRecord:
    place, envelope_name, table_name = kind
    folder = scratch / uuid.uuid4().hex
    folder.mkdir()
    where = f"run {run_id}, {place}/{name}"
    envelope_file = fetch_file(
        location, f"{place}/{name}/{envelope_name}", folder, max_bytes=MAX_ENVELOPE_BYTES
    )
    table_file = fetch_file(
        location, f"{place}/{name}/{table_name}", folder, max_bytes=MAX_RESULTS_BYTES
    )
    if envelope_file is None or table_file is None:
        missing = envelope_name if envelope_file is None else table_name
        raise EvidenceError(f"{missing} is missing", where=where, hint="Measure again.")
    try:
        envelope = json.loads(envelope_file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise EvidenceError(f"{envelope_name} is not JSON", where=where) from error
    read = _suite if kind is SUITES else _load
    return read(envelope, table_file.read_bytes(), agent_digest, keys)


def _suite(envelope: dict[str, Any], table: bytes, agent_digest: str, keys: Keys) -> EvidenceRecord:
    from mlflow_agent_plugin.trust.evidence import check_results, read_evidence, verify_evidence

    evidence = read_evidence(verify_evidence(envelope, keys.trusted, agent_digest=agent_digest))
    check_results(evidence, table)
    return EvidenceRecord(
        evidence_id=uuid.uuid4().hex,
        agent_digest=evidence.agent_digest,
        suite=evidence.suite,
        suite_digest=evidence.suite_digest,
        results_digest=evidence.results_digest,
        run_id=evidence.run_id,
        evaluated_at=evidence.evaluated_at,
        envelope=envelope,
        packed=zlib.compress(table, 6),
    )


def _load(envelope: dict[str, Any], table: bytes, agent_digest: str, keys: Keys) -> EvidenceRecord:
    from mlflow_agent_plugin.trust.evidence import check_load, verify_load

    evidence = verify_load(envelope, keys.trusted, agent_digest=agent_digest)
    check_load(evidence, table)
    if not PROFILE_NAME.fullmatch(evidence.profile):
        raise EvidenceError("the load profile's name cannot stand in a gate", where="load test")
    return EvidenceRecord(
        evidence_id=uuid.uuid4().hex,
        agent_digest=evidence.agent_digest,
        suite=f"{LOAD_PREFIX}{evidence.profile}",
        suite_digest=evidence.profile_digest,
        results_digest=evidence.requests_digest,
        run_id=evidence.run_id,
        evaluated_at=evidence.measured_at,
        envelope=envelope,
        packed=zlib.compress(table, 6),
    )
