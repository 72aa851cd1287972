"""The review console: pages for whoever promotes, answers and looks after agents.

Rules:
- Pages are made on the server and work without JavaScript; htmx only keeps the queues fresh.
- Every page asks who is there (`people.identify`); nothing is shown to nobody.
- Changes are POSTs with the form's token; afterwards the browser is sent to a page it can reload.
- An error is a page in plain words, with the status it deserves; a stack trace never leaves.
"""

from __future__ import annotations

from mlflow_agent_plugin.interaction.web.console.pages import console_app

__all__ = ["console_app"]
