"""Kill switches from the command line: thrown, listed, undone, with wrong usage told apart."""

from __future__ import annotations

import pytest


def test_nothing_is_stopped_at_first(cli):
    assert cli("switch", "list").out == "switches: none\n"
    assert cli("switch", "list", "--json").json == []


def test_a_switch_is_listed_with_who_and_why_until_it_is_started_again(cli):
    words = ("tool", "desk/pay", "--as", "olga")
    thrown = cli("switch", "stop", *words, "--reason", "pays twice", "--json").json
    assert (thrown["stopped"], thrown["changed_by"]) == (True, "olga")
    listed = cli("switch", "list").words
    assert "tool desk/pay stopped" in listed
    assert "olga pays twice" in listed
    assert "started: tool desk/pay" in cli("switch", "start", *words, "--reason", "mended").out
    assert cli("switch", "list", "--json").json == []
    (kept,) = cli("switch", "list", "--all", "--json").json
    assert (kept["stopped"], kept["reason"]) == (False, "mended")
    shown = cli("audit", "show").words
    assert "switch_stopped olga" in shown
    assert "desk/pay" in shown


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("stop", "world", "x", "--reason", "y"), 2, "world"),
        (("stop", "tool", "x"), 2, "--reason"),
        (("stop", "tool", " ", "--reason", "y"), 1, "name"),
        (("start", "agent", "x", "--reason", "y"), 1, "is not stopped"),
    ],
)
def test_what_makes_no_sense_is_said_and_changes_nothing(cli, words, code, said):
    assert said in cli("switch", *words, code=code).err
    assert cli("switch", "list", "--all", "--json").json == []
