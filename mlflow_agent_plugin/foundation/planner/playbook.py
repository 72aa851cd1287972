"""The playbook: what the local planner does for each intent.

Rules:
- This module holds the shape of the file; `load_playbook` is the only reader, and refuses what does
  not fit together: unknown slots, results of later steps, tools or prompts the agent lacks.
- A playbook only proposes calls. Whether one runs is decided by the policies, in the tool gateway.
- Every way through a plan ends: steps are taken in order, each at most once.

The format is described in docs/reference/playbook.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    model_validator,
)

from mlflow_agent_plugin.entities import Outcome
from mlflow_agent_plugin.foundation.planner.expressions import Condition
from mlflow_agent_plugin.package.manifest import Name, StrictModel

PLAYBOOK_FILE = "playbook.yaml"
"""Name of the playbook below the model's path."""

OUT_OF_SCOPE = "out_of_scope"
"""Label of examples that belong to no intent."""

PROMPT_VARIABLES = (
    "slots",
    "results",
    "passages",
    "text",
    "request",
    "intent",
    "confidence",
    "alternatives",
    "error",
    "reason",
    "turn",
)
"""What a prompt named by a playbook may use (docs/reference/playbook.md says what each holds)."""

ERROR_KINDS = ("denied", "rejected", "invalid", "failed", "in_doubt")
"""Ways a tool call can end without a result, as the tool gateway names them."""

ErrorKind = Literal["denied", "rejected", "invalid", "failed", "in_doubt"]


