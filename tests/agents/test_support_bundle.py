"""The support agent's bundle: contracts, policies, playbook and help articles fit together."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from mlflow_agent_plugin.entities import Effect
from mlflow_agent_plugin.trust.policy import CedarPolicyEngine, check_policies
from pipelines.data import SMALL_SET, read_labelled

SUPPORT = Path(__file__).resolve().parents[2] / "agents" / "support"
EXAMPLE_CUSTOMERS = {
    "track_card_delivery": "bruno",
    "unfreeze_card": "chen",
    "unblock_pin": "chen",
    "start_identity_check": "bruno",
    "close_account": "dora",
}
"""Whose situation a contract's example is from, where it is not amira's."""

TOOLS = sorted(path.stem for path in (SUPPORT / "contracts").glob("*.yaml"))


@pytest.fixture(scope="module")
def playbook(support):
    from mlflow_agent_plugin.foundation import load_playbook

    return load_playbook(
        support.read_text("model/playbook.yaml"),
        tools=support.manifest.usable_tools(),
        prompts={name: prompt.variables for name, prompt in support.prompts.items()},
    )


@pytest.fixture(scope="module")
def knowledge(support):
    from mlflow_agent_plugin.information import KnowledgeIndex

    return KnowledgeIndex.build(support.knowledge_dir(), support.manifest.retrieval)


# --- Tools and contracts --------------------------------------------------------------------------


def test_there_are_tools_of_every_effect_and_each_has_a_contract(support):
    assert sorted(support.manifest.usable_tools()) == TOOLS
    assert len(TOOLS) >= 14
    assert {contract.effect for contract in support.contracts.values()} == set(Effect)


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_takes_exactly_what_its_contract_says(support, part, tool):
    schema = support.contracts[tool].input
    parameters = dict(list(inspect.signature(part(f"tools:{tool}")).parameters.items())[1:])
    assert set(parameters) == set(schema["properties"])
    required = {n for n, p in parameters.items() if p.default is inspect.Parameter.empty}
    assert required == set(schema["required"])
    assert schema["additionalProperties"] is False
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters.values())


@pytest.mark.parametrize("tool", [tool for tool in TOOLS if tool != "search_knowledge"])
def test_every_example_of_a_contract_is_what_the_tool_does(support, use, bank, tool):
    contract = support.contracts[tool]
    assert contract.examples
    for example in contract.examples:
        Draft202012Validator(contract.input).validate(example.input)
        Draft202012Validator(contract.output).validate(example.output)
        user = EXAMPLE_CUSTOMERS.get(tool, "amira")
        assert use(tool, bank, user=user, **example.input) == example.output


@pytest.mark.parametrize("user", ["amira", "bruno", "chen", "dora", "emil", "farid"])
def test_every_read_keeps_its_output_contract_for_every_customer(support, use, bank, user):
    reads = {
        "get_account": [{}],
        "list_cards": [{}, {"status": "active"}, {"last4": "0000"}, {"pin": "blocked"}],
        "track_card_delivery": [{}],
        "list_transactions": [{}, {"limit": 50}, {"kind": "fee"}, {"status": "declined"}],
        "review_transactions": [
            {"problem": problem}
            for problem in support.contracts["review_transactions"].input["properties"]["problem"][
                "enum"
            ]
        ],
        "get_transfer_status": [{}, {"direction": "in"}, {"statuses": ["failed", "declined"]}],
        "get_top_up_status": [{}, {"methods": ["cheque"]}, {"statuses": ["pending"]}],
        "get_exchange_rate": [{"base": "GBP", "quote": "JPY"}],
        "get_verification_status": [{}],
    }
    for tool, calls in reads.items():
        for arguments in calls:
            Draft202012Validator(support.contracts[tool].input).validate(arguments)
            output = use(tool, bank, user=user, **arguments)
            Draft202012Validator(support.contracts[tool].output).validate(output)


def test_a_search_keeps_its_contract_and_says_so_when_there_is_no_index(
    support, use, bank, knowledge, part
):
    output = use("search_knowledge", bank, knowledge=knowledge, query="top-up limits", top_k=2)
    Draft202012Validator(support.contracts["search_knowledge"].output).validate(output)
    assert output["passages"][0]["title"] == "Top-up limits"
    with pytest.raises(part("bank:BankError"), match="cannot be searched"):
        use("search_knowledge", bank, query="top-up limits")


def test_a_currency_the_bank_does_not_hold_is_named(use, bank, part):
    with pytest.raises(part("bank:BankError"), match="do not hold XAU"):
        use("get_exchange_rate", bank, base="EUR", quote="XAU")


def test_tools_that_pass_on_other_peoples_words_say_so(support):
    untrusted = {n for n, contract in support.contracts.items() if contract.untrusted_output}
    assert untrusted == {"list_transactions", "review_transactions", "open_dispute"}


def test_no_tool_takes_the_customer_as_an_argument(support):
    for contract in support.contracts.values():
        names = set(contract.input["properties"])
        assert not names & {"customer", "customer_id", "user", "user_id", "account_id", "tenant"}


def test_the_bundle_has_no_way_out_but_its_tools():
    allowed = {
        "__future__", "ast", "collections", "contextlib", "dataclasses", "datetime", "json",
        "langchain_core", "langgraph", "mlflow_agent_plugin", "pathlib", "re", "sqlite3",
        "threading", "typing", "unicodedata",
    }  # fmt: skip
    own = {path.stem for path in SUPPORT.glob("*.py")}
    for path in SUPPORT.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert {name.partition(".")[0] for name in names} <= allowed | own, path


# --- Policies -------------------------------------------------------------------------------------


def test_the_policies_validate_and_pass_their_tests_without_warnings(support):
    result = check_policies(support)
    assert result.warnings == ()
    assert len(result.tests) >= 2 * len(CedarPolicyEngine.from_bundle(support).policies)


def test_every_policy_decides_some_test_and_lets_another_through(support):
    engine = CedarPolicyEngine.from_bundle(support)
    results = check_policies(support).tests
    for name in engine.policies:
        tools = {result.request.tool for result in results if name in result.decision.policy_ids}
        assert tools, name
        others = [
            result
            for result in results
            if name not in result.decision.policy_ids
            and name in engine.policies_for(result.request.tool)
        ]
        assert others, name


# --- Playbook and articles ------------------------------------------------------------------------


def test_the_playbook_has_a_plan_for_every_intent_and_uses_every_tool(support, playbook):
    intents = set(read_labelled(SMALL_SET / "train.csv")["category"])
    assert len(intents) == 77
    assert intents <= set(playbook.intents)
    used = {step.tool for _, plan in playbook.plans() for step in plan.steps}
    assert used == set(support.manifest.usable_tools())


def test_every_prompt_is_used(support, playbook):
    from mlflow_agent_plugin.foundation.planner import reading

    named = {slot.ask for slot in playbook.slots.values()} | {"system"}
    for _, plan in playbook.plans():
        named |= {answer.prompt for answer in plan.answers()}
        named |= {rule.answer for rule in plan.on_error.values() if rule.answer}
    named |= {rule.answer for rule in playbook.on_error.values() if rule.answer}
    named |= {playbook.low_confidence.answer}
    named |= {playbook.escalation.answer, playbook.escalation.failed}
    assert reading is not None
    assert set(support.prompts) == named


def test_the_titles_offered_when_asking_back_differ(playbook):
    titles = [playbook.title_of(intent) for intent in playbook.intents]
    assert len(titles) == len(set(titles))


def test_every_fixed_search_finds_one_article_clearly_first(playbook, knowledge):
    close = []
    for name, plan in playbook.plans():
        for step in plan.steps:
            query = step.arguments.get("query", "{")
            if step.tool == "search_knowledge" and "{" not in query:
                first, second = (*knowledge.search(query, 2), None)[:2]
                margin = first.score - (second.score if second else 0)
                if margin < 0.02:
                    close.append((name, query, first.title))
    assert close == []


def test_every_article_is_found_by_how_it_begins(knowledge):
    for path in sorted((SUPPORT / "knowledge").glob("*.md")):
        title, _, text = path.read_text(encoding="utf-8").removeprefix("# ").partition("\n")
        first_line = text.strip().partition("\n")[0]
        found = [passage.title for passage in knowledge.search(f"{title} {first_line}", 1)]
        assert found == [title]


def test_an_irreversible_step_asks_first(support, playbook):
    for name, plan in playbook.plans():
        for step in plan.steps:
            if support.contracts[step.tool].effect is Effect.IRREVERSIBLE:
                kinds = [playbook.slots[slot].kind for slot in step.needs]
                assert kinds == ["confirm"], name
                assert any("!= false" in condition for condition in step.when), name
