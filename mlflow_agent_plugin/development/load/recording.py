"""Writes a load test into MLflow: run, metrics, requests table, plots, report, signed evidence."""

from __future__ import annotations

import html
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.development.load.profile import LoadProfile
from mlflow_agent_plugin.development.load.report import (
    HEADINGS,
    draw_load,
    level_rows,
    render_load_report,
)
from mlflow_agent_plugin.development.recording import OpenRun, RegisteredVersion, open_named_run
from mlflow_agent_plugin.entities import utc_now
from mlflow_agent_plugin.errors import AgentRunError
from mlflow_agent_plugin.trust import KeyStore
from mlflow_agent_plugin.trust.evidence import (
    LoadLevel,
    LoadRequest,
    load_statement,
    requests_table,
    sign_load,
)
from mlflow_agent_plugin.trust.evidence.load import compute_levels

if TYPE_CHECKING:
    from rich.table import Table

FOLDER = "load"
REQUESTS_FILE = "requests.jsonl"
EVIDENCE_FILE = "load.dsse.json"
LOAD_EVIDENCE_TAG = "agent.load_evidence"
"""Version tag that names the run with a version's newest load test."""


@dataclass(frozen=True)
class LoadResult:
    """What a load test found out.

    Attributes:
        run_id: The MLflow run that holds everything.
        agent: Agent name.
        digest: ``sha256:…`` of the content that was served.
        profile: Name of the profile.
        levels: What each steady stage measured.
        requests: Every request.
        submitted: ``name/version`` the evidence was submitted to, None if it was not.
    """

    run_id: str
    agent: str
    digest: str
    profile: str
    levels: tuple[LoadLevel, ...]
    requests: tuple[LoadRequest, ...] = field(repr=False)
    submitted: str | None = None

    @property
    def evidence_path(self) -> str:
        """The signed evidence, as an artifact path of the run."""
        return f"{FOLDER}/{self.profile}/{EVIDENCE_FILE}"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary, without the requests."""
        return {
            "run_id": self.run_id,
            "agent": self.agent,
            "digest": self.digest,
            "profile": self.profile,
            "requests": len(self.requests),
            "levels": [level.to_dict() for level in self.levels],
            "evidence": self.evidence_path,
            "submitted": self.submitted,
        }

    def to_table(self) -> Table:
        """Return a table for a terminal (``rich.print(result.to_table())``)."""
        from rich.table import Table

        table = Table(title=f"{self.agent} ({self.digest[:19]}…) under {self.profile}")
        for heading in HEADINGS:
            table.add_column(heading, justify="right")
        for row in level_rows(self.levels):
            table.add_row(*row)
        return table

    def __str__(self) -> str:
        parts = [
            f"{level.model} {level.concurrency}: {level.throughput:.1f}/s, "
            f"p95 {level.p95_seconds * 1000:.0f} ms, {level.errors} of {level.requests} failed"
            for level in self.levels
        ]
        return f"{self.agent} {self.digest[:19]}…: " + "; ".join(parts)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{heading}</th>" for heading in HEADINGS)
        body = "".join(
            "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>"
            for row in level_rows(self.levels)
        )
        title = f"{html.escape(self.agent)} under {html.escape(self.profile)}"
        return f"<table><caption>{title}</caption><tr>{head}</tr>{body}</table>"


def record_load(
    profile: LoadProfile,
    requests: Sequence[LoadRequest],
    *,
    agent: str,
    agent_digest: str,
    url: str,
    registered: RegisteredVersion | None,
    experiment: str | None,
    submit: bool,
) -> LoadResult:
    """Log a load test; the signed evidence comes last.

    Raises:
        AgentRunError: Not one request was sent.
    """
    from mlflow import MlflowClient

    if not requests:
        raise AgentRunError("the load test sent no request", where=profile.name)
    client = MlflowClient()
    key = KeyStore().signing_key()
    stages = [phase.stage() for phase in profile.phases() if phase.steady]
    levels = compute_levels(stages, requests)
    table = requests_table(requests)
    tags = {"agent.kind": "load", "agent.name": agent, "agent.digest": agent_digest}
    with open_named_run(client, experiment, tags, f"load {agent} {profile.name}") as run:
        _log_numbers(client, run, profile, agent, agent_digest, url, levels, registered)
        statement = load_statement(
            agent=agent,
            agent_digest=agent_digest,
            profile=profile.name,
            profile_digest=profile.digest,
            table=table,
            stages=stages,
            run_id=run.run_id,
            measured_at=utc_now(),
        )
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            (folder / REQUESTS_FILE).write_bytes(table)
            text = json.dumps(profile.model_dump(mode="json", by_alias=True), indent=1)
            (folder / "profile.json").write_text(text, encoding="utf-8")
            plots = draw_load(profile, requests, levels)
            (folder / "plots").mkdir()
            for name, data in plots.items():
                (folder / "plots" / f"{name}.png").write_bytes(data)
            page = render_load_report(
                profile, requests, levels, plots,
                agent=agent, agent_digest=agent_digest, run_id=run.run_id, url=url,
            )  # fmt: skip
            (folder / "report.html").write_text(page, encoding="utf-8")
            envelope = json.dumps(sign_load(statement, key), indent=1)
            (folder / EVIDENCE_FILE).write_text(envelope, encoding="utf-8")
            client.log_artifacts(run.run_id, str(folder), f"{FOLDER}/{profile.name}")
    submitted = None
    if submit and registered is not None and registered.name and registered.version:
        client.set_model_version_tag(
            registered.name, registered.version, LOAD_EVIDENCE_TAG, run.run_id
        )
        submitted = f"{registered.name}/{registered.version}"
    return LoadResult(
        run_id=run.run_id,
        agent=agent,
        digest=agent_digest,
        profile=profile.name,
        levels=levels,
        requests=tuple(requests),
        submitted=submitted,
    )


def _log_numbers(
    client: Any,
    run: OpenRun,
    profile: LoadProfile,
    agent: str,
    agent_digest: str,
    url: str,
    levels: Sequence[LoadLevel],
    registered: RegisteredVersion | None,
) -> None:
    from mlflow.entities import LoggedModelInput, Metric, Param

    model_id = None if registered is None else registered.model_id
    if model_id:
        client.log_inputs(run.run_id, models=[LoggedModelInput(model_id)])
    now = int(utc_now().timestamp() * 1000)
    # One step a level: the UI draws latency and throughput over the levels.
    metrics = [
        Metric(
            key=f"load/{profile.name}/{name}",
            value=float(value),
            timestamp=now,
            step=step,
            model_id=model_id,
            run_id=run.run_id,
        )
        for step, level in enumerate(levels)
        for name, value in level.to_dict().items()
        if isinstance(value, (int, float)) and name != "stage"
    ]
    params = {
        "agent": agent,
        "agent_digest": agent_digest,
        "profile": profile.name,
        "profile_digest": profile.digest,
        "url": url[:500],
    }
    client.log_batch(
        run.run_id, metrics=metrics, params=[Param(name, value) for name, value in params.items()]
    )
