"""The drift verdict's rules, without data."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_agent_plugin.errors import ConfigError, DriftInputError
from mlflow_agent_plugin.observability.drift.judging import (
    adjust_p_values,
    detectable_shift,
    judge,
)
from mlflow_agent_plugin.observability.drift.verdict import (
    ColumnEvidence,
    ColumnStatus,
    DriftRules,
    DriftVerdict,
    Window,
)

RULES = DriftRules()


def window(number=1, *, sessions=1000, reference=1000, digest="r"):
    return Window(
        reference=digest,
        start=f"2026-01-{number:02}T00:00:00+00:00",
        end=f"2026-01-{number:02}T23:00:00+00:00",
        reference_sessions=reference,
        sessions=sessions,
        rows=sessions,
    )


def item(name="a", p=0.5, effect=0.0, **changes):
    return ColumnEvidence(
        **{
            "name": name,
            "test": "chi_square",
            "n_reference": 1000,
            "n_current": 1000,
            "p_value": p,
            "effect": effect,
            **changes,
        }
    )


SHIFTED = {"p": 1e-9, "effect": 0.5}


def test_nothing_to_compare_is_unknown_and_never_no_drift():
    verdict = judge([], window=window())
    assert verdict.drifted is None
    assert verdict.reasons == ("no column could be compared",)
    left = judge([item(left_out="not here")], window=window())
    assert left.drifted is None
    assert left.columns[0].status is ColumnStatus.NOT_COMPARED


def test_stable_columns_and_nothing_else_are_no_drift():
    verdict = judge([item("a"), item("b")], window=window())
    assert verdict.drifted is False
    assert verdict.summary().startswith("no drift: 2 columns are stable")


def test_one_window_only_raises_a_suspicion_and_the_next_confirms_it():
    first = judge([item(**SHIFTED), item("b")], window=window(1))
    assert (first.drifted, first.suspected) == (None, True)
    assert first.summary().startswith("drift suspected: a: differs")
    second = judge([item(**SHIFTED), item("b")], window=window(2), previous=first)
    assert second.drifted is True
    assert second.column("a").confirmed
    third = judge([item(**SHIFTED), item("b")], window=window(3), previous=second)
    assert third.drifted is True
    assert third.column("a").streak == 3


def test_a_second_window_with_another_column_confirms_nothing():
    first = judge([item(**SHIFTED), item("b")], window=window(1))
    second = judge([item("a"), item("b", **SHIFTED)], window=window(2), previous=first)
    assert (second.drifted, second.suspected) == (None, True)


def test_a_quiet_window_in_between_starts_the_count_again():
    first = judge([item(**SHIFTED)], window=window(1))
    quiet = judge([item()], window=window(2), previous=first)
    assert quiet.drifted is False
    assert judge([item(**SHIFTED)], window=window(3), previous=quiet).drifted is None


def test_an_unknown_window_in_between_neither_confirms_nor_clears():
    first = judge([item(**SHIFTED)], window=window(1))
    unknown = judge([item(error="ValueError")], window=window(2), previous=first)
    assert unknown.drifted is None
    assert judge([item(**SHIFTED)], window=window(3), previous=unknown).drifted is True


def test_the_named_column_needs_no_correction_over_the_others_when_it_confirms():
    many = [item(f"c{number}") for number in range(9)]
    first = judge([item(**SHIFTED), *many], window=window(1))
    weak = [item(p=0.004, effect=0.5), *many]
    assert judge(weak, window=window(2), previous=first).drifted is True
    assert judge(weak, window=window(2)).suspected is False


def test_a_significant_trifle_and_a_large_accident_are_both_stable():
    assert judge([item(p=1e-12, effect=0.009)], window=window()).drifted is False
    assert judge([item(p=0.2, effect=3.0)], window=window()).drifted is False


def test_a_failed_test_is_unknown():
    verdict = judge(
        [item("a", error="ValueError", p=None, effect=None), item("b")], window=window()
    )
    assert verdict.drifted is None
    assert verdict.unknown == ("a",)
    assert "a: its test failed: ValueError" in verdict.reasons


@pytest.mark.parametrize(
    "change",
    [
        {"p_value": None},
        {"p_value": float("nan")},
        {"p_value": -1.0},
        {"p_value": 1.5},
        {"effect": None},
        {"effect": float("nan")},
        {"effect": float("inf")},
    ],
)
def test_a_result_that_is_no_number_is_unknown(change):
    verdict = judge([item(**change), item("b")], window=window())
    assert verdict.drifted is None
    assert verdict.column("a").status is ColumnStatus.UNKNOWN


def test_values_that_went_missing_are_a_signal_even_when_the_rest_looks_alike():
    half = item(n_current=500, missing_current=500)
    verdict = judge([half, item("b")], window=window())
    assert verdict.drifted is None
    assert "50% of its values are missing (reference 0%)" in verdict.column("a").reason
    gone = item(n_current=0, missing_current=1000, p=None, effect=None)
    assert judge([gone], window=window()).column("a").status is ColumnStatus.UNKNOWN
    found = item(n_reference=0, missing_reference=1000, p=None, effect=None)
    assert judge([found], window=window()).column("a").status is ColumnStatus.UNKNOWN


def test_values_missing_as_often_as_before_are_no_signal():
    alike = item(n_reference=700, missing_reference=300, n_current=690, missing_current=310)
    assert judge([alike], window=window()).drifted is False


def test_a_column_neither_side_ever_had_is_left_out_and_says_so():
    never = item(
        n_reference=0,
        n_current=0,
        missing_reference=1000,
        missing_current=1000,
        p=None,
        effect=None,
    )
    verdict = judge([never, item("b")], window=window())
    assert verdict.drifted is False
    assert verdict.column("a").reason == "the reference has only 0 values"


def test_a_small_window_or_reference_is_unknown_whatever_it_shows():
    for small in (window(sessions=99), window(reference=99), window(sessions=0)):
        verdict = judge([item(**SHIFTED)], window=small)
        assert verdict.drifted is None
        assert verdict.suspected is False
        assert "are needed" in verdict.reasons[0]
        assert "no shift would have been seen" in verdict.power


def test_verdicts_on_another_reference_or_an_overlapping_window_do_not_count():
    first = judge([item(**SHIFTED)], window=window(1))
    for other in (window(2, digest="x"), window(1)):
        verdict = judge([item(**SHIFTED)], window=other, previous=first)
        assert verdict.drifted is None
        assert "does not count" in verdict.reasons[-1]


def test_confirmation_can_take_one_window_or_three():
    assert judge([item(**SHIFTED)], window=window(), rules=DriftRules(windows=1)).drifted is True
    verdict = None
    seen = []
    for number in range(1, 5):
        verdict = judge(
            [item(**SHIFTED)], window=window(number), rules=DriftRules(windows=3), previous=verdict
        )
        seen.append(verdict.drifted)
    assert seen == [None, None, True, True]


@pytest.mark.parametrize(
    "change",
    [
        {"alpha": 0},
        {"alpha": 1},
        {"effect_floor": -0.1},
        {"windows": 0},
        {"minimum_sessions": 1},
        {"missing_floor": 0},
        {"effect_floor": float("nan")},
    ],
)
def test_rules_that_make_no_sense_are_refused(change):
    with pytest.raises(ConfigError):
        DriftRules(**change)


def test_a_verdict_survives_json():
    first = judge([item(**SHIFTED), item("b", error="X")], window=window(1))
    assert DriftVerdict.from_dict(json.loads(json.dumps(first.to_dict()))) == first
    for senseless in ({}, {"columns": 3}, {**first.to_dict(), "extra": 1}):
        with pytest.raises(DriftInputError):
            DriftVerdict.from_dict(senseless)


def test_a_verdict_shows_itself_with_every_value_escaped():
    verdict = judge([item("<b>", error="<script>")], window=window())
    page = verdict._repr_html_()
    assert "<script>" not in page
    assert "&lt;b&gt;" in page


P = st.floats(0, 1)
evidence = st.builds(
    lambda name, p, effect, n, missing, error: item(
        name, p=p, effect=effect, n_current=n, missing_current=missing, error=error
    ),
    st.sampled_from("abcdefgh"),
    P | st.none(),
    st.floats(-1, 2) | st.none(),
    st.integers(0, 1000),
    st.integers(0, 1000),
    st.sampled_from([None, None, "ValueError"]),
)
evidences = st.lists(evidence, max_size=8, unique_by=lambda e: e.name)


@given(evidences, st.integers(0, 2000))
def test_no_drift_is_said_only_when_every_column_was_compared_and_stable(found, sessions):
    verdict = judge(found, window=window(sessions=sessions))
    if verdict.drifted is False:
        assert sessions >= RULES.minimum_sessions
        statuses = {column.status for column in verdict.columns}
        assert ColumnStatus.STABLE in statuses
        assert statuses <= {ColumnStatus.STABLE, ColumnStatus.NOT_COMPARED}
    assert verdict.drifted is not True
    assert verdict.reasons


@given(evidences, evidences)
def test_drift_is_said_only_about_columns_that_stood_out_in_both_windows(before, now):
    first = judge(before, window=window(1))
    second = judge(now, window=window(2), previous=first)
    if second.drifted:
        named = {c.name for c in first.columns if c.status is ColumnStatus.STANDS_OUT}
        confirmed = {c.name for c in second.columns if c.confirmed}
        assert confirmed
        assert confirmed <= named


@given(evidences)
def test_stronger_evidence_never_weakens_the_verdict(found):
    rank = {False: 0, None: 1, True: 2}
    first = judge(found, window=window(1))
    second = judge(found, window=window(2), previous=first)
    stronger = [
        replace(e, p_value=0.0, effect=9.0) if e.p_value is not None and e.effect is not None else e
        for e in found
    ]
    first = judge(stronger, window=window(1))
    assert rank[judge(stronger, window=window(2), previous=first).drifted] >= rank[second.drifted]


@given(st.lists(P, min_size=1, max_size=30))
def test_adjusted_p_values_are_those_of_scipy(p_values):
    from scipy.stats import false_discovery_control

    assert adjust_p_values(p_values) == pytest.approx(list(false_discovery_control(p_values)))


def test_more_data_shows_smaller_shifts_down_to_the_floor():
    shares = [detectable_shift(n, n, 10) for n in (99, 100, 1000, 10_000, 10**8)]
    assert shares[0] == 1.0
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == pytest.approx(0.035, abs=0.001)
    assert detectable_shift(1000, 1000, 0) == 1.0
