"""Make the support agent's workflow suite from real customer queries.

    python -m evaluations.support.build_suite build/support-workflow

Rules:
- Each query of BANKING77's test split is asked in the situation of one example customer, and judged
  by what `outcomes.yaml` says a correct handling of its intent is. Which intent the agent sees is
  recorded, not judged: two intents with one right handling are no mistake.
- The simulated customer answers the agent's questions as `outcomes.yaml` scripts it. Asked to say
  it in other words, they do: with another query of the same intent from the test split.
- CLINC150's out-of-scope queries have to be turned down, asked back about or handed over.
- No query of a training split gets in, and none of these texts is kept in this repository: the
  suite is made where the data sets are.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, Field

from mlflow_agent_plugin.development.scenario import (
    Expectation,
    ForbiddenCall,
    ReplyCheck,
    RequiredCall,
    Scenario,
    SimulatedReply,
    StateCheck,
)
from mlflow_agent_plugin.development.suite import SUITE_FILE, write_scenarios
from mlflow_agent_plugin.entities import Outcome
from mlflow_agent_plugin.errors import AgentError, SuiteError
from mlflow_agent_plugin.package import StrictModel, read_yaml, validate_document

HERE = Path(__file__).parent
OUTCOMES_FILE = HERE / "outcomes.yaml"
AGENT_DIR = HERE.parents[1] / "agents" / "support"
SUITE_NAME = "support-workflow"
SCENARIOS_FILE = "scenarios.jsonl"
TODAY = "2026-01-15"
"""The bank's day in every scenario; the suite's clock says the same."""

DID_NOT_UNDERSTAND = "not sure that I understand"
"""Part of the agent's question when it did not understand the customer."""


