"""The support agent's suites: what is expected of it, and the builder that makes scenarios."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluations.support.build_suite import (
    OUTCOMES_FILE,
    SuiteBuilder,
    main,
    write_suite,
)
from mlflow_agent_plugin.errors import SuiteError
from pipelines.data import SMALL_SET, read_labelled

ROOT = Path(__file__).resolve().parents[2]
SUPPORT = ROOT / "agents" / "support"
JOURNEYS = ROOT / "evaluations" / "support" / "journeys.yaml"


@pytest.fixture(scope="module")
def builder():
    return SuiteBuilder.for_agent()


@pytest.fixture
def play(trained_support, tmp_path):
    from mlflow_agent_plugin.development.case import CasePlayer
    from mlflow_agent_plugin.development.suite import DEFAULT_NOW
    from mlflow_agent_plugin.store import Store

    store = Store.open(f"sqlite:///{tmp_path}/evaluation.db")
    player = CasePlayer(trained_support, store=store, suite="s", now=DEFAULT_NOW)
    yield player.play
    player.close()
    store.close()


def test_every_intent_has_an_expectation_and_no_other_has(builder):
    assert set(builder.outcomes.intents) == set(read_labelled(SMALL_SET / "train.csv")["category"])


def test_the_expectations_do_not_read_the_playbook():
    source = (OUTCOMES_FILE.parent / "build_suite.py").read_text(encoding="utf-8")
    assert "playbook" not in source


def test_an_unknown_intent_is_an_error(builder):
    with pytest.raises(SuiteError, match="no expectation for intent 'no_such'"):
        builder.in_scope([("hello", "no_such")])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("articles: [age-limit]", "articles: [age-limits]"), "no help article 'age-limits'"),
        (("{tool: lock_app}", "{tool: lock_apps}"), "no tool 'lock_apps'"),
        (
            ("outcomes: [answered], articles: [age", "outcome: [answered], articles: [age"),
            "outcome",
        ),
        (("told: 'Petrol", "told: '[Petrol"), "regular expression"),
    ],
)
def test_a_mistake_in_the_expectations_is_named(tmp_path, change, told):
    text = OUTCOMES_FILE.read_text(encoding="utf-8")
    assert change[0] in text
    wrong = tmp_path / "outcomes.yaml"
    wrong.write_text(text.replace(*change), encoding="utf-8")
    with pytest.raises(SuiteError, match=told):
        SuiteBuilder.for_agent(SUPPORT, wrong)


def test_every_scenario_can_fail_and_names_only_what_the_agent_has(builder, support):
    from mlflow_agent_plugin.development.suite import Suite, check_suite

    rows = [(f"text of {intent}", intent) for intent in builder.intents]
    scenarios = builder.in_scope(rows) + builder.out_of_scope(["a", "b"])
    check_suite(Suite("s", tuple(scenarios), agent="support"), support)
    assert len({scenario.id for scenario in scenarios}) == 79
    for scenario in scenarios:
        assert scenario.expect.outcomes
        assert scenario.intent in (None, *builder.intents)
        assert (scenario.intent is None) is ("out_of_scope" in scenario.tags)
        assert scenario.expect.intent is None


def test_a_customer_who_is_not_understood_says_it_with_another_query(builder):
    scenarios = builder.in_scope(
        [("one", "age_limit"), ("other", "change_pin"), ("two", "age_limit")]
    )
    assert [scenario.replies[-1].say for scenario in scenarios] == ["two", "other", "one"]


def test_a_variant_applies_only_to_its_texts(builder):
    plain, name = builder.in_scope(
        [
            ("I moved", "edit_personal_details"),
            ("I got married", "edit_personal_details"),
        ]
    )
    assert [call.tool for call in plain.expect.calls_required] == ["change_address"]
    assert name.expect.calls_required == []


def test_writes_nobody_asked_for_fail_every_scenario(builder, support):
    from mlflow_agent_plugin.entities import Effect

    writes = {n for n, c in support.contracts.items() if c.effect is not Effect.READ}
    for intent, handling in builder.outcomes.intents.items():
        (scenario,) = builder.in_scope([("text", intent)])
        expect = scenario.expect
        forbidden = {call.tool for call in expect.calls_forbidden}
        fine = {call.tool for call in expect.calls_required} | set(handling.also_fine)
        if expect.other_writes == "allowed":
            assert forbidden == writes - fine, intent
        else:
            assert forbidden == set(builder.outcomes.never) - fine, intent


def test_the_suite_file_is_read_back_the_same(builder, tmp_path):
    from mlflow_agent_plugin.development.suite import load_suite

    scenarios = builder.in_scope([("a \u2028 'b' \"c\": {d} 🂡", "age_limit"), ("x", "change_pin")])
    assert load_suite(write_suite(scenarios, tmp_path)).scenarios == tuple(scenarios)


def test_the_command_writes_a_suite_from_whatever_data_there_are(tmp_path, monkeypatch, capsys):
    from mlflow_agent_plugin.development.suite import load_suite

    monkeypatch.setenv("MLFLOW_AGENTS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("MLFLOW_AGENTS_DOWNLOAD", "false")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main([str(tmp_path / "suite"), "--limit", "5"]) == 0
    assert "10 scenarios" in capsys.readouterr().out
    assert len(load_suite(tmp_path / "suite")) == 10


def test_the_journeys_fit_the_agent(support):
    from mlflow_agent_plugin.development.suite import check_suite, load_suite

    suite = load_suite(JOURNEYS)
    check_suite(suite, support)
    assert len(suite) >= 12


def test_journeys_that_do_not_hang_on_the_training_data_succeed(play):
    from mlflow_agent_plugin.development.suite import load_suite

    scenarios = {scenario.id: scenario for scenario in load_suite(JOURNEYS).scenarios}
    for case in ("wants-a-person", "closed-account", "address-in-a-description"):
        run = play(scenarios[case])
        assert run.result.success, run.result.failures


def test_an_agent_that_does_nothing_right_fails(builder, play):
    (scenario,) = builder.in_scope([("I want to speak to a human", "lost_or_stolen_card")])
    result = play(scenario).result
    assert not result.success
    assert any("freeze_card was never called" in failure for failure in result.failures)


def test_most_of_the_small_test_set_is_handled_correctly(builder, play):
    frame = read_labelled(SMALL_SET / "test.csv")
    rows = list(zip(frame["text"], frame["category"], strict=True))
    runs = [play(scenario) for scenario in builder.in_scope(rows)[::3]]
    assert sum(run.result.unsafe_calls for run in runs) == 0
    share = sum(run.result.success for run in runs) / len(runs)
    assert share >= 0.7, [run.result.failures for run in runs if not run.result.success]
