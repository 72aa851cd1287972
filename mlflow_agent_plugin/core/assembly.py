"""From a verified bundle to a compiled graph whose tools are governed.

Rules:
- Every part of the bundle is checked before any of its code runs; every failure of its code becomes
  one error that names the entry point.
- The graph runs only with the checkpointer the host chose.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.core.context import Govern, GraphContext, describe_tools
from mlflow_agent_plugin.errors import AgentError, BundleError, ConfigError, GraphError
from mlflow_agent_plugin.package import import_entry_point

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.graph.state import CompiledStateGraph

    from mlflow_agent_plugin.foundation.usage import ModelMeter
    from mlflow_agent_plugin.information import KnowledgeIndex
    from mlflow_agent_plugin.package import Bundle

ToolWrapper = Callable[[str, Callable[..., Any]], Callable[..., Any]]
"""Takes a tool's name and function, returns the function to run instead (faults in evaluation)."""


def load_functions(
    bundle: Bundle, wrapper: ToolWrapper | None = None
) -> dict[str, Callable[..., Any]]:
    """Return the Python function of every usable tool.

    Raises:
        BundleError: An entry point is missing or not callable.
    """
    usable = set(bundle.manifest.usable_tools())
    functions: dict[str, Callable[..., Any]] = {}
    for index, tool in enumerate(bundle.manifest.tools.python):
        function = import_entry_point(bundle, tool.entry_point)
        if not callable(function):
            raise BundleError(
                f"{tool.entry_point!r} is not a function",
                where=f"{bundle.root}/agent.yaml: tools.python[{index}].entry_point",
            )
        if tool.name in usable:
            functions[tool.name] = function if wrapper is None else wrapper(tool.name, function)
    return functions


def load_knowledge(bundle: Bundle) -> KnowledgeIndex | None:
    """Return the bundle's knowledge index, None if it has no knowledge base."""
    folder = bundle.knowledge_dir()
    spec = bundle.manifest.retrieval
    if folder is None or spec is None:
        return None
    from mlflow_agent_plugin.information import KnowledgeIndex

    return KnowledgeIndex.build(folder, spec)


def open_resources(bundle: Bundle, overrides: Mapping[str, Any] | None = None) -> Any:
    """Open what the bundle's tools reach the world through.

    Args:
        bundle: The agent.
        overrides: Settings over the manifest's ``tools.resource_settings``.

    Raises:
        BundleError: The factory fails.
    """
    entry_point = bundle.manifest.tools.resources
    if entry_point is None:
        return None
    factory = import_entry_point(bundle, entry_point)
    settings = {**bundle.manifest.tools.resource_settings, **(overrides or {})}
    try:
        return factory(settings)
    except AgentError:
        raise
    except Exception as error:
        raise BundleError(
            f"{entry_point!r} failed: {type(error).__name__}: {error}",
            where=f"{bundle.root}/agent.yaml: tools.resources",
            hint="Check tools.resource_settings and MLFLOW_AGENTS_RESOURCES.",
        ) from error


def parse_resource_overrides(text: str | None) -> dict[str, Any]:
    """Parse the value of ``MLFLOW_AGENTS_RESOURCES``.

    Raises:
        ConfigError: It is not a JSON object.
    """
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"is not JSON: {error}", where="MLFLOW_AGENTS_RESOURCES") from error
    if not isinstance(value, dict):
        raise ConfigError("is not a JSON object", where="MLFLOW_AGENTS_RESOURCES")
    return value


def build_graph(
    bundle: Bundle,
    *,
    govern: Govern,
    knowledge: KnowledgeIndex | None,
    checkpointer: BaseCheckpointSaver[Any],
    checking: bool = False,
    meter: ModelMeter | None = None,
    model: BaseChatModel | None = None,
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Build the bundle's graph with governed tools and the given checkpointer.

    `checking` builds it without the provider's key: only a call of the model needs that. `meter`
    is asked before each call of the model. `model` plans in place of the manifest's (evaluation).

    Raises:
        GraphError: The entry point fails, or returns something that is not a graph.
    """
    from langgraph.graph import StateGraph
    from langgraph.graph.state import CompiledStateGraph

    from mlflow_agent_plugin.foundation import build_chat_model

    manifest = bundle.manifest
    where = f"{bundle.root}/agent.yaml: graph.entry_point"
    context = GraphContext(
        model=model or build_chat_model(manifest.model, bundle, checking=checking, meter=meter),
        tools=describe_tools([bundle.contracts[name] for name in manifest.usable_tools()]),
        prompts=bundle.prompts,
        knowledge=knowledge,
        settings=manifest.graph.settings,
        manifest=manifest,
        checkpointer=checkpointer,
        govern=govern,
    )
    build = import_entry_point(bundle, manifest.graph.entry_point)
    try:
        graph = build(context)
        if isinstance(graph, StateGraph):
            graph = graph.compile(checkpointer=checkpointer)
    except AgentError:
        raise
    except Exception as error:
        raise GraphError(
            f"{manifest.graph.entry_point!r} failed: {type(error).__name__}: {error}", where=where
        ) from error
    if not isinstance(graph, CompiledStateGraph):
        raise GraphError(
            f"{manifest.graph.entry_point!r} returned {type(graph).__name__}",
            where=where,
            hint="Return a LangGraph StateGraph or a compiled graph.",
        )
    if graph.checkpointer is not checkpointer:
        # A graph compiled without the host's checkpointer would forget its approvals.
        graph = graph.copy({"checkpointer": checkpointer})
    return graph
