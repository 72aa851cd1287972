"""Further entity types by Presidio: found by pattern, offline, or refused."""

import logging
import socket

import pytest
from pydantic import ValidationError

from mlflow_agent_plugin.errors import ConfigError
from mlflow_agent_plugin.package.manifest import PresidioSpec
from mlflow_agent_plugin.trust.privacy.presidio import PresidioFinder

pytest.importorskip("presidio_analyzer")

NHS = "NHS number 943 476 5919"


@pytest.fixture(scope="module")
def finder():
    """Open Presidio once, with every way to the network closed."""
    real = socket.socket.connect

    def refuse(*_):
        raise AssertionError("Presidio reached for the network")

    socket.socket.connect = refuse
    try:
        yield PresidioFinder(PresidioSpec(entities=["UK_NHS", "CRYPTO"]))
    finally:
        socket.socket.connect = real


def test_a_wanted_type_is_found_by_its_pattern_and_checksum(finder):
    [found] = finder.find(NHS, frozenset({"UK_NHS"}))
    assert (found.data_class, NHS[found.start : found.end]) == ("UK_NHS", "943 476 5919")
    assert finder.find(NHS.replace("5919", "5918"), frozenset({"UK_NHS"})) == []
    assert finder.find(NHS, frozenset({"CRYPTO"})) == []


def test_a_search_that_was_cut_short_is_an_error_not_a_pass(finder, monkeypatch):
    import presidio_analyzer.pattern_recognizer as module

    monkeypatch.setattr(module, "REGEX_TIMEOUT_SECONDS", 1e-9)
    with pytest.raises(TimeoutError):
        finder.find("943 476 5919 " * 20_000, frozenset({"UK_NHS"}))


def test_its_log_does_not_repeat_the_text(finder, caplog):
    logging.getLogger("presidio-analyzer").error("Failed to validate text %s", NHS)
    assert NHS not in caplog.text


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"entities": ["PERSON"]}, "cannot find PERSON"),
        ({"entities": ["NONSENSE"]}, "cannot find NONSENSE"),
        ({"entities": ["PERSON"], "model": "no_such_model"}, "not installed"),
    ],
)
def test_what_cannot_be_found_here_is_refused_when_the_agent_opens(spec, problem):
    with pytest.raises(ConfigError, match=problem):
        PresidioFinder(PresidioSpec(**spec))


def test_a_type_with_a_class_of_our_own_is_refused():
    with pytest.raises(ValidationError, match="card"):
        PresidioSpec(entities=["CREDIT_CARD"])
