"""What counts as sensitive data in a text, and masks for it."""

import pytest
from helpers.growth import assert_linear
from hypothesis import given
from hypothesis import strategies as st

from mlflow_agent_plugin.entities.sensitive import (
    DataClass,
    card_valid,
    find_sensitive,
    iban_valid,
    luhn_valid,
    mask_text,
)


def values(text, *classes):
    found = find_sensitive(text, classes) if classes else find_sensitive(text)
    return [(finding.data_class, text[finding.start : finding.end]) for finding in found]


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
        ("4111\u200b1111\u00a01111\u20111111", "<CARD>"),
        ("my 2 cards 4111 1111 1111 1111 and 5500 0000 0000 0004", "my 2 cards <CARD> and <CARD>"),
        ("on 2024-01-31 4111 1111 1111 1111", "on 2024-01-31 <CARD>"),
        ("card4111111111111111", "card<CARD>"),
        ("GB29 NWBK 6016 1331 9268 19 please", "<IBAN> please"),
        ("de89370400440532013000", "<IBAN>"),
        ("flight ab123 out of new york and back", "flight ab123 out of new york and back"),
        ("call +44 20 7946 0958", "call <PHONE>"),
        ("call (020) 7946-0958 now", "call <PHONE> now"),
        ("555-1234", "<PHONE>"),
        ("Fax: 345-899-3560x4587", "Fax: <PHONE>"),
        ("call me on 9472 7916", "call me on <PHONE>"),
        ("I live at 9472 7916 Bond Street", "I live at 9472 7916 Bond Street"),
        ("order 12345678", "order 12345678"),
        ("order 1234567890123", "order <NUMBER>"),
        ("my ssn is 514-69-0360", "my ssn is <US_SSN>"),
        ("from 10.20.30.40 or 2001:db8::8a2e:370:7334", "from <IP> or <IP>"),
        ("at 12:30:45, std::vector, version 1.2.3", "at 12:30:45, std::vector, version 1.2.3"),
        ("see https://example.org/help?a=1", "see https://example.org/help?a=1"),
        ("https://x.example/?to=jo@example.org&n=1", "https://x.example/?to=<EMAIL>&n=1"),
    ],
)
def test_a_mask_replaces_the_whole_value_and_nothing_else(text, masked):
    assert mask_text(text) == masked


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("key AKIAIOSFODNN7EXAMPLE.", "AKIAIOSFODNN7EXAMPLE"),
        ("ghp_" + "a1B2" * 9, "ghp_" + "a1B2" * 9),
        ("PASSWORD = 'hunter-22'", "hunter-22"),
        ('{"api_key": "abc123def"}', "abc123def"),
        ("aws_secret_access_key=wJalrXUtnFEMI/K7MDENG", "wJalrXUtnFEMI/K7MDENG"),
        ("Authorization: Bearer abcdef0123456789abcdef", "abcdef0123456789abcdef"),
        ("postgresql://agents:s3cret!@db:5432/x", "s3cret!"),
        ("eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJqbyJ9.c2lnbmF0dXJl0", None),
        ("-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----", None),
        ("-----BEGIN EC PRIVATE KEY-----\nMIIB and no end", None),
    ],
)
def test_keys_tokens_and_passwords_are_secrets(text, secret):
    assert (DataClass.SECRET.value, secret or text) in values(text)
    assert (secret or "MIIB") not in mask_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "my password is not working",
        "Password: required",
        "the secret: patience",
        "basic information about authentication",
        "What is an API key=?",
    ],
)
def test_words_about_passwords_are_not_secrets(text):
    assert values(text, DataClass.SECRET) == []


def test_a_class_that_is_not_asked_for_hides_nothing():
    text = "4111111111111111@example.org"
    assert values(text) == [("email", text)]
    assert values(text, DataClass.CARD) == [("card", "4111111111111111")]


def test_a_url_keeps_what_no_other_class_claims():
    assert values("https://x.example/?to=jo@example.org&n=1.") == [
        ("url", "https://x.example/?to="),
        ("email", "jo@example.org"),
        ("url", "&n=1"),
    ]


@given(st.text())
def test_masking_a_masked_text_changes_nothing(text):
    once = mask_text(text)
    assert mask_text(once) == once


@given(st.text(alphabet="a1 -@.:/+(4G9B\u0664=x"))
def test_findings_are_sorted_disjoint_and_inside_the_text(text):
    end = 0
    for finding in find_sensitive(text):
        assert end <= finding.start < finding.end <= len(text)
        end = finding.end


@given(st.integers(10**12, 10**18), st.sampled_from(["", " ", "-"]))
def test_no_long_number_survives_whether_its_check_digit_is_right_or_not(number, between):
    digits = between.join(str(number)[i : i + 4] for i in range(0, len(str(number)), 4))
    assert not any(character.isdigit() for character in mask_text(f"card {digits} ok"))


HOSTILE = ["a", "1", "1 ", "a@", "GB29", "(1", "+1-", "a.", "\u0661", "eyJ", "password=", "http://"]
HOSTILE += ["-----BEGIN PRIVATE KEY-----", "a:", "1:", "www.", "4111 1111 1111 1111 ", "/a://b:"]


@pytest.mark.parametrize("unit", HOSTILE)
def test_hostile_text_takes_no_longer_than_its_length_deserves(unit):
    assert_linear(lambda size: find_sensitive(unit * (size // len(unit))), 20_000)


def test_check_digits_follow_the_standards():
    assert luhn_valid("4111111111111111")
    assert not luhn_valid("4111111111111112")
    assert card_valid("4111111111111111")
    assert not card_valid("1700000000000")
    assert iban_valid("GB29NWBK60161331926819")
    assert not iban_valid("GB29NWBK60161331926818")
    assert not iban_valid("GB29 NWBK")


@given(st.text("AKIghpousrxbeyJzbearpwdsct_ ", max_size=19))
def test_a_few_words_without_digits_or_marks_hold_nothing_by_any_pattern(text):
    # They are not searched: padded to twenty characters, with the same neighbours, they are.
    assert find_sensitive(text) == []
    padded = f"{text}{' ' * (20 - len(text))}."
    assert find_sensitive(padded) == []


@given(st.text("AKIBxobearpwd0123456789 -_", max_size=14))
def test_a_short_text_of_few_digits_holds_nothing_by_any_pattern(text):
    if sum(character.isdigit() for character in text) > 6:
        return
    assert find_sensitive(text) == []
    assert mask_text(text) == text
    assert find_sensitive(f"{text}{' ' * (20 - len(text))}.") == []
