"""What targets are told, as JSON. No I/O.

Rules:
- A message says who wants what where, and never with which arguments: those are for whoever logs in
  to the console.
- What people and models wrote is text: in Slack's format it cannot become a link or a mention.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from mlflow_agent_plugin.interaction.notices.targets import Happening

MAX_TEXT_CHARS = 500


@dataclass(frozen=True)
class Notice:
    """One thing that happened.

    Attributes:
        event_id: The same whenever it is looked at.
        tenant: Whose it is, None for the registry's.
        facts: JSON-ready; strings are cut.
    """

    event: Happening
    event_id: str
    tenant: str | None
    facts: dict[str, Any]


def webhook_body(notice: Notice, console_url: str | None) -> str:
    """Return what a webhook is sent."""
    body = {"event": notice.event.value, "id": notice.event_id, "data": _cut(notice.facts)}
    link = _link(notice, console_url)
    return json.dumps(body | ({} if link is None else {"url": link}), ensure_ascii=False)


def slack_body(notice: Notice, console_url: str | None) -> str:
    """Return a message in the format of Slack's incoming webhooks."""
    facts = {key: escaped(value) for key, value in _cut(notice.facts).items()}
    if notice.event is Happening.APPROVAL_WAITING:
        title = f"{facts['agent']} waits: may it call {facts['tool']}?"
        whom = f"{facts['requested_by']} ({escaped(notice.tenant or '')})"
        lines = [
            f"*{title}*",
            f"For {whom}, role {facts['role']}, until {facts['expires_at']}",
            f"Asked by policy: {facts['reason']}",
        ]
    else:
        title = f"{facts['model']} version {facts['version']} wants to {facts['slot']}"
        lines = [f"*{title}*", f"Requested by {facts['requested_by']}"]
        if facts.get("comment"):
            lines.append(f"> {facts['comment']}")
    link = _link(notice, console_url)
    if link is not None:
        lines.append(f"<{link}|Open the console>")
    text = {"type": "mrkdwn", "text": "\n".join(lines)}
    return json.dumps(
        {"text": title, "blocks": [{"type": "section", "text": text}]}, ensure_ascii=False
    )


def escaped(value: Any) -> str:
    """Return a text Slack shows as it is."""
    text = " ".join(str(value).split())
    for letter, name in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(letter, name)
    for letter in "*_~`":
        text = text.replace(letter, f"\u200b{letter}")  # no formatting begins at it
    return text


def _cut(facts: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value[:MAX_TEXT_CHARS] if isinstance(value, str) else value
        for key, value in facts.items()
    }


def _link(notice: Notice, console_url: str | None) -> str | None:
    if console_url is None:
        return None
    base = console_url.rstrip("/")
    if notice.event is Happening.APPROVAL_WAITING:
        return f"{base}/agents/approvals/{quote(str(notice.facts['approval_id']), safe='')}"
    name = quote(str(notice.facts["model"]), safe="")
    return f"{base}/agents/models/{name}/versions/{notice.facts['version']}"
