"""What the bank can tell a customer.

Each function takes the customer's view of the bank and returns a JSON object. Sums come twice: in
minor units for calculating, and spelled out (``"12.40 EUR"``) for an answer. ``explanation`` is a
whole sentence in the bank's words; descriptions and counterparties are other people's words.
"""

from __future__ import annotations

from typing import Any

from bank import BankError, CustomerView
from bank_values import money

RATES_PER_EUR = {
    "EUR": 1.0,
    "GBP": 0.86,
    "USD": 1.09,
    "CHF": 0.95,
    "AUD": 1.66,
    "CAD": 1.49,
    "DKK": 7.46,
    "JPY": 163.5,
    "NOK": 11.6,
    "PLN": 4.3,
    "SEK": 11.3,
}
"""The day's rate: units of each currency for one euro."""

EXCHANGE_FEE_PERCENT = 0.5

_CARD_STATES = {
    "inactive": "is not activated yet",
    "active": "is active",
    "cancelled": "is cancelled",
    "used": "was a disposable card and has been used: it works for one payment only",
}


def get_account(view: CustomerView) -> dict[str, Any]:
    """Return the customer's account and contact details."""
    customer = view.rows("customers")[0]
    account = view.rows("accounts")[0]
    return {
        "account_id": account["account_id"],
        "status": account["status"],
        "currency": account["currency"],
        "balance_minor": account["balance_minor"],
        "balance": money(account["balance_minor"], account["currency"]),
        "name": customer["name"],
        "email": customer["email"],
        "phone": customer["phone"],
        "address": f"{customer['address_line']}, {customer['city']} {customer['postcode']}",
        "identity": customer["identity"],
        "app": customer["app"],
    }


def list_cards(
    view: CustomerView,
    *,
    status: str | None = None,
    kind: str | None = None,
    last4: str | None = None,
    pin: str | None = None,
) -> dict[str, Any]:
    """Return the customer's cards; ``card_id`` is set if exactly one fits."""
    found = [
        card_facts(card)
        for card in view.rows("cards")
        if (status is None or card["status"] == status)
        and (kind is None or card["kind"] == kind)
        and (last4 is None or card["last4"] == last4)
        and (pin is None or card["pin"] == pin)
    ]
    only = found[0] if len(found) == 1 else None
    return {"cards": found, "count": len(found), "card_id": only["card_id"] if only else None}


def card_facts(card: dict[str, Any]) -> dict[str, Any]:
    """Return what a customer may know of a card."""
    name = f"Your {card['kind']} card ending in {card['last4']}"
    if card["status"] == "frozen":
        state = f"is frozen because it was reported {card['frozen_reason']}"
    else:
        state = _CARD_STATES[card["status"]]
    sentence = f"{name} {state}"
    if card["pin"] == "blocked":
        sentence += "; its PIN is blocked after three wrong tries"
    if card["status"] in ("active", "inactive"):
        sentence += f"; it expires on {card['expires_on']}"
    return {
        "card_id": card["card_id"],
        "kind": card["kind"],
        "scheme": card["scheme"],
        "last4": card["last4"],
        "status": card["status"],
        "frozen_reason": card["frozen_reason"],
        "pin": card["pin"],
        "expires_on": card["expires_on"],
        "explanation": sentence + ".",
    }


def track_card_delivery(view: CustomerView) -> dict[str, Any]:
    """Return the cards that are on their way or arrived without being activated."""
    found = []
    for card in view.rows("cards", "delivery != 'none' AND status = 'inactive'"):
        state = {
            "ordered": "is being made",
            "dispatched": "is in the post",
            "delivered": "was delivered",
        }[card["delivery"]]
        when = "on" if card["delivery"] == "delivered" else "and should arrive by"
        found.append(
            {
                "card_id": card["card_id"],
                "last4": card["last4"],
                "delivery": card["delivery"],
                "expected_on": card["expected_on"],
                "explanation": f"Your card ending in {card['last4']} {state} {when} "
                f"{card['expected_on']}.",
            }
        )
    return {"deliveries": found, "count": len(found)}


def list_transactions(
    view: CustomerView, *, kind: str | None = None, status: str | None = None, limit: int = 10
) -> dict[str, Any]:
    """Return the customer's latest transactions, newest first."""
    found = [
        row
        for row in view.rows("transactions")
        if (kind is None or row["kind"] == kind) and (status is None or row["status"] == status)
    ]
    found.sort(key=lambda row: row["booked_on"], reverse=True)
    return {
        "transactions": [transaction_facts(row, "") for row in found[:limit]],
        "count": len(found),
    }


