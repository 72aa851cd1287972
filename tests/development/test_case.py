"""One scenario against an opened agent: real policies, approvals, ledger and audit."""

from __future__ import annotations


def failures(run):
    return run.result.failures


def test_a_scenario_that_goes_as_expected_succeeds(play, scenario):
    run = play(
        scenario(
            "switch it on",
            expect={
                "intent": "switch",
                "outcomes": ["acted"],
                "calls_required": [{"tool": "switch", "arguments": {"lamp": "desk"}}],
                "calls_forbidden": [{"effect": "irreversible"}],
                "end_state": [
                    {"path": "lamps[lamp=desk].state", "equals": "on"},
                    {"path": "lamps[lamp=desk].times", "equals": 1},
                    {"path": "lamps", "count": 2},
                ],
                "reply": {"contains": ["desk lamp"], "not_contains": ["door"], "matches": "on.$"},
                "max_calls": 1,
            },
        )
    )
    assert failures(run) == []
    assert run.result.success
    assert run.result.calls == [
        {"tool": "switch", "arguments": {"lamp": "desk"}, "status": "executed"}
    ]
    assert run.result.steps == 3
    assert run.answer == "The desk lamp is on."


def test_every_check_that_fails_is_named(play, scenario):
    run = play(
        scenario(
            "switch it on",
            expect={
                "intent": "look",
                "outcomes": ["answered"],
                "calls_required": [
                    {"tool": "look"},
                    {"tool": "switch", "arguments": {"lamp": "door"}},
                    {"tool": "switch", "count": 2},
                ],
                "calls_forbidden": [{"effect": "write"}],
                "end_state": [{"path": "lamps[lamp=desk].state", "equals": "off"}],
                "reply": {"contains": ["sorry"]},
                "max_calls": 0,
            },
        )
    )
    assert failures(run) == [
        "intent: switch where look was wanted",
        "outcome: acted where answered was wanted",
        "calls_required: look was never called",
        "calls_required: switch.lamp: 'desk' where equals 'door' was wanted",
        "calls_required: switch fits once, not 2 times",
        "calls_forbidden: switch(lamp='desk') was executed",
        "end_state: lamps[lamp=desk].state: 'on' where equals 'off' was wanted",
        "reply: does not contain 'sorry'",
        "max_calls: 1 is more than 0",
    ]
    assert run.result.unsafe_calls == 1


def test_a_write_nobody_mentioned_fails_the_case_but_is_not_unsafe(play, scenario):
    run = play(scenario("switch it on", expect={"outcomes": ["acted"]}))
    assert failures(run) == [
        "other_writes: switch(lamp='desk') was executed, which nothing asked for"
    ]
    assert run.result.unsafe_calls == 0
    allowed = scenario(
        "switch it on", "again", expect={"outcomes": ["acted"], "other_writes": "allowed"}
    )
    assert failures(play(allowed)) == []


def test_a_forbidden_call_that_policy_stopped_is_no_violation(play, scenario):
    expect = {"outcomes": ["refused"], "calls_forbidden": [{"tool": "switch"}]}
    run = play(scenario("door on", "stopped", expect=expect))
    assert failures(run) == []
    assert run.result.refused
    strict = {
        "outcomes": ["refused"],
        "calls_forbidden": [{"tool": "switch", "even_attempted": True}],
    }
    run = play(scenario("door on", "attempted", expect=strict))
    assert failures(run) == ["calls_forbidden: switch(lamp='door') was attempted"]
    assert run.result.unsafe_calls == 0


def test_an_approval_without_a_scripted_human_stays_waiting(play, scenario):
    expect = {
        "outcomes": ["waiting_approval"],
        "calls_required": [{"tool": "smash", "status": ["waiting_approval"]}],
        "end_state": [{"path": "lamps[lamp=desk].state", "equals": "off"}],
    }
    assert failures(play(scenario("smash it", expect=expect))) == []


def test_a_scripted_human_approves_and_the_call_runs_once(play, scenario):
    run = play(
        scenario(
            "smash it",
            approvals=[{"tool": "smash", "answer": "approve"}],
            expect={
                "outcomes": ["acted"],
                "calls_required": [{"tool": "smash", "count": 1}],
                "end_state": [{"path": "lamps[lamp=desk].state", "equals": "smashed"}],
            },
        )
    )
    assert failures(run) == []
    assert [c["status"] for c in run.result.calls] == ["executed"]
    assert len(run.monitoring) == 1


def test_a_scripted_human_rejects_and_nothing_happens(play, scenario):
    run = play(
        scenario(
            "smash it",
            approvals=[{"answer": "reject", "reason": "too loud"}],
            expect={
                "calls_required": [{"tool": "smash", "status": ["rejected"]}],
                "calls_forbidden": [{"tool": "smash"}],
                "end_state": [{"path": "lamps[lamp=desk].state", "equals": "off"}],
            },
        )
    )
    assert failures(run) == []


def test_a_scripted_human_without_the_role_cannot_approve(play, scenario):
    run = play(
        scenario(
            "smash it",
            approvals=[{"answer": "approve", "role": "janitor"}],
            expect={"outcomes": ["acted"]},
        )
    )
    assert failures(run)[0].startswith("stopped: ApprovalError")
    assert run.result.outcome == "failed"


def test_a_simulated_user_answers_a_question_back(play, scenario):
    run = play(
        scenario(
            "which one",
            replies=[{"when_outcome": "clarified", "say": "the desk one"}],
            expect={"outcomes": ["acted"], "calls_required": [{"tool": "switch"}]},
        )
    )
    assert failures(run) == []
    assert run.result.text == "which one\nthe desk one"
    assert run.result.clarified
    assert [row["trace_id"] for row in run.monitoring] == ["tiny/case/0", "tiny/case/1"]


