"""A trial's folder: found by whoever began it, by nobody else, and gone after a day."""

from __future__ import annotations

import time

import pytest

from mlflow_agent_plugin.errors import SessionNotFoundError
from mlflow_agent_plugin.interaction.trial.folder import (
    KEPT_SECONDS,
    Trial,
    TrialFolder,
    forget_old,
    new_trial_id,
)
from mlflow_agent_plugin.interaction.trial.talk import MAX_TURNS, Said, Turn


@pytest.fixture
def made(tmp_path):
    content = tmp_path / "content"
    content.mkdir()
    (content / "MLmodel").write_text("flavors: {}")
    base = tmp_path / "trials"
    base.mkdir()
    trial = Trial(trial_id=new_trial_id(), user="ann", tenant="a", model="desk", version=1)
    return TrialFolder.create(trial, content, base=base)


@pytest.mark.parametrize(
    ("trial_id", "user", "tenant"),
    [
        ("", "ann", "a"),
        ("..", "ann", "a"),
        ("../trials", "ann", "a"),
        ("0" * 16, "ann", "a"),
        (None, "rita", "a"),
        (None, "ann", "b"),
    ],
)
def test_nobody_finds_a_trial_that_is_not_his(made, trial_id, user, tenant):
    wanted = made.card().trial_id if trial_id is None else trial_id
    with pytest.raises(SessionNotFoundError):
        TrialFolder.find(wanted, user=user, tenant=tenant, base=made.path.parent)


def test_whoever_began_it_finds_what_was_said(made):
    made.keep(Turn(said=Said(text="hello"), text="hi", outcome="answered"))
    found = TrialFolder.find(made.card().trial_id, user="ann", tenant="a", base=made.path.parent)
    assert [(turn.said.text, turn.text) for turn in found.turns()] == [("hello", "hi")]


def test_a_trial_shows_its_last_turns_only(made):
    for number in range(MAX_TURNS + 3):
        made.keep(Turn(said=Said(text=str(number))))
    assert next(turn.said.text for turn in made.turns()) == "3"
    assert len(made.turns()) == MAX_TURNS


def test_a_quiet_trial_is_forgotten_after_a_day(made):
    base = made.path.parent
    (base / "not-a-trial").mkdir()
    forget_old(base)
    assert made.path.exists()
    forget_old(base, now=time.time() + KEPT_SECONDS + 1)
    assert [item.name for item in base.iterdir()] == ["not-a-trial"]
