"""Looks what there is to tell, and tells it.

Rules:
- What waits now is put into the outbox; the outbox knows what was told before. So nothing is lost
  while no notifier runs, and nothing is told twice because two do.
- A webhook is signed as MLflow signs its own: HMAC-SHA256 over delivery id, time and body, in
  ``X-MLflow-Signature``; receivers check both with one piece of code.
- No redirect is followed. What a target answers is not kept, but its status.
- A target that is away or misconfigured holds no other back.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mlflow_agent_plugin.entities import Clock, utc_now
from mlflow_agent_plugin.errors import ConfigError, RequestError
from mlflow_agent_plugin.interaction.notices.messages import Notice, slack_body, webhook_body
from mlflow_agent_plugin.interaction.notices.outbox import Outbox, OutboxRow
from mlflow_agent_plugin.interaction.notices.targets import Happening, Target, Targets

if TYPE_CHECKING:
    from mlflow_agent_plugin.store import Store

LOOKED_AT = 500
"""Most things that wait of which a look takes note."""

MOST_AT_ONCE = 50
"""Most messages one look sends to one target."""

_logger = logging.getLogger(__name__)


class Notifier:
    """Tells targets what happened.

    Args:
        store: Outbox and approvals.
        targets: Who is told.
        clock: Time.
    """

    def __init__(self, store: Store, targets: Targets, *, clock: Clock = utc_now) -> None:
        self._store = store
        self._targets = targets
        self._clock = clock
        self.outbox = Outbox(store, clock=clock)

    def look(self) -> int:
        """Note what is new and send what is due; return how many messages arrived.

        Raises:
            StoreError: The store cannot be read or written.
        """
        self._note(list(self._notices()))
        return sum(self._send(target) for target in self._targets.targets)

    def _note(self, notices: list[Notice]) -> None:
        for target in self._targets.targets:
            wanted = [item for item in notices if target.hears(item.event, item.tenant)]
            known = self.outbox.known(target.name, [item.event_id for item in wanted])
            spell = slack_body if target.kind == "slack" else webhook_body
            for item in wanted:
                if item.event_id not in known:
                    body = spell(item, self._targets.console_url)
                    self.outbox.put(target.name, item.event_id, item.event.value, body)

    def _notices(self) -> Iterator[Notice]:
        from mlflow_agent_plugin.trust.approval.inbox import list_inbox

        offset = 0
        while offset < LOOKED_AT:
            page = list_inbox(self._store, tenant=None, now=self._clock(), offset=offset, limit=100)
            for item in page.approvals:
                yield Notice(
                    Happening.APPROVAL_WAITING,
                    item.approval_id,
                    item.tenant,
                    {
                        "approval_id": item.approval_id, "agent": item.agent, "tool": item.tool,
                        "role": item.role, "reason": item.reason, "tenant": item.tenant,
                        "requested_by": item.requested_by,
                        "expires_at": item.expires_at.isoformat(timespec="minutes"),
                    },
                )  # fmt: skip
            if not page.more:
                break
            offset += len(page.approvals)
        yield from self._requests()

    def _requests(self) -> Iterator[Notice]:
        if not any(Happening.PROMOTION_REQUESTED in t.events for t in self._targets.targets):
            return
        from mlflow_agent_plugin.registry.overview import list_requests

        try:
            page = list_requests(state="open", limit=100)
        except RequestError as error:
            # Another process holds the registry: its own notifier tells of it.
            _logger.info("promotion requests are not looked at here: %s", error.problem)
            return
        for item in page.rows:
            yield Notice(
                Happening.PROMOTION_REQUESTED,
                f"request-{item.request_id}",
                None,
                {
                    "request_id": item.request_id, "model": item.name, "version": item.version,
                    "slot": item.slot, "requested_by": item.requested_by, "comment": item.comment,
                    "verified": item.verified,
                },
            )  # fmt: skip

    def _send(self, target: Target) -> int:
        arrived = 0
        try:
            url, secret = target.address(), target.secret()
        except ConfigError as error:
            _logger.warning("nothing is sent: %s", error)
            return 0
        for _ in range(MOST_AT_ONCE):
            row = self.outbox.claim(target.name, repeat=target.repeat_when_unsure)
            if row is None:
                break
            problem, unsure = _post(url, secret, row, target.timeout_seconds)
            self.outbox.ended(row, error=problem, unsure=unsure)
            if problem is None:
                arrived += 1
                continue
            _logger.warning("%s: %s", row.delivery_id, problem)
            break  # the others of this target wait too
        return arrived


def _post(
    url: str, secret: str | None, row: OutboxRow, timeout_seconds: float
) -> tuple[str | None, bool]:
    """Send a row; return what went wrong, and whether it may have arrived all the same."""
    import requests

    body = row.body.encode()
    headers = {"Content-Type": "application/json", "X-MLflow-Delivery-Id": row.delivery_id}
    if secret is not None:
        stamp = str(int(time.time()))
        headers["X-MLflow-Timestamp"] = stamp
        headers["X-MLflow-Signature"] = signature(secret, row.delivery_id, stamp, row.body)
    try:
        answer = requests.post(
            url, data=body, headers=headers, timeout=timeout_seconds, allow_redirects=False
        )
    except requests.ConnectTimeout:
        return "the connection timed out", False
    except requests.ConnectionError as error:
        # Refused before anything was sent, or broken after.
        refused = "refused" in str(error) or "resolve" in str(error).lower()
        return "the connection failed", not refused
    except requests.RequestException as error:
        return type(error).__name__, True
    if 200 <= answer.status_code < 300:
        return None, False
    return f"it answered {answer.status_code}", False


def signature(secret: str, delivery_id: str, timestamp: str, body: str) -> str:
    """Return the signature of a delivery, as MLflow makes it: ``v1,<base64>``."""
    text = f"{delivery_id}.{timestamp}.{body}".encode()
    digest = hmac.new(secret.encode(), text, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode('ascii')}"
