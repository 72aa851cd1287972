"""Whatever is done to an audit's rows is found, and the first bad row named."""

from __future__ import annotations

import contextlib
import copy
import shutil
import sqlite3
import tempfile
from pathlib import Path

import pytest
from helpers.scale import scaled
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text

from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.store.tables import audit_checkpoints, audit_events
from mlflow_agent_plugin.trust.audit import AuditAnchor, AuditKind, AuditLog, verify_audit
from mlflow_agent_plugin.trust.audit.chain import (
    HEADER_FIELDS,
    RowHasher,
    checkpoint_hash,
    encode_signature,
    event_hash,
    genesis,
    hash_fields,
)
from mlflow_agent_plugin.trust.audit.verify import AuditCheck, AuditDefect
from mlflow_agent_plugin.trust.keys import KeyPurpose, KeyStore, SigningKey

KEY = SigningKey.generate()
KIND = AuditKind.TOOL_CALL_DECIDED


def rows_of(store):
    with store.read() as connection:
        events = connection.execute(
            select(audit_events).order_by(audit_events.c.writer, audit_events.c.seq)
        )
        checkpoints = connection.execute(
            select(audit_checkpoints).order_by(audit_checkpoints.c.number)
        )
        return [dict(row._mapping) for row in events], [dict(row._mapping) for row in checkpoints]


@pytest.fixture(scope="module")
def pristine():
    """Rows of three writers: one with 12 events (sealed 1, 5, 9), two with 5 (sealed 1, 5)."""
    with Store.open("sqlite://") as store:
        for count in (12, 5, 5):
            log = AuditLog(store, key=KEY, checkpoint_every=4)
            for number in range(count):
                log.append(KIND, session_id="s", tenant="t", actor="eve", number=number)
        return rows_of(store)


@pytest.fixture
def rows(pristine):
    return copy.deepcopy(pristine)


def check(events, checkpoints, *, anchor=None, keys=None):
    checker = AuditCheck({KEY.key_id: KEY.public_key} if keys is None else keys)
    checker.read_checkpoints(checkpoints)
    checker.check_anchor(anchor)
    checker.read_events(sorted(events, key=lambda row: (row["writer"], row["seq"])))
    return checker.result()


def longest(events):
    writers = [row["writer"] for row in events]
    return max(set(writers), key=writers.count)


def chain(events, writer):
    return [row for row in events if row["writer"] == writer]


def name(row):
    return f"{row['writer']}-{row['seq']}"


def relink(events, writer):
    """Give a chain fresh hashes, as somebody would who changed it and knows the format."""
    head = genesis(writer)
    for row in chain(events, writer):
        row["prev_hash"] = head
        row["hash"] = head = event_hash({f: row[f] for f in HEADER_FIELDS}, row["body"], head)


def defects(verification):
    return {problem.defect for problem in verification.problems}


def test_untouched_rows_are_intact(rows):
    verification = check(*rows)
    assert verification.ok, verification
    assert (verification.events, verification.writers, verification.unsealed) == (22, 3, 3)
    assert "intact" in str(verification)
    assert verification.to_dict()["problems"] == []


FIELDS = [column.name for column in audit_events.columns if column.name != "position"]


@settings(max_examples=200, deadline=None)
@given(
    index=st.integers(0, 21),
    field=st.sampled_from(FIELDS),
    value=st.one_of(st.none(), st.text(max_size=8), st.integers(0, 10**6), st.binary(max_size=3)),
)
def test_any_changed_field_of_any_event_is_found_and_the_event_named(pristine, index, field, value):
    events, checkpoints = copy.deepcopy(pristine)
    row = events[index]
    if row[field] == value and type(row[field]) is type(value):
        return
    row[field] = value
    checker = AuditCheck({KEY.key_id: KEY.public_key})
    checker.read_checkpoints(checkpoints)
    checker.read_events(events)
    verification = checker.result()
    assert not verification.ok
    if field not in {"writer", "seq"}:
        assert verification.first_bad == name(row)
        assert verification.problems[0].defect is AuditDefect.CHANGED


