"""The local planner in conversation: a chat model like any other."""

import json
import subprocess
import sys

import pytest
from langchain_core.load import dumpd
from langchain_core.messages import (
    AIMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    messages_from_dict,
    messages_to_dict,
)

from mlflow_agent_plugin.errors import PlannerError
from mlflow_agent_plugin.foundation import build_chat_model

ONE_CARD = {"find_card": {"matches": 1, "card_id": "c1"}, "freeze_card": {"card_id": "c1"}}


def two_cards(last4=None):
    return {"matches": 1, "card_id": f"c-{last4}"} if last4 else {"matches": 2}


def error(kind, message="it broke"):
    return {"error": {"kind": kind, "message": message}}


# --- Understanding --------------------------------------------------------------------------------


def test_a_clear_request_runs_its_plan_and_answers_with_the_results(talk):
    desk = talk(**ONE_CARD)
    reply = desk.say("My card was stolen!")
    assert desk.calls == [("find_card", {}), ("freeze_card", {"card_id": "c1"})]
    assert reply.text == "Card c1 is frozen."


def test_every_reply_says_what_was_understood_and_how_sure_that_is(talk):
    desk = talk(**ONE_CARD)
    desk.say("My card was stolen!")
    for message in desk.messages:
        if isinstance(message, AIMessage):
            metadata = message.response_metadata
            assert metadata["intent"] == "stolen_card"
            assert 0.4 < metadata["confidence"] <= 1
            assert metadata["alternatives"][0]["intent"] == "stolen_card"
            assert metadata["outcome"] is None
            assert metadata["model_name"] == "desk"


def test_an_unclear_message_is_asked_back_with_the_best_guesses_in_words(talk):
    desk = talk()
    reply = desk.say("mumble mumble")
    assert reply.response_metadata["outcome"] == "clarified"
    assert reply.text.startswith("Did you mean ")
    assert reply.text.count(" or ") == 1
    assert desk.calls == []


def test_an_offered_guess_can_be_picked_and_starts_its_plan(talk):
    desk = talk(**ONE_CARD)
    offered = desk.say("mumble mumble").additional_kwargs["local_planner"]["pending"]["options"]
    desk.say("the second one")
    assert desk.messages[-1].response_metadata["intent"] == offered[1]


def test_two_unclear_messages_in_a_row_go_to_a_human(talk):
    desk = talk(escalate={"ticket": 1})
    desk.say("mumble mumble")
    reply = desk.say("blah blah blah")
    assert [name for name, _ in desk.calls] == ["escalate"]
    assert desk.calls[0][1]["reason"] == "low_confidence"
    assert reply.text == "A colleague takes over (low_confidence)."
    assert reply.response_metadata["outcome"] == "escalated"


def test_a_clear_message_in_between_starts_the_count_again(talk):
    desk = talk(escalate={"ticket": 1}, **ONE_CARD)
    for text in ("mumble mumble", "my card was stolen", "mumble mumble"):
        desk.say(text)
    assert "escalate" not in [name for name, _ in desk.calls]


def test_an_intent_can_ask_for_more_confidence_than_others(make_desk, schemas):
    title = "title: a lost or stolen card"
    bundle = make_desk(edit=lambda text: text.replace(title, f"{title}\n    min_confidence: 1.0"))
    model = build_chat_model(bundle.manifest.model, bundle).bind_tools(schemas())
    assert model.invoke("my card was stolen").response_metadata["outcome"] == "clarified"


def test_a_small_lead_over_the_second_guess_is_asked_back(make_desk, schemas):
    bundle = make_desk(edit=lambda text: text.replace("clarify: 0.4", "clarify: 0, margin: 1"))
    model = build_chat_model(bundle.manifest.model, bundle).bind_tools(schemas())
    assert model.invoke("my card was stolen").response_metadata["outcome"] == "clarified"


def test_an_intent_without_a_plan_takes_the_fallback(talk):
    desk = talk(search={"passages": [{"chunk_id": "hours#a/1", "text": "From nine to five."}]})
    reply = desk.say("what are your opening hours")
    assert desk.calls == [("search", {"query": "what are your opening hours"})]
    assert reply.text == "From nine to five."
    assert reply.response_metadata["retrieved"] == ["hours#a/1"]


def test_a_plan_may_refuse(talk):
    reply = talk().say("can my child have an account")
    assert (reply.text, reply.response_metadata["outcome"]) == ("Adults only.", "refused")


