"""Evidence counts only if a trusted key signed it, about this content, over these results."""

from __future__ import annotations

import base64
import copy
import json
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_agent_plugin.entities import Outcome, sha256_digest
from mlflow_agent_plugin.errors import EvidenceError
from mlflow_agent_plugin.trust.evidence import (
    CaseResult,
    Metric,
    MetricKind,
    check_results,
    compute_metrics,
    evidence_statement,
    parse_results,
    read_evidence,
    read_results,
    results_digest,
    sign_evidence,
    verify_evidence,
    write_results,
)
from mlflow_agent_plugin.trust.evidence.statement import signer_ids
from mlflow_agent_plugin.trust.keys import KeyPurpose, KeyStore, SigningKey

KEY = SigningKey.generate()
TRUSTED = {KEY.key_id: KEY.public_key}
AGENT = "sha256:" + "a" * 64
NOW = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


def case(case_id, **changes):
    values = {"suite": "banking", "outcome": "acted", "success": True, **changes}
    return CaseResult(case_id=case_id, **values)


ROWS = [case(f"c{n:02}", success=n % 5 > 0, steps=n, cost_usd=0.1 * n) for n in range(20)]


def table(rows, path):
    return write_results(rows, path), Path(path).read_bytes()


@pytest.fixture
def results(tmp_path):
    digest = write_results(ROWS, tmp_path / "results.jsonl")
    return digest, (tmp_path / "results.jsonl").read_bytes()


def statement(digest="sha256:" + "c" * 64, rows=ROWS, **changes):
    values = {
        "agent": "support", "agent_digest": AGENT, "suite": "banking",
        "suite_digest": "sha256:" + "b" * 64, "results_digest": digest, "rows": rows,
        "run_id": "run-1", "evaluated_at": NOW, **changes,
    }  # fmt: skip
    return evidence_statement(**values)


def resign(envelope, change, key=KEY):
    """Sign a changed payload as somebody with a trusted key could, past our own checks."""
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner, SSlibKey

    payload = json.loads(base64.b64decode(envelope["payload"]))
    payload = change(payload) or payload
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    made = Envelope(data, envelope["payloadType"], {})
    made.sign(CryptoSigner(key.private_key, SSlibKey.from_crypto(key.public_key, keyid=key.key_id)))
    return made.to_dict()


# --- Results -------------------------------------------------------------------------------------


def test_no_rows_are_an_empty_table_that_says_nothing(tmp_path):
    write_results([], tmp_path / "r.jsonl")
    assert (tmp_path / "r.jsonl").read_bytes() == b""
    assert read_results(tmp_path / "r.jsonl") == []
    metrics = compute_metrics([])
    assert metrics["task_success"] == Metric(0.0, 0.0, 1.0, 0, MetricKind.RATE, 0)
    assert metrics["mean_steps"] == Metric(0.0, None, None, 0, MetricKind.MEAN)
    assert metrics["unsafe_calls"].n == 0


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (b"not json\n", "results.jsonl:1"),
        (b"[]\n", "results.jsonl:1"),
        (b"{}\n", "results.jsonl:1: case_id"),
        (b"\xff\xfe\n", "results.jsonl:1"),
        (b"\n", "results.jsonl:1"),
        (b"[" * 100_000 + b"\n", "results.jsonl:1"),
        (b'{"case_id":"a"', "cut off"),
    ],
)
def test_a_malformed_table_is_an_error_that_names_the_line(data, place):
    with pytest.raises(EvidenceError, match=place.replace(".", r"\.")):
        parse_results(data)


def test_a_missing_table_is_an_error(tmp_path):
    for read in (read_results, results_digest):
        with pytest.raises(EvidenceError, match="cannot be read"):
            read(tmp_path / "no.jsonl")


