"""The front end's HTTP: who asks, how much, which agent, in which format.

Rules:
- Every call but ``/health``, ``/ready`` and ``/metrics`` carries a credential (see `people`).
- A body longer than allowed, or longer on its way than `body_seconds`, is refused while it is read,
  before anything looks at it.
- A client that waited `timeout_seconds` gets 504 (a stream: an error event with the next piece);
  its turn ends by itself, and what it did is on record. More turns at a time than allowed get 503
  with when to try again.
- A stream whose client went away ends with the piece that is being made, and frees its place.
- A refusal for quotas is 429 with ``Retry-After``.
- At the end no new request is taken, running ones are finished, then agents and audit are closed.
- Errors are OpenAI's ``{"error": {"message", "type", "code"}}``, never with a stack trace.

Source: https://platform.openai.com/docs/api-reference/responses (formats).
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
from starlette.applications import Starlette
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.entities import Actor, AgentRequest
from mlflow_agent_plugin.errors import RequestError
from mlflow_agent_plugin.interaction.serve.agents import Served, ServedAgents
from mlflow_agent_plugin.interaction.serve.chat import as_chunks, as_completion, as_responses
from mlflow_agent_plugin.interaction.serve.deployed import Deployed
from mlflow_agent_plugin.interaction.serve.events import as_events
from mlflow_agent_plugin.interaction.serve.feedback import FeedbackDesk
from mlflow_agent_plugin.interaction.serve.follower import Follower
from mlflow_agent_plugin.interaction.serve.http import (
    HttpError,
    error_body,
    error_headers,
    told,
)
from mlflow_agent_plugin.interaction.serve.meters import Meters
from mlflow_agent_plugin.interaction.serve.operations import Operations
from mlflow_agent_plugin.interaction.serve.people import Doorkeeper
from mlflow_agent_plugin.interaction.serve.settings import ServeSettings
from mlflow_agent_plugin.interaction.serve.traffic import Traffic
from mlflow_agent_plugin.interaction.serve.turns import Turns, timed_out
from mlflow_agent_plugin.lifecycle.rollout import RolloutBook, RolloutSteward
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.trust import Approval, ApprovalQueue
from mlflow_agent_plugin.trust.approval.inbox import list_inbox

if TYPE_CHECKING:
    from mlflow_agent_plugin.interaction.grpc.server import GrpcFrontEnd

VERSION_HEADER = "X-Agent-Version"
"""Registered version that answered."""


def make_app(
    settings: ServeSettings | None = None, agents: ServedAgents | None = None
) -> Starlette:
    """Return the front end; uvicorn calls it in every worker.

    Args:
        settings: Default: what `mlflow-agents serve` handed over.
        agents: Default: loaded from the settings' model URIs.
    """
    chosen = settings or ServeSettings.from_env()
    front = FrontEnd(chosen, agents or ServedAgents.load(chosen.agents))

    @asynccontextmanager
    async def life(_app: Starlette) -> AsyncIterator[None]:
        await run_in_threadpool(front.start)
        try:
            yield
        finally:
            await run_in_threadpool(front.close)

    app = Starlette(routes=front.routes(), lifespan=life)
    app.state.front_end = front
    return app


class FrontEnd:
    """One worker's front end.

    Args:
        settings: Its settings.
        agents: The agents it answers for.
    """

    def __init__(self, settings: ServeSettings, agents: ServedAgents) -> None:
        self._settings = settings
        self._agents = agents
        self._door = Doorkeeper(settings)
        self._store = agents.store = Store.open(Settings.from_env().store_uri)
        self._queue = ApprovalQueue(self._store, require_verified=True)
        self._meters = Meters(agents.names)
        self._turns = Turns(settings, agents, self._meters)
        self._grpc: GrpcFrontEnd | None = None
        self._limiter: anyio.CapacityLimiter | None = None
        book = RolloutBook(self._store)
        self._traffic = agents.traffic = Traffic(book, agents.settings)
        self._deployed = (
            Deployed(self._store, agents, agents.names) if settings.deployments else None
        )
        self._follower = Follower(
            agents, self._traffic, RolloutSteward(self._store, book), self._meters,
            deployed=self._deployed, seconds=settings.follow_seconds,
        )  # fmt: skip
        self._operations = Operations(
            self._traffic, self._deployed, role=settings.operator_role, body=self._body
        )

        self._feedback = FeedbackDesk(role=settings.labeller_role, body=self._body)

    def start(self) -> None:
        """Serve what was deployed, and begin to follow registry and store."""
        if self._deployed is not None or self._traffic.book.unfinished():
            self._follower.look()
        self._follower.start()
        if self._settings.grpc_address is not None:
            self._grpc = self._open_grpc(self._settings.grpc_address)

    @property
    def grpc_port(self) -> int | None:
        """Port of the gRPC server, None without one."""
        return None if self._grpc is None else self._grpc.port

    def _open_grpc(self, address: str) -> GrpcFrontEnd:
        from mlflow_agent_plugin.interaction.grpc.server import GrpcFrontEnd

        opened = GrpcFrontEnd(
            address, door=self._door, agents=self._agents, turns=self._turns, queue=self._queue,
            store=self._store, meters=self._meters,
        )  # fmt: skip
        opened.start()
        return opened

    def close(self) -> None:
        """Finish calls over gRPC (HTTP's have ended), then close agents and store."""
        if self._grpc is not None:
            self._grpc.close(self._settings.shutdown_seconds)
        self._follower.close()
        self._traffic.close()
        self._traffic.book.close()
        self._agents.close()
        self._store.close()

    def routes(self) -> list[Route]:
        """Return all routes."""
        post = {
            "/v1/responses": self._responses,
            "/invocations": self._responses,
            "/v1/chat/completions": self._chat,
            "/v1/feedback": self._feedback.take,
            "/v1/approvals/{approval_id}/approve": self._approve,
            "/v1/approvals/{approval_id}/reject": self._reject,
        }
        get = {"/v1/models": self._models, "/v1/approvals": self._approvals}
        return [
            *(Route(path, self._guarded(call), methods=["POST"]) for path, call in post.items()),
            *(Route(path, self._guarded(call), methods=["GET"]) for path, call in get.items()),
            *(
                Route(path, self._guarded(call), methods=[method])
                for method, path, call in self._operations.routes()
            ),
            Route("/health", self._health),
            Route("/ping", self._health),
            Route("/ready", self._ready),
            Route("/metrics", self._metrics),
        ]

    # --- calls -----------------------------------------------------------------------------------

    async def _responses(self, actor: Actor, request: Request) -> Response:
        payload = await self._body(request)
        wanted = payload.get("model") if isinstance(payload, dict) else None
        stream = isinstance(payload, dict) and payload.get("stream") is True
        return await self._turn(actor, payload, wanted, stream=stream, chat=False)

    async def _chat(self, actor: Actor, request: Request) -> Response:
        payload = await self._body(request)
        converted = as_responses(payload)
        options = payload.get("stream_options")
        return await self._turn(
            actor,
            converted,
            payload.get("model"),
            stream=payload.get("stream") is True,
            chat=True,
            usage=isinstance(options, dict) and options.get("include_usage") is True,
        )

    async def _turn(
        self,
        actor: Actor,
        payload: Any,
        wanted: object,
        *,
        stream: bool,
        chat: bool,
        usage: bool = False,
    ) -> Response:
        served = self._agents.pick(wanted)
        turn = self._agents.parse(payload, actor)
        if stream:
            events = self._streamed(served, turn, chat=chat, usage=usage)
            first = await run_in_threadpool(next, events)
            return StreamingResponse(
                _after(first, events),
                media_type="text/event-stream",
                headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
            )

        try:
            with anyio.fail_after(self._settings.timeout_seconds):
                response, version = await anyio.to_thread.run_sync(
                    self._turns.answer,
                    served,
                    turn,
                    abandon_on_cancel=True,
                    limiter=self._threads(),
                )
        except TimeoutError:
            raise timed_out() from None
        return JSONResponse(
            as_completion(response) if chat else response,
            headers={} if version is None else {VERSION_HEADER: version},
        )

    def _streamed(
        self, served: Served, turn: AgentRequest, *, chat: bool, usage: bool
    ) -> Iterator[str]:
        """Yield server-sent events; after the first one, an error is an event too."""
        begun = False
        events = (event for event, _ in self._turns.events(served, turn))
        name = served.stable.name
        try:
            with contextlib.closing(events):
                if chat:
                    for chunk in as_chunks(events, name, usage=usage):
                        begun = True
                        yield f"data: {json.dumps(chunk)}\n\n"
                    yield "data: [DONE]\n\n"
                else:
                    for event in as_events(events, name):
                        begun = True
                        yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"
        except Exception as error:
            if not begun:
                raise  # the client still gets the status the error deserves
            yield f"event: error\ndata: {json.dumps(error_body(told(error)))}\n\n"

    async def _models(self, actor: Actor, request: Request) -> Response:
        del actor, request
        return JSONResponse(
            {
                "object": "list",
                "data": [
                    {"id": name, "object": "model", "owned_by": "mlflow-agents",
                     "digest": self._agents.digest(name)}
                    for name in self._agents.names
                ],
            }
        )  # fmt: skip

    async def _approvals(self, actor: Actor, request: Request) -> Response:
        del request
        from mlflow_agent_plugin.entities import utc_now

        found = await run_in_threadpool(
            lambda: list_inbox(
                self._store, tenant=actor.tenant, now=utc_now(), roles=actor.roles, limit=200
            )
        )
        return JSONResponse({"data": [item.to_dict() for item in found.approvals]})

    async def _approve(self, actor: Actor, request: Request) -> Response:
        return await self._answer(request, lambda i, reason: self._queue.approve(i, actor, reason))

    async def _reject(self, actor: Actor, request: Request) -> Response:
        return await self._answer(request, lambda i, reason: self._queue.reject(i, actor, reason))

    async def _answer(self, request: Request, say: Callable[[str, str], Approval]) -> Response:
        body = await self._body(request, empty={})
        if not isinstance(body, dict) or set(body) - {"reason"}:
            raise RequestError('is {"reason": "…"}', where="body")
        reason = body.get("reason", "")
        if not isinstance(reason, str):
            raise RequestError("is not a string", where="reason")
        answered = await run_in_threadpool(say, str(request.path_params["approval_id"]), reason)
        return JSONResponse(answered.to_dict())

    async def _health(self, request: Request) -> Response:
        del request
        return PlainTextResponse("OK")

    async def _ready(self, request: Request) -> Response:
        del request
        try:
            await run_in_threadpool(self._agents.check)
        except Exception:
            return PlainTextResponse("the runtime store does not answer", 503)
        return PlainTextResponse("ready")

    async def _metrics(self, request: Request) -> Response:
        del request
        shadows = self._traffic.shadows
        self._meters.shadows(shadows.shown, shadows.skipped)
        text, kind = await run_in_threadpool(self._meters.render)
        return Response(text, media_type=kind)

    # --- what every call has in common -----------------------------------------------------------

    def _guarded(self, call: Callable[[Actor, Request], Any]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            started = time.perf_counter()
            try:
                actor = await run_in_threadpool(
                    self._door.identify, request.headers.get("authorization")
                )
                response: Response = await call(actor, request)
            except Exception as error:
                problem = told(error)
                response = JSONResponse(error_body(problem), problem.status, error_headers(problem))
            self._meters.request(
                request.scope["route"].path, response.status_code, time.perf_counter() - started
            )
            return response

        return endpoint

    async def _body(self, request: Request, *, empty: Any = None) -> Any:
        most = self._settings.max_body_bytes
        body = bytearray()
        try:
            with anyio.fail_after(self._settings.body_seconds):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > most:
                        raise HttpError(
                            413, f"the body is longer than {most} bytes", code="too_large"
                        )
        except TimeoutError:
            raise HttpError(408, "the body did not arrive in time", code="timeout") from None
        if not body and empty is not None:
            return empty
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise RequestError("is not JSON", where="body") from None

    def _threads(self) -> anyio.CapacityLimiter:
        # As many wait as run: the rest of a burst is told to come back.
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(4 * self._settings.max_concurrent)
        return self._limiter


async def _after(first: str, rest: Iterator[str]) -> AsyncIterator[str]:
    try:
        yield first
        async for each in iterate_in_threadpool(rest):
            yield each
    finally:
        # A client that went away leaves the generator in the middle: end it, or its turn keeps its
        # place and its session until somebody collects the garbage.
        with anyio.CancelScope(shield=True):
            await run_in_threadpool(_close, rest)


def _close(events: Iterator[str]) -> None:
    close = getattr(events, "close", None)
    if close is not None:
        close()
