"""What a reviewer's edit does to a call, as records and policies are told of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from mlflow_agent_plugin.entities import Provenance, ToolCall


def as_edited(
    sent: ToolCall, asked: ToolCall, approved: ToolCall
) -> tuple[ToolCall, dict[str, Any]]:
    """Return the call as records and policies are told of it after an edit, and what was edited.

    Arguments that were left alone stay as the model sent them: records never hold what a filter
    took out of its sight.
    """
    missing = object()
    arguments = {
        name: sent.arguments[name]
        if name in sent.arguments and asked.arguments.get(name, missing) == value
        else value
        for name, value in approved.arguments.items()
    }
    names = {*asked.arguments, *approved.arguments}
    edited = {
        name: approved.arguments.get(name)
        for name in names
        if asked.arguments.get(name, missing) != approved.arguments.get(name, missing)
    }
    return replace(sent, arguments=arguments), edited


def put_by_reviewer(origins: Mapping[str, str], edited: Iterable[str]) -> dict[str, str]:
    """Return where the edited call's arguments come from.

    A value that a reviewer put and that stands nowhere else is his, not the model's. One that
    stands in somebody else's text stays untrusted: he may have copied it from there.
    """
    found = dict(origins)
    for name in edited:
        if found.get(name) == Provenance.MODEL.value:
            found[name] = Provenance.TRUSTED.value
    return found