def get_transfer_status(
    view: CustomerView, *, direction: str | None = None, statuses: list[str] | None = None
) -> dict[str, Any]:
    """Return the customer's transfers, newest first, each with an explanation."""
    found = [
        transfer_facts(row)
        for row in view.rows("transfers")
        if (direction is None or row["direction"] == direction)
        and (statuses is None or row["status"] in statuses)
    ]
    found.sort(key=lambda fact: fact["created_on"], reverse=True)
    only = found[0] if len(found) == 1 else None
    return {
        "transfers": found,
        "count": len(found),
        "transfer_id": only["transfer_id"] if only else None,
    }


def transfer_facts(row: dict[str, Any]) -> dict[str, Any]:
    """Return what a customer may know of a transfer."""
    sum_text = money(row["amount_minor"], row["currency"])
    way = "to" if row["direction"] == "out" else "from"
    sentence = f"Your transfer of {sum_text} {way} {row['counterparty']} of {row['created_on']}"
    if row["status"] == "pending":
        sentence += f" is on its way and should be there by {row['expected_on']}"
    elif row["status"] == "completed" and row["direction"] == "out":
        sentence += " has left us; the receiving bank may take two more working days to show it"
    elif row["status"] == "completed":
        sentence += " has arrived"
    else:
        sentence += f" was {row['status']}: {row['reason']}"
    if row["fee_minor"]:
        sentence += f"; the fee was {money(row['fee_minor'], row['currency'])}"
    return {
        "transfer_id": row["transfer_id"],
        "direction": row["direction"],
        "counterparty": row["counterparty"],
        "status": row["status"],
        "amount_minor": row["amount_minor"],
        "amount": sum_text,
        "fee_minor": row["fee_minor"],
        "created_on": row["created_on"],
        "explanation": sentence + ".",
    }


def get_top_up_status(
    view: CustomerView, *, statuses: list[str] | None = None, methods: list[str] | None = None
) -> dict[str, Any]:
    """Return the customer's top-ups, newest first, each with an explanation."""
    found = []
    for row in view.rows("top_ups"):
        if (statuses is None or row["status"] in statuses) and (
            methods is None or row["method"] in methods
        ):
            sum_text = money(row["amount_minor"], row["currency"])
            method, state = row["method"].replace("_", " "), row["status"].replace("_", " ")
            sentence = f"Your top-up of {sum_text} by {method} of {row['created_on']}: {state}"
            found.append(
                {
                    "top_up_id": row["top_up_id"],
                    "method": row["method"],
                    "status": row["status"],
                    "amount_minor": row["amount_minor"],
                    "amount": sum_text,
                    "created_on": row["created_on"],
                    "explanation": sentence + (f", {row['reason']}." if row["reason"] else "."),
                }
            )
    found.sort(key=lambda fact: fact["created_on"], reverse=True)
    return {"top_ups": found, "count": len(found)}


def get_exchange_rate(view: CustomerView, *, base: str, quote: str) -> dict[str, Any]:
    """Return the day's rate between two currencies.

    Raises:
        BankError: The bank does not hold one of them.
    """
    for code in (base, quote):
        if code not in RATES_PER_EUR:
            raise BankError(f"We do not hold {code[:8]}; we hold {', '.join(RATES_PER_EUR)}.")
    return {
        "base": base,
        "quote": quote,
        "rate": round(RATES_PER_EUR[quote] / RATES_PER_EUR[base], 4),
        "fee_percent": EXCHANGE_FEE_PERCENT,
        "as_of": str(view.today),
    }


def get_verification_status(view: CustomerView) -> dict[str, Any]:
    """Return how far the customer's identity check has come."""
    identity = view.rows("customers")[0]["identity"]
    sentence = {
        "verified": "Your identity is verified; there is nothing more to do.",
        "pending": "We have your documents and are checking them; this takes up to an hour.",
        "unverified": "Your identity is not verified yet.",
    }[identity]
    return {"identity": identity, "explanation": sentence}


def transaction_facts(row: dict[str, Any], note: str) -> dict[str, Any]:
    """Return what a customer may know of a transaction, with `note` as its explanation."""
    sum_text = money(row["amount_minor"], row["currency"])
    return {
        "transaction_id": row["transaction_id"],
        "kind": row["kind"],
        "direction": row["direction"],
        "status": row["status"],
        "description": row["description"],
        "amount_minor": row["amount_minor"],
        "amount": sum_text,
        "fee_minor": row["fee_minor"],
        "booked_on": row["booked_on"],
        "explanation": f"{row['description']}, {sum_text}, {row['booked_on']}"
        + (f": {note}." if note else "."),
    }