@settings(max_examples=200, deadline=None)
@given(
    index=st.integers(0, 6),
    field=st.sampled_from([column.name for column in audit_checkpoints.columns]),
    value=st.one_of(st.none(), st.text(max_size=8), st.integers(0, 10**6), st.binary(max_size=3)),
)
def test_any_changed_field_of_any_checkpoint_is_found(pristine, index, field, value):
    events, checkpoints = copy.deepcopy(pristine)
    row = checkpoints[index]
    if row[field] == value and type(row[field]) is type(value):
        return
    row[field] = value
    assert not check(events, checkpoints).ok


@settings(max_examples=100, deadline=None)
@given(indexes=st.sets(st.integers(0, 21), min_size=1, max_size=4))
def test_any_removed_event_with_a_later_one_or_a_seal_is_found_and_named(pristine, indexes):
    events, checkpoints = copy.deepcopy(pristine)
    gone = [events[index] for index in indexes]
    sealed = {}
    for row in checkpoints:
        sealed[row["writer"]] = max(row["seq"], sealed.get(row["writer"], 0))
    left = [row for row in events if row not in gone]

    def shows(row):
        later = [r["seq"] for r in chain(left, row["writer"])]
        return row["seq"] < max([sealed[row["writer"]] + 1, *later])

    verification = check(left, checkpoints)
    visible = [name(row) for row in gone if shows(row)]
    assert verification.ok == (not visible)
    if visible:
        assert verification.first_bad in visible


def test_a_removed_event_is_named(rows):
    events, checkpoints = rows
    victim = chain(events, longest(events))[6]
    events.remove(victim)
    verification = check(events, checkpoints)
    assert verification.first_bad == name(victim)
    assert verification.problems[0].defect is AuditDefect.REMOVED


def test_events_that_changed_places_are_found(rows):
    events, checkpoints = rows
    one, other = chain(events, longest(events))[3:5]
    one["position"], other["position"] = other["position"], one["position"]
    verification = check(events, checkpoints)
    assert verification.first_bad == name(other)
    assert defects(verification) == {AuditDefect.REORDERED}


def test_events_that_changed_numbers_are_found(rows):
    events, checkpoints = rows
    one, other = chain(events, longest(events))[3:5]
    one["seq"], other["seq"] = other["seq"], one["seq"]
    verification = check(events, checkpoints)
    assert not verification.ok
    assert verification.first_bad in {name(one), name(other)}


def test_an_event_that_stands_twice_is_found(rows):
    events, checkpoints = rows
    events.append({**chain(events, longest(events))[3], "position": 1000})
    assert AuditDefect.REORDERED in defects(check(events, checkpoints))


def test_a_chain_with_a_changed_event_and_fresh_hashes_misses_its_seal(rows):
    events, checkpoints = rows
    writer = longest(events)
    chain(events, writer)[2]["body"] = '{"number":999}'
    relink(events, writer)
    verification = check(events, checkpoints)
    assert verification.first_bad == f"{writer}-5", "the first sealed event at or after it"
    assert defects(verification) == {AuditDefect.CHANGED}


def test_a_chain_with_a_removed_event_renumbered_and_with_fresh_hashes_misses_its_seal(rows):
    events, checkpoints = rows
    writer = longest(events)
    events.remove(chain(events, writer)[2])
    for number, row in enumerate(chain(events, writer), 1):
        row["seq"] = number
    relink(events, writer)
    verification = check(events, checkpoints)
    assert verification.first_bad == f"{writer}-5"


def test_a_cut_off_tail_that_was_sealed_is_found_and_its_first_event_named(rows):
    events, checkpoints = rows
    writer = longest(events)
    for row in chain(events, writer)[6:]:
        events.remove(row)
    verification = check(events, checkpoints)
    assert verification.first_bad == f"{writer}-7"
    assert defects(verification) == {AuditDefect.TRUNCATED}


