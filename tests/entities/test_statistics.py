"""The statistics of evaluation against published values and their own laws."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_agent_plugin.entities import statistics as s

counts = st.integers(min_value=0, max_value=400)


# --- rates ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe 1998, Stat. Med. 17:857-872, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_intervals_are_those_of_the_literature(successes, n, low, high):
    found = s.wilson_interval(successes, n)
    assert found == pytest.approx((low, high), abs=5e-5)


def test_no_trials_leave_the_whole_range():
    assert s.wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("successes", "n"), [(-1, 5), (6, 5), (0, -1)])
def test_counts_that_make_no_sense_are_refused(successes, n):
    with pytest.raises(ValueError, match="between 0 and n"):
        s.wilson_interval(successes, n)


@pytest.mark.parametrize("confidence", [0.0, 1.0, -1.0, 95.0, math.nan])
def test_a_confidence_outside_of_zero_and_one_is_refused(confidence):
    with pytest.raises(ValueError, match="confidence"):
        s.wilson_interval(1, 2, confidence=confidence)


@settings(deadline=None)
@given(counts, counts)
def test_a_wilson_interval_holds_the_rate_and_mirrors_its_complement(a, b):
    low, high = s.wilson_interval(a, a + b)
    assert 0.0 <= low <= high <= 1.0
    if a + b:
        assert low <= a / (a + b) <= high
        mirrored = s.wilson_interval(b, a + b)
        assert (1 - high, 1 - low) == pytest.approx(mirrored, abs=1e-12)


@settings(deadline=None)
@given(counts, counts)
def test_more_confidence_means_a_wider_interval(a, b):
    narrow = s.wilson_interval(a, a + b, confidence=0.9)
    wide = s.wilson_interval(a, a + b, confidence=0.99)
    assert wide[0] <= narrow[0]
    assert narrow[1] <= wide[1]


# --- pairs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("only_a", "only_b", "p"), [(0, 0, 1.0), (1, 9, 0.021484375), (5, 5, 1.0)])
def test_mcnemar_is_the_exact_binomial_test(only_a, only_b, p):
    assert s.mcnemar_exact(only_a, only_b) == pytest.approx(p)


@settings(deadline=None)
@given(counts, counts)
def test_mcnemar_agrees_with_scipy(only_a, only_b):
    from scipy.stats import binomtest

    n = only_a + only_b
    expected = binomtest(only_a, n).pvalue if n else 1.0
    assert s.mcnemar_exact(only_a, only_b) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_stands_thousands_of_pairs():
    assert s.mcnemar_exact(20_000, 20_000) == 1.0
    assert 0.0 <= s.mcnemar_exact(0, 20_000) < 1e-300


def test_negative_counts_are_refused():
    with pytest.raises(ValueError, match="negative"):
        s.mcnemar_exact(-1, 2)
    with pytest.raises(ValueError, match="do not fit"):
        s.paired_difference(3, 3, 5)


def test_tangos_example_of_lens_disinfection_gives_his_numbers():
    # Tango 1998, Stat. Med. 17:891-908: 43, 0, 1, 0 pairs; z = 1.709 against a margin of 0.1,
    # 90% interval -0.096 to 0.037.
    found = s.non_inferiority(0, 1, 44, margin=0.1, confidence=0.9)
    assert found.holds
    assert found.p_value == pytest.approx(0.0437, abs=1e-4)
    assert (found.difference.low, found.difference.high) == pytest.approx((-0.096, 0.037), abs=6e-4)


def test_without_discordant_pairs_the_interval_is_the_score_interval_around_zero():
    z = 1.959963984540054
    found = s.paired_difference(0, 0, 100)
    assert found.high == pytest.approx(z * z / (100 + z * z))
    assert found.low == pytest.approx(-found.high)
    assert found.p_value == 1.0


@settings(deadline=None)
@given(counts, counts, counts)
def test_a_paired_interval_holds_the_difference_and_mirrors_the_other_side(only_a, only_b, rest):
    n = only_a + only_b + rest
    found = s.paired_difference(only_a, only_b, n)
    assert -1.0 <= found.low <= found.difference <= found.high <= 1.0
    swapped = s.paired_difference(only_b, only_a, n)
    assert (-swapped.high, -swapped.low) == pytest.approx((found.low, found.high), abs=1e-9)


@settings(deadline=None)
@given(counts, counts, counts, st.floats(min_value=0.001, max_value=0.5))
def test_non_inferiority_by_interval_and_by_test_are_one_decision(only_a, only_b, rest, margin):
    n = only_a + only_b + rest
    found = s.non_inferiority(only_a, only_b, n, margin=margin)
    if n and abs(found.p_value - 0.025) > 1e-6:
        assert found.holds is (found.p_value < 0.025)


def test_without_pairs_nothing_is_shown_to_be_not_worse():
    found = s.non_inferiority(0, 0, 0, margin=0.1)
    assert not found.holds
    assert found.p_value == 1.0
    assert (found.difference.low, found.difference.high) == (-1.0, 1.0)


@pytest.mark.parametrize("margin", [0.0, 1.0, -0.1, math.nan])
def test_a_margin_outside_of_zero_and_one_is_refused(margin):
    with pytest.raises(ValueError, match="margin"):
        s.non_inferiority(1, 1, 10, margin=margin)


# --- means ---------------------------------------------------------------------------------------


def test_the_bootstrap_agrees_with_scipys_bca_interval():
    import numpy as np
    from scipy.stats import bootstrap

    draw = np.random.default_rng(3)
    a = draw.exponential(size=120)
    found = s.bootstrap_mean_difference(list(a), [0.0] * 120, resamples=4000, seed=1)
    expected = bootstrap((a,), np.mean, n_resamples=4000, method="BCa", rng=draw)
    interval = expected.confidence_interval
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=0.02)
    assert found.difference == pytest.approx(float(a.mean()))


def test_the_same_seed_gives_the_same_interval():
    a, b = [1.0, 4.0, 2.0, 8.0], [1.0, 2.0, 3.0, 4.0]
    first = s.bootstrap_mean_difference(a, b, seed=7)
    assert first == s.bootstrap_mean_difference(a, b, seed=7)
    assert first.low <= first.difference <= first.high


def test_a_difference_that_never_varies_has_no_width():
    found = s.bootstrap_mean_difference([2.0] * 5, [1.0] * 5)
    assert (found.low, found.difference, found.high) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("a", "b", "problem"),
    [
        ([], [], "no pairs"),
        ([1.0], [1.0, 2.0], "cannot be paired"),
        ([math.nan], [1.0], "finite"),
        ([math.inf], [1.0], "finite"),
    ],
)
def test_values_that_cannot_be_compared_are_refused(a, b, problem):
    with pytest.raises(ValueError, match=problem):
        s.bootstrap_mean_difference(a, b)


def test_too_few_resamples_are_refused():
    with pytest.raises(ValueError, match="resamples"):
        s.bootstrap_mean_difference([1.0], [2.0], resamples=10)


# --- planning ------------------------------------------------------------------------------------


def test_the_detectable_difference_solves_connors_sample_size():
    # Connor 1987: n = (z_a sqrt(psi) + z_b sqrt(psi - d^2))^2 / d^2
    found = s.minimum_detectable_difference(3080, discordance=0.05)
    needed = (1.959964 * math.sqrt(0.05) + 0.841621 * math.sqrt(0.05 - found**2)) ** 2 / found**2
    assert needed == pytest.approx(3080, rel=1e-4)
    assert found == pytest.approx(0.01128, abs=1e-5)


@settings(deadline=None)
@given(st.integers(min_value=1, max_value=5000), st.floats(min_value=0, max_value=1))
def test_more_cases_show_smaller_differences(n, discordance):
    few = s.minimum_detectable_difference(n, discordance=discordance)
    many = s.minimum_detectable_difference(4 * n, discordance=discordance)
    assert 0.0 < many <= few <= 1.0


def test_no_cases_show_nothing():
    assert s.minimum_detectable_difference(0, discordance=0.1) == 1.0


@pytest.mark.parametrize("bad", [{"n": -1}, {"discordance": 1.5}, {"power": 1.0}])
def test_impossible_plans_are_refused(bad):
    arguments = {"n": 10, "discordance": 0.1, **bad}
    with pytest.raises(ValueError, match="n must be"):
        s.minimum_detectable_difference(arguments.pop("n"), **arguments)


# --- repeated runs -------------------------------------------------------------------------------


def test_variance_is_split_between_cases_and_runs():
    # Balanced one-way ANOVA by hand: case means 1, 3; within squares 0.5 + 0.5, 2 degrees.
    found = s.split_variance([[0.5, 1.5], [2.5, 3.5]])
    assert found.mean == 2.0
    assert found.between_runs == pytest.approx(0.5)
    assert found.between_cases == pytest.approx(2.0 - 0.25)
    assert found.standard_error == pytest.approx(1.0)


def test_one_run_per_case_says_nothing_about_runs():
    found = s.split_variance([[0.0], [1.0], [1.0]])
    assert found.between_runs == 0.0
    assert found.between_cases == pytest.approx(1 / 3)


@pytest.mark.parametrize("values", [[], [[]], [[1.0], [1.0, 2.0]]])
def test_unbalanced_runs_are_refused(values):
    with pytest.raises(ValueError, match="same number of runs"):
        s.split_variance(values)
