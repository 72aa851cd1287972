"""Applies an agent's privacy rules where texts leave the usual way: passages and streamed answers.

Rules:
- A passage is screened before a graph node or a tool gets it.
- Pieces of an answer are shown as they come only if no rule could change the answer. A piece that
  ends in what may be the beginning of a token waits for the rest of it.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING

from mlflow_agent_plugin.core.runtime.steps import TextDelta
from mlflow_agent_plugin.core.turn import CURRENT_TURN

if TYPE_CHECKING:
    from mlflow_agent_plugin.entities import AgentReply
    from mlflow_agent_plugin.information import KnowledgeIndex
    from mlflow_agent_plugin.trust import PrivacyFilter

_LONGEST_TOKEN = 80


def screened(knowledge: KnowledgeIndex | None, privacy: PrivacyFilter) -> KnowledgeIndex | None:
    """Return `knowledge` whose passages pass the agent's rules."""
    if knowledge is None or not privacy.screens_passages:
        return knowledge

    def screen(text: str) -> str:
        turn = CURRENT_TURN.get()
        return privacy.retrieved(text, session_id="" if turn is None else turn.session_id)

    return replace(knowledge, screen=screen)


def private_deltas(
    events: Generator[TextDelta, None, AgentReply], privacy: PrivacyFilter, *, session_id: str
) -> Generator[TextDelta, None, AgentReply]:
    """Yield what the user may see of each piece; return the reply."""
    held = TextDelta(text="", message_id="")
    while True:
        try:
            piece = next(events)
        except StopIteration as end:
            if held.text:
                yield replace(held, text=privacy.answer(held.text, session_id=session_id))
            reply: AgentReply = end.value
            return reply
        if not privacy.answers_stream:
            continue
        if held.text and held.message_id != piece.message_id:
            yield replace(held, text=privacy.answer(held.text, session_id=session_id))
            held = replace(held, text="")
        text = held.text + piece.text
        start = text.rfind("<")
        whole = start == -1 or ">" in text[start:] or len(text) - start > _LONGEST_TOKEN
        ready, rest = (text, "") if whole else (text[:start], text[start:])
        held = replace(piece, text=rest)
        if ready:
            yield replace(piece, text=privacy.answer(ready, session_id=session_id))