def test_a_tail_cut_off_with_its_own_seals_is_found_by_the_checkpoints_after_them(rows):
    events, checkpoints = rows
    writer = longest(events)
    for row in chain(events, writer)[3:]:
        events.remove(row)
    left = [row for row in checkpoints if row["writer"] != writer or row["seq"] < 4]
    verification = check(events, left)
    assert not verification.ok
    assert verification.first_bad == "checkpoint 2"


def test_a_writer_that_is_gone_is_missed(rows):
    events, checkpoints = rows
    writer = longest(events)
    verification = check([row for row in events if row["writer"] != writer], checkpoints)
    assert verification.first_bad == f"{writer}-1"
    assert "every event" in verification.problems[0].message


def test_a_made_up_writer_without_a_trusted_seal_is_found(rows):
    events, checkpoints = rows
    source = chain(events, longest(events))
    events += [{**row, "writer": "f" * 32, "position": 100 + row["seq"]} for row in source]
    relink(events, "f" * 32)
    verification = check(events, checkpoints)
    assert verification.first_bad == f"{'f' * 32}-1"
    assert defects(verification) == {AuditDefect.UNSIGNED_WRITER}


def forge(row, key, **changes):
    fields = {k: v for k, v in {**row, **changes}.items() if k not in {"hash", "signature"}}
    fields["key_id"] = key.key_id
    own_hash = checkpoint_hash(**fields)
    signature = encode_signature(key.sign(own_hash.encode()))
    return {**fields, "hash": own_hash, "signature": signature}


def test_a_history_rewritten_and_sealed_with_another_key_is_found(rows):
    events, checkpoints = rows
    writer = longest(events)
    chain(events, writer)[0]["body"] = "{}"
    relink(events, writer)
    heads = {(row["writer"], row["seq"]): row["hash"] for row in events}
    mallory, previous, forged = SigningKey.generate(), checkpoints[0]["prev_hash"], []
    for row in checkpoints:
        head = heads[row["writer"], row["seq"]]
        forged.append(forge(row, mallory, head_hash=head, prev_hash=previous))
        previous = forged[-1]["hash"]
    verification = check(events, forged)
    assert not verification.ok
    assert AuditDefect.FORGED_CHECKPOINT in defects(verification)
    assert "not trusted" in str([problem.message for problem in verification.problems])
    everything = {KEY.key_id: KEY.public_key, mallory.key_id: mallory.public_key}
    assert check(events, forged, keys=everything).ok, "who holds a trusted key can do this"


@pytest.mark.parametrize("signature", ["", "%%%", "AAAA", "é"])
def test_a_signature_that_is_none_is_found(rows, signature):
    events, checkpoints = rows
    checkpoints[1]["signature"] = signature
    verification = check(events, checkpoints)
    assert AuditDefect.FORGED_CHECKPOINT in defects(verification)


def test_with_an_anchor_kept_elsewhere_a_cut_off_end_is_found(rows):
    events, checkpoints = rows
    last = checkpoints[-1]
    anchor = AuditAnchor(last["number"], last["hash"])
    assert check(events, checkpoints, anchor=anchor).ok
    shorter = [row for row in events if row["writer"] != last["writer"]]
    shorter += chain(events, last["writer"])[:4]
    assert check(shorter, checkpoints[:-1]).ok, "not visible without the anchor"
    verification = check(shorter, checkpoints[:-1], anchor=anchor)
    assert verification.first_bad == f"checkpoint {last['number']}"
    assert defects(verification) == {AuditDefect.TRUNCATED}


def test_the_first_of_several_bad_rows_is_the_one_written_first(rows):
    events, checkpoints = rows
    victims = sorted(events, key=lambda row: row["position"])[3::5]
    for row in victims:
        row["body"] = "{}"
    verification = check(events, checkpoints)
    assert verification.first_bad == name(victims[0])
    assert name(victims[0]) in str(verification)
    assert name(victims[0]) in verification._repr_html_()


# --- In a database, by somebody who owns it ------------------------------------------------------


