"""The scorers of this package as MLflow scorers, for ``mlflow.genai.evaluate``.

    mlflow.genai.evaluate(
        data=register_suite(suite),                  # or traces, with expectations
        predict_fn=predictor("models:/support/3"),
        scorers=agent_scorers("models:/support/3"),
    )

Rules:
- They read the trace, so they judge production traffic as well as evaluations. What a trace cannot
  show is not judged there: the end state of the world, and the text that was masked.
- Expectations are those of a scenario, as `register_suite` writes them; keys of other scorers are
  left alone. A row without any is not judged by the scorers that need them.
- Judges are language models; they are extra, never needed, and always name their model.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.development.measures import measure_calls
from mlflow_agent_plugin.development.scenario import (
    ActorSpec,
    Expectation,
    Scenario,
    UserTurn,
)
from mlflow_agent_plugin.development.scorers import Episode, score, totals
from mlflow_agent_plugin.development.traces import read_episode
from mlflow_agent_plugin.entities import AgentRequest, Effect, Outcome
from mlflow_agent_plugin.errors import ConfigError

if TYPE_CHECKING:
    from mlflow.entities import Feedback, Trace
    from mlflow.genai.scorers import Scorer

    from mlflow_agent_plugin.core import LoadedAgent

_UNSEEN = frozenset({"end_state"})


def agent_scorers(agent: str | LoadedAgent | None = None) -> list[Scorer]:
    """Return the scorers: success, tool calls, refusal, safety, escalation, steps, time, tokens.

    Args:
        agent: The agent, or its model URI: its contracts say which tools write. Without it, writes
            nobody mentioned are not judged.
    """
    from mlflow.entities import Feedback
    from mlflow.genai.scorers import scorer

    effects = _effects(agent)

    def judged(
        name: str, judge: Callable[[Expectation, Episode], tuple[Any, str] | None]
    ) -> Callable[..., Any]:
        def run(
            trace: Trace | None = None, expectations: dict[str, Any] | None = None
        ) -> Feedback | list[Feedback]:
            expect = read_expectation(expectations, know_effects=bool(effects))
            found = None if expect is None else judge(expect, read_episode(_needed(trace, name)))
            if found is None:
                return []
            return Feedback(name=name, value=found[0], rationale=found[1])

        return run

    def measured(name: str, measure: Callable[[Episode], float | bool]) -> Callable[..., Any]:
        def run(trace: Trace | None = None) -> Feedback:
            return Feedback(name=name, value=measure(read_episode(_needed(trace, name))))

        return run

    def succeeded(expect: Expectation, episode: Episode) -> tuple[bool, str]:
        result = score(_scenario(expect), episode, effects)
        return result.success, "; ".join(result.failures) or "every check holds"

    def unsafe(expect: Expectation, episode: Episode) -> tuple[int, str]:
        result = score(_scenario(expect), episode, effects)
        ran = [failure for failure in result.failures if failure.startswith("calls_forbidden")]
        return result.unsafe_calls, "; ".join(ran) or "nothing forbidden ran"

    def precision(expect: Expectation, episode: Episode) -> tuple[float, str] | None:
        found = measure_calls(expect, episode.calls())
        why = f"{found.matched} of {found.made} calls made were asked for"
        return None if found.precision is None else (found.precision, why)

    def recall(expect: Expectation, episode: Episode) -> tuple[float, str] | None:
        found = measure_calls(expect, episode.calls())
        why = f"{found.matched} of {found.expected} calls asked for were made"
        return None if found.recall is None else (found.recall, why)

    def arguments(expect: Expectation, episode: Episode) -> tuple[float, str] | None:
        found = measure_calls(expect, episode.calls())
        why = f"{found.arguments_right} of {found.arguments} arguments were right"
        return None if found.argument_accuracy is None else (found.argument_accuracy, why)

    def refusal(expect: Expectation, episode: Episode) -> tuple[bool, str] | None:
        if not expect.outcomes:
            return None
        refused = episode.outcome is Outcome.REFUSED
        if set(expect.outcomes) == {Outcome.REFUSED}:
            return refused, f"should be refused, was {episode.outcome.value}"
        fine = not refused or Outcome.REFUSED in expect.outcomes
        return fine, f"was {episode.outcome.value}"

    def spent(name: str) -> Callable[[Episode], float]:
        return lambda episode: totals(episode, episode.calls())[name]

    judges = {
        "task_success": succeeded,
        "tool_call_precision": precision,
        "tool_call_recall": recall,
        "argument_accuracy": arguments,
        "refusal_correct": refusal,
        "safety_violations": unsafe,
    }
    measures: dict[str, Callable[[Episode], float | bool]] = {
        "escalated": lambda episode: episode.outcome is Outcome.ESCALATED,
        "steps": spent("steps"),
        "latency_seconds": lambda episode: sum(reply.seconds for reply in episode.replies),
        "input_tokens": spent("input_tokens"),
        "output_tokens": spent("output_tokens"),
        "cost_usd": spent("cost_usd"),
    }
    made: dict[str, Callable[..., Any]] = {
        **{name: judged(name, judge) for name, judge in judges.items()},
        **{name: measured(name, measure) for name, measure in measures.items()},
    }
    return [scorer(run, name=name) for name, run in made.items()]


def judge_scorers(model: str, guidelines: Mapping[str, str]) -> list[Scorer]:
    """Return MLflow's guideline judges, one for each rule in words.

    Args:
        model: A judge model as MLflow names it, ``openai:/gpt-4.1-mini`` for example; MLflow reads
            address and key from the provider's own environment variables.
        guidelines: Name of the score to what has to hold of the answer.

    Raises:
        ConfigError: There is no guideline, or the model is not ``provider:/name``.
    """
    from mlflow.genai.scorers import Guidelines

    provider, _, name = model.partition(":/")
    if not provider or not name:
        raise ConfigError("is not provider:/name", where="model", hint="openai:/gpt-4.1-mini")
    if not guidelines:
        raise ConfigError("there is no guideline", where="guidelines")
    return [
        Guidelines(name=name, guidelines=text, model=model) for name, text in guidelines.items()
    ]


def predictor(agent: str | LoadedAgent) -> Callable[..., dict[str, Any]]:
    """Return a ``predict_fn`` that has the agent hold the conversation of a dataset record.

    Args:
        agent: The agent, or its model URI.
    """
    import mlflow

    from mlflow_agent_plugin.core.tracing import mask_value

    runtime = _loaded(agent).runtime()

    def predict_fn(
        turns: Sequence[str], actor: Mapping[str, Any] | None = None, case: str | None = None
    ) -> dict[str, Any]:
        del case
        asking = ActorSpec.model_validate(dict(actor or {})).actor()
        session_id = f"evaluation-{uuid.uuid4().hex}"
        if isinstance(turns, str) or not turns:
            raise ConfigError("is not a list of messages", where="turns")
        # One trace for the whole conversation: MLflow scores one trace a record.
        with mlflow.start_span(name="conversation", span_type="CHAIN") as span:
            span.set_inputs({"turns": mask_value(list(turns))})
            for text in turns:
                request = AgentRequest(text=text, session_id=session_id, actor=asking)
                reply = runtime.invoke(request)
            answer = {"text": reply.text, "outcome": reply.outcome.value}
            span.set_outputs(mask_value(answer))
        return answer

    return predict_fn


def read_expectation(
    expectations: Mapping[str, Any] | None, *, know_effects: bool
) -> Expectation | None:
    """Return the scenario's expectation in a record's; None if it holds none."""
    given = {
        name: value
        for name, value in (expectations or {}).items()
        if name in Expectation.model_fields and name not in _UNSEEN
    }
    if not (set(given) - {"in_order", "other_writes"}):
        return None
    if not know_effects:
        given["other_writes"] = "allowed"
    return Expectation.model_validate(given)


def _scenario(expect: Expectation) -> Scenario:
    return Scenario(id="trace", turns=[UserTurn(user="")], expect=expect)


def _needed(trace: Trace | None, name: str) -> Trace:
    if trace is None:
        raise ConfigError(
            "needs the agent's trace", where=name, hint="Switch tracing on (MLFLOW_AGENTS_TRACING)."
        )
    return trace


def _effects(agent: str | LoadedAgent | None) -> dict[str, Effect]:
    if agent is None:
        return {}
    bundle = _loaded(agent).bundle
    return {name: bundle.contracts[name].effect for name in bundle.manifest.usable_tools()}


def _loaded(agent: str | LoadedAgent) -> LoadedAgent:
    from mlflow_agent_plugin.core import load_agent

    return load_agent(agent) if isinstance(agent, str) else agent
