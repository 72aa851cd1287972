"""Whether a bundle keeps the promises of the newest registered version's tool contracts.

Rules:
- Asked before anything is logged. A breaking change without a new major version is refused, by any
  registry: the gated one and MLflow's own.
- The newest version is the one with the highest number; what was deleted is not asked. It is read
  like any model: its digest is checked, none of its code runs.
- A version that cannot be read, or is no agent, stops nobody from logging a good one: a warning
  says that nothing was compared. The gate compares once more before a slot moves.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from mlflow_agent_plugin.errors import ContractError

if TYPE_CHECKING:
    from mlflow_agent_plugin.package import Bundle


class ContractsNotComparedWarning(UserWarning):
    """The contracts of the registered version before could not be read."""


def check_contracts(
    bundle: Bundle, model_name: str, *, fetch: Callable[[str, str], Bundle]
) -> None:
    """Refuse contracts of `bundle` that break those of the newest version of `model_name`.

    Args:
        bundle: What is to be registered.
        model_name: The registered model; it need not exist yet.
        fetch: Called with (model URI, folder): returns the verified bundle of a version.

    Raises:
        ContractError: A tool's change needs a new major version.
    """
    from mlflow_agent_plugin.package.compatibility import compare_all

    try:
        newest = _newest_version(model_name)
        if newest is None:
            return
        with tempfile.TemporaryDirectory(prefix="agent-") as folder:
            before = fetch(f"models:/{model_name}/{newest}", folder)
            contracts = dict(before.contracts)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it, it is not the new one's
        _warn(model_name, error)
        return
    broken = [c for c in compare_all(contracts, bundle.contracts).values() if c.needs_major]
    if broken:
        said = "; ".join(
            f"{change.tool} ({change.old_version} -> {change.new_version}): "
            f"{', '.join(change.reasons)}"
            for change in broken
        )
        tools = ", ".join(
            f"{change.tool} {int((change.old_version or '0').split('.')[0]) + 1}.0.0"
            for change in broken
        )
        raise ContractError(
            f"breaks what version {newest} of {model_name!r} promises: {said}",
            where=", ".join(f"contracts/{change.tool}.yaml" for change in broken),
            hint=f"Keep the promise, or give a new major version: {tools}.",
        )


def _newest_version(model_name: str) -> str | None:
    import mlflow
    from mlflow.entities.model_registry.model_version_status import ModelVersionStatus

    quote = '"' if "'" in model_name else "'"
    found = mlflow.MlflowClient().search_model_versions(
        f"name={quote}{model_name}{quote}", order_by=["version_number DESC"], max_results=20
    )
    # One that is only being registered, or was not, has no content yet.
    ready = ModelVersionStatus.to_string(ModelVersionStatus.READY)
    return next((str(version.version) for version in found if version.status == ready), None)


def _warn(model_name: str, error: Exception) -> None:
    said = str(error).splitlines()[0][:300] if str(error) else ""
    warnings.warn(
        f"the tool contracts were not compared with those of {model_name!r} before: its newest "
        f"version cannot be read ({type(error).__name__}: {said})",
        ContractsNotComparedWarning,
        stacklevel=4,
    )
