"""Two versions case by case, from the tables their signed evidence names."""

from __future__ import annotations

from mlflow_agent_plugin.registry.overview import compare_cases
from mlflow_agent_plugin.registry.overview.cases import MAX_CATEGORIES, OTHERS, pair
from mlflow_agent_plugin.trust.evidence import CaseResult


def case(number, *, success=True, tags=(), expected=None):
    return CaseResult(case_id=f"c{number:03}", suite="s", outcome="answered", success=success,
                      tags=list(tags), expected_outcome=expected)  # fmt: skip


def test_each_pair_of_cases_is_right_fixed_broken_or_wrong():
    def four(right, more=()):
        return [*(case(n, success=n in right, tags=["all", "cards"]) for n in range(4)), *more]

    outcome = pair(four((0, 1), [case(9, tags=["all"])]), four((0, 2)))["cards"]
    assert (outcome.right, outcome.fixed, outcome.broken, outcome.wrong) == (1, 1, 1, 1)


def test_a_case_without_tags_counts_for_the_outcome_it_expects_and_unpaired_ones_not_at_all():
    found = pair([case(1, expected="refused"), case(2), case(3)], [case(1), case(2)])
    assert {name: outcome.cases for name, outcome in found.items()} == {
        "refused": 1, "no expected outcome": 1,
    }  # fmt: skip


def test_where_most_changed_comes_first_and_the_rest_is_one_line():
    now = [case(n, success=n % 20 != 3, tags=[f"t{n % 20:02}"]) for n in range(200)]
    before = [case(n, tags=[f"t{n % 20:02}"]) for n in range(200)]
    found = pair(now, before)
    assert len(found) == MAX_CATEGORIES
    assert next(iter(found)) == "t03"
    assert list(found)[-1] == OTHERS
    assert sum(outcome.cases for outcome in found.values()) == 200
    assert found["t03"].broken == 10


def test_versions_are_paired_on_the_same_suite_only_and_without_revoked_evidence(world):
    from mlflow_agent_plugin.registry import revoke_evidence

    for text, bad in (("one", 5), ("two", 3)):
        version = world.register(text)
        run = world.evaluate(version, good=40 - bad, bad=bad)
    world.evaluate(1, suite="other")
    world.evaluate(2, suite="other", suite_digest="sha256:" + "6" * 64)
    (other, shelf) = compare_cases("shelf", 2, 1, client=world.client).suites
    assert (other.suite, other.paired) == ("other", {})
    (outcome,) = shelf.paired.values()
    assert (outcome.fixed, outcome.broken, outcome.cases) == (2, 0, 40)
    assert compare_cases("shelf", 2, 2, client=world.client).suites[1].paired == {}
    revoke_evidence("shelf", 2, run, reason="leaked", by="alice", client=world.client)
    assert [s.suite for s in compare_cases("shelf", 2, 1, client=world.client).suites] == ["other"]
