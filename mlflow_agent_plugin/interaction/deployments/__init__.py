"""MLflow's deployments target ``agents``: ``mlflow deployments … -t agents`` drives a front end.

    mlflow deployments create -t agents --name support -m models:/support@champion
    mlflow deployments predict -t agents --name support -I request.json

Rules:
- The front end decides who may do what: this sends requests with the caller's API key and passes
  its answers on. An error keeps its status as an MLflow error code.
- The target is ``agents`` (``MLFLOW_AGENTS_FRONT_END`` says where), ``agents://host:port``, or
  ``agents:https://host``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from mlflow.deployments import BaseDeploymentClient, PredictionsResponse
from mlflow.exceptions import MlflowException

from mlflow_agent_plugin.interaction.deployments.link import FrontEndLink

if TYPE_CHECKING:
    import pandas as pd

FLAVOR = "agent"
_ROLLOUT = "rollout"


class AgentDeploymentClient(BaseDeploymentClient):  # type: ignore[misc]  # mlflow is untyped
    """Deploys agents behind a front end that was started with ``--deployments``.

    Args:
        target_uri: See the module's rules.
    """

    def __init__(self, target_uri: str) -> None:
        super().__init__(target_uri)
        self._link = FrontEndLink.of(target_uri)

    def create_deployment(
        self,
        name: str,
        model_uri: str,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Serve an agent under a name.

        Args:
            name: In requests.
            model_uri: A ``models:/`` URI; a stage or alias is followed.
            flavor: None or ``agent``.
            config: Kept beside it.
            endpoint: Not supported.

        Raises:
            MlflowException: The front end refuses, or does not answer.
        """
        _check(flavor, endpoint)
        body = {"name": name, "model_uri": model_uri, "config": dict(config or {})}
        return _shown(self._link.call("POST", "/v1/deployments", body))

    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Serve another model under the name, or roll a candidate out beside it.

        Args:
            name: A deployment.
            model_uri: What to serve from now on; None: as before.
            flavor: None or ``agent``.
            config: With ``rollout``: ``canary`` or ``shadow`` starts a rollout (the other keys are
                its plan: ``share``, ``candidate_slot`` …), ``stop`` ends it (``reason``). Without:
                kept beside the deployment.
            endpoint: Not supported.

        Raises:
            MlflowException: The front end refuses, or does not answer.
        """
        _check(flavor, endpoint)
        wanted = dict(config or {})
        mode = wanted.pop(_ROLLOUT, None)
        now = self.get_deployment(name)
        if model_uri is not None or mode is None:
            body = {
                "model_uri": model_uri or now["model_uri"],
                "config": wanted if mode is None and config is not None else now["config"],
            }
            now = _shown(self._link.call("PATCH", _path(name), body))
        if mode is not None:
            now["rollout"] = self._roll_out(now["model_uri"], str(mode), wanted)
        return now

    def delete_deployment(
        self,
        name: str,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> None:
        """Serve nothing under a name any more; one that is not there is no error.

        Raises:
            MlflowException: The front end refuses, or does not answer.
        """
        del config
        _check(None, endpoint)
        self._link.call("DELETE", _path(name))

    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """Return all deployments.

        Raises:
            MlflowException: The front end refuses, or does not answer.
        """
        _check(None, endpoint)
        return [_shown(item) for item in self._link.call("GET", "/v1/deployments")["data"]]

    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """Return a deployment.

        Raises:
            MlflowException: There is none of that name, or the front end refuses.
        """
        _check(None, endpoint)
        return _shown(self._link.call("GET", _path(name)))

    def predict(
        self,
        deployment_name: str | None = None,
        inputs: pd.DataFrame | Mapping[str, Any] | list[Mapping[str, Any]] | None = None,
        endpoint: str | None = None,
    ) -> PredictionsResponse:
        """Ask an agent.

        Args:
            deployment_name: Any agent the front end serves.
            inputs: One Responses request, a list of them, or a data frame with one per row.
            endpoint: Not supported.

        Returns:
            Under ``predictions``, one Responses response per request.

        Raises:
            MlflowException: The front end refuses, or does not answer.
        """
        _check(None, endpoint)
        answers = [
            self._link.call("POST", "/v1/responses", {**request, "model": deployment_name})
            for request in _requests(inputs)
        ]
        return PredictionsResponse({"predictions": answers})

    def predict_stream(
        self,
        deployment_name: str | None = None,
        inputs: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Ask an agent and yield the events of its Responses stream; raises as `predict`."""
        _check(None, endpoint)
        (request,) = _requests(inputs)
        body = {**request, "model": deployment_name, "stream": True}
        yield from self._link.stream("/v1/responses", body)

    def _roll_out(self, uri: str, mode: str, plan: dict[str, Any]) -> dict[str, Any]:
        model, slot = _slot(uri)
        if mode != "stop":
            numbers = {key: _number(value) for key, value in plan.items()}
            body = {"model": model, "stable_slot": slot, "mode": mode, **numbers}
            return dict(self._link.call("POST", "/v1/rollouts", body))
        found = self._link.call("GET", f"/v1/rollouts?model={quote(model)}")["data"]
        for rollout in found:
            if rollout["state"] in ("running", "ready") and rollout["stable_slot"] == slot:
                reason = {"reason": str(plan.get("reason", "stopped by mlflow deployments"))}
                path = f"/v1/rollouts/{rollout['rollout_id']}/stop"
                return dict(self._link.call("POST", path, reason))
        raise _wrong(f"no rollout of {model} {slot} is open")


