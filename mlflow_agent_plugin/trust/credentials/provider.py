"""What a source of secrets does, and the two that need nothing: environment and files."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from mlflow_agent_plugin.errors import CredentialError

VALUE = "value"
"""Name of a secret that has only one value."""

MAX_SECRET_BYTES = 64 * 1024


@dataclass(frozen=True)
class IssuedSecret:
    """What a provider gave.

    Attributes:
        values: Secret values by name.
        expires_at: When the issuer stops accepting them; None if nobody said.
        revoke: Ends them at the issuer; None where that is not possible. May raise.
    """

    values: Mapping[str, str] = field(repr=False)
    expires_at: datetime | None = None
    revoke: Callable[[], None] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class CredentialRequest:
    """For what a secret is needed; a provider may narrow what it issues to it.

    Attributes:
        scope: Scope of the tool's contract.
        tool: Contract name.
        agent: Agent name.
        tenant: Tenant of the actor.
        user: Name of the actor.
        key: The call's key, to recognise it in the issuer's own log.
    """

    scope: str
    tool: str
    agent: str
    tenant: str
    user: str
    key: str


class CredentialProvider(Protocol):
    """A source of secrets for one scope.

    The audit names it by its attribute `name`, or by its class if it has none.
    """

    def issue(self, request: CredentialRequest) -> IssuedSecret:
        """Return the secret for one call.

        Raises:
            CredentialError: It is missing, refused, or the source is away. The message holds no
                part of any secret.
        """
        ...


class EnvironmentProvider:
    """A secret in an environment variable of this process, for development.

    Args:
        variable: Name of the variable.
    """

    name = "environment"

    def __init__(self, variable: str) -> None:
        self._variable = variable

    def issue(self, request: CredentialRequest) -> IssuedSecret:
        """Read the variable now."""
        value = os.environ.get(self._variable, "")
        if not value:
            raise CredentialError(
                "the environment variable is not set",
                where=f"scope {request.scope}: {self._variable}",
                hint="Set it where the agent runs, or name another source.",
            )
        return IssuedSecret({VALUE: value})


class FileProvider:
    """A secret in a file, as container platforms mount them; read at every call, so it may rotate.

    Args:
        path: The file; a line break at its end does not belong to the secret.
    """

    name = "file"

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path).expanduser()

    def issue(self, request: CredentialRequest) -> IssuedSecret:
        """Read the file now."""
        where = f"scope {request.scope}: {self._path}"
        problem = ""
        text = ""
        try:
            found = self._path.stat()
            if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_SECRET_BYTES:
                problem = f"is not a file of at most {MAX_SECRET_BYTES} bytes"
            elif found.st_mode & 0o007:
                problem = "can be read by every user of this machine; chmod it to 0600"
            else:
                text = self._path.read_text(encoding="utf-8").rstrip("\r\n")
                problem = "" if text else "is empty"
        except UnicodeDecodeError:
            problem = "is not UTF-8 text"
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
        if problem:
            raise CredentialError(f"the secret's file {problem}", where=where)
        return IssuedSecret({VALUE: text})
