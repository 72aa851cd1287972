"""One signing key per machine, and trust only in keys that were put there."""

from __future__ import annotations

import hashlib
import stat

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mlflow_agent_plugin.errors import ConfigError
from mlflow_agent_plugin.trust.keys import (
    KeyPurpose,
    KeyStore,
    SigningKey,
    public_pem,
    verify_signature,
)


@pytest.fixture
def keys(tmp_path):
    return KeyStore(tmp_path / "keys")


def private_pem(private_key, password=None):
    encryption = serialization.NoEncryption()
    if password:
        encryption = serialization.BestAvailableEncryption(password)
    return private_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


def put(path, data, mode=0o600):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)


def test_an_empty_folder_trusts_nobody_and_is_not_even_made(keys):
    assert keys.trusted_keys() == {}
    assert keys.revoked() == frozenset()
    assert not keys.folder.exists()


def test_the_first_use_makes_a_private_file_in_a_private_folder(keys):
    keys.signing_key()
    assert stat.S_IMODE((keys.folder / "signing-key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(keys.folder.stat().st_mode) == 0o700
    assert [path.name for path in keys.folder.iterdir()] == ["signing-key.pem"]


def test_later_uses_give_the_same_key_and_trust_it(keys):
    first, second = keys.signing_key(), KeyStore(keys.folder).signing_key()
    assert first.key_id == second.key_id
    assert list(keys.trusted_keys()) == [first.key_id]
    assert verify_signature(keys.trusted_keys()[first.key_id], second.sign(b"x"), b"x")
    assert first.local
    assert keys.local


def test_a_key_is_named_after_its_public_half(keys):
    key = keys.signing_key()
    der = key.public_key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert key.key_id == hashlib.sha256(der).hexdigest()


def test_the_private_key_shows_in_no_repr(keys):
    key = keys.signing_key()
    assert repr(key) == f"SigningKey(key_id='{key.key_id}', local=True)"


def test_the_folder_comes_from_the_settings_by_default(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_AGENTS_KEY_DIR", str(tmp_path / "elsewhere"))
    assert KeyStore().folder == tmp_path / "elsewhere"


GET_KEY = """
import sys
from mlflow_agent_plugin.trust.keys import KeyStore
print("ready", flush=True)
sys.stdin.readline()
print(KeyStore(sys.argv[1]).signing_key().key_id)
"""


def test_processes_that_need_the_first_key_at_once_get_the_same_one(tmp_path, race):
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        assert len(set(race(GET_KEY, folder))) == 1
        assert [path.name for path in folder.iterdir()] == ["signing-key.pem"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_private_key_that_others_can_read_is_refused(keys, mode):
    keys.signing_key()
    (keys.folder / "signing-key.pem").chmod(mode)
    with pytest.raises(ConfigError, match=r"other users can read.*chmod 600"):
        keys.signing_key()
    with pytest.raises(ConfigError, match="other users can read"):
        keys.trusted_keys()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a key",
        private_pem(ec.generate_private_key(ec.SECP256R1())),
        private_pem(Ed25519PrivateKey.generate(), b"password"),
        public_pem(SigningKey.generate().public_key),
    ],
    ids=["empty", "text", "other kind", "encrypted", "public"],
)
def test_a_file_that_is_no_usable_private_key_is_an_error_that_names_it(keys, data):
    put(keys.folder / "signing-key.pem", data)
    with pytest.raises(ConfigError, match=r"signing-key\.pem"):
        keys.signing_key()


@pytest.mark.parametrize(
    "data",
    [b"", b"not a key", private_pem(Ed25519PrivateKey.generate())],
    ids=["empty", "text", "private"],
)
def test_a_trusted_file_that_is_no_public_key_is_an_error_never_skipped(keys, data):
    put(keys.folder / "trusted" / "alice.pem", data)
    with pytest.raises(ConfigError, match=r"alice\.pem"):
        keys.trusted_keys()


def test_a_folder_that_cannot_be_written_is_an_error_with_a_hint(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="MLFLOW_AGENTS_KEY_DIR"):
        KeyStore(tmp_path / "file" / "keys").signing_key()


def test_a_key_trusted_for_one_purpose_is_trusted_for_no_other(keys):
    ours, theirs = keys.signing_key(), SigningKey.generate()
    assert keys.trust(theirs.public_key, purpose=KeyPurpose.EVIDENCE) == theirs.key_id
    assert set(keys.trusted_keys(KeyPurpose.EVIDENCE)) == {ours.key_id, theirs.key_id}
    assert set(keys.trusted_keys(KeyPurpose.ACTORS)) == {ours.key_id}
    assert set(keys.trusted_keys()) == {ours.key_id}


def test_a_key_trusted_for_everything_is_trusted_for_each_purpose(keys):
    key_id = keys.trust(SigningKey.generate().public_key)
    for purpose in (None, *KeyPurpose):
        assert set(keys.trusted_keys(purpose)) == {key_id}


def test_a_revoked_key_is_trusted_nowhere(keys):
    theirs = SigningKey.generate()
    keys.trust(theirs.public_key)
    keys.trust(theirs.public_key, purpose=KeyPurpose.AUDIT)
    keys.revoke(theirs.key_id, note="laptop stolen\nfrom the train")
    assert keys.revoked() == {theirs.key_id}
    for purpose in (None, *KeyPurpose):
        assert keys.trusted_keys(purpose) == {}


def test_a_revoked_own_key_does_not_sign_any_more(keys):
    keys.revoke(keys.signing_key().key_id)
    with pytest.raises(ConfigError, match="revoked"):
        keys.signing_key()
    assert keys.trusted_keys() == {}


def test_a_typing_error_in_the_list_of_revoked_keys_is_an_error_that_names_the_line(keys):
    put(keys.folder / "trusted" / "revoked.txt", f"# stolen\n\n{'a' * 64}\n{'a' * 63}\n".encode())
    with pytest.raises(ConfigError, match=r"revoked\.txt:4"):
        keys.trusted_keys()
    with pytest.raises(ConfigError, match="key id"):
        keys.revoke("A" * 64)


def test_after_a_rotation_a_new_key_signs_and_the_old_one_is_trusted_for_what_it_signed(keys):
    before = keys.signing_key()
    old, new = keys.rotate()
    assert old == before.key_id != new.key_id
    assert keys.signing_key().key_id == new.key_id
    for purpose in (None, *KeyPurpose):
        assert set(keys.trusted_keys(purpose)) == {old, new.key_id}
    assert (keys.folder / "signing-key.pem").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in keys.folder.glob("signing-key*")) == ["signing-key.pem"]


def test_a_rotation_with_revocation_leaves_only_the_new_key_trusted(keys):
    old, new = keys.rotate(revoke=True, note="laptop stolen")
    for purpose in (None, *KeyPurpose):
        assert set(keys.trusted_keys(purpose)) == {new.key_id}
    assert keys.revoked() == {old}
    assert set(keys.revoked_keys(KeyPurpose.AUDIT)) == {old}
    assert "laptop stolen" in (keys.folder / "trusted" / "revoked.txt").read_text()


ROTATE = """
import sys
from mlflow_agent_plugin.trust import KeyStore
store = KeyStore(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
old, new = store.rotate()
print(old, new.key_id)
"""


def test_rotations_at_once_take_turns_and_lose_no_key(tmp_path, race):
    keys = KeyStore(tmp_path / "keys")
    first = keys.signing_key().key_id
    pairs = [answer.split()[:2] for answer in race(ROTATE, tmp_path / "keys", processes=3)]
    chain = dict(pairs)
    assert len(chain) == 3
    at = first
    for _ in range(3):
        at = chain[at]
    assert keys.signing_key().key_id == at
    assert set(keys.trusted_keys()) == {first, *chain.values()}
