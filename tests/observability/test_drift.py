"""check_drift on traffic: both ways, and through Evidently's own results."""

import html
import json
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from mlflow_agent_plugin.errors import ConfigError, DriftInputError
from mlflow_agent_plugin.observability.drift import (
    ColumnStatus,
    DriftRules,
    check_drift,
    check_windows,
    last_verdict,
    log_drift,
)
from mlflow_agent_plugin.observability.drift.features import (
    FEATURES,
    compare,
    measure,
    one_per_session,
)
from mlflow_agent_plugin.observability.drift.texts import text_novelty, unseen_words
from mlflow_agent_plugin.observability.schema import write_reference

NAMES = [feature.name for feature in FEATURES]


@pytest.fixture(scope="module")
def reference(traffic):
    return traffic(600, seed=1, prefix="r")


def plain(reference, current, **kwargs):
    return check_drift(reference, current, engine="plain", **kwargs)


def test_unshifted_traffic_is_no_drift(reference, traffic):
    verdict = plain(reference, traffic(400, seed=2))
    assert verdict.drifted is False, verdict.summary()
    assert {column.name for column in verdict.columns} == set(NAMES)


def test_new_kinds_of_requests_are_suspected_then_confirmed(reference, traffic):
    first = plain(reference, traffic(400, seed=3, novel=0.3, prefix="a"))
    assert (first.drifted, first.suspected) == (None, True)
    later = traffic(400, seed=4, novel=0.3, prefix="b")
    later["event_time"] += timedelta(days=1)
    second = plain(reference, later, previous=first)
    assert second.drifted is True
    assert {"confidence", "unseen_words", "text_novelty"} <= {
        column.name for column in second.columns if column.confirmed
    }


def test_five_rows_per_session_raise_no_more_alarms_than_one(traffic):
    rules = DriftRules(windows=1)
    alarms = [
        plain(
            traffic(300, seed=2 * seed, rows_per_session=5, prefix="r"),
            traffic(200, seed=2 * seed + 1, rows_per_session=5),
            rules=rules,
        ).drifted
        for seed in range(40)
    ]
    assert alarms.count(True) <= 2
    assert alarms.count(None) == 0


def test_a_session_counts_once_by_its_first_request(traffic):
    rows = traffic(30, seed=5, rows_per_session=4).sample(frac=1, random_state=0)
    kept = one_per_session(pd.concat([rows, rows]))
    assert len(kept) == 30
    assert set(kept["trace_id"]) == {f"t{4 * session}" for session in range(30)}


def test_the_same_session_name_of_two_tenants_is_two_sessions(traffic):
    rows = traffic(2, seed=5)
    rows["tenant"], rows["session_id"] = ["a", "b"], "same"
    assert len(one_per_session(rows)) == 2


def test_an_all_null_column_is_unknown_and_never_no_drift(reference, traffic):
    for column, feature in (("confidence", "confidence"), ("intent", "intent"), ("text", None)):
        current = traffic(400, seed=6)
        current[column] = None
        verdict = plain(reference, current)
        assert verdict.drifted is None, column
        assert (feature or "text_words") in verdict.unknown
    without = traffic(400, seed=6).drop(columns="confidence")
    assert "confidence" in plain(reference, without).unknown


def test_half_of_a_column_turned_null_is_named(reference, traffic):
    current = traffic(400, seed=7)
    current.loc[current.index % 2 == 0, "confidence"] = np.nan
    verdict = plain(reference, current)
    assert verdict.drifted is None
    assert "50% of its values are missing" in verdict.column("confidence").reason


def test_a_column_no_side_has_is_left_out(reference, traffic):
    start, current = reference.copy(), traffic(400, seed=8)
    start["confidence"], current["confidence"] = None, None
    verdict = plain(start, current)
    assert verdict.drifted is False
    assert verdict.column("confidence").status is ColumnStatus.NOT_COMPARED


def test_infinite_values_count_as_missing(reference, traffic):
    current = traffic(400, seed=9)
    current["seconds"] = np.inf
    assert "latency_ms" in plain(reference, current).unknown


@pytest.mark.parametrize("sessions", [0, 1, 99])
def test_a_tiny_window_is_unknown(reference, traffic, sessions):
    current = traffic(sessions, seed=10) if sessions else reference.iloc[:0]
    verdict = plain(reference, current)
    assert verdict.drifted is None
    assert "are needed" in verdict.summary()


def test_constant_columns_are_stable_until_they_change(reference, traffic):
    start, current = reference.copy(), traffic(400, seed=11)
    for frame in (start, current):
        frame["cost_usd"], frame["intent"], frame["text"] = 0.0, "only", "same words"
    assert plain(start, current).drifted is False
    current["cost_usd"] = 0.002
    changed = plain(start, current)
    assert changed.column("cost_microusd").status is ColumnStatus.STANDS_OUT


def test_empty_texts_on_both_sides_are_left_out(reference, traffic):
    start, current = reference.copy(), traffic(400, seed=12)
    start["text"], current["text"] = "", ""
    verdict = plain(start, current)
    assert verdict.column("unseen_words").status is ColumnStatus.NOT_COMPARED
    assert verdict.column("text_words").status is ColumnStatus.STABLE
    assert verdict.drifted is False


def test_latency_is_not_compared_with_an_evaluation(row, tmp_path):
    path = write_reference([row(n) for n in range(150)], tmp_path / "reference.parquet")
    slow = pd.DataFrame([row(n, seconds=60.0) for n in range(1000, 1150)])
    verdict = plain(path, slow)
    assert verdict.column("latency_ms").status is ColumnStatus.NOT_COMPARED
    assert verdict.drifted is False