def test_a_conversation_that_never_ends_is_a_failed_case(play, scenario):
    run = play(
        scenario(
            "ask me",
            replies=[{"when_outcome": "clarified", "say": "hm?", "times": 20}],
            max_turns=5,
            expect={"outcomes": ["answered"]},
        )
    )
    assert failures(run)[0] == (
        "stopped: AgentError: the conversation went on after 5 messages of the user"
    )


def test_an_agent_that_never_ends_runs_into_its_step_limit(play, scenario):
    run = play(scenario("loop for ever"))
    assert run.result.outcome == "failed"
    assert failures(run)[0] == "outcome: failed where answered was wanted"


def test_two_turns_that_use_one_call_id_count_as_two_calls(play, scenario):
    run = play(
        scenario(
            ["twice", "again"],
            expect={
                "calls_required": [
                    {"tool": "look", "arguments": {"lamp": "desk"}},
                    {"tool": "look", "arguments": {"lamp": "door"}},
                ],
                "in_order": True,
                "max_calls": 2,
            },
        )
    )
    assert failures(run) == []
    assert len(run.result.calls) == 2


def test_calls_in_the_wrong_order_fail_when_order_counts(play, scenario):
    required = [
        {"tool": "look", "arguments": {"lamp": "door"}},
        {"tool": "look", "arguments": {"lamp": "desk"}},
    ]
    run = play(scenario(["twice", "again"], expect={"calls_required": required, "in_order": True}))
    assert failures(run) == ["calls_required: look came too early"]
    run = play(scenario(["twice", "again"], "any", expect={"calls_required": required}))
    assert failures(run) == []


def test_each_scenario_has_a_world_of_its_own(play, scenario):
    expect = {"outcomes": ["acted"], "calls_required": [{"tool": "switch"}]}
    play(scenario("switch it on", "first", expect=expect))
    untouched = {"end_state": [{"path": "lamps[lamp=desk].state", "equals": "off"}]}
    assert failures(play(scenario("look", "second", expect=untouched))) == []


def test_the_world_setting_reaches_the_resources_factory(play, scenario):
    expect = {"end_state": [{"path": "lamps", "count": 1}]}
    assert failures(play(scenario("look", world={"lamps": ["desk"]}, expect=expect))) == []


def test_a_world_that_does_not_open_is_a_failed_case(play, scenario):
    run = play(scenario("look", "broken", world={"broken": True}))
    assert "the room does not open" in failures(run)[0]
    run = play(scenario("look", "misspelt", world={"lamp": 1}))
    assert "unknown setting ['lamp']" in failures(run)[0]
    assert run.result.outcome == "failed"


def test_a_message_the_agent_does_not_accept_is_a_failed_case(play, scenario):
    run = play(scenario(" ", "empty"))
    assert failures(run)[0] == "stopped: RequestError: the message is empty"
    run = play(scenario("x" * 20_000, "long"))
    assert failures(run)[0].startswith("stopped: RequestError: the message has 20000 characters")


def test_recorded_answers_stand_in_for_the_tool(play, scenario):
    recorded = [
        {"tool": "look", "arguments": {"lamp": "desk"}, "output": {"lamp": "desk", "state": "blue"}}
    ]
    run = play(scenario("look", simulated=recorded, expect={"calls_required": [{"tool": "look"}]}))
    assert failures(run) == []
    recorded[0]["arguments"] = {"lamp": "door"}
    expect = {"calls_required": [{"tool": "look", "status": ["failed"]}]}
    assert failures(play(scenario("look", "unfit", simulated=recorded, expect=expect))) == []


def test_the_same_scenario_twice_gives_the_same_result(play, scenario):
    case = scenario("smash it", approvals=[{"answer": "approve"}], expect={"outcomes": ["acted"]})
    assert play(case).result == play(case.model_copy(update={"id": "other"})).result.model_copy(
        update={"case_id": "case"}
    )


def test_a_case_run_survives_its_way_through_json(play, scenario):
    import json

    from mlflow_agent_plugin.development.case import CaseRun

    run = play(scenario("look"))
    assert CaseRun.from_dict(json.loads(json.dumps(run.to_dict()))) == run


def model_user(*says, **more):
    # The scripted model answers by how often "it" has spoken; the scenario's first turn counts.
    replies = [{"text": text} for text in ("(first turn)", *says)]
    model = {"provider": "scripted", "name": "user", "settings": {"replies": replies}}
    return {"goal": "have the desk lamp on", "model": model, **more}


def test_a_chat_model_can_play_the_user_until_it_is_done(play, scenario):
    run = play(
        scenario(
            "which one",
            model_user=model_user("the desk one", "DONE"),
            expect={"outcomes": ["acted"], "calls_required": [{"tool": "switch"}]},
        )
    )
    assert failures(run) == []
    assert run.result.text == "which one\nthe desk one"


def test_a_chat_model_that_never_stops_is_stopped(play, scenario):
    talk = ["hm?"] * 50
    quiet = scenario(
        "ask me", model_user=model_user(*talk, max_messages=3), expect={"max_calls": 0}
    )
    assert play(quiet).result.text == "ask me\nhm?\nhm?\nhm?"
    endless = scenario(
        "ask me", "endless", model_user=model_user(*talk, max_messages=50), max_turns=4
    )
    assert failures(play(endless))[0].endswith("went on after 4 messages of the user")


def test_a_user_model_that_fails_is_a_failed_case(play, scenario):
    run = play(scenario("which one", model_user=model_user()))
    assert failures(run)[0].startswith("stopped: ConfigError: the script has 1 replies")
