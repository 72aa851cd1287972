"""How right an agent's tool calls were, counted. Pure.

Rules:
- A call fits at most one required call and a required call is met as often as its `count` says;
  they are paired in the order of the scenario.
- Precision is the share of calls made that the scenario asks for, recall the share of calls asked
  for that were made; both only where the scenario asks for calls at all.
- Arguments are counted on the nearest call: the one of that tool with most of them right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from mlflow_agent_plugin.development.matching import MISSING
from mlflow_agent_plugin.development.scenario import Expectation, RequiredCall
from mlflow_agent_plugin.entities import ToolCallRecord


@dataclass(frozen=True)
class CallMeasures:
    """Counts of one case.

    Attributes:
        expected: Calls the scenario asks for.
        matched: Those that were made, arguments and status right.
        made: Calls the agent made, whatever became of them.
        arguments: Arguments the scenario says something about.
        arguments_right: Those that were right in the nearest call.
    """

    expected: int
    matched: int
    made: int
    arguments: int
    arguments_right: int

    @property
    def precision(self) -> float | None:
        """Share of the calls made that were asked for; None where there is nothing to judge."""
        return self.matched / self.made if self.expected and self.made else None

    @property
    def recall(self) -> float | None:
        """Share of the calls asked for that were made; None where none was asked for."""
        return self.matched / self.expected if self.expected else None

    @property
    def argument_accuracy(self) -> float | None:
        """Share of the arguments asked for that were right; None where none was asked for."""
        return self.arguments_right / self.arguments if self.arguments else None


def measure_calls(expect: Expectation, calls: Sequence[ToolCallRecord]) -> CallMeasures:
    """Count how right `calls` were."""
    left = list(calls)
    expected = matched = arguments = right = 0
    for wanted in expect.calls_required:
        for _ in range(wanted.count or 1):
            expected += 1
            arguments += len(wanted.arguments)
            same_tool = [call for call in left if call.tool == wanted.tool]
            if not same_tool:
                continue
            nearest = max(same_tool, key=partial(_nearness, wanted))
            good = _right_arguments(nearest, wanted)
            right += good
            left.remove(nearest)
            matched += good == len(wanted.arguments) and nearest.status in wanted.status
    return CallMeasures(expected, matched, len(calls), arguments, right)


def _nearness(wanted: RequiredCall, call: ToolCallRecord) -> tuple[int, bool]:
    return (_right_arguments(call, wanted), call.status in wanted.status)


def _right_arguments(call: ToolCallRecord, wanted: RequiredCall) -> int:
    return sum(
        matcher.problem(call.arguments.get(name, MISSING)) is None
        for name, matcher in wanted.arguments.items()
    )