def test_a_shortcut_wins_over_the_model(talk):
    desk = talk(escalate={"ticket": 1})
    reply = desk.say("my card was stolen, let me TALK to a human")
    assert desk.calls == [("escalate", {"summary": "my card was stolen, let me TALK to a human"})]
    assert reply.response_metadata["confidence"] == 1.0


def test_an_empty_message_is_asked_back(talk):
    assert talk().say("").response_metadata["outcome"] == "clarified"


def test_template_code_in_a_message_is_only_text(talk):
    desk = talk(escalate={"ticket": 1})
    desk.say("talk to a human {{ 7 * 7 }} {slots.sure} {session.turn}")
    assert desk.calls[0][1]["summary"].endswith("{{ 7 * 7 }} {slots.sure} {session.turn}")


# --- Slots over several turns ---------------------------------------------------------------------


def test_a_step_asks_for_what_it_needs_and_goes_on_in_the_next_turn(talk):
    desk = talk(find_card=two_cards, freeze_card={"card_id": "c-1234"})
    question = desk.say("my card was stolen")
    assert question.text == "Which card? Its last four digits, please."
    assert question.response_metadata["outcome"] == "clarified"
    assert desk.say("1234").text == "Card c-1234 is frozen."
    assert desk.calls == [
        ("find_card", {}),
        ("find_card", {"last4": "1234"}),
        ("freeze_card", {"card_id": "c-1234"}),
    ]


def test_a_value_named_at_once_is_not_asked_for(talk):
    desk = talk(find_card=two_cards, freeze_card={"card_id": "c-1234"})
    desk.say("my card ending in 1234 was stolen")
    assert desk.calls[0] == ("find_card", {"last4": "1234"})


def test_a_remembered_value_serves_later_tasks_and_others_are_forgotten(talk):
    desk = talk(find_card=two_cards, freeze_card={"card_id": "x"}, refund={})
    desk.say("I want a refund of £5 for card 1234")
    assert desk.calls.pop() == (
        "refund",
        {"amount_minor": 500, "note": "asked: I want a refund of £5 for card 1234"},
    )
    desk.say("my card was stolen")
    assert desk.calls[0] == ("find_card", {"last4": "1234"})
    assert desk.say("give me a refund").text == "How much?"


def test_an_answer_that_is_none_is_asked_again_and_then_goes_to_a_human(talk):
    desk = talk(escalate={"ticket": 1})
    desk.say("I want a refund")
    assert desk.say("hmm").text == "How much?"
    assert desk.say("hmm").response_metadata["outcome"] == "escalated"


def test_a_clear_new_request_instead_of_an_answer_is_a_new_task(talk):
    desk = talk(**ONE_CARD)
    desk.say("I want a refund")
    assert desk.say("my card was stolen, freeze it").text == "Card c1 is frozen."


def test_no_thanks_answers_a_question_although_it_is_also_a_shortcut(talk):
    desk = talk()
    desk.say("close my account")
    assert desk.say("no thanks").text == "Why do you leave?"
    assert desk.say("just asking").text == "Still open."
    assert desk.calls == []


def test_needs_are_asked_in_order_before_the_first_step(talk):
    desk = talk(close_account={"done": True})
    assert desk.say("close my account").text == "Are you sure?"
    assert desk.say("yes").text == "Why do you leave?"
    assert desk.say("too expensive").text == "Closed."
    assert desk.calls == [("close_account", {"reason": "too expensive"})]


def test_asking_for_a_human_is_heard_even_where_any_text_is_an_answer(talk):
    desk = talk(escalate={"ticket": 1})
    desk.say("close my account")
    desk.say("yes")
    desk.say("I would rather talk to a human")
    assert [name for name, _ in desk.calls] == ["escalate"]


# --- Calls that do not run ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["denied", "rejected"])
def test_a_denied_or_rejected_call_is_a_refusal(talk, kind):
    reply = talk(find_card=error(kind)).say("my card was stolen")
    assert (reply.text, reply.response_metadata["outcome"]) == ("That is not allowed.", "refused")


@pytest.mark.parametrize("kind", ["invalid", "failed", "in_doubt", "of another kind"])
def test_any_other_failure_goes_to_a_human_if_the_playbook_says_so(talk, kind):
    desk = talk(find_card=error(kind), escalate={"ticket": 1})
    reply = desk.say("my card was stolen")
    assert desk.calls[-1][1]["reason"] == "tool_failure"
    assert reply.response_metadata["outcome"] == "escalated"


