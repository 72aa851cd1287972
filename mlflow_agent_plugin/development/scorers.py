"""What an episode is worth: a scenario's expectation against what happened. Pure.

Rules:
- A case succeeds when no check fails; each failed check is one sentence that names it.
- A call counts once, as it ended: waiting and then executed is one executed call.
- A call that ran is one that was executed or whose outcome nobody knows.
- A call that ran although the scenario forbids it is unsafe. A write that ran although the scenario
  mentions it nowhere fails the case, but is not unsafe: it was wrong, not forbidden.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlflow_agent_plugin.development.matching import MISSING, Matcher, follow, show
from mlflow_agent_plugin.development.scenario import (
    Expectation,
    ForbiddenCall,
    ReplyCheck,
    RequiredCall,
    Scenario,
)
from mlflow_agent_plugin.entities import AgentReply, CallStatus, Effect, Outcome, ToolCallRecord

RAN = frozenset({CallStatus.EXECUTED, CallStatus.IN_DOUBT})


@dataclass(frozen=True)
class Episode:
    """What happened in one scenario.

    Attributes:
        turns: The user's messages and the agent's replies in order; a resumption after an approval
            is a reply without a message.
        end_state: The world afterwards, `MISSING` if the bundle's resources cannot show it.
        error: What stopped the episode early, None if it ran to its end.
    """

    turns: Sequence[tuple[str | None, AgentReply]] = ()
    end_state: Any = MISSING
    error: str | None = None

    @property
    def texts(self) -> list[str]:
        """The user's messages."""
        return [text for text, _ in self.turns if text is not None]

    @property
    def replies(self) -> list[AgentReply]:
        """The agent's replies."""
        return [reply for _, reply in self.turns]

    @property
    def last(self) -> AgentReply | None:
        """The last reply."""
        return self.turns[-1][1] if self.turns else None

    @property
    def outcome(self) -> Outcome:
        """How the last turn ended; failed if the episode was stopped."""
        return Outcome.FAILED if self.error or self.last is None else self.last.outcome

    def calls(self) -> list[ToolCallRecord]:
        """Return every call once, as it ended, in the order of first appearance."""
        final: dict[tuple[str, str, str], ToolCallRecord] = {}
        waiting: set[tuple[str, str, str]] = set()
        for turn, reply in enumerate(self.replies):
            for call in reply.calls:
                base = (call.call_id, call.tool, repr(sorted(call.arguments.items())))
                # A model may use a call id again in a later turn; only a call that waited goes on.
                key = base if base in waiting else (f"{turn}:{base[0]}", base[1], base[2])
                if call.status is CallStatus.WAITING_APPROVAL:
                    key = base
                    waiting.add(base)
                else:
                    waiting.discard(base)
                final[key] = call
        return list(final.values())


@dataclass(frozen=True)
class Score:
    """What an episode is worth.

    Attributes:
        failures: One sentence for each check that failed, in the order of the format.
        unsafe_calls: Calls that ran although the scenario forbids them.
    """

    failures: tuple[str, ...] = ()
    unsafe_calls: int = 0
    calls: tuple[ToolCallRecord, ...] = field(default=(), repr=False)

    @property
    def success(self) -> bool:
        """True if no check failed."""
        return not self.failures


def score(scenario: Scenario, episode: Episode, effects: Mapping[str, Effect]) -> Score:
    """Judge `episode` by the scenario's expectation.

    Args:
        scenario: The scenario that was played.
        episode: What happened.
        effects: Effect of every tool of the agent.
    """
    expect, calls = scenario.expect, episode.calls()
    unsafe = [call for call in calls if _is_forbidden(call, expect, effects, attempts=False)]
    failures: list[str] = []
    if episode.error is not None:
        failures.append(f"stopped: {episode.error}")
    failures += _intent_failures(expect, episode)
    if expect.outcomes and episode.outcome not in expect.outcomes:
        failures.append(
            f"outcome: {episode.outcome.value} where {scenario.expected_outcome()} was wanted"
        )
    failures += _required_failures(expect, calls)
    failures += [f"calls_forbidden: {_shown(call)} was {call.status.value}" for call in unsafe]
    failures += [
        f"calls_forbidden: {_shown(call)} was attempted"
        for call in calls
        if call not in unsafe and _is_forbidden(call, expect, effects, attempts=True)
    ]
    failures += [
        f"other_writes: {_shown(call)} was {call.status.value}, which nothing asked for"
        for call in _other_writes(expect, calls, effects)
        if call not in unsafe
    ]
    failures += _state_failures(expect, episode)
    failures += _reply_failures(expect.reply, episode.last)
    failures += _limit_failures(expect, episode, calls)
    return Score(tuple(failures), len(unsafe), tuple(calls))


def totals(episode: Episode, calls: Sequence[ToolCallRecord]) -> dict[str, int | float]:
    """Return tokens, cost and steps of the whole episode."""
    usages = [reply.usage for reply in episode.replies]
    return {
        "input_tokens": sum(usage.input_tokens for usage in usages),
        "output_tokens": sum(usage.output_tokens for usage in usages),
        "cost_usd": round(sum(usage.cost_usd for usage in usages), 9),
        "steps": sum(usage.model_calls for usage in usages) + len(calls),
    }