def _conditions(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _answers(value: Any) -> Any:
    return [{"prompt": value}] if isinstance(value, str) else value


def _condition(text: str) -> str:
    Condition.parse(text)
    return text


When = Annotated[list[Annotated[str, AfterValidator(_condition)]], BeforeValidator(_conditions)]
"""One condition or a list of them."""
Phrase = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Intent = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class Thresholds(StrictModel):
    """When the planner asks back instead of acting."""

    clarify: float = Field(default=0.4, ge=0, le=1, description="Lowest confidence to act on")
    margin: float = Field(
        default=0.0, ge=0, le=1, description="Lowest lead of the best intent over the second"
    )
    escalate_after: int = Field(
        default=2, ge=1, le=10, description="Turns in a row without understanding, then a human"
    )


class Slot(StrictModel):
    """A value the planner finds in what the user says.

    Attributes:
        kind: amount (integer minor units), date (YYYY-MM-DD), card_last4 (four digits), currency
            (ISO 4217), country (ISO 3166 alpha-2), choice (one of `choices`), regex (`pattern`),
            text (the whole message), confirm (true or false). text and confirm are only taken from
            the message that answers their question.
        ask: Prompt that asks for it.
        pattern: kind regex: what to look for; the first group, if there is one, is the value.
        choices: kind choice: value to the words that mean it (the value itself always does).
        remember: Keep the value for later tasks of the session.
    """

    kind: Literal[
        "amount",
        "date",
        "card_last4",
        "currency",
        "country",
        "choice",
        "regex",
        "text",
        "confirm",
    ]
    ask: Name
    pattern: str | None = Field(default=None, min_length=1)
    choices: dict[str, list[Phrase]] | None = Field(default=None, min_length=1)
    remember: bool = False

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Slot:
        if (self.kind == "regex") is not (self.pattern is not None):
            raise ValueError("pattern belongs to kind regex, and regex needs one")
        if (self.kind == "choice") is not (self.choices is not None):
            raise ValueError("choices belong to kind choice, and choice needs them")
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                raise ValueError(f"pattern is not a regular expression: {error}") from error
        return self


class Step(StrictModel):
    """One tool call of a plan.

    Attributes:
        tool: Contract name.
        arguments: JSON values; strings may hold placeholders.
        when: Conditions that must all hold, else the step is skipped.
        needs: Slots to ask for before this step (if it is not skipped).
        result: Name its output gets below ``results``; default the tool's name.
        optional: Go on without a result when the call fails or is denied.
    """

    tool: Name
    arguments: dict[str, Any] = Field(default_factory=dict)
    when: When = Field(default_factory=list)
    needs: list[Name] = Field(default_factory=list)
    result: Name | None = None
    optional: bool = False

    @property
    def result_name(self) -> str:
        """Where the output is found below ``results``."""
        return self.result or self.tool

    def conditions(self) -> list[Condition]:
        """Return the parsed conditions."""
        return [Condition.parse(text) for text in self.when]


class Answer(StrictModel):
    """One possible answer of a plan: the first whose conditions hold is given."""

    prompt: Name
    when: When = Field(default_factory=list)
    outcome: Outcome | None = None

    def conditions(self) -> list[Condition]:
        """Return the parsed conditions."""
        return [Condition.parse(text) for text in self.when]


Answers = Annotated[list[Answer], BeforeValidator(_answers)]
"""A prompt, or answers with conditions."""


class ErrorRule(StrictModel):
    """What to do when a call of the plan does not run: answer, or hand over to a human."""

    answer: Name | None = None
    escalate: bool = False
    outcome: Outcome | None = None

    @model_validator(mode="after")
    def _does_one_thing(self) -> ErrorRule:
        if (self.answer is None) is not self.escalate:
            raise ValueError("needs either answer or escalate: true")
        return self


class Plan(StrictModel):
    """What to do for an intent: ask for `needs`, take `steps` in order, give `answer`.

    Attributes:
        title: The intent in words, as offered to the user; default: the label with spaces.
        answer: A prompt, or answers with conditions of which the first that holds is given.
        refuse: Prompt of a refusal; such a plan has no steps and no answer.
        outcome: Overrides how the turn counts; default: the runtime decides by what was done.
        min_confidence: Overrides ``thresholds.clarify`` for this intent.
        on_error: Overrides the playbook's rules by kind of error.
    """

    title: str | None = Field(default=None, min_length=1)
    needs: list[Name] = Field(default_factory=list)
    steps: list[Step] = Field(default_factory=list)
    answer: Answers | None = None
    refuse: Name | None = None
    outcome: Outcome | None = None
    min_confidence: float | None = Field(default=None, ge=0, le=1)
    on_error: dict[ErrorKind, ErrorRule] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _ends_in_words(self) -> Plan:
        if (self.answer is None) is (self.refuse is None):
            raise ValueError("needs either answer or refuse")
        if self.refuse is not None and (self.steps or self.needs):
            raise ValueError("a plan that refuses has no steps and no needs")
        if self.answer is not None and (not self.answer or self.answer[-1].when):
            raise ValueError("the last answer must have no condition, so that there always is one")
        return self

    def answers(self) -> list[Answer]:
        """Return the possible answers in order; the last has no condition."""
        if self.refuse is not None:
            return [Answer(prompt=self.refuse, outcome=self.outcome or Outcome.REFUSED)]
        return [
            answer
            if answer.outcome is not None
            else answer.model_copy(update={"outcome": self.outcome})
            for answer in self.answer or []
        ]


class LowConfidence(StrictModel):
    """How to ask back."""

    answer: Name
    offer: int = Field(default=3, ge=1, le=10, description="How many intents to offer at most")


class Escalation(StrictModel):
    """How to hand over to a human: one call, then one of two answers."""

    tool: Name
    arguments: dict[str, Any] = Field(default_factory=dict)
    answer: Name
    failed: Name = Field(description="Prompt if the hand-over itself did not work")


class Shortcut(StrictModel):
    """Words that name an intent by themselves, whatever the model thinks.

    Attributes:
        phrases: Matched word by word, upper and lower case alike.
        whole_message: The message must be the phrase and nothing else.
    """

    phrases: list[Phrase] = Field(min_length=1)
    intent: Intent
    whole_message: bool = False


class Playbook(StrictModel):
    """The whole of ``playbook.yaml``."""

    version: Literal[1]
    thresholds: Thresholds = Thresholds()
    slots: dict[Name, Slot] = Field(default_factory=dict)
    shortcuts: list[Shortcut] = Field(default_factory=list)
    intents: dict[Intent, Plan] = Field(default_factory=dict)
    fallback: Plan
    low_confidence: LowConfidence
    escalation: Escalation | None = None
    on_error: dict[ErrorKind, ErrorRule]

    def plans(self) -> Iterator[tuple[tuple[str, ...], Plan]]:
        """Yield every plan with its place in the file."""
        for intent, plan in self.intents.items():
            yield ("intents", intent), plan
        yield ("fallback",), self.fallback

    def plan_for(self, intent: str) -> Plan:
        """Return the plan of `intent`, or the fallback."""
        return self.intents.get(intent, self.fallback)

    def title_of(self, intent: str) -> str:
        """Return the intent in words."""
        plan = self.intents.get(intent)
        if plan is not None and plan.title is not None:
            return plan.title
        return intent.replace("_", " ").strip(" ?").lower()
