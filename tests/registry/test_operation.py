"""What was seen in operation counts at the gate: load tests, drift reports, soaking, comments."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from mlflow.exceptions import MlflowException
from sqlalchemy import text

from mlflow_agent_plugin.registry import (
    comment,
    gate_report,
    promote,
    request_promotion,
    verify_registry,
)
from mlflow_agent_plugin.registry.facts import DriftFact, GateFacts, LoadFact, LoadLevelFact
from mlflow_agent_plugin.registry.gate import evaluate
from mlflow_agent_plugin.registry.report import Status
from mlflow_agent_plugin.registry.requirements import (
    DriftRequirement,
    EvidenceAgeRequirement,
    LoadRequirement,
    SoakRequirement,
)

NOW = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
DIGEST = "sha256:" + "a" * 64
FACTS = GateFacts(
    name="m", version=2, slot="Production", now=NOW, content_digest=DIGEST, author="bob"
)


def status(rule, facts):
    return next(item for item in evaluate([rule], facts).results if item.kind == rule.kind).status


def loaded(*levels, profile="steady", **changes):
    found = tuple(LoadLevelFact(*level) for level in levels)
    fact = LoadFact(profile, DIGEST, DIGEST, "run", found, NOW - timedelta(hours=1), **changes)
    return replace(FACTS, loads=(fact,))


LOAD = LoadRequirement(kind="load", concurrency=10, p95_seconds=0.5, error_rate=0.05)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (FACTS, Status.UNKNOWN),
        (loaded(), Status.UNKNOWN),
        (loaded((5, 1000, 0, 0.1)), Status.UNKNOWN),
        (loaded((10, 99, 0, 0.1)), Status.UNKNOWN),
        (loaded((10, 100, 0, 0.5)), Status.MET),
        (loaded((10, 100, 0, 0.51)), Status.UNMET),
        (loaded((10, 100, 0, float("nan"))), Status.UNMET),
        (loaded((10, 1000, 10, 0.1)), Status.MET),
        (loaded((10, 1000, 60, 0.1)), Status.UNMET),
        (loaded((10, 100, 3, 0.1)), Status.UNMET),  # 3 of 100 may be 8 of 100
        (loaded((20, 100, 0, 0.1), (5, 100, 100, 9.0)), Status.MET),
        (loaded((20, 100, 0, 0.1), (12, 100, 0, 9.0)), Status.UNMET),
        (loaded((10, 100, 0, 0.1), problem="signed by nobody trusted"), Status.UNKNOWN),
    ],
)
def test_a_load_test_counts_at_its_concurrency_or_the_next_one_measured(facts, expected):
    assert status(LOAD, facts) is expected


def test_every_profile_has_to_hold_unless_one_is_named():
    good, bad = loaded((10, 100, 0, 0.1)), loaded((10, 100, 0, 9.0), profile="peak")
    both = replace(FACTS, loads=good.loads + bad.loads)
    assert status(LOAD, both) is Status.UNMET
    assert status(LOAD.model_copy(update={"profile": "steady"}), both) is Status.MET
    assert status(LOAD.model_copy(update={"profile": "other"}), both) is Status.UNKNOWN


def test_the_age_of_a_load_test_counts_like_that_of_any_evidence():
    facts = loaded((10, 100, 0, 0.1))
    age = EvidenceAgeRequirement(kind="evidence_max_age", hours=2)
    old = evaluate([LOAD, age], replace(facts, now=NOW + timedelta(hours=2)))
    assert [item.status for item in old.missing if item.kind == "evidence_max_age"] == [
        Status.UNMET
    ]
    assert evaluate([LOAD, age], facts).passed


def report(word="no drift", by="monitor", hours=1.0, **changes):
    at = NOW - timedelta(hours=hours)
    return DriftFact(word, "why", at, by, verified=True, run_id="run", **changes)


DRIFT = DriftRequirement(kind="drift", max_age_hours=24)


@pytest.mark.parametrize(
    ("reports", "expected"),
    [
        ((), Status.UNKNOWN),
        ((report(),), Status.MET),
        ((report(hours=25),), Status.UNKNOWN),
        ((report("drift"),), Status.UNMET),
        ((report("drift", hours=999),), Status.UNMET),
        ((report("drift", hours=2), report(hours=1)), Status.MET),
        ((report(hours=2), report("drift", hours=1)), Status.UNMET),
        ((report("unknown"),), Status.UNKNOWN),
        ((report("drift suspected"),), Status.UNKNOWN),
        ((report("what"),), Status.UNKNOWN),
        ((report(by="Bob "),), Status.UNKNOWN),
        ((report("drift", by="bob"),), Status.UNMET),
        ((replace(report(), verified=False),), Status.UNKNOWN),
    ],
)
def test_only_a_recent_report_without_drift_by_somebody_else_is_enough(reports, expected):
    assert status(DRIFT, replace(FACTS, drift_reports=reports)) is expected


@pytest.mark.parametrize(
    ("asked", "stood", "seen", "expected"),
    [
        ({"hours": 24}, None, 0, Status.UNMET),
        ({"hours": 24}, 23, 0, Status.UNMET),
        ({"hours": 24}, 24, 0, Status.MET),
        ({"sessions": 100}, 1, 99, Status.UNMET),
        ({"sessions": 100}, 1, 100, Status.MET),
        ({"sessions": 100, "hours": 24}, 1, 100, Status.UNMET),
    ],
)
def test_soaking_takes_time_sessions_or_both(asked, stood, seen, expected):
    half = NOW - timedelta(minutes=30)
    facts = replace(
        FACTS,
        stood_hours={} if stood is None else {"Staging": stood},
        drift_reports=(
            report(sessions=seen, since=half),
            report(sessions=10**6, since=NOW - timedelta(days=9)),  # before it stood there
            report(sessions=10**6, since=None),
            replace(report(sessions=10**6, since=half), verified=False),
        ),
    )
    assert status(SoakRequirement(kind="soak", slot="Staging", **asked), facts) is expected


def test_a_soak_that_asks_for_nothing_is_malformed():
    with pytest.raises(ValueError, match="hours, sessions"):
        SoakRequirement(kind="soak", slot="Staging")


GATE = """
apiVersion: mlflow-agents/v1
allow_unverified: true
protected:
  Production:
    - {kind: load, profile: steady, concurrency: 10, p95_seconds: 0.5, error_rate: 0.05}
    - {kind: drift}
