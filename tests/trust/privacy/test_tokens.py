"""Tokens: one value one token within a session, nothing outside it."""

import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_agent_plugin.errors import ConfigError, IntegrityError
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.trust.privacy import PrivacyKey, SessionTokens

CARD = "4111 1111 1111 1111"


@pytest.fixture
def store(store_uri):
    with Store.open(store_uri) as opened:
        yield opened


@pytest.fixture
def tokens(store, tmp_path):
    return SessionTokens(store, PrivacyKey(tmp_path / "keys"))


def test_a_value_has_one_token_and_a_token_its_value(tokens):
    assert tokens.token("s1", "card", CARD) == "<CARD_1>"
    assert tokens.token("s1", "card", "378282246310005") == "<CARD_2>"
    assert tokens.token("s1", "card", CARD) == "<CARD_1>"
    assert tokens.token("s1", "email", "jo@example.org") == "<EMAIL_1>"
    assert tokens.reveal("s1", "pay <CARD_1> to <EMAIL_1>") == f"pay {CARD} to jo@example.org"


def test_another_process_reads_the_same_tokens(tokens, store, tmp_path):
    tokens.token("s1", "card", CARD)
    other = SessionTokens(store, PrivacyKey(tmp_path / "keys"))
    assert other.token("s1", "card", CARD) == "<CARD_1>"
    assert other.reveal("s1", "<CARD_1>") == CARD
    tokens.token("s1", "card", "378282246310005")
    assert other.reveal("s1", "<CARD_2>") == "378282246310005"


def test_a_token_means_nothing_in_another_session(tokens):
    tokens.token("s1", "card", CARD)
    assert tokens.reveal("s2", "<CARD_1>") == "<CARD_1>"


def test_a_row_copied_to_another_session_does_not_open(tokens, store):
    tokens.token("s1", "card", CARD)
    with store.begin() as connection:
        connection.exec_driver_sql("UPDATE agent_masked_values SET session_id = 's2'")
    with pytest.raises(IntegrityError, match=r"privacy\.key"):
        tokens.reveal("s2", "<CARD_1>")


def test_with_another_key_nothing_opens(tokens, store, tmp_path):
    tokens.token("s1", "card", CARD)
    with pytest.raises(IntegrityError):
        SessionTokens(store, PrivacyKey(tmp_path / "other")).reveal("s1", "<CARD_1>")


def test_the_database_holds_no_value(tokens, store):
    tokens.token("s1", "card", CARD)
    with store.read() as connection:
        rows = connection.exec_driver_sql("SELECT * FROM agent_masked_values").all()
    assert len(rows) == 1
    held = str(rows)
    assert not [part for part in (CARD, CARD.replace(" ", "")) if part in held]


def test_a_forgotten_session_keeps_its_tokens_and_loses_its_values(tokens):
    tokens.token("s1", "card", CARD)
    assert tokens.forget("s1") == 1
    assert tokens.reveal("s1", "<CARD_1>") == "<CARD_1>"


def test_known_values_are_concealed_wherever_they_stand_by_themselves(tokens):
    tokens.token("s1", "person", "Al")
    tokens.token("s1", "card", "378282246310005")
    concealed = tokens.conceal("s1", {"Al": ["Also Al.", 378282246310005, None, 1.5, True]})
    assert concealed == {"<PERSON_1>": ["Also <PERSON_1>.", "<CARD_1>", None, 1.5, True]}
    assert tokens.conceal("s2", "Al") == "Al"


def test_many_threads_agree_on_the_tokens(tokens):
    values = [f"jo{number}@example.org" for number in range(8)]
    given_out = [{} for _ in range(4)]

    def run(mine):
        for value in values:
            mine[value] = tokens.token("s1", "email", value)

    threads = [threading.Thread(target=run, args=(mine,)) for mine in given_out]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(mine == given_out[0] for mine in given_out)
    assert len(set(given_out[0].values())) == len(values)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)
@given(
    text=st.text(), looks_like=st.sampled_from(["<CARD_9>", "<A_1>", "<CARD_0>", "<card_1>", "<"])
)
def test_what_was_never_given_out_stays_as_it_is(tokens, text, looks_like):
    assert tokens.reveal("s9", text + looks_like) == text + looks_like


def test_a_key_file_others_can_read_is_refused(tmp_path):
    PrivacyKey(tmp_path).fingerprint("x", context="c")
    (tmp_path / "privacy.key").chmod(0o644)
    with pytest.raises(ConfigError, match="0600"):
        PrivacyKey(tmp_path).fingerprint("x", context="c")


def test_a_key_file_of_another_length_is_refused(tmp_path):
    (tmp_path / "privacy.key").write_bytes(b"short")
    (tmp_path / "privacy.key").chmod(0o600)
    with pytest.raises(ConfigError, match="32 bytes"):
        PrivacyKey(tmp_path).seal("x", context="c")
