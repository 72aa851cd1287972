"""One way to a chat model, whatever plans: the local planner, a script, or a provider.

Rules:
- What comes back is a LangChain chat model; the graph does not know which.
- Keys come from the provider's own environment variables, never from the manifest: a setting that
  looks like a key is refused before anything is built.
- The local planner's files are read through the bundle, so each is checked against its digest, and
  only as data.
- Fallbacks are tried in order when a model fails; each is bound to the same tools.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from mlflow_agent_plugin.errors import ConfigError, PlannerError
from mlflow_agent_plugin.foundation.gateway import MLFLOW_GATEWAY, gateway_settings
from mlflow_agent_plugin.package.manifest import MANIFEST_FILE

if TYPE_CHECKING:
    from langchain_core.language_models.chat_models import BaseChatModel

    from mlflow_agent_plugin.foundation.planner.intent_model import TrainedPlanner
    from mlflow_agent_plugin.foundation.usage import ModelMeter
    from mlflow_agent_plugin.package.bundle import Bundle
    from mlflow_agent_plugin.package.manifest import ModelSpec

LOCAL = "local"
SCRIPTED = "scripted"

PLANNER_DIR = "planner"
"""Folder of the trained planner below the model's path."""

_SECRET_NAME = re.compile(
    r"(^|[_-])(key|secret|password|passwd|passphrase|credentials?|token|authorization|bearer)$",
    re.IGNORECASE,
)
_JOINED_SECRET_NAME = re.compile(
    r"(apikey|accesskey|secretkey|accesstoken|authtoken)$", re.IGNORECASE
)
_SECRET_VALUE = re.compile(
    r"^(sk-|sk_|gsk_|xai-|hf_|gh[pousr]_|github_pat_|xox[abprs]-|AIza|AKIA|ASIA)[\w-]{12,}$"
    r"|^(bearer|basic)\s+\S{8,}$|^[a-z][a-z0-9+.-]*://[^/\s:@]*:[^/\s@]+@",
    re.IGNORECASE,
)
_RESERVED = {
    "model": "name",
    "model_name": "name",
    "model_provider": "provider",
    "configurable_fields": "settings",
    "config_prefix": "settings",
}
_MISSING_KEY = re.compile(r"api[ _]?key|credential|access[ _]?token", re.IGNORECASE)
_HINT = (
    "Check name and settings, and that the provider's key is in the environment; see "
    "docs/how-to/use-an-llm-provider.md."
)
_EXTRAS = {"openai": "mlflow-agent-plugin[openai]"}


def build_chat_model(
    spec: ModelSpec, bundle: Bundle, *, checking: bool = False, meter: ModelMeter | None = None
) -> BaseChatModel:
    """Build the chat model a manifest describes.

    Args:
        spec: The manifest's ``model``.
        bundle: The agent; its prompts and files serve the local planner.
        checking: The model only serves to check that a graph builds: where the provider's key is
            missing, it is built all the same, and fails when it is called.
        meter: Is asked before, and told after, each call of the model and of its fallbacks.

    Raises:
        ConfigError: The provider is unknown, not installed or lacks its key, or a setting is
            refused.
        PlannerError: The local planner's playbook or trained files are missing or malformed.
    """
    places = [("model", spec)] + [
        (f"model.fallbacks[{index}]", fallback) for index, fallback in enumerate(spec.fallbacks)
    ]
    model, *fallbacks = [
        _build_one(
            one,
            bundle,
            place=place,
            checking=checking,
            timeout_seconds=spec.budgets.max_step_seconds,
        )
        for place, one in places
    ]
    if meter is not None:
        from mlflow_agent_plugin.foundation.metering import put_on

        for built, (_, one) in zip((model, *fallbacks), places, strict=True):
            put_on(built, one, meter)
    if not fallbacks:
        return model
    # RunnableWithFallbacks passes bind_tools and everything else on to each of its models.
    return cast("BaseChatModel", model.with_fallbacks(fallbacks))


def _build_one(
    spec: ModelSpec, bundle: Bundle, *, place: str, checking: bool, timeout_seconds: float | None
) -> BaseChatModel:
    where = f"{bundle.shown(MANIFEST_FILE)}: {place}"
    if spec.fallbacks and place != "model":
        raise ConfigError(
            "a fallback has fallbacks of its own",
            where=f"{where}.fallbacks",
            hint="List them all, in order, under model.fallbacks.",
        )
    _refuse_secrets(spec.settings, f"{where}.settings")
    if spec.provider == LOCAL:
        return _build_local(spec, bundle, where)
    if spec.provider == SCRIPTED:
        from mlflow_agent_plugin.foundation.scripted import build_scripted

        return build_scripted(spec, where=f"{where}.settings")
    return _build_provider(spec, where, checking=checking, timeout_seconds=timeout_seconds)


