"""Pytest plugin: MLflow's own tests on a machine without a name server, and not a fast one.

MLflow refuses a webhook whose host does not resolve, or resolves to a private address; its tests
register ``https://example.com`` and send nothing there. The servers of its webhook tests have ten
seconds to start; here they have two minutes.
"""

from __future__ import annotations

import socket
from typing import Any

import pytest

PUBLIC_ADDRESS = "93.184.215.14"

_look_up = socket.getaddrinfo


def _look_up_or_pretend(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return _look_up(host, port, *args, **kwargs)
    except socket.gaierror:
        if not str(host).endswith("example.com"):
            raise
        return _look_up(PUBLIC_ADDRESS, port, *args, **kwargs)


socket.getaddrinfo = _look_up_or_pretend


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let a server start as long as the machine takes."""
    for module in {item.module for item in items if isinstance(item, pytest.Function)}:
        wait = getattr(module, "wait_until_ready", None)
        if wait is not None:
            wait.__defaults__ = (120,)