def test_frames_that_cannot_be_compared_are_refused(reference, traffic):
    other = traffic(200, seed=1)
    other["agent"] = "another"
    odd = traffic(200, seed=1)
    odd["event_time"] = "soon"
    for current in (reference.drop(columns="session_id"), other, odd, 7, None):
        with pytest.raises(DriftInputError):
            plain(reference, current)
    for columns in ([], ["weather"]):
        with pytest.raises(DriftInputError, match="no such column"):
            plain(reference, reference, columns=columns)
    with pytest.raises(ConfigError):
        plain(reference, reference, report_dir="x")


def test_words_of_the_reference_are_as_new_to_it_as_those_of_the_window(traffic):
    generator = np.random.default_rng(13)
    texts = [" ".join(generator.zipf(1.3, 6).astype(str)) for _ in range(2000)]
    before, now = unseen_words(texts[:1000], texts[1000:])
    assert np.mean(before) == pytest.approx(np.mean(now), abs=0.02)
    assert unseen_words(["a b a"], ["a c", "", None]) == ([1.0], [0.5, None, None])


def test_the_text_classifier_scores_only_what_it_was_not_trained_on():
    before, now = text_novelty(["old words"] * 100, ["new things"] * 60)
    assert (np.isnan(before).sum(), np.isnan(now).sum()) == (50, 30)
    assert np.nanmin(now) > np.nanmax(before)


def test_measuring_leaves_the_random_state_of_the_process_alone(reference, traffic):
    np.random.seed(7)  # noqa: NPY002 - the global state is the point
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    plain(reference, traffic(200, seed=1))
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


def test_evidently_measures_exactly_what_the_plain_engine_does(reference, traffic):
    from mlflow_agent_plugin.observability.drift.evidently_run import measure_with_evidently

    gone = traffic(400, seed=15, novel=0.2)
    gone["confidence"] = None
    for current in (traffic(400, seed=14), traffic(400, seed=15, novel=0.2), gone):
        comparison = compare(reference, current)
        assert measure_with_evidently(comparison, DriftRules()) == measure(comparison)


def test_the_report_and_evidently_s_own_statuses_say_what_the_verdict_says(
    reference, traffic, tmp_path
):
    current = traffic(400, seed=16, novel=0.3)
    current.loc[current.index % 2 == 0, "seconds"] = np.nan
    verdict = check_drift(reference, current, report_dir=tmp_path / "report")
    assert verdict.suspected
    assert "latency_ms" in verdict.unknown
    page = (tmp_path / "report" / "drift.html").read_text()
    assert html.escape(verdict.power) in page
    assert "kolmogorov smirnov p-value" in page
    assert json.loads((tmp_path / "report" / "drift.json").read_text()) == verdict.to_dict()
    assert verdict.report == str(tmp_path / "report" / "drift.html")


def test_a_test_that_fails_inside_evidently_leaves_the_other_columns_and_is_unknown(
    reference, traffic, monkeypatch, tmp_path
):
    from mlflow_agent_plugin.observability.drift import features

    def broken(first, second):
        raise ZeroDivisionError

    monkeypatch.setitem(features.TESTS, "low_tail", broken)
    verdict = check_drift(reference, traffic(400, seed=17), report_dir=tmp_path)
    assert verdict.drifted is None
    assert verdict.unknown == ("confidence",)
    assert "ZeroDivisionError" in verdict.column("confidence").reason
    assert plain(reference, traffic(400, seed=17)).unknown == ("confidence",)


def test_a_window_without_any_testable_column_still_gets_a_report(reference, tmp_path):
    verdict = check_drift(reference, reference.iloc[:0], report_dir=tmp_path)
    assert verdict.drifted is None
    assert "are needed" in (tmp_path / "drift.html").read_text()


def test_windows_are_cut_by_sessions_or_hours_and_follow_each_other(reference, traffic):
    current = traffic(450, seed=18, novel=0.4, rows_per_session=2)
    verdicts = check_windows(reference, current, sessions=150)
    assert [v.window.sessions for v in verdicts] == [150, 150, 150]
    assert [v.drifted for v in verdicts] == [None, True, True]
    assert [v.window.sessions for v in check_windows(reference, current, sessions=200)] == [
        200,
        250,
    ]
    hourly = check_windows(reference, current, hours=24)
    assert [v.window.rows for v in hourly] == [900]
    assert check_windows(reference, current.iloc[:0], sessions=10) == []
    for wrong in ({}, {"sessions": 1, "hours": 1}, {"sessions": 0}, {"hours": -1}):
        with pytest.raises(ConfigError):
            check_windows(reference, current, **wrong)


def test_a_logged_verdict_is_found_again_by_its_version(reference, traffic, tracking, tmp_path):
    import mlflow

    client = mlflow.MlflowClient()
    client.create_registered_model("support")
    client.create_model_version("support", source=str(tmp_path))
    assert last_verdict("support", 1) is None
    verdict = check_drift(
        reference, traffic(200, seed=19), columns=["intent"], report_dir=tmp_path / "r"
    )
    run_id = log_drift(verdict, model_name="support", version=1)
    assert last_verdict("support", 1) == verdict
    assert last_verdict("support", 2) is None
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["agent.drift"] == "false"
    assert run.data.metrics["drift/sessions"] == 200
    assert {f.path for f in client.list_artifacts(run_id, "drift")} == {
        "drift/drift.html",
        "drift/drift.json",
    }
    assert client.get_model_version("support", 1).tags["monitoring.drift"] == run_id
