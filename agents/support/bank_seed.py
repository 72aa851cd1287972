"""Example customers, the same on every machine for the same day.

All people, merchants and numbers are invented. Each customer has a situation:

- ``amira``: everyday life; one active card, a delivered card not yet activated, a used disposable
  card, and one case of nearly everything that goes wrong with payments, cash, transfers, top-ups.
- ``bruno``: new; his first card is in the post, his identity check is not finished.
- ``chen``: one card frozen as lost, one active card with a blocked PIN.
- ``dora``: two active cards, one card frozen as compromised, larger purchases.
- ``farid``: as ``bruno``, and his identity has not been checked at all.
- ``emil``: a closed account.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

PEOPLE = {
    "amira": ("Amira Holt", "12 Mill Lane", "Ashford", "AF1 2QP", "verified", "open"),
    "bruno": ("Bruno Vidal", "4 Quay Street", "Portby", "PB3 8RL", "pending", "open"),
    "chen": ("Chen Avery", "77 Orchard Road", "Wellmere", "WM5 1TT", "verified", "open"),
    "dora": ("Dora Lindqvist", "9 Tower Hill", "Northcote", "NC2 6EE", "verified", "open"),
    "farid": ("Farid Novak", "2 Bridge Street", "Wellmere", "WM1 9DS", "unverified", "open"),
    "emil": ("Emil Sorensen", "31 Canal Walk", "Ashford", "AF4 0BB", "verified", "closed"),
}
"""Customer id to name, address line, city, postcode, identity, account status."""


@dataclass
class _World:
    """Rows of one customer; ids are made from the customer's number, so they never collide."""

    customer: str
    number: int
    today: date
    rows: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def account(self) -> str:
        return f"account_{self.number}"

    def day(self, days: int) -> str:
        return str(self.today + timedelta(days=days))

    def add(self, table: str, prefix: str, id_column: str, **values: Any) -> str:
        count = self.counts[prefix] = self.counts.get(prefix, 0) + 1
        row_id = f"{prefix}_{self.number}_{count:02d}"
        owner = {"customer_id": self.customer, "account_id": self.account}
        self.rows.append((table, {id_column: row_id, **owner, **values}))
        return row_id

    def card(self, last4: str, status: str, **more: Any) -> str:
        values = {"kind": "physical", "scheme": "visa", "expires_on": self.day(700)} | more
        return self.add("cards", "card", "card_id", last4=last4, status=status, **values)

    def paid(
        self, description: str, amount_minor: int, days: int, authorised_by: str, **more: Any
    ) -> str:
        values = {
            "kind": "card_payment",
            "direction": "out",
            "status": "completed",
            "currency": "EUR",
        } | more
        return self.add(
            "transactions",
            "txn",
            "transaction_id",
            description=description,
            amount_minor=amount_minor,
            booked_on=self.day(-days),
            authorised_by=authorised_by,
            **values,
        )

    def transfer(
        self, counterparty: str, amount_minor: int, days: int, status: str, **more: Any
    ) -> str:
        values = {"direction": "out", "currency": "EUR"} | more
        return self.add(
            "transfers",
            "transfer",
            "transfer_id",
            counterparty=counterparty,
            amount_minor=amount_minor,
            created_on=self.day(-days),
            status=status,
            **values,
        )

    def top_up(self, method: str, amount_minor: int, days: int, status: str, **more: Any) -> str:
        return self.add(
            "top_ups",
            "topup",
            "top_up_id",
            method=method,
            amount_minor=amount_minor,
            currency="EUR",
            created_on=self.day(-days),
            status=status,
            **more,
        )


def seed_customers(db: sqlite3.Connection, today: date, more: list[str]) -> None:
    """Insert the example customers, and `more` customers in the first one's situation."""
    people = dict(PEOPLE)
    for customer in more:
        people.setdefault(customer, (customer, *PEOPLE["amira"][1:]))
    for number, (customer, person) in enumerate(people.items(), start=11):
        name, line, city, postcode, identity, status = person
        db.execute(
            "INSERT INTO customers VALUES (?, ?, ?, ?, ?, ?, ?, 'IE', ?, 'open')",
            (
                customer,
                name,
                f"customer{number}@example.com",
                f"+3535550{number:03d}",
                line,
                city,
                postcode,
                identity,
            ),
        )
        world = _World(customer, number, today)
        balance_minor = 0 if status == "closed" else 243_107 + number * 1_111
        db.execute(
            "INSERT INTO accounts VALUES (?, ?, 'EUR', ?, ?)",
            (world.account, customer, balance_minor, status),
        )
        _SITUATIONS.get(customer, _everyday)(world)
        for table, row in world.rows:
            columns = ", ".join(row)
            marks = ", ".join("?" * len(row))
            db.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", tuple(row.values()))  # noqa: S608


def _habits(world: _World) -> None:
    """Add what every customer does: nothing is wrong with any of it."""
    world.paid("Green Basket Grocers", 4_320, 9, "chip_and_pin")
    world.paid("Harbour Books", 2_490, 8, "contactless")
    world.paid("Green Basket Grocers", 3_875, 2, "contactless")
    world.paid("City Water Works", 3_150, 12, "mandate", kind="direct_debit")
    world.paid("Cash machine, Mill Square", 8_000, 7, "chip_and_pin", kind="cash_withdrawal")
    world.transfer("Orchard Lane Studio (salary)", 310_000, 15, "completed", direction="in")
    world.top_up("card", 5_000, 20, "completed")


