"""The main job: one agent from source to production, through drift, and back.

Everything in it is real: real customer queries, a trained planner, a gated registry, a model served
by `mlflow models serve` in a process of its own, a DVC pipeline. What it makes stays in one folder.
"""

from __future__ import annotations

from mlflow_agent_plugin.interaction.demo.run import run_demo

__all__ = ["run_demo"]