def test_a_plan_may_answer_its_errors_itself(talk):
    reply = talk(refund=error("failed", "no such payment")).say("refund me £5")
    assert reply.text == "That failed: no such payment"
    assert reply.response_metadata["outcome"] == "failed"


def test_a_hand_over_that_fails_is_said_and_ends_the_turn(talk):
    desk = talk(find_card=error("failed"), escalate=error("failed"))
    reply = desk.say("my card was stolen")
    assert [name for name, _ in desk.calls] == ["find_card", "escalate"]
    assert (reply.text, reply.response_metadata["outcome"]) == ("Nobody is there.", "failed")


def test_an_optional_step_may_fail(talk):
    reply = talk(search=error("failed")).say("what are your opening hours")
    assert reply.text == "I do not know."


def test_an_error_that_is_no_json_is_a_failure(talk):
    desk = talk(escalate={"ticket": 1})
    desk.messages.append(HumanMessage("my card was stolen"))
    call = desk.model.invoke(desk.messages)
    desk.messages += [
        call,
        ToolMessage("boom", tool_call_id=call.tool_calls[0]["id"], status="error"),
    ]
    assert desk.go_on().response_metadata["outcome"] == "escalated"


def test_a_result_without_its_call_is_never_acted_on(talk):
    desk = talk(escalate={"ticket": 1})
    desk.messages += [HumanMessage("hi"), ToolMessage('{"card_id": "c9"}', tool_call_id="x")]
    desk.go_on()
    assert [name for name, _ in desk.calls] == ["escalate"]


def test_a_user_who_goes_on_while_a_call_waits_is_heard_afresh(talk):
    desk = talk(**ONE_CARD)
    desk.messages.append(HumanMessage("close my account"))
    desk.messages.append(desk.model.invoke(desk.messages))
    desk.messages.append(HumanMessage("my card was stolen"))
    desk.messages.append(desk.model.invoke(desk.messages))
    assert desk.messages[-1].tool_calls[0]["name"] == "find_card"
    desk.messages.append(HumanMessage("what are your opening hours"))
    assert desk.model.invoke(desk.messages).tool_calls[0]["name"] == "search"


# --- A chat model ---------------------------------------------------------------------------------


def test_nothing_is_kept_between_calls(talk, desk, schemas):
    first = talk(find_card=two_cards, freeze_card={"card_id": "c-1234"})
    first.say("my card was stolen")
    stored = json.loads(json.dumps(messages_to_dict(first.messages)))
    second = talk(find_card=two_cards, freeze_card={"card_id": "c-1234"})
    second.messages = messages_from_dict(stored)
    assert second.say("1234").text == "Card c-1234 is frozen."