def _everyday(world: _World) -> None:
    world.card("4417", "active", delivery="delivered", expires_on=world.day(26))
    world.card("8802", "inactive", delivery="delivered", expected_on=world.day(-1))
    world.card("3391", "used", kind="disposable", expires_on=world.day(30))
    _habits(world)
    world.paid("Lumen Electronics", 34_900, 6, "app")
    # charged twice: same merchant, same amount, same day
    world.paid("Cafe Rosso", 1_240, 3, "contactless")
    world.paid("Cafe Rosso", 1_240, 3, "contactless")
    # not authorised by the customer
    world.paid("QZ*Streamline Media", 1_999, 4, "nothing")
    world.paid("Ironworks Gym GB", 2_999, 5, "nothing", kind="direct_debit")
    world.paid("Cash machine, Harlow Street", 15_000, 4, "magnetic_stripe", kind="cash_withdrawal")
    # the machine counted out less than was booked
    world.paid(
        "Cash machine, Dock Road",
        10_000,
        1,
        "chip_and_pin",
        kind="cash_withdrawal",
        dispensed_minor=6_000,
    )
    # foreign currency: payment and cash at worse rates than the day's
    foreign = {"foreign_currency": "USD", "rate_of_day": 1.09}
    world.paid("Seaview Hotel, Boston", 21_800, 11, "chip_and_pin", rate_used=1.02, **foreign)
    world.paid(
        "Cash machine, Boston",
        11_000,
        10,
        "chip_and_pin",
        kind="cash_withdrawal",
        fee_minor=200,
        rate_used=1.01,
        **foreign,
    )
    world.paid("Exchange EUR to USD", 20_000, 14, "app", kind="exchange", fee_minor=100)
    world.paid("Parking Garage Central", 900, 6, "contactless", fee_minor=50)
    world.paid("Monthly extra: paper statement", 100, 5, "bank", kind="fee")
    # what has not gone through, and why
    world.paid("Petrol Station North", 6_000, 1, "chip_and_pin", status="pending")
    world.paid(
        "Cash machine, Station", 5_000, 1, "chip_and_pin", kind="cash_withdrawal", status="pending"
    )
    world.paid(
        "Fjord Outdoor",
        18_900,
        2,
        "app",
        status="declined",
        reason="online payments above 150.00 EUR need confirmation in the app, and it timed out",
    )
    world.paid(
        "Cash machine, Airport",
        60_000,
        2,
        "chip_and_pin",
        kind="cash_withdrawal",
        status="declined",
        reason="the daily cash limit of 500.00 EUR would have been passed",
    )
    world.paid(
        "Tandem Bikes",
        7_700,
        3,
        "app",
        status="reverted",
        reason="the merchant did not collect the money in time, so it went back to you",
    )
    world.paid(
        "Northern Threads (refund)",
        5_990,
        4,
        "nothing",
        kind="merchant_refund",
        direction="in",
        status="pending",
    )
    world.transfer("Jonas Weber", 12_000, 1, "pending", expected_on=world.day(1))
    world.transfer("Maya Okafor", 25_000, 3, "completed", fee_minor=150)
    world.transfer(
        "Solstice Travel",
        40_000,
        2,
        "failed",
        reason="the receiving bank did not answer; the money is back on your account",
    )
    world.transfer(
        "Coinmarket Exchange",
        30_000,
        2,
        "declined",
        reason="this kind of recipient is not allowed",
    )
    world.transfer(
        "Own account at Elm Bank", 50_000, 1, "pending", direction="in", expected_on=world.day(1)
    )
    world.top_up("apple_pay", 4_000, 1, "pending")
    world.top_up(
        "card", 10_000, 2, "failed", reason="the other bank refused the charge on your card"
    )
    world.top_up(
        "card",
        7_500,
        3,
        "reverted",
        reason="the name on the other card is not yours, so the money went back to it",
    )
    world.top_up("cheque", 20_000, 3, "pending", reason="cheques clear within six working days")
    world.top_up(
        "card", 2_500, 1, "needs_verification", reason="the code of the small charge is missing"
    )


def _newcomer(world: _World) -> None:
    world.card("6120", "inactive", delivery="dispatched", expected_on=world.day(2))
    world.top_up("card", 5_000, 0, "pending")
    world.transfer(
        "Own account at Elm Bank", 90_000, 1, "pending", direction="in", expected_on=world.day(1)
    )


def _frozen(world: _World) -> None:
    world.card("5058", "frozen", frozen_reason="lost", delivery="delivered")
    world.card("2746", "active", pin="blocked", delivery="delivered")
    _habits(world)


def _spender(world: _World) -> None:
    world.card("9004", "active", delivery="delivered")
    world.card("1183", "active", scheme="mastercard", delivery="delivered")
    world.card("7765", "frozen", frozen_reason="compromised", delivery="delivered")
    _habits(world)
    world.paid("Lumen Electronics", 145_000, 10, "app")
    world.paid("Fjord Outdoor", 8_450, 4, "app")
    world.paid("Tandem Bikes", 64_000, 6, "app")


def _leaver(world: _World) -> None:
    world.card("0042", "cancelled", delivery="delivered")


_SITUATIONS = {
    "amira": _everyday,
    "bruno": _newcomer,
    "chen": _frozen,
    "dora": _spender,
    "farid": _newcomer,
    "emil": _leaver,
}
