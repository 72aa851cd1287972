"""A suite: scenarios with a name and a digest, read from files and checked against an agent.

Rules:
- A suite is a YAML file, a JSONL file, or a folder with ``suite.yaml``. A suite file lists
  scenarios itself, names further files (`files`, YAML or JSONL, relative to it), or both.
- A JSONL file holds one scenario a line; its first line may be the fields of a suite file (it has
  ``apiVersion``), otherwise the suite is called as the file is. For thousands of scenarios it is
  the better format: it is read line by line.
- ``defaults`` of the suite file fill what a scenario leaves out; ``world`` is merged key by key.
- An empty suite and two scenarios of one id are errors; every error names file, line and field.
- The digest covers what the scenarios say, after defaults, not how the files spell it: splitting a
  file or reordering it keeps the digest, any other change does not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import AwareDatetime, Field

from mlflow_agent_plugin.development.scenario import ActorSpec, Scenario, Tag
from mlflow_agent_plugin.entities import sha256_of_json
from mlflow_agent_plugin.errors import SuiteError
from mlflow_agent_plugin.package import (
    API_VERSION,
    StrictModel,
    YamlDocument,
    read_yaml,
    validate_document,
)
from mlflow_agent_plugin.package.manifest import BundlePath, Name

if TYPE_CHECKING:
    from mlflow_agent_plugin.package import Bundle, ToolContract

SUITE_FILE = "suite.yaml"
DEFAULT_NOW = datetime(2026, 1, 15, 12, 0, tzinfo=timezone.utc)
"""The time it is in every scenario unless the suite says otherwise: results do not depend on when
they were made."""

MAX_LINE_CHARS = 1_000_000
_SUFFIXES = {".yaml", ".yml", ".jsonl"}


class Defaults(StrictModel):
    """What scenarios of a suite file have in common."""

    actor: ActorSpec | None = None
    world: dict[str, Any] = Field(default_factory=dict)
    max_turns: int | None = Field(default=None, ge=1, le=200)
    max_seconds: float | None = Field(default=None, gt=0, le=3600)
    tags: list[Tag] | None = None


class SuiteFile(StrictModel):
    """A suite file.

    Attributes:
        name: Name of the suite, as metrics, evidence and gate rules call it.
        description: What it measures.
        agent: Name of the agent it is for; None: any.
        now: The time it is in every scenario.
        environment: What policies see as ``context.session.environment``.
        reference: Its requests look like normal traffic, so that drift is measured against them.
        defaults: What its scenarios have in common.
        files: More files of scenarios.
        scenarios: Scenarios.
    """

    api_version: Literal["mlflow-agents/v1"] = Field(alias="apiVersion")
    name: Name
    description: str | None = None
    agent: Name | None = None
    now: AwareDatetime = DEFAULT_NOW
    environment: Name = "production"
    reference: bool = True
    defaults: Defaults = Defaults()
    files: list[BundlePath] = Field(default_factory=list)
    scenarios: list[Scenario] = Field(default_factory=list)


class ScenarioFile(StrictModel):
    """A YAML file of scenarios that a suite file names."""

    scenarios: list[Scenario] = Field(min_length=1)


@dataclass(frozen=True)
class _Origin:
    """Where a scenario was read."""

    document: YamlDocument
    location: tuple[str | int, ...]

    def where(self, *field_location: str | int) -> str:
        return self.document.where(*self.location, *field_location)


@dataclass(frozen=True)
class Suite:
    """A checked suite.

    Attributes:
        name: Name of the suite.
        scenarios: Its scenarios, sorted by id.
        source: The file or folder it was read from, None if made in memory.
        description: What it measures.
        agent: Name of the agent it is for; None: any.
        now: The time it is in every scenario, UTC.
        environment: What policies see as ``context.session.environment``.
        reference: Its requests look like normal traffic.
    """

    name: str
    scenarios: tuple[Scenario, ...]
    source: Path | None = None
    description: str | None = None
    agent: str | None = None
    now: datetime = DEFAULT_NOW
    environment: str = "production"
    reference: bool = True
    origins: Mapping[str, _Origin] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.scenarios:
            raise SuiteError(
                "the suite has no scenarios", where=str(self.source or self.name), hint="Add some."
            )
        ordered = tuple(sorted(self.scenarios, key=lambda scenario: scenario.id))
        object.__setattr__(self, "scenarios", ordered)

    def __len__(self) -> int:
        return len(self.scenarios)

    @cached_property
    def digest(self) -> str:
        """``sha256:…`` of what the suite says.

        Raises:
            SuiteError: A scenario holds a value that cannot be spelled exactly in JSON.
        """
        try:
            return sha256_of_json(self.to_dict())
        except ValueError as error:
            raise SuiteError(str(error), where=str(self.source or self.name)) from error

    def to_dict(self) -> dict[str, Any]:
        """Return the suite as JSON values, with everything its digest covers."""
        return {
            "apiVersion": API_VERSION,
            "name": self.name,
            "agent": self.agent,
            "now": self.now.astimezone(timezone.utc).isoformat(),
            "environment": self.environment,
            "scenarios": _lines_of(self.scenarios),
        }

    def where(self, case_id: str, *field_location: str | int) -> str:
        """Return file, line and field of a scenario, or its id if it was made in memory."""
        origin = self.origins.get(case_id)
        return f"scenario {case_id}" if origin is None else origin.where(*field_location)

    def sample(self, limit: int, *, seed: int = 0) -> Suite:
        """Return a suite of `limit` scenarios drawn by `seed`; it has a digest of its own.

        Raises:
            SuiteError: `limit` is not positive.
        """
        if limit < 1:
            raise SuiteError(f"limit must be at least 1, not {limit}", where=self.name)
        drawn = sorted(
            self.scenarios,
            key=lambda scenario: hashlib.sha256(f"{seed}:{scenario.id}".encode()).digest(),
        )
        return replace(self, scenarios=tuple(drawn[:limit]))


def load_suite(path: str | Path) -> Suite:
    """Read a suite from a YAML or JSONL file, or from a folder with ``suite.yaml``.

    Raises:
        SuiteError: A file is missing, empty or malformed; with file, line and field.
    """
    source = Path(path)
    if source.is_dir():
        source /= SUITE_FILE
    if not source.is_file():
        raise SuiteError(
            "there is no suite",
            where=str(source),
            hint="Give a .yaml or .jsonl file, or a folder with suite.yaml.",
        )
    found: dict[str, tuple[Scenario, _Origin]] = {}
    if source.suffix == ".jsonl":
        header = _read_jsonl(source, found, may_have_header=True)
        return _make(
            header or SuiteFile(apiVersion=API_VERSION, name=_name_of(source)), source, found
        )
    _check_suffix(source)
    document = read_yaml(source, error=SuiteError)
    spec = validate_document(document, SuiteFile, error=SuiteError)
    for index, scenario in enumerate(spec.scenarios):
        _add(found, scenario, _Origin(document, ("scenarios", index)))
    for index, name in enumerate(spec.files):
        file = source.parent / name
        if not file.is_file():
            raise SuiteError(
                f"there is no file {name}",
                where=document.where("files", index),
                hint="Paths are relative to the suite file.",
            )
        if file.suffix == ".jsonl":
            _read_jsonl(file, found)
        else:
            _check_suffix(file)
            _read_yaml(file, found)
    return _make(spec, source, found)


def write_suite(suite: Suite, path: str | Path) -> None:
    """Write a suite as one JSONL file; read again it has the same digest.

    Raises:
        SuiteError: The file is not called ``….jsonl``, or cannot be written.
    """
    target = Path(path)
    if target.suffix != ".jsonl":
        raise SuiteError("has to end in .jsonl", where=str(target))
    header = {
        "apiVersion": API_VERSION,
        "name": suite.name,
        "description": suite.description,
        "agent": suite.agent,
        "now": suite.now.isoformat(),
        "environment": suite.environment,
        "reference": suite.reference,
    }
    lines = [{name: value for name, value in header.items() if value is not None}]
    _write_lines(lines + _lines_of(suite.scenarios), target)


def write_scenarios(scenarios: Sequence[Scenario], path: str | Path) -> None:
    """Write scenarios as JSONL for a suite file to name; the same scenarios give the same bytes.

    Raises:
        SuiteError: The file cannot be written.
    """
    _write_lines(_lines_of(sorted(scenarios, key=lambda scenario: scenario.id)), Path(path))


def _lines_of(scenarios: Sequence[Scenario]) -> list[dict[str, Any]]:
    return [scenario.model_dump(mode="json", exclude_unset=True) for scenario in scenarios]


def _write_lines(lines: Sequence[Mapping[str, Any]], target: Path) -> None:
    draft = target.with_name(f".{target.name}.draft")
    try:
        with draft.open("w", encoding="utf-8", newline="\n") as file:
            for line in lines:
                file.write(json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n")
        draft.replace(target)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise SuiteError(f"cannot be written: {error.strerror}", where=str(target)) from error


def check_suite(suite: Suite, bundle: Bundle) -> None:
    """Check that the suite names only what the agent has; runs no code of the bundle.

    Raises:
        SuiteError: It is for another agent, or names an unknown tool or argument.
    """
    if suite.agent is not None and suite.agent != bundle.manifest.name:
        raise SuiteError(
            f"the suite is for agent {suite.agent!r}, not {bundle.manifest.name!r}",
            where=str(suite.source or suite.name),
            hint="Evaluate the agent it names, or change `agent`.",
        )
    usable = {name: bundle.contracts[name] for name in bundle.manifest.usable_tools()}
    for scenario in suite.scenarios:
        for location, tool, arguments in _tools_named_in(scenario):
            _check_tool(suite, scenario, location, tool, arguments, usable)
        for index, answer in enumerate(scenario.simulated):
            problem = _output_problem(usable[answer.tool], answer.output)
            if problem is not None:
                raise SuiteError(
                    f"does not fit the tool's output contract: {problem}",
                    where=suite.where(scenario.id, "simulated", index, "output"),
                    hint="Correct the recorded answer, or the contract.",
                )


def _tools_named_in(
    scenario: Scenario,
) -> list[tuple[tuple[str | int, ...], str, Mapping[str, Any]]]:
    named: list[tuple[tuple[str | int, ...], str, Mapping[str, Any]]] = []
    for index, call in enumerate(scenario.expect.calls_required):
        named.append((("expect", "calls_required", index), call.tool, call.arguments))
    for index, forbidden in enumerate(scenario.expect.calls_forbidden):
        if forbidden.tool is not None:
            location = ("expect", "calls_forbidden", index)
            named.append((location, forbidden.tool, forbidden.arguments))
    if isinstance(scenario.expect.other_writes, list):
        for index, tool in enumerate(scenario.expect.other_writes):
            named.append((("expect", "other_writes", index), tool, {}))
    for index, answer in enumerate(scenario.simulated):
        named.append((("simulated", index), answer.tool, answer.arguments))
    for index, fault in enumerate(scenario.faults):
        named.append((("faults", index), fault.tool, {}))
    for index, rule in enumerate(scenario.approvals):
        if rule.tool is not None:
            named.append((("approvals", index), rule.tool, {}))
    return named


def _check_tool(
    suite: Suite,
    scenario: Scenario,
    location: tuple[str | int, ...],
    tool: str,
    arguments: Mapping[str, Any],
    usable: Mapping[str, ToolContract],
) -> None:
    if tool not in usable:
        raise SuiteError(
            f"the agent has no tool {tool!r}",
            where=suite.where(scenario.id, *location, "tool"),
            hint=_suggest(tool, list(usable)),
        )
    properties = usable[tool].input.get("properties", {})
    for name in arguments:
        if name not in properties:
            raise SuiteError(
                f"{tool!r} has no argument {name!r}",
                where=suite.where(scenario.id, *location, "arguments", name),
                hint=_suggest(name, list(properties)),
            )


def _suggest(name: str, known: Sequence[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"There are: {', '.join(known) or 'none'}."


def _output_problem(contract: ToolContract, output: Mapping[str, Any]) -> str | None:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    error = best_match(Draft202012Validator(contract.output).iter_errors(dict(output)))
    return None if error is None else error.message[:300]


def _make(spec: SuiteFile, source: Path, found: Mapping[str, tuple[Scenario, _Origin]]) -> Suite:
    return Suite(
        name=spec.name,
        scenarios=tuple(_filled(scenario, spec.defaults) for scenario, _ in found.values()),
        source=source,
        description=spec.description,
        agent=spec.agent,
        now=spec.now.astimezone(timezone.utc),
        environment=spec.environment,
        reference=spec.reference,
        origins={case_id: origin for case_id, (_, origin) in found.items()},
    )


def _filled(scenario: Scenario, defaults: Defaults) -> Scenario:
    update: dict[str, Any] = {
        name: getattr(defaults, name)
        for name in ("actor", "max_turns", "max_seconds", "tags")
        if getattr(defaults, name) is not None and name not in scenario.model_fields_set
    }
    if defaults.world:
        update["world"] = {**defaults.world, **scenario.world}
    return scenario.model_copy(update=update) if update else scenario


def _add(found: dict[str, tuple[Scenario, _Origin]], scenario: Scenario, origin: _Origin) -> None:
    if scenario.id in found:
        first = found[scenario.id][1].where("id")
        raise SuiteError(
            f"a second scenario has the id {scenario.id!r} (first: {first})",
            where=origin.where("id"),
            hint="Give each scenario an id of its own.",
        )
    found[scenario.id] = (scenario, origin)


def _read_yaml(path: Path, found: dict[str, tuple[Scenario, _Origin]]) -> None:
    document = read_yaml(path, error=SuiteError)
    for index, scenario in enumerate(
        validate_document(document, ScenarioFile, error=SuiteError).scenarios
    ):
        _add(found, scenario, _Origin(document, ("scenarios", index)))


def _read_jsonl(
    path: Path, found: dict[str, tuple[Scenario, _Origin]], *, may_have_header: bool = False
) -> SuiteFile | None:
    before = len(found)
    header: SuiteFile | None = None
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    document = _parse_line(path, number, line)
                    if may_have_header and number == 1 and "apiVersion" in document.data:
                        header = validate_document(document, SuiteFile, error=SuiteError)
                        continue
                    scenario = validate_document(document, Scenario, error=SuiteError)
                    _add(found, scenario, _Origin(document, ()))
    except UnicodeDecodeError:
        raise SuiteError("is not UTF-8 text", where=str(path)) from None
    except OSError as error:
        raise SuiteError(f"cannot be read: {error.strerror}", where=str(path)) from error
    if len(found) == before:
        raise SuiteError("is empty", where=f"{path}:1", hint="Put one scenario on each line.")
    if header is not None and (header.scenarios or header.files):
        raise SuiteError("the first line must not hold scenarios or files", where=f"{path}:1")
    return header


def _parse_line(path: Path, number: int, line: str) -> YamlDocument:
    where = f"{path}:{number}"
    if len(line) > MAX_LINE_CHARS:
        raise SuiteError(f"is longer than {MAX_LINE_CHARS} characters", where=where)
    try:
        data = json.loads(line, object_pairs_hook=_no_key_twice, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise SuiteError(
            f"is not one JSON object: {error}", where=where, hint="Put one scenario on each line."
        ) from None
    if not isinstance(data, dict):
        raise SuiteError(
            "is not one JSON object", where=where, hint="Put one scenario on each line."
        )
    # Every field of the scenario stands on this one line.
    return YamlDocument(str(path), data, {(): number})


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice")
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _check_suffix(path: Path) -> None:
    if path.suffix not in _SUFFIXES:
        raise SuiteError(
            f"is neither YAML nor JSONL ({path.suffix or 'no suffix'})",
            where=str(path),
            hint="Use .yaml, .yml or .jsonl.",
        )


def _name_of(path: Path) -> str:
    name = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in path.stem)
    return name if name[:1].isalpha() else f"suite-{name}"
