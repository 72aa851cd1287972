"""Masks for text that is written to tables."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_agent_plugin.observability.masking import iban_valid, luhn_valid, mask_text


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("", ""),
        ("why is my card not working?", "why is my card not working?"),
        ("I paid 1,234.56 on 12/03 at 10:30", "I paid 1,234.56 on 12/03 at 10:30"),
        ("mail jo.b+x@mail.example.org.", "mail <EMAIL>."),
        ("4111 1111 1111 1111", "<CARD>"),
        ("4111-1111-1111-1111, thanks", "<CARD>, thanks"),
        ("378282246310005", "<CARD>"),
        ("4111 1111 1111 1112", "<NUMBER>"),
        ("GB29 NWBK 6016 1331 9268 19 please", "<IBAN> please"),
        ("de89370400440532013000", "<IBAN>"),
        ("call +44 20 7946 0958", "call <PHONE>"),
        ("call (020) 7946-0958 now", "call <PHONE> now"),
        ("555-1234", "<PHONE>"),
        ("order 12345678", "order 12345678"),
    ],
)
def test_a_mask_replaces_the_whole_value_and_nothing_else(text, masked):
    assert mask_text(text) == masked


@given(st.text())
def test_masking_a_masked_text_changes_nothing(text):
    once = mask_text(text)
    assert mask_text(once) == once


@given(st.integers(10**12, 10**18), st.sampled_from(["", " ", "-"]))
def test_no_long_number_survives_whether_its_check_digit_is_right_or_not(number, between):
    digits = between.join(str(number)[i : i + 4] for i in range(0, len(str(number)), 4))
    assert not any(character.isdigit() for character in mask_text(f"card {digits} ok"))


@pytest.mark.parametrize("unit", ["a", "1", "1 ", "a@", "GB29", "(1", "+1-", "a.", "\u0661"])
def test_hostile_text_takes_no_longer_than_its_length_deserves(unit):
    begun = time.perf_counter()
    mask_text(unit * (200_000 // len(unit)))
    assert time.perf_counter() - begun < 5


def test_check_digits_follow_the_standards():
    assert luhn_valid("4111111111111111")
    assert not luhn_valid("4111111111111112")
    assert iban_valid("GB29NWBK60161331926819")
    assert not iban_valid("GB29NWBK60161331926818")
    assert not iban_valid("GB29 NWBK")
