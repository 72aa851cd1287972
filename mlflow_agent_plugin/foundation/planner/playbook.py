"""The playbook: what the local planner does for each intent.

Rules:
- Unknown fields, unknown slots, results of steps that come later, and placeholders that cannot be
  read are errors, with file and field.
- Which tools and prompts exist is checked against the bundle by `Playbook.check`.
- A playbook only proposes calls. Whether one runs is decided by the policies, in the tool gateway.
- Every way through a plan ends: steps are taken in order, each at most once.

The format is described in docs/reference/playbook.md.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from mlflow_agent_plugin.entities import Outcome
from mlflow_agent_plugin.errors import PlannerError
from mlflow_agent_plugin.foundation.planner.expressions import (
    SESSION_FACTS,
    Condition,
    Reference,
    template_references,
)
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
    answer: Name | list[Answer] | None = None
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
        if isinstance(self.answer, list) and (not self.answer or self.answer[-1].conditions()):
            raise ValueError("the last answer must have no condition, so that there always is one")
        return self

    def answers(self) -> list[Answer]:
        """Return the possible answers in order; the last has no condition."""
        if self.refuse is not None:
            return [Answer(prompt=self.refuse, outcome=self.outcome or Outcome.REFUSED)]
        if isinstance(self.answer, list):
            return self.answer
        return [Answer(prompt=self.answer or "", outcome=self.outcome)]


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

    @model_validator(mode="after")
    def _is_consistent(self) -> Playbook:
        for name, plan in self.plans():
            self._check_plan(f"{name}", plan)
        if self.escalation is not None:
            _check_references("escalation.arguments", self.escalation.arguments, self.slots, None)
        missing = sorted(set(ERROR_KINDS) - set(self.on_error))
        if missing:
            raise ValueError(f"on_error has no rule for {', '.join(missing)}")
        for index, shortcut in enumerate(self.shortcuts):
            if shortcut.intent not in self.intents:
                raise ValueError(f"shortcuts.{index}.intent: no intent {shortcut.intent!r}")
        rules = [("on_error", self.on_error)]
        rules += [(f"{name}.on_error", plan.on_error) for name, plan in self.plans()]
        for field, by_kind in rules:
            for kind, rule in by_kind.items():
                if rule.escalate and self.escalation is None:
                    raise ValueError(f"{field}.{kind} escalates, but there is no escalation")
        return self

    def _check_plan(self, name: str, plan: Plan) -> None:
        _check_slots(f"{name}.needs", plan.needs, self.slots)
        before: set[str] = set()
        for index, step in enumerate(plan.steps):
            field = f"{name}.steps.{index}"
            _check_slots(f"{field}.needs", step.needs, self.slots)
            _check_references(f"{field}.arguments", step.arguments, self.slots, before)
            for condition in step.conditions():
                _check_reference(f"{field}.when", condition.reference, self.slots, before)
            before.add(step.result_name)
        for index, answer in enumerate(plan.answers()):
            for condition in answer.conditions():
                _check_reference(
                    f"{name}.answer.{index}.when", condition.reference, self.slots, before
                )

    def plans(self) -> Iterator[tuple[str, Plan]]:
        """Yield every plan with its field name."""
        for intent, plan in self.intents.items():
            yield f"intents.{intent}", plan
        yield "fallback", self.fallback

    def plan_for(self, intent: str) -> Plan:
        """Return the plan of `intent`, or the fallback."""
        return self.intents.get(intent, self.fallback)

    def title_of(self, intent: str) -> str:
        """Return the intent in words."""
        plan = self.intents.get(intent)
        if plan is not None and plan.title is not None:
            return plan.title
        return intent.replace("_", " ").strip(" ?").lower()

    def tools(self) -> dict[str, str]:
        """Return every tool the playbook calls, with the first field that names it."""
        found: dict[str, str] = {}
        for name, plan in self.plans():
            for index, step in enumerate(plan.steps):
                found.setdefault(step.tool, f"{name}.steps.{index}.tool")
        if self.escalation is not None:
            found.setdefault(self.escalation.tool, "escalation.tool")
        return found

    def prompts(self) -> dict[str, str]:
        """Return every prompt the playbook names, with the first field that names it."""
        found: dict[str, str] = {}
        for name, slot in self.slots.items():
            found.setdefault(slot.ask, f"slots.{name}.ask")
        rules: list[tuple[str, Mapping[ErrorKind, ErrorRule]]] = [("on_error", self.on_error)]
        for name, plan in self.plans():
            for answer in plan.answers():
                found.setdefault(answer.prompt, f"{name}.{'refuse' if plan.refuse else 'answer'}")
            rules.append((f"{name}.on_error", plan.on_error))
        for field, by_kind in rules:
            for kind, rule in by_kind.items():
                if rule.answer is not None:
                    found.setdefault(rule.answer, f"{field}.{kind}.answer")
        found.setdefault(self.low_confidence.answer, "low_confidence.answer")
        if self.escalation is not None:
            found.setdefault(self.escalation.answer, "escalation.answer")
            found.setdefault(self.escalation.failed, "escalation.failed")
        return found

    def check(
        self,
        *,
        tools: Collection[str],
        prompts: Mapping[str, Collection[str]],
        where: str = PLAYBOOK_FILE,
    ) -> None:
        """Check the playbook against the bundle it belongs to.

        Args:
            tools: Names of the tools the agent may call.
            prompts: Prompt name to the variables it uses.
            where: File to name in errors.

        Raises:
            PlannerError: A tool or prompt does not exist, or a prompt uses a variable the planner
                does not provide.
        """
        for tool, field in self.tools().items():
            if tool not in tools:
                raise PlannerError(
                    f"{field} names tool {tool!r}, which the agent does not have",
                    where=where,
                    hint=f"Tools of this agent: {', '.join(sorted(tools)) or 'none'}.",
                )
        for prompt, field in self.prompts().items():
            if prompt not in prompts:
                raise PlannerError(
                    f"{field} names prompt {prompt!r}, which agent.yaml does not list",
                    where=where,
                    hint="Add it under prompts in agent.yaml.",
                )
            unknown = sorted(set(prompts[prompt]) - set(PROMPT_VARIABLES))
            if unknown:
                raise PlannerError(
                    f"{field}: prompt {prompt!r} uses {', '.join(unknown)}, which the planner "
                    "does not provide",
                    where=where,
                    hint=f"A prompt of a playbook may use {', '.join(PROMPT_VARIABLES)}.",
                )


def load_playbook(text: str, *, where: str = PLAYBOOK_FILE) -> Playbook:
    """Read a playbook from its YAML text.

    Args:
        text: The YAML document.
        where: File to name in errors.

    Raises:
        PlannerError: Not YAML, a key given twice, or not a valid playbook; the first problem is
            named with its field.
    """
    try:
        value = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError) as error:
        raise PlannerError(f"is not YAML: {' '.join(str(error).split())}", where=where) from error
    if not isinstance(value, dict):
        raise PlannerError("must be a mapping", where=where, hint="See docs/reference/playbook.md.")
    try:
        return Playbook.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        more = error.error_count() - 1
        message = first["msg"].removeprefix("Value error, ")
        problem = f"{field}: {message}" if field else message
        raise PlannerError(
            problem + (f" (and {more} more)" if more else ""),
            where=where,
            hint="See docs/reference/playbook.md.",
        ) from error


class _StrictLoader(yaml.SafeLoader):
    """A SafeLoader that refuses a key given twice (YAML would silently keep the last)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - PyYAML's signature
        """Build a mapping after looking for double keys."""
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float | bool) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice", key_node.start_mark
                )
            if isinstance(key, str | int | float | bool):
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _check_slots(field: str, names: list[str], slots: Mapping[str, Slot]) -> None:
    for name in names:
        if name not in slots:
            raise ValueError(f"{field} names slot {name!r}, which is not declared under slots")


def _check_references(
    field: str, value: Any, slots: Mapping[str, Slot], results: set[str] | None
) -> None:
    if isinstance(value, str):
        for reference in template_references(value):
            _check_reference(field, reference, slots, results)
    elif isinstance(value, dict):
        for name, item in value.items():
            _check_references(f"{field}.{name}", item, slots, results)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_references(f"{field}.{index}", item, slots, results)


def _check_reference(
    field: str, reference: Reference, slots: Mapping[str, Slot], results: set[str] | None
) -> None:
    root, name = reference.parts[0], reference.parts[1]
    if root == "slots" and name not in slots:
        raise ValueError(f"{field}: no slot {name!r} is declared under slots")
    if root == "session" and (len(reference.parts) > 2 or name not in SESSION_FACTS):
        raise ValueError(f"{field}: no {reference.text!r}; session has {', '.join(SESSION_FACTS)}")
    if root == "results" and results is not None and name not in results:
        raise ValueError(f"{field}: no earlier step of the plan has the result {name!r}")
    if root == "results" and results is None:
        raise ValueError(f"{field}: results cannot be used here; use session and slots")
