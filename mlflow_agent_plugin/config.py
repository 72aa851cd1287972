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


@dataclass(frozen=True)
class Settings:
    """Settings with their defaults.

    Attributes:
        store_uri: SQLAlchemy URL of the runtime store (``MLFLOW_AGENTS_STORE_URI``): sessions,
            approvals, ledger, audit.
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
        accept_event_time: Accept ``custom_inputs.event_time``, for replay of recorded traffic
            (``MLFLOW_AGENTS_ACCEPT_EVENT_TIME``).
        tracing: Write an MLflow trace per request (``MLFLOW_AGENTS_TRACING``).
        registry_content: Artifact URI below which the gated registry keeps its own copies of agent
            versions (``MLFLOW_AGENTS_REGISTRY_CONTENT``); default: see `registry.vault`.
    """

    store_uri: str = "sqlite:///mlflow_agents.db"
    key_dir: Path = _KEY_DIR
    environment: str = "development"
    actor: str | None = None
    resources: str | None = None
    max_message_chars: int = 16_000
    approval_ttl_seconds: int = 24 * 3600
    accept_event_time: bool = False
    tracing: bool = True
    registry_content: str | None = None

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
    if isinstance(default, Path):
        return Path(text).expanduser()
    return text
