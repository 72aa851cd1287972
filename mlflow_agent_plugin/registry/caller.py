"""Who changes the registry.

Rules:
- Inside a server with login, the caller is whoever MLflow authenticated for this request, with the
  roles MLflow's own role store gives, and ``admin`` for its administrators. Nothing the client
  sends besides its credential has a say.
- Inside a server without login, the caller is anonymous.
- In a process that holds the registry itself (a notebook on the database), the caller is the person
  the settings or the operating system name: unverified.
- A name given in a command (``by``) counts only where nobody logged in and the gate's rules say
  ``allow_unverified``.
"""

from __future__ import annotations

import sys
from typing import Any

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.entities import ANONYMOUS, Actor
from mlflow_agent_plugin.trust import local_actor

MAX_NAME_CHARS = 200


def current_caller(workspace: str) -> Actor:
    """Return who is behind the registry call that runs now."""
    flask = sys.modules.get("flask")
    if flask is None or not flask.has_request_context():
        return local_actor(Settings.from_env())
    user = getattr(flask.g, "mlflow_authenticated_user", None)
    if not isinstance(user, str) or not user:
        return ANONYMOUS
    return Actor(user=user, tenant=workspace, roles=_roles(user, workspace), verified=True)


def acting(caller: Actor, by: str | None, *, allow_unverified: bool) -> Actor:
    """Return whom an action is attributed to: the caller, or the name given where that counts."""
    name = (by or "").strip()
    if caller.verified or not allow_unverified or not name:
        return caller
    return Actor(user=name[:MAX_NAME_CHARS], tenant=caller.tenant, roles=caller.roles)


def _roles(user: str, workspace: str) -> frozenset[str]:
    auth: Any = sys.modules.get("mlflow.server.auth")
    if auth is None:
        return frozenset()
    try:
        account = auth.store.get_user(user)
        roles = {
            str(role.name)
            for role in auth.store.list_user_roles_for_workspace(account.id, workspace)
        }
        if account.is_admin:
            roles.add("admin")
    except Exception:  # no role is given when the role store cannot be asked
        return frozenset()
    return frozenset(roles)
