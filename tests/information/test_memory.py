"""Which turns a model is shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from mlflow_agent_plugin.information import recent_turns, select_memory
from mlflow_agent_plugin.package.manifest import MemorySpec


def turn(number, *, calls=1):
    ids = [f"{number}-{index}" for index in range(calls)]
    asked = AIMessage("", tool_calls=[{"name": "t", "args": {}, "id": i} for i in ids])
    results = [ToolMessage("r", tool_call_id=i) for i in ids]
    return [HumanMessage(f"q{number}"), asked, *results, AIMessage(f"a{number}")]


def test_no_messages_are_no_turns():
    assert recent_turns([], 3) == []


def test_a_window_below_one_turn_is_an_error():
    with pytest.raises(ValueError, match="at least 1"):
        recent_turns([], 0)


def test_the_last_turns_are_kept_whole():
    messages = turn(1) + turn(2) + turn(3)
    assert recent_turns(messages, 2) == turn(2) + turn(3)
    assert recent_turns(messages, 3) == messages
    assert recent_turns(messages, 9) == messages


def test_system_messages_are_always_kept():
    messages = [SystemMessage("be kind"), *turn(1), *turn(2)]
    assert recent_turns(messages, 1) == [messages[0], *turn(2)]


def test_words_before_the_first_turn_are_kept_only_with_it():
    greeting = AIMessage("Welcome.")
    assert recent_turns([greeting, *turn(1)], 1) == [greeting, *turn(1)]
    assert recent_turns([greeting, *turn(1), *turn(2)], 1) == turn(2)


def test_the_manifest_says_how_much():
    messages = turn(1) + turn(2)
    assert select_memory(messages, MemorySpec(strategy="none")) == turn(2)
    assert select_memory(messages, MemorySpec(window_turns=2)) == messages


@given(st.lists(st.integers(0, 3), max_size=6), st.integers(1, 7))
def test_a_call_is_never_split_from_its_result(sizes, window):
    messages = [m for number, calls in enumerate(sizes) for m in turn(number, calls=calls)]
    kept = recent_turns(messages, window)
    calls = {c["id"] for m in kept if isinstance(m, AIMessage) for c in m.tool_calls}
    results = {m.tool_call_id for m in kept if isinstance(m, ToolMessage)}
    assert calls == results
    assert kept == messages[len(messages) - len(kept) :]
