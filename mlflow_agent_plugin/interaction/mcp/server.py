"""The MCP server.

Rules:
- Over stdin and stdout the caller is who started the process, unverified. Over HTTP every request
  carries a credential as the front end takes them (`interaction.serve.people`).
- Every tool says of itself that it only reads. An error is one line, without a stack trace.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.errors import AgentError
from mlflow_agent_plugin.interaction.mcp.reading import Reading

if TYPE_CHECKING:
    from mcp.server import MCPServer
    from starlette.types import ASGIApp

    from mlflow_agent_plugin.interaction.serve.people import Doorkeeper

ABOUT = (
    "Agents registered in MLflow behind a gate: what is served, what the gate requires, what waits "
    "for a person, what happened. Everything here only reads."
)


def make_server(reading: Reading, who: Callable[[Any], Actor]) -> MCPServer:
    """Return the server.

    Args:
        reading: What can be asked.
        who: Turns the headers of a request (None over stdin) into the caller.
    """
    from mcp.server import MCPServer
    from mcp.types import ToolAnnotations

    server = MCPServer("mlflow-agents", instructions=ABOUT)
    reads = ToolAnnotations(read_only_hint=True, destructive_hint=False, open_world_hint=False)
    for name in (
        "list_agents",
        "describe_agent",
        "gate_report",
        "slot_history",
        "list_waiting_approvals",
        "tell_request",
        "verify_audit",
        "list_rollouts",
        "list_stopped",
    ):
        server.tool(name=name, annotations=reads)(_tool(getattr(reading, name), who))
    return server


def _tool(function: Callable[..., Any], who: Callable[[Any], Actor]) -> Callable[..., Any]:
    """Return `function` as a tool: the caller in place of its first argument, errors in a line."""
    from mcp.server.mcpserver import Context
    from mcp.server.mcpserver.exceptions import ToolError
    from mlflow.exceptions import MlflowException

    given = inspect.signature(function, eval_str=True)
    asks_who = "actor" in given.parameters

    @functools.wraps(function)
    def run(ctx: Any, **arguments: Any) -> Any:
        try:
            actor = who(ctx.headers)
            return function(actor, **arguments) if asks_who else function(**arguments)
        except (AgentError, MlflowException) as error:
            lines = str(getattr(error, "message", error)).strip().splitlines()
            raise ToolError(lines[0][:500] if lines else type(error).__name__) from None

    own = [part for name, part in given.parameters.items() if name != "actor"]
    context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Context)
    run.__signature__ = given.replace(parameters=[context, *own])  # type: ignore[attr-defined]
    run.__annotations__ = {part.name: part.annotation for part in own} | {
        "ctx": Context,
        "return": given.return_annotation,
    }
    del run.__wrapped__
    return run


def with_login(app: ASGIApp, door: Doorkeeper) -> ASGIApp:
    """Return `app`, answering only requests with a credential."""
    from starlette.concurrency import run_in_threadpool
    from starlette.datastructures import Headers
    from starlette.responses import JSONResponse

    from mlflow_agent_plugin.interaction.serve.http import error_body, error_headers, told

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            try:
                header = Headers(scope=scope).get("authorization")
                await run_in_threadpool(door.identify, header)
            except AgentError as error:
                problem = told(error)
                answer = JSONResponse(error_body(problem), problem.status, error_headers(problem))
                await answer(scope, receive, send)
                return
        await app(scope, receive, send)

    return guarded
