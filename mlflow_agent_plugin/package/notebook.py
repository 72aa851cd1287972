"""A bundle as a notebook shows it; every value is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow_agent_plugin.package.bundle import Bundle

_COLOURS = {"read": "#1a7f37", "write": "#9a6700", "irreversible": "#b42318"}


def bundle_html(bundle: Bundle) -> str:
    """Return what an agent is as an HTML fragment."""
    manifest = bundle.manifest
    usable = set(manifest.usable_tools())
    facts = (
        ("goal", manifest.workflow.goal),
        ("risk", manifest.workflow.risk_level.value),
        ("model", f"{manifest.model.provider} / {manifest.model.name}"),
        ("digest", bundle.digest.value),
    )
    tools = [
        (
            escape(name),
            escape(str(contract.version)),
            _effect(contract.effect.value),
            escape(contract.risk.value),
            escape(" ".join(contract.description.split())),
        )
        for name, contract in bundle.contracts.items()
        if name in usable
    ]
    parts = [
        (escape(name), f"<code>{escape(value[:19])}…</code>")
        for name, value in bundle.digest.components.items()
    ]
    listed = "".join(f"<li><b>{name}</b>: {escape(text)}</li>" for name, text in facts)
    return (
        f"<p><b>{escape(manifest.name)}</b>: {escape(' '.join(manifest.description.split()))}</p>"
        f"<ul>{listed}</ul>"
        f"{_table(('tool', 'contract', 'effect', 'risk', 'does'), tools)}"
        f"<details><summary>{len(bundle.digest.files)} files in {len(parts)} components</summary>"
        f"{_table(('component', 'digest'), parts)}</details>"
    )


def _effect(effect: str) -> str:
    return f"<span style='color:{_COLOURS.get(effect, 'inherit')}'>{escape(effect)}</span>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    titles = "".join(f"<th style='text-align:left'>{name}</th>" for name in head)
    lines = "".join(
        "<tr>" + "".join(f"<td style='text-align:left'>{cell}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table>"
