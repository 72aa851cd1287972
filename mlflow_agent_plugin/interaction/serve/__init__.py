"""The front end before served agents: HTTP with login, OpenAI's formats, approvals, metrics.

    mlflow-agents serve support=models:/support/Production --keys keys.yaml

State lies in the runtime store: any number of these processes can stand behind a balancer.
"""
