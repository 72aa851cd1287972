"""The tests behind the verdict: uniform when nothing changed, sharp when something did."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mlflow_agent_plugin.errors import DriftInputError
from mlflow_agent_plugin.observability.drift.statistics import (
    category_effect,
    chi_square_p,
    greater_p,
    kolmogorov_smirnov_p,
    low_tail_p,
    number_effect,
)

ALL = [
    chi_square_p,
    kolmogorov_smirnov_p,
    low_tail_p,
    greater_p,
    category_effect,
    number_effect,
]


@pytest.mark.parametrize("function", ALL)
def test_an_empty_sample_is_refused(function):
    with pytest.raises(DriftInputError):
        function([], [1.0])
    with pytest.raises(DriftInputError):
        function([1.0], [])


@pytest.mark.parametrize("function", [chi_square_p, kolmogorov_smirnov_p, low_tail_p, greater_p])
def test_a_constant_on_both_sides_is_no_difference(function):
    assert function([1.0] * 200, [1.0] * 300) == 1.0
    assert number_effect([1.0] * 200, [1.0] * 300) == 0.0
    assert category_effect(["x"] * 200, ["x"] * 300) == 0.0


@pytest.mark.parametrize("function", [chi_square_p, kolmogorov_smirnov_p, low_tail_p, greater_p])
def test_p_values_are_calibrated_when_nothing_changed(function):
    generator = np.random.default_rng(1)
    draw = (
        (lambda n: generator.zipf(1.5, n).clip(max=80).astype(str))
        if function is chi_square_p
        else generator.standard_normal
    )
    found = np.array([function(draw(600), draw(300)) for _ in range(1000)])
    assert stats.binomtest(int((found < 0.05).sum()), 1000, 0.05, "greater").pvalue > 1e-3
    assert stats.binomtest(int((found < 0.005).sum()), 1000, 0.005, "greater").pvalue > 1e-3
    assert (found < 0.5).mean() > 0.4


def test_one_unseen_category_is_a_small_count_and_no_certainty():
    reference = ["a"] * 500 + ["b"] * 400
    assert chi_square_p(reference, ["a"] * 499 + ["b"] * 400 + ["new"]) > 0.3


def test_rare_categories_are_pooled_and_hide_no_common_one():
    generator = np.random.default_rng(2)
    rare = [f"rare{number}" for number in range(300)]
    assert chi_square_p(rare, list(generator.permutation(rare))) == 1.0
    assert chi_square_p(["a"] * 300 + rare, ["a"] * 100 + rare) < 1e-6


def test_effects_are_about_zero_without_a_shift_whatever_the_size():
    generator = np.random.default_rng(3)
    for n, m in ((100, 100), (1000, 100), (20_000, 20_000)):
        found = [
            number_effect(generator.standard_normal(n), generator.standard_normal(m))
            for _ in range(200)
        ]
        assert abs(np.mean(found)) < 0.1 * 9 * (1 / n + 1 / m)


def test_the_effect_of_a_shift_is_its_stability_index():
    reference = ["a"] * 50_000 + ["b"] * 50_000
    current = ["a"] * 60_000 + ["b"] * 40_000
    assert category_effect(reference, current) == pytest.approx(0.2 * np.log(1.5) / 2, rel=0.01)


def test_the_low_tail_test_sees_a_few_unsure_requests_that_others_miss():
    generator = np.random.default_rng(4)
    tail, plain = [], []
    for _ in range(100):
        reference = generator.beta(6, 2, 3000)
        current = np.concatenate([generator.beta(6, 2, 930), generator.beta(1.5, 4, 70)])
        tail.append(low_tail_p(reference, current))
        plain.append(kolmogorov_smirnov_p(reference, current))
    assert (np.array(tail) < 0.001).mean() > 2 * (np.array(plain) < 0.001).mean()


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=60),
    st.lists(st.integers(0, 5), min_size=1, max_size=60),
)
def test_every_test_gives_a_probability_and_a_finite_effect(reference, current):
    for function in (chi_square_p, kolmogorov_smirnov_p, low_tail_p, greater_p):
        assert 0 <= function(reference, current) <= 1
    for function in (category_effect, number_effect):
        assert np.isfinite(function(reference, current))


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=60),
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=60),
)
def test_exchanging_the_samples_changes_no_two_sided_p_value(a, b):
    for function in (chi_square_p, kolmogorov_smirnov_p):
        assert function(a, b) == pytest.approx(function(b, a))
    assert low_tail_p(a, b) == pytest.approx(low_tail_p(b, a), abs=1e-9)