def _refuse_secrets(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for name, item in value.items():
            at = f"{where}.{name}"
            if _SECRET_NAME.search(str(name)) or _JOINED_SECRET_NAME.search(str(name)):
                raise ConfigError(
                    "a secret does not belong in the manifest",
                    where=at,
                    hint="Remove it and set the provider's environment variable, for example "
                    "OPENAI_API_KEY.",
                )
            _refuse_secrets(item, at)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_secrets(item, f"{where}[{index}]")
    elif isinstance(value, str) and _SECRET_VALUE.search(value.strip()):
        raise ConfigError(
            "the value looks like a key or password",
            where=where,
            hint="Remove it and set the provider's environment variable, for example "
            "OPENAI_API_KEY.",
        )


def _build_local(spec: ModelSpec, bundle: Bundle, where: str) -> BaseChatModel:
    from mlflow_agent_plugin.foundation.planner.chat_model import LocalPlanner
    from mlflow_agent_plugin.foundation.planner.engine import PlannerEngine
    from mlflow_agent_plugin.foundation.planner.intent_model import PLANNER_FILES
    from mlflow_agent_plugin.foundation.planner.playbook import PLAYBOOK_FILE
    from mlflow_agent_plugin.foundation.planner.reading import load_playbook

    if spec.path is None:
        raise ConfigError(
            "the local planner needs the folder of its playbook",
            where=f"{where}.path",
            hint="Write `path: model`.",
        )
    if spec.settings:
        raise ConfigError(
            "the local planner has no settings",
            where=f"{where}.settings",
            hint=f"Put thresholds and plans into {spec.path}/{PLAYBOOK_FILE}.",
        )
    path = f"{spec.path}/{PLAYBOOK_FILE}"
    if path not in bundle.locations:
        raise PlannerError(
            "the local planner has no playbook",
            where=bundle.shown(path),
            hint="Write one; see docs/reference/playbook.md.",
        )
    playbook = load_playbook(
        bundle.read_text(path),
        tools=bundle.manifest.usable_tools(),
        prompts={name: prompt.variables for name, prompt in bundle.prompts.items()},
        where=bundle.shown(path),
    )
    folder = f"{spec.path}/{PLANNER_DIR}"
    names = [name for name in PLANNER_FILES if f"{folder}/{name}" in bundle.locations]
    files = tuple((name, bundle.read_bytes(f"{folder}/{name}")) for name in names)
    trained = _load_trained(files, bundle.shown(folder))
    return LocalPlanner(
        engine=PlannerEngine(playbook, trained.rank),
        prompts=bundle.prompts,
        model_name=spec.name,
    )


@lru_cache(maxsize=4)
def _load_trained(files: tuple[tuple[str, bytes], ...], where: str) -> TrainedPlanner:
    """Read a planner; equal bytes are read once per process (a planner never changes)."""
    from mlflow_agent_plugin.foundation.planner.intent_model import TrainedPlanner

    planner = TrainedPlanner.from_files(dict(files), where=where)
    planner.rank("")  # imports scikit-learn now, not while the first user waits
    return planner


def _build_provider(
    spec: ModelSpec, where: str, *, checking: bool, timeout_seconds: float | None
) -> BaseChatModel:
    from langchain.chat_models import init_chat_model
    from pydantic import ValidationError

    from mlflow_agent_plugin.foundation.unavailable import UnavailableChatModel

    for name, field in _RESERVED.items():
        if name in spec.settings:
            raise ConfigError(
                f"{name} is not a setting",
                where=f"{where}.settings.{name}",
                hint=f"Use the field {field} of the manifest's model.",
            )
    provider, settings = spec.provider, _with_timeout(spec, timeout_seconds)
    if spec.provider == MLFLOW_GATEWAY:
        try:
            settings |= gateway_settings(spec, where)
        except ConfigError as error:
            if checking:  # where the server is need only be known where the agent runs
                return UnavailableChatModel(problem=error)
            raise
        provider = "openai"
        settings.pop("gateway_uri", None)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            model = init_chat_model(spec.name, model_provider=provider, **settings)
    except ImportError as error:
        package = _EXTRAS.get(provider) or f"langchain-{provider.replace('_', '-')}"
        raise ConfigError(
            f"provider {spec.provider!r} is not installed",
            where=f"{where}.provider",
            hint=f"Install it: pip install '{package}'.",
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ConfigError(first["msg"], where=f"{where}.settings.{field}", hint=_HINT) from error
    except Exception as error:
        if "Unsupported provider" in str(error):
            raise ConfigError(
                f"there is no provider {spec.provider!r}",
                where=f"{where}.provider",
                hint="Use local, scripted, mlflow-gateway, or a provider of LangChain's "
                "init_chat_model, for example openai.",
            ) from error
        problem = ConfigError(
            f"provider {spec.provider!r} cannot be used: {_first_line(error)}",
            where=where,
            hint=_HINT,
        )
        if checking and _MISSING_KEY.search(str(error)):
            return UnavailableChatModel(problem=problem)
        raise problem from error
    for warning in warned:
        # init_chat_model lets a misspelt setting through with a warning only
        unknown = re.match(r"WARNING! (\S+) is not default parameter", str(warning.message))
        if unknown is not None:
            raise ConfigError(
                "the provider has no such setting",
                where=f"{where}.settings.{unknown[1]}",
                hint="Correct its name, or put it under model_kwargs if the service knows it.",
            )
    return cast("BaseChatModel", model)


def _with_timeout(spec: ModelSpec, seconds: float | None) -> dict[str, Any]:
    """Return the settings, with a ``timeout`` of at most `seconds`."""
    settings = dict(spec.settings)
    if seconds is not None:
        asked = settings.get("timeout")
        is_number = isinstance(asked, (int, float)) and not isinstance(asked, bool)
        settings["timeout"] = min(float(asked or 0), seconds) if is_number else seconds
    return settings


def _first_line(error: Exception) -> str:
    text = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {text[:300]}"
