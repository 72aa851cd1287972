"""When to retrain."""

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_agent_plugin.errors import ConfigError
from mlflow_agent_plugin.lifecycle.triggers import (
    RuleStatus,
    Signals,
    TriggerPolicy,
    decide,
    load_policy,
)
from mlflow_agent_plugin.observability.drift.verdict import (
    ColumnStatus,
    ColumnVerdict,
    DriftVerdict,
    Window,
)
from mlflow_agent_plugin.observability.environment.verdict import (
    EnvironmentPart,
    EnvironmentVerdict,
    PartKind,
    PartStatus,
)
from mlflow_agent_plugin.observability.metrics import TaskMetric

NOW = datetime(2026, 5, 1, tzinfo=timezone.utc)
DRIFT = {"name": "drift", "when": "drift_confirmed"}


def policy(*rules, cooldown_hours=24.0):
    return TriggerPolicy.model_validate(
        {"apiVersion": "mlflow-agents/v1", "cooldown_hours": cooldown_hours, "rules": list(rules)}
    )


def verdict(drifted, *confirmed, suspected=False):
    return DriftVerdict(
        drifted=drifted,
        suspected=suspected or bool(confirmed),
        columns=tuple(
            ColumnVerdict(name, "t", ColumnStatus.STANDS_OUT, "r", confirmed=True)
            for name in confirmed
        ),
        reasons=("because",),
        power="",
        window=Window("r", None, None, 1, 1, 1),
    )


def rate(value, low, high):
    return {"escalation_rate": TaskMetric(value, 100, "rate", low, high)}


def status(rule, **signals):
    return decide(policy(rule), Signals(NOW, **signals)).results[0].status


def test_nothing_known_starts_nothing_and_says_what_is_unknown():
    rules = [
        DRIFT,
        {"name": "blind", "when": "drift_unknown"},
        {"name": "escalations", "when": "metric", "metric": "escalation_rate", "above": 0.2},
        {"name": "labels", "when": "new_labels", "at_least": 10},
        {"name": "age", "when": "age", "days": 30},
        {"name": "outside", "when": "environment_changed"},
    ]
    decision = decide(policy(*rules), Signals(NOW))
    assert decision.fire is False
    assert {result.status for result in decision.results} == {RuleStatus.UNKNOWN}
    assert "unknown: drift, blind" in decision.summary()


def test_confirmed_drift_starts_the_pipeline_with_its_reason():
    decision = decide(policy(DRIFT), Signals(NOW, drift=[verdict(True, "confidence")]))
    assert decision.fire
    assert decision.summary() == "start: drift: drift is confirmed in confidence"
    assert decision.to_dict()["results"][0]["status"] == "met"


@pytest.mark.parametrize(
    ("drifted", "expected"), [(False, RuleStatus.UNMET), (None, RuleStatus.UNKNOWN)]
)
def test_no_drift_is_unmet_and_unknown_drift_is_unknown(drifted, expected):
    assert status(DRIFT, drift=[verdict(True, "intent"), verdict(drifted)]) is expected


def test_drift_in_another_column_than_the_rule_names_is_unmet():
    rule = {**DRIFT, "columns": ["intent"]}
    assert status(rule, drift=[verdict(True, "tokens")]) is RuleStatus.UNMET
    assert status(rule, drift=[verdict(True, "tokens", "intent")]) is RuleStatus.MET


def test_monitoring_that_was_blind_for_long_is_a_reason_of_its_own():
    rule = {"name": "blind", "when": "drift_unknown", "windows": 2}
    assert status(rule, drift=[verdict(None)]) is RuleStatus.UNKNOWN
    assert status(rule, drift=[verdict(None), verdict(None)]) is RuleStatus.MET
    assert status(rule, drift=[verdict(None), verdict(False)]) is RuleStatus.UNMET
    suspected = verdict(None, suspected=True)
    assert status(rule, drift=[verdict(None), suspected]) is RuleStatus.UNMET


def test_a_metric_must_lie_beyond_its_bound_with_its_whole_interval_in_every_window():
    rule = {"name": "e", "when": "metric", "metric": "escalation_rate", "above": 0.2, "windows": 2}
    high, unsure = rate(0.4, 0.3, 0.5), rate(0.4, 0.19, 0.6)
    assert status(rule, metrics=[high]) is RuleStatus.UNKNOWN
    assert status(rule, metrics=[high, high]) is RuleStatus.MET
    assert status(rule, metrics=[high, unsure]) is RuleStatus.UNMET
    assert status({**rule, "sure": False}, metrics=[high, unsure]) is RuleStatus.MET
    assert status(rule, metrics=[high, {}]) is RuleStatus.UNKNOWN
    assert status(rule, metrics=[high, rate(None, 0, 1)]) is RuleStatus.UNKNOWN
    below = {"name": "c", "when": "metric", "metric": "escalation_rate", "below": 0.35}
    assert status(below, metrics=[rate(0.1, 0.05, 0.2)] * 2) is RuleStatus.MET
    assert status(below, metrics=[unsure] * 2) is RuleStatus.UNMET


