"""Runs one tool's function: its own thread, its time limit, its retries.

Rules:
- The function gets a copy of the arguments: what was decided and audited cannot change under its
  hands.
- Only reads and idempotent tools are tried again, with jitter, as often as their contract says.
- A function that raises says that nothing happened. A time-out or a broken connection says nothing
  of the sort: for a tool that must not be repeated the outcome is unknown.
"""

from __future__ import annotations

import contextvars
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities import Effect, canonical_json

if TYPE_CHECKING:
    from mlflow_agent_plugin.core.context import ToolContext
    from mlflow_agent_plugin.package import ToolContract

ToolFunction = Callable[..., Any]


class ToolFailedError(Exception):
    """The tool failed and had no effect."""


class OutcomeUnknownError(Exception):
    """The tool may or may not have had its effect."""


class ToolRunner:
    """Runs tool functions in threads of its own.

    Args:
        functions: Function of every usable tool.
        max_threads: Tool calls that may run at once in this process.
    """

    def __init__(self, functions: Mapping[str, ToolFunction], *, max_threads: int = 32) -> None:
        self._functions = functions
        self._threads = ThreadPoolExecutor(max_threads, thread_name_prefix="tool")

    def close(self) -> None:
        """Stop accepting calls; tools that still run are not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def run(
        self, contract: ToolContract, context: ToolContext, arguments: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the tool's output as plain JSON.

        Raises:
            ToolFailedError: It failed; nothing happened.
            OutcomeUnknownError: It must not be repeated, and nobody knows whether it took effect.
        """
        import tenacity

        may_repeat = contract.effect is Effect.READ or contract.idempotent
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(contract.retry.attempts if may_repeat else 1),
            wait=tenacity.wait_random_exponential(multiplier=contract.retry.wait_seconds, max=30),
            reraise=True,
        )
        try:
            output = retrying(self._attempt, contract, context, arguments)
        except (TimeoutError, OSError) as error:
            kind = ToolFailedError if may_repeat else OutcomeUnknownError
            raise kind(_short(error)) from error
        except Exception as error:
            raise ToolFailedError(_short(error)) from error
        return _plain(output)

    def _attempt(
        self, contract: ToolContract, context: ToolContext, arguments: Mapping[str, Any]
    ) -> Any:
        function = self._functions[contract.name]
        copied = json.loads(canonical_json(dict(arguments)))
        future = self._threads.submit(
            contextvars.copy_context().run, lambda: function(context, **copied)
        )
        try:
            return future.result(timeout=contract.timeout_seconds)
        except FutureTimeoutError:
            if future.done() and not future.cancelled():
                return future.result()  # it ended at the last moment, or itself raised a time-out
            future.cancel()
            raise TimeoutError(f"no answer within {contract.timeout_seconds:g} seconds") from None


def _plain(output: Any) -> dict[str, Any]:
    try:
        plain = json.loads(canonical_json(output))
    except (ValueError, TypeError, RecursionError):
        plain = None
    # The function ran to its end, so a write has taken effect: an output that is not JSON is kept
    # as such, and fails the output contract, instead of looking like a call that did not happen.
    return plain if isinstance(plain, dict) else {"unusable_output": type(output).__name__}


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
