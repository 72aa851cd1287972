"""Plots a page holds itself: gaps stay gaps, texts stay texts, and all numbers can be read."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from mlflow_agent_plugin.interaction.web.console.plots import bars, lines


def drawn(figure):
    """Return the figure as XML: what a browser would have to mend does not parse."""
    return ET.fromstring(str(figure).replace("<ul class=legend>", '<ul class="legend">'))


def texts(figure):
    return " ".join(drawn(figure).itertext())


@pytest.mark.parametrize("make", [lines, bars])
def test_nothing_is_a_plot_too(make):
    assert "Requests" in texts(make("Requests", [], {"requests": []}))
    assert "\N{EN DASH}" in texts(make("Requests", ["Monday"], {"requests": [None]}))


def test_a_missing_value_breaks_the_line_and_is_no_zero():
    figure = drawn(lines("Speed", list("abcde"), {"p50": [1.0, 2.0, None, 3.0, 4.0]}, unit="s"))
    assert len(figure.findall(".//polyline")) == 2
    assert len(figure.findall(".//circle")) == 4


def test_one_day_is_a_point_without_a_line():
    figure = drawn(lines("Speed", ["a"], {"p50": [1.0]}))
    assert figure.findall(".//polyline") == []
    assert len(figure.findall(".//circle")) == 1


def test_hostile_names_are_text():
    figure = bars("<script>1</script>", ["<b>"], {'"><script>2</script>': [3.0]})
    assert "<script" not in str(figure)
    assert "<script>2</script>" in texts(figure)


def test_the_series_of_a_day_stand_on_one_another():
    figure = drawn(bars("Trouble", ["a"], {"denied": [3.0], "failed": [1.0]}))
    first, second = (item for item in figure.findall(".//rect") if item.find("title") is not None)
    bottom = float(second.get("y")) + float(second.get("height"))
    assert bottom == pytest.approx(float(first.get("y")), abs=0.11)
    assert float(first.get("height")) == pytest.approx(3 * float(second.get("height")), rel=0.02)


def test_every_value_stands_in_the_table_below():
    figure = lines("Share", ["Mon", "Tue"], {"denied": [0.031, 0.5]}, unit="rate")
    cells = [cell.text for cell in drawn(figure).findall(".//td")]
    assert cells == ["3.1 %", "50 %"]