def test_labels_and_age_count():
    labels = {"name": "l", "when": "new_labels", "at_least": 10}
    assert status(labels, new_labels=9) is RuleStatus.UNMET
    assert status(labels, new_labels=10) is RuleStatus.MET
    age = {"name": "a", "when": "age", "days": 30}
    assert status(age, version_created_at=NOW - timedelta(days=29)) is RuleStatus.UNMET
    assert status(age, version_created_at=NOW - timedelta(days=31)) is RuleStatus.MET


def test_a_cool_down_holds_back_a_met_rule_and_keeps_its_reason():
    signals = Signals(
        NOW, drift=[verdict(True, "intent")], last_started_at=NOW - timedelta(hours=23)
    )
    decision = decide(policy(DRIFT), signals)
    assert decision.fire is False
    assert decision.summary().startswith("cooling down until 2026-05-01T01:00:00")
    assert decision.reasons() == ["drift: drift is confirmed in intent"]
    assert decide(policy(DRIFT, cooldown_hours=23), signals).fire is True


def environment(*parts):
    return EnvironmentVerdict(
        "a",
        "sha256:aa",
        "2026-01-01",
        tuple(EnvironmentPart(kind, "n", status, "here", ("why",)) for kind, status in parts),
    )


TOOL, KNOWLEDGE = PartKind.TOOL, PartKind.KNOWLEDGE


@pytest.mark.parametrize(
    ("rule", "parts", "expected"),
    [
        ({}, [], RuleStatus.UNKNOWN),
        ({}, [(TOOL, PartStatus.SAME)], RuleStatus.UNMET),
        ({}, [(TOOL, PartStatus.SAME), (KNOWLEDGE, PartStatus.UNKNOWN)], RuleStatus.UNKNOWN),
        ({}, [(TOOL, PartStatus.UNKNOWN), (KNOWLEDGE, PartStatus.CHANGED)], RuleStatus.MET),
        ({}, [(TOOL, PartStatus.COMPATIBLE)], RuleStatus.UNMET),
        ({"compatible": True}, [(TOOL, PartStatus.COMPATIBLE)], RuleStatus.MET),
        ({"kinds": ["tool"]}, [(KNOWLEDGE, PartStatus.CHANGED)], RuleStatus.UNKNOWN),
        (
            {"kinds": ["tool"]},
            [(TOOL, PartStatus.SAME), (KNOWLEDGE, PartStatus.CHANGED)],
            RuleStatus.UNMET,
        ),
    ],
)
def test_an_environment_that_changed_is_a_reason_and_one_nobody_could_read_is_unknown(
    rule, parts, expected
):
    found = {"name": "outside", "when": "environment_changed", **rule}
    assert status(found, environment=environment(*parts)) is expected


@given(st.integers(0, 400), st.integers(0, 100), st.integers(-50, 50))
def test_nothing_fires_during_a_cool_down_and_everything_met_fires_after_it(labels, hours, since):
    rules = policy(
        {"name": "l", "when": "new_labels", "at_least": 200}, cooldown_hours=float(hours)
    )
    started = NOW - timedelta(hours=since)
    decision = decide(rules, Signals(NOW, new_labels=labels, last_started_at=started))
    assert decision.fire == (labels >= 200 and since >= hours)
    assert (decision.cooling_until is None) == (since >= hours)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty"),
        ("rules: []", "rules"),
        ("apiVersion: mlflow-agents/v1\nrules: []", "rules"),
        ("apiVersion: mlflow-agents/v1\nrules: [{name: a, when: never}]", "when"),
        ("apiVersion: mlflow-agents/v1\nrules: [{name: a, when: age}]", "days"),
        (
            (
                "apiVersion: mlflow-agents/v1\nrules:\n"
                "  - {name: a, when: metric, metric: weather, above: 1}"
            ),
            "must be one of",
        ),
        (
            (
                "apiVersion: mlflow-agents/v1\nrules:\n"
                "  - {name: a, when: metric, metric: requests, above: 1, below: 2}"
            ),
            "either above or below",
        ),
        (
            (
                "apiVersion: mlflow-agents/v1\nrules:\n"
                "  - {name: a, when: age, days: 1}\n  - {name: a, when: age, days: 2}"
            ),
            "more than once",
        ),
        (
            "apiVersion: mlflow-agents/v1\ncolour: red\nrules: [{name: a, when: age, days: 1}]",
            "colour",
        ),
    ],
)
def test_a_malformed_trigger_file_is_one_error_that_names_the_file(tmp_path, text, problem):
    path = tmp_path / "triggers.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=problem) as caught:
        load_policy(path)
    assert "triggers.yaml" in str(caught.value)


def test_the_project_s_own_trigger_file_is_in_order(project):
    assert load_policy(project / "pipelines" / "triggers.yaml").rules


def test_a_decision_shows_itself_with_its_texts_escaped():
    page = decide(policy(DRIFT), Signals(NOW, drift=[verdict(True, "<script>")]))._repr_html_()
    assert "<script>" not in page