def tamper(store, *statements):
    """Drop the triggers, as the owner of a database can, and change it."""
    with store.begin() as connection:
        for table in ("agent_audit_events", "agent_audit_checkpoints"):
            if store.dialect == "sqlite":
                for action in ("update", "delete"):
                    connection.execute(text(f"DROP TRIGGER {table}_no_{action}"))
            else:
                connection.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER ALL"))
        for statement in statements:
            connection.execute(text(statement))


@pytest.fixture
def writer(store):
    log = AuditLog(store, checkpoint_every=4)
    for number in range(12):
        log.append(KIND, session_id="s", number=number)
    assert verify_audit(store).ok
    return log.events()[0].writer


@pytest.mark.parametrize(
    ("statement", "bad", "defect"),
    [
        ("UPDATE agent_audit_events SET body = '{}' WHERE seq = 7", 7, AuditDefect.CHANGED),
        ("UPDATE agent_audit_events SET actor = 'x' WHERE seq = 3", 3, AuditDefect.CHANGED),
        ("DELETE FROM agent_audit_events WHERE seq = 7", 7, AuditDefect.REMOVED),
        ("DELETE FROM agent_audit_events WHERE seq > 7", 8, AuditDefect.TRUNCATED),
        ("DELETE FROM agent_audit_events", 1, AuditDefect.TRUNCATED),
        ("UPDATE agent_audit_events SET position = 100 - seq", 2, AuditDefect.REORDERED),
    ],
)
def test_a_change_by_the_owner_of_the_database_is_found(store, writer, statement, bad, defect):
    tamper(store, statement)
    verification = verify_audit(store)
    assert defect in defects(verification)
    if defect is not AuditDefect.REORDERED:
        assert verification.first_bad == f"{writer}-{bad}"


def test_a_plain_delete_of_unsealed_events_still_shows_in_sqlites_row_numbers(tmp_path):
    with Store.open(f"sqlite:///{tmp_path}/a.db") as store:
        log = AuditLog(store, checkpoint_every=4)
        for _ in range(12):
            log.append(KIND)
        tamper(store, "DELETE FROM agent_audit_events WHERE seq > 10")
        verification = verify_audit(store)
        assert verification.first_bad == "row 11"
        assert "12 rows were written, 10 are left" in str(verification)


def test_values_of_the_wrong_type_are_found_not_stumbled_over(tmp_path):
    """SQLite keeps whatever it is given in any column."""
    with Store.open(f"sqlite:///{tmp_path}/a.db") as store:
        log = AuditLog(store)
        log.append(KIND)
        log.append(KIND)
        tamper(
            store,
            "UPDATE agent_audit_events SET seq = 'two', hash = x'00' WHERE seq = 2",
            "UPDATE agent_audit_checkpoints SET seq = 'one'",
        )
        verification = verify_audit(store)
        assert not verification.ok
        assert AuditDefect.CHANGED in defects(verification)


def test_checkpoints_of_a_revoked_key_are_not_believed(store, writer):
    keys = KeyStore()
    keys.revoke(keys.signing_key().key_id)
    verification = verify_audit(store)
    assert AuditDefect.FORGED_CHECKPOINT in defects(verification)


def test_another_machine_verifies_with_the_public_key_it_was_given(store, writer, tmp_path):
    ours, theirs = KeyStore(), KeyStore(tmp_path / "other machine")
    keys = theirs.trusted_keys(KeyPurpose.AUDIT)
    assert not verify_audit(store, trusted_keys=keys).ok
    theirs.trust(ours.signing_key().public_key, purpose=KeyPurpose.AUDIT)
    assert verify_audit(store, trusted_keys=theirs.trusted_keys(KeyPurpose.AUDIT)).ok
    assert not verify_audit(store, trusted_keys=theirs.trusted_keys(KeyPurpose.EVIDENCE)).ok


# --- Rotated and revoked keys --------------------------------------------------------------------


