"""Signed load tests: what is claimed follows from the requests, or is refused."""

from __future__ import annotations

import copy
import json
from base64 import b64encode
from datetime import datetime, timezone

import pytest

from mlflow_agent_plugin.errors import EvidenceError
from mlflow_agent_plugin.trust import KeyStore
from mlflow_agent_plugin.trust.evidence import (
    LoadRequest,
    LoadStage,
    check_load,
    load_statement,
    requests_table,
    sign_load,
    verify_evidence,
    verify_load,
)

DIGEST = "sha256:" + "a" * 64
PROFILE = "sha256:" + "b" * 64


def _requests():
    ok = [
        LoadRequest(stage=1, number=n, due=n / 10, seconds=(n + 1) / 100, result="ok", status=200)
        for n in range(99)
    ]
    failed = LoadRequest(
        stage=1, number=99, due=9.9, seconds=5.0, result="server", status=500, limited=2
    )
    ramp = LoadRequest(stage=0, number=0, due=0, seconds=60, result="timeout")
    return [*ok, failed, ramp]


STAGES = [LoadStage(stage=1, model="closed", users=4, seconds=10)]


@pytest.fixture
def keys(tmp_path):
    """A key store of its own."""
    return KeyStore(tmp_path / "keys")


@pytest.fixture
def statement():
    """The statement of a small load test."""
    return load_statement(
        agent="lamps",
        agent_digest=DIGEST,
        profile="steady",
        profile_digest=PROFILE,
        table=requests_table(_requests()),
        stages=STAGES,
        run_id="r",
        measured_at=datetime(2026, 1, 1, tzinfo=timezone.utc),
    )


def _trusted(keys):
    key = keys.signing_key()
    return {key.key_id: key.public_key}


def test_a_level_counts_errors_keeps_their_time_and_leaves_the_ramp_out(keys, statement):
    evidence = verify_load(sign_load(statement, keys.signing_key()), _trusted(keys))

    level = evidence.at(4)

    assert (level.requests, level.errors, level.limited) == (100, 1, 2)
    assert level.error_rate == 0.01
    assert 0.01 < level.error_rate_high < 0.06
    assert (level.p50_seconds, level.p95_seconds, level.max_seconds) == (0.5, 0.95, 5.0)
    assert level.throughput == 9.9
    assert evidence.at(5) is None
    assert check_load(evidence, requests_table(_requests())) == evidence.levels


def test_a_level_without_a_request_proves_nothing(statement):
    del statement
    empty = load_statement(
        agent="lamps", agent_digest=DIGEST, profile="p", profile_digest=PROFILE, table=b"",
        stages=STAGES, run_id="r", measured_at=datetime(2026, 1, 1, tzinfo=timezone.utc),
    )  # fmt: skip
    assert empty["predicate"]["levels"][0]["error_rate"] == 1.0


def test_an_open_level_counts_the_requests_in_flight():
    stages = [LoadStage(stage=1, model="open", rate=10.0, seconds=10)]
    text = load_statement(
        agent="lamps", agent_digest=DIGEST, profile="p", profile_digest=PROFILE,
        table=requests_table(_requests()), stages=stages, run_id="r",
        measured_at=datetime(2026, 1, 1, tzinfo=timezone.utc),
    )  # fmt: skip
    # 0.01 + ... + 0.99 + 5 seconds of work in 10 seconds
    assert text["predicate"]["levels"][0]["concurrency"] == 5


@pytest.mark.parametrize(
    ("field", "value"),
    [("p95_seconds", 0.1), ("errors", 0), ("concurrency", 400), ("throughput", 1e6)],
)
def test_a_number_that_does_not_follow_from_the_requests_is_refused(keys, statement, field, value):
    lie = copy.deepcopy(statement)
    lie["predicate"]["levels"][0][field] = value
    evidence = verify_load(sign_load(lie, keys.signing_key()), _trusted(keys))

    with pytest.raises(EvidenceError, match="do not follow"):
        check_load(evidence, requests_table(_requests()))


def test_other_requests_other_content_other_keys_and_altered_bytes_are_refused(
    keys, statement, tmp_path
):
    envelope = sign_load(statement, keys.signing_key())
    evidence = verify_load(envelope, _trusted(keys), agent_digest=DIGEST)

    with pytest.raises(EvidenceError, match="not the ones that were signed"):
        check_load(evidence, requests_table(_requests()[:-1]))
    with pytest.raises(EvidenceError, match="not about"):
        verify_load(envelope, _trusted(keys), agent_digest=PROFILE)
    with pytest.raises(EvidenceError, match="not trusted"):
        verify_load(envelope, _trusted(KeyStore(tmp_path / "other")))
    altered = json.dumps(statement).replace('"errors": 1', '"errors": 0').encode()
    with pytest.raises(EvidenceError, match="altered"):
        verify_load({**envelope, "payload": b64encode(altered).decode()}, _trusted(keys))


def test_load_evidence_never_passes_as_evaluation_evidence(keys, statement):
    with pytest.raises(EvidenceError):
        verify_evidence(sign_load(statement, keys.signing_key()), _trusted(keys))


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.pop("subject"),
        lambda s: s["predicate"].pop("stages"),
        lambda s: s["predicate"].update(stages=[]),
        lambda s: s["predicate"].update(extra=1),
        lambda s: s["predicate"].update(measuredAt="2026-01-01T00:00:00"),
        lambda s: s["predicate"]["levels"].clear(),
        lambda s: s.update(predicateType="urn:mlflow-agent-plugin:evidence:v1"),
    ],
)
def test_a_malformed_statement_is_not_signed(keys, statement, change):
    change(statement)
    with pytest.raises(EvidenceError):
        sign_load(statement, keys.signing_key())


def test_a_table_with_a_request_twice_is_refused():
    rows = [_requests()[0], _requests()[0]]
    with pytest.raises(EvidenceError, match="twice"):
        load_statement(
            agent="lamps", agent_digest=DIGEST, profile="p", profile_digest=PROFILE,
            table=requests_table(rows), stages=STAGES, run_id="r",
            measured_at=datetime(2026, 1, 1, tzinfo=timezone.utc),
        )  # fmt: skip
