"""Settings of a process, read once from the environment.

Every variable is listed here and in docs/reference/settings.md (a test compares the two).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow_agent_plugin.errors import ConfigError

_KEY_DIR = Path("~/.mlflow-agents/keys").expanduser()
_SPOOL_DIR = Path("~/.mlflow-agents/spool").expanduser()


@dataclass(frozen=True)
class Settings:
    """Settings with their defaults.

    Attributes:
        store_uri: SQLAlchemy URL of the runtime store (``MLFLOW_AGENTS_STORE_URI``): sessions,
            approvals, ledger, audit.
        store_pool: Connections to PostgreSQL each process keeps (``MLFLOW_AGENTS_STORE_POOL``); it
            opens as many again for a burst.
        key_dir: Folder of the local signing key and of trusted public keys
            (``MLFLOW_AGENTS_KEY_DIR``).
        environment: Name policies see as ``context.session.environment``
            (``MLFLOW_AGENTS_ENVIRONMENT``).
        actor: Unverified name used when nobody logged in, ``user``, ``user@tenant`` or
            ``user@tenant:role,role`` (``MLFLOW_AGENTS_ACTOR``); default: the OS user.
        resources: JSON object handed to the bundle's resource factory over the manifest's own
            settings (``MLFLOW_AGENTS_RESOURCES``), e.g. where the bank's database is.
        max_message_chars: Longest user message accepted (``MLFLOW_AGENTS_MAX_MESSAGE_CHARS``).
        approval_ttl_seconds: How long an approval may wait
            (``MLFLOW_AGENTS_APPROVAL_TTL_SECONDS``).
        verified_reviewers: Whether people who answer approvals must have logged in
            (``MLFLOW_AGENTS_VERIFIED_REVIEWERS``): ``auto``, when the requester has; ``always``;
            ``never``.
        accept_event_time: Accept ``custom_inputs.event_time``, for replay of recorded traffic
            (``MLFLOW_AGENTS_ACCEPT_EVENT_TIME``).
        tracing: Write an MLflow trace per request (``MLFLOW_AGENTS_TRACING``).
        trace_sampling: Share of ordinary requests whose trace keeps its steps' spans, 0 to 1
            (``MLFLOW_AGENTS_TRACE_SAMPLING``); incidents always keep them, and every request its
            row.
        spool: Keep traces on disk until the tracking server has them (``MLFLOW_AGENTS_SPOOL``).
        spool_dir: Folder of the spools, one file per tracking server
            (``MLFLOW_AGENTS_SPOOL_DIR``).
        spool_max_mb: Bound of one spool, megabytes (``MLFLOW_AGENTS_SPOOL_MAX_MB``).
        spool_when_full: ``drop`` the oldest ordinary traces, or ``stop`` answering
            (``MLFLOW_AGENTS_SPOOL_WHEN_FULL``).
        metrics_port: Port of a Prometheus endpoint of the serving processes, 0 for none
            (``MLFLOW_AGENTS_METRICS_PORT``).
        metrics_host: Address it listens on (``MLFLOW_AGENTS_METRICS_HOST``).
        registry_content: Artifact URI below which the gated registry keeps its own copies of agent
            versions (``MLFLOW_AGENTS_REGISTRY_CONTENT``); default: see `registry.vault`.
        limits_uri: Where quotas are counted (``MLFLOW_AGENTS_LIMITS_URI``): ``memory://`` for this
            process alone, ``redis://host:6379/0`` for all workers together.
        quotas: File of the host's own quotas (``MLFLOW_AGENTS_QUOTAS``); they hold beside the
            agent's, so they can only tighten.
        promoted_only: Load agents only with a registry's statement that they were promoted, by
            whatever name or path (``MLFLOW_AGENTS_PROMOTED_ONLY``).
        unsafe_skip_promotion_check: Load by a stage or alias without such a statement; warns and is
            audited (``MLFLOW_AGENTS_UNSAFE_SKIP_PROMOTION_CHECK``).
        credentials: File that says where the secret of each tool scope comes from
            (``MLFLOW_AGENTS_CREDENTIALS``); see `trust.credentials.sources`.
        monitoring_table: Folder of the monitoring table the console shows
            (``MLFLOW_AGENTS_MONITORING_TABLE``).
    """

    store_uri: str = "sqlite:///mlflow_agents.db"
    store_pool: int = 10
    key_dir: Path = _KEY_DIR
    environment: str = "development"
    actor: str | None = None
    resources: str | None = None
    max_message_chars: int = 16_000
    approval_ttl_seconds: int = 24 * 3600
    verified_reviewers: str = "auto"
    accept_event_time: bool = False
    tracing: bool = True
    trace_sampling: float = 1.0
    spool: bool = True
    spool_dir: Path = _SPOOL_DIR
    spool_max_mb: int = 512
    spool_when_full: str = "drop"
    metrics_port: int = 0
    metrics_host: str = "127.0.0.1"
    registry_content: str | None = None
    limits_uri: str = "memory://"
    quotas: str | None = None
    promoted_only: bool = False
    unsafe_skip_promotion_check: bool = False
    credentials: str | None = None
    monitoring_table: str | None = None

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Read the settings from `env` (default: the process environment).

        Raises:
            ConfigError: A variable is set to a value that makes no sense.
        """
        source = os.environ if env is None else env
        found = {
            name: source[ENVIRONMENT_VARIABLES[name]]
            for name in ENVIRONMENT_VARIABLES
            if source.get(ENVIRONMENT_VARIABLES[name], "") != ""
        }
        values: dict[str, object] = {}
        for name, text in found.items():
            values[name] = _parse(name, text)
        return cls(**values)  # type: ignore[arg-type]


ENVIRONMENT_VARIABLES: dict[str, str] = {
    name: f"MLFLOW_AGENTS_{name.upper()}" for name in Settings.__dataclass_fields__
}
"""Field of `Settings` to the environment variable that sets it."""

_CHOICES = {
    "verified_reviewers": ("auto", "always", "never"),
    "spool_when_full": ("drop", "stop"),
}
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def _parse(name: str, text: str) -> object:
    default = Settings.__dataclass_fields__[name].default
    where = ENVIRONMENT_VARIABLES[name]
    if isinstance(default, bool):
        if text.lower() not in _BOOLEANS:
            raise ConfigError(f"{text!r} is not true or false", where=where)
        return _BOOLEANS[text.lower()]
    if isinstance(default, int):
        if not text.isascii() or not text.isdigit() or int(text) == 0:
            raise ConfigError(f"{text!r} is not a positive whole number", where=where)
        return int(text)
    if text not in _CHOICES.get(name, (text,)):
        raise ConfigError(f"{text!r} is none of {', '.join(_CHOICES[name])}", where=where)
    if isinstance(default, float):
        return _share(text, where)
    if isinstance(default, Path):
        return Path(text).expanduser()
    return text


def _share(text: str, where: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ConfigError(f"{text!r} is not a number from 0 to 1", where=where)
    return share
