"""An agent's graph is drawn when it is logged, and a graph that cannot be drawn is no error."""

from __future__ import annotations

from helpers.command_line import write_shelf

from mlflow_agent_plugin.core.drawing import MAX_GRAPH_CHARS, draw_graph
from mlflow_agent_plugin.core.validation import validate_and_draw
from mlflow_agent_plugin.interaction.templates import write_agent
from mlflow_agent_plugin.interaction.web.console.agents import plain_graph


class Odd:
    """A graph of an author's own making."""

    def __init__(self, drawn):
        self.drawn = drawn

    def get_graph(self):
        if self.drawn is None:
            raise RecursionError("I draw nothing")
        return self

    def draw_mermaid(self):
        return self.drawn


def test_a_graph_that_cannot_be_drawn_has_no_drawing():
    assert draw_graph(Odd(None)) == ""
    assert draw_graph(Odd("x" * (MAX_GRAPH_CHARS + 1))) == ""
    assert draw_graph(Odd("graph TD;")) == "graph TD;"


def test_the_drawing_names_every_node_and_is_the_same_each_time(tmp_path):
    folder, _ = write_agent("desk", tmp_path)
    _, drawn = validate_and_draw(folder)
    for part in ("__start__", "model", "tools", "find_order", "__end__"):
        assert part in drawn
    assert validate_and_draw(folder)[1] == drawn


def test_a_page_gets_the_drawing_without_markup_and_colours(tmp_path):
    _, drawn = validate_and_draw(write_agent("desk", tmp_path)[0])
    shown = plain_graph(drawn)
    assert "tools<br/>find_order, cancel_order" in shown
    for part in ("<p>", "<em>", "classDef", ":::"):
        assert part not in shown


def test_a_saved_model_holds_the_drawing_beside_its_digest(tmp_path):
    import yaml

    from mlflow_agent_plugin.core.flavor import save_agent

    save_agent(write_shelf(tmp_path / "shelf"), tmp_path / "model")
    flavor = yaml.safe_load((tmp_path / "model" / "MLmodel").read_text())["flavors"]["agent"]
    assert "graph TD" in flavor["graph"]
