"""Settings: read once, from the environment, with errors that name the variable."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlflow_agent_plugin.config import ENVIRONMENT_VARIABLES, Settings
from mlflow_agent_plugin.errors import ConfigError


def test_nothing_set_gives_the_defaults():
    assert Settings.from_env({}) == Settings()
    assert Settings.from_env({"MLFLOW_AGENTS_STORE_URI": ""}) == Settings()


def test_each_kind_of_value_is_read():
    settings = Settings.from_env(
        {
            "MLFLOW_AGENTS_STORE_URI": "postgresql://db/agents",
            "MLFLOW_AGENTS_KEY_DIR": "~/keys",
            "MLFLOW_AGENTS_MAX_MESSAGE_CHARS": "10",
            "MLFLOW_AGENTS_TRACING": "False",
            "MLFLOW_AGENTS_ACCEPT_EVENT_TIME": "1",
        }
    )
    assert settings.store_uri == "postgresql://db/agents"
    assert settings.key_dir == Path("~/keys").expanduser()
    assert settings.max_message_chars == 10
    assert settings.tracing is False
    assert settings.accept_event_time is True


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many", "١٢", " 5"])
def test_a_number_that_makes_no_sense_is_refused(text):
    with pytest.raises(ConfigError, match="MLFLOW_AGENTS_MAX_MESSAGE_CHARS"):
        Settings.from_env({"MLFLOW_AGENTS_MAX_MESSAGE_CHARS": text})


@pytest.mark.parametrize("text", ["yes", "2", "tru"])
def test_a_switch_that_makes_no_sense_is_refused(text):
    with pytest.raises(ConfigError, match=r"MLFLOW_AGENTS_TRACING: '.*' is not true or false"):
        Settings.from_env({"MLFLOW_AGENTS_TRACING": text})


def test_every_setting_is_documented_in_its_class():
    for name, variable in ENVIRONMENT_VARIABLES.items():
        assert re.search(rf"^\s+{name}:", Settings.__doc__, re.MULTILINE), name
        assert variable in Settings.__doc__, variable
