"""Simple, safe masks for text that is written to tables: e-mail, payment card, IBAN, phone.

Rules:
- A mask replaces the value, it never keeps a part of it; masking a masked text changes nothing.
- Cards must pass the Luhn check, IBANs the mod-97 check; any other run of nine or more digits is
  masked too, because a mistyped card number is still one.
- Every pattern is linear in the text's length: hostile text cannot slow it down.

This is a first cut: names, addresses, dates of birth and secrets pass through. The table therefore
still counts as personal data.
"""

from __future__ import annotations

import re

EMAIL = "<EMAIL>"
CARD = "<CARD>"
IBAN = "<IBAN>"
PHONE = "<PHONE>"
NUMBER = "<NUMBER>"

_EMAIL = re.compile(r"(?<![\w.%+-])[\w.%+-]{1,64}@\w[\w-]{0,62}(?:\.\w[\w-]{0,62}){1,8}")
_IBAN = re.compile(r"(?<!\w)[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]){11,30}")
_DIGITS = re.compile(r"(?<!\w)\+?\(?\d(?:[ ().\-/]{0,2}\d){8,63}(?!\d)")
_LOCAL_PHONE = re.compile(r"(?<![\w-])\d{3}-\d{4}(?![\w-])")


def mask_text(text: str) -> str:
    """Return `text` with e-mails, cards, IBANs, phones and other long numbers replaced.

    Examples:
        >>> mask_text("mail jo@example.org about 4111 1111 1111 1111")
        'mail <EMAIL> about <CARD>'
    """
    text = _EMAIL.sub(EMAIL, text)
    text = _IBAN.sub(_mask_iban, text)
    text = _DIGITS.sub(_mask_digits, text)
    return _LOCAL_PHONE.sub(PHONE, text)


def luhn_valid(digits: str) -> bool:
    """Return whether `digits` (decimal digits only) pass the Luhn check.

    Source: ISO/IEC 7812-1, annex B.
    """
    total = 0
    for position, character in enumerate(reversed(digits)):
        value = int(character)
        if position % 2:
            value = value * 2 - 9 if value > 4 else value * 2
        total += value
    return total % 10 == 0


def iban_valid(iban: str) -> bool:
    """Return whether `iban` (no spaces) passes the mod-97 check; source: ISO 13616-1."""
    if not iban.isascii() or not iban.isalnum():
        return False
    rearranged = iban[4:] + iban[:4]
    return int("".join(str(int(character, 36)) for character in rearranged)) % 97 == 1


def _mask_iban(match: re.Match[str]) -> str:
    # Words may follow the number and look like more of it: the longest valid prefix is the IBAN.
    found = match.group()
    for end in range(len(found), 14, -1):
        compact = found[:end].replace(" ", "")
        if found[end - 1] != " " and 15 <= len(compact) <= 34 and iban_valid(compact.upper()):
            return IBAN + found[end:]
    return found


def _mask_digits(match: re.Match[str]) -> str:
    digits = [character for character in match.group() if character.isdigit()]
    if 13 <= len(digits) <= 19 and luhn_valid("".join(digits)):
        return CARD
    return PHONE if len(digits) <= 15 else NUMBER
