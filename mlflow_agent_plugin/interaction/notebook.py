"""What a notebook shows and answers: the approvals inbox, one request's chain.

    import mlflow_agent_plugin as agents

    inbox = agents.approvals_inbox()
    inbox                                   # a table
    inbox.approve(1, "balance checked")     # the call in its first row

Rules:
- Who answers is the bearer of ``MLFLOW_AGENTS_ACTOR_TOKEN`` (verified), the name given, or the name
  the settings give; the queue's own rules decide whether that person may.
- A number names the row of the table as it was shown: the answer goes to that call or to none,
  whatever has joined the queue meanwhile.
- What is shown is read anew each time it is shown.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.errors import ApprovalError

if TYPE_CHECKING:
    from mlflow_agent_plugin.entities import Actor
    from mlflow_agent_plugin.trust import Approval, RequestStory

TOKEN_VARIABLE = "MLFLOW_AGENTS_ACTOR_TOKEN"  # noqa: S105 - a name, not a secret
_PAGE = 100
_COLUMNS = ("", "tool", "exactly this would run", "for", "agent", "why a person is asked",
            "who may answer", "until")  # fmt: skip


class ApprovalsInbox:
    """The tool calls that wait for a person.

    Args:
        by: Who answers: ``user``, ``user@tenant`` or ``user@tenant:role,role``.
        tenant: Only this tenant's calls.
        store_uri: The runtime store; default: the one the settings name.
    """

    def __init__(
        self, *, by: str | None = None, tenant: str | None = None, store_uri: str | None = None
    ) -> None:
        self._by = by
        self._tenant = tenant
        self._store_uri = store_uri
        self._shown: Sequence[Approval] = ()
        self.refresh()

    def refresh(self) -> Sequence[Approval]:
        """Read the queue anew and return what waits, the oldest first."""
        from mlflow_agent_plugin.entities import utc_now
        from mlflow_agent_plugin.store import Store
        from mlflow_agent_plugin.trust.approval.inbox import list_inbox

        with Store.open(self._store_uri) as store:
            found = list_inbox(store, tenant=self._tenant, now=utc_now(), limit=_PAGE)
        self._shown = found.approvals
        return self._shown

    def __len__(self) -> int:
        return len(self._shown)

    def __getitem__(self, row: int) -> Approval:
        """Return the call in a row of the table, counted from 1."""
        return self._named(row)

    def approve(self, which: int | str, reason: str = "") -> Approval:
        """Let a call run, once, exactly as it was shown.

        Args:
            which: Row of the table as it was shown, from 1, or an approval's id.
            reason: For the record.

        Raises:
            ApprovalError: There is no such call, or it is not this person's to answer.
        """
        return self._answer(which, lambda queue, key, by: queue.approve(key, by, reason))

    def reject(self, which: int | str, reason: str) -> Approval:
        """Refuse a call; the agent tells the user the reason. Raises as `approve`."""
        return self._answer(which, lambda queue, key, by: queue.reject(key, by, reason))

    def _answer(self, which: int | str, change: Any) -> Approval:
        from mlflow_agent_plugin.store import Store
        from mlflow_agent_plugin.trust import ApprovalQueue

        key = which if isinstance(which, str) else self._named(which).approval_id
        with Store.open(self._store_uri) as store:
            answered: Approval = change(ApprovalQueue(store), key, self._actor())
        return answered

    def _named(self, row: int) -> Approval:
        if not 1 <= row <= len(self._shown):
            raise ApprovalError(
                f"there is no row {row}", hint="Show the inbox again; rows are counted from 1."
            )
        return self._shown[row - 1]

    def _actor(self) -> Actor:
        from mlflow_agent_plugin.trust import KeyPurpose, KeyStore, actor_from_token, local_actor
        from mlflow_agent_plugin.trust.identity import parse_actor

        token = os.environ.get(TOKEN_VARIABLE)
        if token:
            return actor_from_token(token, KeyStore().trusted_keys(KeyPurpose.ACTORS))
        return local_actor() if self._by is None else parse_actor(self._by)

    def __repr__(self) -> str:
        return f"{len(self._shown)} tool calls wait for a person"

    def _repr_html_(self) -> str:
        """Return what waits now as a table for a notebook."""
        self.refresh()
        if not self._shown:
            return "<p>No tool call waits for a person.</p>"
        head = "".join(f"<th style='text-align:left'>{name}</th>" for name in _COLUMNS)
        rows = "".join(_row(number, item) for number, item in enumerate(self._shown, 1))
        return (
            f"<p><b>{len(self._shown)} tool calls wait for a person</b></p>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
            '<p><small>inbox.approve(1, "why"), inbox.reject(1, "why")</small></p>'
        )  # fmt: skip


def approvals_inbox(
    *, by: str | None = None, tenant: str | None = None, store_uri: str | None = None
) -> ApprovalsInbox:
    """Return the tool calls that wait for a person, to look at and to answer.

    Args:
        by: Who answers: ``user``, ``user@tenant`` or ``user@tenant:role,role``; default: the bearer
            of ``MLFLOW_AGENTS_ACTOR_TOKEN``, else the name the settings give.
        tenant: Only this tenant's calls.
        store_uri: The runtime store; default: the one the settings name.

    Raises:
        StoreError: The store cannot be opened.
    """
    return ApprovalsInbox(by=by, tenant=tenant, store_uri=store_uri)


def request_story(
    request_id: str, *, tenant: str | None = None, store_uri: str | None = None
) -> RequestStory:
    """Return one request's whole chain: who, which agent, which policies, what came of it.

    Args:
        request_id: As the audit and traces (``agent.request_id``) name it.
        tenant: See only this tenant's requests.
        store_uri: The runtime store; default: the one the settings name.

    Raises:
        StoreError: No such request is on record, or the store cannot be read.
    """
    from mlflow_agent_plugin.store import Store
    from mlflow_agent_plugin.trust import read_request

    with Store.open(store_uri) as store:
        return read_request(store, request_id, tenant=tenant)


def _row(number: int, item: Approval) -> str:
    who = f"{item.role}, {item.yeses} of {item.quorum} yes" if item.quorum > 1 else item.role
    if item.claimed_by:
        who += f" (reserved by {item.claimed_by})"
    cells = (
        number, item.tool, _arguments(item.arguments), item.requested_by, item.agent, item.reason,
        who, f"{item.expires_at:%Y-%m-%d %H:%M} UTC",
    )  # fmt: skip
    texts = (escape(str(cell)) for cell in cells)
    return "<tr>" + "".join(f"<td style='text-align:left'>{text}</td>" for text in texts) + "</tr>"


def _arguments(arguments: Mapping[str, Any]) -> str:
    import json

    return json.dumps(dict(arguments), ensure_ascii=False, default=str)
