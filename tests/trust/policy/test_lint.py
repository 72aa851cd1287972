"""Wrong policies never become a version; the error names file, line, policy and remedy."""

from __future__ import annotations

import pytest

from mlflow_agent_plugin.errors import PolicyError
from mlflow_agent_plugin.trust.policy import CedarPolicyEngine, check_policies
from mlflow_agent_plugin.trust.policy.sources import split_statements

SCOPE = '(principal, action == Agent::Action::"refund", resource)'


def problem(shop, **files):
    with pytest.raises(PolicyError) as caught:
        CedarPolicyEngine(shop.sources(**files))
    return str(caught.value)


def hard(shop, condition, *, policy_id="h"):
    """Lint one forbid with this condition, beside sound policies."""
    return CedarPolicyEngine(shop.sources(hard=f'@id("{policy_id}") forbid {SCOPE} {condition};'))


@pytest.mark.parametrize(
    ("permit", "expected"),
    [
        (f"permit {SCOPE};", 'permit.cedar:1: a policy without id has no @id. Put @id("a-'),
        (f'@id("") permit {SCOPE};', "has no @id"),
        (f'@id("a b") permit {SCOPE};', "@id that is no name"),
        (
            f'@id("a") @idd("b") permit {SCOPE};',
            "policy 'a' has the unknown annotation @idd. Did you mean 'id'?",
        ),
        (
            f'@id("a") permit {SCOPE};\n\n@id("a") permit {SCOPE};',
            "permit.cedar:3: policy id 'a' is used already at policies/permit.cedar:1",
        ),
        (f'@id("a") forbid {SCOPE};', "policy 'a' is a forbid. Move it to hard.cedar"),
        (
            f'@id("a") @approval("manager") forbid {SCOPE} unless {{ context.session.approved }};',
            "Move it to approval.cedar",
        ),
        (
            f'@id("a") permit {SCOPE} when {{ context.session.approved }};',
            "Only the rules in approval.cedar may depend",
        ),
        (
            f'@id("a") permit {SCOPE} unless {{ context.session.approved }};',
            "Only the rules in approval.cedar may depend",
        ),
        (
            '@id("a") permit (principal, action == Agent::Action::"refnud", resource);',
            "names the unknown tool 'refnud'. Did you mean 'refund'?",
        ),
        (
            '@id("a") permit (principal in Agent::Role::"managr", action, resource);',
            "names the unknown role 'managr'. Did you mean 'manager'?",
        ),
        (
            '@id("a") permit (principal, action, resource) when { principal in Agent::Role::"zzz" };',
            "names the unknown role 'zzz'. Declare it in policies/roles.yaml",
        ),
        (f'@id("a") @unverified("yes") permit {SCOPE};', 'has an @unverified that is not "allow"'),
        (
            f'@id("a") permit {SCOPE} when {{ context.input.amout.lessThan(decimal("1.0")) }};',
            "Did you mean 'amount'?",
        ),
        (f'@id("a") permit {SCOPE} when {{ context.input.amount < 5 }};', "does not validate"),
        (
            f'@id("a") permit {SCOPE} when {{ context.input.note == "x" }};',
            "Test `context.input has …` before it",
        ),
        (f'@id("a") permit {SCOPE} when {{ context.input.extra == "x" }};', "does not validate"),
        (
            '@id("a") permit (principal, action, resource == Agent::Agent::"bank");',
            "does not validate",
        ),
        (f'@id("a") permit {SCOPE} when {{ foo }};', "does not parse"),
        (f'@id("a") permit {SCOPE}', "does not parse"),
        ("%", "does not parse"),
        ('@id("a") permit (principal == ?principal, action, resource);', "template"),
        (f'// one\n"two;three";\n@id("a") permit {SCOPE};', "permit.cedar:2: does not parse"),
    ],
)
def test_a_wrong_permit_file(shop, permit, expected):
    text = problem(shop, permit=permit, hard=None, approval=None)
    assert expected in text
    assert text.startswith("policies/permit.cedar:")


UNLESS = "unless { context.session.approved }"


