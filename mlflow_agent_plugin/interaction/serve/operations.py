"""What operators do over the front end's API: rollouts and deployments.

Rules:
- By verified people with the operator role, whatever their tenant: they run the service.
- What they do is audited under their name; what the registry has to do, it does by its own rules.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.errors import RequestError
from mlflow_agent_plugin.interaction.serve.http import HttpError
from mlflow_agent_plugin.lifecycle.rollout import RolloutPlan, start_rollout

if TYPE_CHECKING:
    from mlflow_agent_plugin.interaction.serve.deployed import Deployed
    from mlflow_agent_plugin.interaction.serve.traffic import Traffic

Body = Callable[..., Awaitable[Any]]
Call = Callable[[Actor, Request], Awaitable[Response]]


class Operations:
    """The operators' calls.

    Args:
        traffic: The rollouts of this front end.
        deployed: The deployments it serves; None where it serves none.
        role: Who may call.
        body: Reads the JSON body of a request.
    """

    def __init__(
        self, traffic: Traffic, deployed: Deployed | None, *, role: str, body: Body
    ) -> None:
        self._traffic = traffic
        self._book = traffic.book
        self._deployed = deployed
        self._role = role
        self._body = body

    def routes(self) -> list[tuple[str, str, Call]]:
        """Return method, path and call of each."""
        return [
            ("GET", "/v1/rollouts", self._only(self._list)),
            ("POST", "/v1/rollouts", self._only(self._start)),
            ("GET", "/v1/rollouts/{rollout_id}", self._only(self._show)),
            ("POST", "/v1/rollouts/{rollout_id}/stop", self._only(self._stop)),
            ("POST", "/v1/rollouts/{rollout_id}/incidents", self._only(self._incident)),
            ("GET", "/v1/deployments", self._only(self._deployments)),
            ("POST", "/v1/deployments", self._only(self._create)),
            ("GET", "/v1/deployments/{name}", self._only(self._get)),
            ("PATCH", "/v1/deployments/{name}", self._only(self._update)),
            ("DELETE", "/v1/deployments/{name}", self._only(self._delete)),
        ]

    def _only(self, call: Call) -> Call:
        async def checked(actor: Actor, request: Request) -> Response:
            if not actor.verified or self._role not in actor.roles:
                raise HttpError(403, f"this takes the role {self._role}", code="permission_denied")
            try:
                return await call(actor, request)
            except Exception as error:
                raise _of_registry(error) from error

        return checked

    # --- rollouts --------------------------------------------------------------------------------

    async def _list(self, actor: Actor, request: Request) -> Response:
        del actor
        model = request.query_params.get("model")
        found = await run_in_threadpool(self._book.list, model)
        return JSONResponse({"data": [rollout.to_dict() for rollout in found]})

    async def _start(self, actor: Actor, request: Request) -> Response:
        body = await self._object(request)
        model = body.pop("model", None)
        if not isinstance(model, str) or not model:
            raise RequestError("is not the name of a registered model", where="model")
        try:
            plan = RolloutPlan.model_validate(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise RequestError(
                first["msg"], where=".".join(str(part) for part in first["loc"]) or "body"
            ) from None
        found = await run_in_threadpool(
            lambda: start_rollout(model, plan, by=actor, book=self._book)
        )
        self._traffic.forget()
        return JSONResponse(found.to_dict(), 201)

    async def _show(self, actor: Actor, request: Request) -> Response:
        del actor
        rollout_id = str(request.path_params["rollout_id"])
        return JSONResponse((await run_in_threadpool(self._book.get, rollout_id)).to_dict())

    async def _stop(self, actor: Actor, request: Request) -> Response:
        reason = await self._text(request, "reason")
        rollout_id = str(request.path_params["rollout_id"])
        found = await run_in_threadpool(
            lambda: self._book.stop(rollout_id, reason=reason, by=actor)
        )
        self._traffic.forget()
        return JSONResponse(found.to_dict())

    async def _incident(self, actor: Actor, request: Request) -> Response:
        kind = await self._text(request, "kind")
        rollout_id = str(request.path_params["rollout_id"])
        await run_in_threadpool(lambda: self._book.report_incident(rollout_id, kind, by=actor))
        self._traffic.forget()
        return JSONResponse((await run_in_threadpool(self._book.get, rollout_id)).to_dict())

    # --- deployments -----------------------------------------------------------------------------

    async def _deployments(self, actor: Actor, request: Request) -> Response:
        del actor, request
        found = await run_in_threadpool(self._deploys().list)
        return JSONResponse({"data": [item.to_dict() for item in found]})

    async def _get(self, actor: Actor, request: Request) -> Response:
        del actor
        name = str(request.path_params["name"])
        return JSONResponse((await run_in_threadpool(self._deploys().get, name)).to_dict())

    async def _create(self, actor: Actor, request: Request) -> Response:
        body = await self._object(request)
        name = body.get("name")
        if not isinstance(name, str):
            raise RequestError("is not a string", where="name")
        return await self._put(actor, name, body, create=True)

    async def _update(self, actor: Actor, request: Request) -> Response:
        body = await self._object(request)
        return await self._put(actor, str(request.path_params["name"]), body, create=False)

    async def _put(
        self, actor: Actor, name: str, body: dict[str, Any], *, create: bool
    ) -> Response:
        unknown = sorted(set(body) - {"name", "model_uri", "config"})
        if unknown:
            raise RequestError("is not known", where=unknown[0][:80])
        uri, config = body.get("model_uri"), body.get("config") or {}
        if not isinstance(uri, str):
            raise RequestError("is not a string", where="model_uri")
        if not isinstance(config, dict):
            raise RequestError("is not an object", where="config")
        found = await run_in_threadpool(
            lambda: self._deploys().put(name, uri, config, by=actor, create=create)
        )
        return JSONResponse(found.to_dict(), 201 if create else 200)

    async def _delete(self, actor: Actor, request: Request) -> Response:
        name = str(request.path_params["name"])
        await run_in_threadpool(lambda: self._deploys().delete(name, by=actor))
        return JSONResponse({"deleted": name})

    def _deploys(self) -> Deployed:
        if self._deployed is None:
            raise HttpError(
                404, "this front end was started without --deployments", code="not_found"
            )
        return self._deployed

    # --- bodies ----------------------------------------------------------------------------------

    async def _object(self, request: Request) -> dict[str, Any]:
        body = await self._body(request)
        if not isinstance(body, dict):
            raise RequestError("is not a JSON object", where="body")
        return body

    async def _text(self, request: Request, name: str) -> str:
        body = await self._object(request)
        if set(body) != {name} or not isinstance(body[name], str):
            raise RequestError(f'is {{"{name}": "…"}}', where="body")
        return str(body[name])


def _of_registry(error: Exception) -> Exception:
    """Return what an operator is told about an error of MLflow: its first line, and its status."""
    from mlflow.exceptions import MlflowException

    if not isinstance(error, MlflowException):
        return error
    lines = str(error.message).strip().splitlines() or ["the registry failed"]
    return HttpError(
        int(error.get_http_status_code()), lines[0][:500], code=str(error.error_code).lower()
    )
