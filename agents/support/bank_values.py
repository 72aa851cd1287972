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
    if not all(_is_printable(char) for char in line):
        raise BankError(f"{name} holds characters that cannot be printed.")
    return line


def shortened_text(value: str, max_chars: int) -> str:
    """Return free text as one printable line of at most `max_chars` characters.

    For notes to people, where every message must get through: what cannot be printed becomes a
    space, and what is too long is cut.
    """
    printable = "".join(char if _is_printable(char) else " " for char in value)
    line = " ".join(printable.split()) or "(nothing readable)"
    return line if len(line) <= max_chars else line[: max_chars - 1] + "…"


def _is_printable(char: str) -> bool:
    # control, surrogate, unassigned; format characters hide what is really written
    return unicodedata.category(char) not in {"Cc", "Cs", "Cn", "Cf"}
