"""One connection to one MCP server.

Rules:
- Before a tool is called, what the server declares for it is compared with the pinned digest: at
  every new connection, and again once `FRESH_SECONDS` have passed. What differs is not called.
- A connection that fails is made anew by the next call; one call's failure is no other's.
- The server cannot ask back: no sampling, no elicitation, no roots.
- The protocol runs in one thread of its own per server; callers wait for their call only.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mlflow_agent_plugin.errors import ConfigError, ToolUnavailableError
from mlflow_agent_plugin.package.mcp import McpServer, schema_digest

if TYPE_CHECKING:
    from mcp import Client

FRESH_SECONDS = 30.0
"""How long a comparison with what the server declares may be relied on."""

CONNECT_SHARE = 0.7
"""Part of a call's time limit that connecting and comparing may take."""

MAX_TOOLS = 5000

T = TypeVar("T")
Declarations = dict[str, tuple[Any, Any, str]]
"""Server's name of a tool to input schema, output schema and description."""


class McpLink:
    """A server of a bundle.

    Args:
        server: What the manifest says.
        folder: Where its process runs.
        monotonic: Measures how old a comparison is.
    """

    def __init__(
        self, server: McpServer, folder: Path, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.server = server
        self._folder = folder
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._session: _Session | None = None
        self._process = os.getpid()
        self._closed = False

    def call(
        self,
        remote: str,
        digest: str,
        arguments: Mapping[str, Any],
        *,
        meta: Mapping[str, Any],
        timeout_seconds: float,
    ) -> Any:
        """Return the server's `CallToolResult`.

        Args:
            remote: The server's name of the tool.
            digest: What the bundle pins for it.
            arguments: Arguments.
            meta: Goes with the request; servers that do not know it leave it alone.
            timeout_seconds: How long the answer may take.

        Raises:
            ToolUnavailableError: The server is away, or not what was pinned; nothing was called.
            ConnectionError: The connection broke, or no answer came: nobody knows what happened.
        """
        # Nothing is sent once the caller may have given up: a server that is still starting then
        # costs a failed call, not one nobody knows the outcome of.
        session = self._ready(remote, digest, CONNECT_SHARE * timeout_seconds)
        try:
            return self._run(
                session.client.call_tool(
                    remote,
                    dict(arguments),
                    read_timeout_seconds=timeout_seconds,
                    meta=dict(meta),  # type: ignore[arg-type]
                ),
                timeout_seconds + 1,
            )
        except (FutureTimeoutError, asyncio.TimeoutError, TimeoutError) as error:
            raise ConnectionError(f"{self.server.name} did not answer in time") from error
        except Exception as error:
            if _is_refusal(error):
                raise
            self._drop(session)
            raise ConnectionError(f"{self.server.name}: {innermost(error)}") from error

    def declarations(self) -> Declarations:
        """Return what the server declares now.

        Raises:
            ToolUnavailableError: It does not answer, or does not speak MCP.
        """
        seconds = self.server.connect_seconds
        return dict(self._fresh(self._connected(seconds), seconds, at_once=True).declared)

    def close(self) -> None:
        """End the connection and the process behind it."""
        with self._lock:
            self._closed = True
            session, loop = self._session, self._loop
            self._session = self._loop = None
        if loop is None:
            return
        if session is not None:
            session.end()
        loop.call_soon_threadsafe(loop.stop)

    # --- connection ------------------------------------------------------------------------------

    def _ready(self, remote: str, digest: str, seconds: float) -> _Session:
        until = time.monotonic() + min(seconds, self.server.connect_seconds)
        session = self._connected(until - time.monotonic())
        session = self._fresh(session, max(until - time.monotonic(), 0.1))
        found = session.declared.get(remote)
        if found is None:
            raise ToolUnavailableError(
                f"the MCP server {self.server.name} has no tool {remote}",
                hint="Nothing was called. Pin the server again if that was meant.",
            )
        if schema_digest(remote, found[0], found[1]) != digest:
            raise ToolUnavailableError(
                f"the MCP server {self.server.name} declares {remote} otherwise than was pinned",
                hint="Nothing was called. Look at what changed, then pin it again.",
            )
        return session

    def _connected(self, seconds: float) -> _Session:
        with self._lock:
            if self._closed:
                raise ToolUnavailableError(f"the MCP server {self.server.name} was closed")
            session = self._session
            if session is None or not session.alive or session.is_late(self._monotonic()):
                session = self._begin()
        try:
            session.wait(seconds)
        except FutureTimeoutError as error:
            raise ToolUnavailableError(
                f"the MCP server {self.server.name} is still starting",
                hint="Nothing was called. Try again.",
            ) from error
        except Exception as error:
            self._drop(session)
            raise ToolUnavailableError(
                f"the MCP server {self.server.name} does not answer: {innermost(error)}"
            ) from error
        return session

    def _begin(self) -> _Session:
        if self._loop is None or self._process != os.getpid():
            # A fork leaves the thread behind, and what it held.
            self._process = os.getpid()
            self._loop = asyncio.new_event_loop()
            threading.Thread(
                target=_run_forever, args=(self._loop,), daemon=True,
                name=f"mcp-{self.server.name}",
            ).start()  # fmt: skip
        elif self._session is not None:
            self._session.leave()
        late_at = self._monotonic() + self.server.connect_seconds
        self._session = _Session(self._loop, self._client, late_at=late_at)
        return self._session

    def _fresh(self, session: _Session, seconds: float, *, at_once: bool = False) -> _Session:
        now = self._monotonic()
        if at_once or session.looked_at is None or now - session.looked_at >= FRESH_SECONDS:
            try:
                session.declared = self._run(_list(session.client), seconds)
            except Exception as error:
                self._drop(session)
                raise ToolUnavailableError(
                    f"the MCP server {self.server.name} does not say what it has: "
                    f"{innermost(error)}"
                ) from error
            session.looked_at = now
        return session

    def _drop(self, session: _Session) -> None:
        with self._lock:
            if self._session is session:
                self._session = None
        session.end()

    def _run(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        loop = self._loop
        assert loop is not None
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, loop)
        try:
            return future.result(seconds)
        except FutureTimeoutError:
            future.cancel()
            raise

    def _client(self) -> Client:
        from mcp import Client, StdioServerParameters

        server = self.server
        if server.url is None:
            environment = _values(server.environment, server.name)
            return Client(
                StdioServerParameters(
                    command=server.command[0],
                    args=server.command[1:],
                    env=environment,
                    cwd=self._folder,
                )
            )
        import httpx2
        from mcp.client.streamable_http import streamable_http_client

        found = _values(list(server.headers.values()), server.name)
        headers = {header: found[variable] for header, variable in server.headers.items()}
        # The read limit is the call's own: a tool may take longer than a connection may.
        http = httpx2.AsyncClient(
            headers=headers, timeout=httpx2.Timeout(server.connect_seconds, read=None)
        )
        return Client(streamable_http_client(server.url, http_client=http))


class _Session:
    """An open client, held by one task of the loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, make: Callable[[], Client], *, late_at: float
    ) -> None:
        self._loop = loop
        self._make = make
        self._late_at = late_at
        self._opened: Future[Client] = Future()
        self._leave: asyncio.Event | None = None
        self.declared: Declarations = {}
        self.looked_at: float | None = None
        self._task: Future[None] = asyncio.run_coroutine_threadsafe(self._hold(), loop)

    @property
    def alive(self) -> bool:
        return not self._task.done()

    @property
    def client(self) -> Client:
        return self._opened.result(0)

    def is_late(self, now: float) -> bool:
        """Return whether it should have been open by now."""
        return not self._opened.done() and now > self._late_at

    def wait(self, seconds: float) -> None:
        self._opened.result(max(seconds, 0))

    async def _hold(self) -> None:
        # Entered and left by the same task, as the protocol's own task groups want it.
        self._leave = asyncio.Event()
        try:
            async with self._make() as client:
                self._opened.set_result(client)
                await self._leave.wait()
        except BaseException as error:
            if not self._opened.done():
                self._opened.set_exception(error)
            elif isinstance(error, asyncio.CancelledError):
                raise

    def leave(self) -> None:
        """Let the connection go, without waiting for it."""
        if self._loop.is_closed():
            return
        if self._leave is None or not self._opened.done():
            self._task.cancel()
        else:
            self._loop.call_soon_threadsafe(self._leave.set)

    def end(self) -> None:
        """Let the connection go, and give its process some time to end."""
        self.leave()
        try:
            self._task.result(5)
        except FutureTimeoutError:
            self._task.cancel()
        except BaseException:  # noqa: BLE001, S110 - it ends either way, and has been reported
            pass


def _run_forever(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


async def _list(client: Client) -> Declarations:
    found: Declarations = {}
    cursor: str | None = None
    while True:
        page = await client.list_tools(cursor=cursor, cache_mode="bypass")
        for tool in page.tools:
            described = tool.model_dump(by_alias=True, mode="json")
            found[tool.name] = (
                described["inputSchema"],
                described.get("outputSchema"),
                str(described.get("description") or ""),
            )
        cursor = page.model_dump(by_alias=True).get("nextCursor")
        if not cursor:
            return found
        if len(found) > MAX_TOOLS:
            raise ValueError(f"lists more than {MAX_TOOLS} tools")


def _values(names: list[str], server: str) -> dict[str, str]:
    missing = sorted(name for name in names if not os.environ.get(name))
    if missing:
        raise ConfigError(
            f"the environment variable {missing[0]} is not set", where=f"MCP server {server}"
        )
    return {name: os.environ[name] for name in names}


def _is_refusal(error: Exception) -> bool:
    """Return whether the server refused the request itself: then it did nothing."""
    code = getattr(getattr(error, "error", None), "code", None)
    return code in (-32600, -32601, -32602)


def innermost(error: BaseException) -> str:
    """Return the kind of the error behind groups of groups, and its first line."""
    while getattr(error, "exceptions", None):
        error = error.exceptions[0]  # type: ignore[attr-defined]
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
