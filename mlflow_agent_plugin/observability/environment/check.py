"""`check_environment`: read every source, compare it with what was pinned."""

from __future__ import annotations

from collections.abc import Iterator

from mlflow_agent_plugin.entities import Clock, utc_now
from mlflow_agent_plugin.errors import AgentError, ConfigError, DataError
from mlflow_agent_plugin.observability.environment.compare import (
    Pins,
    compare_knowledge,
    compare_tool,
    unknown_part,
)
from mlflow_agent_plugin.observability.environment.live import (
    read_knowledge,
    read_mcp,
    read_openapi,
)
from mlflow_agent_plugin.observability.environment.sources import (
    EnvironmentSources,
    KnowledgeSource,
    McpSource,
    OpenApiSource,
    Source,
    shown_place,
)
from mlflow_agent_plugin.observability.environment.verdict import (
    EnvironmentPart,
    EnvironmentVerdict,
    PartKind,
)


def check_environment(
    pins: Pins, sources: EnvironmentSources, *, clock: Clock = utc_now
) -> EnvironmentVerdict:
    """Compare the tools and the knowledge outside with what a version pinned.

    A source that cannot be read makes its parts unknown; the others are still compared.

    Args:
        pins: What the version was built against (`Pins.of_bundle`).
        sources: Where to look.
        clock: Source of time.

    Raises:
        ConfigError: A source names a tool the agent has not, or knowledge where it has none.
    """
    parts: list[EnvironmentPart] = []
    for source in sources.sources:
        place = shown_place(source)
        if isinstance(source, KnowledgeSource):
            parts.append(_look_at_knowledge(pins, source, place))
        else:
            parts += _look_at_tools(pins, source, place)
    seen = {part.name for part in parts if part.kind is PartKind.TOOL}
    return EnvironmentVerdict(
        agent=pins.agent,
        agent_digest=pins.agent_digest,
        checked_at=clock().isoformat(),
        parts=tuple(parts),
        unwatched=tuple(name for name in pins.contracts if name not in seen),
    )


def _look_at_knowledge(pins: Pins, source: KnowledgeSource, place: str) -> EnvironmentPart:
    if pins.knowledge is None:
        raise ConfigError(f"{pins.agent} has no knowledge base", where=place)
    try:
        live = read_knowledge(source)
    except DataError as error:
        return unknown_part(PartKind.KNOWLEDGE, "knowledge", source=place, why=error.problem)
    return compare_knowledge(pins.knowledge, live, name="knowledge", source=place)


def _look_at_tools(pins: Pins, source: Source, place: str) -> Iterator[EnvironmentPart]:
    assert not isinstance(source, KnowledgeSource)
    named = _named(source)
    stray = sorted(set(named or ()) - set(pins.contracts))
    if stray:
        raise ConfigError(f"{pins.agent} has no tool {stray[0]}", where=place)
    watched = list(named) if named is not None else list(pins.contracts)
    try:
        found = read_openapi(source) if isinstance(source, OpenApiSource) else read_mcp(source)
    except DataError as error:
        yield from (
            unknown_part(PartKind.TOOL, tool, source=place, why=error.problem) for tool in watched
        )
        return
    for tool in watched:
        live = found.get(tool)
        if isinstance(live, AgentError):
            yield unknown_part(PartKind.TOOL, tool, source=place, why=live.problem)
        elif live is not None or named is not None:
            yield compare_tool(pins.contracts[tool], live, source=place)


def _named(source: Source) -> dict[str, str] | None:
    if isinstance(source, OpenApiSource):
        return dict(source.operations)
    if isinstance(source, McpSource) and source.tools is not None:
        return dict(source.tools)
    return None
