"""The classes of sensitive data, and one place in a text where one was found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class DataClass(str, Enum):
    """What can be found by its form; names and addresses cannot (see `trust.privacy.presidio`)."""

    EMAIL = "email"
    CARD = "card"
    IBAN = "iban"
    PHONE = "phone"
    IP = "ip"
    URL = "url"
    US_SSN = "us_ssn"
    NUMBER = "number"
    """Any other run of nine or more digits: a mistyped card number is still one."""
    SECRET = "secret"  # noqa: S105 - the name of a class, not a secret
    """Keys, tokens and passwords."""


PRESIDIO_NAMES = {
    "CREDIT_CARD": DataClass.CARD,
    "EMAIL_ADDRESS": DataClass.EMAIL,
    "IBAN_CODE": DataClass.IBAN,
    "IP_ADDRESS": DataClass.IP,
    "PHONE_NUMBER": DataClass.PHONE,
    "URL": DataClass.URL,
    "US_SSN": DataClass.US_SSN,
}
"""What Microsoft Presidio calls our classes."""


@dataclass(frozen=True)
class Finding:
    """One sensitive value in a text: ``text[start:end]``.

    Attributes:
        data_class: Value of `DataClass`, or the name of a Presidio entity type.
    """

    data_class: str
    start: int
    end: int
