"""Puts tenant, user and agent into the configured path, role or session policy of a secret.

Rules:
- Only whole, known names in braces are placeholders: ``{tenant}``, ``{user}``, ``{agent}``; IAM's
  own ``${aws:username}`` stays.
- A name that could change the meaning of a path or policy (a slash, a star, a dot alone) is
  refused, never quoted: a tenant called ``*`` gets nothing.
"""

from __future__ import annotations

import re
from typing import Any

from mlflow_agent_plugin.errors import CredentialError
from mlflow_agent_plugin.trust.credentials.provider import CredentialRequest

_PLACEHOLDER = re.compile(r"(?<!\$)\{(tenant|user|agent)\}")
_HARMLESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,127}")


def fill(value: Any, request: CredentialRequest) -> Any:
    """Return `value` (a JSON value) with its placeholders filled.

    Raises:
        CredentialError: A name is not made of letters, digits and ``_.@-``.
    """
    if isinstance(value, str):
        return _PLACEHOLDER.sub(lambda match: _name(match[1], request), value)
    if isinstance(value, dict):
        return {fill(key, request): fill(part, request) for key, part in value.items()}
    if isinstance(value, list):
        return [fill(part, request) for part in value]
    return value


def _name(which: str, request: CredentialRequest) -> str:
    name = str(getattr(request, which))
    if _HARMLESS.fullmatch(name) is None or ".." in name:
        raise CredentialError(
            f"the {which}'s name cannot stand in a secret's path or policy",
            where=f"scope {request.scope}",
            hint="Names of letters, digits, '_', '.', '@' and '-' can.",
        )
    return name
