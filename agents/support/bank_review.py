"""Which of a customer's transactions a complaint can be about.

Rules:
- A complaint names a problem; each problem has one check, and the check says why a transaction is a
  candidate. What was confirmed with a chip and PIN, a phone or a mandate is never "not recognised".
- The customer's own words only narrow candidates down; they never add one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

from bank import CustomerView
from bank_reads import transaction_facts
from bank_values import money

PROBLEMS = (
    "charged_twice",
    "not_recognised",
    "wrong_amount",
    "wrong_rate",
    "fee",
    "pending",
    "declined",
    "reverted",
    "not_completed",
    "refund_missing",
    "refundable",
)
KINDS = ("card_payment", "cash_withdrawal", "direct_debit", "exchange", "fee", "merchant_refund")
REFUND_DAYS = 120
"""A refund can be asked for this many days after the payment."""

Check = Callable[[CustomerView, list[dict[str, Any]]], list[dict[str, Any]]]


def review_transactions(
    view: CustomerView, *, problem: str, kind: str | None = None, about: str | None = None
) -> dict[str, Any]:
    """Find the transactions a complaint can be about.

    Args:
        view: Whose.
        problem: One of `PROBLEMS`.
        kind: One of `KINDS`, to narrow it down.
        about: The customer's words; if they name a merchant, a day or a sum of one candidate and
            of no other, that is the one.
    """
    rows = [row for row in view.rows("transactions") if kind is None or row["kind"] == kind]
    found = _CHECKS[problem](view, rows)
    named = _named(found, about or "")
    if named:
        found = named
    found.sort(key=lambda fact: fact["booked_on"], reverse=True)
    only = found[0] if len(found) == 1 else None
    return {
        "candidates": found,
        "count": len(found),
        "transaction_id": only["transaction_id"] if only else None,
        "amount_minor": only["amount_minor"] if only else None,
    }


def _twice(_view: CustomerView, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    seen: set[tuple[Any, ...]] = set()
    found = []
    for row in rows:
        if row["direction"] == "out" and row["status"] in ("completed", "pending"):
            key = (row["kind"], row["description"], row["amount_minor"], row["booked_on"])
            if key in seen:
                found.append(
                    transaction_facts(row, "the same sum at the same place was charged before")
                )
            seen.add(key)
    return found


def _unrecognised(_view: CustomerView, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    weak = {
        "nothing": "nobody confirmed it with a PIN, a phone or a mandate",
        "magnetic_stripe": "the chip was not read, only the magnetic stripe",
    }
    return [
        transaction_facts(row, weak[row["authorised_by"]])
        for row in rows
        if row["direction"] == "out"
        and row["status"] == "completed"
        and row["authorised_by"] in weak
    ]


def _short(_view: CustomerView, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        transaction_facts(
            row, f"the machine counted out only {money(row['dispensed_minor'], row['currency'])}"
        )
        for row in rows
        if row["dispensed_minor"] is not None and row["dispensed_minor"] < row["amount_minor"]
    ]


def _badly_exchanged(_view: CustomerView, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        transaction_facts(
            row,
            f"the rate was {row['rate_used']} {row['foreign_currency']} for one {row['currency']}, "
            f"the day's rate {row['rate_of_day']}",
        )
        for row in rows
        if row["rate_used"] is not None and row["rate_used"] < row["rate_of_day"]
    ]


def _with_fee(_view: CustomerView, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for row in rows:
        if row["kind"] == "fee":
            found.append(transaction_facts(row, "a fee of its own"))
        elif row["fee_minor"]:
            found.append(
                transaction_facts(
                    row, f"it includes a fee of {money(row['fee_minor'], row['currency'])}"
                )
            )
    return found


def _in_status(status: str, note: str) -> Check:
    def check(_view: CustomerView, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            transaction_facts(row, row["reason"] or note)
            for row in rows
            if row["status"] == status and row["direction"] == "out"
        ]

    return check


def _not_completed(view: CustomerView, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        fact
        for problem in ("pending", "declined", "reverted")
        for fact in _CHECKS[problem](view, rows)
    ]


def _refund_missing(_view: CustomerView, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        transaction_facts(row, "the merchant has sent it and it is not booked yet")
        for row in rows
        if row["kind"] == "merchant_refund" and row["status"] == "pending"
    ]


def may_be_refunded(row: dict[str, Any], today: date) -> bool:
    """Tell whether a payment is recent enough to ask for a refund."""
    return date.fromisoformat(row["booked_on"]) >= today - timedelta(days=REFUND_DAYS)


def _refundable(view: CustomerView, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    asked = {row["transaction_id"] for row in view.rows("refunds", "status != 'refused'")}
    return [
        transaction_facts(row, "")
        for row in rows
        if row["kind"] == "card_payment"
        and row["direction"] == "out"
        and row["status"] == "completed"
        and row["transaction_id"] not in asked
        and may_be_refunded(row, view.today)
    ]


_CHECKS = {
    "charged_twice": _twice,
    "not_recognised": _unrecognised,
    "wrong_amount": _short,
    "wrong_rate": _badly_exchanged,
    "fee": _with_fee,
    "pending": _in_status("pending", "the other side has not confirmed it yet"),
    "declined": _in_status("declined", "it was declined"),
    "reverted": _in_status("reverted", "the money came back"),
    "not_completed": _not_completed,
    "refund_missing": _refund_missing,
    "refundable": _refundable,
}

_COMMON_WORDS = {
    "cash",
    "machine",
    "the",
    "and",
    "for",
    "refund",
    "payment",
    "card",
    "charge",
    "charged",
    "from",
    "with",
    "that",
    "this",
    "eur",
}


def _words(text: str) -> set[str]:
    return {
        word
        for word in re.findall(r"[^\W_]{4,}|\d+[.,]\d{2}", text.casefold().replace(",", "."))
        if word not in _COMMON_WORDS
    }


def _named(found: list[dict[str, Any]], about: str) -> list[dict[str, Any]]:
    """Return the candidates whose merchant, day or sum the words name best; [] if none."""
    wanted = _words(about)
    scores = [
        len(wanted & _words(f"{fact['description']} {fact['amount']} {fact['transaction_id']}"))
        + 2 * (fact["booked_on"] in about)
        for fact in found
    ]
    best = max(scores, default=0)
    return [fact for fact, score in zip(found, scores, strict=True) if best and score == best]
