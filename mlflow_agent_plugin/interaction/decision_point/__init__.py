"""The policy engine over HTTP, for tools and gateways that are not Python.

- `service`: one request to one answer, without HTTP.
- `app`: the HTTP around it.

`mlflow-agents policy serve BUNDLE` runs it.
"""
