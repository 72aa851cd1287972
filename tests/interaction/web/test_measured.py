"""Plots of evidence say what they show, in numbers a reader of the page's text gets too."""

from __future__ import annotations

from mlflow_agent_plugin.interaction.web.console.measured import (
    distribution_plots,
    interval_plot,
    outcome_bar,
)
from mlflow_agent_plugin.registry.facts import LoadLevelFact, Measure
from mlflow_agent_plugin.registry.overview import CaseComparison, PairedOutcome
from mlflow_agent_plugin.registry.overview.cases import SuiteCases


def test_an_interval_has_both_its_limits():
    drawn = interval_plot(Measure(0.8, None, 10, 8), Measure(1.0, None, 10, 10))
    assert "this version 80.0%, 95% interval 49.0% to 94.3%" in drawn
    assert "the incumbent 100.0%, 95% interval 72.2% to 100.0%" in drawn
    assert drawn.count("<circle") == 2


def test_what_is_no_rate_has_no_interval():
    assert interval_plot(Measure(3.0, None, 10, None), None) == ""
    assert interval_plot(None, Measure(0.0, None, 0, 0)) == ""


def test_a_bar_is_as_long_as_its_cases_are_many():
    drawn = outcome_bar(PairedOutcome(right=2, fixed=1, broken=1), 8)
    assert "2 right in both, 1 fixed, 1 broken, 0 wrong in both" in drawn
    assert 'class="o-right" x="0.00" y="0" width="25.00"' in drawn
    assert "o-wrong" not in drawn


def test_cases_and_answers_of_both_versions_are_whole_distributions():
    level = LoadLevelFact(4, 100, 0, 0.5)
    tokens = [float(n) for n in range(1, 101)]
    found = CaseComparison(
        [SuiteCases("<s>", {}, (tokens, []), ([], []))], {"rush": ((level,), (level,))}
    )
    spent, speed = distribution_plots(found, 2, 1)
    assert "&lt;s&gt;: tokens of a case" in spent
    assert "<td>50</td>" in spent
    assert "Share of cases" in spent
    assert "version 1" not in spent
    assert "4 at once" in speed
    assert speed.count("<td>0.5</td>") == 2
