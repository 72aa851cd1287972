"""The support agent's bank keeps its rules whatever is asked of it."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from datetime import date

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

CUSTOMERS = ("amira", "bruno", "chen", "dora", "emil", "farid")
HOSTILE_TEXTS = (
    "",
    " ",
    "\x00",
    "' OR 1=1 --",
    "card_11_01'; DROP TABLE cards; --",
    "\u202egnp.exe",
    "a\u200bb",
    "\ud800",
    "x" * 100_000,
    "🂡" * 500,
)


# --- Settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"pth": "x"}, "unknown bank setting pth"),
        ({"path": ""}, "path must be"),
        ({"path": 7}, "path must be"),
        ({"path": "/no/such/folder/bank.db"}, "no folder"),
        ({"seed": "yes"}, "seed must be"),
        ({"today": "tomorrow"}, "today must be"),
        ({"customers": "amira"}, "customers must be"),
        ({"customers": [""]}, "customers must be"),
        ({"busy_timeout_seconds": 0}, "busy_timeout_seconds"),
        ({"busy_timeout_seconds": True}, "busy_timeout_seconds"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(part, wrong, told):
    with pytest.raises(part("bank:BankError"), match=told):
        part("bank:open_bank")(wrong)


def test_a_bank_without_seed_knows_nobody(open_bank, use, part):
    with pytest.raises(part("bank:BankError"), match="no customer 'amira'"):
        use("get_account", open_bank(seed=False))


def test_two_banks_of_one_day_are_the_same(open_bank):
    assert open_bank().snapshot() == open_bank().snapshot()


def test_further_customers_get_a_situation_of_their_own(open_bank, use):
    bank = open_bank(customers=["zoe", "amira"])
    assert use("list_cards", bank, user="zoe")["count"] == 3
    names = [row["customer_id"] for row in bank.snapshot()["customers"]]
    assert len(names) == len(set(names)) == len(CUSTOMERS) + 1


def test_a_file_is_seeded_once_and_keeps_what_was_done(open_bank, use, tmp_path):
    path = str(tmp_path / "bank.db")
    use("freeze_card", open_bank(path=path), card_id="card_11_01", reason="lost")
    again = use("list_cards", open_bank(path=path), status="frozen")
    assert again["card_id"] == "card_11_01"


# --- Whose rows -----------------------------------------------------------------------------------


def test_an_unknown_customer_is_told_so(bank, use, part):
    for user in ("root", "anonymous", "", "AMIRA", "amira ", "amira' OR '1'='1"):
        with pytest.raises(part("bank:BankError"), match="no customer"):
            use("get_account", bank, user=user)


def test_no_write_reaches_another_customers_rows(bank, use, part):
    before = bank.snapshot()
    stranger = "bruno"
    attempts = [
        ("freeze_card", {"card_id": "card_11_01", "reason": "lost"}),
        ("activate_card", {"card_id": "card_11_02"}),
        ("replace_card", {"card_id": "card_11_01"}),
        ("unfreeze_card", {"card_id": "card_13_01", "frozen_reason": "lost"}),
        ("unblock_pin", {"card_id": "card_13_02"}),
        ("open_dispute", {"transaction_id": "txn_11_09", "reason": "not_recognised"}),
        ("request_refund", {"transaction_id": "txn_11_02", "amount_minor": 100}),
        ("cancel_transfer", {"transfer_id": "transfer_11_02"}),
    ]
    for at, (tool, arguments) in enumerate(attempts):
        with pytest.raises(part("bank:BankError"), match=r"no such .* among yours"):
            use(tool, bank, user=stranger, key=f"k{at}", **arguments)
    assert bank.snapshot() == before


def test_a_stranger_cannot_tell_a_foreign_row_from_one_that_does_not_exist(bank, use, part):
    texts = []
    for card in ("card_11_01", "card_99_99"):
        with pytest.raises(part("bank:BankError")) as error:
            use("freeze_card", bank, user="bruno", card_id=card)
        texts.append(str(error.value))
    assert texts[0] == texts[1]


def test_reads_show_only_the_customers_own_rows(bank, use):
    snapshot = bank.snapshot()
    for user in CUSTOMERS:
        own = {
            row[key]
            for table, key in (
                ("cards", "card_id"),
                ("transactions", "transaction_id"),
                ("transfers", "transfer_id"),
                ("top_ups", "top_up_id"),
            )
            for row in snapshot[table]
            if row["customer_id"] == user
        }
        shown = [item["card_id"] for item in use("list_cards", bank, user=user)["cards"]]
        shown += [
            item["transaction_id"]
            for item in use("list_transactions", bank, user=user, limit=50)["transactions"]
        ]
        shown += [
            item["transfer_id"] for item in use("get_transfer_status", bank, user=user)["transfers"]
        ]
        shown += [
            item["top_up_id"] for item in use("get_top_up_status", bank, user=user)["top_ups"]
        ]
        assert set(shown) <= own


# --- Once -----------------------------------------------------------------------------------------

WRITES = [
    ("amira", "activate_card", {"card_id": "card_11_02"}),
    ("amira", "freeze_card", {"card_id": "card_11_01", "reason": "stolen"}),
    ("chen", "unfreeze_card", {"card_id": "card_13_01", "frozen_reason": "lost"}),
    ("amira", "replace_card", {"card_id": "card_11_01"}),
    ("amira", "order_card", {"kind": "virtual"}),
    ("chen", "unblock_pin", {"card_id": "card_13_02"}),
    ("amira", "reset_passcode", {}),
    ("bruno", "start_identity_check", {}),
    ("amira", "lock_app", {}),
    ("amira", "change_address", {"address_line": "1 A St", "city": "B", "postcode": "C1"}),
    ("amira", "change_phone", {"phone": "+353 1 555 0199"}),
    ("amira", "open_dispute", {"transaction_id": "txn_11_09", "reason": "not_recognised"}),
    ("amira", "request_refund", {"transaction_id": "txn_11_02", "amount_minor": 2490}),
    ("amira", "cancel_transfer", {"transfer_id": "transfer_11_02"}),
    ("dora", "close_account", {"reason": "moving"}),
    ("amira", "escalate_to_human", {"topic": "t", "summary": "s"}),
]


@pytest.mark.parametrize(("user", "tool", "arguments"), WRITES, ids=[w[1] for w in WRITES])
def test_a_repeated_write_has_the_effect_of_one(open_bank, use, user, tool, arguments):
    once, twice = open_bank(), open_bank()
    first = use(tool, once, user=user, **arguments)
    assert use(tool, twice, user=user, **arguments) == first
    assert use(tool, twice, user=user, **arguments) == first
    assert twice.snapshot() == once.snapshot()


def test_every_write_of_the_agent_is_tried_twice(support):
    effects = {name: contract.effect.value for name, contract in support.contracts.items()}
    assert {tool for _, tool, _ in WRITES} == {n for n, e in effects.items() if e != "read"}


def test_a_key_used_for_something_else_is_refused(bank, use, part):
    use("lock_app", bank, key="k")
    before = bank.snapshot()
    for user, tool, arguments in [
        ("amira", "reset_passcode", {}),
        ("dora", "lock_app", {}),
    ]:
        with pytest.raises(part("bank:BankError"), match="used for another change"):
            use(tool, bank, user=user, key="k", **arguments)
    with pytest.raises(part("bank:BankError"), match="needs an idempotency key"):
        use("lock_app", bank, key="")
    assert bank.snapshot() == before


def test_a_refused_write_may_be_tried_again_under_its_key(bank, use, part):
    with pytest.raises(part("bank:BankError"), match="still on its way"):
        use("close_account", bank, key="k", reason="r")
    for at, transfer in enumerate(("transfer_11_02",)):
        use("cancel_transfer", bank, key=f"c{at}", transfer_id=transfer)
    with pytest.raises(part("bank:BankError"), match="still on its way"):
        use("close_account", bank, key="k", reason="r")  # one is still coming in
    assert use("close_account", bank, user="dora", key="k", reason="r")["status"] == "closed"


def test_threads_that_do_the_same_do_it_once(bank, use):
    results = []

    def work(key):
        results.append(
            use("open_dispute", bank, key=key, transaction_id="txn_11_09", reason="not_recognised")
        )

    threads = [threading.Thread(target=work, args=(f"k{at % 3}",)) for at in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 24
    assert {result["dispute_id"] for result in results} == {"dispute_000001"}
    assert len(bank.snapshot()["disputes"]) == 1


def test_processes_that_open_one_file_at_once_seed_and_write_once(support, open_bank, tmp_path):
    path = tmp_path / "bank.db"
    script = (
        "import sys; sys.dont_write_bytecode = True; sys.path.insert(0, sys.argv[1])\n"
        "import bank, bank_writes\n"
        "b = bank.open_bank({'path': sys.argv[2], 'today': '2026-01-15'})\n"
        "for n in range(20):\n"
        "    b.write(bank_writes.escalate_to_human, 'amira', f'k{n}', topic=f't{n}', summary='s')\n"
    )
    command = [sys.executable, "-c", script, str(support.root), str(path)]
    running = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(timeout=60) for process in running] == [0, 0, 0]
    snapshot = open_bank(path=str(path)).snapshot()
    assert len(snapshot["customers"]) == len(CUSTOMERS)
    assert len(snapshot["tickets"]) == 20


# --- Hostile values -------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE_TEXTS, ids=range(len(HOSTILE_TEXTS)))
def test_hostile_text_changes_nothing_it_should_not(bank, use, part, text):
    refusal = (part("bank:BankError"), UnicodeEncodeError, ValueError)
    before = bank.snapshot()
    for tool, arguments in [
        ("freeze_card", {"card_id": text}),
        ("cancel_transfer", {"transfer_id": text}),
        ("open_dispute", {"transaction_id": text, "reason": "fee"}),
        ("open_dispute", {"transaction_id": "txn_11_09", "reason": text}),
        ("freeze_card", {"card_id": "card_11_01", "reason": text}),
        ("order_card", {"kind": text}),
        ("change_phone", {"phone": text}),
    ]:
        with pytest.raises(refusal):
            use(tool, bank, key=f"{tool}:{sorted(arguments)}", **arguments)
    assert bank.snapshot() == before


def test_an_address_with_invisible_characters_is_refused(bank, use, part):
    for value in ("1\u202e Main", "1 Ma\u200bin", "1 Main\x07", "x" * 121, "  "):
        with pytest.raises(part("bank:BankError")):
            use("change_address", bank, address_line=value, city="B", postcode="C1")


@pytest.mark.parametrize(
    "amount", [-1, 0, 2491, 10**30, 1.5, math.nan, math.inf, "100", True, None]
)
def test_a_refund_of_a_senseless_sum_is_refused(bank, use, part, amount):
    with pytest.raises(part("bank:BankError")):
        use("request_refund", bank, transaction_id="txn_11_02", amount_minor=amount)
    assert bank.snapshot()["refunds"] == []


def test_every_message_reaches_a_person(bank, use):
    for at, text in enumerate(HOSTILE_TEXTS):
        result = use("escalate_to_human", bank, key=f"k{at}", topic=text, summary=text)
        assert result["status"] == "open"
    summaries = [row["summary"] for row in bank.snapshot()["tickets"]]
    assert all(0 < len(text) <= 500 and text.isprintable() for text in summaries)


# --- Rules ----------------------------------------------------------------------------------------


def test_a_stolen_or_misused_card_is_never_unfrozen(bank, use, part):
    for reason in ("stolen", "compromised", "lost"):
        with pytest.raises(part("bank:BankError")):
            use("unfreeze_card", bank, "dora", card_id="card_14_03", frozen_reason=reason)
    use("freeze_card", bank, "chen", key="a", card_id="card_13_01", reason="stolen")
    with pytest.raises(part("bank:BankError"), match="never unfrozen"):
        use("unfreeze_card", bank, "chen", key="b", card_id="card_13_01", frozen_reason="stolen")


def test_a_milder_reason_does_not_replace_a_worse_one(bank, use):
    result = use("freeze_card", bank, "dora", card_id="card_14_03", reason="lost")
    assert (result["frozen_reason"], result["changed"]) == ("compromised", False)


def test_a_refund_is_asked_for_once_and_in_time(open_bank, use, part):
    bank = open_bank()
    use("request_refund", bank, key="a", transaction_id="txn_11_02", amount_minor=100)
    with pytest.raises(part("bank:BankError"), match="already"):
        use("request_refund", bank, key="b", transaction_id="txn_11_02", amount_minor=100)
    bank._today = date(2026, 9, 1)
    with pytest.raises(part("bank:BankError"), match="too long ago"):
        use("request_refund", bank, key="c", transaction_id="txn_11_06", amount_minor=100)


def test_only_a_transfer_on_its_way_out_is_cancelled_and_its_sum_comes_back(bank, use, part):
    balance = use("get_account", bank)["balance_minor"]
    for transfer in ("transfer_11_01", "transfer_11_03", "transfer_11_04", "transfer_11_06"):
        with pytest.raises(part("bank:BankError"), match="cannot be cancelled"):
            use("cancel_transfer", bank, key=transfer, transfer_id=transfer)
    use("cancel_transfer", bank, key="k", transfer_id="transfer_11_02")
    assert use("get_account", bank)["balance_minor"] == balance + 12_000


def test_a_closed_account_takes_no_changes(bank, use, part):
    for tool, arguments in [
        ("order_card", {"kind": "virtual"}),
        ("change_phone", {"phone": "+35315550199"}),
        ("close_account", {"reason": "again"}),
    ]:
        with pytest.raises(part("bank:BankError"), match="account is closed"):
            use(tool, bank, "emil", key=tool, **arguments)


def test_complaints_find_what_they_are_about(bank, use):
    def only(problem, **more):
        return use("review_transactions", bank, problem=problem, **more)["transaction_id"]

    assert only("charged_twice") == "txn_11_08"
    assert only("not_recognised", kind="card_payment") == "txn_11_09"
    assert only("not_recognised", kind="direct_debit") == "txn_11_10"
    assert only("wrong_amount") == "txn_11_12"
    assert only("refundable") is None
    assert only("refundable", about="the 24.90 at Harbour Books") == "txn_11_02"
    assert only("refundable", about="349,00 Lumen") == "txn_11_06"
    assert only("refundable", about="something I bought") is None
    assert only("not_recognised", kind="card_payment", about="Harbour Books") == "txn_11_09"


# --- Anything, in any order -----------------------------------------------------------------------

_BANKS = {}


class BankMachine(RuleBasedStateMachine):
    """Any sequence of writes by any customer keeps the bank's invariants."""

    @initialize()
    def open(self):
        self.bank = _BANKS["open"]({"path": ":memory:", "today": "2026-01-15"})
        self.keys = iter(range(10**6))
        start = self.bank.snapshot()
        self.paid = {row["transaction_id"]: row["amount_minor"] for row in start["transactions"]}
        self.money = self.worth(start)
        self.ended = set()
        self.closed = {"emil"}

    def teardown(self):
        self.bank.close()

    @staticmethod
    def worth(state):
        """Money per customer: balances, and what is on its way or has been paid out."""
        total = {}
        for row in state["accounts"]:
            total[row["customer_id"]] = total.get(row["customer_id"], 0) + row["balance_minor"]
        for row in state["transfers"]:
            if row["direction"] == "out" and row["status"] in ("pending", "completed"):
                sum_minor = row["amount_minor"] + row["fee_minor"]
                total[row["customer_id"]] = total.get(row["customer_id"], 0) + sum_minor
        return total

    @rule(
        user=st.sampled_from(CUSTOMERS),
        tool=st.sampled_from(
            ["activate_card", "freeze_card", "unfreeze_card", "replace_card", "unblock_pin"]
        ),
        card=st.sampled_from(["11_01", "11_02", "11_03", "13_01", "13_02", "14_01", "14_03"]),
        reason=st.sampled_from(["lost", "stolen", "compromised", "swallowed"]),
    )
    def on_a_card(self, user, tool, card, reason):
        arguments = {"card_id": f"card_{card}"}
        if tool == "freeze_card":
            arguments["reason"] = reason
        if tool == "unfreeze_card":
            arguments["frozen_reason"] = reason
        self.attempt(f"bank_cards:{tool}", user, arguments)

    @rule(
        user=st.sampled_from(CUSTOMERS),
        transaction=st.sampled_from(["11_02", "11_06", "11_08", "11_09", "14_06", "14_07"]),
        amount_minor=st.integers(-10, 200_000),
    )
    def refund(self, user, transaction, amount_minor):
        arguments = {"transaction_id": f"txn_{transaction}", "amount_minor": amount_minor}
        self.attempt("bank_writes:request_refund", user, arguments)

    @rule(
        user=st.sampled_from(CUSTOMERS),
        transaction=st.sampled_from(["11_08", "11_09", "11_20", "14_06"]),
    )
    def dispute(self, user, transaction):
        arguments = {"transaction_id": f"txn_{transaction}", "reason": "not_recognised"}
        self.attempt("bank_writes:open_dispute", user, arguments)

    @rule(
        user=st.sampled_from(CUSTOMERS),
        transfer=st.sampled_from(["11_02", "11_03", "11_06", "12_01"]),
    )
    def cancel(self, user, transfer):
        self.attempt("bank_writes:cancel_transfer", user, {"transfer_id": f"transfer_{transfer}"})

    @rule(user=st.sampled_from(CUSTOMERS), kind=st.sampled_from(["physical", "disposable"]))
    def order(self, user, kind):
        self.attempt("bank_cards:order_card", user, {"kind": kind})

    @rule(user=st.sampled_from(CUSTOMERS))
    def close(self, user):
        self.attempt("bank_writes:close_account", user, {"reason": "because"})

    def attempt(self, operation, user, arguments):
        before = self.bank.snapshot()
        try:
            self.bank.write(_BANKS["part"](operation), user, f"k{next(self.keys)}", **arguments)
        except _BANKS["error"]:
            assert self.bank.snapshot() == before
            return
        after = self.bank.snapshot()
        for table, rows in before.items():
            others = [row for row in rows if row["customer_id"] != user]
            assert [row for row in after[table] if row["customer_id"] != user] == others

    @invariant()
    def holds(self):
        if not hasattr(self, "bank"):
            return
        state = self.bank.snapshot()
        assert self.worth(state) == self.money
        assert all(row["balance_minor"] >= 0 for row in state["accounts"])
        for row in state["refunds"]:
            assert row["amount_minor"] <= self.paid[row["transaction_id"]]
        asked = [row["transaction_id"] for row in state["refunds"]]
        assert len(asked) == len(set(asked))
        contested = [row["transaction_id"] for row in state["disputes"]]
        assert len(contested) == len(set(contested))
        for row in state["cards"]:
            if row["card_id"] in self.ended:
                assert row["status"] in ("cancelled", "used")
            if row["status"] in ("cancelled", "used"):
                self.ended.add(row["card_id"])
        closed = {row["customer_id"] for row in state["accounts"] if row["status"] == "closed"}
        assert self.closed <= closed
        self.closed = closed
        for row in state["cards"]:
            assert row["customer_id"] not in closed or row["status"] in ("cancelled", "used")


def test_any_sequence_of_writes_keeps_the_invariants(part):
    _BANKS.update(
        open=part("bank:open_bank"),
        error=part("bank:BankError"),
        part=part,
    )
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        BankMachine,
        settings=settings(max_examples=20, stateful_step_count=20, deadline=None),
    )


@given(about=st.text(max_size=200))
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_customers_words_never_add_a_candidate(bank, use, about):
    everything = use("review_transactions", bank, problem="refundable")["candidates"]
    named = use("review_transactions", bank, problem="refundable", about=about)["candidates"]
    ids = {item["transaction_id"] for item in everything}
    assert named
    assert {item["transaction_id"] for item in named} <= ids
