"""HashiCorp Vault: a stored secret (KV version 2), or one made for the call (any dynamic engine).

Rules:
- A dynamic secret's lease, and a token that was logged in for, are revoked when the call ends; if
  Vault is away just then, both end by themselves at their own time.
- The process logs in with a token file (as Vault's agent or a platform writes it) or an AppRole;
  neither stands in the configuration.
- Needs the extra ``vault``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from mlflow_agent_plugin.entities import Clock, utc_now
from mlflow_agent_plugin.errors import CredentialError
from mlflow_agent_plugin.trust.credentials.aws import silence_debug_logs
from mlflow_agent_plugin.trust.credentials.placeholders import fill
from mlflow_agent_plugin.trust.credentials.provider import CredentialRequest, IssuedSecret


@dataclass(frozen=True)
class VaultLogin:
    """How the process logs in: by a token file, or by AppRole (both of its fields).

    Attributes:
        token_file: File with a Vault token.
        role_id: AppRole's role id, no secret.
        secret_id_file: File with AppRole's secret id.
    """

    token_file: str | None = None
    role_id: str | None = None
    secret_id_file: str | None = None


class VaultProvider:
    """A secret in Vault.

    Args:
        url: Vault's address.
        path: KV: path of the secret below `mount`; dynamic: what is read, e.g.
            ``database/creds/orders``. May hold ``{tenant}``.
        login: See `VaultLogin`.
        mount: Mount of the KV engine; None for a dynamic secret.
        namespace: Vault Enterprise namespace.
        ca_file: Certificate authority of the server; None: the system's.
        clock: Source of time.
    """

    name = "vault"

    def __init__(
        self,
        url: str,
        path: str,
        *,
        login: VaultLogin,
        mount: str | None = "secret",
        namespace: str | None = None,
        ca_file: str | None = None,
        clock: Clock = utc_now,
    ) -> None:
        self._url = url
        self._path = path
        self._login = login
        self._mount = mount
        self._namespace = namespace
        self._ca_file = ca_file
        self._clock = clock

    def issue(self, request: CredentialRequest) -> IssuedSecret:
        """Log in and read the secret."""
        where = f"scope {request.scope}: Vault"
        path = fill(self._path, request)
        try:
            import hvac
            from hvac.exceptions import VaultError
            from requests.exceptions import RequestException
        except ImportError as missing:
            raise CredentialError(
                "the Vault client is not installed",
                where=where,
                hint="Install mlflow-agent-plugin[vault].",
            ) from missing
        silence_debug_logs()
        problem = ""
        cleanup: list[Callable[[], None]] = []
        answer: Mapping[str, Any] = {}
        try:
            client = hvac.Client(
                url=self._url, namespace=self._namespace, verify=self._ca_file or True, timeout=5
            )
            self._log_in(client, cleanup, where)
            if self._mount is None:
                answer = client.read(path) or {}
            else:
                answer = client.secrets.kv.v2.read_secret_version(
                    path=path, mount_point=self._mount, raise_on_deleted_version=True
                )
        except VaultError as error:
            # The kind only: messages repeat the request.
            problem = f"refused the request ({type(error).__name__})"
        except (RequestException, ValueError, KeyError, TypeError) as error:
            problem = f"cannot be asked ({type(error).__name__})"
        values = _values(answer, stored=self._mount is not None)
        if not problem and not values:
            problem = "has no such secret"
        if problem:
            _run_all(cleanup, quietly=True)
            raise CredentialError(f"the issuer {problem}", where=where)
        seconds = answer.get("lease_duration") or 0
        lease_id = answer.get("lease_id")
        if lease_id:
            cleanup.insert(0, lambda: client.sys.revoke_lease(lease_id))
        return IssuedSecret(
            values,
            expires_at=self._clock() + timedelta(seconds=seconds) if seconds else None,
            revoke=(lambda: _run_all(cleanup)) if cleanup else None,
        )

    def _log_in(self, client: Any, cleanup: list[Callable[[], None]], where: str) -> None:
        login = self._login
        if login.token_file is not None:
            client.token = _read(login.token_file, where)
            return
        assert login.secret_id_file is not None
        secret_id = _read(login.secret_id_file, where)
        client.auth.approle.login(role_id=login.role_id, secret_id=secret_id)
        # A token of this one call; revoking it also revokes the leases it made.
        cleanup.append(client.auth.token.revoke_self)


def _values(answer: Mapping[str, Any], *, stored: bool) -> dict[str, str]:
    data = answer.get("data") or {}
    data = data.get("data") or {} if stored else data
    return {str(k): str(v) for k, v in data.items() if isinstance(v, (str, int, float)) and v != ""}


def _read(path: str, where: str) -> str:
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        text = ""
    if not text:
        raise CredentialError("the login's file is missing, unreadable or empty", where=where)
    return text


def _run_all(steps: list[Callable[[], None]], *, quietly: bool = False) -> None:
    """Run every step even if one fails; raise the first failure at the end, unless `quietly`."""
    failure: Exception | None = None
    for step in steps:
        try:
            step()
        except Exception as error:  # noqa: BLE001 - whatever it is, the next step must run
            failure = failure or error
    if failure is not None and not quietly:
        raise failure
