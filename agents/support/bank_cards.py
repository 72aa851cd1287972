"""What a customer can change about cards.

Rules, beside those of `bank_writes`, that hold whatever the agent or its policies say:
- A cancelled or used card stays so.
- A card reported compromised or stolen is never unfrozen, only replaced.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from bank import BankError, CustomerView
from bank_reads import card_facts
from bank_values import one_of

FREEZE_REASONS = ("lost", "stolen", "compromised", "swallowed")
MAX_CARDS_OF_A_KIND = 5


def activate_card(view: CustomerView, *, card_id: str) -> dict[str, Any]:
    """Make a delivered card usable."""
    view.open_account()
    card = _card(view, card_id)
    if card["status"] == "active":
        return _card_result(view, card_id, changed=False)
    if card["status"] != "inactive":
        raise BankError(card_facts(card)["explanation"] + " It cannot be activated.")
    if card["delivery"] not in ("dispatched", "delivered"):
        raise BankError("This card has not been sent yet, so it cannot be activated.")
    view.db.execute(
        "UPDATE cards SET status = 'active', delivery = 'delivered' WHERE card_id = ?", (card_id,)
    )
    return _card_result(view, card_id, changed=True)


def freeze_card(view: CustomerView, *, card_id: str, reason: str) -> dict[str, Any]:
    """Stop a card; a worse reason replaces a milder one, never the other way round."""
    one_of("reason", reason, FREEZE_REASONS)
    card = _card(view, card_id)
    if card["status"] in ("cancelled", "used"):
        return _card_result(view, card_id, changed=False)
    if card["status"] == "frozen":
        milder = card["frozen_reason"] in ("lost", "swallowed") and reason in (
            "stolen",
            "compromised",
        )
        if not milder:
            return _card_result(view, card_id, changed=False)
    view.db.execute(
        "UPDATE cards SET status = 'frozen', frozen_reason = ? WHERE card_id = ?", (reason, card_id)
    )
    return _card_result(view, card_id, changed=True)


def unfreeze_card(view: CustomerView, *, card_id: str, frozen_reason: str) -> dict[str, Any]:
    """Make a found card usable again.

    Args:
        view: Whose.
        card_id: Which card.
        frozen_reason: Why it was frozen. It must be what the bank has on record, so that a policy
            may rely on the argument.
    """
    view.open_account()
    card = _card(view, card_id)
    if card["status"] == "active":
        return _card_result(view, card_id, changed=False)
    if card["status"] != "frozen":
        raise BankError(card_facts(card)["explanation"] + " It cannot be unfrozen.")
    if card["frozen_reason"] != frozen_reason:
        raise BankError(f"That is not why this card is frozen: it was {card['frozen_reason']}.")
    if card["frozen_reason"] in ("compromised", "stolen"):
        raise BankError(f"A card reported {frozen_reason} is replaced, never unfrozen.")
    view.db.execute(
        "UPDATE cards SET status = 'active', frozen_reason = NULL WHERE card_id = ?", (card_id,)
    )
    return _card_result(view, card_id, changed=True)


def replace_card(view: CustomerView, *, card_id: str) -> dict[str, Any]:
    """Cancel a physical card and send a new one; a second request finds the first's card."""
    account = view.open_account()
    card = _card(view, card_id)
    if card["kind"] != "physical":
        raise BankError("Only physical cards are replaced; a virtual card is simply ordered anew.")
    waiting = view.rows("cards", "replaces = ? AND status != 'cancelled'", card_id)
    if waiting:
        return _card_result(view, waiting[0]["card_id"], changed=False)
    if card["status"] == "cancelled":
        raise BankError("This card is cancelled already.")
    view.db.execute(
        "UPDATE cards SET status = 'cancelled', frozen_reason = NULL WHERE card_id = ?", (card_id,)
    )
    new_id = _new_card(view, account, "physical", card["scheme"], replaces=card_id)
    return _card_result(view, new_id, changed=True)


def order_card(view: CustomerView, *, kind: str, scheme: str | None = None) -> dict[str, Any]:
    """Order one more card; at most five of a kind are open at once."""
    account = view.open_account()
    one_of("kind", kind, ("physical", "virtual", "disposable"))
    one_of("scheme", scheme or "visa", ("visa", "mastercard"))
    if view.rows("customers")[0]["identity"] != "verified":
        raise BankError("We can send a further card once your identity is verified.")
    open_cards = view.rows("cards", "kind = ? AND status NOT IN ('cancelled', 'used')", kind)
    if len(open_cards) >= 5:
        raise BankError(f"You have five {kind} cards, which is the most we give out.")
    new_id = _new_card(view, account, kind, scheme or "visa", replaces=None)
    return _card_result(view, new_id, changed=True)


def unblock_pin(view: CustomerView, *, card_id: str) -> dict[str, Any]:
    """Allow PIN entry again after three wrong tries."""
    view.open_account()
    card = _card(view, card_id)
    if card["status"] != "active":
        raise BankError(card_facts(card)["explanation"] + " Its PIN cannot be unblocked.")
    changed = card["pin"] == "blocked"
    view.db.execute("UPDATE cards SET pin = 'ok' WHERE card_id = ?", (card_id,))
    return _card_result(view, card_id, changed=changed)


def _card(view: CustomerView, card_id: str) -> dict[str, Any]:
    return view.one("cards", "card_id", card_id, "card")


def _card_result(view: CustomerView, card_id: str, *, changed: bool) -> dict[str, Any]:
    return {**card_facts(_card(view, card_id)), "changed": changed}


def _new_card(
    view: CustomerView, account: dict[str, Any], kind: str, scheme: str, *, replaces: str | None
) -> str:
    card_id = view.next_id("cards", "card_new")
    physical = kind == "physical"
    number = int(re.sub(r"\D", "", card_id))
    view.insert(
        "cards",
        {
            "card_id": card_id,
            "customer_id": view.customer,
            "account_id": account["account_id"],
            "kind": kind,
            "scheme": scheme,
            "last4": f"{(number * 7919) % 10_000:04d}",
            "status": "inactive" if physical else "active",
            "delivery": "ordered" if physical else "none",
            "expected_on": str(view.today + timedelta(days=6)) if physical else None,
            "expires_on": str(view.today + timedelta(days=1095)),
            "replaces": replaces,
        },
    )
    return card_id