@pytest.mark.parametrize(
    ("approval", "expected"),
    [
        (
            f'@id("a") forbid {SCOPE} unless {{ context.session.approved }};',
            "in the approval file without @approval",
        ),
        (
            f'@id("a") @approval("boss") forbid {SCOPE} unless {{ context.session.approved }};',
            "unknown role 'boss'",
        ),
        (
            f'@id("a") @approval forbid {SCOPE} unless {{ context.session.approved }};',
            "unknown role ''",
        ),
        (f'@id("a") @approval("manager") forbid {SCOPE};', "would forbid approved calls too"),
        (
            f'@id("a") @approval("manager") forbid {SCOPE} when {{ context.session.approved }};',
            "in a condition of its own",
        ),
        (
            f'@id("a") @approval("manager") forbid {SCOPE} when {{ !context.session.approved }};',
            "in a condition of its own",
        ),
        (
            f'@id("a") @approval("manager") permit {SCOPE} unless {{ context.session.approved }};',
            "is a permit",
        ),
        *(
            (
                f'@id("a") @approval("manager") @quorum("{text}") forbid {SCOPE} {UNLESS};',
                why,
            )
            for text, why in [
                ("0", "a quorum that is none"),
                ("-1", "a quorum that is none"),
                ("two", "a quorum that is none"),
                ("17", "a quorum that is none"),
                ("²", "a quorum that is none"),
                ("2 ", "a quorum that is none"),
                ("1", "a quorum of one"),
            ]
        ),
        (
            f'@id("a") @quorum("2") forbid {SCOPE} unless {{ context.session.approved }};',
            "has @quorum without @approval",
        ),
    ],
)
def test_a_wrong_approval_file(shop, approval, expected):
    text = problem(shop, approval=approval)
    assert text.startswith("policies/approval.cedar:1: policy 'a' ")
    assert expected in text


def test_a_permit_in_the_hard_file_is_refused(shop):
    assert "Move it to permit.cedar" in problem(shop, hard=f'@id("a") permit {SCOPE};')


def test_all_problems_come_as_one_error(shop):
    text = problem(
        shop,
        permit=f'permit {SCOPE};\n@id("b") permit (principal, action == Agent::Action::"x", resource);',
        hard=f'@id("c") @who("x") forbid {SCOPE};',
    )
    assert "(and 2 more:" in text
    assert "permit.cedar:2: policy 'b' names the unknown tool 'x'" in text
    assert "hard.cedar:1: policy 'c' has the unknown annotation @who" in text


ALWAYS_FALSE = [
    "when { false }",
    "when { 1 == 2 }",
    "when { context.session.calls < 0 }",
    "when { context.session.calls > 5 && context.session.calls < 3 }",
    "when { context.session.calls > 3 && context.session.calls < 4 }",
    'when { context.input.amount.greaterThan(decimal("1000.0")) }',
    'when { context.input.amount.lessThan(decimal("5.0")) && context.input.amount.greaterThan(decimal("5.0")) }',
    'when { context.provenance.amount == "model " }',
    'when { ["User", "Model"].contains(context.provenance.amount) }',
    'when { context.provenance.amount like "un*ed?" }',
    'when { context.input has speed && context.input.speed == "medium" }',
    "when { principal.verified && !principal.verified }",
    "when { principal.verified && !context.session.verified }",
    'when { context.session.environment == "a" && context.session.environment == "b" }',
    'when { context.session.environment == "abc" && context.session.environment like "b*" }',
    "when { if principal.verified then false else 1 > 2 }",
    "when { context.input has tags && !(context.input has tags) }",
]


@pytest.mark.parametrize("condition", ALWAYS_FALSE)
def test_a_condition_that_is_never_true_is_refused(shop, condition):
    with pytest.raises(PolicyError, match="never true"):
        hard(shop, condition)
    with pytest.raises(PolicyError, match="always true"):
        hard(shop, condition.replace("when {", "when { !(", 1).removesuffix("}") + ") }")


@pytest.mark.parametrize(
    "condition",
    [
        "when { true }",
        "unless { context.session.calls >= 0 }",
        'when { ["user", "trusted", "untrusted", "model"].contains(context.provenance.amount) }',
        "when { principal.verified || !principal.verified }",
        "when { context.session.environment == context.session.environment }",
        'when { context.input.amount.lessThanOrEqual(decimal("1000.0")) }',
    ],
)
def test_a_condition_that_is_always_true_is_refused(shop, condition):
    with pytest.raises(PolicyError, match="always true"):
        hard(shop, condition)


def test_clauses_that_exclude_each_other_are_refused(shop):
    with pytest.raises(PolicyError, match="never applies"):
        hard(shop, "when { context.session.calls > 5 } unless { context.session.calls > 2 }")


