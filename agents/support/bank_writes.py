"""What a customer can change at the bank.

Each function runs inside one transaction (see `bank.Bank.write`), refuses by raising `BankError`
before it has changed anything, and returns a JSON object that says what is true now. A change that
is already in place is not an error: ``changed`` is false then.

Rules that hold whatever the agent or its policies say:
- A refund is asked for at most once per payment, never for more than was paid, and only in time.
- A transfer is cancelled only while it is on its way out.
- A closed account takes no changes; closing pays the balance out and cancels every card.
"""

from __future__ import annotations

import re
from typing import Any

from bank import BankError, CustomerView
from bank_reads import transfer_facts
from bank_review import may_be_refunded
from bank_values import clean_text, money, one_of, shortened_text

MAX_TEXT_CHARS = 500

DISPUTE_REASONS = (
    "charged_twice",
    "not_recognised",
    "wrong_amount",
    "wrong_rate",
    "fee",
    "not_received",
)


def reset_passcode(view: CustomerView) -> dict[str, Any]:
    """Send a link for a new app passcode to the e-mail address on record."""
    return _send(view, "passcode_link")


def start_identity_check(view: CustomerView) -> dict[str, Any]:
    """Send a link for the identity check to the e-mail address on record."""
    if view.rows("customers")[0]["identity"] == "verified":
        raise BankError("Your identity is verified already.")
    return _send(view, "identity_link")


def lock_app(view: CustomerView) -> dict[str, Any]:
    """Sign the customer's devices out; cards go on working."""
    changed = view.rows("customers")[0]["app"] == "open"
    view.db.execute("UPDATE customers SET app = 'locked' WHERE customer_id = ?", (view.customer,))
    return {"app": "locked", "changed": changed}


def change_address(
    view: CustomerView, *, address_line: str, city: str, postcode: str
) -> dict[str, Any]:
    """Change the postal address."""
    view.open_account()
    values = (
        clean_text("address_line", address_line, 120),
        clean_text("city", city, 60),
        clean_text("postcode", postcode, 12).upper(),
    )
    old = view.rows("customers")[0]
    changed = values != (old["address_line"], old["city"], old["postcode"])
    view.db.execute(
        "UPDATE customers SET address_line = ?, city = ?, postcode = ? WHERE customer_id = ?",
        (*values, view.customer),
    )
    return {"address": f"{values[0]}, {values[1]} {values[2]}", "changed": changed}


def change_phone(view: CustomerView, *, phone: str) -> dict[str, Any]:
    """Change the phone number; spaces, dots, hyphens and brackets are dropped."""
    view.open_account()
    number = re.sub(r"[\s().-]", "", clean_text("phone", phone, 40))
    if not re.fullmatch(r"\+?[0-9]{7,15}", number):
        raise BankError("A phone number has 7 to 15 digits, with a plus sign in front or not.")
    changed = number != view.rows("customers")[0]["phone"]
    view.db.execute("UPDATE customers SET phone = ? WHERE customer_id = ?", (number, view.customer))
    return {"phone": number, "changed": changed}


def open_dispute(view: CustomerView, *, transaction_id: str, reason: str) -> dict[str, Any]:
    """Contest a transaction; a second dispute about it finds the first."""
    one_of("reason", reason, DISPUTE_REASONS)
    row = view.one("transactions", "transaction_id", transaction_id, "transaction")
    if row["direction"] != "out" or row["status"] not in ("completed", "pending"):
        raise BankError("No money left your account with this transaction.")
    there = view.rows("disputes", "transaction_id = ?", transaction_id)
    if there:
        return _dispute_result(there[0], row, changed=False)
    dispute = {
        "dispute_id": view.next_id("disputes", "dispute"),
        "customer_id": view.customer,
        "transaction_id": transaction_id,
        "reason": reason,
        "opened_on": str(view.today),
    }
    view.insert("disputes", dispute)
    return _dispute_result({**dispute, "status": "open"}, row, changed=True)


def request_refund(view: CustomerView, *, transaction_id: str, amount_minor: int) -> dict[str, Any]:
    """Ask the merchant for money back; once per payment and never more than was paid."""
    view.open_account()
    if isinstance(amount_minor, bool) or not isinstance(amount_minor, int) or amount_minor <= 0:
        raise BankError("The sum must be a whole number of cents above zero.")
    row = view.one("transactions", "transaction_id", transaction_id, "transaction")
    if row["kind"] != "card_payment" or row["direction"] != "out" or row["status"] != "completed":
        raise BankError("Only a completed card payment can be refunded.")
    if not may_be_refunded(row, view.today):
        raise BankError("This payment is too long ago for a refund.")
    if amount_minor > row["amount_minor"]:
        raise BankError(f"You paid {money(row['amount_minor'], row['currency'])}, not more.")
    if view.rows("refunds", "transaction_id = ? AND status != 'refused'", transaction_id):
        raise BankError("A refund of this payment has been asked for already.")
    refund = {
        "refund_id": view.next_id("refunds", "refund"),
        "customer_id": view.customer,
        "transaction_id": transaction_id,
        "amount_minor": amount_minor,
        "requested_on": str(view.today),
    }
    view.insert("refunds", refund)
    return {
        "refund_id": refund["refund_id"],
        "transaction_id": transaction_id,
        "amount_minor": amount_minor,
        "amount": money(amount_minor, row["currency"]),
        "status": "requested",
    }