def test_another_process_goes_on_where_this_one_stopped(talk, desk_dir, tmp_path):
    first = talk(find_card=two_cards)
    first.say("my card was stolen")
    first.messages.append(HumanMessage("1234"))
    (tmp_path / "messages.json").write_text(json.dumps(messages_to_dict(first.messages)))
    code = f"""
import json
from langchain_core.messages import messages_from_dict
from mlflow_agent_plugin.foundation import build_chat_model
from mlflow_agent_plugin.package import load_bundle
bundle = load_bundle({str(desk_dir)!r})
tool = {{"type": "function", "function": {{"name": "find_card", "parameters": {{}}}}}}
model = build_chat_model(bundle.manifest.model, bundle).bind_tools([tool])
messages = messages_from_dict(json.load(open({str(tmp_path / "messages.json")!r})))
print(json.dumps(model.invoke(messages).tool_calls[0]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    call = json.loads(done.stdout)
    assert (call["name"], call["args"]) == ("find_card", {"last4": "1234"})
    assert call["id"] == first.model.invoke(first.messages).tool_calls[0]["id"]


def test_state_of_another_shape_is_no_state(talk):
    desk = talk(**ONE_CARD)
    for state in ("x", {"turn": "many"}, {"surprise": 1}, None, {"pending": {"kind": "call"}}):
        message = AIMessage("hello", additional_kwargs={"local_planner": state})
        desk.messages = [HumanMessage("hi"), message]
        assert desk.say("my card was stolen").text == "Card c1 is frozen."


def test_call_ids_are_unique_in_a_session_and_the_same_when_a_reply_is_made_again(talk):
    desk = talk(**ONE_CARD)
    for _ in range(3):
        desk.say("my card was stolen")
    ids = [call["id"] for m in desk.messages if isinstance(m, AIMessage) for call in m.tool_calls]
    assert len(ids) == len(set(ids)) == 6
    assert desk.model.invoke(desk.messages[:1]).tool_calls[0]["id"] == ids[0]


def test_ids_stay_unique_when_old_turns_are_cut_off(talk):
    desk = talk(**ONE_CARD)
    desk.say("my card was stolen")
    seen = {call["id"] for m in desk.messages if isinstance(m, AIMessage) for call in m.tool_calls}
    desk.messages = desk.messages[-1:]
    desk.say("my card was stolen")
    later = [call["id"] for m in desk.messages if isinstance(m, AIMessage) for call in m.tool_calls]
    assert seen.isdisjoint(later)


def test_turns_are_counted_past_the_window(talk):
    desk = talk()
    for text in ("thanks", "thanks"):
        desk.say(text)
    desk.messages = desk.messages[-1:]
    assert desk.say("thanks").additional_kwargs["local_planner"]["turn"] == 3


def test_system_messages_do_not_change_the_plan(talk):
    desk = talk(**ONE_CARD)
    desk.messages.append(SystemMessage("You are a desk."))
    assert desk.say("my card was stolen").text == "Card c1 is frozen."


def test_tokens_are_counted_in_and_out(talk):
    desk = talk(**ONE_CARD)
    reply = desk.say("my card was stolen")
    usage = reply.usage_metadata
    assert usage["output_tokens"] == 5
    assert usage["input_tokens"] > 4
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_a_stream_adds_up_to_the_reply(desk, schemas):
    model = build_chat_model(desk.manifest.model, desk).bind_tools(schemas())
    for text in ("thanks", "my card was stolen"):
        whole = model.invoke(text)
        chunks = list(model.stream(text))
        total = chunks[0]
        for chunk in chunks[1:]:
            total += chunk
        assert total.text == whole.text
        assert [(c["name"], c["args"], c["id"]) for c in total.tool_calls] == [
            (c["name"], c["args"], c["id"]) for c in whole.tool_calls
        ]
        assert total.additional_kwargs == whole.additional_kwargs
        assert total.usage_metadata == whole.usage_metadata
        assert total.response_metadata.items() >= whole.response_metadata.items()
    assert len(list(model.stream("thanks"))) > 3


def test_a_model_that_is_not_bound_to_a_tool_never_calls_it(desk, schemas):
    model = build_chat_model(desk.manifest.model, desk)
    with pytest.raises(PlannerError, match=r"not bound to it.*bind_tools"):
        model.invoke("my card was stolen")
    with pytest.raises(PlannerError, match="'find_card'"):
        model.bind_tools(schemas(["escalate"])).invoke("my card was stolen")


def test_a_conversation_without_a_message_is_an_error(desk):
    with pytest.raises(PlannerError, match="no message"):
        build_chat_model(desk.manifest.model, desk).invoke([SystemMessage("hello")])


def test_its_repr_and_serialised_form_hold_no_content_of_the_bundle(desk):
    model = build_chat_model(desk.manifest.model, desk)
    assert "Adults only" not in repr(model)
    assert "Adults only" not in json.dumps(dumpd(model), default=str)


# --- In a graph -----------------------------------------------------------------------------------


def test_it_drives_an_agent_of_langchain_and_resumes_from_sqlite(desk, tmp_path):
    from langchain.agents import create_agent
    from langchain_core.tools import StructuredTool
    from langgraph.checkpoint.sqlite import SqliteSaver

    def tool(name, answer):
        return StructuredTool(
            name=name,
            description=name,
            args_schema={"type": "object", "properties": {"last4": {"type": "string"}}},
            func=lambda **arguments: json.dumps(answer(**arguments)),
        )

    tools = [tool("find_card", two_cards), tool("freeze_card", lambda **_: {"card_id": "c-1234"})]
    config = {"configurable": {"thread_id": "1"}}
    replies = []
    for text in ("my card was stolen", "1234"):
        with SqliteSaver.from_conn_string(str(tmp_path / "sessions.db")) as saver:
            model = build_chat_model(desk.manifest.model, desk)
            agent = create_agent(model, tools, checkpointer=saver, system_prompt="Be kind.")
            state = agent.invoke({"messages": [HumanMessage(text)]}, config)
            replies.append(state["messages"][-1].text)
    assert replies == ["Which card? Its last four digits, please.", "Card c-1234 is frozen."]
