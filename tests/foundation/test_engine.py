"""The planner's decisions under any conversation."""

from datetime import date

from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_agent_plugin.foundation.planner.engine import PlannerEngine
from mlflow_agent_plugin.foundation.planner.moves import Call, CallError, CallResult
from mlflow_agent_plugin.foundation.planner.playbook import ERROR_KINDS, OUT_OF_SCOPE
from mlflow_agent_plugin.foundation.planner.reading import load_playbook
from mlflow_agent_plugin.foundation.planner.state import STATE_KEY, PlannerState, read_state

TODAY = date(2026, 11, 22)
PLAYBOOK = load_playbook(
    """\
version: 1
thresholds: {clarify: 0.4, escalate_after: 2}
slots:
  card: {kind: card_last4, ask: p, remember: true}
  sure: {kind: confirm, ask: p}
  why: {kind: text, ask: p}
shortcuts: [{phrases: [human], intent: talk}]
intents:
  a:
    needs: [sure]
    steps:
      - {tool: t, arguments: {card: "{slots.card?}"}}
      - {tool: t, result: again, when: results.t.more, needs: [card], arguments: {x: "{results.t.x}"}}
      - {tool: u, optional: true, arguments: {x: "{results.again.y}"}}
    answer: [{prompt: p, when: results.u}, {prompt: q}]
  b: {needs: [why], steps: [{tool: u, arguments: {x: "{slots.why}"}}], answer: p}
  c: {refuse: p, min_confidence: 0.9}
  talk: {steps: [{tool: e}], answer: p}
fallback: {steps: [{tool: s, arguments: {q: "{session.request}"}}], answer: p}
low_confidence: {answer: p}
escalation: {tool: e, arguments: {r: "{session.reason}"}, answer: p, failed: q}
on_error:
  denied: {answer: p}
  rejected: {answer: p}
  invalid: {escalate: true}
  failed: {escalate: true}
  in_doubt: {escalate: true}
"""
)

MESSAGES = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["yes", "no", "1234", "card 1234", "human", "the first", "2", "because"]),
)
RANKINGS = st.permutations(["a", "b", "c", "d", OUT_OF_SCOPE]).flatmap(
    lambda names: st.lists(st.floats(0, 1), min_size=5, max_size=5).map(
        lambda shares: list(zip(names, sorted(shares, reverse=True), strict=True))
    )
)
OUTPUTS = st.one_of(
    st.sampled_from([{}, {"more": True, "x": 1}, {"y": 2}, {"passages": [1]}, None, "text", []]),
    st.sampled_from([*ERROR_KINDS]),
)


def read(state):
    """Return the state as the next message would bring it."""
    return read_state({STATE_KEY: state.to_json()})


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(MESSAGES, RANKINGS, st.lists(OUTPUTS, min_size=6, max_size=6)), max_size=6)
)
def test_every_turn_ends_in_words_after_each_step_at_most_once(turns):
    state, outputs, number = PlannerState(), {}, 0
    for turn, (text, ranking, answers) in enumerate(turns, start=1):
        engine = PlannerEngine(PLAYBOOK, lambda _, ranking=ranking: ranking)
        results = {name: outputs[i] for i, name in state.calls.items() if i in outputs}
        move = engine.hear(state, text, results=results, today=TODAY)
        made = []
        for answer in answers:
            if not isinstance(move.action, Call):
                break
            number += 1
            state = read(engine.sent(move, str(number)))
            made.append((move.action.tool, move.action.result))
            failed = answer in ERROR_KINDS if isinstance(answer, str) else False
            if failed:
                result = CallResult(str(number), error=CallError(answer, "no"))
            else:
                result = CallResult(str(number), output=answer)
                outputs[str(number)] = answer
            results = {name: outputs[i] for i, name in state.calls.items() if i in outputs}
            move = engine.receive(state, [result], results=results)
        assert not isinstance(move.action, Call)
        assert move.action.prompt in ("p", "q")
        assert len(made) == len(set(made))
        assert move.state.turn == turn
        state = read(move.state)
        assert state == move.state


@given(RANKINGS, MESSAGES)
def test_nothing_is_done_below_the_threshold(ranking, text):
    low = [(name, min(share, 0.39)) for name, share in ranking]
    move = PlannerEngine(PLAYBOOK, lambda _: low).hear(
        PlannerState(), text, results={}, today=TODAY
    )
    if "human" not in text.casefold():
        assert not isinstance(move.action, Call)


def test_a_late_answer_to_another_call_is_not_taken_for_this_one():
    engine = PlannerEngine(PLAYBOOK, lambda _: [("d", 1.0), ("a", 0.0)])
    move = engine.hear(PlannerState(), "x", results={}, today=TODAY)
    state = engine.sent(move, "1")
    late = engine.receive(state, [CallResult("0", output={})], results={})
    assert isinstance(late.action, Call)
    assert late.action.escalation


def test_a_value_a_step_needs_but_nobody_gave_stops_the_plan_before_the_call():
    engine = PlannerEngine(PLAYBOOK, lambda _: [("a", 1.0), ("b", 0.0)])
    asked = engine.hear(PlannerState(), "x", results={}, today=TODAY)
    first = engine.hear(asked.state, "yes, card 1234", results={}, today=TODAY)
    state = engine.sent(first, "1")
    output = {"more": True}
    move = engine.receive(state, [CallResult("1", output=output)], results={"t": output})
    assert move.action == Call("e", {"r": "tool_failure"}, "e", escalation=True)


def test_the_optional_step_that_lacks_a_value_is_left_out():
    engine = PlannerEngine(PLAYBOOK, lambda _: [("a", 1.0), ("b", 0.0)])
    asked = engine.hear(PlannerState(), "x", results={}, today=TODAY)
    first = engine.hear(asked.state, "yes", results={}, today=TODAY)
    move = engine.receive(engine.sent(first, "1"), [CallResult("1", output={})], results={"t": {}})
    assert move.action.prompt == "q"


def test_a_plan_whose_own_hand_over_failed_does_not_try_it_again():
    engine = PlannerEngine(PLAYBOOK, lambda _: [("d", 1.0), ("a", 0.0)])
    move = engine.hear(PlannerState(), "a human please", results={}, today=TODAY)
    failed = CallResult("1", error=CallError("in_doubt", "no answer"))
    answer = engine.receive(engine.sent(move, "1"), [failed], results={}).action
    assert (answer.prompt, answer.outcome.value) == ("q", "failed")
