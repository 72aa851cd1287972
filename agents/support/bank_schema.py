"""Tables of the bank.

Rules the database itself keeps, whatever the code above it does:
- Every row of a customer names the customer; a card, transaction, transfer or top-up also names the
  account, and the pair must exist.
- Amounts are integers in minor units (cents) and never negative; a balance never goes below zero.
- Every status is one of a closed list.
- One dispute per transaction; one row per idempotency key.
"""

from __future__ import annotations

TABLES = (
    "customers",
    "accounts",
    "cards",
    "transactions",
    "transfers",
    "top_ups",
    "disputes",
    "refunds",
    "tickets",
    "messages",
)
"""Tables with customers' data, in the order a snapshot lists them."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS bank_facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);

CREATE TABLE IF NOT EXISTS customers (
    customer_id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    email TEXT NOT NULL,
    phone TEXT NOT NULL,
    address_line TEXT NOT NULL,
    city TEXT NOT NULL,
    postcode TEXT NOT NULL,
    country TEXT NOT NULL,
    identity TEXT NOT NULL CHECK (identity IN ('verified', 'pending', 'unverified')),
    app TEXT NOT NULL DEFAULT 'open' CHECK (app IN ('open', 'locked'))
);

CREATE TABLE IF NOT EXISTS accounts (
    account_id TEXT PRIMARY KEY,
    customer_id TEXT NOT NULL REFERENCES customers (customer_id),
    currency TEXT NOT NULL,
    balance_minor INTEGER NOT NULL CHECK (balance_minor >= 0),
    status TEXT NOT NULL CHECK (status IN ('open', 'closed')),
    UNIQUE (account_id, customer_id)
);

CREATE TABLE IF NOT EXISTS cards (
    card_id TEXT PRIMARY KEY,
    customer_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('physical', 'virtual', 'disposable')),
    scheme TEXT NOT NULL CHECK (scheme IN ('visa', 'mastercard')),
    last4 TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('inactive', 'active', 'frozen', 'cancelled', 'used')),
    frozen_reason TEXT CHECK (frozen_reason IN ('lost', 'stolen', 'compromised', 'swallowed')),
    pin TEXT NOT NULL DEFAULT 'ok' CHECK (pin IN ('ok', 'blocked')),
    delivery TEXT NOT NULL DEFAULT 'none'
        CHECK (delivery IN ('none', 'ordered', 'dispatched', 'delivered')),
    expected_on TEXT,
    expires_on TEXT NOT NULL,
    replaces TEXT,
    CHECK ((status = 'frozen') = (frozen_reason IS NOT NULL)),
    FOREIGN KEY (account_id, customer_id) REFERENCES accounts (account_id, customer_id)
);

CREATE TABLE IF NOT EXISTS transactions (
    transaction_id TEXT PRIMARY KEY,
    customer_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN
        ('card_payment', 'cash_withdrawal', 'direct_debit', 'exchange', 'fee', 'merchant_refund')),
    direction TEXT NOT NULL CHECK (direction IN ('out', 'in')),
    status TEXT NOT NULL CHECK (status IN ('completed', 'pending', 'declined', 'reverted')),
    description TEXT NOT NULL,
    amount_minor INTEGER NOT NULL CHECK (amount_minor > 0),
    fee_minor INTEGER NOT NULL DEFAULT 0 CHECK (fee_minor >= 0),
    dispensed_minor INTEGER CHECK (dispensed_minor >= 0),
    currency TEXT NOT NULL,
    foreign_currency TEXT,
    rate_used REAL,
    rate_of_day REAL,
    authorised_by TEXT NOT NULL CHECK (authorised_by IN
        ('chip_and_pin', 'contactless', 'app', 'mandate', 'magnetic_stripe', 'nothing', 'bank')),
    reason TEXT,
    booked_on TEXT NOT NULL,
    FOREIGN KEY (account_id, customer_id) REFERENCES accounts (account_id, customer_id)
);

CREATE TABLE IF NOT EXISTS transfers (
    transfer_id TEXT PRIMARY KEY,
    customer_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    direction TEXT NOT NULL CHECK (direction IN ('out', 'in')),
    counterparty TEXT NOT NULL,
    amount_minor INTEGER NOT NULL CHECK (amount_minor > 0),
    fee_minor INTEGER NOT NULL DEFAULT 0 CHECK (fee_minor >= 0),
    currency TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN
        ('completed', 'pending', 'failed', 'declined', 'cancelled')),
    reason TEXT,
    created_on TEXT NOT NULL,
    expected_on TEXT,
    FOREIGN KEY (account_id, customer_id) REFERENCES accounts (account_id, customer_id)
);

CREATE TABLE IF NOT EXISTS top_ups (
    top_up_id TEXT PRIMARY KEY,
    customer_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    method TEXT NOT NULL CHECK (method IN
        ('card', 'bank_transfer', 'apple_pay', 'google_pay', 'cash', 'cheque')),
    amount_minor INTEGER NOT NULL CHECK (amount_minor > 0),
    currency TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN
        ('completed', 'pending', 'failed', 'reverted', 'needs_verification')),
    reason TEXT,
    created_on TEXT NOT NULL,
    FOREIGN KEY (account_id, customer_id) REFERENCES accounts (account_id, customer_id)
);

CREATE TABLE IF NOT EXISTS disputes (
    dispute_id TEXT PRIMARY KEY,
    customer_id TEXT NOT NULL REFERENCES customers (customer_id),
    transaction_id TEXT NOT NULL UNIQUE REFERENCES transactions (transaction_id),
    reason TEXT NOT NULL CHECK (reason IN ('charged_twice', 'not_recognised', 'wrong_amount',
        'wrong_rate', 'fee', 'not_received')),
    status TEXT NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'closed')),
    opened_on TEXT NOT NULL
);

CREATE TABLE IF NOT EXISTS refunds (
    refund_id TEXT PRIMARY KEY,
    customer_id TEXT NOT NULL REFERENCES customers (customer_id),
    transaction_id TEXT NOT NULL REFERENCES transactions (transaction_id),
    amount_minor INTEGER NOT NULL CHECK (amount_minor > 0),
    status TEXT NOT NULL DEFAULT 'requested' CHECK (status IN ('requested', 'paid', 'refused')),
    requested_on TEXT NOT NULL
);

CREATE TABLE IF NOT EXISTS tickets (
    ticket_id TEXT PRIMARY KEY,
    customer_id TEXT NOT NULL REFERENCES customers (customer_id),
    topic TEXT NOT NULL,
    summary TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'closed')),
    opened_on TEXT NOT NULL
);

CREATE TABLE IF NOT EXISTS messages (
    message_id TEXT PRIMARY KEY,
    customer_id TEXT NOT NULL REFERENCES customers (customer_id),
    kind TEXT NOT NULL CHECK (kind IN ('passcode_link', 'identity_link')),
    sent_to TEXT NOT NULL,
    sent_on TEXT NOT NULL
);

CREATE TABLE IF NOT EXISTS operations (
    idempotency_key TEXT PRIMARY KEY,
    customer_id TEXT NOT NULL,
    operation TEXT NOT NULL,
    arguments TEXT NOT NULL,
    result TEXT NOT NULL
);

CREATE INDEX IF NOT EXISTS cards_of ON cards (customer_id);
CREATE INDEX IF NOT EXISTS transactions_of ON transactions (customer_id);
CREATE INDEX IF NOT EXISTS transfers_of ON transfers (customer_id);
CREATE INDEX IF NOT EXISTS top_ups_of ON top_ups (customer_id);
"""
"""Data definition, safe to run again on a bank that exists."""