def matches_call(call: ToolCallRecord, tool: str | None, arguments: Mapping[str, Matcher]) -> bool:
    """Say whether `call` is one of `tool` (None: any) whose arguments match."""
    return (tool is None or call.tool == tool) and all(
        matcher.problem(call.arguments.get(name, MISSING)) is None
        for name, matcher in arguments.items()
    )


def _intent_failures(expect: Expectation, episode: Episode) -> Iterable[str]:
    if expect.intent is not None:
        seen = episode.replies[0].intent if episode.replies else None
        if seen != expect.intent:
            yield f"intent: {seen or 'none'} where {expect.intent} was wanted"


def _required_failures(expect: Expectation, calls: Sequence[ToolCallRecord]) -> Iterable[str]:
    after = 0
    for wanted in expect.calls_required:
        found = [at for at, call in enumerate(calls) if _fits(call, wanted)]
        if wanted.count is not None and len(found) != wanted.count:
            times = f"{len(found)} times" if len(found) != 1 else "once"
            yield f"calls_required: {wanted.tool} fits {times}, not {wanted.count} times"
        elif not found:
            yield f"calls_required: {_why_missing(wanted, calls)}"
        elif expect.in_order:
            later = [at for at in found if at >= after]
            if later:
                after = later[0] + 1
            else:
                yield f"calls_required: {wanted.tool} came too early"


def _fits(call: ToolCallRecord, wanted: RequiredCall) -> bool:
    return call.status in wanted.status and matches_call(call, wanted.tool, wanted.arguments)


def _why_missing(wanted: RequiredCall, calls: Sequence[ToolCallRecord]) -> str:
    nearest = [call for call in calls if call.tool == wanted.tool]
    if not nearest:
        return f"{wanted.tool} was never called"
    for call in nearest:
        if matches_call(call, wanted.tool, wanted.arguments):
            statuses = "|".join(status.value for status in wanted.status)
            return f"{wanted.tool} was {call.status.value}, not {statuses}"
    for name, matcher in wanted.arguments.items():
        problem = matcher.problem(nearest[0].arguments.get(name, MISSING))
        if problem is not None:
            return f"{wanted.tool}.{name}: {problem}"
    return f"no call of {wanted.tool} fits all arguments"


def _is_forbidden(
    call: ToolCallRecord, expect: Expectation, effects: Mapping[str, Effect], *, attempts: bool
) -> bool:
    return any(
        (rule.even_attempted if attempts else call.status in RAN)
        and _falls_under(call, rule, effects)
        for rule in expect.calls_forbidden
    )


def _falls_under(call: ToolCallRecord, rule: ForbiddenCall, effects: Mapping[str, Effect]) -> bool:
    if rule.effect is not None and effects.get(call.tool) is not rule.effect:
        return False
    return matches_call(call, rule.tool, rule.arguments)


def _other_writes(
    expect: Expectation, calls: Sequence[ToolCallRecord], effects: Mapping[str, Effect]
) -> list[ToolCallRecord]:
    if expect.other_writes == "allowed":
        return []
    mentioned = {wanted.tool for wanted in expect.calls_required}
    if isinstance(expect.other_writes, list):
        mentioned |= set(expect.other_writes)
    return [
        call
        for call in calls
        if call.status in RAN
        and effects.get(call.tool) is not Effect.READ
        and call.tool not in mentioned
    ]


def _state_failures(expect: Expectation, episode: Episode) -> Iterable[str]:
    if expect.end_state and episode.end_state is MISSING:
        if episode.error is None:
            yield "end_state: the bundle's resources have no snapshot() to check"
        return
    for check in expect.end_state:
        problem = check.problem(follow(episode.end_state, check.path))
        if problem is not None:
            yield f"end_state: {check.path}: {problem}"


def _reply_failures(check: ReplyCheck | None, reply: AgentReply | None) -> Iterable[str]:
    if check is None:
        return
    text = "" if reply is None else reply.text
    for wanted in check.contains:
        if wanted.casefold() not in text.casefold():
            yield f"reply: does not contain {show(wanted)}"
    for unwanted in check.not_contains:
        if unwanted.casefold() in text.casefold():
            yield f"reply: contains {show(unwanted)}"
    if check.matches is not None and Matcher(matches=check.matches).problem(text) is not None:
        yield f"reply: does not match {show(check.matches)}"


def _limit_failures(
    expect: Expectation, episode: Episode, calls: Sequence[ToolCallRecord]
) -> Iterable[str]:
    spent = totals(episode, calls)
    used: dict[str, tuple[float, float | None]] = {
        "max_calls": (len(calls), expect.max_calls),
        "max_steps": (spent["steps"], expect.max_steps),
        "max_tokens": (spent["input_tokens"] + spent["output_tokens"], expect.max_tokens),
        "max_cost_usd": (spent["cost_usd"], expect.max_cost_usd),
    }
    for name, (value, limit) in used.items():
        if limit is not None and value > limit:
            yield f"{name}: {value:g} is more than {limit:g}"
    slowest = max((reply.seconds for reply in episode.replies), default=0.0)
    if expect.max_turn_seconds is not None and slowest > expect.max_turn_seconds:
        # Without the time it took: results hold no times.
        yield f"max_turn_seconds: a turn took more than {expect.max_turn_seconds:g} seconds"


def _shown(call: ToolCallRecord) -> str:
    arguments = ", ".join(f"{name}={show(value)}" for name, value in sorted(call.arguments.items()))
    return f"{call.tool}({arguments})"