def cancel_transfer(view: CustomerView, *, transfer_id: str) -> dict[str, Any]:
    """Stop a transfer that is still on its way out, and book its sum back."""
    account = view.open_account()
    row = view.one("transfers", "transfer_id", transfer_id, "transfer")
    if row["status"] == "cancelled":
        return {"transfer_id": transfer_id, "status": "cancelled", "changed": False}
    if row["direction"] != "out" or row["status"] != "pending":
        raise BankError(transfer_facts(row)["explanation"] + " It cannot be cancelled any more.")
    view.db.execute(
        "UPDATE transfers SET status = 'cancelled', reason = 'you cancelled it' "
        "WHERE transfer_id = ?",
        (transfer_id,),
    )
    _book(view, account, row["amount_minor"] + row["fee_minor"])
    return {"transfer_id": transfer_id, "status": "cancelled", "changed": True}


def close_account(view: CustomerView, *, reason: str) -> dict[str, Any]:
    """Close the account: cancel its cards, pay the balance out, and note why on a ticket."""
    account = view.open_account()
    if view.rows("transfers", "status = 'pending'"):
        raise BankError("A transfer is still on its way; the account can be closed after that.")
    if view.rows("disputes", "status = 'open'"):
        raise BankError("A dispute is still open; the account can be closed after that.")
    balance_minor = account["balance_minor"]
    if balance_minor:
        view.insert(
            "transfers",
            {
                "transfer_id": view.next_id("transfers", "payout"),
                "customer_id": view.customer,
                "account_id": account["account_id"],
                "direction": "out",
                "counterparty": "Payout on closing",
                "amount_minor": balance_minor,
                "currency": account["currency"],
                "status": "completed",
                "created_on": str(view.today),
            },
        )
    view.db.execute(
        "UPDATE cards SET status = 'cancelled', frozen_reason = NULL "
        "WHERE customer_id = ? AND status NOT IN ('cancelled', 'used')",
        (view.customer,),
    )
    view.db.execute(
        "UPDATE accounts SET status = 'closed', balance_minor = 0 WHERE account_id = ?",
        (account["account_id"],),
    )
    _open_ticket(view, "account closed", shortened_text(reason, MAX_TEXT_CHARS), status="closed")
    return {
        "account_id": account["account_id"],
        "status": "closed",
        "paid_out_minor": balance_minor,
        "paid_out": money(balance_minor, account["currency"]),
    }


def escalate_to_human(view: CustomerView, *, topic: str, summary: str) -> dict[str, Any]:
    """Open a ticket for a person; an open ticket about the same topic gets no twin."""
    topic, summary = shortened_text(topic, 60), shortened_text(summary, MAX_TEXT_CHARS)
    there = view.rows("tickets", "status = 'open' AND topic = ? AND summary = ?", topic, summary)
    if there:
        return {"ticket_id": there[0]["ticket_id"], "status": "open", "changed": False}
    return {
        "ticket_id": _open_ticket(view, topic, summary, status="open"),
        "status": "open",
        "changed": True,
    }


# --- Shared parts ---------------------------------------------------------------------------------


def _dispute_result(
    dispute: dict[str, Any], row: dict[str, Any], *, changed: bool
) -> dict[str, Any]:
    return {
        "dispute_id": dispute["dispute_id"],
        "transaction_id": row["transaction_id"],
        "description": row["description"],
        "amount": money(row["amount_minor"], row["currency"]),
        "reason": dispute["reason"],
        "status": dispute["status"],
        "changed": changed,
    }


def _send(view: CustomerView, kind: str) -> dict[str, Any]:
    email = view.rows("customers")[0]["email"]
    name, _, domain = email.partition("@")
    message = {
        "message_id": view.next_id("messages", "message"),
        "customer_id": view.customer,
        "kind": kind,
        "sent_to": email,
        "sent_on": str(view.today),
    }
    view.insert("messages", message)
    return {
        "message_id": message["message_id"],
        "kind": kind,
        "sent_to": f"{name[:2]}…@{domain}",
    }


def _book(view: CustomerView, account: dict[str, Any], amount_minor: int) -> None:
    view.db.execute(
        "UPDATE accounts SET balance_minor = balance_minor + ? WHERE account_id = ?",
        (amount_minor, account["account_id"]),
    )


def _open_ticket(view: CustomerView, topic: str, summary: str, *, status: str) -> str:
    ticket_id = view.next_id("tickets", "ticket")
    view.insert(
        "tickets",
        {
            "ticket_id": ticket_id,
            "customer_id": view.customer,
            "topic": topic,
            "summary": summary,
            "status": status,
            "opened_on": str(view.today),
        },
    )
    return ticket_id