def test_an_audit_is_intact_across_a_rotation_that_running_logs_follow(memory_store):
    keys = KeyStore()
    with AuditLog(memory_store, checkpoint_every=1) as log:
        log.append(KIND, number=1)
        old, new = keys.rotate()
        log.append(KIND, number=2)
    with memory_store.read() as connection:
        signers = connection.execute(select(audit_checkpoints.c.key_id)).scalars().all()
    assert signers == [old, new.key_id]
    assert verify_audit(memory_store).ok


def test_what_a_revoked_key_signed_counts_until_nobody_trusted_signs_after_it(memory_store):
    keys = KeyStore()
    with AuditLog(memory_store, checkpoint_every=1) as log:
        log.append(KIND, number=1)
        old, _ = keys.rotate(revoke=True, note="stolen")
        broken = verify_audit(memory_store)
        assert broken.first_bad == "checkpoint 1"
        assert f"revoked key, and no trusted one signed after it ({old})" in str(broken)
        log.append(KIND, number=2)
    assert verify_audit(memory_store).ok


def test_the_thief_of_a_revoked_key_cannot_add_or_rewrite_checkpoints(rows):
    events, checkpoints = rows
    thief, owner = KEY, SigningKey.generate()
    trusted, revoked = {owner.key_id: owner.public_key}, {thief.key_id: thief.public_key}

    def judge(some_events, some_checkpoints):
        checker = AuditCheck(trusted, revoked)
        checker.read_checkpoints(some_checkpoints)
        checker.read_events(some_events)
        return checker.result()

    def sign(row, key):
        names = ("number", "writer", "seq", "head_hash", "ts", "key_id", "prev_hash")
        row["key_id"] = key.key_id
        row["hash"] = checkpoint_hash(**{name: row[name] for name in names})
        row["signature"] = encode_signature(key.sign(row["hash"].encode("ascii")))

    sign(checkpoints[-1], owner)
    assert judge(events, checkpoints).ok
    forged = copy.deepcopy((events, checkpoints))
    writer = forged[0][0]["writer"]
    forged[0][0]["actor"] = "mallory"
    relink(forged[0], writer)
    heads = {(row["writer"], row["seq"]): row["hash"] for row in forged[0]}
    previous = None
    for row in forged[1][:-1]:
        row["head_hash"] = heads[row["writer"], row["seq"]]
        row["prev_hash"] = previous or row["prev_hash"]
        sign(row, thief)
        previous = row["hash"]
    assert not judge(*forged).ok
    # Without the owner's checkpoint it fits together, and is not believed.
    assert not judge(forged[0], forged[1][:-1]).ok


# --- Edits in the database itself ----------------------------------------------------------------


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    """A database file of three closed writers whose every event is sealed, without its triggers."""
    path = tmp_path_factory.mktemp("sealed") / "audit.db"
    with Store.open(f"sqlite:///{path}") as store:
        for count in (9, 4, 1):
            with AuditLog(store, key=KEY, checkpoint_every=3) as log:
                for number in range(count):
                    log.append(KIND, session_id="s", tenant="t", actor="eve", number=number)
        with store.begin() as connection:
            triggers = connection.execute(
                text("SELECT name FROM sqlite_master WHERE type = 'trigger'")
            ).scalars()
            for trigger in list(triggers):
                connection.execute(text(f"DROP TRIGGER {trigger}"))
    return path


EDITS = st.one_of(
    st.tuples(
        st.just("change"), st.integers(1, 14), st.sampled_from(FIELDS),
        st.one_of(st.none(), st.text(max_size=6), st.integers(-3, 99), st.binary(max_size=3)),
    ),
    st.tuples(st.just("delete"), st.integers(1, 14), st.integers(1, 14), st.none()),
    st.tuples(st.just("truncate"), st.integers(1, 14), st.none(), st.none()),
    st.tuples(st.just("swap"), st.integers(1, 14), st.integers(1, 14), st.none()),
    st.tuples(st.just("copy"), st.integers(1, 14), st.none(), st.none()),
    st.tuples(st.just("unseal"), st.integers(1, 6), st.none(), st.none()),
)  # fmt: skip


