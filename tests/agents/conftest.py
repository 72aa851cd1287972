"""Parts of the support agent that several test files need."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
SUPPORT = ROOT / "agents" / "support"
TODAY = "2026-01-15"


@pytest.fixture(scope="session")
def support():
    """The bundle as it stands in the repository, its planner trained or not."""
    from mlflow_agent_plugin.package import load_bundle

    return load_bundle(SUPPORT)


@pytest.fixture(scope="session")
def part(support):
    """Return a function that imports one name of the bundle's own code."""
    from mlflow_agent_plugin.package.importing import import_entry_point

    return lambda entry_point: import_entry_point(support, entry_point)


@pytest.fixture
def open_bank(part):
    """Return a function that opens a seeded bank; all are closed afterwards."""
    opened = []

    def open_one(**settings):
        bank = part("bank:open_bank")({"path": ":memory:", "today": TODAY, **settings})
        opened.append(bank)
        return bank

    yield open_one
    for bank in opened:
        bank.close()


@pytest.fixture
def bank(open_bank):
    return open_bank()


@pytest.fixture
def use(part):
    """Return a function that runs one tool as `user` on `bank`."""

    def run(name, bank, user="amira", key="s:call", knowledge=None, **arguments):
        context = SimpleNamespace(
            actor=SimpleNamespace(user=user),
            session_id="s",
            idempotency_key=key,
            resources=bank,
            knowledge=knowledge,
            now=None,
        )
        return part(f"tools:{name}")(context, **arguments)

    return run


@pytest.fixture(scope="session")
def trained_support(tmp_path_factory):
    """A copy of the bundle whose planner is trained on the project's own small data set."""
    from mlflow_agent_plugin.foundation import train_planner
    from mlflow_agent_plugin.package import load_bundle
    from pipelines.data import SMALL_SET, read_labelled

    copy = tmp_path_factory.mktemp("support") / "support"
    shutil.copytree(SUPPORT, copy, ignore=shutil.ignore_patterns("__pycache__", "planner"))
    examples = read_labelled(SMALL_SET / "train.csv")
    planner = train_planner(examples["text"].tolist(), examples["category"].tolist())
    planner.save(copy / "model" / "planner")
    return load_bundle(copy)
