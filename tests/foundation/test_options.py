"""Picking an offered option in one's own words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_agent_plugin.foundation.planner.options import choose_option

TITLES = ["a lost or stolen card", "changing your PIN", "a pending transfer"]


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("", None),
        ("none of these", None),
        ("no", None),
        ("1", 0),
        ("the second one please", 1),
        ("option 3", 2),
        ("the last", 2),
        ("4", None),
        ("the first and the second", None),
        ("I mean changing the PIN", 1),
        ("my pending transfer", 2),
        ("yes", None),
        ("I lost my second card", 0),
    ],
)
def test_a_position_or_most_of_the_words_pick_one_option(text, index):
    assert choose_option(text, TITLES) == index


def test_yes_picks_the_only_option():
    assert choose_option("yes, that one", TITLES[:1]) == 0
    assert choose_option("no", TITLES[:1]) is None


@given(st.text(max_size=40), st.lists(st.text(max_size=20), max_size=5))
def test_the_answer_is_always_an_index_or_none(text, titles):
    index = choose_option(text, titles)
    assert index is None or 0 <= index < len(titles)