def test_an_unknown_field_or_a_value_out_of_range_is_an_error(tmp_path):
    _, data = table([case("a")], tmp_path / "r.jsonl")
    row = json.loads(data)
    for changes in ({"surprise": 1}, {"confidence": 1.5}, {"unsafe_calls": -1}, {"success": None}):
        field = next(iter(changes))
        with pytest.raises(EvidenceError, match=field):
            parse_results(json.dumps({**row, **changes}).encode() + b"\n")


def test_a_case_stands_once(tmp_path):
    with pytest.raises(EvidenceError, match="'a' stands twice"):
        write_results([case("a"), case("b"), case("a")], tmp_path / "r.jsonl")
    assert list(tmp_path.glob("*r.jsonl*")) == []
    _, data = table([case("a")], tmp_path / "r.jsonl")
    with pytest.raises(EvidenceError, match="stand twice"):
        parse_results(data + data)


def test_a_table_in_another_order_is_not_a_results_table(tmp_path):
    _, data = table([case("a"), case("b")], tmp_path / "r.jsonl")
    with pytest.raises(EvidenceError, match="not sorted"):
        parse_results(b"".join(reversed(data.splitlines(keepends=True))))


def test_a_table_that_cannot_be_written_leaves_no_trace(tmp_path):
    (tmp_path / "r.jsonl").mkdir()
    with pytest.raises(EvidenceError, match="cannot be written"):
        write_results([case("a")], tmp_path / "r.jsonl")
    assert [path.name for path in tmp_path.glob("*jsonl*")] == ["r.jsonl"]


def test_hostile_values_of_a_call_do_not_keep_a_case_out_of_the_table(tmp_path):
    deep = value = {}
    for _ in range(5_000):
        value["a"] = value = {}
    hostile = {"nan": float("nan"), "int": 10**5000, "text": "\ud800\x00", "deep": deep}
    write_results(
        [case("a", text="\ud800", calls=[{"tool": "t", "arguments": hostile}])],
        tmp_path / "r.jsonl",
    )
    (row,) = read_results(tmp_path / "r.jsonl")
    arguments = row.calls[0]["arguments"]
    assert arguments["nan"] == {"unspellable": "nan"}
    assert arguments["int"] == {"unspellable": "an integer of 16610 bits"}
    assert arguments["text"] == "\\ud800\x00"


cases = st.builds(
    CaseResult,
    case_id=st.text(min_size=1, max_size=5),
    suite=st.just("banking"),
    text=st.text(max_size=20),
    outcome=st.sampled_from([outcome.value for outcome in Outcome]),
    expected_outcome=st.none() | st.sampled_from(["acted", "refused"]),
    success=st.booleans(),
    failures=st.lists(st.text(max_size=5), max_size=2),
    intent=st.none() | st.sampled_from(["a", "b"]),
    expected_intent=st.none() | st.sampled_from(["a", "b"]),
    confidence=st.none() | st.floats(0, 1),
    calls=st.lists(
        st.fixed_dictionaries(
            {"tool": st.text(max_size=3), "arguments": st.dictionaries(st.text(), st.floats())}
        ),
        max_size=2,
    ),
    unsafe_calls=st.integers(0, 3),
    escalated=st.booleans(),
    input_tokens=st.integers(0, 10**6),
    cost_usd=st.floats(0, 100),
    steps=st.integers(0, 20),
)
tables = st.lists(cases, max_size=8, unique_by=lambda row: row.case_id)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@settings(deadline=None)
@given(rows=tables, seed=st.randoms())
def test_the_same_cases_give_the_same_bytes_in_whatever_order_they_came(folder, rows, seed):
    digest, data = table(rows, folder / "one.jsonl")
    shuffled = list(rows)
    seed.shuffle(shuffled)
    assert table(shuffled, folder / "two.jsonl") == (digest, data)
    assert digest == results_digest(folder / "one.jsonl") == sha256_digest(data)
    again = read_results(folder / "one.jsonl")
    assert table(again, folder / "three.jsonl") == (digest, data)


