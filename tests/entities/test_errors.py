"""Every error: one line that says where, what and what to do; the right code for MLflow's clients."""

from __future__ import annotations

import inspect
import pickle

import pytest

from mlflow_agent_plugin import errors
from mlflow_agent_plugin.errors import AgentError, GateRefusedError, as_mlflow

KINDS = [
    kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, AgentError)
]


def test_an_error_says_where_what_and_what_to_do():
    error = AgentError("is empty.", where="agent.yaml:3", hint="Fill it in.")
    assert str(error) == "agent.yaml:3: is empty. Fill it in."
    assert str(AgentError("is empty")) == "is empty"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_survives_its_way_to_another_process(kind):
    error = kind("problem", where="there", hint="Do this.")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (copy.problem, copy.where, copy.hint) == ("problem", "there", "Do this.")
    assert str(copy) == str(error)


def test_a_refusal_keeps_its_report_on_the_way():
    error = GateRefusedError("no", report={"met": False})
    assert pickle.loads(pickle.dumps(error)).report == {"met": False}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_has_a_code_mlflow_knows_and_a_docstring(kind):
    exception = as_mlflow(kind("problem", hint="Do this."))
    assert exception.error_code == kind.error_code
    assert exception.message == "problem. Do this."
    assert exception.get_http_status_code() in {400, 401, 403, 404, 409, 429, 500, 503}
    assert (kind.__doc__ or "").strip()


def test_importing_errors_does_not_import_mlflow():
    import subprocess
    import sys

    code = "import sys, mlflow_agent_plugin.errors; assert 'mlflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
