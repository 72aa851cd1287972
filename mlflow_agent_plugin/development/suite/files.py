"""Suites from files and into files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timezone
from pathlib import Path
from typing import Any

from mlflow_agent_plugin.development.scenario import Scenario
from mlflow_agent_plugin.development.suite.format import (
    SUITE_FILE,
    Defaults,
    Origin,
    ScenarioFile,
    Suite,
    SuiteFile,
    lines_of,
)
from mlflow_agent_plugin.errors import SuiteError
from mlflow_agent_plugin.package import (
    API_VERSION,
    YamlDocument,
    read_yaml,
    validate_document,
)

MAX_LINE_CHARS = 1_000_000
_SUFFIXES = {".yaml", ".yml", ".jsonl"}


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
    found: dict[str, tuple[Scenario, Origin]] = {}
    if source.suffix == ".jsonl":
        header = _read_jsonl(source, found, may_have_header=True)
        return _make(
            header or SuiteFile(apiVersion=API_VERSION, name=_name_of(source)), source, found
        )
    _check_suffix(source)
    document = read_yaml(source, error=SuiteError)
    spec = validate_document(document, SuiteFile, error=SuiteError)
    for index, scenario in enumerate(spec.scenarios):
        _add(found, scenario, Origin(document, ("scenarios", index)))
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
    _write_lines(lines + lines_of(suite.scenarios), target)


def write_scenarios(scenarios: Sequence[Scenario], path: str | Path) -> None:
    """Write scenarios as JSONL for a suite file to name; the same scenarios give the same bytes.

    Raises:
        SuiteError: The file cannot be written.
    """
    _write_lines(lines_of(sorted(scenarios, key=lambda scenario: scenario.id)), Path(path))


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


def _make(spec: SuiteFile, source: Path, found: Mapping[str, tuple[Scenario, Origin]]) -> Suite:
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


def _add(found: dict[str, tuple[Scenario, Origin]], scenario: Scenario, origin: Origin) -> None:
    if scenario.id in found:
        first = found[scenario.id][1].where("id")
        raise SuiteError(
            f"a second scenario has the id {scenario.id!r} (first: {first})",
            where=origin.where("id"),
            hint="Give each scenario an id of its own.",
        )
    found[scenario.id] = (scenario, origin)


def _read_yaml(path: Path, found: dict[str, tuple[Scenario, Origin]]) -> None:
    document = read_yaml(path, error=SuiteError)
    for index, scenario in enumerate(
        validate_document(document, ScenarioFile, error=SuiteError).scenarios
    ):
        _add(found, scenario, Origin(document, ("scenarios", index)))


def _read_jsonl(
    path: Path, found: dict[str, tuple[Scenario, Origin]], *, may_have_header: bool = False
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
                    _add(found, scenario, Origin(document, ()))
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
