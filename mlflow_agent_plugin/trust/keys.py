"""Ed25519 keys: the one this machine signs with, and the public ones it trusts.

A key folder looks like this::

    signing-key.pem        this machine's private key (0600), made on first use
    trusted/*.pem          public keys trusted for everything
    trusted/<purpose>/*.pem  public keys trusted for one purpose: evidence, actors or audit
    trusted/revoked.txt    one key id a line (text after ``#`` is a note); wins over everything

Rules:
- A key's id is the SHA-256 of its public key in DER: the name cannot be claimed by another key.
- Two processes that need the signing key at once get the same one.
- A private key other users can read is refused, as ssh does.
- A malformed or non-Ed25519 file is an error that names it, never skipped.
- Rotation replaces the private key, which is then gone. The old public key goes on to be trusted
  for what it signed, unless it is revoked with it: a lost key must be, a merely old one need not.
- A self-made key proves "this machine signed it" and nothing more: `local` says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.errors import ConfigError

SIGNING_KEY_FILE = "signing-key.pem"
TRUSTED_FOLDER = "trusted"
REVOKED_FILE = "revoked.txt"

_KEY_ID = re.compile(r"^[0-9a-f]{64}$")


class KeyPurpose(str, Enum):
    """What a public key may be trusted for; also the name of its folder below ``trusted/``."""

    EVIDENCE = "evidence"
    ACTORS = "actors"
    AUDIT = "audit"


@dataclass(frozen=True)
class SigningKey:
    """A private key that signs.

    Attributes:
        key_id: Lower-case hex SHA-256 of the public key in DER.
        local: The key was made by this machine for itself; nobody else vouches for it.
    """

    key_id: str
    private_key: Ed25519PrivateKey = field(repr=False)
    local: bool = True

    @classmethod
    def generate(cls) -> SigningKey:
        """Make a new key that is kept nowhere."""
        private_key = Ed25519PrivateKey.generate()
        return cls(key_id=key_id_of(private_key.public_key()), private_key=private_key)

    @property
    def public_key(self) -> Ed25519PublicKey:
        """The public half."""
        return self.private_key.public_key()

    def sign(self, data: bytes) -> bytes:
        """Return the Ed25519 signature of `data` (64 bytes)."""
        return self.private_key.sign(data)


class KeyStore:
    """A key folder.

    Args:
        folder: The folder; default: ``MLFLOW_AGENTS_KEY_DIR``. Made when the first key is.
    """

    local = True
    """Its signing key is self-made: see `SigningKey.local`."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(Settings.from_env().key_dir if folder is None else folder).expanduser()

    def signing_key(self) -> SigningKey:
        """Return this machine's signing key, making it on first use.

        Raises:
            ConfigError: The file is unreadable, malformed, open to other users, or its key revoked.
        """
        path = self.folder / SIGNING_KEY_FILE
        if not path.exists():
            self._create(path)
        key = _read_private_key(path)
        if key.key_id in self.revoked():
            raise ConfigError(
                "this machine's signing key is revoked",
                where=str(path),
                hint="Move the file away; a new key is made on next use.",
            )
        return key

    def trusted_keys(self, purpose: KeyPurpose | None = None) -> dict[str, Ed25519PublicKey]:
        """Return the trusted public keys by key id: this machine's own and those in ``trusted/``.

        Args:
            purpose: Include the keys trusted for this purpose only; None: only those trusted for
                everything.

        Raises:
            ConfigError: A key file or the list of revoked keys is malformed.
        """
        revoked = self.revoked()
        known = self._known(purpose)
        return {key_id: key for key_id, key in known.items() if key_id not in revoked}

    def _known(self, purpose: KeyPurpose | None) -> dict[str, Ed25519PublicKey]:
        keys: dict[str, Ed25519PublicKey] = {}
        own = self.folder / SIGNING_KEY_FILE
        if own.exists():
            key = _read_private_key(own)
            keys[key.key_id] = key.public_key
        folders = [self.folder / TRUSTED_FOLDER]
        if purpose is not None:
            folders.append(folders[0] / purpose.value)
        for folder in folders:
            for path in sorted(folder.glob("*.pem")):
                public = _read_public_key(path)
                keys[key_id_of(public)] = public
        return keys

    def revoked_keys(self, purpose: KeyPurpose) -> dict[str, Ed25519PublicKey]:
        """Return the public keys that were trusted for `purpose` until they were revoked, by id.

        They are good for one thing: to recognise what they signed before somebody still trusted
        signed over it (see `trust.audit.verify`).

        Raises:
            ConfigError: As `trusted_keys`.
        """
        revoked = self.revoked()
        known = self._known(purpose)
        return {key_id: key for key_id, key in known.items() if key_id in revoked}

    def rotate(self, *, revoke: bool = False, note: str = "") -> tuple[str, SigningKey]:
        """Replace this machine's signing key by a new one.

        Other machines have to be given the new public key (``key export``), and running processes
        sign with it from their next signature on.

        Args:
            revoke: Stop trusting the old key, which also ends the tokens it signed.
            note: Why; kept with a revoked key.

        Returns:
            The id of the old key, and the new key.

        Raises:
            ConfigError: The folder cannot be written, or the present key is malformed.
        """
        from filelock import FileLock  # noqa: PLC0415 - import cost

        path = self.folder / SIGNING_KEY_FILE
        if not path.exists():
            self._create(path)
        with FileLock(str(self.folder / ".rotate.lock")):
            old = _read_private_key(path)
            # Trusted before it is replaced: at no moment is something it signed unknown.
            self.trust(old.public_key)
            draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
            try:
                _write_new_key(draft)
                draft.replace(path)
            except OSError as error:
                raise _unusable(path, error) from error
            finally:
                draft.unlink(missing_ok=True)
            if revoke:
                # Last: a process that is between the two signs with a key that is trusted.
                self.revoke(old.key_id, note=note)
            return old.key_id, _read_private_key(path)

    def revoked(self) -> frozenset[str]:
        """Return the ids of revoked keys.

        Raises:
            ConfigError: A line is not a key id: a typing error must not leave a key trusted.
        """
        path = self.folder / TRUSTED_FOLDER / REVOKED_FILE
        if not path.exists():
            return frozenset()
        found = set()
        for number, line in enumerate(_read(path).decode("utf-8", "replace").splitlines(), 1):
            key_id = line.split("#", 1)[0].strip()
            if not key_id:
                continue
            if not _KEY_ID.match(key_id):
                raise ConfigError("is not a key id (64 hex digits)", where=f"{path}:{number}")
            found.add(key_id)
        return frozenset(found)

    def trust(self, public_key: Ed25519PublicKey, *, purpose: KeyPurpose | None = None) -> str:
        """Trust another machine's public key; return its id."""
        folder = self.folder / TRUSTED_FOLDER
        if purpose is not None:
            folder = folder / purpose.value
        _make_folder(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        key_id = key_id_of(public_key)
        (folder / f"{key_id}.pem").write_bytes(public_pem(public_key))
        return key_id

    def revoke(self, key_id: str, *, note: str = "") -> None:
        """Stop trusting a key, whoever holds it.

        Raises:
            ConfigError: `key_id` is not a key id.
        """
        if not _KEY_ID.match(key_id):
            raise ConfigError("is not a key id (64 hex digits)", where=repr(key_id))
        folder = self.folder / TRUSTED_FOLDER
        _make_folder(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        line = f"{key_id}  # {' '.join(note.split())}".rstrip(" #") + "\n"
        with (folder / REVOKED_FILE).open("a", encoding="utf-8") as file:
            file.write(line)

    def _create(self, path: Path) -> None:
        _make_folder(self.folder)
        # Written whole under another name and then linked: the final name appears once, complete,
        # and the second process to get here finds it taken and uses it.
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            _write_new_key(draft)
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
        except OSError as error:
            raise _unusable(path, error) from error
        finally:
            draft.unlink(missing_ok=True)


def key_id_of(public_key: Ed25519PublicKey) -> str:
    """Return the id of a public key: hex SHA-256 of its DER form."""
    der = public_key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(der).hexdigest()


def public_pem(public_key: Ed25519PublicKey) -> bytes:
    """Return a public key as PEM, the form other machines' ``trusted/`` folders take."""
    return public_key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def verify_signature(public_key: Ed25519PublicKey, signature: bytes, data: bytes) -> bool:
    """Say whether `signature` is this key's signature of `data`."""
    try:
        public_key.verify(signature, data)
    except InvalidSignature:
        return False
    return True


def _write_new_key(path: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise _unusable(folder, error) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unusable(path, error) from error


def _read_private_key(path: Path) -> SigningKey:
    data = _read(path)
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise ConfigError(
            "other users can read this private key", where=str(path), hint=f"Run chmod 600 {path}"
        )
    try:
        key = _parse_private_key(data)
    except (ValueError, TypeError) as error:
        raise ConfigError("is not an unencrypted PEM private key", where=str(path)) from error
    if key is None:
        raise ConfigError("is not an Ed25519 key", where=str(path))
    return key


@lru_cache(maxsize=1)
def _parse_private_key(pem: bytes) -> SigningKey | None:
    # The file is read for every checkpoint, so that a rotation is followed; parsing costs more.
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, Ed25519PrivateKey):
        return None
    return SigningKey(key_id=key_id_of(key.public_key()), private_key=key)


def _read_public_key(path: Path) -> Ed25519PublicKey:
    try:
        public_key = serialization.load_pem_public_key(_read(path))
    except ValueError as error:
        raise ConfigError("is not a PEM public key", where=str(path)) from error
    if not isinstance(public_key, Ed25519PublicKey):
        raise ConfigError("is not an Ed25519 key", where=str(path))
    return public_key


def _unusable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"cannot be used: {error.strerror or error}",
        where=str(path),
        hint="Set MLFLOW_AGENTS_KEY_DIR to a folder this process may write.",
    )