def apply(database, edit):
    """Apply one edit; return the rows it touches, or None if the database refuses it."""
    what, first, second, value = edit
    run = database.execute
    low, high = sorted((first, second)) if isinstance(second, int) else (first, first)
    try:
        if what == "change":
            run(f"UPDATE agent_audit_events SET {second} = ? WHERE position = ?", (value, first))
        elif what == "delete":
            run("DELETE FROM agent_audit_events WHERE position BETWEEN ? AND ?", (low, high))
        elif what == "truncate":
            high = 14
            run("DELETE FROM agent_audit_events WHERE position >= ?", (first,))
        elif what == "swap":
            for old, new in ((first, -1), (second, first), (-1, second)):
                run("UPDATE agent_audit_events SET position = ? WHERE position = ?", (new, old))
        elif what == "copy":
            run(
                "INSERT INTO agent_audit_events SELECT NULL, 'copy' || writer, seq, ts, kind, "
                "request_id, session_id, tenant, actor, agent, agent_digest, body, prev_hash, hash "
                "FROM agent_audit_events WHERE position = ?", (first,),
            )  # fmt: skip
        else:
            run("DELETE FROM agent_audit_checkpoints WHERE number = ?", (first,))
    except sqlite3.Error:
        return None
    return range(low, high + 1)


def dump(database):
    """What the audit promises to protect: every field, and each writer's order, not row numbers."""
    return [
        database.execute(f"SELECT {', '.join(FIELDS)} FROM {table} ORDER BY {order}").fetchall()  # noqa: S608
        for table, order in (("agent_audit_events", "writer, position"),)
    ] + [database.execute("SELECT * FROM agent_audit_checkpoints ORDER BY number").fetchall()]


@settings(max_examples=scaled(40, 1500), deadline=None)
@given(edits=st.lists(EDITS, min_size=1, max_size=3))
def test_whatever_is_edited_in_the_database_is_found_and_the_first_bad_row_named(sealed, edits):
    with tempfile.TemporaryDirectory() as folder:
        path = shutil.copy(sealed, Path(folder) / "audit.db")
        with contextlib.closing(sqlite3.connect(path)) as database:
            names = {
                at: f"{writer}-{seq}"
                for at, writer, seq in database.execute(
                    "SELECT position, writer, seq FROM agent_audit_events"
                )
            }
            before = dump(database)
            touched = [apply(database, edit) for edit in edits]
            database.commit()
            changed = dump(database) != before
        with Store.open(f"sqlite:///{path}") as store:
            found = verify_audit(store, trusted_keys={KEY.key_id: KEY.public_key})
        if not changed:
            assert found.ok, found
            return
        assert not found.ok
        (what, _, field, _), *more = edits
        if more or what not in ("change", "delete", "truncate") or field in ("writer", "seq"):
            return
        # A writer of whom nothing is left has no row to stand at: then a later row is named first.
        (rows,) = touched
        all_of_a_writer = any(
            set(span) <= set(rows) for span in (range(1, 10), range(10, 14), (14,))
        )
        first = {names[at] for at in rows} if all_of_a_writer else {names[min(rows)]}
        assert found.first_bad in first, (found.problems, names)
        if what == "truncate":
            assert found.first_bad == names[min(rows)], (found.problems, names)


_TEXTS = st.text(max_size=20)
_ROWS = st.tuples(
    _TEXTS, st.integers(), *[_TEXTS] * 2, *[st.none() | _TEXTS] * 6, *[_TEXTS] * 2, _TEXTS
)


@given(rows=st.lists(_ROWS, max_size=6))
def test_a_row_has_the_same_hash_whichever_way_it_is_made(rows):
    row_hash = RowHasher()
    for row in [*rows, *rows]:
        assert row_hash(row) == hash_fields(row[:12])


def test_the_hashes_of_rows_about_ever_new_subjects_take_no_more_memory():
    row_hash = RowHasher()
    for number in range(10_000):
        row_hash(("w", number, "t", "k", f"request {number}", *[None] * 5, "{}", "p"))
    assert len(row_hash._about) <= 4096