"""


def load_run(world, *, key=None, seconds=0.1, tamper=None):
    """Log a signed load test about version 1; return its run."""
    from mlflow_agent_plugin.entities import utc_now
    from mlflow_agent_plugin.trust.evidence import (
        LoadRequest,
        LoadStage,
        load_statement,
        requests_table,
        sign_load,
    )
    from mlflow_agent_plugin.trust.keys import KeyStore

    table = requests_table(
        LoadRequest(stage=0, number=n, due=n / 10, seconds=seconds, result="ok", status=200)
        for n in range(200)
    )
    run_id = world.client.create_run("0").info.run_id
    statement = load_statement(
        agent="shelf",
        agent_digest=world.digest(1),
        profile="steady",
        profile_digest=DIGEST,
        table=table,
        stages=[LoadStage(stage=0, model="closed", users=10, rate=None, seconds=20)],
        run_id=run_id,
        measured_at=utc_now(),
    )
    folder = world.folder / "load" / run_id / "steady"
    folder.mkdir(parents=True)
    (folder / "requests.jsonl").write_bytes(table)
    (folder / "load.dsse.json").write_text(
        json.dumps(sign_load(statement, key or KeyStore().signing_key()))
    )
    if tamper is not None:
        tamper(folder)
    world.client.log_artifacts(run_id, str(folder), "load/steady")
    return run_id


def drift_run(world, drifted, *, version=1, start="2026-01-01T00:00:00+00:00"):
    """Log a drift verdict as observability does; return its run."""
    import mlflow

    from mlflow_agent_plugin.observability.drift import DriftVerdict, log_drift
    from mlflow_agent_plugin.observability.drift.verdict import Window

    mlflow.set_registry_uri(world.registry_uri)
    verdict = DriftVerdict(
        drifted=drifted,
        suspected=False,
        columns=(),
        reasons=("seen",),
        power="",
        window=Window("sha256:x", start, "2026-01-02T00:00:00+00:00", 500, 300, 900),
    )
    return log_drift(verdict, model_name="shelf", version=version)


def kinds(world):
    return {
        item.kind: item.status.value
        for item in gate_report("shelf", 1, to="Production", client=world.client).results
    }


def test_a_signed_load_test_and_a_drift_report_open_the_gate(world, monkeypatch):
    world.register("one", gate=GATE)
    with pytest.raises(MlflowException, match="load test"):
        promote("shelf", 1, to="Production", client=world.client)
    world.client.set_model_version_tag("shelf", "1", "agent.load_evidence", load_run(world))
    monkeypatch.setenv("MLFLOW_AGENTS_ACTOR", "monitor")
    drift_run(world, False)
    promote("shelf", 1, to="Production", client=world.client)
    tags = world.client.get_model_version("shelf", "1").tags
    assert {"agent.load.steady", "monitoring.drift"} <= set(tags)
    assert verify_registry(world.client).ok
    drift_run(world, True, start="2026-01-03T00:00:00+00:00")
    assert kinds(world)["drift"] == "unmet"
    assert len(world.events("drift_detected")) == 1


def test_a_load_test_by_a_stranger_or_with_edited_requests_is_refused(world):
    from mlflow_agent_plugin.trust.keys import SigningKey

    def faster(folder):
        path = folder / "requests.jsonl"
        path.write_text(path.read_text().replace('"seconds":9', '"seconds":0.1'))

    world.register("one", gate=GATE)
    for run_id in (
        load_run(world, key=SigningKey.generate()),
        load_run(world, seconds=9, tamper=faster),
    ):
        with pytest.raises(MlflowException):
            world.client.set_model_version_tag("shelf", "1", "agent.load_evidence", run_id)
    assert kinds(world)["load"] == "unknown"


def test_a_drift_report_that_cannot_be_used_hides_no_older_one(world, monkeypatch):
    world.register("one", gate=GATE)
    monkeypatch.setenv("MLFLOW_AGENTS_ACTOR", "monitor")
    drift_run(world, False)
    assert kinds(world)["drift"] == "met"
    for run_id in ("nope", world.client.create_run("0").info.run_id, "../../etc/passwd"):
        world.client.set_model_version_tag("shelf", "1", "monitoring.drift", run_id)
        assert kinds(world)["drift"] == "unknown"
    world.register("two", gate=GATE)
    run_id = drift_run(world, False, version=2)
    world.client.set_model_version_tag("shelf", "1", "monitoring.drift", run_id)
    assert kinds(world)["drift"] == "unknown"


@pytest.mark.parametrize("column", ["results", "envelope", "recorded_by", "evaluated_at"])
def test_an_edited_row_of_a_load_test_or_report_is_noticed(world, monkeypatch, column):
    world.register("one", gate=GATE)
    monkeypatch.setenv("MLFLOW_AGENTS_ACTOR", "monitor")
    world.client.set_model_version_tag("shelf", "1", "agent.load_evidence", load_run(world))
    drift_run(world, True)
    value = "x'00'" if column == "results" else "'2030-01-01T00:00:00+00:00'"
    with world.store.engine.begin() as connection:
        connection.execute(text(f"UPDATE agent_evidence SET {column} = {value}"))
    assert len(verify_registry(world.client).problems) >= 2
    if column == "results":
        assert kinds(world)["load"] == "unknown"
        return
    with pytest.raises(MlflowException, match="past the registry"):
        kinds(world)


def test_comments_are_kept_and_shown_and_decide_nothing(world):
    world.register("one")
    with pytest.raises(MlflowException, match="no open request"):
        comment("shelf", 1, to="Production", comment="hm", client=world.client)
    request_promotion("shelf", 1, to="Production", client=world.client)
    comment("shelf", 1, to="Production", comment="why now? <b>", by="alice", client=world.client)
    comment("shelf", 1, to="Production", comment="week 46", client=world.client)
    tags = world.client.get_model_version("shelf", "1").tags
    shown = json.loads(tags["agent.comments.Production"])
    assert [(item["user"], item["comment"]) for item in shown] == [
        ("alice", "why now? <b>"),
        ("bob", "week 46"),
    ]
    assert not gate_report("shelf", 1, to="Production", client=world.client).passed
    with world.store.engine.begin() as connection:
        connection.execute(text("UPDATE agent_promotion_comments SET comment = 'yes'"))
    assert not verify_registry(world.client).ok
