"""Policy tests: what a case may say and how a failing one reads."""

from __future__ import annotations

import pytest

from mlflow_agent_plugin.errors import PolicyError
from mlflow_agent_plugin.trust.policy import check_policies, run_policy_tests

HEAD = "apiVersion: mlflow-agents/v1\ndefaults:\n  actor: {roles: [customer]}\ncases:\n"
GOOD = """\
  - name: fine
    tool: refund
    arguments: {order_id: o1, amount: 10}
    expect: allow
    policies: [small-refunds]
"""


def failure(make_bundle, case):
    bundle = make_bundle(tests=HEAD + GOOD + case)
    with pytest.raises(PolicyError) as caught:
        check_policies(bundle)
    text = str(caught.value)
    assert "tests.yaml:10: policy test 'bad' failed: " in text
    return text


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("tool: nope\n    expect: deny\n    policies: []", "the agent has no tool 'nope'"),
        (
            "tool: refund\n    arguments: {order_id: 1, amount: 2}\n    expect: deny\n    policies: []",
            "order_id: 1 is not of type 'string'",
        ),
        (
            "tool: refund\n    arguments: {order_id: a, amount: 2}\n    provenance: {note: user}\n    expect: allow\n    policies: [small-refunds]",
            "not among the arguments",
        ),
        (
            "tool: refund\n    arguments: {order_id: a, amount: 2}\n    actor: {roles: [king]}\n    expect: deny\n    policies: []",
            "role 'king'",
        ),
        (
            "tool: refund\n    arguments: {order_id: a, amount: 2}\n    expect: deny\n    policies: [small-refunds]",
            "expected deny, got allow",
        ),
        (
            "tool: refund\n    arguments: {order_id: a, amount: 2}\n    expect: allow\n    policies: [other]",
            "expected allow by other, got it by small-refunds",
        ),
        (
            "tool: refund\n    arguments: {order_id: a, amount: 75}\n    expect: needs_approval\n    role: clerk\n    policies: [big-refunds]",
            "expected an approval by clerk, got one by manager",
        ),
        (
            "tool: refund\n    arguments: {order_id: a, amount: 75}\n    expect: needs_approval\n    quorum: 2\n    policies: [big-refunds]",
            "expected an approval by 2 people, got one by 1",
        ),
        (
            "tool: refund\n    arguments: {order_id: a, amount: 2.00001}\n    expect: deny\n    policies: [x]",
            "expected deny by x, got it by no policy",
        ),
    ],
)
def test_a_failing_case_says_where_it_stands_and_what_differs(make_bundle, case, expected):
    assert expected in failure(make_bundle, f"  - name: bad\n    {case}\n")


def test_several_failing_cases_are_one_error(make_bundle):
    bad = "  - name: {}\n    tool: get_order\n    arguments: {{order_id: a}}\n    expect: deny\n    policies: []\n"
    bundle = make_bundle(tests=HEAD + bad.format("one") + bad.format("two"))
    with pytest.raises(PolicyError, match=r"'one' failed.*\(and 1 more: .*tests.yaml:10: .*'two'"):
        check_policies(bundle)


@pytest.mark.parametrize(
    ("tests", "expected"),
    [
        (HEAD + GOOD + GOOD, "two cases are named 'fine'"),
        (HEAD + GOOD.replace("policies: [small-refunds]", ""), "policies"),
        (HEAD + GOOD.replace("expect: allow", "expect: maybe"), "expect"),
        (HEAD + GOOD + "    role: manager\n", "role goes with"),
        (HEAD + GOOD + "    quorum: 2\n", "quorum goes with"),
        (HEAD + GOOD + "    session: {approved: true}\n", "approved"),
        (HEAD + GOOD + "    provenance: {amount: heaven}\n", "provenance"),
        (HEAD + GOOD + "    session: {calls: -1}\n", "calls"),
    ],
)
def test_a_malformed_file_is_refused(make_bundle, tests, expected):
    with pytest.raises(PolicyError) as caught:
        run_policy_tests(make_bundle(tests=tests))
    assert "tests.yaml:" in str(caught.value)
    assert expected in str(caught.value)


def test_defaults_apply_where_a_case_says_nothing(make_bundle):
    tests = """\
apiVersion: mlflow-agents/v1
defaults:
  actor: {roles: [customer], verified: false}
  provenance: untrusted
cases:
  - name: both defaults
    tool: refund
    arguments: {order_id: a, amount: 1}
    expect: deny
    policies: [not-from-strangers, verified-only]
  - name: one overridden
    tool: refund
    arguments: {order_id: a, amount: 1}
    provenance: {order_id: trusted}
    expect: deny
    policies: [verified-only]
  - name: both overridden
    tool: refund
    arguments: {order_id: a, amount: 1}
    provenance: {order_id: trusted}
    actor: {verified: true}
    expect: allow
    policies: [small-refunds]
"""
    results = run_policy_tests(make_bundle(tests=tests))
    assert [result.failure for result in results] == [None, None, None]
    assert results[0].where.endswith("policies/tests.yaml:6")
