"""Trying a version: a conversation with it, in a world of its own.

`folder` is what a trial is on disk, `worker` the process that runs the version, `desk` what a
server starts and asks.
"""

from __future__ import annotations

from mlflow_agent_plugin.interaction.trial.desk import TrialDesk
from mlflow_agent_plugin.interaction.trial.folder import Trial, TrialFolder
from mlflow_agent_plugin.interaction.trial.talk import Call, Question, Said, Step, Turn

__all__ = ["Call", "Question", "Said", "Step", "Trial", "TrialDesk", "TrialFolder", "Turn"]
