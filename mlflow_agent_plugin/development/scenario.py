"""One scenario: who asks what in which world, and what has to come of it.

Rules:
- Unknown fields and unknown checks are errors.
- The expectation holds at least one check; a scenario that cannot fail is an error.
- A write or irreversible call that ran although nothing in ``expect`` mentions it fails the case
  (``other_writes: allowed`` lifts that). A call named in ``calls_forbidden`` that ran is a safety
  violation and counted as such.
- Nothing is random: what a fault mangles follows from the scenario's seed.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from mlflow_agent_plugin.development.matching import CHECKS, Matcher, check_path, check_pattern
from mlflow_agent_plugin.entities import Actor, CallStatus, Effect, Outcome
from mlflow_agent_plugin.package import ModelSpec, StrictModel
from mlflow_agent_plugin.package.manifest import Name

CaseId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}$")]
Tag = Annotated[str, StringConstraints(min_length=1, max_length=100)]
Text = Annotated[str, StringConstraints(min_length=1)]


class FaultKind(str, Enum):
    """How a tool world can misbehave."""

    RATE_LIMIT = "rate_limit"
    TIMEOUT = "timeout"
    RESET = "reset"
    ERROR = "error"
    PERMISSION = "permission"
    MALFORMED = "malformed"
    PARTIAL = "partial"
    SCHEMA_CHANGE = "schema_change"
    SLOW = "slow"
    DUPLICATE = "duplicate"
    INJECTION = "injection"


class ActorSpec(StrictModel):
    """Who asks. Default: a verified customer without roles."""

    user: str = Field(default="customer", min_length=1)
    tenant: str = Field(default="default", min_length=1)
    roles: list[Name] = Field(default_factory=list)
    verified: bool = True

    def actor(self) -> Actor:
        """Return the actor this describes."""
        return Actor(
            user=self.user,
            tenant=self.tenant,
            roles=frozenset(self.roles),
            verified=self.verified,
        )


class UserTurn(StrictModel):
    """One message of the user."""

    user: str


class SimulatedReply(StrictModel):
    """What the simulated user says when the agent's answer looks like this.

    Attributes:
        when_outcome: The turn ended this way.
        when_text_contains: The answer contains this text (whatever its case).
        say: The user's next message.
        times: How often this reply may be used in one scenario.
    """

    when_outcome: Outcome | None = None
    when_text_contains: str | None = Field(default=None, min_length=1)
    say: str = Field(min_length=1)
    times: int = Field(default=1, ge=1, le=20)

    @model_validator(mode="after")
    def _has_a_condition(self) -> SimulatedReply:
        if self.when_outcome is None and self.when_text_contains is None:
            raise ValueError("needs when_outcome or when_text_contains")
        return self


class ModelUser(StrictModel):
    """A user played by a chat model, once scripted turns and replies are used up.

    Its words are the model's: results are the same from run to run only if the model's are.

    Attributes:
        goal: What the user wants to achieve.
        persona: What the user is like.
        model: The chat model, as in a manifest.
        max_messages: Messages it may write.
    """

    goal: str = Field(min_length=1)
    persona: str | None = Field(default=None, min_length=1)
    model: ModelSpec
    max_messages: int = Field(default=5, ge=1, le=50)


class ScriptedAnswer(StrictModel):
    """How the scripted human answers a waiting approval; the first rule that fits wins.

    Attributes:
        tool: The rule is for this tool only; None: for any.
        answer: What the human says.
        role: Role the human has; None: the one the approval asks for.
        reason: What the human gives as reason.
    """

    tool: Name | None = None
    answer: Literal["approve", "reject"]
    role: Name | None = None
    reason: str = "scripted answer"


class Fault(StrictModel):
    """One way a tool misbehaves in this scenario.

    Attributes:
        tool: The tool.
        kind: What happens.
        at: From which call of the tool on (1 is the first; retries count as calls).
        times: For how many calls; None: for ever.
        seconds: Delay (slow, timeout) or Retry-After (rate_limit).
        text: What an injection says.
    """

    tool: Name
    kind: FaultKind
    at: int = Field(default=1, ge=1)
    times: int | None = Field(default=1, ge=1)
    seconds: float = Field(default=0.05, ge=0, le=600)
    text: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Fault:
        if (self.kind is FaultKind.INJECTION) != (self.text is not None):
            raise ValueError("text is what an injection says: both belong together")
        return self


class SimulatedTool(StrictModel):
    """A recorded answer that stands in for the tool's own function.

    Attributes:
        tool: The tool; once simulated, its own function is never called in this scenario.
        arguments: The answer is for calls whose arguments match; empty: for any call.
        output: What the tool returns.
    """

    tool: Name
    arguments: dict[str, Matcher] = Field(default_factory=dict)
    output: dict[str, Any]


class AttemptedCall(StrictModel):
    """A call a compromised model makes; neither tool nor arguments need to exist."""

    tool: Text
    arguments: dict[str, Any] = Field(default_factory=dict)


class RequiredCall(StrictModel):
    """A call that has to happen.

    Attributes:
        tool: The tool.
        arguments: Checks on its arguments; arguments not named may have any value.
        status: What has to become of it; any of these.
        count: How many such calls exactly; None: at least one.
    """

    tool: Name
    arguments: dict[str, Matcher] = Field(default_factory=dict)
    status: list[CallStatus] = Field(default=[CallStatus.EXECUTED], min_length=1)
    count: int | None = Field(default=None, ge=1)


class ForbiddenCall(StrictModel):
    """A call that must not run: a tool's, or any of an effect.

    Attributes:
        tool: The tool.
        effect: Every tool of this effect.
        arguments: Only calls whose arguments match.
        even_attempted: The agent may not even ask for it (default: being stopped is fine).
    """

    tool: Name | None = None
    effect: Effect | None = None
    arguments: dict[str, Matcher] = Field(default_factory=dict)
    even_attempted: bool = False

    @model_validator(mode="after")
    def _names_one_thing(self) -> ForbiddenCall:
        if (self.tool is None) == (self.effect is None):
            raise ValueError("needs either tool or effect")
        return self


class StateCheck(Matcher):
    """A check on the world after the last turn, as ``resources.snapshot()`` shows it."""

    path: Annotated[str, AfterValidator(check_path)] = Field(default=...)

    def given(self) -> list[str]:
        """Return the names of the checks that were given."""
        return [name for name in CHECKS if name in self.model_fields_set]


class ReplyCheck(StrictModel):
    """Checks on the text of the last answer.

    Attributes:
        contains: All of these texts stand in it, whatever their letter case.
        not_contains: None of these does.
        matches: This regular expression is found in it.
    """

    contains: list[Text] = Field(default_factory=list)
    not_contains: list[Text] = Field(default_factory=list)
    matches: Annotated[str, AfterValidator(check_pattern)] | None = None


class Expectation(StrictModel):
    """What has to come of the scenario. All checks that are given have to hold.

    Attributes:
        intent: Intent the planner has to see in the first user turn.
        outcomes: The last turn ends in one of these ways.
        calls_required: Calls that have to happen.
        in_order: They have to happen in the order given.
        calls_forbidden: Calls that must not run.
        other_writes: Whether writes nobody mentioned may run: forbidden, allowed, or the tools
            that may.
        end_state: Checks on the world afterwards.
        reply: Checks on the last answer.
        max_calls: Tool calls in the whole scenario.
        max_steps: Model calls and tool calls in the whole scenario.
        max_tokens: Tokens in and out in the whole scenario.
        max_cost_usd: Cost of the whole scenario.
        max_turn_seconds: Wall-clock time of any one turn; whether it holds depends on the machine.
    """

    intent: str | None = Field(default=None, min_length=1)
    outcomes: list[Outcome] = Field(default_factory=list)
    calls_required: list[RequiredCall] = Field(default_factory=list)
    in_order: bool = False
    calls_forbidden: list[ForbiddenCall] = Field(default_factory=list)
    other_writes: Literal["forbidden", "allowed"] | list[Name] = "forbidden"
    end_state: list[StateCheck] = Field(default_factory=list)
    reply: ReplyCheck | None = None
    max_calls: int | None = Field(default=None, ge=0)
    max_steps: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_cost_usd: float | None = Field(default=None, ge=0)
    max_turn_seconds: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _has_a_check(self) -> Expectation:
        checks = set(type(self).model_fields) - {"in_order", "other_writes"}
        given = [getattr(self, name) for name in sorted(checks & self.model_fields_set)]
        if all(value is None or value == [] or value == ReplyCheck() for value in given):
            raise ValueError("has no check: the scenario could never fail")
        return self


class Scenario(StrictModel):
    """One case of a suite.

    Attributes:
        id: Unique in its suite.
        description: What it is about.
        intent: What the user wants, if known: measured as intent accuracy, not judged
            (``expect.intent`` judges it too).
        actor: Who asks.
        world: Settings for the bundle's resources factory, over the manifest's own.
        seed: Seed of everything a fault leaves open.
        turns: The user's messages in order.
        replies: The simulated user's answers, used before the next scripted turn.
        model_user: A chat model that plays the user from then on.
        approvals: The scripted human; an approval no rule fits stays waiting.
        simulated: Recorded tool answers.
        faults: How tools misbehave.
        compromised_model: Calls that a model in an attacker's hand makes, one after another, in
            place of the agent's own model and whatever the user says.
        expect: What has to come of it.
        max_turns: User messages in all, simulated ones included.
        max_seconds: Wall-clock time after which the case is stopped and has failed.
        tags: For breakdowns.
    """

    id: CaseId
    description: str | None = None
    intent: str | None = Field(default=None, min_length=1)
    actor: ActorSpec = ActorSpec()
    world: dict[str, Any] = Field(default_factory=dict)
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    turns: list[UserTurn] = Field(min_length=1, max_length=100)
    replies: list[SimulatedReply] = Field(default_factory=list)
    model_user: ModelUser | None = None
    approvals: list[ScriptedAnswer] = Field(default_factory=list)
    simulated: list[SimulatedTool] = Field(default_factory=list)
    faults: list[Fault] = Field(default_factory=list)
    compromised_model: list[AttemptedCall] = Field(default_factory=list)
    expect: Expectation
    max_turns: int = Field(default=20, ge=1, le=200)
    max_seconds: float = Field(default=30.0, gt=0, le=3600)
    tags: list[Tag] = Field(default_factory=list)

    @model_validator(mode="after")
    def _turns_fit(self) -> Scenario:
        if len(self.turns) > self.max_turns:
            raise ValueError(f"turns holds {len(self.turns)}, but max_turns is {self.max_turns}")
        if self.intent is not None and self.expect.intent not in (None, self.intent):
            raise ValueError(f"intent is {self.intent!r}, but expect.intent is not")
        return self

    def expected_intent(self) -> str | None:
        """Return the intent the planner should see, None if nobody says."""
        return self.expect.intent if self.intent is None else self.intent

    def expected_outcome(self) -> str:
        """Return the outcomes that are right, joined by ``|``; "" if any is."""
        return "|".join(sorted(outcome.value for outcome in self.expect.outcomes))
