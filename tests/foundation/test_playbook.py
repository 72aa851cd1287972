"""Reading a playbook, and every way to write a wrong one."""

import re
from pathlib import Path

import pytest

from mlflow_agent_plugin.errors import PlannerError
from mlflow_agent_plugin.foundation import load_playbook
from mlflow_agent_plugin.foundation.planner.playbook import PROMPT_VARIABLES

DOCS = Path(__file__).parents[2] / "docs" / "reference" / "playbook.md"
EXAMPLE = re.search(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)[1]
MINIMAL = """\
version: 1
fallback: {answer: a}
low_confidence: {answer: b}
on_error:
  denied: {answer: c}
  rejected: {answer: c}
  invalid: {answer: c}
  failed: {answer: c}
  in_doubt: {answer: c}
"""


def test_the_documented_example_is_a_playbook():
    playbook = load_playbook(EXAMPLE)
    assert playbook.plan_for("lost_or_stolen_card").steps[2].tool == "freeze_card"


def test_the_smallest_playbook_has_a_fallback_and_says_what_to_do_on_errors():
    playbook = load_playbook(MINIMAL)
    assert playbook.plan_for("anything") is playbook.fallback
    assert playbook.title_of("reverted_card_payment?") == "reverted card payment"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (EXAMPLE, "", "empty"),
        (EXAMPLE, "- a", "fields"),
        (EXAMPLE, "a: [", "not valid YAML"),
        ("version: 1", "version: 2", "version"),
        ("version: 1", "version: 1\nextra: 1", "extra: unknown field"),
        ("version: 1", "version: 1\nversion: 1", "second time"),
        ("kind: confirm", "kind: number", r"slots\.sure\.kind"),
        ("kind: confirm", "kind: regex", r"slots\.sure: pattern"),
        ("{kind: confirm, ask", "{kind: regex, pattern: '(', ask", "not a regular expression"),
        ("{kind: confirm, ask", "{kind: choice, ask", "choices"),
        ("clarify: 0.4", "clarify: 1.4", r"thresholds\.clarify"),
        ("needs: [reason]", "needs: [reasons]", r"needs\[0\]: no slot 'reasons'"),
        ("{slots.reason}", "{slots.reas}", r"steps\[2\]\.arguments\.reason: no slot 'reas'"),
        ("{slots.reason}", "{slots.reason", "brace"),
        ("{session.request}", "{session.password}", "session has turn"),
        ("{session.reason}", "{results.find_card}", r"escalation\.arguments\.reason: results"),
        ("{results.find_card.card_id}", "{results.freeze_card.x}", "no earlier step"),
        ("when: results.find_card.card_id", "when: results.later", "no earlier step"),
        ("when: results.find_card.card_id", "when: 1 == 1", "not a condition"),
        ("- {prompt: no_such_card}", "- {prompt: n, when: slots.sure}", "last answer"),
        ("refuse: cannot_open_for_minors", "refuse: a, answer: b", "either answer or refuse"),
        ("refuse: cannot_open_for_minors", "refuse: a, needs: [sure]", "no steps and no needs"),
        ("  in_doubt: {escalate: true}\n", "", "no rule for in_doubt"),
        ("in_doubt: {escalate: true}", "in_doubt: {escalate: true, answer: a}", "either answer"),
        ("in_doubt: {escalate: true}", "in_doubt: {}", "either answer"),
        ("in_doubt: {escalate", "unsure: {answer: a}\n  in_doubt: {escalate", "unsure"),
        ("intent: thanks", "intent: thank", "no plan for 'thank'"),
    ],
)
def test_a_mistake_is_one_error_that_names_file_and_field(old, new, message):
    assert old in EXAMPLE
    with pytest.raises(PlannerError, match=message) as caught:
        load_playbook(EXAMPLE.replace(old, new), where="model/playbook.yaml")
    assert str(caught.value).startswith("model/playbook.yaml:")
    assert "\n" not in str(caught.value)


def test_a_rule_cannot_escalate_without_an_escalation():
    with pytest.raises(PlannerError, match=r"on_error\.failed: escalates"):
        load_playbook(MINIMAL.replace("failed: {answer: c}", "failed: {escalate: true}"))


def test_a_tool_the_agent_may_not_call_is_refused():
    with pytest.raises(PlannerError, match=r"steps\[2\]\.tool: .*'freeze_card'"):
        load_playbook(EXAMPLE, tools=["find_card", "escalate", "search_knowledge"])


def test_an_escalation_tool_the_agent_may_not_call_is_refused():
    tools = ["find_card", "freeze_card", "search_knowledge"]
    with pytest.raises(PlannerError, match="'escalate'"):
        load_playbook(EXAMPLE, tools=tools)


def test_a_prompt_that_is_not_listed_is_refused():
    with pytest.raises(PlannerError, match="lists no prompt 'a'"):
        load_playbook(MINIMAL, prompts={"b": [], "c": []})


def test_a_prompt_that_uses_an_unknown_variable_is_refused():
    with pytest.raises(PlannerError, match="'b' uses balance; the planner provides slots"):
        load_playbook(MINIMAL, prompts={"a": ["slots"], "b": ["balance"], "c": []})


def test_every_variable_of_prompts_is_documented():
    described = DOCS.read_text().split("## Variables of prompts")[1]
    assert all(f"`{name}`" in described for name in PROMPT_VARIABLES)


def test_every_field_is_documented():
    from mlflow_agent_plugin.foundation.planner import playbook

    text = DOCS.read_text()
    models = [playbook.Playbook, playbook.Plan, playbook.Step, playbook.Slot, playbook.Thresholds]
    for model in models:
        for name in model.model_fields:
            assert re.search(rf"`[\w.<>\[\]]*{name}\b", text), f"{model.__name__}.{name}"
