"""Values the bank accepts and spells out."""

from __future__ import annotations

import unicodedata

from bank_errors import BankError


def money(amount_minor: int, currency: str) -> str:
    """Spell out a sum, e.g. ``12.40 EUR``."""
    return f"{amount_minor // 100}.{amount_minor % 100:02d} {currency}"


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not one of a closed list.

    Raises:
        BankError: `value` is not allowed.
    """
    if value not in allowed:
        raise BankError(f"{name} must be one of {', '.join(allowed)}.")


def clean_text(name: str, value: str, max_chars: int) -> str:
    """Return `value` as one clean line.

    Raises:
        BankError: It is empty, too long, or holds characters no text should.
    """
    if not isinstance(value, str):
        raise BankError(f"{name} must be text.")
    line = " ".join(value.split())
    if not line:
        raise BankError(f"{name} must not be empty.")
    if len(line) > max_chars:
        raise BankError(f"{name} must have at most {max_chars} characters.")
    # control, surrogate and unassigned characters; format characters hide what is really written
    if any(unicodedata.category(char) in {"Cc", "Cs", "Cn", "Cf"} for char in line):
        raise BankError(f"{name} holds characters that cannot be printed.")
    return line