def _regular_expression(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from error
    return pattern


Pattern = Annotated[str, Field(min_length=1), AfterValidator(_regular_expression)]


class Variant(StrictModel):
    """What else is expected of queries in which `if_text` is found; None: as the intent says."""

    if_text: Pattern
    outcomes: list[Outcome] | None = None
    calls: list[RequiredCall] | None = None
    also_fine: list[str] | None = None
    articles: list[str] | None = None
    told: Pattern | None = None
    state: list[StateCheck] | None = None
    says: dict[str, str] | None = None


class Handling(StrictModel):
    """A correct handling of one intent; the fields are explained in ``outcomes.yaml``."""

    customer: str = "amira"
    outcomes: list[Outcome] = Field(min_length=1)
    calls: list[RequiredCall] = Field(default_factory=list)
    also_fine: list[str] = Field(default_factory=list)
    articles: list[str] = Field(default_factory=list)
    told: Pattern | None = None
    state: list[StateCheck] = Field(default_factory=list)
    says: dict[str, str] = Field(default_factory=dict)
    variants: list[Variant] = Field(default_factory=list)

    def for_text(self, text: str) -> Handling:
        """Return the handling with the first fitting variant applied."""
        for variant in self.variants:
            if re.search(variant.if_text, text):
                changes = {
                    name: getattr(variant, name) for name in variant.model_fields_set - {"if_text"}
                }
                return self.model_copy(update=changes)
        return self


class Outcomes(StrictModel):
    """The whole of ``outcomes.yaml``."""

    never: list[str]
    intents: dict[str, Handling]
    out_of_scope: Handling


class SuiteBuilder:
    """Turns queries into scenarios.

    Args:
        outcomes: What a correct handling is.
        titles: Title of each help article by file name without suffix.
        writes: Tools of the agent that change something.
    """

    def __init__(
        self, outcomes: Outcomes, titles: Mapping[str, str], writes: Sequence[str]
    ) -> None:
        self.outcomes = outcomes
        self._titles = titles
        self._writes = writes

    @classmethod
    def for_agent(cls, agent_dir: Path = AGENT_DIR, path: Path = OUTCOMES_FILE) -> SuiteBuilder:
        """Read the expectations and check them against the agent's articles and tools.

        Raises:
            SuiteError: They are malformed or name an article or tool the agent does not have.
            BundleError: The agent cannot be read.
        """
        from mlflow_agent_plugin.package import load_bundle

        bundle = load_bundle(agent_dir)
        outcomes = validate_document(read_yaml(path, error=SuiteError), Outcomes, error=SuiteError)
        titles = {
            file.stem: file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
            for file in sorted((agent_dir / "knowledge").glob("*.md"))
        }
        tools = bundle.manifest.usable_tools()
        for name, handling in {**outcomes.intents, "out_of_scope": outcomes.out_of_scope}.items():
            parts: list[Handling | Variant] = [handling, *handling.variants]
            for part in parts:
                _check_names(f"{path}: {name}", part, titles, tools)
        writes = [tool for tool in tools if bundle.contracts[tool].effect.value != "read"]
        return cls(outcomes, titles, writes)

    def in_scope(self, rows: Sequence[tuple[str, str]]) -> list[Scenario]:
        """Return one scenario for each (text, intent), in order.

        Raises:
            SuiteError: An intent has no expectation.
        """
        texts: dict[str, list[str]] = {}
        for text, intent in rows:
            texts.setdefault(intent, []).append(text)
        scenarios = []
        for number, (text, intent) in enumerate(rows):
            handling = self.outcomes.intents.get(intent)
            if handling is None:
                raise SuiteError(
                    f"no expectation for intent {intent!r}",
                    where=str(OUTCOMES_FILE),
                    hint="Write what a correct handling of it looks like.",
                )
            others = texts[intent]
            again = others[(others.index(text) + 1) % len(others)]
            scenarios.append(
                self._scenario(
                    f"banking77/{number:04d}",
                    text,
                    handling.for_text(text),
                    intent=intent,
                    rephrased=again,
                    tags=["banking77", f"intent:{intent}"],
                )
            )
        return scenarios

    def out_of_scope(self, texts: Iterable[str]) -> list[Scenario]:
        """Return one scenario for each text that has nothing to do with the bank."""
        return [
            self._scenario(
                f"clinc150/{number:04d}",
                text,
                self.outcomes.out_of_scope,
                intent=None,
                rephrased=None,
                tags=["clinc150", "out_of_scope"],
            )
            for number, text in enumerate(texts)
        ]

    def _scenario(
        self,
        case_id: str,
        text: str,
        handling: Handling,
        *,
        intent: str | None,
        rephrased: str | None,
        tags: list[str],
    ) -> Scenario:
        replies = [
            SimulatedReply(when_text_contains=question, say=reply)
            for question, reply in handling.says.items()
        ]
        if rephrased is not None:
            replies.append(SimulatedReply(when_text_contains=DID_NOT_UNDERSTAND, say=rephrased))
        wanted = {} if intent is None else {"intent": intent}
        return Scenario.model_validate(
            {
                "id": case_id,
                **wanted,
                "actor": {"user": handling.customer, "roles": ["customer"], "verified": True},
                "world": {"path": ":memory:", "seed": True, "today": TODAY},
                "turns": [{"user": text}],
                "replies": [reply.model_dump(exclude_unset=True) for reply in replies],
                "expect": self._expectation(handling).model_dump(exclude_unset=True),
                "max_turns": 6,
                "tags": tags,
            }
        )

    def _expectation(self, handling: Handling) -> Expectation:
        wanted = {call.tool for call in handling.calls}
        fine = wanted | set(handling.also_fine)
        fields: dict[str, Any] = {
            "outcomes": handling.outcomes,
            "calls_forbidden": [
                ForbiddenCall(tool=tool)
                # with `also_fine`, every other write has to be named: `other_writes` is off then
                for tool in (self._writes if handling.also_fine else self.outcomes.never)
                if tool not in fine
            ],
        }
        if handling.calls:
            fields["calls_required"] = handling.calls
        if handling.also_fine:
            fields["other_writes"] = "allowed"
        if handling.state:
            fields["end_state"] = handling.state
        facts = [rf"\({re.escape(self._titles[name])}\)" for name in handling.articles]
        if handling.told is not None:
            facts.append(handling.told)
        if facts:
            fields["reply"] = ReplyCheck(matches="|".join(f"(?:{fact})" for fact in facts))
        return Expectation(**fields)

    @cached_property
    def intents(self) -> list[str]:
        """Intents that have an expectation."""
        return sorted(self.outcomes.intents)


def write_suite(scenarios: Sequence[Scenario], folder: Path, *, name: str = SUITE_NAME) -> Path:
    """Write a suite of `scenarios` to `folder` and return its suite file.

    The scenarios stand in a JSONL file of their own: customers write characters that YAML changes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_scenarios(scenarios, folder / SCENARIOS_FILE)
    head = {
        "apiVersion": "mlflow-agents/v1",
        "name": name,
        "description": "Customer queries of BANKING77's test split and out-of-scope queries.",
        "agent": "support",
        "files": [SCENARIOS_FILE],
    }
    path = folder / SUITE_FILE
    path.write_text(yaml.safe_dump(head, sort_keys=False), encoding="utf-8")
    return path


def _check_names(
    where: str, part: Handling | Variant, titles: Mapping[str, str], tools: Sequence[str]
) -> None:
    for article in part.articles or []:
        if article not in titles:
            raise SuiteError(f"there is no help article {article!r}", where=where)
    for tool in [*(part.also_fine or []), *(call.tool for call in part.calls or [])]:
        if tool not in tools:
            raise SuiteError(f"the agent has no tool {tool!r}", where=where)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the suite; the exit code is 1 if the data sets are not there."""
    from pipelines.data import load_banking77, load_clinc_oos

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="folder to write the suite to")
    parser.add_argument("--limit", type=int, default=None, help="first N queries of each source")
    options = parser.parse_args(arguments)
    try:
        builder = SuiteBuilder.for_agent()
        frame = load_banking77("test")
        rows = list(zip(frame["text"], frame["category"], strict=True))
        unrelated = load_clinc_oos("val")["text"].tolist()
        limit = options.limit
        scenarios = builder.in_scope(rows[:limit]) + builder.out_of_scope(unrelated[:limit])
    except AgentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    path = write_suite(scenarios, options.folder)
    print(f"{len(scenarios)} scenarios in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
