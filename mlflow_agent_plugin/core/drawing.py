"""The picture of an agent's graph, as LangGraph itself draws it.

Rules:
- It is drawn when the agent is logged, where its code runs anyway, and kept in MLmodel: whoever
  reviews a version sees the graph without running anything of it.
- A graph LangGraph cannot draw is no worse an agent: it has no picture.
- The picture is the author's statement about his code. What counts is the code, and its diff.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph

_logger = logging.getLogger(__name__)

MAX_GRAPH_CHARS = 50_000
"""As long as the drawings that mermaid itself takes."""


def draw_graph(graph: CompiledStateGraph[Any, Any, Any, Any]) -> str:
    """Return the graph in mermaid's language, empty if it cannot be drawn or is too large."""
    try:
        drawn = str(graph.get_graph().draw_mermaid())
    except Exception:
        # Subclasses of the author's may raise anything.
        _logger.warning("The graph cannot be drawn", exc_info=True)
        return ""
    return drawn if len(drawn) <= MAX_GRAPH_CHARS else ""
