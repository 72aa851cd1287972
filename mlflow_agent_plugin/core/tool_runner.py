"""Runs one tool's function: its own thread, its time limit, its retries.

Rules:
- The function gets its arguments out of the text that was checked, decided and audited: nothing
  changes that under its hands.
- Only reads and idempotent tools are tried again, with jitter, as often as their contract says, and
  only while the call's watch finds it worth the load (`core.resilience.watch`). A service's own
  ``Retry-After`` is waited for, or passed on if it is long.
- What the tool says, in its output or an exception, leaves without its credential's values.
- A function that raises says that nothing happened. A time-out, a broken connection or a server
  error says nothing of the sort: for a tool that must not be repeated the outcome is unknown.
- A function that hangs keeps its thread and its place in the bulkhead until it ends.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.core.resilience.faults import Fault, FaultKind, classify
from mlflow_agent_plugin.core.resilience.watch import (
    CURRENT_WATCH,
    DEFAULT_HOLD_SECONDS,
    CallWatch,
)
from mlflow_agent_plugin.entities import Effect, Spelled, canonical_json, read_canonical
from mlflow_agent_plugin.errors import ToolUnavailableError

if TYPE_CHECKING:
    import tenacity

    from mlflow_agent_plugin.core.context import ToolContext
    from mlflow_agent_plugin.package import ToolContract
    from mlflow_agent_plugin.trust import Scrubber

ToolFunction = Callable[..., Any]


class ToolFailedError(Exception):
    """The tool failed and had no effect.

    Attributes:
        retry_after_seconds: The service refused for its rate: when to come again; else None.
    """

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class OutcomeUnknownError(Exception):
    """The tool may or may not have had its effect."""


class _GaveUpError(Exception):
    """No further attempt: the last one's error stands."""


class ToolRunner:
    """Runs tool functions in threads of its own.

    Args:
        functions: Function of every usable tool.
        max_threads: Tool calls that may run at once in this process. Far more than tenants may
            have running (bulkheads see to that): no tenant waits for another's calls here.
    """

    def __init__(self, functions: Mapping[str, ToolFunction], *, max_threads: int = 1024) -> None:
        self._functions = functions
        self._threads = ThreadPoolExecutor(max_threads, thread_name_prefix="tool")

    def close(self) -> None:
        """Stop accepting calls; tools that still run are not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def run(self, contract: ToolContract, context: ToolContext, arguments: bytes) -> Spelled:
        """Return the tool's output as plain JSON.

        Args:
            contract: Of the tool.
            context: What the tool is given beside its arguments.
            arguments: Their canonical JSON.

        Raises:
            ToolFailedError: It failed; nothing happened.
            OutcomeUnknownError: It must not be repeated, and nobody knows whether it took effect.
        """
        watch = CURRENT_WATCH.get()
        may_repeat = contract.effect is Effect.READ or contract.idempotent
        scrubber = None if context.credential is None else context.credential.scrubber
        try:
            output = self._try(contract, context, arguments, watch, may_repeat=may_repeat)
        except Exception as error:
            failure = _failure(error, scrubber, may_repeat=may_repeat)
            if scrubber is None or scrubber.exception(error):
                raise failure from error
        else:
            plain = _plain(output)
            return plain if scrubber is None else Spelled.of(scrubber.value(plain.value))
        # The tool's own exception cannot be rid of its credential: it is not carried along.
        raise failure

    def _try(
        self,
        contract: ToolContract,
        context: ToolContext,
        arguments: bytes,
        watch: CallWatch | None,
        *,
        may_repeat: bool,
    ) -> Any:
        """Return the output of the first attempt that succeeds; raise what the last one raised."""
        attempts = contract.retry.attempts if may_repeat else 1
        faults: list[Fault] = []
        last: list[Exception] = []

        def wait(state: tenacity.RetryCallState) -> float:
            # A little more than asked for: the hold has to be over by then.
            return max(jitter(state), (faults[-1].retry_after_seconds or 0.0) * 1.01)

        def is_worth_it(error: BaseException) -> bool:
            if isinstance(error, _GaveUpError):
                return False
            return watch is None or watch.may_retry(faults[-1])

        def attempt() -> Any:
            if last and watch is not None and not watch.begin_retry():
                raise _GaveUpError
            try:
                output = self._attempt(contract, context, arguments, watch)
            except Exception as error:
                last.append(error)
                faults.append(classify(error, now=_utc()))
                if watch is not None:
                    watch.ended(faults[-1])
                raise
            if watch is not None:
                watch.ended(None)
            return output

        if attempts == 1:
            return attempt()
        import tenacity

        jitter = tenacity.wait_random_exponential(multiplier=contract.retry.wait_seconds, max=30)
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(attempts),
            retry=tenacity.retry_if_exception(is_worth_it),
            wait=wait,
            reraise=True,
        )
        try:
            return retrying(attempt)
        except _GaveUpError:
            raise last[-1] from None

    def _attempt(
        self,
        contract: ToolContract,
        context: ToolContext,
        arguments: bytes,
        watch: CallWatch | None,
    ) -> Any:
        function = self._functions[contract.name]
        copied = read_canonical(arguments)
        seconds = contract.timeout_seconds
        if watch is not None:
            seconds = watch.timeout_seconds(seconds)
            watch.slot.hold()
        try:
            future = self._threads.submit(
                contextvars.copy_context().run, lambda: function(context, **copied)
            )
        except BaseException:
            if watch is not None:
                watch.slot.release()
            raise
        if watch is not None:
            slot = watch.slot
            future.add_done_callback(lambda _: slot.release())
        try:
            return future.result(timeout=seconds)
        except FutureTimeoutError:
            if future.done() and not future.cancelled():
                return future.result()  # it ended at the last moment, or itself raised a time-out
            if future.cancel():
                raise ToolUnavailableError("the process has no thread left for it") from None
            raise TimeoutError(f"no answer within {seconds:g} seconds") from None


def _failure(
    error: Exception, scrubber: Scrubber | None, *, may_repeat: bool
) -> ToolFailedError | OutcomeUnknownError:
    fault, said = classify(error, now=_utc()), _short(error, scrubber)
    if fault.is_uncertain and not may_repeat:
        return OutcomeUnknownError(said)
    if fault.kind is not FaultKind.RATE_LIMITED:
        return ToolFailedError(said)
    wait = fault.retry_after_seconds
    return ToolFailedError(said, retry_after_seconds=DEFAULT_HOLD_SECONDS if wait is None else wait)


def _utc() -> datetime:
    return datetime.now(timezone.utc)


def _plain(output: Any) -> Spelled:
    try:
        text = canonical_json(output)
        plain = read_canonical(text, exact=True)
    except (ValueError, TypeError, RecursionError):
        plain = None
    if isinstance(plain, dict):
        return Spelled(plain, text)
    # The function ran to its end, so a write has taken effect: an output that is not JSON is kept
    # as such, and fails the output contract, instead of looking like a call that did not happen.
    return Spelled.of({"unusable_output": type(output).__name__})


def _short(error: BaseException, scrubber: Scrubber | None) -> str:
    # Before it is cut: a part of a secret would not be found any more.
    told = str(error) if scrubber is None else scrubber.text(str(error))
    text = " ".join(told.split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
