"""Fetching an evaluation run's evidence and verifying it before anything is recorded.

Rules:
- What counts is the signed statement and the results table, not the run's metrics or tags: a number
  typed into a run is worth nothing.
- Evidence about other content than the version's is refused, whoever signed it.
"""

from __future__ import annotations

import json
import re
import tempfile
import uuid
import zlib
from pathlib import Path

from mlflow_agent_plugin.errors import EvidenceError
from mlflow_agent_plugin.registry.gathering import MAX_RESULTS_BYTES, Keys
from mlflow_agent_plugin.registry.places import fetch_file, may_read, repository, tracking
from mlflow_agent_plugin.registry.records import EvidenceRecord

FOLDER = "evaluation"
ENVELOPE = "evidence.dsse.json"
RESULTS = "results.jsonl"
MAX_ENVELOPE_BYTES = 4 * 1024**2
MAX_SUITES = 100

_RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def fetch_evidence(
    run_id: str, agent_digest: str, keys: Keys, *, tracking_uri: str | None = None
) -> list[EvidenceRecord]:
    """Return the verified evidence of an evaluation run, one record per suite.

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
    suites = _suites(location, run_id)
    with tempfile.TemporaryDirectory(prefix="agent-evidence-") as scratch:
        return [
            _one(location, suite, Path(scratch), run_id, agent_digest, keys) for suite in suites
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


def _suites(location: str, run_id: str) -> list[str]:
    repo, prefix = repository(location)
    folder = f"{prefix}/{FOLDER}".lstrip("/")
    try:
        found = [Path(item.path).name for item in repo.list_artifacts(folder) if item.is_dir]
    except Exception as error:
        raise EvidenceError(
            f"the run's artifacts cannot be read ({type(error).__name__})", where=run_id
        ) from error
    if not found or len(found) > MAX_SUITES:
        raise EvidenceError(
            "the run holds no evidence" if not found else "the run holds too many suites",
            where=run_id,
            hint="Give the run of agents.evaluate.",
        )
    return sorted(found)


def _one(
    location: str, suite: str, scratch: Path, run_id: str, agent_digest: str, keys: Keys
) -> EvidenceRecord:
    from mlflow_agent_plugin.trust.evidence import check_results, read_evidence, verify_evidence

    folder = scratch / uuid.uuid4().hex
    folder.mkdir()
    where = f"run {run_id}, {FOLDER}/{suite}"
    envelope_file = fetch_file(
        location, f"{FOLDER}/{suite}/{ENVELOPE}", folder, max_bytes=MAX_ENVELOPE_BYTES
    )
    results_file = fetch_file(
        location, f"{FOLDER}/{suite}/{RESULTS}", folder, max_bytes=MAX_RESULTS_BYTES
    )
    if envelope_file is None or results_file is None:
        missing = ENVELOPE if envelope_file is None else RESULTS
        raise EvidenceError(f"{missing} is missing", where=where, hint="Evaluate again.")
    try:
        envelope = json.loads(envelope_file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise EvidenceError(f"{ENVELOPE} is not JSON", where=where) from error
    evidence = read_evidence(verify_evidence(envelope, keys.trusted, agent_digest=agent_digest))
    results = results_file.read_bytes()
    check_results(evidence, results)
    return EvidenceRecord(
        evidence_id=uuid.uuid4().hex,
        agent_digest=evidence.agent_digest,
        suite=evidence.suite,
        suite_digest=evidence.suite_digest,
        results_digest=evidence.results_digest,
        run_id=evidence.run_id,
        evaluated_at=evidence.evaluated_at,
        envelope=envelope,
        packed=zlib.compress(results, 6),
    )
