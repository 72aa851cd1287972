"""What can be asked over MCP.

Rules:
- Nothing here changes anything; every list is bounded.
- Approvals and audit are those of the caller's tenant; approvals are those a role of the caller may
  answer. What an agent was asked to do is text of others: it is returned as data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities import Actor, utc_now
from mlflow_agent_plugin.errors import NotFoundError, StoreError

if TYPE_CHECKING:
    from mlflow_agent_plugin.store import Store

MAX_ITEMS = 100


class Reading:
    """Answers questions about agents.

    Args:
        store: The runtime store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def list_agents(self) -> dict[str, Any]:
        """List the registered agents, with what their stages and aliases point to."""
        from mlflow import MlflowClient

        found = MlflowClient().search_registered_models(
            filter_string="tags.`agent.gated` = 'true'", max_results=MAX_ITEMS
        )
        return {"agents": [_agent(model) for model in found]}

    def describe_agent(self, name: str) -> dict[str, Any]:
        """Describe one registered agent: description, slots, latest versions and their tags."""
        from mlflow import MlflowClient

        client = MlflowClient()
        model = client.get_registered_model(name)
        versions = client.search_model_versions(f"name = '{_quoted(name)}'", max_results=20)
        return {
            **_agent(model),
            "description": str(model.description or "")[:4000],
            "versions": [
                {
                    "version": int(version.version),
                    "stage": version.current_stage,
                    "digest": version.tags.get("agent.digest"),
                    "gate": _slots(version.tags, "agent.gate."),
                }
                for version in versions
            ],
        }

    def gate_report(self, name: str, version: int, slot: str) -> dict[str, Any]:
        """Say which requirements a version meets before a stage or alias such as @champion."""
        from mlflow_agent_plugin.registry import gate_report

        return gate_report(name, version, to=slot).to_dict()

    def slot_history(self, name: str, slot: str) -> dict[str, Any]:
        """List what a stage or alias pointed to, when, by whom and why, oldest first."""
        from mlflow_agent_plugin.registry import history

        entries = history(name, slot)[-MAX_ITEMS:]
        return {"entries": [entry.to_dict() for entry in entries]}

    def list_waiting_approvals(self, actor: Actor) -> dict[str, Any]:
        """List the tool calls that wait for an answer the caller may give."""
        from mlflow_agent_plugin.trust.approval.inbox import list_inbox

        page = list_inbox(
            self._store, tenant=actor.tenant, now=utc_now(), roles=actor.roles, limit=MAX_ITEMS
        )
        return {"approvals": [item.to_dict() for item in page.approvals], "more": page.more}

    def tell_request(self, actor: Actor, request_id: str) -> dict[str, Any]:
        """Tell one request's whole story: who asked, which policies decided, what came of it."""
        from mlflow_agent_plugin.trust import read_request

        try:
            return read_request(self._store, request_id, tenant=actor.tenant).to_dict()
        except StoreError as error:
            raise NotFoundError("there is no such request", where=request_id[:80]) from error

    def verify_audit(self) -> dict[str, Any]:
        """Check the whole audit: every link, hash and signature; says whether it holds."""
        from mlflow_agent_plugin.trust import verify_audit

        found = verify_audit(self._store)
        return {"ok": found.ok, "summary": str(found)[:2000]}

    def list_rollouts(self, model: str | None = None) -> dict[str, Any]:
        """List the latest rollouts: which version is tried beside which, and how it goes."""
        from mlflow_agent_plugin.lifecycle.rollout import RolloutBook

        return {"rollouts": [item.to_dict() for item in RolloutBook(self._store).list(model)]}

    def list_stopped(self) -> dict[str, Any]:
        """List the agents, tools and tenants an operator has stopped."""
        from mlflow_agent_plugin.trust import SwitchBoard

        return {"stopped": [item.to_dict() for item in SwitchBoard(self._store).list()]}


def _agent(model: Any) -> dict[str, Any]:
    return {
        "name": model.name,
        "slots": _slots(model.tags, "agent.slot."),
        "aliases": {alias: int(version) for alias, version in dict(model.aliases).items()},
    }


def _slots(tags: dict[str, str], prefix: str) -> dict[str, str]:
    found = {
        key.removeprefix(prefix): value for key, value in tags.items() if key.startswith(prefix)
    }
    return {
        f"@{name.removeprefix('alias.')}" if name.startswith("alias.") else name: value
        for name, value in sorted(found.items())
    }


def _quoted(name: str) -> str:
    return name.replace("'", "''")
