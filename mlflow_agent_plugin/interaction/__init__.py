"""What people and systems touch.

- `interaction.cli`: the command line, `mlflow-agents`, with MLflow's server and its users.
- `interaction.templates`: the agent `mlflow-agents init` starts people off with.
- `interaction.demo`: the whole loop once, on real customer queries.
"""
