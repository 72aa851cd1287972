"""The store as a client of MLflow meets it."""

from __future__ import annotations

import pytest
from mlflow.exceptions import MlflowException

from mlflow_agent_plugin.registry import (
    approve,
    gate_report,
    history,
    promote,
    reject,
    request_promotion,
    rollback,
)


def test_an_agent_without_evidence_is_refused_with_the_list_of_what_is_missing(world):
    version = world.register("one")
    with pytest.raises(MlflowException) as caught:
        promote("shelf", version, to="Production", client=world.client)
    assert caught.value.error_code == "PERMISSION_DENIED"
    text = str(caught.value)
    assert "suite shelf" in text
    assert "approvals" in text
    assert world.client.get_model_version("shelf", "1").current_stage == "None"


def test_with_evidence_and_an_approval_mlflows_own_transition_goes_through(world):
    version = world.register("one")
    world.ready(version)
    world.client.transition_model_version_stage("shelf", str(version), "production")
    assert world.client.get_model_version("shelf", "1").current_stage == "Production"
    assert [entry.kind for entry in history("shelf", "Production", client=world.client)] == [
        "promoted"
    ]
