"""Who is in front of the console or the API.

Rules:
- With login, a person is whoever MLflow itself authenticates from this request, with the roles of
  MLflow's role store; nothing else in the request has a say. No valid credential: 401.
- Without login everybody is the anonymous actor, and actions count only where a gate's own rules
  say that names nobody checked are good enough.
- What changes the registry runs as that person: the gate sees the user MLflow's API would see.
- A person sees the approvals and the audit of the own tenant (MLflow's workspace); administrators
  see all. The audit and other people's approvals take one of `READER_ROLES`.
- A form carries a token bound to its person; without it, or from another site, nothing is done.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from mlflow_agent_plugin.entities import ANONYMOUS, Actor
from mlflow_agent_plugin.interaction.web import LOGIN_VARIABLE
from mlflow_agent_plugin.registry.caller import current_caller

READER_ROLES = frozenset({"admin", "reviewer", "auditor", "operations"})
"""Who may read the audit and everybody's approvals."""

FORM_TOKEN_SECONDS = 12 * 3600
_SALT = "mlflow-agents/form"


@dataclass(frozen=True)
class Person:
    """Somebody who looks at the console or calls the API.

    Attributes:
        actor: Name, tenant and roles; verified if MLflow checked a credential.
        authorization: The request's own credential, handed on to MLflow's permission checks.
    """

    actor: Actor
    authorization: str | None = None

    @property
    def may_read_audit(self) -> bool:
        """Whether the audit and everybody's approvals may be seen."""
        return not login_required() or bool(self.actor.roles & READER_ROLES)

    @property
    def tenant(self) -> str | None:
        """The tenant whose rows may be seen; None for all."""
        if not login_required() or "admin" in self.actor.roles:
            return None
        return self.actor.tenant

    @property
    def answer_roles(self) -> frozenset[str] | None:
        """Roles whose approvals may be seen; None for all."""
        return None if self.may_read_audit else self.actor.roles


def login_required() -> bool:
    """Whether this server asks who somebody is."""
    return os.environ.get(LOGIN_VARIABLE, "true").lower() not in ("false", "0")


def identify(request: Request) -> Person:
    """Return who sent `request`.

    Raises:
        HTTPException: 401, nobody MLflow knows.
    """
    if not login_required():
        return Person(ANONYMOUS)
    from mlflow.server import auth

    user: Any
    if auth.auth_config.authorization_function != auth.DEFAULT_AUTHORIZATION_FUNCTION:
        user = auth._authenticate_custom_for_fastapi(request)  # noqa: SLF001 - no public way
    else:
        user = auth._authenticate_fastapi_request(request)  # noqa: SLF001
    name = getattr(user, "username", None)
    if not isinstance(name, str) or not name:
        raise HTTPException(
            401, "Log in with your MLflow user.", {"WWW-Authenticate": 'Basic realm="mlflow"'}
        )
    authorization = request.headers.get("authorization")
    with _flask_request(name, authorization):
        return Person(current_caller(_workspace()), authorization)


@contextmanager
def acting(person: Person) -> Iterator[None]:
    """Let the registry calls of the block be this person's."""
    name = person.actor.user if person.actor.verified else None
    with _flask_request(name, person.authorization):
        yield


def may_read_model(person: Person, name: str) -> bool:
    """Say whether MLflow's own permissions let this person see a registered model."""
    return _permits(person, name, "can_read")


def may_change_model(person: Person, name: str) -> bool:
    """Say whether MLflow's own permissions let this person change a registered model."""
    return _permits(person, name, "can_update")


def _permits(person: Person, name: str, what: str) -> bool:
    if not login_required() or "admin" in person.actor.roles:
        return True
    from mlflow.exceptions import MlflowException
    from mlflow.server import auth

    with _flask_request(person.actor.user, person.authorization):
        try:
            # As MLflow asks, for the person `identify` found: its own question would check the
            # password once more, 50 ms for each line of a list.
            found = auth._get_role_permission_or_default(  # noqa: SLF001
                auth._role_permission_for(  # noqa: SLF001
                    username=person.actor.user,
                    resource_type="registered_model",
                    resource_key=name,
                    workspace_lookup_id=name,
                    workspace_fetcher=auth._get_model_registry_store().get_registered_model,  # noqa: SLF001
                    workspace_label="registered model",
                )
            )
            return bool(getattr(found, what))
        except MlflowException:
            return False


def form_token(person: Person) -> str:
    """Return the token a form of this person carries."""
    return str(_signer().dumps(person.actor.user, salt=_SALT))


def check_form(request: Request, person: Person, token: str) -> None:
    """Check that a form was sent from a page this server gave to this person.

    Raises:
        HTTPException: 403.
    """
    from itsdangerous import BadSignature

    origin = request.headers.get("sec-fetch-site", "same-origin")
    try:
        found = _signer().loads(token, salt=_SALT, max_age=FORM_TOKEN_SECONDS)
    except BadSignature:
        found = None
    if origin not in ("same-origin", "none") or found != person.actor.user:
        raise HTTPException(403, "This form is too old or not yours. Load the page again.")


def _signer() -> Any:
    from itsdangerous import URLSafeTimedSerializer

    return URLSafeTimedSerializer(_secret())


_made: list[str] = []


def _secret() -> str:
    found = os.environ.get("MLFLOW_FLASK_SERVER_SECRET_KEY")
    if found:
        return found
    # Without login there is one anonymous user; several workers still have to agree on the key.
    from mlflow_agent_plugin.config import Settings
    from mlflow_agent_plugin.trust import KeyStore

    if not _made:
        key = KeyStore(Settings.from_env().key_dir).signing_key()
        _made.append(key.sign(_SALT.encode()).hex())
    return _made[0]


def _workspace() -> str:
    from mlflow.utils.workspace_context import get_request_workspace
    from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME

    return str(get_request_workspace() or DEFAULT_WORKSPACE_NAME)


@contextmanager
def _flask_request(user: str | None, authorization: str | None) -> Iterator[None]:
    """Stand in MLflow's own kind of request: its permission checks and the gate look there."""
    import flask
    from mlflow.server import app

    headers = {} if authorization is None else {"Authorization": authorization}
    with app.test_request_context("/agents", headers=headers):
        if user is not None:
            flask.g.mlflow_authenticated_user = user
        yield
