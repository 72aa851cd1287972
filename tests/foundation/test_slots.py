"""Values in what users say. Today is Sunday, 22 November 2026."""

from datetime import date

import pytest
from helpers.growth import assert_linear
from hypothesis import given
from hypothesis import strategies as st

from mlflow_agent_plugin.foundation.planner.playbook import Slot
from mlflow_agent_plugin.foundation.planner.slots import find_slot, find_slots

TODAY = date(2026, 11, 22)
KINDS = ["amount", "date", "card_last4", "currency", "country", "text", "confirm"]


def find(kind, text, *, asked=False, **details):
    return find_slot(Slot(kind=kind, ask="ask", **details), text, today=TODAY, asked=asked)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["", "   ", "?!", "\x00", "\U0001f4b3"])
def test_nothing_is_found_in_nothing(kind, text):
    if kind == "text" and text.strip():
        return
    assert find(kind, text, asked=True) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("£45.50", 4550),
        ("I paid $1,200 yesterday", 120000),
        ("45 pounds", 4500),
        ("1.200,50 €", 120050),
        ("12,5 eur", 1250),
        ("EUR 12", 1200),
        ("500 yen", 500),
        ("KWD 1.250", 1250),
        ("1.2505 €", None),
        ("£1 or £2", None),
        ("£5 and again £5", 500),
        ("£0.005", None),
        ("50", None),
        ("card 1234", None),
        ("99999999999999999999 £", None),
    ],
)
def test_an_amount_needs_a_currency_and_is_in_minor_units(text, value):
    assert find("amount", text) == value


@pytest.mark.parametrize(
    ("text", "value"), [("50", 5000), ("it was 12.99", 1299), ("1 or 2", None), ("12.5.2", None)]
)
def test_a_bare_number_is_an_amount_where_one_was_asked_for(text, value):
    assert find("amount", text, asked=True) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("my card ending in 1234", "1234"),
        ("card 1234", "1234"),
        ("****4321", "4321"),
        ("it ends with 0007", "0007"),
        ("last four digits are 1111", "1111"),
        ("4111 1111 1111 1234", "1234"),
        ("I got my card in 2024", None),
        ("card stolen on 12/03/2026", None),
        ("card 1234 and card 9999", None),
        ("card 12345", None),
        ("call 0207 123 4567", None),
    ],
)
def test_a_card_must_show_that_it_is_one(text, value):
    assert find("card_last4", text) == value


@pytest.mark.parametrize(
    ("text", "value"), [("1234", "1234"), ("It's 1234.", "1234"), ("1234 or 5678", None)]
)
def test_four_digits_are_a_card_where_one_was_asked_for(text, value):
    assert find("card_last4", text, asked=True) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2026-01-05", "2026-01-05"),
        ("12/03/2026", "2026-03-12"),
        ("12 March", "2026-03-12"),
        ("March 12th, 2025", "2025-03-12"),
        ("24 December", "2025-12-24"),
        ("29 feb", "2024-02-29"),
        ("31/02/2026", None),
        ("yesterday", "2026-11-21"),
        ("the day before yesterday", "2026-11-20"),
        ("3 days ago", "2026-11-19"),
        ("a week ago", "2026-11-15"),
        ("last Friday", "2026-11-20"),
        ("on Sunday", "2026-11-15"),
        ("next Monday", "2026-11-23"),
        ("yesterday or today", None),
        ("99/99", None),
    ],
)
def test_a_date_is_a_calendar_day(text, value):
    assert find("date", text) == value


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("currency", "in dollars", "USD"),
        ("currency", "please try to pay", None),
        ("currency", "TRY", "TRY"),
        ("currency", "from pounds to euros", None),
        ("country", "I live in the US", "US"),
        ("country", "can you help us", None),
        ("country", "uk", "GB"),
        ("country", "Papua New Guinea", "PG"),
        ("country", "France and Spain", None),
    ],
)
def test_currencies_and_countries_are_codes(kind, text, value):
    assert find(kind, text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("yes please", True), ("no", False), ("I'm not sure", None), ("don\u2019t", False)],
)
def test_a_confirmation_is_clear_or_nothing(text, value):
    assert find("confirm", text, asked=True) is value


@pytest.mark.parametrize("kind", ["confirm", "text"])
def test_a_confirmation_or_free_text_is_never_taken_unasked(kind):
    assert find(kind, "yes, go ahead") is None


def test_the_longest_phrase_of_a_choice_wins_and_two_choices_are_none():
    choices = {"card": [], "virtual": ["virtual card"]}
    assert find("choice", "my Virtual card!", choices=choices) == "virtual"
    assert find("choice", "a card or virtual", choices=choices) is None
    assert find("choice", "postcard", choices=choices) is None


def test_a_pattern_gives_its_group_or_its_match():
    assert find("regex", "ref TX_12 ok", pattern=r"\b(tx_\d+)") == "TX_12"
    assert find("regex", "ref tx_12 ok", pattern=r"\btx_\d+") == "tx_12"
    assert find("regex", "tx_1 and tx_2", pattern=r"\btx_\d+") is None


def test_all_slots_are_found_at_once():
    slots = {"card": Slot(kind="card_last4", ask="a"), "sum": Slot(kind="amount", ask="a")}
    found = find_slots(slots, "£5 on card 1234", today=TODAY)
    assert found == {"card": "1234", "sum": 500}
    assert find_slots(slots, "£5 on card 1234", today=TODAY, skip={"sum"}) == {"card": "1234"}


@given(st.sampled_from(KINDS), st.text(max_size=60), st.booleans())
def test_any_text_gives_a_value_of_the_kind_or_none(kind, text, asked):
    value = find(kind, text, asked=asked)
    expected = {"amount": int, "confirm": bool}.get(kind, str)
    assert value is None or type(value) is expected


@given(st.integers(0, 10**9))
def test_pounds_and_pence_round_trip(pence):
    assert find("amount", f"£{pence // 100}.{pence % 100:02d}") == pence


@pytest.mark.parametrize("kind", KINDS)
def test_a_huge_message_is_searched_in_time_linear_in_its_length(kind):
    assert_linear(lambda size: find(kind, "1 " * size, asked=True), 50_000)
