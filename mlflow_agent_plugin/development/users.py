"""Who speaks next on the user's side: scripted replies, scripted turns, then a chat model.

Rules:
- A reply whose condition fits the agent's answer comes first, then the next scripted turn, then the
  model, if the scenario has one. When nobody has anything to say the conversation is over.
- A conversation that is still going on after `max_turns` messages is an error, not a long one.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.development.scenario import ModelUser, Scenario
from mlflow_agent_plugin.entities import AgentReply
from mlflow_agent_plugin.errors import AgentError

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    from mlflow_agent_plugin.package import Bundle

DONE = "DONE"
INSTRUCTIONS = f"""You play a person who writes to an assistant. Stay in that role.
Your goal: {{goal}}
{{persona}}Write only your next message, in plain words, at most three sentences.
When your goal is reached, or it is clear that it cannot be, answer exactly {DONE}."""


class SimulatedUser:
    """The user of one running scenario.

    Args:
        scenario: The scenario.
        bundle: The agent, whose folder a local model of the user would be in.
    """

    def __init__(self, scenario: Scenario, bundle: Bundle) -> None:
        self._scenario = scenario
        self._bundle = bundle
        self._turns = iter(scenario.turns)
        self._used: Counter[int] = Counter()
        self._said = 0
        self._model: BaseChatModel | None = None
        self._heard: list[tuple[str, str]] = []

    def first(self) -> str:
        """Return the first message."""
        return self._say(next(self._turns).user)

    def next(self, reply: AgentReply) -> str | None:
        """Return the answer to `reply`, None if the user has nothing more to say.

        Raises:
            AgentError: The conversation does not come to an end.
        """
        self._heard.append(("agent", reply.text))
        text = self._scripted_reply(reply)
        if text is None:
            turn = next(self._turns, None)
            text = None if turn is None else turn.user
        if text is None and self._scenario.model_user is not None:
            text = self._ask_model(self._scenario.model_user)
        if text is not None and self._said >= self._scenario.max_turns:
            raise AgentError(f"the conversation went on after {self._said} messages of the user")
        return None if text is None else self._say(text)

    def _say(self, text: str) -> str:
        self._said += 1
        self._heard.append(("user", text))
        return text

    def _scripted_reply(self, reply: AgentReply) -> str | None:
        for at, rule in enumerate(self._scenario.replies):
            if self._used[at] >= rule.times:
                continue
            if rule.when_outcome is not None and rule.when_outcome is not reply.outcome:
                continue
            wanted = rule.when_text_contains
            if wanted is not None and wanted.casefold() not in reply.text.casefold():
                continue
            self._used[at] += 1
            return rule.say
        return None

    def _ask_model(self, user: ModelUser) -> str | None:
        from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

        if self._used[-1] >= user.max_messages:
            return None
        if self._model is None:
            from mlflow_agent_plugin.foundation import build_chat_model

            self._model = build_chat_model(user.model, self._bundle)
        persona = "" if user.persona is None else f"You are: {user.persona}\n"
        messages: list[Any] = [
            SystemMessage(INSTRUCTIONS.format(goal=user.goal, persona=persona)),
            # The roles are turned round: what the agent said is what this model hears.
            *(
                HumanMessage(text) if speaker == "agent" else AIMessage(text)
                for speaker, text in self._heard
            ),
        ]
        text = self._model.invoke(messages).text.strip()
        self._used[-1] += 1
        return None if not text or text == DONE else text
