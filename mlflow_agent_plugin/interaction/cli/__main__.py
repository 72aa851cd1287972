"""`python -m mlflow_agent_plugin.interaction.cli` is `mlflow-agents` without its script."""

from mlflow_agent_plugin.interaction.cli import main

if __name__ == "__main__":
    main(prog_name="mlflow-agents")
