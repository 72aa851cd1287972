"""The front end over gRPC, in the process of its HTTP.

Rules:
- The same doorkeeper, agents, turns, rollouts, quotas and approvals: a caller gets the same answer
  by either way. `authorization` stands in the metadata.
- Statuses say what HTTP's do (`_STATUS`); nothing of a stack trace leaves.
- Health is what ``/ready`` says, asked anew at every check, and needs no credential; neither does
  reflection. A message longer than allowed is refused before it is read.
- Several workers share the port. At the end no new call is taken and running ones are finished.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from mlflow_agent_plugin.interaction.grpc import agents_pb2, agents_pb2_grpc
from mlflow_agent_plugin.interaction.serve.http import HttpError, told
from mlflow_agent_plugin.interaction.serve.turns import timed_out

if TYPE_CHECKING:
    from mlflow_agent_plugin.entities import Actor
    from mlflow_agent_plugin.interaction.serve.agents import ServedAgents
    from mlflow_agent_plugin.interaction.serve.meters import Meters
    from mlflow_agent_plugin.interaction.serve.people import Doorkeeper
    from mlflow_agent_plugin.interaction.serve.turns import Turns
    from mlflow_agent_plugin.store import Store
    from mlflow_agent_plugin.trust import ApprovalQueue

T = TypeVar("T")

# Generated without types.
messages: Any = agents_pb2
services: Any = agents_pb2_grpc

SERVICE = "mlflow_agents.v1.Agents"
_logger = logging.getLogger(__name__)

_STATUS = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ABORTED,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


class GrpcFrontEnd:
    """One worker's gRPC server.

    Args:
        address: ``host:port``; port 0 takes a free one.
        door: Who is asking.
        agents: What is served.
        turns: Takes the turns.
        queue: The approvals.
        store: Where they are.
        meters: Counts the calls.
    """

    def __init__(
        self,
        address: str,
        *,
        door: Doorkeeper,
        agents: ServedAgents,
        turns: Turns,
        queue: ApprovalQueue,
        store: Store,
        meters: Meters,
    ) -> None:
        most = turns.settings.max_concurrent
        # As many wait as run, and a few for health and lists.
        self._threads = ThreadPoolExecutor(4 * most + 8, thread_name_prefix="grpc")
        self._work = ThreadPoolExecutor(4 * most, thread_name_prefix="grpc-turn")
        self._server = grpc.server(
            self._threads,
            options=(("grpc.max_receive_message_length", turns.settings.max_body_bytes),),
        )
        service = _Agents(door, agents, turns, queue, store, meters, self._work)
        services.add_AgentsServicer_to_server(service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(_Health(agents), self._server)
        names = (SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
        reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), self._server)
        self.port = self._server.add_insecure_port(address)

    def start(self) -> None:
        """Take calls."""
        self._server.start()

    def close(self, seconds: float) -> None:
        """Take no new call, and give running ones some time."""
        self._server.stop(seconds).wait(seconds + 1)
        self._work.shutdown(wait=False)
        self._threads.shutdown(wait=False)


class _Agents(agents_pb2_grpc.AgentsServicer):
    def __init__(
        self,
        door: Doorkeeper,
        agents: ServedAgents,
        turns: Turns,
        queue: ApprovalQueue,
        store: Store,
        meters: Meters,
        work: ThreadPoolExecutor,
    ) -> None:
        self._door = door
        self._agents = agents
        self._turns = turns
        self._queue = queue
        self._store = store
        self._meters = meters
        self._work = work

    def Respond(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's spelling
        def call() -> Any:
            served, turn = self._request(request, context)
            # In a thread of its own: a caller that waited long enough is told, the turn goes on.
            future = self._work.submit(self._turns.answer, served, turn)
            try:
                response, version = future.result(self._turns.settings.timeout_seconds)
            except FutureTimeoutError:
                if future.done():
                    raise
                raise timed_out() from None
            return _reply(response, version)

        return self._told("Respond", context, call)

    def RespondStream(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        begun = time.perf_counter()
        try:
            served, turn = self._request(request, context)
            for event, version in self._turns.events(served, turn):
                if event["type"] == "response.output_text.delta":
                    yield messages.RespondEvent(delta=event["delta"])
                elif event["type"] == "response.completed":
                    yield messages.RespondEvent(reply=_reply(event["response"], version))
        except Exception as error:
            problem = told(error)
            self._meters.request("grpc:RespondStream", problem.status, time.perf_counter() - begun)
            _abort(context, problem)
        self._meters.request("grpc:RespondStream", 200, time.perf_counter() - begun)

    def ListModels(self, request: Any, context: Any) -> Any:  # noqa: N802
        def call() -> Any:
            self._who(context)
            return messages.ListModelsReply(
                models=[
                    messages.Model(
                        name=served.name,
                        digest=served.stable.digest,
                        version=served.stable.version or "",
                    )
                    for served in self._agents.served()
                ]
            )

        del request
        return self._told("ListModels", context, call)

    def ListApprovals(self, request: Any, context: Any) -> Any:  # noqa: N802
        def call() -> Any:
            from mlflow_agent_plugin.entities import utc_now
            from mlflow_agent_plugin.trust.approval.inbox import list_inbox

            actor = self._who(context)
            page = list_inbox(
                self._store, tenant=actor.tenant, now=utc_now(), roles=actor.roles, limit=200
            )
            return messages.ListApprovalsReply(
                approvals=[
                    messages.WaitingApproval(
                        approval_id=item.approval_id,
                        tool=item.tool,
                        arguments_json=json.dumps(dict(item.arguments)),
                        role=item.role,
                        reason=item.reason,
                        expires_at=item.expires_at.isoformat(),
                        session_id=item.session_id,
                    )
                    for item in page.approvals
                ]
            )

        del request
        return self._told("ListApprovals", context, call)

    def AnswerApproval(self, request: Any, context: Any) -> Any:  # noqa: N802
        def call() -> Any:
            actor = self._who(context)
            say = self._queue.approve if request.approve else self._queue.reject
            found = say(request.approval_id, actor, request.reason)
            return messages.AnswerApprovalReply(
                approval_id=found.approval_id, state=found.state.value
            )

        return self._told("AnswerApproval", context, call)

    # --- what every call has in common -----------------------------------------------------------

    def _request(self, request: Any, context: Any) -> tuple[Any, Any]:
        actor = self._who(context)
        served = self._agents.pick(request.model or None)
        asked: Any = request.input
        if request.resume and not request.input:
            asked = [{"type": "mcp_approval_response", "approve": True}]
        custom = {"session_id": request.session_id} if request.session_id else {}
        return served, self._agents.parse({"input": asked, "custom_inputs": custom}, actor)

    def _who(self, context: Any) -> Actor:
        metadata = dict(context.invocation_metadata())
        return self._door.identify(metadata.get("authorization"))

    def _told(self, name: str, context: Any, call: Callable[[], T]) -> T:
        begun = time.perf_counter()
        try:
            answer = call()
        except Exception as error:
            problem = told(error)
            self._meters.request(f"grpc:{name}", problem.status, time.perf_counter() - begun)
            _abort(context, problem)
            raise  # never reached: abort raises
        self._meters.request(f"grpc:{name}", 200, time.perf_counter() - begun)
        return answer


class _Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # grpc is untyped
    """Ready is what ``/ready`` says, at every check."""

    def __init__(self, agents: ServedAgents) -> None:
        self._agents = agents

    def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.service not in ("", SERVICE):
            context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service")
        return health_pb2.HealthCheckResponse(status=self._status())

    def Watch(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        del request
        last = None
        while context.is_active():
            now = self._status()
            if now != last:
                last = now
                yield health_pb2.HealthCheckResponse(status=now)
            time.sleep(1)

    def _status(self) -> Any:
        kinds = health_pb2.HealthCheckResponse
        try:
            self._agents.check()
        except Exception as error:
            _logger.warning("not ready: %s", error)
            return kinds.NOT_SERVING
        return kinds.SERVING


def _reply(response: dict[str, Any], version: str | None) -> Any:
    custom = response["custom_outputs"]
    texts = [
        part["text"]
        for item in response["output"]
        if item["type"] == "message"
        for part in item["content"]
    ]
    arguments = {
        item["id"]: item["arguments"]
        for item in response["output"]
        if item["type"] == "mcp_approval_request"
    }
    return messages.RespondReply(
        text="\n".join(texts),
        session_id=custom["session_id"],
        outcome=custom["outcome"],
        approvals=[
            messages.WaitingApproval(
                **waiting,
                arguments_json=arguments.get(waiting["approval_id"], "{}"),
                session_id=custom["session_id"],
            )
            for waiting in custom["approvals"]
        ],
        version=version or "",
        agent_digest=custom["agent_digest"],
        trace_id=custom["trace_id"] or "",
        input_tokens=response["usage"]["input_tokens"],
        output_tokens=response["usage"]["output_tokens"],
        response_json=json.dumps(response, ensure_ascii=False),
    )


def _abort(context: Any, problem: HttpError) -> None:
    if problem.retry_after is not None:
        seconds = str(max(1, round(problem.retry_after)))
        context.set_trailing_metadata((("retry-after", seconds),))
    context.abort(_STATUS.get(problem.status, grpc.StatusCode.INTERNAL), problem.message)