def run_local(
    target: str,
    name: str,
    model_uri: str,
    flavor: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Serve an agent in this process, without login, until it is stopped.

    Args:
        target: ``agents``.
        name: In requests.
        model_uri: Any MLflow model URI.
        flavor: None or ``agent``.
        config: ``host`` and ``port``.
    """
    import uvicorn

    from mlflow_agent_plugin.interaction.serve.app import make_app
    from mlflow_agent_plugin.interaction.serve.settings import ServeSettings

    del target
    _check(flavor, None)
    wanted = dict(config or {})
    settings = ServeSettings(agents={name: model_uri}, anonymous=True)
    uvicorn.run(
        make_app(settings),
        host=str(wanted.get("host", "127.0.0.1")),
        port=int(wanted.get("port", 8000)),
    )


def target_help() -> str:
    """Return what ``mlflow deployments help -t agents`` says."""
    return (
        "Deploys agents behind `mlflow-agents serve --deployments`.\n\n"
        "Target: agents (MLFLOW_AGENTS_FRONT_END says where, default http://127.0.0.1:8000), "
        "agents://host:port or agents:https://host.\n"
        "MLFLOW_AGENTS_API_KEY holds an API key of a verified user with the operator role.\n\n"
        "create -m models:/support@champion     serve what the alias points to, and follow it\n"
        "update -m models:/support/4            serve something else under the name\n"
        "update -C rollout=canary -C share=0.1  try what stands in @canary on a share\n"
        "update -C rollout=stop -C reason=…     send everything back\n"
        "predict                                a Responses request per row, e.g. "
        '[{"input": "My card was stolen"}]\n'
    )


def _check(flavor: str | None, endpoint: str | None) -> None:
    if endpoint is not None:
        raise _wrong("there are no endpoints here; give a name")
    if flavor not in (None, FLAVOR):
        raise _wrong(f"the flavor {flavor} is not served here; only {FLAVOR} is")


def _path(name: str) -> str:
    return f"/v1/deployments/{quote(name, safe='')}"


def _shown(deployment: dict[str, Any]) -> dict[str, Any]:
    return {**deployment, "flavor": FLAVOR}


def _requests(inputs: Any) -> list[dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return [dict(inputs)]
    if hasattr(inputs, "to_json"):
        inputs = json.loads(inputs.to_json(orient="records"))
    if (
        not isinstance(inputs, list)
        or not inputs
        or not all(isinstance(i, Mapping) for i in inputs)
    ):
        raise _wrong('the input is no Responses request; send e.g. [{"input": "…"}]')
    return [{key: value for key, value in item.items() if value is not None} for item in inputs]


def _slot(uri: str) -> tuple[str, str]:
    name, at, alias = uri.removeprefix("models:/").partition("@")
    if at:
        return name, f"@{alias}"
    name, slash, stage = name.partition("/")
    if slash and not stage.isdigit():
        return name, stage
    raise _wrong(
        f"{uri} does not move: a rollout needs a deployment of a stage or alias, e.g. "
        "models:/support@champion"
    )


def _number(value: Any) -> Any:
    """Return what the command line gave as text as the number it may be."""
    if isinstance(value, str):
        for kind in (int, float):
            try:
                return kind(value)
            except ValueError:
                continue
    return value


def _wrong(message: str) -> MlflowException:
    return MlflowException.invalid_parameter_value(message)


__all__ = ["AgentDeploymentClient", "run_local", "target_help"]
