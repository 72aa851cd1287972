"""Drift reports: what `observability.log_drift` wrote about a version, kept by the registry.

Rules:
- A report is handed in when the version's tag ``monitoring.drift`` is set, which `log_drift` does.
- It is read from its run before anything is recorded, and kept, sealed, with who handed it in: it
  is not signed, so a gate decides by the person (see `judges.operation`).
- A report that cannot be read, or is about another version, is kept as ``unknown``: it must not
  leave an older, better one standing.
- The same window of traffic counts once, with the latest report about it.
"""

from __future__ import annotations

import json
import tempfile
import uuid
import zlib
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mlflow_agent_plugin.entities import Actor, sha256_digest, sha256_of_json
from mlflow_agent_plugin.errors import AgentError, EvidenceError
from mlflow_agent_plugin.registry.facts import DriftFact
from mlflow_agent_plugin.registry.places import fetch_file, may_read, tracking
from mlflow_agent_plugin.registry.records import DRIFT_PREFIX, EvidenceRecord

REPORT_TAG = "monitoring.drift"
MAX_VERDICT_BYTES = 16 * 1024**2


def read_report(
    run_id: str,
    *,
    name: str,
    version: int,
    agent_digest: str,
    caller: Actor,
    now: datetime,
    tracking_uri: str | None = None,
) -> EvidenceRecord:
    """Return the drift report of a run as a record; whatever is wrong with it, it is unknown.

    Args:
        run_id: The run of `log_drift`.
        name: The registered model it has to be about.
        version: The version it has to be about.
        agent_digest: That version's content.
        caller: Who hands it in.
        now: When.
        tracking_uri: Where the run is; default: MLflow's current tracking server.
    """
    try:
        data = _fetch(run_id, name, version, tracking_uri)
        said = _summary(data)
    except Exception as error:
        problem = error.problem if isinstance(error, AgentError) else type(error).__name__
        data, said = b"{}", {"word": "unknown", "summary": f"the report cannot be used: {problem}"}
    window = said.pop("window", run_id)
    return EvidenceRecord(
        evidence_id=uuid.uuid4().hex,
        agent_digest=agent_digest,
        suite=DRIFT_PREFIX + sha256_of_json(window)[7:71],
        suite_digest=sha256_of_json(window),
        results_digest=sha256_digest(data),
        run_id=run_id[:64],
        evaluated_at=now,
        envelope={**said, "verified": caller.verified},
        packed=zlib.compress(data, 6),
    )


def drift_fact(record: EvidenceRecord) -> DriftFact:
    """Return what a recorded report says."""
    said = record.envelope
    since = said.get("since")
    return DriftFact(
        word=said["word"],
        summary=said["summary"],
        at=record.evaluated_at,
        by=record.recorded_by,
        verified=bool(said["verified"]),
        run_id=record.run_id,
        sessions=said.get("sessions", 0),
        since=None if since is None else datetime.fromisoformat(since),
    )


def _fetch(run_id: str, name: str, version: int, tracking_uri: str | None) -> bytes:
    from mlflow_agent_plugin.observability.drift.check import VERDICT_FILE
    from mlflow_agent_plugin.observability.drift.tracking import ARTIFACT_FOLDER

    path = f"{ARTIFACT_FOLDER}/{VERDICT_FILE}"
    run = tracking(tracking_uri).get_run(run_id)
    tags = run.data.tags
    if (tags.get("agent.model"), tags.get("agent.version")) != (name, str(version)):
        raise EvidenceError("it is about another version")
    location = str(run.info.artifact_uri)
    if not may_read(location):
        raise EvidenceError("its artifacts lie where this server does not fetch")
    with tempfile.TemporaryDirectory(prefix="agent-drift-") as scratch:
        found = fetch_file(location, path, Path(scratch), max_bytes=MAX_VERDICT_BYTES)
        if found is None:
            raise EvidenceError(f"{path} is missing")
        return found.read_bytes()


def _summary(data: bytes) -> dict[str, Any]:
    from mlflow_agent_plugin.observability.drift import DriftVerdict

    verdict = DriftVerdict.from_dict(json.loads(data))
    word = {True: "drift", False: "no drift"}.get(verdict.drifted)  # type: ignore[arg-type]
    if word is None:
        word = "drift suspected" if verdict.suspected else "unknown"
    window = verdict.window
    since = None if window.start is None else datetime.fromisoformat(window.start)
    if since is not None and since.tzinfo is None:
        since = since.replace(tzinfo=timezone.utc)
    return {
        "word": word,
        "summary": "; ".join(verdict.reasons)[:500],
        "sessions": int(window.sessions),
        "since": None if since is None else since.isoformat(),
        "window": [window.reference, window.start, window.end],
    }
