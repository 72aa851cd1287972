"""A server with login, the people who use it, and an agent on it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from helpers.agents_server import AgentsServer

PASSWORD = "correct-horse-battery"
PEOPLE = {
    "ann": ("author",),
    "rita": ("author", "reviewer"),
    "otto": ("author", "operations"),
    "nora": (),
}
"""User to roles; whoever is no author may look and change nothing."""


class Team:
    """A running server with people.

    Args:
        folder: What the server keeps is below it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store_uri = f"sqlite:///{folder}/agents.db"
        self.monitoring = folder / "monitoring"
        self.environment = {
            "MLFLOW_AGENTS_KEY_DIR": str(folder / "keys"),
            "MLFLOW_AGENTS_STORE_URI": self.store_uri,
            "MLFLOW_AGENTS_MONITORING_TABLE": str(self.monitoring),
        }
        self.server = AgentsServer(
            folder / "kept",
            environment={**self.environment, "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD},
        )
        self.url = self.server.url

    def __enter__(self) -> Team:  # noqa: PYI034 - Self is not in Python 3.10
        self.server.__enter__()
        with self.acting("admin"):
            from mlflow.server.auth.client import AuthServiceClient

            client = AuthServiceClient(self.url)
            roles = {}
            for name in ("author", "reviewer", "operations"):
                role = client.create_role("default", name)
                roles[name] = role.id
                if name == "author":
                    for kind in ("experiment", "registered_model"):
                        client.add_role_permission(role.id, kind, "*", "EDIT")
            for name, held in PEOPLE.items():
                client.create_user(name, PASSWORD)
                for role in held:
                    client.assign_role(name, roles[role])
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.server.__exit__(*exc_info)

    def settled(self, path: str, name: str) -> str:
        """Return a page's text when no number on it is still being worked out."""
        deadline = time.monotonic() + 120
        while "being worked out" in (text := self.get(path, name).text):
            assert time.monotonic() < deadline, text
        return text

    @contextmanager
    def acting(self, name: str) -> Iterator[None]:
        """Let MLflow and the plugin in this process be `name` on this server."""
        wanted = {
            **self.environment,
            "MLFLOW_TRACKING_URI": self.url,
            "MLFLOW_TRACKING_USERNAME": name,
            "MLFLOW_TRACKING_PASSWORD": PASSWORD,
        }
        before = {key: os.environ.get(key) for key in wanted}
        os.environ.update(wanted)
        try:
            yield
        finally:
            for key, value in before.items():
                if value is None:
                    os.environ.pop(key, None)
                else:
                    os.environ[key] = value

    def register(self, name: str, *, by: str = "ann") -> Path:
        """Log and register the starter agent as `name`; return its suite."""
        import mlflow_agent_plugin as agents
        from mlflow_agent_plugin.interaction.templates import write_agent

        folder = self.folder / "sources" / name
        folder.mkdir(parents=True, exist_ok=True)
        with self.acting(by):
            agent, suite = write_agent(name, folder)
            agents.log_agent(agent, registered_model_name=name)
        return suite

    def evaluate(self, name: str, version: int, suite: Path, *, by: str = "ann") -> None:
        """Evaluate a version and hand the evidence in."""
        import mlflow_agent_plugin as agents

        with self.acting(by):
            agents.evaluate(f"models:/{name}/{version}", [suite], workers=0, progress=False)

    def get(self, path: str, who: str | None = "ann", **kwargs) -> requests.Response:
        return self._send("GET", path, who, **kwargs)

    def post(self, path: str, who: str | None = "ann", **kwargs) -> requests.Response:
        return self._send("POST", path, who, **kwargs)

    def form(self, page: str, action: str, who: str = "ann", **fields: str) -> requests.Response:
        """Send a form as a browser would: with the token of the page it stands on."""
        token = self.token(page, who)
        return self.post(f"/agents{action}", who, data={"token": token, **fields})

    def token(self, page: str, who: str) -> str:
        text = self.get(f"/agents{page}", who).text
        return text.split('name="token" value="', 1)[1].split('"', 1)[0]

    def api(self, method: str, path: str, who: str | None = "ann", **body) -> requests.Response:
        kwargs = {"json": body} if method == "POST" else {"params": body}
        return self._send(method, f"/api/agents/v1{path}", who, **kwargs)

    def _send(self, method: str, path: str, who: str | None, **kwargs) -> requests.Response:
        auth = None if who is None else (who, PASSWORD)
        return requests.request(method, f"{self.url}{path}", auth=auth, timeout=60, **kwargs)

    def waiting_call(self, *, role: str = "operations", tenant: str = "default", **changes):
        """Put a tool call into the queue; return the approval."""
        from mlflow_agent_plugin.entities import Actor, ToolCall
        from mlflow_agent_plugin.store import Store
        from mlflow_agent_plugin.trust import ApprovalQueue

        number = os.urandom(6).hex()
        with self.acting("ann"), Store.open(self.store_uri) as store:
            return ApprovalQueue(store).request(
                ToolCall(
                    call_id=f"call-{number}",
                    tool=changes.get("tool", "close_account"),
                    arguments=changes.get("arguments", {"account": "ACC-1"}),
                    session_id=f"session-{number}",
                ),
                agent="desk",
                agent_digest="sha256:" + "1" * 64,
                policy_digest="sha256:" + "2" * 64,
                actor=Actor("customer-7", tenant=tenant),
                role=role,
                reason=changes.get("reason", "closing an account cannot be undone"),
                ttl_seconds=changes.get("ttl_seconds", 600),
            )

    def said(self) -> dict:
        return json.loads(self.server.said)
