"""The support agent's tools: thin, so that every rule stands in the bank, a contract or a policy.

Each takes the customer from ``context.actor`` and never from an argument. A refusal of the bank
(`BankError`) leaves as an error whose text the agent may tell the customer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import bank_cards
import bank_reads
import bank_review
import bank_writes
from bank_errors import BankError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlflow_agent_plugin.core import ToolContext

Json = dict[str, Any]


def search_knowledge(context: ToolContext, *, query: str, top_k: int | None = None) -> Json:
    """Search the bank's help articles."""
    if context.knowledge is None:
        raise BankError("The help articles cannot be searched right now.")
    passages = context.knowledge.search(query, top_k)
    return {
        "passages": [
            {
                "chunk_id": passage.chunk_id,
                "title": passage.title,
                "text": passage.text,
                "source": passage.source,
                "score": round(float(passage.score), 4),
            }
            for passage in passages
        ],
        "count": len(passages),
    }


# --- Reads ----------------------------------------------------------------------------------------


def get_account(context: ToolContext) -> Json:
    """Show the customer's account and contact details."""
    return _read(context, bank_reads.get_account)


def list_cards(
    context: ToolContext,
    *,
    status: str | None = None,
    kind: str | None = None,
    last4: str | None = None,
    pin: str | None = None,
) -> Json:
    """List the customer's cards."""
    return _read(context, bank_reads.list_cards, status=status, kind=kind, last4=last4, pin=pin)


def track_card_delivery(context: ToolContext) -> Json:
    """Say where cards are that are on their way."""
    return _read(context, bank_reads.track_card_delivery)


def list_transactions(
    context: ToolContext, *, kind: str | None = None, status: str | None = None, limit: int = 10
) -> Json:
    """List the customer's latest transactions."""
    return _read(context, bank_reads.list_transactions, kind=kind, status=status, limit=limit)


def review_transactions(
    context: ToolContext, *, problem: str, kind: str | None = None, about: str | None = None
) -> Json:
    """Find the transactions a complaint can be about."""
    return _read(context, bank_review.review_transactions, problem=problem, kind=kind, about=about)


def get_transfer_status(
    context: ToolContext, *, direction: str | None = None, statuses: list[str] | None = None
) -> Json:
    """Say how the customer's transfers are doing."""
    return _read(context, bank_reads.get_transfer_status, direction=direction, statuses=statuses)


def get_top_up_status(
    context: ToolContext, *, statuses: list[str] | None = None, methods: list[str] | None = None
) -> Json:
    """Say how the customer's top-ups are doing."""
    return _read(context, bank_reads.get_top_up_status, statuses=statuses, methods=methods)


def get_exchange_rate(context: ToolContext, *, base: str, quote: str) -> Json:
    """Quote the day's exchange rate."""
    return _read(context, bank_reads.get_exchange_rate, base=base, quote=quote)


def get_verification_status(context: ToolContext) -> Json:
    """Say how far the identity check has come."""
    return _read(context, bank_reads.get_verification_status)


# --- Cards ----------------------------------------------------------------------------------------


def activate_card(context: ToolContext, *, card_id: str) -> Json:
    """Activate a card that has arrived."""
    return _write(context, bank_cards.activate_card, card_id=card_id)


def freeze_card(context: ToolContext, *, card_id: str, reason: str = "lost") -> Json:
    """Stop a card."""
    return _write(context, bank_cards.freeze_card, card_id=card_id, reason=reason)


def unfreeze_card(context: ToolContext, *, card_id: str, frozen_reason: str) -> Json:
    """Make a found card usable again."""
    return _write(context, bank_cards.unfreeze_card, card_id=card_id, frozen_reason=frozen_reason)


def replace_card(context: ToolContext, *, card_id: str) -> Json:
    """Cancel a card and send a new one."""
    return _write(context, bank_cards.replace_card, card_id=card_id)


def order_card(context: ToolContext, *, kind: str, scheme: str | None = None) -> Json:
    """Order a further card."""
    return _write(context, bank_cards.order_card, kind=kind, scheme=scheme)


def unblock_pin(context: ToolContext, *, card_id: str) -> Json:
    """Allow PIN entry again."""
    return _write(context, bank_cards.unblock_pin, card_id=card_id)


# --- The person -----------------------------------------------------------------------------------


def reset_passcode(context: ToolContext) -> Json:
    """Send a link for a new app passcode."""
    return _write(context, bank_writes.reset_passcode)


def start_identity_check(context: ToolContext) -> Json:
    """Send a link for the identity check."""
    return _write(context, bank_writes.start_identity_check)


def lock_app(context: ToolContext) -> Json:
    """Sign the customer's devices out."""
    return _write(context, bank_writes.lock_app)


def change_address(context: ToolContext, *, address_line: str, city: str, postcode: str) -> Json:
    """Change the postal address."""
    return _write(
        context,
        bank_writes.change_address,
        address_line=address_line,
        city=city,
        postcode=postcode,
    )


def change_phone(context: ToolContext, *, phone: str) -> Json:
    """Change the phone number."""
    return _write(context, bank_writes.change_phone, phone=phone)


# --- Money ----------------------------------------------------------------------------------------


def open_dispute(context: ToolContext, *, transaction_id: str, reason: str) -> Json:
    """Contest a transaction."""
    return _write(context, bank_writes.open_dispute, transaction_id=transaction_id, reason=reason)


def request_refund(context: ToolContext, *, transaction_id: str, amount_minor: int) -> Json:
    """Ask a merchant for money back."""
    return _write(
        context,
        bank_writes.request_refund,
        transaction_id=transaction_id,
        amount_minor=amount_minor,
    )


def cancel_transfer(context: ToolContext, *, transfer_id: str) -> Json:
    """Stop a transfer that is on its way."""
    return _write(context, bank_writes.cancel_transfer, transfer_id=transfer_id)


def close_account(context: ToolContext, *, reason: str) -> Json:
    """Close the account."""
    return _write(context, bank_writes.close_account, reason=reason)


def escalate_to_human(context: ToolContext, *, topic: str, summary: str) -> Json:
    """Hand the conversation over to a person."""
    return _write(context, bank_writes.escalate_to_human, topic=topic, summary=summary)


def _read(context: ToolContext, operation: Callable[..., Json], **arguments: Any) -> Json:
    result: Json = context.resources.read(operation, context.actor.user, **arguments)
    return result


def _write(context: ToolContext, operation: Callable[..., Json], **arguments: Any) -> Json:
    result: Json = context.resources.write(
        operation, context.actor.user, context.idempotency_key, **arguments
    )
    return result