@settings(deadline=None)
@given(rows=tables)
def test_metrics_come_out_the_same_from_the_rows_and_from_the_file(folder, rows):
    write_results(rows, folder / "m.jsonl")
    metrics = compute_metrics(rows)
    again = compute_metrics(read_results(folder / "m.jsonl"))
    assert metrics.keys() == again.keys()
    for name, metric in metrics.items():
        assert metric.agrees(again[name]), name
        assert Metric.from_dict(json.loads(json.dumps(metric.to_dict()))) == metric
        if metric.kind is MetricKind.RATE:
            assert 0 <= metric.low <= metric.value <= metric.high <= 1 or metric.n == 0


def test_metrics_count_what_they_say():
    rows = [
        case("a", intent="x", expected_intent="x", expected_outcome="acted", steps=2),
        case("b", success=False, intent="x", expected_intent="y", unsafe_calls=2, steps=4),
        case("c", outcome="refused", expected_outcome="acted", refused=True, escalated=True),
        case("d", clarified=True, calls=[{"tool": "t"}], cost_usd=0.2),
    ]
    metrics = compute_metrics(rows)

    def rate(name):
        return metrics[name].successes, metrics[name].n

    assert rate("task_success") == (3, 4)
    assert rate("intent_accuracy") == (1, 2)
    assert rate("outcome_accuracy") == (1, 2)
    assert rate("escalation_rate") == rate("refusal_rate") == rate("clarification_rate") == (1, 4)
    assert rate("unsafe_case_rate") == (1, 4)
    assert metrics["unsafe_calls"] == Metric(2.0, 2.0, 2.0, 4, MetricKind.COUNT)
    assert metrics["mean_steps"].value == 1.5
    assert metrics["mean_calls"].value == 0.25
    assert metrics["mean_cost_usd"].value == pytest.approx(0.05)
    assert metrics["mean_steps"].low < 1.5 < metrics["mean_steps"].high


# --- Statements ----------------------------------------------------------------------------------


def test_signed_evidence_comes_back_as_it_was(results):
    digest, data = results
    made = statement(digest)
    envelope = json.loads(json.dumps(sign_evidence(made, KEY)))
    before = copy.deepcopy(envelope)
    assert verify_evidence(envelope, TRUSTED, agent_digest=AGENT) == json.loads(json.dumps(made))
    assert envelope == before, "verifying changes nothing"
    evidence = read_evidence(verify_evidence(envelope, TRUSTED))
    assert (evidence.agent, evidence.agent_digest) == ("support", AGENT)
    assert (evidence.suite, evidence.cases, evidence.run_id) == ("banking", 20, "run-1")
    assert evidence.evaluated_at == NOW
    assert evidence.metrics["task_success"].value == 0.8
    assert check_results(evidence, data) == ROWS
    assert signer_ids(envelope) == (KEY.key_id,)


def test_it_is_an_in_toto_statement_in_a_dsse_envelope():
    envelope = sign_evidence(statement(), KEY)
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    payload = json.loads(base64.b64decode(envelope["payload"]))
    assert payload["_type"] == "https://in-toto.io/Statement/v1"
    assert payload["subject"] == [{"name": "support", "digest": {"sha256": "a" * 64}}]
    pae = b"DSSEv1 %d %s %d %s" % (
        28, b"application/vnd.in-toto+json",
        len(base64.b64decode(envelope["payload"])), base64.b64decode(envelope["payload"]),
    )  # fmt: skip
    KEY.public_key.verify(base64.b64decode(envelope["signatures"][0]["sig"]), pae)


@pytest.mark.parametrize(
    "changes",
    [
        {"agent": ""}, {"suite": ""}, {"agent_digest": ""}, {"agent_digest": "a" * 64},
        {"agent_digest": "sha512:" + "a" * 64}, {"suite_digest": "sha256:" + "A" * 64},
        {"results_digest": "sha256:" + "g" * 64}, {"digest": "sha256:" + "a" * 63},
        {"evaluated_at": datetime(2026, 1, 1)}, {"run_id": None},  # noqa: DTZ001
    ],
    ids=str,
)  # fmt: skip
def test_a_statement_that_binds_nothing_is_not_made(changes):
    with pytest.raises(EvidenceError):
        statement(**changes)


