"""Which version takes a turn while a rollout is open, and what that says about it.

Rules:
- Rollouts are read from the store every `FRESH_SECONDS`: a stopped one sends everything back in
  every front end within that time. A store that cannot be read refuses turns (503), as it does
  without a rollout.
- A front end that has not loaded the candidate yet sends new conversations to the incumbent, and
  does not count them; a conversation that is the candidate's waits until it is loaded.
- A candidate that does not load, is another agent, or is not the content the rollout was started
  for, stops the rollout.
- What a turn says is counted after it has ended; a count that fails is logged, and the answer is
  given all the same.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.core.runtime.requests import check_request
from mlflow_agent_plugin.entities import Actor, AgentReply, AgentRequest
from mlflow_agent_plugin.errors import AgentError, IntegrityError, RequestError
from mlflow_agent_plugin.interaction.serve.shadows import Shadows
from mlflow_agent_plugin.interaction.serve.versions import Leaving, LoadedVersion, slot_uri
from mlflow_agent_plugin.lifecycle.rollout import (
    Arm,
    Rollout,
    RolloutBook,
    RolloutMode,
    Shadow,
    TurnVerdict,
    judge_error,
    judge_reply,
)

if TYPE_CHECKING:
    from mlflow_agent_plugin.core import AgentRuntime
    from mlflow_agent_plugin.core.runtime import TextDelta
    from mlflow_agent_plugin.interaction.serve.agents import Served
    from mlflow_agent_plugin.lifecycle.rollout.shadow import Answers

SERVER = Actor(user="front end", tenant="default")
"""Who is on record when a candidate cannot be served."""

FRESH_SECONDS = 0.5
"""How long a front end may rely on the rollouts it read."""

_logger = logging.getLogger(__name__)


class TakenTurn:
    """One turn, given to one version.

    Attributes:
        version: Registered version that answers, if it has one.
        verdict: What the turn said, once it has ended; None while it runs, or if it was broken off.
    """

    def __init__(self, runtime: AgentRuntime, request: AgentRequest, version: str | None) -> None:
        self._runtime = runtime
        self.request = request
        self.version = version
        self.verdict: TurnVerdict | None = None

    def invoke(self) -> AgentReply:
        """Run the turn; raises as `AgentRuntime.invoke`."""
        try:
            reply = self._runtime.invoke(self.request)
        except Exception as error:
            self.verdict = judge_error(error)
            raise
        self.verdict = judge_reply(reply)
        return reply

    def stream(self) -> Iterator[TextDelta | AgentReply]:
        """Run the turn, yielding as `AgentRuntime.stream`."""
        try:
            for event in self._runtime.stream(self.request):
                if isinstance(event, AgentReply):
                    self.verdict = judge_reply(event)
                yield event
        except Exception as error:
            self.verdict = judge_error(error)
            raise


class Traffic:
    """Splits turns between incumbents and candidates.

    Args:
        book: The store's rollouts.
        settings: Settings candidates are opened with.
        monotonic: Measures how old what was read is.
    """

    def __init__(
        self,
        book: RolloutBook,
        settings: Settings,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.book = book
        self._settings = settings
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._rollouts: dict[tuple[str, str], Rollout] = {}
        self._read_at: float | None = None
        self._candidates: dict[str, LoadedVersion | Shadow] = {}
        self._leaving = Leaving()
        self.shadows = Shadows(book)

    @contextmanager
    def take(self, served: Served, request: AgentRequest) -> Iterator[TakenTurn]:
        """Give the turn to the version that is to take it, and count what it said."""
        rollout = self._rollout(served)
        if rollout is None:
            with served.stable.use() as runtime:
                yield TakenTurn(runtime, request, served.stable.version)
            return
        session_id = check_request(request, max_chars=self._settings.max_message_chars)
        request = replace(request, session_id=session_id)
        candidate = self._candidates.get(rollout.rollout_id)
        arm = self.book.assign(rollout, session_id, draws=candidate is not None)
        if arm is Arm.CANDIDATE and candidate is None:
            candidate = self.load(rollout, served)
        if isinstance(candidate, Shadow):
            with self._beside(rollout, arm, candidate, served, request) as taken:
                yield taken
            return
        version = served.stable
        if arm is Arm.CANDIDATE and candidate is not None:
            version = candidate
        with version.use() as runtime:
            taken = TakenTurn(runtime, request, version.version)
            try:
                yield taken
            finally:
                if taken.verdict is not None:
                    self._count(rollout, session_id, arm, taken.verdict)

    @contextmanager
    def _beside(
        self, rollout: Rollout, arm: Arm, shadow: Shadow, served: Served, request: AgentRequest
    ) -> Iterator[TakenTurn]:
        """Let the incumbent answer, then show the candidate what it was asked."""
        shown = arm is Arm.CANDIDATE
        tape = served.stable.tape
        listen: AbstractContextManager[Answers] = (
            tape.record(request.session_id or "") if shown else nullcontext({})
        )
        with served.stable.use() as runtime, listen as answers:
            taken = TakenTurn(runtime, request, served.stable.version)
            yield taken
            if shown and taken.verdict is not None:
                self.shadows.show(rollout, shadow, request, taken.verdict, answers)

    def _count(self, rollout: Rollout, session_id: str, arm: Arm, verdict: TurnVerdict) -> None:
        try:
            decision = self.book.count(rollout.rollout_id, session_id, arm, verdict)
        except AgentError as error:
            _logger.warning("%s: a session was not counted: %s", rollout.rollout_id, error)
            return
        if decision is not None and decision.verdict.value == "stop":
            _logger.warning("%s: %s", rollout.rollout_id, decision.summary())
            self.forget()

    # --- rollouts --------------------------------------------------------------------------------

    def _rollout(self, served: Served) -> Rollout | None:
        if served.model is None or served.slot is None:
            return None
        now = self._monotonic()
        if self._read_at is None or now - self._read_at >= FRESH_SECONDS:
            self.refresh()
        return self._rollouts.get((served.model, served.slot))

    def refresh(self) -> None:
        """Read the open rollouts; candidates of others leave.

        Raises:
            StoreError: The store cannot be read.
        """
        with self._lock:
            now = self._monotonic()
            found = [rollout for rollout in self.book.unfinished() if rollout.is_open]
            self._rollouts = {(item.model, item.stable_slot): item for item in found}
            self._read_at = now
            still = {item.rollout_id for item in found}
            gone = [name for name in self._candidates if name not in still]
            left = [self._candidates.pop(name) for name in gone]
        for candidate in left:
            if isinstance(candidate, Shadow):
                self.shadows.leave(candidate)
            else:
                self._leaving.add(candidate)
        self._leaving.sweep()

    def forget(self) -> None:
        """Read the rollouts again before the next turn."""
        self._read_at = None

    def rollout_of(self, served: Served) -> Rollout | None:
        """Return the open rollout of what is served, if there is one."""
        return self._rollout(served)

    def has_candidate(self, rollout: Rollout) -> bool:
        """Return whether this process has loaded the candidate."""
        return rollout.rollout_id in self._candidates

    def load(self, rollout: Rollout, served: Served) -> LoadedVersion | Shadow | None:
        """Load the candidate; return it, None if it stopped the rollout.

        Raises:
            Exception: The registry does not answer now.
        """
        with self._loading:
            found = self._candidates.get(rollout.rollout_id)
            if found is not None:
                return found
            try:
                loaded = self._open(rollout, served)
            except Exception as error:
                if not _is_final(error):
                    raise
                reason = f"the candidate does not load: {error}"
                self.book.stop(rollout.rollout_id, reason=reason, by=SERVER)
                self.forget()
                return None
            with self._lock:
                self._candidates[rollout.rollout_id] = loaded
            return loaded

    def _open(self, rollout: Rollout, served: Served) -> LoadedVersion | Shadow:
        from mlflow_agent_plugin.core import AgentRuntime, fetch_bundle

        bundle = fetch_bundle(slot_uri(rollout.model, rollout.candidate_slot))
        if bundle.digest.value != rollout.candidate_digest:
            raise IntegrityError(
                f"{rollout.candidate_slot} is not what the rollout was started for",
                where=rollout.model,
            )
        if bundle.manifest.name != served.stable.name:
            raise RequestError(
                f"it is the agent {bundle.manifest.name}, not {served.stable.name}",
                where=rollout.model,
            )
        version = str(rollout.candidate_version)
        if rollout.mode is RolloutMode.SHADOW:
            return Shadow(bundle, settings=self._settings, version=version)
        runtime = AgentRuntime.open(bundle, settings=self._settings, version=version)
        return LoadedVersion(runtime, version=version)

    def close(self) -> None:
        """Close every candidate."""
        self.shadows.close()
        self._leaving.close()
        with self._lock:
            left = list(self._candidates.values())
            self._candidates = {}
        for candidate in left:
            candidate.close()


def _is_final(error: Exception) -> bool:
    """Return whether trying again will not help."""
    if isinstance(error, AgentError):
        return error.error_code != "TEMPORARILY_UNAVAILABLE"
    return getattr(error, "error_code", "") in ("PERMISSION_DENIED", "RESOURCE_DOES_NOT_EXIST")
