"""Tells people outside: signed webhooks and Slack's messages about what waits for an answer.

mlflow-agents notices run --targets notices.yaml
"""