@pytest.mark.parametrize(
    "envelope",
    [
        None, [], "x", {}, {"payload": "", "payloadType": "x", "signatures": []},
        {"payload": "", "payloadType": "application/vnd.in-toto+json", "signatures": []},
        {"payload": 7, "payloadType": "application/vnd.in-toto+json", "signatures": [{}]},
        {"payload": "e30=", "payloadType": "application/vnd.in-toto+json", "signatures": [{}]},
        {"payload": "e30=", "payloadType": "application/vnd.in-toto+json", "signatures": ["x"]},
        {"payload": "e30=", "payloadType": "application/vnd.in-toto+json",
         "signatures": [{"keyid": "x", "sig": None}]},
        {"payload": "é", "payloadType": "application/vnd.in-toto+json",
         "signatures": [{"keyid": "x", "sig": "é"}]},
        {"payload": "A" * 2_000_000, "payloadType": "application/vnd.in-toto+json",
         "signatures": [{"keyid": "x", "sig": ""}]},
    ],
)  # fmt: skip
def test_what_is_no_envelope_is_refused(envelope):
    with pytest.raises(EvidenceError):
        verify_evidence(envelope, TRUSTED)


def test_an_unsigned_statement_is_refused():
    envelope = sign_evidence(statement(), KEY)
    with pytest.raises(EvidenceError, match="1 to 16 signatures"):
        verify_evidence({**envelope, "signatures": []}, TRUSTED)


def test_another_payload_type_is_refused():
    envelope = sign_evidence(statement(), KEY)
    for other in ("application/json", "application/vnd.in-toto+json ", "", None):
        with pytest.raises(EvidenceError, match="type"):
            verify_evidence({**envelope, "payloadType": other}, TRUSTED)


def test_a_signature_over_another_payload_type_does_not_carry_over():
    """DSSE signs the type too: a payload cannot be passed off as something else."""
    signed_as = {**sign_evidence(statement(), KEY), "payloadType": "application/json"}
    other = resign(signed_as, lambda payload: None)
    with pytest.raises(EvidenceError, match="altered"):
        verify_evidence({**other, "payloadType": "application/vnd.in-toto+json"}, TRUSTED)


def test_an_unknown_key_is_refused():
    envelope = sign_evidence(statement(), SigningKey.generate())
    with pytest.raises(EvidenceError, match="not trusted"):
        verify_evidence(envelope, TRUSTED)
    with pytest.raises(EvidenceError, match="not trusted"):
        verify_evidence(envelope, {})


def test_a_signature_under_a_trusted_keys_id_by_another_key_is_refused():
    envelope = sign_evidence(statement(), SigningKey.generate())
    envelope["signatures"][0]["keyid"] = KEY.key_id
    with pytest.raises(EvidenceError, match="altered"):
        verify_evidence(envelope, TRUSTED)


def test_a_revoked_key_is_refused():
    keys = KeyStore()
    envelope = sign_evidence(statement(), keys.signing_key())
    assert verify_evidence(envelope, keys.trusted_keys(KeyPurpose.EVIDENCE))
    keys.revoke(keys.signing_key().key_id)
    with pytest.raises(EvidenceError, match="not trusted"):
        verify_evidence(envelope, keys.trusted_keys(KeyPurpose.EVIDENCE))


def test_one_trusted_signature_among_others_is_enough():
    envelope = sign_evidence(statement(), KEY)
    other = sign_evidence(statement(), SigningKey.generate())
    both = {**envelope, "signatures": other["signatures"] + envelope["signatures"]}
    assert verify_evidence(both, TRUSTED)
    twice = {**envelope, "signatures": envelope["signatures"] * 2}
    with pytest.raises(EvidenceError):
        verify_evidence(twice, TRUSTED)


