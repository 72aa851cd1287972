"""Decides the planner's next move; pure: no I/O, no clock, no langchain.

Rules:
1. Words of a shortcut name their intent, whatever else is going on; only a shortcut for whole
   messages gives way to the answer to a question ("no thanks").
2. An answer to a question is tried on that question first; a confident new intent is a new task.
3. Confidence below the threshold, or too small a lead, is asked back, offering the best intents.
   After `escalate_after` such turns in a row a human takes over, if the playbook says how.
4. A plan asks for what it needs, takes its steps in order, each at most once, and then answers.
   A step whose conditions do not hold is skipped.
5. A call that did not run is answered or handed over as the playbook's rules for its kind of error
   say, unless the step is optional. The planner never repeats a call by itself.
6. A hand-over that fails is said so, and nothing else is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, cast

from mlflow_agent_plugin.entities import Outcome
from mlflow_agent_plugin.foundation.planner.expressions import MissingValueError, fill
from mlflow_agent_plugin.foundation.planner.moves import (
    Answer,
    Call,
    CallError,
    CallResult,
    Move,
    collect_passages,
)
from mlflow_agent_plugin.foundation.planner.options import choose_option
from mlflow_agent_plugin.foundation.planner.playbook import (
    OUT_OF_SCOPE,
    Plan,
    Playbook,
    Shortcut,
    Step,
)
from mlflow_agent_plugin.foundation.planner.slots import find_slot, find_slots
from mlflow_agent_plugin.foundation.planner.state import (
    Alternative,
    Pending,
    PlannerState,
    Reason,
)
from mlflow_agent_plugin.foundation.planner.words import find_phrase, fold

Rank = Callable[[str], Sequence[tuple[str, float]]]
"""Returns the intents of a text with their confidence, best first."""

_SHOWN_ALTERNATIVES = 5


@dataclass(frozen=True)
class PlannerEngine:
    """The decisions of one playbook.

    Attributes:
        playbook: What to do for each intent.
        rank: The intent model.
    """

    playbook: Playbook
    rank: Rank

    # --- What comes in --------------------------------------------------------------------------

    def hear(
        self,
        state: PlannerState,
        text: str,
        *,
        results: Mapping[str, Any],
        today: date,
    ) -> Move:
        """Return the move after the user said `text`.

        Args:
            state: The state after the planner's last move.
            text: What the user said.
            results: Outputs of the current task by result name.
            today: What relative dates count from.
        """
        pending = state.pending
        state = _with(state, turn=state.turn + 1, text=text, pending=None, reason=None)
        shortcut = self._shortcut(text)
        answered = (
            None
            if pending is None or pending.kind != "slot"
            else self._slot_value(pending.name, text, today)
        )
        if shortcut is not None and (
            answered is None or not shortcut.whole_message or self._takes_anything(pending)
        ):
            return self._start(state, shortcut.intent, 1.0, (), text, today=today)
        if pending is not None and pending.kind == "slot":
            return self._hear_slot(state, pending, answered, results=results, today=today)
        if pending is not None and pending.kind == "intent":
            return self._hear_choice(state, pending, today=today)
        return self._understand(state, text, today=today)

    def receive(
        self,
        state: PlannerState,
        returned: Sequence[CallResult],
        *,
        results: Mapping[str, Any],
    ) -> Move:
        """Return the move after calls came back.

        Args:
            state: The state after the planner's last move.
            returned: What became of the calls since then.
            results: Outputs of the current task by result name, the new ones among them.
        """
        pending = state.pending
        state = _with(state, pending=None)
        plan = self.playbook.plan_for(state.intent)
        expected = None if pending is None or pending.kind != "call" else pending
        result = next(
            (item for item in returned if expected and item.call_id == expected.call_id), None
        )
        if expected is None or result is None:
            lost = CallError("in_doubt", "a tool answered a call this planner did not make")
            return self._fail(state, plan, lost, results)
        if expected.escalation:
            return self._after_escalation(state, result, results)
        step = plan.steps[state.step] if state.step < len(plan.steps) else None
        state = _with(state, step=state.step + 1)
        if result.error is not None and not (step is not None and step.optional):
            tool = result.error.tool if step is None else step.tool
            return self._fail(state, plan, replace(result.error, tool=tool), results)
        return self._advance(state, plan, results)

    @staticmethod
    def sent(move: Move, call_id: str) -> PlannerState:
        """Return the state of a move that is a call, once the call has its id."""
        call = cast("Call", move.action)
        pending = Pending(
            kind="call", name=call.result, call_id=call_id, escalation=call.escalation
        )
        calls = {**move.state.calls, call_id: call.result}
        return _with(move.state, pending=pending, calls=calls)

    # --- Understanding --------------------------------------------------------------------------

    def _shortcut(self, text: str) -> Shortcut | None:
        words = fold(text)
        for shortcut in self.playbook.shortcuts:
            for phrase in shortcut.phrases:
                spans = find_phrase(words, phrase)
                if spans and (not shortcut.whole_message or spans == [(0, len(words))]):
                    return shortcut
        return None

    def _slot_value(self, name: str, text: str, today: date) -> Any:
        slot = self.playbook.slots.get(name)
        return None if slot is None else find_slot(slot, text, today=today, asked=True)

    def _takes_anything(self, pending: Pending | None) -> bool:
        slot = None if pending is None else self.playbook.slots.get(pending.name)
        return slot is not None and slot.kind == "text"

    def _hear_slot(
        self,
        state: PlannerState,
        pending: Pending,
        value: Any,
        *,
        results: Mapping[str, Any],
        today: date,
    ) -> Move:
        plan = self.playbook.plan_for(state.intent)
        if value is not None:
            others = find_slots(self.playbook.slots, state.text, today=today, skip={pending.name})
            slots = {**state.slots, **others, pending.name: value}
            return self._advance(_with(state, slots=slots, misses=0), plan, results)
        ranking = self.rank(state.text)
        best, confidence = ranking[0]
        if best != state.intent and self._is_clear(ranking):
            return self._start(
                state, best, confidence, _alternatives(ranking), state.text, today=today
            )
        state = _with(state, misses=state.misses + 1)
        if self._is_lost(state):
            return self._escalate(state, "low_confidence", results)
        return self._ask(state, pending.name, results)

    def _hear_choice(self, state: PlannerState, pending: Pending, *, today: date) -> Move:
        titles = [self.playbook.title_of(option) for option in pending.options]
        chosen = choose_option(state.text, titles)
        if chosen is not None:
            intent = pending.options[chosen]
            confidence = next(
                (item.confidence for item in state.alternatives if item.intent == intent), 1.0
            )
            return self._start(
                state, intent, confidence, state.alternatives, state.request, today=today
            )
        return self._understand(state, state.text, today=today, earlier=state.request)

    def _understand(
        self, state: PlannerState, text: str, *, today: date, earlier: str = ""
    ) -> Move:
        request, ranking = text, self.rank(text)
        if earlier and not self._is_clear(ranking):
            # a short addition ("at the cash machine") often makes the first message clear
            joined = f"{earlier} {text}"
            both = self.rank(joined)
            if both[0][1] > ranking[0][1]:
                request, ranking = joined, both
        best, confidence = ranking[0]
        alternatives = _alternatives(ranking)
        if self._is_clear(ranking):
            return self._start(state, best, confidence, alternatives, request, today=today)
        state = _with(
            state,
            intent=best,
            confidence=confidence,
            alternatives=alternatives,
            request=request,
            misses=state.misses + 1,
            slots=self._remembered(state.slots),
            step=0,
            calls={},
        )
        if self._is_lost(state):
            return self._escalate(state, "low_confidence", {})
        options = [item.intent for item in alternatives if item.intent != OUT_OF_SCOPE]
        pending = Pending(
            kind="intent", options=tuple(options[: self.playbook.low_confidence.offer])
        )
        state = _with(state, pending=pending)
        prompt = self.playbook.low_confidence.answer
        return self._say(state, prompt, Outcome.CLARIFIED, {}, offered=pending.options)

    def _is_clear(self, ranking: Sequence[tuple[str, float]]) -> bool:
        (best, confidence), *rest = ranking
        thresholds = self.playbook.thresholds
        plan = self.playbook.intents.get(best)
        if best == OUT_OF_SCOPE and plan is None:
            return False
        lowest = thresholds.clarify
        if plan is not None and plan.min_confidence is not None:
            lowest = plan.min_confidence
        lead = confidence - rest[0][1] if rest else 1.0
        return confidence >= lowest and lead >= thresholds.margin

    def _is_lost(self, state: PlannerState) -> bool:
        enough = state.misses >= self.playbook.thresholds.escalate_after
        return enough and self.playbook.escalation is not None

    def _remembered(self, slots: Mapping[str, Any]) -> dict[str, Any]:
        declared = self.playbook.slots
        return {
            name: value
            for name, value in slots.items()
            if name in declared and declared[name].remember
        }

    # --- The plan -------------------------------------------------------------------------------

    def _start(
        self,
        state: PlannerState,
        intent: str,
        confidence: float,
        alternatives: tuple[Alternative, ...],
        request: str,
        *,
        today: date,
    ) -> Move:
        slots = self._remembered(state.slots) | find_slots(
            self.playbook.slots, request, today=today
        )
        if request != state.text:
            slots |= find_slots(self.playbook.slots, state.text, today=today)
        state = _with(
            state,
            intent=intent,
            confidence=confidence,
            alternatives=alternatives,
            request=request,
            slots=slots,
            step=0,
            calls={},
            misses=0,
        )
        return self._advance(state, self.playbook.plan_for(intent), {})

    def _advance(self, state: PlannerState, plan: Plan, results: Mapping[str, Any]) -> Move:
        needed = self._first_missing(plan.needs, state)
        if needed is not None:
            return self._ask(state, needed, results)
        while state.step < len(plan.steps):
            step = plan.steps[state.step]
            values = self._values(state, results)
            if all(condition.holds(values) for condition in step.conditions()):
                needed = self._first_missing(step.needs, state)
                if needed is not None:
                    return self._ask(state, needed, results)
                return self._take(state, plan, step, results)
            state = _with(state, step=state.step + 1)
        values = self._values(state, results)
        answer = next(
            item
            for item in plan.answers()
            if all(condition.holds(values) for condition in item.conditions())
        )
        return self._say(state, answer.prompt, answer.outcome, results)

    def _take(
        self, state: PlannerState, plan: Plan, step: Step, results: Mapping[str, Any]
    ) -> Move:
        try:
            arguments = fill(step.arguments, self._values(state, results))
        except MissingValueError as missing:
            error = CallError("invalid", f"there is no {missing}", step.tool)
            if step.optional:
                return self._advance(_with(state, step=state.step + 1), plan, results)
            return self._fail(state, plan, error, results)
        return Move(state, Call(step.tool, arguments, step.result_name))

    @staticmethod
    def _first_missing(needs: Sequence[str], state: PlannerState) -> str | None:
        return next((name for name in needs if name not in state.slots), None)

    # --- Errors and escalation ------------------------------------------------------------------

    def _fail(
        self, state: PlannerState, plan: Plan, error: CallError, results: Mapping[str, Any]
    ) -> Move:
        rule = plan.on_error.get(error.kind) or self.playbook.on_error[error.kind]
        state = _with(state, pending=None)
        said_no = error.kind in ("denied", "rejected")
        escalation = self.playbook.escalation
        if rule.escalate and escalation is not None and error.tool == escalation.tool:
            # the plan's own hand-over failed: trying the same once more would repeat a call
            return self._say(state, escalation.failed, Outcome.FAILED, results, error=error)
        if rule.escalate:
            reason: Reason = "policy_denied" if said_no else "tool_failure"
            return self._escalate(state, reason, results, error)
        outcome = rule.outcome or (Outcome.REFUSED if said_no else Outcome.FAILED)
        return self._say(state, rule.answer or "", outcome, results, error=error)

    def _escalate(
        self,
        state: PlannerState,
        reason: Reason,
        results: Mapping[str, Any],
        error: CallError | None = None,
    ) -> Move:
        escalation = self.playbook.escalation
        if escalation is None:  # load_playbook refuses a rule that escalates into nothing
            raise AssertionError("the playbook has no escalation")
        state = _with(state, misses=0, reason=reason)
        try:
            arguments = fill(escalation.arguments, self._values(state, results))
        except MissingValueError as missing:
            lost = error or CallError("invalid", f"there is no {missing}", escalation.tool)
            return self._say(state, escalation.failed, Outcome.FAILED, results, error=lost)
        return Move(state, Call(escalation.tool, arguments, escalation.tool, escalation=True))

    def _after_escalation(
        self, state: PlannerState, result: CallResult, results: Mapping[str, Any]
    ) -> Move:
        escalation = self.playbook.escalation
        if escalation is None:
            raise AssertionError("the playbook has no escalation")
        if result.error is not None:
            return self._say(state, escalation.failed, Outcome.FAILED, results, error=result.error)
        return self._say(state, escalation.answer, Outcome.ESCALATED, results)

    # --- Words ----------------------------------------------------------------------------------

    def _ask(self, state: PlannerState, name: str, results: Mapping[str, Any]) -> Move:
        state = _with(state, pending=Pending(kind="slot", name=name))
        return self._say(state, self.playbook.slots[name].ask, Outcome.CLARIFIED, results)

    def _say(
        self,
        state: PlannerState,
        prompt: str,
        outcome: Outcome | None,
        results: Mapping[str, Any],
        *,
        error: CallError | None = None,
        offered: Sequence[str] | None = None,
    ) -> Move:
        return Move(state, Answer(prompt, self._variables(state, results, error, offered), outcome))

    def _variables(
        self,
        state: PlannerState,
        results: Mapping[str, Any],
        error: CallError | None,
        offered: Sequence[str] | None,
    ) -> dict[str, Any]:
        plan = self.playbook.plan_for(state.intent)
        names = {step.result_name: None for step in plan.steps}
        shown = [item for item in state.alternatives if offered is None or item.intent in offered]
        return {
            "slots": dict.fromkeys(self.playbook.slots) | state.slots,
            "results": names | dict(results),
            "passages": collect_passages(results),
            "text": state.text,
            "request": state.request,
            "intent": state.intent,
            "confidence": state.confidence,
            "alternatives": [
                {
                    "intent": item.intent,
                    "title": self.playbook.title_of(item.intent),
                    "confidence": item.confidence,
                }
                for item in shown
            ],
            "error": None
            if error is None
            else {"kind": error.kind, "message": error.message, "tool": error.tool},
            "reason": state.reason,
            "turn": state.turn,
        }

    def _values(self, state: PlannerState, results: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "slots": state.slots,
            "results": results,
            "session": {
                "turn": state.turn,
                "text": state.text,
                "request": state.request,
                "intent": state.intent,
                "confidence": state.confidence,
                "reason": state.reason,
            },
        }


def _alternatives(ranking: Sequence[tuple[str, float]]) -> tuple[Alternative, ...]:
    return tuple(
        Alternative(intent=intent, confidence=min(max(float(confidence), 0.0), 1.0))
        for intent, confidence in ranking[:_SHOWN_ALTERNATIVES]
    )


def _with(state: PlannerState, **changes: Any) -> PlannerState:
    return state.model_copy(update=changes)