@pytest.mark.parametrize(
    "condition",
    [
        "when { context.session.calls > 3 && context.session.calls < 5 }",
        'when { context.input.amount.greaterThanOrEqual(decimal("1000.0")) }',
        'when { context.provenance.amount != "user" }',
        'when { context.provenance.amount like "*trusted" }',
        'when { context.input has speed && context.input.speed == "fast" }',
        'when { context.session.environment == "a" || context.session.environment == "b" }',
        'when { context.input has note && context.input.note like "*;*" }',
        "when { context.input has count && context.input.count + 1 > 3 }",
        'when { context.input has tags && context.input.tags.containsAny(["a", "b"]) }',
        'when { context.input has address && context.input.address.zip == "1" }',
        'when { principal in Agent::Role::"clerk" || principal == Agent::User::"ann" }',
        "when { principal.user == context.input.order_id }",
        "when { context.session.now > 1767225600 }",
    ],
)
def test_a_condition_that_depends_on_the_request_passes(shop, condition):
    hard(shop, condition)


def test_a_condition_too_large_to_check_passes(shop):
    clause = " && ".join(
        f'(context.input.order_id == "a{n}" || context.session.environment == "b{n}")'
        for n in range(14)
    )
    hard(shop, f"when {{ {clause} }}")


# --- Folders -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"permit": None}, "permit.cedar: is missing"),
        ({"permit": ""}, "permit.cedar: has no policy"),
        ({"more": {"policies/extra.cedar": ""}}, "extra.cedar: is not a policy file"),
        ({"more": {"policies/more/permit.cedar": ""}}, "more/permit.cedar: is not a policy file"),
        ({"tests": None}, "tests.yaml: is missing: every agent must test its policies"),
        ({"tests": "apiVersion: mlflow-agents/v1\ncases: []\n"}, "tests.yaml:2: cases"),
        (
            {"tests": "apiVersion: mlflow-agents/v1\ncass: []\n"},
            "tests.yaml:1: cases: required field is missing",
        ),
        ({"tests": "[]"}, "must hold fields"),
        ({"roles": "roles: {a: b}\n"}, "roles.yaml:1: apiVersion: required field is missing"),
        ({"roles": "apiVersion: mlflow-agents/v1\nroles: {'a b': x}\n"}, "roles.yaml:2"),
        ({"roles": None}, "names the unknown role 'customer'"),
    ],
)
def test_a_wrong_policy_folder(make_bundle, changes, expected):
    text = {"hard": "", "approval": "", **changes} if "permit" in changes else changes
    with pytest.raises(PolicyError) as caught:
        check_policies(make_bundle(**text))
    assert expected in str(caught.value)


def test_text_that_is_no_utf8_is_refused(make_bundle):
    from mlflow_agent_plugin.package.bundle import load_bundle

    root = make_bundle(load=False)
    (root / "policies/hard.cedar").write_bytes(b'@id("\xff")')
    with pytest.raises(PolicyError, match=r"hard\.cedar:1: is not UTF-8"):
        check_policies(load_bundle(root))


def test_an_argument_name_that_cedar_reserves_is_refused(shop):
    odd = shop.contract("odd", {"__entity": {"type": "string"}})
    assert "reserves" in problem(shop, contracts=[*shop.contracts, odd])


def test_a_good_folder_passes_and_says_what_deserves_a_look(make_bundle):
    result = check_policies(make_bundle())
    assert str(result) == "5 policies, 5 policy tests passed, 2 warnings"
    assert any("tool 'cancel' has no permit" in text for text in result.warnings)
    assert any("argument 'extra' of tool 'refund'" in text for text in result.warnings)
    assert result.to_dict()["tests"][0]["passed"] is True


def test_a_policy_no_test_determines_is_a_warning(make_bundle, shop):
    tests = shop.tests[: shop.tests.index("  - name: A number that")]
    warnings = check_policies(make_bundle(tests=tests)).warnings
    assert any(
        "hard.cedar:1: policy 'not-from-strangers' determines no policy test" in w for w in warnings
    )


# --- Statements and their lines ------------------------------------------------------------------


def test_statements_are_split_outside_strings_and_comments():
    text = (
        '// a; b\n@reason("x; \\" // y")\npermit (principal,action,resource); // c;\n\nforbid\n(x)'
    )
    assert list(split_statements(text)) == [
        (2, '@reason("x; \\" // y")\npermit (principal,action,resource);'),
        (5, "forbid\n(x)"),
    ]


@pytest.mark.parametrize("text", ["", " \n ", "// only a comment", "// a\n// b\n"])
def test_a_file_without_statements_has_none(text):
    assert list(split_statements(text)) == []


def test_an_unfinished_string_is_kept_for_the_parser_to_refuse():
    assert list(split_statements('@id("a')) == [(1, '@id("a')]