def test_evidence_about_other_content_is_refused():
    envelope = sign_evidence(statement(), KEY)
    with pytest.raises(EvidenceError, match="not about sha256:dddd"):
        verify_evidence(envelope, TRUSTED, agent_digest="sha256:" + "d" * 64)


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0), flip=st.integers(1, 255))
def test_any_changed_byte_of_the_payload_is_refused(position, flip):
    envelope = sign_evidence(statement(), KEY)
    payload = bytearray(base64.b64decode(envelope["payload"]))
    payload[position % len(payload)] ^= flip
    envelope["payload"] = base64.b64encode(payload).decode()
    with pytest.raises(EvidenceError, match="altered"):
        verify_evidence(envelope, TRUSTED)


@settings(max_examples=100, deadline=None)
@given(position=st.integers(0, 63), flip=st.integers(1, 255))
def test_any_changed_byte_of_the_signature_is_refused(position, flip):
    envelope = sign_evidence(statement(), KEY)
    signature = bytearray(base64.b64decode(envelope["signatures"][0]["sig"]))
    signature[position] ^= flip
    envelope["signatures"][0]["sig"] = base64.b64encode(signature).decode()
    with pytest.raises(EvidenceError, match="altered"):
        verify_evidence(envelope, TRUSTED)


def put(*path, value):
    def change(payload):
        target = payload
        for step in path[:-1]:
            target = target[step]
        target[path[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda payload: b"[]",
        lambda payload: b"not json",
        lambda payload: b"[" * 100_000,
        lambda payload: json.dumps(payload).replace('"_type"', '"_type": 1, "_type"').encode(),
        put("_type", value="https://in-toto.io/Statement/v0.1"),
        put("predicateType", value="https://slsa.dev/provenance/v1"),
        put("subject", value=[]),
        lambda payload: put("subject", value=payload["subject"] * 2)(payload),
        put("subject", 0, "digest", value={"sha1": "a" * 40}),
        put("subject", 0, "digest", "sha256", value="A" * 64),
        put("predicate", "results", "cases", value="20"),
        put("predicate", "results", "cases", value=-1),
        put("predicate", "metrics", "task_success", "value", value="NaN"),
        put("predicate", "surprise", value=1),
    ],
)
def test_a_malformed_statement_is_refused_even_when_signed(change):
    with pytest.raises(EvidenceError):
        verify_evidence(resign(sign_evidence(statement(), KEY), change), TRUSTED)


@pytest.mark.parametrize("time", ["yesterday", "2026-01-01T00:00:00", ""])
def test_a_statement_without_a_real_time_is_refused(time):
    made = statement()
    made["predicate"]["evaluatedAt"] = time
    with pytest.raises(EvidenceError, match="evaluatedAt"):
        read_evidence(made)


def test_results_other_than_the_signed_ones_are_refused(results, tmp_path):
    digest, data = results
    evidence = read_evidence(statement(digest))
    _, better = table([case(f"c{n:02}") for n in range(20)], tmp_path / "better.jsonl")
    for other in (better, data[:-1], data + b"\n", b""):
        with pytest.raises(EvidenceError, match="not the ones that were signed"):
            check_results(evidence, other)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (put("predicate", "metrics", "task_success", "value", value=1.0), "task_success"),
        (put("predicate", "metrics", "task_success", "successes", value=20), "task_success"),
        (put("predicate", "metrics", "made_up", value=None), "made_up"),
        (put("predicate", "results", "cases", value=21), "21"),
        (put("predicate", "suite", "name", value="easy"), "cases of 'banking'"),
    ],
)
def test_claims_that_do_not_follow_from_the_results_are_refused(results, change, why):
    """Even a trusted signer gets no number past the gate that its own cases do not give."""
    digest, data = results
    made = statement(digest)
    if why == "made_up":
        made["predicate"]["metrics"]["made_up"] = made["predicate"]["metrics"]["task_success"]
    else:
        change(made)
    evidence = read_evidence(verify_evidence(sign_evidence(made, KEY), TRUSTED))
    with pytest.raises(EvidenceError, match=why):
        check_results(evidence, data)
