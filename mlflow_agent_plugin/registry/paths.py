# ruff: noqa: E501 - the table reads best with one method a line
"""How every public method of MLflow's registry store is treated when the model is gated.

    python -m mlflow_agent_plugin.registry.paths > docs/reference/registry-paths.md

A test compares this table with the store of the installed MLflow: a method that is not here has not
been thought about, and fails it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType


class Treatment(str, Enum):
    """What happens with a call."""

    GATED = "gated"
    REFUSED = "refused where it matters"
    VERIFIED = "verified"
    THROUGH = "through another"
    HARMLESS = "as in MLflow"


_G, _R, _V, _T, _H = (
    Treatment.GATED,
    Treatment.REFUSED,
    Treatment.VERIFIED,
    Treatment.THROUGH,
    Treatment.HARMLESS,
)

# fmt: off
PATHS: Mapping[str, tuple[Treatment, str]] = MappingProxyType(
    {
        "transition_model_version_stage": (_G, "Into a protected stage: by the gate; the version there before is archived. Out of one: refused, except to a higher stage that opens."),
        "set_registered_model_alias": (_G, "A protected alias: by the gate. A spelling a database might take for one: refused."),
        "delete_registered_model_alias": (_R, "A protected alias that points somewhere: refused."),
        "create_model_version": (_G, "Agents only: content is read, checked, copied to the vault and recorded. Anything else, and tags below `agent.`, are refused."),
        "copy_model_version": (_T, "`create_model_version`: a copy is a new version like any other."),
        "delete_model_version": (_R, "A version a protected slot points to: refused."),
        "update_model_version": (_H, "Changes the description only."),
        "get_model_version": (_H, "Reads metadata."),
        "get_model_version_download_uri": (_V, "Leads to the registry's own copy, checked against the recorded digest before it is handed out."),
        "get_model_version_by_alias": (_V, "A protected alias: what MLflow's row says must be what the history says."),
        "get_latest_versions": (_V, "A protected stage: what MLflow's rows say must be what the history says."),
        "search_model_versions": (_H, "Reads metadata."),
        "set_model_version_tag": (_R, "Below `agent.`: a command or refused. Prompt marker: refused. Guarded tags: by reviewers."),
        "delete_model_version_tag": (_R, "Below `agent.`: refused. Guarded tags: by reviewers."),
        "create_registered_model": (_R, "A name that was gated before keeps its gate; prompt marker and `agent.` tags: refused."),
        "update_registered_model": (_H, "Changes the description only."),
        "rename_registered_model": (_R, "A gated model, or onto a gated name: refused."),
        "delete_registered_model": (_R, "While a protected slot points somewhere: refused. The name keeps its gate."),
        "get_registered_model": (_H, "Reads metadata."),
        "search_registered_models": (_H, "Reads metadata."),
        "set_registered_model_tag": (_R, "Below `agent.`: a command or refused. Prompt marker: refused. Guarded tags: by reviewers."),
        "delete_registered_model_tag": (_R, "Below `agent.`: refused. Guarded tags: by reviewers."),
        "create_prompt": (_T, "`create_registered_model`."),
        "create_prompt_version": (_T, "`create_model_version`: a prompt is no agent and is refused."),
        "delete_prompt": (_T, "`delete_registered_model`."),
        "delete_prompt_alias": (_T, "`delete_registered_model_alias`."),
        "delete_prompt_tag": (_T, "`delete_registered_model_tag`."),
        "delete_prompt_version": (_T, "`delete_model_version`."),
        "delete_prompt_version_tag": (_T, "`delete_model_version_tag`."),
        "set_prompt_alias": (_T, "`set_registered_model_alias`. Prompts' own aliases move freely: an agent loads the prompt texts of its bundle, which its digest covers."),
        "set_prompt_tag": (_T, "`set_registered_model_tag`."),
        "set_prompt_version_tag": (_T, "`set_model_version_tag`."),
        "get_prompt": (_H, "Reads metadata."),
        "get_prompt_version": (_H, "Reads metadata."),
        "get_prompt_version_by_alias": (_H, "Reads metadata."),
        "search_prompts": (_H, "Reads metadata."),
        "search_prompt_versions": (_H, "Reads metadata."),
        "link_prompt_version_to_model": (_H, "Writes a tag in the tracking store."),
        "link_prompt_version_to_run": (_H, "Writes a tag in the tracking store."),
        "link_prompts_to_trace": (_H, "Writes a tag in the tracking store."),
        "create_webhook": (_H, "A webhook tells of changes that took place; it changes nothing."),
        "update_webhook": (_H, "As `create_webhook`."),
        "delete_webhook": (_H, "As `create_webhook`."),
        "get_webhook": (_H, "Reads metadata."),
        "list_webhooks": (_H, "Reads metadata."),
        "list_webhooks_by_event": (_H, "Reads metadata."),
        "test_webhook": (_H, "Sends a sample that names no model of ours."),
    }
)
# fmt: on
"""Method name to its treatment and what that means."""


_PAGE = """# Every way into the registry

What each public method of MLflow's registry store does to a **gated** model: one that ever had an
agent version. REST, the MLflow UI, `MlflowClient`, the command line and clients in other languages
all end in these methods. Ordinary models are treated as in MLflow, everywhere.

Generated by `python -m mlflow_agent_plugin.registry.paths`; a test fails when the installed MLflow
has a method that is not here.

| method | treatment | what that means |
|---|---|---|
{rows}

Besides the store, a server with this registry refuses writes and deletes of artifacts in
`agent-registry/`, where the registry keeps its own copies.
"""


def as_markdown() -> str:
    """Return the table as the reference page."""
    rows = [
        f"| `{name}` | {treatment.value} | {meaning} |"
        for name, (treatment, meaning) in sorted(PATHS.items())
    ]
    return _PAGE.format(rows="\n".join(rows))


if __name__ == "__main__":
    sys.stdout.write(as_markdown())
