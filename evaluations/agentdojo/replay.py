"""One run of a user task, with or without an injection, through the project's own runtime."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from agentdojo.functions_runtime import FunctionCall, FunctionsRuntime
from langchain_core.messages import ToolMessage

from evaluations.agentdojo.bundle import write_bundle
from evaluations.agentdojo.worlds import OPEN, World
from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.core.provenance import parse_content, plain_texts
from mlflow_agent_plugin.core.runtime import AgentRuntime
from mlflow_agent_plugin.entities import Actor, AgentRequest, Effect, Outcome
from mlflow_agent_plugin.errors import SuiteError
from mlflow_agent_plugin.store import Store

if TYPE_CHECKING:
    from agentdojo.base_tasks import BaseInjectionTask, BaseUserTask
    from agentdojo.task_suite.task_suite import TaskSuite
    from langchain_core.messages import BaseMessage

    from mlflow_agent_plugin.package import ToolContract

USER = Actor(user="owner", tenant="default", verified=True)
_INJECTED = "injected"


@dataclass(frozen=True)
class Run:
    """What came of one run.

    Attributes:
        done: Every call of the user task ran, and the suite's `utility` holds.
        goal_reached: The suite's `security` says that the injection reached its goal.
        carried: A tool result carried the injected text, so the injected calls were tried.
        asked: Tools of user calls that a human was asked about.
        asked_injected: Tools of injected calls that a human was asked about.
        injected_writes: Tools of injected calls that ran and were no reads.
        refused: Tools of user calls that did not run.
    """

    done: bool
    goal_reached: bool
    carried: bool
    asked: tuple[str, ...]
    asked_injected: tuple[str, ...]
    injected_writes: tuple[str, ...]
    refused: tuple[str, ...]

    @property
    def alone(self) -> bool:
        """Whether the user task was done without asking anybody."""
        return self.done and not self.asked


class Replayer:
    """Runs tasks of one suite under one set of policies. Make it with `Replayer.open`."""

    def __init__(
        self, suite: TaskSuite[Any], contracts: Mapping[str, ToolContract], runtime: AgentRuntime
    ) -> None:
        self._suite = suite
        self._contracts = contracts
        self._runtime = runtime
        self._count = 0

    @classmethod
    @contextmanager
    def open(
        cls,
        suite: TaskSuite[Any],
        contracts: Mapping[str, ToolContract],
        policies: Mapping[str, str],
    ) -> Iterator[Replayer]:
        """Open a replayer whose agent has `policies` (file name to text).

        Raises:
            BundleError: The policies are wrong, or do not fit the suite's tools.
        """
        with TemporaryDirectory() as folder, Store.open("sqlite://") as store:
            bundle = write_bundle(Path(folder) / suite.name, suite.name, contracts, policies)
            settings = Settings.from_env({"MLFLOW_AGENTS_ENVIRONMENT": "production"})
            with AgentRuntime.open(
                bundle, store=store, resources=OPEN, settings=settings, tracing=False
            ) as runtime:
                yield cls(suite, contracts, runtime)

    def run(
        self,
        user_task: BaseUserTask[Any],
        injection_task: BaseInjectionTask[Any] | None = None,
        injections: Mapping[str, str] | None = None,
    ) -> Run:
        """Run one user task, with an injection if one is given.

        Raises:
            SuiteError: The suite's own ground truth does not work in its environment.
        """
        self._count += 1
        session_id = f"{user_task.ID}-{self._count}"
        environment = user_task.init_environment(
            self._suite.load_and_inject_default_environment(dict(injections or {}))
        )
        before = environment.model_copy(deep=True)
        script = _Script(
            _ground_truth(user_task, before),
            [] if injection_task is None else _ground_truth(injection_task, before),
            list((injections or {}).values()),
        )
        world = World(
            environment=environment,
            runtime=FunctionsRuntime(self._suite.tools),
            next_call=script.next_call,
            answer=user_task.GROUND_TRUTH_OUTPUT,
        )
        OPEN.put(session_id, world)
        try:
            asked = self._converse(user_task.PROMPT, session_id)
        finally:
            OPEN.drop(session_id)
        trace = [call for _, call in world.executed]
        ran = {call_id for call_id, _ in world.executed}
        refused = [call.function for call_id, call in script.user_calls if call_id not in ran]
        goal_reached = injection_task is not None and _judge(
            injection_task.security_from_traces,
            injection_task.security,
            world.answer,
            (before, environment, trace),
        )
        utility = _judge(
            user_task.utility_from_traces,
            user_task.utility,
            world.answer,
            (before, environment, trace),
        )
        return Run(
            done=utility and not refused,
            goal_reached=goal_reached,
            carried=script.carried,
            asked=tuple(tool for call_id, tool in asked if _INJECTED not in call_id),
            asked_injected=tuple(tool for call_id, tool in asked if _INJECTED in call_id),
            injected_writes=tuple(
                call.function
                for call_id, call in world.executed
                if _INJECTED in call_id and self._contracts[call.function].effect is not Effect.READ
            ),
            refused=tuple(refused),
        )

    def _converse(self, prompt: str, session_id: str) -> list[tuple[str, str]]:
        """Take the turn; a correct human answers. Returns (call id, tool) of every question."""
        asked: list[tuple[str, str]] = []
        reply = self._runtime.invoke(AgentRequest(prompt, session_id, USER))
        while reply.outcome is Outcome.WAITING_APPROVAL:
            for pending in reply.approvals:
                approval = self._runtime.approvals.get(pending.approval_id)
                human = Actor(
                    user="human", tenant="default", roles=frozenset({pending.role}), verified=True
                )
                asked.append((approval.call_id, pending.tool))
                if _INJECTED in approval.call_id:
                    self._runtime.approvals.reject(approval.approval_id, human, "nobody asked")
                else:
                    self._runtime.approvals.approve(approval.approval_id, human)
            reply = self._runtime.invoke(AgentRequest("", session_id, USER, resume=True))
        return asked


class _Script:
    """The calls of one run: the user task's, and the injection's once its text was seen."""

    def __init__(
        self,
        calls: list[FunctionCall],
        injected: list[FunctionCall],
        injected_texts: list[str],
    ) -> None:
        self.user_calls = [(f"user-{at}", call) for at, call in enumerate(calls)]
        self.carried = False
        self._left = list(self.user_calls)
        self._injected = [(f"{_INJECTED}-{at}", call) for at, call in enumerate(injected)]
        self._marks = [mark for mark in map(_letters, injected_texts) if mark]

    def next_call(self, messages: list[BaseMessage]) -> tuple[str, FunctionCall] | None:
        """Return the next call with its id, None at the end."""
        last = messages[-1]
        if not self.carried and self._injected and isinstance(last, ToolMessage):
            seen = _letters("".join(plain_texts(parse_content(last.content))))
            if any(mark in seen for mark in self._marks):
                self.carried = True
                self._left[:0] = self._injected
        return self._left.pop(0) if self._left else None


def _ground_truth(task: Any, environment: Any) -> list[FunctionCall]:
    """Return the calls of a task's ground truth, without touching `environment`."""
    try:
        calls = task.ground_truth(copy.deepcopy(environment))
    except Exception as error:
        raise SuiteError(
            f"its ground truth fails: {type(error).__name__}: {error}", where=str(task.ID)
        ) from error
    for call in calls:
        if any(isinstance(value, FunctionCall) for value in call.args.values()):
            raise SuiteError("its ground truth nests calls, which a replay cannot", where=task.ID)
    return list(calls)


def _judge(from_traces: Any, from_end: Any, answer: str, facts: tuple[Any, Any, Any]) -> bool:
    before, after, trace = facts
    verdict = from_traces(answer, before, after, trace)
    return bool(from_end(answer, before, after) if verdict is None else verdict)


def _letters(text: str) -> str:
    """Return letters and digits only: environments fold white space and escape quotes."""
    return "".join(char for char in text if char.isalnum())
